from typing import Any

import numpy as np
import polars as pl
import pytest
from scored_cohort import ScoredCohort

from clinical_assets.evaluation import EvaluationError, compare, evaluate
from clinical_assets.evaluation.findings import METRICS
from clinical_assets.protocol import Finding

NO_SUBGROUPS = pl.DataFrame()


def by_key(findings: list[Finding]) -> dict[tuple[str, str], Finding]:
    keyed = {(finding.metric, finding.subgroup): finding for finding in findings}
    assert len(keyed) == len(findings)
    return keyed


def evaluate_scored(scored: ScoredCohort, **changes: Any) -> dict[tuple[str, str], Finding]:
    arguments = {"threshold": 0.3, "subgroups": scored.subgroups, "minimum_n": 20, "resamples": 60} | changes
    return by_key(evaluate(scored.outcome, scored.risk, scored.patient, **arguments))


def test_every_metric_is_found_overall_and_in_every_subgroup_within_its_interval(scored: ScoredCohort) -> None:
    found = evaluate_scored(scored)
    groups = ["overall", "sex=female", "sex=male", "site=east", "site=missing", "site=west"]
    assert set(found) == {(name, group) for name in METRICS for group in groups} | {("sensitivity_gap", "overall")}
    for finding in found.values():
        assert finding.low is not None and finding.value is not None and finding.high is not None
        assert finding.low <= finding.value <= finding.high
        assert finding.low < finding.high
    assert found["auroc", "sex=female"].n + found["auroc", "sex=male"].n == found["auroc", "overall"].n == 1500


def test_a_subgroup_is_measured_as_if_it_were_alone(scored: ScoredCohort) -> None:
    women = (scored.subgroups["sex"] == "female").to_numpy()
    alone = by_key(
        evaluate(scored.outcome[women], scored.risk[women], scored.patient[women], 0.3, NO_SUBGROUPS, 20, resamples=0)
    )
    together = evaluate_scored(scored, resamples=0)
    for name in METRICS:
        assert together[name, "sex=female"].value == pytest.approx(alone[name, "overall"].value)


def test_a_subgroup_below_the_minimum_is_left_out(scored: ScoredCohort) -> None:
    found = evaluate_scored(scored, minimum_n=100)
    assert ("auroc", "site=missing") not in found
    assert ("auroc", "site=east") in found


def test_the_gap_is_between_the_subgroups_of_the_column_where_it_is_widest(scored: ScoredCohort) -> None:
    found = evaluate_scored(scored, resamples=0)
    sensitivities = {group: f.value or 0.0 for (name, group), f in found.items() if name == "sensitivity"}
    gaps = {
        column: max(values) - min(values)
        for column in ("sex", "site")
        if (values := [value for group, value in sensitivities.items() if group.startswith(column)])
    }
    assert found["sensitivity_gap", "overall"].value == pytest.approx(max(gaps.values()))


def test_a_gap_needs_two_subgroups_with_events(scored: ScoredCohort) -> None:
    one_group = pl.DataFrame({"site": ["east"] * len(scored.risk)})
    assert evaluate_scored(scored, subgroups=one_group)["sensitivity_gap", "overall"].value is None
    eventless = pl.DataFrame({"event": scored.outcome.astype(str)})
    found = evaluate_scored(scored, subgroups=eventless)
    assert found["sensitivity", "event=0"].value is None
    assert found["sensitivity_gap", "overall"].value is None


def test_what_one_class_cannot_define_is_none_and_never_a_number() -> None:
    found = by_key(evaluate([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], np.arange(4), 0.35, NO_SUBGROUPS, 1, resamples=20))
    undefined = {name for (name, _), finding in found.items() if finding.value is None}
    assert undefined == {
        "auroc",
        "average_precision",
        "calibration_slope",
        "calibration_intercept",
        "sensitivity",
        "sensitivity_gap",
    }
    assert all(finding.low is None for finding in found.values() if finding.value is None)
    assert found["ppv", "overall"].value == 0
    assert found["alerts_per_100", "overall"].value == 25


def test_a_risk_at_the_threshold_is_alerted() -> None:
    found = by_key(evaluate([0, 1, 1], [0.1, 0.3, 0.2], np.arange(3), 0.3, NO_SUBGROUPS, 1, resamples=0))
    assert found["sensitivity", "overall"].value == 0.5
    assert found["ppv", "overall"].value == 1


def test_the_interval_of_a_small_calibration_error_holds_the_error_itself() -> None:
    risk = np.linspace(0.05, 0.6, 2000)
    outcome = (np.arange(2000) * 0.618034 % 1) < risk
    found = by_key(evaluate(outcome, risk, np.arange(2000), 0.3, NO_SUBGROUPS, 1, resamples=200))
    error = found["expected_calibration_error", "overall"]
    assert error.low is not None and error.value is not None and error.high is not None
    assert 0 <= error.low <= error.value <= error.high
    assert error.value < 0.005


def test_an_interval_is_none_when_too_few_draws_define_it() -> None:
    found = by_key(evaluate([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4], np.arange(4), 0.35, NO_SUBGROUPS, 1, resamples=200))
    assert found["auroc", "overall"].value == 1.0
    assert found["auroc", "overall"].low is None


def test_intervals_are_drawn_by_patient_so_that_repeating_each_row_adds_no_certainty(scored: ScoredCohort) -> None:
    rows = np.arange(len(scored.risk))
    once = by_key(evaluate(scored.outcome, scored.risk, rows, 0.3, NO_SUBGROUPS, 1, resamples=200))
    twice = by_key(
        evaluate(
            np.tile(scored.outcome, 2), np.tile(scored.risk, 2), np.tile(rows, 2), 0.3, NO_SUBGROUPS, 1, resamples=200
        )
    )
    as_if_independent = by_key(
        evaluate(
            np.tile(scored.outcome, 2),
            np.tile(scored.risk, 2),
            np.arange(2 * len(rows)),
            0.3,
            NO_SUBGROUPS,
            1,
            resamples=200,
        )
    )

    def width(found: dict[tuple[str, str], Finding]) -> float:
        finding = found["auroc", "overall"]
        assert finding.low is not None and finding.high is not None
        return finding.high - finding.low

    assert width(twice) == pytest.approx(width(once))
    assert width(as_if_independent) < 0.85 * width(once)


def test_an_interval_covers_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(11)
    covered = 0
    for repetition in range(100):
        risk = np.where(random.random((400, 1)) < 0.5, 0.2, 0.4) * np.ones((1, 2))
        outcome = (random.random(risk.shape) < risk).ravel()
        found = by_key(
            evaluate(outcome, risk.ravel(), np.repeat(np.arange(400), 2), 0.3, NO_SUBGROUPS, 1, 100, repetition)
        )["prevalence", "overall"]
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert 88 <= covered <= 99


def test_the_same_seed_gives_the_same_findings_whatever_the_order_of_the_rows(scored: ScoredCohort) -> None:
    order = np.random.default_rng(0).permutation(len(scored.risk))
    shuffled = by_key(
        evaluate(
            scored.outcome[order], scored.risk[order], scored.patient[order], 0.3, scored.subgroups[order], 20, 60, 5
        )
    )
    for key, finding in evaluate_scored(scored, seed=5).items():
        assert shuffled[key].value == pytest.approx(finding.value)
        assert shuffled[key].low == pytest.approx(finding.low)
        assert shuffled[key].high == pytest.approx(finding.high)


def test_another_seed_moves_the_interval_and_not_the_value(scored: ScoredCohort) -> None:
    first, second = (
        evaluate_scored(scored, seed=1)["auroc", "overall"],
        evaluate_scored(scored, seed=2)["auroc", "overall"],
    )
    assert first.value == second.value
    assert first.low != second.low


def test_a_difference_is_paired_so_that_a_model_equals_itself_exactly(scored: ScoredCohort) -> None:
    for finding in compare(scored.outcome, scored.risk, scored.risk, scored.patient, resamples=40):
        assert (finding.value, finding.low, finding.high) == (0, 0, 0)


def test_a_difference_is_the_candidate_minus_the_reference(scored: ScoredCohort) -> None:
    noisy = np.clip(scored.risk + np.random.default_rng(2).normal(0, 0.2, len(scored.risk)), 0, 1)
    found = {f.metric: f for f in compare(scored.outcome, scored.risk, noisy, scored.patient, "first_release", 200)}
    assert list(found) == [f"{name}_minus_first_release" for name in ("auroc", "average_precision", "brier")]
    candidate = evaluate_scored(scored, resamples=0)
    noisy_findings = by_key(evaluate(scored.outcome, noisy, scored.patient, 0.3, NO_SUBGROUPS, 1, resamples=0))
    for name in ("auroc", "brier"):
        expected = (candidate[name, "overall"].value or 0) - (noisy_findings[name, "overall"].value or 0)
        assert found[f"{name}_minus_first_release"].value == pytest.approx(expected)
    better = found["auroc_minus_first_release"]
    assert better.low is not None and better.low > 0


def test_both_models_of_a_difference_are_measured_on_the_same_draws(scored: ScoredCohort) -> None:
    same_order = scored.risk**1.01
    for finding in compare(scored.outcome, scored.risk, same_order, scored.patient, resamples=40)[:2]:
        assert (finding.low, finding.high) == pytest.approx((0, 0), abs=1e-12)
    reversed_order = compare(scored.outcome, scored.risk, 1 - scored.risk, scored.patient, resamples=100)[0]
    auroc = evaluate_scored(scored, subgroups=NO_SUBGROUPS, resamples=100)["auroc", "overall"]
    assert auroc.low is not None and auroc.high is not None
    assert reversed_order.low == pytest.approx(2 * auroc.low - 1)
    assert reversed_order.high == pytest.approx(2 * auroc.high - 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": [0, 1, 2]}, "outcome: 1 of 3 rows are neither 0 nor 1"),
        ({"outcome": []}, "no row to evaluate"),
        ({"risk": [0.1, 0.2]}, "risk has 2 rows and outcome has 3"),
        ({"risk": [0.1, np.nan, 1.2]}, "risk: 2 of 3 rows are no probability"),
        ({"patient": pl.Series(["a", None, "b"])}, "patient: 1 of 3 rows have none"),
        ({"patient": np.array(["a"])}, "patient has 1 rows and outcome has 3"),
        ({"subgroups": pl.DataFrame({"sex": ["f"]})}, "subgroups has 1 rows and outcome has 3"),
    ],
)
def test_arrays_that_cannot_be_evaluated_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {
        "outcome": [0, 1, 0],
        "risk": [0.1, 0.2, 0.3],
        "patient": np.array(["a", "b", "c"]),
        "subgroups": NO_SUBGROUPS,
    } | change
    with pytest.raises(EvaluationError, match=message):
        evaluate(**arguments, threshold=0.2, minimum_n=1)
