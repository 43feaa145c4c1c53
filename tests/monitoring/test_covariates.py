import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation.calibration import from_logit, logit
from clinical_assets.evaluation.sample import FloatArray
from clinical_assets.monitoring.covariates import CovariateEncoding, NotConvergedError, fit_logistic


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_covariates_are_encoded_by_the_reference_alone() -> None:
    reference = pl.DataFrame({"age": [40.0, 60.0, None] * 20, "ward": ["a", "a", "b"] * 20})
    encoding = CovariateEncoding.fit(reference, ["age", "ward"])
    batch = pl.DataFrame({"age": [60.0, float("nan"), 1_000.0], "ward": ["b", None, "c"]})
    encoded = encoding.apply(batch)
    assert encoded[:, 0].tolist() == pytest.approx([1.0, 0.0, 4.0])
    assert encoded[:, 2].tolist() == [0.0, 1.0, 0.0]
    assert encoded[0, 3] < 0 < encoded[0, 4]
    assert encoding.count_unknown(batch) == {"ward": 2}
    assert encoding.count_unknown(reference) == {}


def test_no_covariates_are_an_empty_matrix() -> None:
    rows = pl.DataFrame({"age": [1.0, 2.0]})
    assert CovariateEncoding.fit(rows, []).apply(rows).shape == (2, 0)


def test_the_logistic_fit_solves_its_score_equations(rng: np.random.Generator) -> None:
    matrix = np.column_stack([np.ones(500), rng.normal(size=(500, 2))])
    label = (rng.random(500) < 0.3).astype(np.float64)
    weight, penalty, centre = rng.random(500), np.array([0.0, 2.0, 2.0]), np.array([0.0, 0.5, -0.5])
    found = fit_logistic(matrix, label, weight, penalty, centre)
    gradient = matrix.T @ (weight * (label - 1 / (1 + np.exp(-matrix @ found)))) - penalty * (found - centre)
    assert np.abs(gradient).max() < 1e-4


def draw_chronic_risks(seed: int, patients: int = 200, hours: int = 20) -> tuple[FloatArray, ...]:
    """What `fit_logistic` takes: hours of few patients whose risks hardly differ from hour to hour, as in sepsis.

    Whole Newton steps with a kept curvature do not come to rest on some of these.
    """
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.normal(0.0, 1.0, patients), hours) + 0.5 * rng.normal(size=patients * hours)
    level = (level - level.mean()) / level.std()
    of_patient = np.repeat(rng.normal(size=(patients, 20)), hours, axis=0)
    basis = np.column_stack([np.ones(len(level)), level, level**2, level > 1.0])
    matrix = np.hstack([basis, of_patient, of_patient**2, level[:, None] * of_patient])
    label = (rng.random(len(level)) < from_logit(1.2 * level - 3.0)).astype(np.float64)
    penalty = np.r_[0.0, 0.0, 1.0, 1.0, np.full(60, 100.0)]
    centre = np.r_[logit(float(label.mean())), np.zeros(63)]
    return matrix, label, np.full(len(level), 1 / hours), penalty, centre


@pytest.mark.parametrize("seed", [5, 8, 16])
def test_the_logistic_fit_comes_to_rest_where_whole_newton_steps_do_not(seed: int) -> None:
    matrix, label, weight, penalty, centre = draw_chronic_risks(seed)
    found = fit_logistic(matrix, label, weight, penalty, centre)
    expected = from_logit(matrix @ found)
    gradient = matrix.T @ (weight * (label - expected)) - penalty * (found - centre)
    assert np.abs(gradient).max() < 1e-4
    assert expected.sum() == pytest.approx(label.sum(), rel=1e-4)


def test_the_logistic_fit_is_the_same_from_wherever_it_starts(rng: np.random.Generator) -> None:
    given = draw_chronic_risks(5)
    elsewhere = given[4] + rng.normal(0.0, 0.3, len(given[4]))
    assert fit_logistic(*given, start=elsewhere) == pytest.approx(fit_logistic(*given), abs=1e-4)


def test_a_logistic_fit_that_has_not_come_to_rest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinical_assets.monitoring.covariates.NEWTON_STEPS", 2)
    with pytest.raises(NotConvergedError, match="64 columns of 4,000 rows has not found its maximum"):
        fit_logistic(*draw_chronic_risks(5))
