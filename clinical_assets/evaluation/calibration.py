"""Whether risks are right as probabilities: Brier score, calibration in the large, slope, expected error, curve.

Belongs here: comparisons of risk with frequency, and the logistic recalibration that mends them. Does not belong here:
ranking, thresholds, and the fitting of models.

Every metric takes a `Sample` of n units and `weight` (resamples x n), and gives one value a resample, NaN where it is
undefined.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.sample import (
    CALIBRATION_BINS,
    FloatArray,
    Sample,
    checked_outcome,
    checked_risk,
    equal_mass_bins,
    ratio,
)

# A risk of exactly 0 or 1 has no logit; beyond one in a million a clinical risk is not known anyway.
LOGIT_FLOOR = 1e-6
NEWTON_STEPS = 50
LARGEST_NEWTON_STEP = 2.0
CONVERGED = 1e-5
SINGULAR = 1e-12
LEAST_SPREAD = 1e-9
Z_95 = 1.959963984540054


def logit(risk: FloatArray | float) -> FloatArray:
    """Log odds of a risk, which is first held between one in a million and its complement."""
    held = np.clip(risk, LOGIT_FLOOR, 1 - LOGIT_FLOOR)
    return np.log(held / (1 - held))


def from_logit(log_odds: FloatArray) -> FloatArray:
    """The risk of log odds."""
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))


def brier(sample: Sample, weight: FloatArray) -> FloatArray:
    """Mean squared difference of risk and outcome (Brier 1950)."""
    return ratio(weight @ (sample.risk - sample.outcome) ** 2, weight.sum(axis=1))


def observed_expected_ratio(sample: Sample, weight: FloatArray) -> FloatArray:
    """Outcomes observed over the sum of the risks; 1 is right on average, above 1 the risks are too low."""
    return ratio(weight @ sample.outcome, weight @ sample.risk)


def expected_calibration_error(sample: Sample, weight: FloatArray) -> FloatArray:
    """Mean absolute difference of observed rate and mean risk over ten bins of equal mass (Naeini 2015)."""
    surplus = np.add.reduceat(weight * (sample.outcome - sample.risk), sample.bin_starts, axis=1)
    return ratio(np.abs(surplus).sum(axis=1), weight.sum(axis=1))


def calibration_slope(sample: Sample, weight: FloatArray) -> FloatArray:
    """Slope of the outcome's log odds on the risk's; 1 is right, below 1 the risks are too extreme (Cox 1958)."""
    return fit_recalibration(sample.outcome, sample.risk, weight)[1]


def calibration_intercept(sample: Sample, weight: FloatArray) -> FloatArray:
    """Calibration in the large: the log odds to add to every risk, slope held at 1 (Van Calster 2019); 0 is right."""
    log_odds = logit(sample.risk)
    both = _both_outcomes(sample.outcome, weight)
    rate = np.clip(ratio(weight @ sample.outcome, weight.sum(axis=1)), LOGIT_FLOOR, 1 - LOGIT_FLOOR)
    shift = logit(rate) - log_odds.mean()
    step = np.full(len(weight), np.inf)
    for _ in range(NEWTON_STEPS):
        risk = from_logit(shift[:, None] + log_odds)
        step = ratio((weight * (sample.outcome - risk)).sum(axis=1), (weight * risk * (1 - risk)).sum(axis=1))
        shift = shift + np.clip(step, -LARGEST_NEWTON_STEP, LARGEST_NEWTON_STEP)
        if np.all((np.abs(step) < CONVERGED) | ~both):
            break
    return np.where(both & (np.abs(step) < CONVERGED), shift, np.nan)


def fit_recalibration(outcome: FloatArray, risk: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Intercept and slope of the logistic regression of the outcome on the logit of the risk.

    Maximum likelihood by Newton's method (Cox 1958, Biometrika 45; Platt 1999). `outcome` and `risk` have n entries,
    `weight` is resamples x n; both results have one value a resample, NaN where no maximum exists: one class only,
    one risk only, or classes that a threshold parts perfectly.
    """
    log_odds = logit(risk)
    centre, spread = log_odds.mean(), log_odds.std()
    if not 0 < outcome.mean() < 1 or spread < LEAST_SPREAD:
        undefined = np.full(len(weight), np.nan)
        return undefined, undefined
    standardised = (log_odds - centre) / spread
    flat = np.array([logit(outcome.mean())]), np.zeros(1)
    whole = _newton(outcome, standardised, np.ones((1, len(outcome))), flat)
    start = whole if np.isfinite(whole).all() else flat
    level, slope = _newton(
        outcome, standardised, weight, (np.repeat(start[0], len(weight)), np.repeat(start[1], len(weight)))
    )
    return level - slope * centre / spread, slope / spread


def _newton(
    outcome: FloatArray, covariate: FloatArray, weight: FloatArray, start: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Intercept and slope of weighted logistic regressions on one standardised covariate, NaN without a maximum."""
    intercept, slope = start
    both = _both_outcomes(outcome, weight)
    converged = np.zeros(len(weight), dtype=bool)
    for _ in range(NEWTON_STEPS):
        risk = from_logit(intercept[:, None] + slope[:, None] * covariate)
        residual, information = weight * (outcome - risk), weight * risk * (1 - risk)
        gradient, slope_gradient = residual.sum(axis=1), residual @ covariate
        curvature, cross, slope_curvature = information.sum(axis=1), information @ covariate, information @ covariate**2
        determinant = curvature * slope_curvature - cross**2
        determinant = np.where(determinant > SINGULAR * curvature * slope_curvature, determinant, 0.0)
        intercept_step = ratio(slope_curvature * gradient - cross * slope_gradient, determinant)
        slope_step = ratio(curvature * slope_gradient - cross * gradient, determinant)
        length = np.maximum(np.abs(intercept_step), np.abs(slope_step))
        shortened = LARGEST_NEWTON_STEP / np.maximum(length, LARGEST_NEWTON_STEP)
        intercept, slope = intercept + shortened * intercept_step, slope + shortened * slope_step
        converged = both & (length < CONVERGED)
        if np.all(converged | ~both | np.isnan(length)):
            break
    return np.where(converged, intercept, np.nan), np.where(converged, slope, np.nan)


def _both_outcomes(outcome: FloatArray, weight: FloatArray) -> npt.NDArray[np.bool_]:
    with_outcome = weight @ outcome
    return (with_outcome > 0) & (with_outcome < weight.sum(axis=1))


def calibration_curve(outcome: npt.ArrayLike, risk: npt.ArrayLike, bins: int = CALIBRATION_BINS) -> pl.DataFrame:
    """Observed rate beside mean risk in bins of equal mass, lowest risk first, with Wilson's 95 % interval (1927).

    One row a bin: `mean_risk`, `observed_rate`, `low`, `high`, `n`. Units of equal risk share a bin, so there may be
    fewer than `bins`. Raises EvaluationError on outcomes other than 0 and 1 and on risks that are no probability.
    """
    observed = checked_outcome(outcome)
    predicted = checked_risk(risk, len(observed))
    order = np.argsort(predicted, kind="stable")
    observed, predicted = observed[order], predicted[order]
    starts = equal_mass_bins(predicted, bins)
    n = np.diff(np.r_[starts, len(observed)])
    rate = np.add.reduceat(observed, starts) / n
    centre = (rate + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half_width = Z_95 / (1 + Z_95**2 / n) * np.sqrt(rate * (1 - rate) / n + Z_95**2 / (4 * n**2))
    return pl.DataFrame(
        {
            "mean_risk": np.add.reduceat(predicted, starts) / n,
            "observed_rate": rate,
            "low": np.clip(centre - half_width, 0, 1),
            "high": np.clip(centre + half_width, 0, 1),
            "n": n,
        }
    )
