import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from learning_cohort import make_features

from clinical_assets.evaluation.calibration import from_logit, logit
from clinical_assets.evaluation.sample import EvaluationError
from clinical_assets.learning.boosting import BoostedRisk
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.recalibration import (
    RecalibratedEstimator,
    Recalibration,
    fit_recalibration_intercept,
    fit_recalibration_slope,
    recalibrate,
)

FloatArray = np.ndarray[tuple[int], np.dtype[np.float64]]


def draw_risks(intercept: float, slope: float, rows: int = 40_000) -> tuple[FloatArray, FloatArray]:
    """Events and risks such that the true log odds are `intercept` + `slope` times those of the risks."""
    random = np.random.default_rng(3)
    log_odds = random.normal(-2.0, 1.0, rows)
    event = random.random(rows) < from_logit(intercept + slope * log_odds)
    return event.astype(np.float64), from_logit(log_odds)


def draw_grades(rows: int = 500) -> FloatArray:
    return np.random.default_rng(4).dirichlet([4.0, 1.0, 2.0, 0.5, 0.1], rows)


def test_the_intercept_makes_the_mean_risk_right() -> None:
    event, risk = draw_risks(0.4, 1.0)
    fitted = fit_recalibration_intercept(event, risk)
    assert fitted.slope == 1.0
    assert fitted.intercept == pytest.approx(0.4, abs=0.05)
    assert fitted.apply(risk).mean() == pytest.approx(event.mean(), abs=1e-6)


def test_the_slope_undoes_risks_that_are_too_extreme() -> None:
    event, risk = draw_risks(-0.3, 0.6)
    fitted = fit_recalibration_slope(event, risk)
    assert (fitted.intercept, fitted.slope) == pytest.approx((-0.3, 0.6), abs=0.06)
    again = fit_recalibration_slope(event, fitted.apply(risk))
    assert (again.intercept, again.slope) == pytest.approx((0.0, 1.0), abs=1e-4)


@pytest.mark.parametrize("fit", [fit_recalibration_intercept, fit_recalibration_slope])
def test_a_weight_of_two_is_a_row_twice_in_any_order(fit: Callable[..., Recalibration]) -> None:
    event, risk = draw_risks(0.2, 0.8, rows=600)
    weight = np.arange(600) % 3
    repeated = np.repeat(np.arange(600), weight)
    weighted, twice = fit(event, risk, weight), fit(event[repeated], risk[repeated])
    assert (weighted.intercept, weighted.slope) == pytest.approx((twice.intercept, twice.slope), abs=1e-4)


@pytest.mark.parametrize("fit", [fit_recalibration_intercept, fit_recalibration_slope])
def test_where_no_row_has_the_event_nothing_is_fitted(fit: Callable[..., Recalibration]) -> None:
    with pytest.raises(LearningError, match=r"no recalibration fits 3 rows with 0 events: .*; wait for more outcomes"):
        fit(np.zeros(3), np.array([0.1, 0.2, 0.3]))


def test_risks_that_fall_with_the_event_are_not_turned_around() -> None:
    event, risk = draw_risks(0.0, 1.0, rows=2000)
    with pytest.raises(LearningError, match=r"slope -.* must be finite and the slope above 0.*retrain instead"):
        fit_recalibration_slope(event, 1 - risk)


def test_an_outcome_that_is_not_ripe_is_refused() -> None:
    with pytest.raises(EvaluationError, match="1 of 3 rows are neither 0 nor 1; leave unripe rows out"):
        fit_recalibration_slope(np.array([0.0, 1.0, np.nan]), np.array([0.1, 0.2, 0.3]))


def test_weights_must_be_one_a_row_and_not_negative() -> None:
    event, risk = draw_risks(0.0, 1.0, rows=50)
    with pytest.raises(LearningError, match=r"weight has shape \(2,\) and event 50 rows"):
        fit_recalibration_intercept(event, risk, np.ones(2))
    with pytest.raises(LearningError, match="weight: 50 of 50 rows have none of 0 or more"):
        fit_recalibration_intercept(event, risk, -np.ones(50))


@pytest.mark.parametrize(("intercept", "slope"), [(float("nan"), 1.0), (0.0, float("inf")), (0.0, 0.0), (0.0, -0.1)])
def test_a_line_that_loses_the_ranks_does_not_exist(intercept: float, slope: float) -> None:
    with pytest.raises(LearningError, match="the ranks of the risks are lost; retrain instead"):
        Recalibration(intercept, slope)


def test_ranks_stay_as_they_are() -> None:
    _, risk = draw_risks(0.0, 1.0, rows=300)
    assert np.array_equal(np.argsort(Recalibration(-1.0, 0.3).apply(risk)), np.argsort(risk))


@pytest.mark.parametrize("line", [Recalibration(0.7, 0.4), Recalibration(-3.0, 2.5), Recalibration(8.0, 5.0)])
def test_recalibrated_grades_are_a_distribution_again(line: Recalibration) -> None:
    grades = line.apply(draw_grades())
    assert grades.shape == (500, 5)
    assert grades.min() >= 0.0
    assert grades.sum(axis=1) == pytest.approx(np.ones(500), abs=1e-12)


def test_every_cumulative_probability_of_a_grade_moves_alike() -> None:
    grades = draw_grades().clip(1e-3)
    grades /= grades.sum(axis=1, keepdims=True)
    moved = Recalibration(0.5, 0.8).apply(grades)
    for least in range(1, 5):
        before, after = grades[:, least:].sum(axis=1), moved[:, least:].sum(axis=1)
        assert logit(after) == pytest.approx(0.5 + 0.8 * logit(before), abs=1e-6)


def test_two_recalibrations_are_one() -> None:
    _, risk = draw_risks(0.0, 1.0, rows=300)
    first, second = Recalibration(0.4, 0.7), Recalibration(-0.2, 1.3)
    assert second.after(first).apply(risk) == pytest.approx(second.apply(first.apply(risk)), abs=1e-12)


def test_a_recalibrated_model_is_the_model_with_other_risks(fitted: BoostedRisk) -> None:
    frame, line = make_features(rows=100, seed=9), Recalibration(0.4, 0.7)
    model = recalibrate(fitted, line)
    assert np.array_equal(model.predict(frame), line.apply(fitted.predict(frame)))
    assert model.represent(frame).equals(fitted.represent(frame))
    assert (model.feature_names, model.packages) == (fitted.feature_names, fitted.packages)


def test_recalibrating_a_recalibrated_model_never_nests(fitted: BoostedRisk) -> None:
    first, second = Recalibration(0.4, 0.7), Recalibration(-0.2, 1.3)
    model = recalibrate(recalibrate(fitted, first), second)
    assert model.base is fitted
    assert model.recalibration == second.after(first)


def test_a_saved_recalibrated_model_predicts_the_same(fitted: BoostedRisk, tmp_path: Path) -> None:
    model, frame = recalibrate(fitted, Recalibration(0.1 + 0.2, 1 / 3)), make_features(rows=100, seed=9)
    model.save(tmp_path)
    loaded = RecalibratedEstimator.load(tmp_path, BoostedRisk)
    assert loaded.recalibration == model.recalibration
    assert np.array_equal(loaded.predict(frame), model.predict(frame))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pickle", ".joblib")]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"intercept": 1.0}', '{"intercept": "a", "slope": 1}', '{"intercept": 0, "slope": -1}']
)
def test_a_damaged_recalibration_is_not_loaded(fitted: BoostedRisk, tmp_path: Path, content: str) -> None:
    recalibrate(fitted, Recalibration(0.0, 1.0)).save(tmp_path)
    (tmp_path / "recalibration.json").write_text(content)
    with pytest.raises(LearningError, match=r"is no saved recalibration .*; restore it or roll back"):
        RecalibratedEstimator.load(tmp_path, BoostedRisk)


def test_an_empty_month_has_no_risks(fitted: BoostedRisk) -> None:
    empty: pl.DataFrame = make_features(rows=100, seed=9).clear()
    assert recalibrate(fitted, Recalibration(0.4, 0.7)).predict(empty).shape == (0,)


def test_the_file_of_a_recalibration_can_be_read_by_eye(fitted: BoostedRisk, tmp_path: Path) -> None:
    recalibrate(fitted, Recalibration(-0.25, 1.0)).save(tmp_path)
    assert json.loads((tmp_path / "recalibration.json").read_text()) == {"intercept": -0.25, "slope": 1.0}
