"""The last link of the chain: what analysts read.

Belongs here: the asset of the home that publishes, the sensor that asks for it, the one way to publish, and what stops
it. Does not belong here: how the file is built and replaced, and how identifiers are searched.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from clinical_assets.governance.audit_trail import AuditTrail, run_actor
from clinical_assets.governance.incidents import PLATFORM, Breach, Cause
from clinical_assets.lifecycle.automation import IN_FLIGHT
from clinical_assets.lifecycle.incidents import EVENT_TABLE, INCIDENT_TABLE, open_incident
from clinical_assets.lifecycle.intervals import sensor_seconds
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.protocol import protocol_names
from clinical_assets.resources.analytics import Published, publish_analytics, published_record, spare_of
from clinical_assets.resources.audited_outputs import record_kept
from clinical_assets.resources.home import Home, write_atomically
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.leak_search import (
    LAKE_SINKS,
    LeakError,
    LeakReport,
    only_search,
    search_home,
    trust,
)
from clinical_assets.resources.outward_gate import reporting
from clinical_assets.resources.platform import HomeResource

JOB = "publication"
SHOWN = ("drift_report", "performance_report", "repair_plan", "validation_report", "release")
MOST_ATTEMPTS = 4
"""So often a publication that fails, or does not start, is asked for, each time after twice the pause."""
STARTS_WITHIN = timedelta(minutes=5)
"""A run that was made and did not start in this time never will: what made it was killed."""
_FOLLOWS_A_FAILURE = {EVENT_TABLE, INCIDENT_TABLE}


def analytics_of(models: Sequence[str]) -> dg.AssetsDefinition:
    """The asset of the home that shows these models to analysts."""

    @dg.asset(
        deps=[dg.AssetKey([model, asset]) for model in models for asset in SHOWN],
        group_name=JOB,
        kinds={"duckdb"},
    )
    @reporting
    def analytics(context: dg.AssetExecutionContext, home: HomeResource, lake: LakeResource) -> dg.MaterializeResult:
        """The DuckDB file that analysts open, replaced in one step with all that the lake holds of every model."""
        published = publish(lake.open(), home.open(), actor=run_actor(context.run.run_id))
        if not published.is_new:
            context.log.info(f"the file shows the lake's snapshot {published.snapshot} already: it stays as it is")
            record_kept(home.open().audit, context.asset_key, context.run)
        return dg.MaterializeResult(
            metadata={
                "path": dg.MetadataValue.path(published.path),
                "tables": published.tables,
                "dagster/row_count": published.rows,
                "lake/snapshot": published.snapshot,
                "is_new": published.is_new,
            }
        )

    return analytics


def publication_job() -> Any:
    """The job that publishes, in one process."""
    return dg.define_asset_job(
        JOB,
        dg.AssetSelection.assets("analytics"),
        description="The analysts' file, brought to what the lake holds",
        executor_def=dg.in_process_executor,
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the sensor remembers: the catalogue at which nothing was to be done, and what it asked for, how often, when.

    `at` is in seconds since 1970.
    """

    settled: list[int] | None = None
    snapshot: int = -1
    attempt: int = 0
    at: float = 0.0

    @classmethod
    def of(cls, cursor: str | None) -> "_Asked":
        return cls(**json.loads(cursor)) if cursor else cls()


def publish_when_lake_changed(pause_seconds: float) -> dg.SensorDefinition:
    """The sensor that has published what the lake was given, not sooner than this pause after the last publication.

    Nor sooner after the lake was made: what is shown first is then more than the beginning of a development.

    One publication at a time is asked for; one that fails or does not start is asked for again, a few times, later each
    time. One that was refused for a leak is not, until something has changed.
    """

    @dg.sensor(
        name="publish_when_lake_changed",
        job_name=JOB,
        minimum_interval_seconds=sensor_seconds(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for the analysts' file to be brought to what the lake holds.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, home: HomeResource, lake: LakeResource
    ) -> dg.SensorResult | dg.SkipReason:
        here, asked, now = home.open(), _Asked.of(context.cursor), time.time()
        # Before any other look, so that a commit in the meantime is seen by the next one.
        catalogue = _state_of(here.lake_catalogue)
        if catalogue and catalogue == asked.settled:
            return dg.SkipReason("no commit to the lake since the last look")
        shown = published_record(here.analytics)
        last = datetime.fromisoformat(shown.written_at) if shown else lake.open().made_at()
        if (wait := max(last.timestamp(), asked.at) + pause_seconds - now) > 0:
            what = "last publication was" if shown or asked.at else "lake was made"
            return dg.SkipReason(f"the {what} less than {pause_seconds:g} s ago; in {wait:.0f} s")
        if _is_at_work(context.instance):
            return dg.SkipReason("a publication is at work")
        due = _due(lake.open(), here, asked, shown.snapshot if shown else None, pause_seconds, now)
        if isinstance(due, str):
            return dg.SensorResult(
                skip_reason=dg.SkipReason(due), cursor=json.dumps(asdict(replace(asked, settled=catalogue)))
            )
        if isinstance(due, dg.SkipReason):
            return due
        request = dg.RunRequest(
            run_key=f"{JOB}|{due.snapshot}" + (f"|retry {due.attempt}" if due.attempt else ""), tags={TRIGGER: "lake"}
        )
        return dg.SensorResult(run_requests=[request], cursor=json.dumps(asdict(due)))

    return sensor


def _due(
    lake: Lake, home: Home, asked: _Asked, shown: int | None, pause_seconds: float, now: float
) -> _Asked | dg.SkipReason | str:
    """What is to be asked for; a reason not to yet; or, as text, one that holds until the next commit."""
    newest = lake.latest_snapshot()
    if shown is not None and shown >= newest:
        return f"the file shows the lake's snapshot {newest}"
    if not {table.partition(".")[0] for table in lake.tables()} & set(protocol_names()):
        return "the lake holds no table of a model yet"
    refused = _refused_at(home)
    if refused is not None and not _changed_by_others(lake, refused):
        return f"the publication of the lake's snapshot {refused} was refused for a leak; nothing has changed since"
    has_failed = asked.snapshot >= 0 and (shown is None or shown < asked.snapshot)
    if not has_failed or _changed_by_others(lake, asked.snapshot):
        return _Asked(snapshot=newest, at=now)
    attempt = asked.attempt + 1
    if attempt >= MOST_ATTEMPTS:
        return f"the lake's snapshot {asked.snapshot} was to be published {MOST_ATTEMPTS} times, and never was"
    if (wait := asked.at + pause_seconds * 2**attempt - now) > 0:
        return dg.SkipReason(f"the last publication failed, or did not start; it is asked for again in {wait:.0f} s")
    return _Asked(snapshot=newest, attempt=attempt, at=now)


def _changed_by_others(lake: Lake, snapshot: int) -> bool:
    """Whether the lake was given more since a snapshot than the incident that a failed publication leaves behind."""
    return bool(lake.changed_since(snapshot) - _FOLLOWS_A_FAILURE)


def _is_at_work(instance: dg.DagsterInstance) -> bool:
    records = instance.get_run_records(dg.RunsFilter(job_name=JOB, statuses=IN_FLIGHT), limit=10)
    youngest_lost = datetime.now(UTC) - STARTS_WITHIN
    return any(
        record.dagster_run.status is not dg.DagsterRunStatus.NOT_STARTED or record.create_timestamp > youngest_lost
        for record in records
    )


def _state_of(catalogue: object) -> list[int] | None:
    """What changes with every commit to a catalogue in a file, without a look into it; None where it is in no file."""
    path = Path(str(catalogue))
    if not path.exists():
        return None
    journal = path.with_name(f"{path.name}-wal")
    found = [path.stat(), *([journal.stat()] if journal.exists() else [])]
    return [number for each in found for number in (each.st_size, each.st_mtime_ns)]


def publish(lake: Lake, home: Home, *, actor: str) -> Published:
    """Bring the analysts' file of a home to what the lake holds, and record in the audit trail who did.

    Every publication is this one. Before, every sink is searched for identifiers where it is new, and once more the
    lake's rows that came meanwhile. A file that shows already what the lake held when this was called is left as it is.
    Raises LeakError, and leaves the file as it was, where an identifier is found or a sink cannot be read.
    """
    asked = lake.latest_snapshot()

    def search_what_is_shown(snapshot: int) -> None:
        refuse_leaks(lake, home, search_home(lake, home, snapshot=snapshot, sinks=LAKE_SINKS), actor=actor)

    with only_search(home):
        refuse_leaks(lake, home, search_home(lake, home), actor=actor)
        published = publish_analytics(lake, home.analytics, protocol_names(), search_what_is_shown, asked=asked)
        _refusal_path(home).unlink(missing_ok=True)
        if not published.is_new:
            return published
        trust(home, (published.path, spare_of(published.path)))
    AuditTrail(home.audit).record(
        "publish",
        actor=actor,
        target=home.analytics.name,
        snapshot=published.snapshot,
        details={"tables": published.tables, "rows": published.rows},
    )
    return published


def refuse_leaks(lake: Lake, home: Home, report: LeakReport, *, actor: str) -> None:
    """Stop a publication where identifiers were found or a sink could not be read: audited, and an incident opened."""
    if report.is_clean:
        return
    AuditTrail(home.audit).record(
        "publish_refused",
        actor=actor,
        target=home.analytics.name,
        outcome="failure",
        reason=report.describe(),
        snapshot=report.snapshot,
        details={"leaks": len(report.leaks), "unreadable": len(report.unreadable)},
    )
    open_leak_incident(lake, home, report, actor=actor)
    write_atomically(_refusal_path(home), json.dumps({"snapshot": lake.latest_snapshot()}))
    raise LeakError(
        f"{report.describe()}: nothing was published, and an incident is open; `clinical phi-scan` lists every place; "
        "remove what leaked at its source, materialise anew, and remove it from the lake's history and catalogue too"
    )


def open_leak_incident(lake: Lake, home: Home, report: LeakReport, *, actor: str) -> None:
    """Open the incident of a search that was not clean; the same kinds in the same sinks are one cause."""
    run_id = actor.removeprefix("run:") if actor.startswith("run:") else ""
    sinks = ",".join(sink.sink for sink in report.sinks if sink.leaks or sink.unreadable)
    kinds = ",".join(sorted({leak.identifier_class.value for leak in report.leaks}))
    breach = Breach(PLATFORM, Cause.PHI_LEAK, f"{sinks}|{kinds}", f"{report.describe()}; sinks: {sinks}", run_id=run_id)
    open_incident(lake, home, breach, actor=actor)


def _refusal_path(home: Home) -> Path:
    return home.analytics.with_name(f".{home.analytics.name}.refused")


def _refused_at(home: Home) -> int | None:
    """The lake's snapshot when the last publication was refused for a leak; None where it was not."""
    path = _refusal_path(home)
    return json.loads(path.read_text())["snapshot"] if path.exists() else None
