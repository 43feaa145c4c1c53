import numpy as np
import pytest

from clinical_assets.learning.ordinal import (
    apply_temperature,
    exceedance_targets,
    fit_temperature,
    grade_probability,
    pool_geometrically,
)


def test_a_grade_reaches_every_grade_up_to_its_own() -> None:
    assert exceedance_targets([0, 2, 4], 5).tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def test_the_probability_of_a_grade_is_that_of_reaching_it_less_that_of_passing_it() -> None:
    probability = grade_probability(np.array([[0.9, 0.6, 0.3, 0.1]]))
    assert probability[0] == pytest.approx([0.1, 0.3, 0.3, 0.2, 0.1])


def test_a_higher_grade_that_seems_likelier_to_be_reached_than_a_lower_one_counts_no_more() -> None:
    crossed = grade_probability(np.array([[0.4, 0.7, 0.2, 0.1]]))
    assert crossed == pytest.approx(grade_probability(np.array([[0.4, 0.4, 0.2, 0.1]])))
    assert crossed.min() > 0
    assert crossed.sum() == pytest.approx(1)


def test_pooling_a_model_with_itself_changes_nothing_and_favours_no_one_of_two() -> None:
    one, other = np.array([[0.7, 0.2, 0.1]]), np.array([[0.1, 0.2, 0.7]])
    assert pool_geometrically([one, one]) == pytest.approx(one)
    pooled = pool_geometrically([one, other])[0]
    assert pooled[0] == pytest.approx(pooled[2])


def test_a_temperature_above_one_draws_probabilities_together_and_keeps_their_order() -> None:
    probability = np.array([[0.7, 0.2, 0.1]])
    assert apply_temperature(probability, 1.0) == pytest.approx(probability)
    warmer = apply_temperature(probability, 2.0)[0]
    assert warmer[0] < 0.7
    assert warmer[0] > warmer[1] > warmer[2] > 0.1


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_by_which_probabilities_were_distorted_is_found_again(true_temperature: float) -> None:
    random = np.random.default_rng(0)
    truth = random.dirichlet(np.ones(5), 20_000)
    grade = (random.random((20_000, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    distorted = apply_temperature(truth.clip(1e-6), 1 / true_temperature)
    assert fit_temperature(distorted, grade) == pytest.approx(true_temperature, rel=0.03)
