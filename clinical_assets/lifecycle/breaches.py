"""What a model's reports tell of a breach: drift with harm, a group's sensitivity, data that do not arrive.

Belongs here: the sensor that reads verdicts and opens incidents. Does not belong here: any statistic, and repair plans,
which the sensor of repairs reads.
"""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime

import dagster as dg
from dagster._core.events.log import EventLogEntry

from clinical_assets.archives.calendar import LAST_MONTH
from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.lifecycle.incidents import month_of_run, open_incident
from clinical_assets.protocol import ModelProtocol, Verdict, month_before
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import HomeResource

SHIFTS = (Verdict.POPULATION_SHIFT, Verdict.CONCEPT_SHIFT)
EVENTS_PER_TICK = 60
SENSOR_SECONDS = 15
GRACE_DAYS = 10
"""A month's data are due when it is over, and late from this day of the next month on."""


def incident_when_breached(protocol: ModelProtocol) -> dg.SensorDefinition:
    """The sensor that steps through every new report of a model and opens an incident for what must not be.

    Its cursor holds, for each report, how far it has looked.
    """
    model = protocol.model

    @dg.sensor(
        name=f"{model}_incident_when_breached",
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Opens an incident where a report of {model} tells of drift with harm, of a group's sensitivity "
        "that has fallen, or where no new month has arrived.",
    )
    def sensor(context: dg.SensorEvaluationContext, home: HomeResource, lake: LakeResource) -> dg.SkipReason:
        cursor: dict[str, int] = json.loads(context.cursor or "{}")
        breaches: list[Breach] = []
        for asset, tell in (("drift_report", breaches_of_drift), ("performance_report", breaches_of_performance)):
            reports = context.instance.fetch_materializations(
                dg.AssetRecordsFilter(dg.AssetKey([model, asset]), after_storage_id=cursor.get(asset, 0)),
                limit=EVENTS_PER_TICK,
                ascending=True,
            ).records
            for report in reports:
                breaches += tell(report.event_log_entry, protocol)
                cursor[asset] = report.storage_id
        if late := breach_of_lateness(protocol, _newest_month(context.instance, model), datetime.now(UTC).date()):
            breaches.append(late)
        recorded = [open_incident(lake.open(), home.open(), breach) for breach in breaches]
        context.update_cursor(json.dumps(cursor))
        told = [incident.incident_id for incident in recorded if incident is not None]
        return dg.SkipReason(f"{len(breaches)} breaches of {model}; recorded in: {', '.join(told) or 'none'}")

    return sensor


def breaches_of_drift(entry: EventLogEntry, protocol: ModelProtocol) -> Iterator[Breach]:
    """Harm where the patients or the outcome shifted, and the estimated loss is beyond what the protocol tolerates.

    Faulty data are no harm of drift: their incident comes from the repair plan.
    """
    metadata = _metadata(entry)
    verdict, severity = Verdict(str(metadata["drift/verdict"])), metadata["severity"]
    tolerated = protocol.monitoring.tolerated_loss
    if verdict in SHIFTS and isinstance(severity, float) and severity > tolerated:
        what = f"estimated loss of AUROC {severity:.3f}, and {tolerated:g} is tolerated. {metadata['drift/reason']}"
        yield _breach(entry, protocol, Cause.DRIFT_WITH_HARM, "champion", what)


def breaches_of_performance(entry: EventLogEntry, protocol: ModelProtocol) -> Iterator[Breach]:
    """The groups whose sensitivity has fallen, by the alarm of the performance report; each is a cause of its own."""
    told = str(_metadata(entry)["sensitivity_has_fallen_in"])
    for group in told.split(", ") if told != "no group" else ():
        what = f"the sensitivity of {group} has fallen since the release, by the evidence of the performance report"
        yield _breach(entry, protocol, Cause.SUBGROUP_SENSITIVITY, group, what)


def breach_of_lateness(protocol: ModelProtocol, newest: date | None, today: date) -> Breach | None:
    """Data that do not arrive, of a model in production: the month that was due by the calendar on the wall.

    A demonstration replays a calendar of the past, on which no month is late, however long the replay pauses. A model
    that has no month yet is not in service. The last month of the platform's own calendar is the last that can be due.
    """
    if protocol.environment != "production" or newest is None:
        return None
    over = month_before(today)
    due = min(over if today.day >= GRACE_DAYS else month_before(over), LAST_MONTH)
    if newest >= due:
        return None
    what = f"the newest month is {newest:%Y-%m}, and {due:%Y-%m} was due by day {GRACE_DAYS} of the month after it"
    return Breach(protocol.model, Cause.STALE_DATA, "features", what, due)


def _breach(entry: EventLogEntry, protocol: ModelProtocol, cause: Cause, subject: str, what: str) -> Breach:
    materialization = entry.asset_materialization
    return Breach(
        model=protocol.model,
        cause=cause,
        subject=subject,
        what=what,
        month=month_of_run(materialization.partition if materialization else None),
        run_id=entry.run_id,
        job=f"{protocol.model}_month",
        step=materialization.asset_key.path[-1] if materialization else "",
        seen_at=datetime.fromtimestamp(entry.timestamp, UTC),
    )


def _metadata(entry: EventLogEntry) -> dict[str, object]:
    materialization = entry.asset_materialization
    if materialization is None:
        raise dg.DagsterInvariantViolationError("only a materialisation records metadata")
    return {name: value.value for name, value in materialization.metadata.items()}


def _newest_month(instance: dg.DagsterInstance, model: str) -> date | None:
    partitions = instance.get_materialized_partitions(dg.AssetKey([model, "features"]))
    return max(filter(None, map(month_of_run, partitions)), default=None)
