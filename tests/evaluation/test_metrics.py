import numpy as np
import numpy.typing as npt
import pytest
from scored_cohort import ScoredCohort
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from clinical_assets.evaluation.alerts import alerts_per_100, ppv, prevalence, sensitivity
from clinical_assets.evaluation.calibration import (
    brier,
    calibration_curve,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
    fit_recalibration,
    logit,
    observed_expected_ratio,
)
from clinical_assets.evaluation.discrimination import auroc, average_precision
from clinical_assets.evaluation.findings import METRICS
from clinical_assets.evaluation.sample import EvaluationError, Sample


def sample_of(outcome: npt.ArrayLike, risk: npt.ArrayLike, threshold: float = 0.5) -> Sample:
    outcome, risk = np.asarray(outcome, dtype=float), np.asarray(risk, dtype=float)
    return Sample.of(outcome, risk, (risk >= threshold).astype(float), np.arange(len(risk)))


def once(sample: Sample) -> np.ndarray:
    return np.ones((1, sample.n))


def test_rank_metrics_and_brier_agree_with_scikit_learn_in_the_presence_of_ties(scored: ScoredCohort) -> None:
    sample = sample_of(scored.outcome, scored.risk)
    assert len(sample.tie_starts) < sample.n
    assert auroc(sample, once(sample))[0] == pytest.approx(roc_auc_score(scored.outcome, scored.risk))
    assert average_precision(sample, once(sample))[0] == pytest.approx(
        average_precision_score(scored.outcome, scored.risk)
    )
    assert brier(sample, once(sample))[0] == pytest.approx(brier_score_loss(scored.outcome, scored.risk))


@pytest.mark.parametrize("name", [name for name in METRICS if name != "expected_calibration_error"])
def test_a_weight_of_two_counts_as_two_rows(scored: ScoredCohort, name: str) -> None:
    weight = np.random.default_rng(3).integers(0, 4, len(scored.risk))
    weighted, repeated = (
        sample_of(scored.outcome, scored.risk),
        sample_of(np.repeat(scored.outcome, weight), np.repeat(scored.risk, weight)),
    )
    order = np.argsort(scored.risk, kind="stable")
    assert METRICS[name](weighted, weight[order][None, :].astype(float))[0] == pytest.approx(
        METRICS[name](repeated, once(repeated))[0], rel=1e-6
    )


def test_recalibration_is_the_maximum_likelihood_fit(scored: ScoredCohort) -> None:
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(scored.risk)[:, None], scored.outcome)
    intercept, slope = fit_recalibration(scored.outcome, scored.risk, np.ones((1, len(scored.risk))))
    assert slope[0] == pytest.approx(reference.coef_[0, 0], abs=1e-4)
    assert intercept[0] == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_calibration_in_the_large_makes_expected_equal_observed(scored: ScoredCohort) -> None:
    sample = sample_of(scored.outcome, scored.risk)
    shift = calibration_intercept(sample, once(sample))[0]
    shifted = 1 / (1 + np.exp(-(logit(scored.risk) + shift)))
    assert shifted.sum() == pytest.approx(scored.outcome.sum(), rel=1e-6)


@pytest.mark.parametrize("risk_of_all", [0.001, 0.999])
def test_recalibration_converges_from_risks_that_are_far_off(risk_of_all: float) -> None:
    outcome = np.array([0, 1, 0, 1, 1, 0, 1, 0], dtype=float)
    risk = risk_of_all + np.linspace(-0.0005, 0.0005, 8)
    intercept, slope = fit_recalibration(outcome, risk, np.ones((1, 8)))
    corrected = 1 / (1 + np.exp(-(intercept + slope * logit(risk))))
    assert corrected.sum() == pytest.approx(4)


def test_a_slope_is_undefined_where_a_threshold_parts_the_classes_perfectly() -> None:
    sample = sample_of([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert np.isnan(calibration_slope(sample, once(sample))[0])
    assert np.isfinite(calibration_intercept(sample, once(sample))[0])


def test_a_slope_is_undefined_where_all_risks_are_equal() -> None:
    sample = sample_of([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3])
    assert np.isnan(calibration_slope(sample, once(sample))[0])
    assert auroc(sample, once(sample))[0] == 0.5


def test_metrics_of_four_rows_are_those_counted_by_hand() -> None:
    sample = sample_of([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9], threshold=0.5)
    assert auroc(sample, once(sample))[0] == 0.75
    assert average_precision(sample, once(sample))[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert brier(sample, once(sample))[0] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert observed_expected_ratio(sample, once(sample))[0] == pytest.approx(1.0)
    assert expected_calibration_error(sample, once(sample))[0] == pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4)
    assert sensitivity(sample, once(sample))[0] == 0.5
    assert ppv(sample, once(sample))[0] == 0.5
    assert alerts_per_100(sample, once(sample))[0] == 50
    assert prevalence(sample, once(sample))[0] == 0.5


def test_the_calibration_error_of_ten_bins_is_that_of_the_curve(scored: ScoredCohort) -> None:
    risk = scored.risk + np.linspace(0, 1e-6, len(scored.risk))
    sample = sample_of(scored.outcome, risk)
    curve = calibration_curve(scored.outcome, risk)
    assert curve["n"].to_list() == [150] * 10
    assert expected_calibration_error(sample, once(sample))[0] == pytest.approx(
        (curve["observed_rate"] - curve["mean_risk"]).abs().mean()
    )


def test_units_of_equal_risk_share_a_bin_of_the_curve() -> None:
    curve = calibration_curve([0, 0, 1, 0, 1, 1], [0.1, 0.1, 0.1, 0.1, 0.7, 0.7], bins=3)
    assert curve["n"].to_list() == [4, 2]
    assert curve["observed_rate"].to_list() == [0.25, 1.0]


def test_the_interval_of_the_curve_is_wilsons() -> None:
    curve = calibration_curve([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0.1] * 10)
    assert curve["low"][0] == pytest.approx(0.0179, abs=1e-4)
    assert curve["high"][0] == pytest.approx(0.4042, abs=1e-4)


def test_a_curve_of_anything_but_zeros_and_ones_is_refused() -> None:
    with pytest.raises(EvaluationError, match="1 of 3 rows are neither 0 nor 1"):
        calibration_curve([0, 1, np.nan], [0.1, 0.2, 0.3])
