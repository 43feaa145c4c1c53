import numpy as np
import pytest
from scored_cohort import ScoredCohort

from clinical_assets.evaluation import EvaluationError
from clinical_assets.evaluation.net_benefit import exchange_rate, net_benefit

OUTCOME, RISK = [0, 1, 0, 1], [0.1, 0.2, 0.2, 0.5]


def test_net_benefit_is_found_events_less_false_alerts_at_the_odds_of_the_threshold() -> None:
    curve = net_benefit(OUTCOME, RISK, [0.2])
    assert curve.columns == ["threshold_probability", "model", "all"]
    assert curve.row(0) == pytest.approx((0.2, (2 - 1 * 0.25) / 4, (2 - 2 * 0.25) / 4))


def test_the_curve_is_that_counted_threshold_by_threshold_in_the_order_given(scored: ScoredCohort) -> None:
    thresholds = [0.5, 0.01, 0.3, 0.05, 0.99, 0.17]
    curve = net_benefit(scored.outcome, scored.risk, thresholds)
    assert curve["threshold_probability"].to_list() == thresholds
    for threshold, row in zip(thresholds, curve.iter_rows(named=True), strict=True):
        alerted = scored.risk >= threshold
        found, false_alerts = np.sum(alerted & (scored.outcome == 1)), np.sum(alerted & (scored.outcome == 0))
        odds = threshold / (1 - threshold)
        assert row["model"] == pytest.approx((found - odds * false_alerts) / len(scored.risk))
        assert row["all"] == pytest.approx(scored.outcome.mean() - odds * (1 - scored.outcome.mean()))


def test_below_every_risk_the_model_is_worth_what_alerting_all_is_and_above_them_nothing() -> None:
    lowest, highest = net_benefit(OUTCOME, RISK, [0.05, 0.6]).iter_rows(named=True)
    assert lowest["model"] == lowest["all"]
    assert highest["model"] == 0.0


def test_alerting_all_is_worth_nothing_at_the_prevalence() -> None:
    assert net_benefit([0, 0, 0, 1], [0.1] * 4, [0.25])["all"].item() == pytest.approx(0.0)


def test_a_risk_of_two_percent_bears_49_false_alerts_for_one_event() -> None:
    assert 1 / exchange_rate(0.02) == pytest.approx(49)


@pytest.mark.parametrize(
    ("outcome", "risk", "thresholds", "words"),
    [
        (OUTCOME, RISK, [0.0, 0.5, 1.0], "threshold_probabilities: 2 of 3 are not above 0 and below 1"),
        (OUTCOME, RISK, [2, float("nan")], "threshold_probabilities: 2 of 2 .* 2 % is 0.02"),
        (OUTCOME, [0.1], [0.5], "risk has 1 rows and outcome has 4"),
        (OUTCOME, [0.1, 0.2, 0.3, -0.1], [0.5], "risk: 1 of 4 rows are no probability"),
        ([0, 1, 2, 0], RISK, [0.5], "outcome: 1 of 4 rows are neither 0 nor 1"),
        ([], [], [0.5], "no row"),
    ],
)
def test_what_has_no_net_benefit_is_refused(
    outcome: list[int], risk: list[float], thresholds: list[float], words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        net_benefit(outcome, risk, thresholds)
