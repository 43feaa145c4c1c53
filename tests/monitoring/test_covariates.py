import numpy as np
import polars as pl
import pytest

from clinical_assets.monitoring.covariates import CovariateEncoding, fit_logistic


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
