import math

import numpy as np
import pytest

from clinical_assets.monitoring.evidence import (
    effective_size,
    population_stability_index,
    size_needed,
    weigh_distribution,
    weigh_novelty,
    weigh_rate_change,
)


def test_equal_shares_have_no_distance() -> None:
    assert population_stability_index(np.array([3000.0, 1000]), np.array([300.0, 100])) == pytest.approx(0, abs=1e-5)


def test_the_index_is_the_published_sum_on_large_counts() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3])
    expected = float(np.sum((q - p) * np.log(q / p)))
    assert population_stability_index(p * 1e7, q * 1e7) == pytest.approx(expected, rel=1e-5)


def test_one_row_a_patient_is_worth_itself_and_two_patients_are_never_worth_more_than_two() -> None:
    assert effective_size(np.ones(40, dtype=int)) == 40
    assert effective_size(np.array([30, 30])) == pytest.approx(2)
    assert effective_size(np.array([], dtype=int)) == 0


@pytest.mark.parametrize("shares", [[0.1] * 10, [0.8, 0.1, 0.05, 0.05], [0.9, 0.1]])
@pytest.mark.parametrize("rows", [100, 400])
def test_chance_exceeds_its_limit_no_more_often_than_stated(shares: list[float], rows: int) -> None:
    rng = np.random.default_rng(3)
    alpha, draws = 0.01, 1500
    exceeded = 0
    for reference, batch in zip(
        rng.multinomial(4000, shares, draws), rng.multinomial(rows, shares, draws), strict=True
    ):
        found = weigh_distribution(reference.astype(float), batch.astype(float), 4000, rows, alpha)
        assert found.value is not None
        assert found.chance is not None
        exceeded += found.value > found.chance
    assert exceeded <= alpha * draws + 3 * math.sqrt(alpha * draws)


def test_a_value_beyond_chance_is_one_whose_p_value_is_below_alpha() -> None:
    rng = np.random.default_rng(4)
    for batch in rng.multinomial(200, [0.4, 0.35, 0.25], 50):
        found = weigh_distribution(np.array([500.0, 300, 200]), batch.astype(float), 1000, 200, 0.05)
        assert found.value is not None
        assert found.chance is not None
        assert found.evidence is not None
        assert (found.value > found.chance) == (found.evidence > -math.log10(0.05))


def test_two_bins_that_expect_fewer_than_five_units_cannot_be_compared() -> None:
    assert weigh_distribution(np.array([9996.0, 4]), np.array([50.0, 0]), 10000, 50, 0.01).value is None


def test_a_rate_change_agrees_with_fishers_exact_test() -> None:
    from scipy.stats import fisher_exact

    found = weigh_rate_change(0.10, 0.25, 200, 80, 0.01)
    one_sided = fisher_exact([[20, 60], [20, 180]], alternative="greater").pvalue  # type: ignore[attr-defined]
    assert found.evidence == pytest.approx(-math.log10(2 * one_sided))
    assert found.value == pytest.approx(0.15)
    assert found.value is not None
    assert found.chance is not None
    assert (found.value > found.chance) == (2 * one_sided <= 0.01)


def test_a_fall_of_a_rate_weighs_like_its_rise() -> None:
    rise = weigh_rate_change(0.2, 0.6, 500, 500, 0.001)
    fall = weigh_rate_change(0.6, 0.2, 500, 500, 0.001)
    assert rise.evidence == pytest.approx(fall.evidence)
    assert rise.chance == pytest.approx(fall.chance)


def test_a_reference_of_many_singletons_expects_unseen_categories() -> None:
    rich = weigh_novelty(0.06, novel_in_reference=200, n_reference=1000, n_batch=300, alpha=0.001)
    poor = weigh_novelty(0.06, novel_in_reference=1, n_reference=1000, n_batch=300, alpha=0.001)
    assert rich.value is not None
    assert rich.chance is not None
    assert rich.value < rich.chance
    assert poor.value is not None
    assert poor.chance is not None
    assert poor.value > poor.chance


def test_the_size_needed_is_the_first_at_which_the_relevant_movement_exceeds_chance() -> None:
    from scipy.stats import chi2

    needed = size_needed(0.1, bins=10, n_reference=5000, alpha=1e-4)
    assert needed is not None
    limit = float(chi2.isf(1e-4, 9))
    assert limit * (1 / 5000 + 1 / needed) <= 0.1 < limit * (1 / 5000 + 1 / (needed - 1))
    assert size_needed(0.1, bins=10, n_reference=200, alpha=1e-4) is None
