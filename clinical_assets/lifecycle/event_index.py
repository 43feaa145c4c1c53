"""What happened since an event, told by a few indexed queries on Dagster's event log, without reading any event.

Belongs here: the queries. Does not belong here: what an event says, and what follows from it.

Dagster's own calls read and rebuild whole events, pictures included; a look that finds nothing must not.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from sqlalchemy import func, select

from clinical_assets.lifecycle.incidents import MODEL

FAILED, ENDED_WELL, CANCELED = (
    dg.DagsterEventType.RUN_FAILURE.value,
    dg.DagsterEventType.RUN_SUCCESS.value,
    dg.DagsterEventType.RUN_CANCELED.value,
)


@dataclass(frozen=True, slots=True)
class NewEvents:
    """What is new: the newest materialisation of each asset, whether a check was evaluated, and runs that ended.

    `newest` is the platform's newest event, from which the next look goes on; `ended` gives the kind of end by run.
    """

    newest: int
    materialised: Mapping[str, int] = field(default_factory=dict)
    checked: bool = False
    ended: Mapping[str, str] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Whether there is anything new at all."""
        return bool(self.materialised or self.checked or self.ended)


def newest_event(instance: dg.DagsterInstance) -> int:
    """The number of the platform's newest event; 0 where there is none."""
    return instance.event_log_storage.get_maximum_record_id() or 0


def new_events(instance: dg.DagsterInstance, keys: Collection[dg.AssetKey], after: int) -> NewEvents:
    """What happened to these assets, and which runs ended, after an event; one query where nothing did at all."""
    newest = newest_event(instance)
    if newest <= after:
        return NewEvents(newest)
    written = [key.to_string() for key in keys]
    event, check = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    materialised = (
        select(event.asset_key, func.max(event.id))
        .where(
            event.asset_key.in_(written),
            event.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            event.id > after,
        )
        .group_by(event.asset_key)
    )
    checked = select(check.id).where(check.asset_key.in_(written), check.evaluation_event_storage_id > after).limit(1)
    with _sql(instance).index_connection() as connection:
        found = connection.execute(materialised).fetchall()
        seen = connection.execute(checked).fetchone() is not None
    newly = {str(dg.AssetKey.from_db_string(key).path[-1]): int(number) for key, number in found}  # pyright: ignore[reportOptionalMemberAccess]
    return NewEvents(newest, newly, seen, ended_runs(instance, after))


def ended_runs(instance: dg.DagsterInstance, after: int) -> dict[str, str]:
    """The runs of the whole platform that ended after an event, in the order of their ends, with the kind of end."""
    event = SqlEventLogStorageTable.c
    ended = (
        select(event.run_id, event.dagster_event_type)
        .where(event.dagster_event_type.in_((FAILED, ENDED_WELL, CANCELED)), event.id > after)
        .order_by(event.id)
    )
    with _sql(instance).index_connection() as connection:
        return {str(run_id): str(kind) for run_id, kind in connection.execute(ended).fetchall()}


def runs_of(instance: dg.DagsterInstance, run_ids: Collection[str], model: str) -> list[dg.DagsterRun]:
    """Those runs that are of a model, or that do not say of which they are."""
    runs = instance.get_runs(dg.RunsFilter(run_ids=list(run_ids))) if run_ids else []
    return [run for run in runs if run.tags.get(MODEL, model) == model]


def _sql(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise dg.DagsterInvariantViolationError(f"sensors need an event log in SQL, not {type(storage).__name__}")
    return storage
