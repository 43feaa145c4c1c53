from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from small_platform import MODEL, definitions_at, small_protocol

from clinical_assets.lifecycle.champion_move import VERSION_IS_LIVE
from clinical_assets.resources.home import Home

MAY, JUNE = "2024-05", "2024-06"
FLOWING = (
    "features",
    "data_quality",
    "predictions",
    "scored_history",
    "profile",
    "estimated_performance",
    "drift_report",
    "repair_plan",
)
SCORED = ("scored_history", "profile", "estimated_performance", "drift_report", "repair_plan")
MONTHLY = ("identified_feed", "dataset", *FLOWING, "performance_report")
DEVELOPMENT = ("protocol", "training_set", "trained_model", "evaluation", "silent_run", "validation_report", "sign_off")


class Clock:
    """The automation of one model, looked at whenever a test says so."""

    def __init__(self, instance: dg.DagsterInstance, definitions: dg.Definitions) -> None:
        self.instance, self.definitions, self.cursor = instance, definitions, None

    def at(self, month: int, day: int, hour: int, minute: int = 0) -> Mapping[str, set[str | None]]:
        """What is asked for at a moment of 2024: assets with their partitions."""
        result = dg.evaluate_automation_conditions(
            self.definitions,
            self.instance,
            asset_selection=dg.AssetSelection.all(),
            evaluation_time=datetime(2024, month, day, hour, minute, tzinfo=UTC),
            cursor=self.cursor,
        )
        self.cursor = result.cursor
        keys = self.definitions.resolve_asset_graph().get_all_asset_keys()
        asked = {key.path[-1]: set(result.get_requested_partitions(key)) for key in keys}
        return {asset: partitions for asset, partitions in asked.items() if partitions}

    def says_live(self, passed: bool) -> None:
        """Record whether a version is live."""
        key = dg.AssetKey([MODEL, "release"])
        self.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(key, VERSION_IS_LIVE, passed, severity=dg.AssetCheckSeverity.WARN)
        )

    def done(self, *assets: str, month: str | None = None) -> None:
        """Record that assets were materialised."""
        for asset in assets:
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(dg.AssetKey([MODEL, asset]), partition=month)
            )


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    nowhere = Path("nowhere")
    return definitions_at(Home(nowhere, nowhere), small_protocol())


@pytest.fixture
def clock(definitions: dg.Definitions) -> Clock:
    clock = Clock(dg.DagsterInstance.ephemeral(), definitions)
    assert clock.at(5, 31, 12) == {}
    return clock


@pytest.fixture
def champion(clock: Clock) -> Clock:
    """May is whole, scored by the champion, and its drift report is there."""
    clock.done(*DEVELOPMENT, "release")
    clock.done(*MONTHLY, month=MAY)
    clock.at(6, 2, 13)
    return clock


def test_the_monthly_tick_asks_for_the_month_that_has_ended_and_only_once(clock: Clock) -> None:
    assert clock.at(6, 1, 5, 59) == {}
    assert clock.at(6, 1, 6, 1)["identified_feed"] == {MAY}
    assert clock.at(6, 1, 6, 2) == {}
    clock.done("identified_feed", "dataset", "data_quality", "features", month=MAY)
    for day in (1, 2, 15, 30):
        assert not {"identified_feed", "dataset"} & set(clock.at(6, day, 7))
    assert clock.at(7, 1, 6, 1)["identified_feed"] == {JUNE}


def test_a_tick_missed_by_hours_is_made_up_for(clock: Clock) -> None:
    assert clock.at(6, 3, 11)["identified_feed"] == {MAY}


def test_a_month_s_data_carry_it_as_far_as_a_champion_is_not_needed(clock: Clock) -> None:
    clock.at(6, 1, 6, 1)
    clock.at(6, 1, 6, 2)
    clock.done("identified_feed", "dataset", month=MAY)
    assert clock.at(6, 1, 6, 3) == {"data_quality": {MAY}, "features": {MAY}}
    clock.done("data_quality", "features", month=MAY)
    assert clock.at(6, 1, 6, 4) == {}


def test_with_a_champion_a_month_flows_from_its_data_to_its_drift_report(champion: Clock) -> None:
    asked = champion.at(7, 1, 6, 1)
    for asset in ("identified_feed", "dataset", *FLOWING):
        assert asked[asset] == {JUNE}, asset


def test_what_follows_is_asked_for_step_by_step_where_data_came_by_hand(champion: Clock) -> None:
    champion.at(7, 1, 5, 58)
    champion.done("identified_feed", "dataset", month=JUNE)
    asked = champion.at(7, 1, 5, 59)
    for asset in FLOWING:
        assert asked[asset] == {JUNE}, asset


def test_old_months_are_looked_at_again_only_for_their_ripening_outcomes(champion: Clock) -> None:
    asked = champion.at(7, 1, 6, 1)
    assert asked["performance_report"] == {MAY, JUNE}
    assert {asset for asset, months in asked.items() if MAY in months} == {"performance_report"}


def test_neither_a_retraining_nor_a_release_asks_for_a_month_again(champion: Clock) -> None:
    """Else the drift that stands would be found again, and retrained for, for ever."""
    for _ in range(3):
        champion.done("training_set", "trained_model", "evaluation", "silent_run", "validation_report")
        assert champion.at(6, 3, 8) == {}
        champion.done("sign_off", "release")
        assert champion.at(6, 3, 9) == {}
        champion.done("protocol")
        assert champion.at(6, 3, 10) == {}


def test_while_nothing_is_live_months_arrive_and_ripen_and_none_is_scored(champion: Clock) -> None:
    champion.done("release")
    champion.says_live(False)
    asked = champion.at(7, 1, 6, 1)
    assert set(asked) == {"identified_feed", "dataset", "data_quality", "features", "performance_report"}
    assert asked["performance_report"] == {MAY}
    champion.done("identified_feed", "dataset", "data_quality", "features", month=JUNE)
    champion.done("performance_report", month=MAY)
    champion.done("data_quality", "features", month=MAY)
    assert not {"predictions", *SCORED} & set(champion.at(7, 1, 6, 2))
    assert not {"predictions", *SCORED} & set(champion.at(7, 2, 6, 2))


def test_once_a_version_is_put_back_the_month_that_waited_is_scored(champion: Clock) -> None:
    champion.done("release")
    champion.says_live(False)
    champion.at(7, 1, 6, 1)
    champion.done("identified_feed", "dataset", "data_quality", "features", month=JUNE)
    champion.at(7, 1, 6, 2)
    champion.done("release")
    champion.says_live(True)
    asked = champion.at(7, 1, 6, 3)
    for asset in ("predictions", *SCORED):
        assert asked[asset] == {JUNE}, asset


def test_a_retraining_is_never_asked_for_by_the_flow_of_months(champion: Clock) -> None:
    asked = {*champion.at(7, 1, 6, 1), *champion.at(7, 1, 6, 2), *champion.at(8, 1, 6, 1)}
    assert not asked & {*DEVELOPMENT, "release"}
