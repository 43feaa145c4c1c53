"""The one sensor of a home: runs that failed, steps of the runbook, notices that some receiver does not have yet.

Belongs here: when each is looked at. Does not belong here: what a failed run opens (incidents.py), what a step of the
runbook is (runbook.py), and how a notice is delivered (resources/outbox.py).
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from clinical_assets.governance.outbound import allow_hosts
from clinical_assets.lifecycle.event_index import ENDED_WELL, FAILED, ended_runs, newest_event
from clinical_assets.lifecycle.incidents import incidents_changed, tell_of_failed_run
from clinical_assets.lifecycle.intervals import LONGEST_PAUSE_SECONDS, sensor_seconds
from clinical_assets.lifecycle.runbook import GROUP, INCIDENTS, RunbookLook, look_at_incidents
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.notifiers import configured_hosts, notifiers_of, read_settings
from clinical_assets.resources.outbox import deliver_pending, pending_notices
from clinical_assets.resources.platform import HomeResource

DELIVERY_SECONDS = 20.0
"""No delivery begins later in a look: Dagster ends one after 60 s, and a channel may take ten."""
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the sensor remembers from look to look; its cursor.

    `events` is the newest event that was looked at, None before the first look; `incidents` the time of the incidents'
    last change, in nanoseconds, and `unclosed` how many were not closed then.
    """

    events: int | None = None
    incidents: int = 0
    unclosed: int = 0
    thorough_at: datetime = NEVER

    @classmethod
    def read(cls, cursor: str | None) -> "Seen":
        """From a cursor; nothing was seen where there is none, or a person has written another."""
        try:
            return _SEEN.validate_json(cursor or "{}")
        except ValidationError:
            return cls()

    def written(self) -> str:
        """As a cursor."""
        return _SEEN.dump_json(self).decode()


_SEEN = TypeAdapter(Seen)


@dg.sensor(
    job_name=GROUP,
    minimum_interval_seconds=sensor_seconds(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Opens an incident for a failed run, records each step of an incident's runbook once it has happened, "
    "and delivers the notices that some receiver does not have yet, again and again until it has.",
)
def home_watch(context: dg.SensorEvaluationContext, home: HomeResource, lake: LakeResource) -> dg.SensorResult:
    """Look at the runs that ended, the incidents that changed, and the outbox; a glance where nothing is new."""
    here, instance, now = home.open(), context.instance, datetime.now(UTC)
    seen, newest = Seen.read(context.cursor), newest_event(context.instance)
    # A home that is watched for the first time does not tell of failures of long ago.
    ended = ended_runs(instance, seen.events) if seen.events is not None and newest > seen.events else {}
    told = _tell_of_failures(context, [run for run, kind in ended.items() if kind == FAILED], lake, here)
    changed, runbook = incidents_changed(here), None
    thorough = now - seen.thorough_at >= timedelta(seconds=LONGEST_PAUSE_SECONDS)
    found = replace(seen, events=newest)
    if changed != seen.incidents or thorough or (seen.unclosed and ENDED_WELL in ended.values()):
        runbook = look_at_incidents(instance, lake.open(), here)
        found = replace(found, incidents=changed, unclosed=runbook.unclosed, thorough_at=now)
    delivered = _deliver(here, now)
    return _result(runbook, found, [*told, runbook.reason if runbook else "no incident has changed", *delivered])


def _result(runbook: RunbookLook | None, seen: Seen, said: list[str]) -> dg.SensorResult:
    if runbook is None or not runbook.requests:
        return dg.SensorResult(skip_reason=dg.SkipReason("; ".join(said)), cursor=seen.written())
    return dg.SensorResult(
        run_requests=list(runbook.requests),
        dynamic_partitions_requests=[INCIDENTS.build_add_request(list(runbook.new))] if runbook.new else [],
        cursor=seen.written(),
    )


def _tell_of_failures(
    context: dg.SensorEvaluationContext, run_ids: list[str], lake: LakeResource, home: Home
) -> list[str]:
    if not run_ids:
        return []
    runs = {run.run_id: run for run in context.instance.get_runs(dg.RunsFilter(run_ids=run_ids))}
    ours = [runs[run_id] for run_id in run_ids if run_id in runs and _is_ours(context, runs[run_id])]
    for run in ours:
        tell_of_failed_run(context.instance, run, lake.open(), home)
    return [f"{len(ours)} runs failed"] if ours else []


def _is_ours(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> bool:
    """Whether a run is of this code location; one that a person executes at a terminal fails before their eyes."""
    origin = run.remote_job_origin.repository_origin if run.remote_job_origin else None
    location = context.code_location_origin.location_name if context.code_location_origin else None
    run_of = (origin.code_location_origin.location_name, origin.repository_name) if origin else (None, None)
    return run_of == (location, context.repository_name)


def _deliver(home: Home, now: datetime) -> list[str]:
    if not pending_notices(home.outbox):
        return []
    with allow_hosts(configured_hosts(home.notifiers)):
        done = deliver_pending(home.outbox, notifiers_of(read_settings(home.notifiers)), now, DELIVERY_SECONDS)
    faults = f": {'; '.join(done.faults)}" if done.faults else ""
    return [f"{len(done.delivered)} notices delivered, {len(done.waiting)} wait{faults}"]
