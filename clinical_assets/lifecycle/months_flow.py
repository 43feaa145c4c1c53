"""The flow of months: Dagster's automation conditions of one model, evaluated only when something may have changed.

Belongs here: when the conditions are evaluated. Does not belong here: the conditions (conditions.py).

An evaluation costs a hundred times what a glance does, and leaves a row in Dagster's database. It is made when an asset
of the model was materialised or checked or a run of it has ended since the last one, when a tick of a condition's
calendar or the beginning of a partition has passed, and every few minutes for what leaves no event: a backfill's end.
"""

import warnings
from collections.abc import Collection
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.declarative_automation.operands.operands import CronTickPassedCondition
from dagster._core.definitions.metadata import RawMetadataMapping, normalize_metadata
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_START_TAG as RANGE_START
from dagster._daemon.asset_daemon import asset_daemon_cursor_from_instigator_serialized_cursor
from dagster._time import datetime_from_timestamp, get_current_datetime
from dagster._utils.schedules import get_next_cron_tick

from clinical_assets.lifecycle.automation import IN_FLIGHT
from clinical_assets.lifecycle.event_index import new_events, runs_of
from clinical_assets.lifecycle.incidents import MODEL, PARTITION
from clinical_assets.lifecycle.intervals import LONGEST_PAUSE_SECONDS, sensor_seconds
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.protocol import ModelProtocol


@dataclass(frozen=True, slots=True)
class Evaluated:
    """When the conditions were last evaluated, and the newest event that they knew."""

    at: datetime
    event: int


@dataclass(frozen=True, slots=True)
class Watched:
    """What the conditions of a model look at: its assets, and the calendars whose ticks may change them."""

    keys: frozenset[dg.AssetKey]
    calendars: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, graph: BaseAssetGraph, selection: dg.AssetSelection) -> "Watched":
        """By the conditions and the partitions of the selected assets."""
        keys, calendars = selection.resolve(graph), set[tuple[str, str]]()
        for node in (graph.get(key) for key in keys):
            calendars |= _calendars_of(node.automation_condition) if node.automation_condition else set()
            if isinstance(node.partitions_def, dg.TimeWindowPartitionsDefinition):
                calendars.add((node.partitions_def.cron_schedule, node.partitions_def.timezone))
        return cls(frozenset(keys), frozenset(calendars))


class MonthsFlow(dg.AutomationConditionSensorDefinition):
    """Dagster's own sensor of automation conditions, which evaluates them only when something may have changed."""

    _watched: Watched | None = None

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        """One look: the evaluation of all conditions where it is due, else a glance."""
        if context.repository_def is None:
            raise dg.DagsterInvariantViolationError(f"{self.name} is evaluated within a code location alone")
        if self._watched is None:
            self._watched = Watched.of(context.repository_def.asset_graph, self.asset_selection)
        model = self.run_tags[MODEL]
        if why_evaluate(context.instance, model, self._watched, context.cursor, get_current_datetime()):
            # Half a month is no state to judge by: what the run is yet to make would be asked for a second time.
            if is_month_at_work(context.instance, model):
                return SensorExecutionData(
                    skip_message=f"a run makes a month of {model}; its end is waited for", cursor=context.cursor
                )
            return super().evaluate_tick(context)
        return SensorExecutionData(
            skip_message=f"nothing that the conditions of {model} look at has changed", cursor=context.cursor
        )

    def with_attributes(self, *, jobs: object = None, metadata: RawMetadataMapping | None = None) -> "MonthsFlow":
        """A copy with other metadata, as Dagster makes of all below `defs/`; its own would evaluate at each look."""
        described = copy(self)
        described._metadata = normalize_metadata(metadata) if metadata is not None else self._metadata
        return described


def months_flow(protocol: ModelProtocol) -> MonthsFlow:
    """The sensor that carries a model's months from their data to their reports."""
    with warnings.catch_warnings():
        # That a code server evaluates conditions is in beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return MonthsFlow(
            f"{protocol.model}_months_flow",
            target=dg.AssetSelection.groups(protocol.model),
            minimum_interval_seconds=sensor_seconds(),
            default_status=dg.DefaultSensorStatus.RUNNING,
            run_tags={MODEL: protocol.model, TRIGGER: "automation"},
            use_user_code_server=True,
            description=f"Carries each month of {protocol.model} from its data to its reports, as the conditions of "
            "its assets say.",
        )


def why_evaluate(instance: dg.DagsterInstance, model: str, watched: Watched, cursor: str | None, now: datetime) -> str:
    """Why the conditions of a model are to be evaluated now; empty where nothing that they look at has changed."""
    if (last := evaluated(cursor)) is None:
        return "they were never evaluated"
    if now - last.at >= timedelta(seconds=LONGEST_PAUSE_SECONDS):
        return f"they were last evaluated more than {LONGEST_PAUSE_SECONDS} s ago"
    if any(tick <= now for tick in _next_ticks(watched.calendars, last.at)):
        return "a tick of a calendar, or the beginning of a partition, has passed"
    news = new_events(instance, watched.keys, last.event)
    if news.materialised or news.checked:
        return "an asset was materialised or checked"
    return "a run has ended" if runs_of(instance, news.ended, model) else ""


def is_month_at_work(instance: dg.DagsterInstance, model: str) -> bool:
    """Whether a run makes assets of one of the model's months, or of several."""
    at_work = instance.get_runs(dg.RunsFilter(tags={MODEL: model}, statuses=IN_FLIGHT))
    return any(PARTITION in run.tags or RANGE_START in run.tags for run in at_work)


@lru_cache(maxsize=256)
def evaluated(cursor: str | None) -> Evaluated | None:
    """What a cursor of Dagster's says of the last evaluation; None where there was none."""
    conditions = asset_daemon_cursor_from_instigator_serialized_cursor(cursor, None).previous_condition_cursors
    if not conditions:
        return None
    earliest = min(conditions, key=lambda condition: condition.effective_timestamp)
    event = min(condition.last_event_id or 0 for condition in conditions)
    return Evaluated(datetime_from_timestamp(earliest.effective_timestamp), event)


def _next_ticks(calendars: Collection[tuple[str, str]], since: datetime) -> list[datetime]:
    return [_next_tick(cron, timezone, since) for cron, timezone in calendars]


@lru_cache(maxsize=1024)
def _next_tick(cron: str, timezone: str, since: datetime) -> datetime:
    return get_next_cron_tick(cron, since, timezone)


def _calendars_of(condition: dg.AutomationCondition) -> set[tuple[str, str]]:
    below = set[tuple[str, str]]().union(*(_calendars_of(child) for child in condition.children))
    if isinstance(condition, CronTickPassedCondition):
        below.add((condition.cron_schedule, condition.cron_timezone))
    return below
