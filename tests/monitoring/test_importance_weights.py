import numpy as np
import polars as pl
import pytest

from clinical_assets.monitoring.importance_weights import (
    CovariateEncoding,
    effective_number,
    fit_logistic,
    weigh_reference,
    with_intercept,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_weights_make_the_reference_look_like_the_batch(rng: np.random.Generator) -> None:
    reference, batch = rng.normal(0, 1, (4_000, 2)), rng.normal([0.7, 0.0], 1, (3_000, 2))
    weight = weigh_reference(reference, batch, np.arange(4_000), np.arange(3_000), seed=0)
    assert weight is not None
    assert weight.mean() == pytest.approx(1)
    assert np.average(reference[:, 0], weights=weight) == pytest.approx(batch[:, 0].mean(), abs=0.1)


def test_no_weights_are_given_where_nothing_moved(rng: np.random.Generator) -> None:
    same = [
        weigh_reference(rng.normal(size=(600, 4)), rng.normal(size=(400, 4)), np.arange(600), np.arange(400), seed=seed)
        for seed in range(20)
    ]
    assert sum(weight is not None for weight in same) <= 4


def test_many_rows_of_few_patients_are_not_taken_for_a_shift(rng: np.random.Generator) -> None:
    patient = np.repeat(np.arange(40), 50)
    found = []
    for seed in range(20):
        reference, batch = rng.normal(size=(40, 4))[patient], rng.normal(size=(40, 4))[patient]
        found.append(weigh_reference(reference, batch, patient, patient, seed))
    assert sum(weight is not None for weight in found) <= 5


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
    matrix = with_intercept(rng.normal(size=(500, 2)))
    label = (rng.random(500) < 0.3).astype(np.float64)
    weight, penalty, centre = rng.random(500), np.array([0.0, 2.0, 2.0]), np.array([0.0, 0.5, -0.5])
    found = fit_logistic(matrix, label, weight, penalty, centre)
    gradient = matrix.T @ (weight * (label - 1 / (1 + np.exp(-matrix @ found)))) - penalty * (found - centre)
    assert np.abs(gradient).max() < 1e-4


def test_the_effective_number_is_that_of_equal_weights() -> None:
    assert effective_number(np.ones(7)) == pytest.approx(7)
    assert effective_number(np.r_[1.0, np.zeros(6)]) == pytest.approx(1)
    assert effective_number(np.zeros(3)) == 0
