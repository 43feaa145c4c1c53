from datetime import date

import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation.calibration import from_logit
from clinical_assets.evaluation.findings import evaluate
from clinical_assets.evaluation.sample import EvaluationError
from clinical_assets.monitoring.repair_plan import OPTIONS_SCHEMA, RepairPlan, expected_by_month, plan_repair
from clinical_assets.protocol import Finding, Monitoring, OperatingPoint, Repair, Verdict

POLICY = Monitoring(headline="auroc", tolerated_loss=0.02)
TENTH = OperatingPoint(alerted_fraction=0.1)

MEAN_LOG_ODDS = -2.0
NINTH_DECILE = float(from_logit(np.array(MEAN_LOG_ODDS + 1.2816)))
"""The risk that a tenth of the rows of `draw_ripe` reach, whose log odds are normal with a deviation of 1."""

BASELINE = Finding("auroc", "overall", 0.746, 0.738, 0.754, 20_000)
"""Of risks that are right: the AUROC of two million rows of `draw_ripe`, with an interval as of 20,000."""


def draw_ripe(rows: int = 40_000, seed: int = 1, intercept: float = 0.0, stretch: float = 1.0) -> pl.DataFrame:
    """Rows of as many patients whose true log odds are those of the risk plus `intercept`, drawn in by `stretch`."""
    random = np.random.default_rng(seed)
    true = random.normal(MEAN_LOG_ODDS, 1.0, rows)
    shown = MEAN_LOG_ODDS + (true - MEAN_LOG_ODDS) * stretch
    event = random.random(rows) < from_logit(true + intercept)
    return pl.DataFrame({"patient": np.arange(rows), "event": event.astype(np.int8), "risk": from_logit(shown)})


def lose_ranks(ripe: pl.DataFrame) -> pl.DataFrame:
    return ripe.with_columns(pl.col("risk").shuffle(seed=5))


def plan(
    ripe: pl.DataFrame,
    verdict: Verdict = Verdict.STABLE,
    faults: tuple[str, ...] = (),
    threshold: float = NINTH_DECILE,
    point: OperatingPoint = TENTH,
    baseline: Finding | None = BASELINE,
    estimated_loss: Finding | None = None,
) -> RepairPlan:
    return plan_repair(ripe, verdict, faults, threshold, POLICY, point, baseline, estimated_loss)


def option(planned: RepairPlan, repair: Repair) -> dict[str, object]:
    return planned.options.row(by_predicate=pl.col("rung") == repair.value, named=True)


def test_a_model_that_is_right_is_left_alone() -> None:
    planned = plan(draw_ripe())
    assert planned.repair is Repair.NONE
    assert planned.reason.startswith("nothing to repair: O:E is ")
    assert (planned.intercept, planned.slope, planned.threshold, planned.roll_back_to) == (None, None, None, None)


@pytest.mark.parametrize("intercept", [-0.4, 0.4])
def test_risks_that_are_all_too_low_or_too_high_take_an_intercept(intercept: float) -> None:
    planned = plan(draw_ripe(intercept=intercept))
    assert planned.repair is Repair.RECALIBRATE_INTERCEPT
    assert planned.slope == 1.0
    assert planned.intercept == pytest.approx(intercept, abs=0.06)


def test_risks_that_are_too_extreme_take_a_slope() -> None:
    stretched = draw_ripe(stretch=1 / 0.6)
    planned = plan(stretched, threshold=float(stretched["risk"].quantile(0.9) or 0.0))
    assert planned.repair is Repair.RECALIBRATE_SLOPE
    assert planned.slope == pytest.approx(0.6, abs=0.04)


def test_ranks_that_are_lost_take_a_retraining_though_recalibration_would_gain() -> None:
    planned = plan(lose_ranks(draw_ripe()))
    assert planned.repair is Repair.RETRAIN
    assert "can be won back, and 0.02 is tolerated" in planned.reason
    assert planned.intercept is None


def test_a_loss_of_ranks_within_what_chance_explains_retrains_nothing() -> None:
    ripe = draw_ripe(rows=1500, seed=3)
    vague = Finding("auroc", "overall", 0.79, 0.71, 0.87, 200)
    assert plan(ripe, baseline=vague).repair is Repair.NONE


def test_risks_that_are_right_but_spread_less_retrain_nothing_and_are_not_called_sound() -> None:
    alike = draw_ripe().filter(pl.col("risk").is_between(0.05, 0.3))
    planned = plan(alike, threshold=float(alike["risk"].quantile(0.9) or 0.0))
    assert planned.repair is Repair.NONE
    assert planned.reason.startswith("cannot tell: ")
    assert "was 0.746 at the release, and would be 0.6" in planned.reason


def test_a_data_fault_is_mended_in_the_data_even_where_ranks_are_lost() -> None:
    planned = plan(lose_ranks(draw_ripe()), Verdict.DATA_FAULT, ("creatinine is wholly missing",))
    assert planned.repair is Repair.FIX_DATA
    assert "creatinine is wholly missing" in planned.reason
    assert not planned.repair.needs_candidate


def test_too_few_events_cannot_tell_and_say_how_many_rows_it_takes() -> None:
    ripe = draw_ripe(rows=60)
    planned = plan(ripe)
    assert planned.repair is Repair.NONE
    assert planned.reason.startswith("cannot tell: ")
    assert "of 60 patients have the event, and 20 with and 20 without it are the least" in planned.reason
    # So many events that a Poisson count of them is known within the tolerated tenth.
    needed = (1.96 / np.log(1.1)) ** 2 / ripe["risk"].to_numpy().mean()
    assert f"from about {np.ceil(needed):,.0f} rows on" in planned.reason


def test_an_interval_that_reaches_beyond_the_limits_cannot_tell() -> None:
    planned = plan(draw_ripe(rows=1500))
    assert planned.repair is Repair.NONE
    assert planned.reason.startswith("cannot tell: O:E is ")
    assert "rows would tell" in planned.reason


def test_a_release_without_an_auroc_cannot_tell_whether_ranks_were_lost() -> None:
    planned = plan(draw_ripe(), baseline=None)
    assert planned.repair is Repair.NONE
    assert planned.reason.startswith("cannot tell: ")
    assert "the release has no AUROC with an interval" in planned.reason


def test_without_a_ripe_outcome_nothing_can_be_told() -> None:
    planned = plan(draw_ripe().clear())
    assert planned.repair is Repair.NONE
    assert planned.reason == "cannot tell: no outcome is ripe; no loss is estimated"


@pytest.mark.parametrize("ripe", [draw_ripe().clear(), draw_ripe(rows=60), draw_ripe()])
def test_an_estimated_loss_of_a_shifted_month_retrains(ripe: pl.DataFrame) -> None:
    loss = Finding("auroc", "overall", 0.06, 0.03, 0.09, 3000)
    planned = plan(ripe, Verdict.POPULATION_SHIFT, estimated_loss=loss)
    assert planned.repair is Repair.RETRAIN
    assert option(planned, Repair.RETRAIN)["unit"] == "auroc"
    assert plan(ripe, Verdict.STABLE, estimated_loss=loss).repair is Repair.NONE


@pytest.mark.parametrize(("value", "low", "high"), [(0.06, -0.01, 0.13), (0.01, 0.005, 0.015), (None, None, None)])
def test_an_estimated_loss_that_is_not_real_and_relevant_retrains_nothing(
    value: float | None, low: float | None, high: float | None
) -> None:
    loss = Finding("auroc", "overall", value, low, high, 3000)
    assert plan(draw_ripe(), Verdict.POPULATION_SHIFT, estimated_loss=loss).repair is Repair.NONE


def test_alerts_that_miss_their_budget_take_another_threshold() -> None:
    planned = plan(draw_ripe(), threshold=0.25)
    assert planned.repair is Repair.MOVE_THRESHOLD
    assert planned.threshold == pytest.approx(NINTH_DECILE, rel=0.03)
    assert "10 may be" in planned.reason


def test_a_budget_of_patients_counts_who_is_ever_alerted() -> None:
    ripe = draw_ripe().with_columns(pl.col("patient") // 8)
    of_patients = OperatingPoint(alerted_fraction=0.1, of="patients")
    planned = plan(ripe, point=of_patients)
    assert planned.repair is Repair.MOVE_THRESHOLD
    assert planned.threshold is not None
    ever = ripe.group_by("patient").agg(pl.col("risk").max())["risk"] >= planned.threshold
    assert ever.mean() == pytest.approx(0.1, abs=1e-3)


def test_a_recalibrated_candidate_alerts_whom_the_champion_alerts() -> None:
    ripe = draw_ripe(intercept=0.4)
    planned = plan(ripe)
    assert (planned.intercept, planned.slope, planned.threshold) != (None, None, None)
    risk = ripe["risk"].to_numpy()
    mended = from_logit((planned.intercept or 0) + (planned.slope or 0) * np.log(risk / (1 - risk)))
    assert np.array_equal(mended >= (planned.threshold or 0), risk >= NINTH_DECILE)


@pytest.mark.parametrize("release", ["previous_release_risk", "first_release_risk"])
def test_an_earlier_release_that_ranks_better_on_the_same_rows_comes_back(release: str) -> None:
    ripe = draw_ripe().with_columns(pl.col("risk").alias(release))
    lost = ripe.with_columns(pl.col("risk").shuffle(seed=5))
    planned = plan(lost)
    assert planned.repair is Repair.ROLL_BACK
    assert planned.roll_back_to == release


def test_an_earlier_release_that_is_not_calibrated_stays_where_it_is() -> None:
    ripe = draw_ripe(intercept=0.5).with_columns(previous_release_risk="risk")
    lost = ripe.with_columns(pl.col("risk").shuffle(seed=5))
    assert plan(lost).repair is Repair.RETRAIN


def test_an_earlier_release_that_is_only_as_good_stays_where_it_is() -> None:
    assert plan(draw_ripe().with_columns(first_release_risk="risk")).repair is Repair.NONE


def test_the_hours_of_one_patient_are_one_witness() -> None:
    hours = pl.concat([draw_ripe(rows=400, seed=7, intercept=-0.2)] * 30)
    assert plan(hours, baseline=None).repair is Repair.NONE
    alone = hours.with_columns(patient=pl.int_range(pl.len()))
    assert plan(alone, baseline=None).repair.needs_candidate


def test_the_interval_of_a_lost_auroc_is_that_of_drawn_patients() -> None:
    ripe = draw_ripe(rows=4000).with_columns(pl.col("patient") // 4)
    exact = Finding("auroc", "overall", 0.7, 0.7, 0.7, 40_000)
    found = option(plan(ripe, baseline=exact), Repair.RETRAIN)
    drawn = evaluate(ripe["event"], ripe["risk"], ripe["patient"], 0.5, pl.DataFrame(), 1, resamples=400)
    (auroc,) = [finding for finding in drawn if finding.metric == "auroc"]
    assert auroc.value is not None and auroc.low is not None and auroc.high is not None
    assert found["benefit"] == pytest.approx(0.7 - auroc.value)
    low, high = found["low"], found["high"]
    assert isinstance(low, float) and isinstance(high, float)
    # Intervals of 98.75 % stand beside one of 95 %.
    assert (high - low) / (auroc.high - auroc.low) == pytest.approx(2.498 / 1.960, rel=0.12)


@pytest.mark.parametrize(
    ("ripe", "verdict"),
    [
        (draw_ripe(), Verdict.STABLE),
        (draw_ripe(intercept=0.4), Verdict.STABLE),
        (draw_ripe(rows=60), Verdict.STABLE),
        (draw_ripe(rows=60).clear(), Verdict.CANNOT_TELL),
        (lose_ranks(draw_ripe()), Verdict.POPULATION_SHIFT),
        (draw_ripe(rows=60), Verdict.DATA_FAULT),
    ],
)
def test_every_rung_says_what_it_would_bring_or_why_not(ripe: pl.DataFrame, verdict: Verdict) -> None:
    planned = plan(ripe, verdict)
    assert planned.options.schema == OPTIONS_SCHEMA
    assert planned.options["rung"].to_list() == [repair.value for repair in Repair]
    assert planned.options.filter("chosen")["rung"].to_list() == [planned.repair.value]
    assert planned.options.filter("chosen")["reason"].to_list() == [planned.reason]
    assert planned.options["reason"].str.len_chars().min() != 0


def test_a_sound_model_is_repaired_by_chance_in_at_most_one_plan_of_twenty() -> None:
    random = np.random.default_rng(0)
    repaired = 0
    for seed in range(100):
        # The release was measured with an error of its own.
        moved = float(random.normal(0, 0.016))
        measured = Finding("auroc", "overall", 0.746 + moved, 0.714 + moved, 0.778 + moved, 2000)
        repaired += plan(draw_ripe(rows=2000, seed=seed), baseline=measured).repair is not Repair.NONE
    assert repaired <= 5


def test_risks_that_are_all_one_are_never_called_sound() -> None:
    planned = plan(draw_ripe().with_columns(risk=pl.lit(0.16)))
    assert planned.repair is Repair.NONE
    assert planned.reason.startswith("cannot tell: ")
    assert option(planned, Repair.RECALIBRATE_SLOPE)["benefit"] is None
    assert "share the highest risk" in str(option(planned, Repair.MOVE_THRESHOLD)["reason"])


def test_the_same_rows_give_the_same_plan_in_any_order() -> None:
    ripe = draw_ripe(rows=3000, intercept=0.4)
    planned, shuffled = plan(ripe), plan(ripe.sample(fraction=1.0, shuffle=True, seed=2))
    assert planned.repair is shuffled.repair
    assert planned.intercept == pytest.approx(shuffled.intercept, abs=1e-9)


def test_rows_that_lack_a_column_are_refused_by_its_name() -> None:
    with pytest.raises(EvaluationError, match=r"the ripe rows lack the columns \['event'\]"):
        plan(draw_ripe(rows=60).drop("event"))


def test_an_unripe_row_is_refused_not_counted_as_a_negative() -> None:
    ripe = draw_ripe(rows=60).with_columns(event=pl.when(pl.col("patient") > 0).then("event"))
    with pytest.raises(EvaluationError, match="1 of 60 rows are neither 0 nor 1; leave unripe rows out"):
        plan(ripe)


def test_a_row_an_earlier_release_did_not_score_is_refused() -> None:
    ripe = draw_ripe().with_columns(first_release_risk=pl.when(pl.col("patient") > 0).then("risk"))
    with pytest.raises(EvaluationError, match="first_release_risk: 1 of 40,000 rows are no probability"):
        plan(ripe)


def test_events_are_counted_beside_those_expected_month_by_month() -> None:
    ripe = pl.DataFrame(
        {
            "month": [date(2025, 2, 1), date(2025, 1, 1), date(2025, 2, 1)],
            "event": [1, 0, 1],
            "risk": [0.5, 0.25, 0.25],
        }
    )
    assert expected_by_month(ripe).rows() == [(date(2025, 1, 1), 0, 0.25, 1), (date(2025, 2, 1), 2, 0.75, 2)]
