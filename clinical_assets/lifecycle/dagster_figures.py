"""What `/metrics` shows of Dagster: runs, daemons, assets and sensors, under the names that people already use.

Belongs here: a few indexed queries on Dagster's own records, whose cost does not grow with partitions. Does not belong
here: what is shown of models and of the platform.

Names, labels and the lower case of states are those of the exporter for Grafana's dashboard 25815, so that it draws
this platform too. A run without a code location (of a script, or a terminal) has the location `__unknown__`.
"""

from collections.abc import Iterator
from datetime import UTC

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetKeyTable
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.schedules import SqlScheduleStorage
from dagster._core.storage.schedules.schema import JobTickTable
from dagster._core.storage.tags import CODE_LOCATION_TAG
from sqlalchemy import and_, func, select

from clinical_assets.metrics import series
from clinical_assets.metrics.platform_figures import DAEMON_HEARTBEAT, LIMITS
from clinical_assets.metrics.series import Sample

UNKNOWN = "__unknown__"
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def dagster_figures(instance: dg.DagsterInstance, now: float) -> Iterator[Sample]:
    """Everything that is shown of Dagster; `now` is in Unix seconds."""
    yield from _runs(instance)
    yield from _daemons(instance, now)
    yield from _assets(instance)
    yield from _sensors(instance)


def _runs(instance: dg.DagsterInstance) -> Iterator[Sample]:
    """Runs by job, code location and state; a job that ever ran has its states at nought, and is not left out."""
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        return
    run, tag = RunsTable.c, RunTagsTable.c
    located = RunsTable.outerjoin(RunTagsTable, and_(tag.run_id == run.run_id, tag.key == CODE_LOCATION_TAG))
    kinds = (run.pipeline_name, tag.value, run.status)
    with storage.connect() as connection:
        found = connection.execute(select(*kinds, func.count()).select_from(located).group_by(*kinds)).fetchall()
    counts: dict[tuple[str, str, str], int] = {}
    for job, location, status, count in found:
        counts[str(job), str(location or UNKNOWN), str(status)] = int(count)
    for job, location in sorted({(job, location) for job, location, _ in counts}):
        labels = {"job_name": job, "location": location}
        for status in dg.DagsterRunStatus:
            count = counts.get((job, location, status.value), 0)
            if status in _ENDED:
                yield series.COMPLETED_RUNS.at(count, **labels, status=status.value.lower())
            elif count or status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED):
                yield series.ACTIVE_RUNS.at(count, **labels, status=status.value.lower())


def _daemons(instance: dg.DagsterInstance, now: float) -> Iterator[Sample]:
    """Each daemon that this instance needs; Dagster itself would call one that died half an hour ago healthy."""
    limit = LIMITS[DAEMON_HEARTBEAT].total_seconds()
    heartbeats = instance.get_daemon_heartbeats()
    required = set(instance.get_required_daemon_types())
    for daemon in sorted(required | set(heartbeats)):
        beat = heartbeats.get(daemon)
        is_required = str(daemon in required).lower()
        is_healthy = beat is not None and now - beat.timestamp <= limit
        yield series.DAEMON_HEALTHY.at(is_healthy, daemon_type=daemon, required=is_required)
        if beat is not None:
            yield series.DAEMON_HEARTBEAT.at(beat.timestamp, daemon_type=daemon)


def _assets(instance: dg.DagsterInstance) -> Iterator[Sample]:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return
    asset = AssetKeyTable.c
    newest = select(asset.asset_key, asset.last_materialization_timestamp).where(
        asset.last_materialization_timestamp.is_not(None)
    )
    with storage.index_connection() as connection:
        found = connection.execute(newest).fetchall()
    for written, at in sorted(found):
        key = dg.AssetKey.from_db_string(written)
        if key is not None:
            moment = at.replace(tzinfo=UTC).timestamp()
            yield series.ASSET_MATERIALISED.at(moment, asset_key="/".join(key.path))


def _sensors(instance: dg.DagsterInstance) -> Iterator[Sample]:
    storage = instance.schedule_storage
    if not isinstance(storage, SqlScheduleStorage):
        return
    tick = JobTickTable.c
    last = select(func.max(tick.id)).where(tick.selector_id.is_not(None)).group_by(tick.selector_id)
    with storage.connect() as connection:
        numbers = [number for (number,) in connection.execute(last).fetchall()]
        ticked = select(tick.selector_id, tick.status, tick.timestamp).where(tick.id.in_(numbers))
        ticks = {str(selector): (str(status), at) for selector, status, at in connection.execute(ticked).fetchall()}
    seen: set[tuple[str, str]] = set()
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        location = state.origin.repository_origin.code_location_origin.location_name
        if (state.instigator_name, location) in seen:
            continue
        seen.add((state.instigator_name, location))
        labels = {"sensor_name": state.instigator_name, "location": location}
        running = "running" if state.is_running else "stopped"
        yield series.SENSOR_STATUS.at(1, **labels, status=running)
        if state.selector_id in ticks:
            status, at = ticks[state.selector_id]
            yield series.SENSOR_TICK_STATUS.at(1, **labels, status=status.lower())
            yield series.SENSOR_TICK.at(at.replace(tzinfo=UTC).timestamp(), **labels)
