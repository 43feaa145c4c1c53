"""When the conditions of a model are evaluated; what they then ask for is in test_conditions."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.test_utils import freeze_time
from small_platform import MODEL, definitions_at, small_protocol

from clinical_assets.lifecycle.champion_move import VERSION_IS_LIVE
from clinical_assets.lifecycle.incidents import MODEL as MODEL_TAG
from clinical_assets.lifecycle.intervals import LONGEST_PAUSE_SECONDS
from clinical_assets.lifecycle.months_flow import MonthsFlow, Watched, evaluated
from clinical_assets.resources.home import Home

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

MAY = "2024-05"
NOON = datetime(2024, 6, 3, 12, tzinfo=UTC)
NOTHING = f"nothing that the conditions of {MODEL} look at has changed"


class Flow:
    """The sensor of a model's months, as its code location serves it, on a clock that a test sets."""

    def __init__(self, repository: dg.RepositoryDefinition) -> None:
        self.instance, self.repository = dg.DagsterInstance.ephemeral(), repository
        self.sensor = repository.get_sensor_def(f"{MODEL}_months_flow")
        self.cursor: str | None = None
        self.now = NOON

    def look(self) -> SensorExecutionData:
        with freeze_time(self.now):
            context = dg.build_sensor_context(
                instance=self.instance, cursor=self.cursor, repository_def=self.repository, sensor_name=self.sensor.name
            )
            found = self.sensor.evaluate_tick(context)
        self.cursor = found.cursor
        return found

    def evaluates(self) -> bool:
        """Whether a look evaluates the conditions."""
        before = self.cursor
        found = self.look()
        glanced = found.skip_message == NOTHING
        assert glanced == (found.cursor == before)
        assert not (glanced and found.automation_condition_evaluations)
        return not glanced

    def done(self, asset: str, month: str | None = None) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey([MODEL, asset]), partition=month))


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    nowhere = Path("nowhere")
    # Dagster makes a copy of every sensor below `defs/`, to say where it is defined.
    below_defs = definitions_at(Home(nowhere, nowhere), small_protocol()).with_definition_metadata_update(
        lambda metadata: {**metadata, "defined in": "a folder"}
    )
    return below_defs.get_repository_def()


@pytest.fixture
def flow(repository: dg.RepositoryDefinition) -> Iterator[Flow]:
    """The conditions were evaluated, and then nothing happened."""
    flow = Flow(repository)
    assert flow.evaluates()
    assert not flow.evaluates()
    yield flow
    flow.instance.dispose()


def test_the_code_location_serves_the_sensor_that_glances(flow: Flow) -> None:
    assert isinstance(flow.sensor, MonthsFlow)


def test_where_nothing_happens_nothing_is_evaluated_and_no_row_is_written(flow: Flow) -> None:
    for _ in range(5):
        flow.now += timedelta(seconds=15)
        assert not flow.evaluates()


def test_a_month_s_data_are_carried_on_at_the_next_look(flow: Flow) -> None:
    flow.done("identified_feed", MAY)
    flow.done("dataset", MAY)
    [request] = list(flow.look().run_requests or [])
    assert request.partition_key == MAY
    assert {key.path[-1] for key in request.asset_selection or ()} == {"data_quality", "features"}
    assert request.tags[MODEL_TAG] == MODEL
    assert request.tags["dagster/sensor_name"] == f"{MODEL}_months_flow"


def test_another_model_s_data_are_not_looked_at(flow: Flow) -> None:
    flow.instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(["sepsis", "dataset"]), partition=MAY))
    assert not flow.evaluates()


def test_a_tick_of_a_condition_s_calendar_is_seen_at_the_next_look(flow: Flow) -> None:
    flow.now = datetime(2024, 7, 1, 5, 59, tzinfo=UTC)
    assert flow.evaluates()
    flow.now = datetime(2024, 7, 1, 6, 0, 5, tzinfo=UTC)
    [request] = list(flow.look().run_requests or [])
    assert request.partition_key == "2024-06"
    flow.now = datetime(2024, 7, 1, 6, 0, 20, tzinfo=UTC)
    assert not flow.evaluates()


def test_the_beginning_of_a_partition_is_seen_at_the_next_look(flow: Flow) -> None:
    flow.now = datetime(2024, 6, 30, 23, 59, 50, tzinfo=UTC)
    assert flow.evaluates()
    flow.now = datetime(2024, 7, 1, 0, 0, 5, tzinfo=UTC)
    assert flow.evaluates()
    flow.now = datetime(2024, 7, 1, 0, 0, 20, tzinfo=UTC)
    assert not flow.evaluates()


def test_a_release_and_its_check_are_seen_each_by_itself(flow: Flow) -> None:
    flow.done("release")
    assert flow.evaluates()
    assert not flow.evaluates()
    key = dg.AssetKey([MODEL, "release"])
    flow.instance.report_runless_asset_event(dg.AssetCheckEvaluation(key, VERSION_IS_LIVE, passed=True))
    assert flow.evaluates()
    assert not flow.evaluates()


@pytest.mark.parametrize(("model", "seen"), [(MODEL, True), ("sepsis", False)])
def test_a_run_that_ended_without_making_anything_is_seen(flow: Flow, model: str, seen: bool) -> None:
    """What waited for it to end need wait no more."""
    run = dg.DagsterRun(job_name="a_job", status=dg.DagsterRunStatus.STARTED, tags={MODEL_TAG: model})
    flow.instance.add_run(run)
    assert not flow.evaluates()
    flow.instance.report_run_failed(run)
    assert flow.evaluates() is seen


def test_what_leaves_no_event_is_seen_after_a_while(flow: Flow) -> None:
    flow.now += timedelta(seconds=LONGEST_PAUSE_SECONDS)
    assert flow.evaluates()


def test_every_calendar_of_the_conditions_and_partitions_is_watched(repository: dg.RepositoryDefinition) -> None:
    watched = Watched.of(repository.asset_graph, dg.AssetSelection.groups(MODEL))
    assert watched.calendars == {("0 6 1 * *", "UTC"), ("0 0 1 * *", "UTC")}
    assert dg.AssetKey([MODEL, "release"]) in watched.keys, "on which conditions depend"


def test_without_a_cursor_nothing_was_evaluated() -> None:
    assert evaluated(None) is None
