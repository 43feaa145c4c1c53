"""What opens an incident by itself: a run that failed, a repair plan that only people can carry out.

Belongs here: the sensor, and how a failure becomes an incident. Does not belong here: what an incident is.
"""

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from clinical_assets.governance.incidents import INCIDENT_DESCRIPTIONS, Incident, incident_table
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_io_manager import LakeResource

INCIDENT_TABLE = "governance.incident"
MODEL = "clinical/model"


@dg.run_failure_sensor(
    name="incident_on_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    monitor_all_code_locations=False,
    description="Opens an incident for every failed run, with the step and the error.",
)
def incident_on_failure(context: dg.RunFailureSensorContext, lake: LakeResource) -> None:
    """Open an incident for a failed run."""
    run, steps = context.dagster_run, context.get_step_failure_events()
    data = steps[0].step_failure_data if steps else None
    incident = Incident.of_failed_run(
        model=run.tags.get(MODEL, "platform"),
        run_id=run.run_id,
        job=run.job_name,
        step=(steps[0].step_key if steps else None) or "none",
        error=describe_error(data.error if data else None) or "the run ended before any step did",
    )
    open_incident(lake.open(), incident)


def open_incident(lake: Lake, incident: Incident) -> None:
    """Record an incident, unless one of the same cause is open already."""
    if lake.exists(INCIDENT_TABLE) and lake.read(INCIDENT_TABLE, where={"incident_id": incident.incident_id}).height:
        return
    lake.append(
        INCIDENT_TABLE,
        incident_table([incident]),
        author=incident.run_id,
        message=f"incident {incident.incident_id}",
        description="Every open problem: what opened it, in which run and step, and the error.",
        comments=INCIDENT_DESCRIPTIONS,
    )


def describe_error(error: SerializableErrorInfo | None) -> str:
    """An error as an incident may show it: our own words in full, of any other error the class alone.

    A library's message may quote a row; ours never do.
    """
    if error is None:
        return ""
    if error.message.startswith("clinical_assets."):
        return error.message.strip()
    if error.cause is not None:
        return describe_error(error.cause)
    return f"{error.cls_name or 'an error'} (its message is kept in the run's log alone)"
