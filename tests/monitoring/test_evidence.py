import math

import numpy as np
import pytest

from clinical_assets.monitoring.evidence import (
    jensen_shannon_distance,
    limit_movement,
    population_stability_index,
    weigh_novelty,
    weigh_rate_change,
)


def test_equal_shares_have_no_distance() -> None:
    reference, batch = np.array([3000.0, 1000]), np.array([300.0, 100])
    assert population_stability_index(reference, batch) == pytest.approx(0, abs=1e-5)
    assert jensen_shannon_distance(reference, batch) == pytest.approx(0, abs=1e-7)


def test_the_index_is_the_published_sum_on_large_counts() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3])
    expected = float(np.sum((q - p) * np.log(q / p)))
    assert population_stability_index(p * 1e7, q * 1e7) == pytest.approx(expected, rel=1e-5)


def test_the_distance_is_scipys_and_one_where_nothing_is_shared() -> None:
    from scipy.spatial.distance import jensenshannon

    p, q = np.array([50.0, 30, 20, 0]), np.array([4.0, 3, 0, 3])
    assert jensen_shannon_distance(p, q) == pytest.approx(float(jensenshannon(p, q, base=2)))
    assert jensen_shannon_distance(np.array([9.0, 0]), np.array([0.0, 4])) == pytest.approx(1)


@pytest.mark.parametrize("shares", [[0.1] * 10, [0.8, 0.1, 0.05, 0.05], [0.98, 0.02]])
@pytest.mark.parametrize("units", [30, 400])
def test_chance_exceeds_its_limits_in_one_look_of_a_hundred(shares: list[float], units: int) -> None:
    rng = np.random.default_rng(3)
    positions = np.linspace(-1.5, 1.5, len(shares))
    looks = 600
    exceeded = np.zeros(3)
    for _ in range(looks):
        reference, batch = (rng.multinomial(n, shares).astype(float) for n in (2000, units))
        limits = limit_movement(reference, batch, rng, positions)
        assert limits is not None
        shift = abs(batch @ positions / units - reference @ positions / 2000)
        exceeded += [
            population_stability_index(reference, batch) > limits.population_stability_index,
            jensen_shannon_distance(reference, batch) > limits.jensen_shannon_distance,
            shift > limits.mean_difference_sd,
        ]
    assert exceeded.max() <= 0.01 * looks + 3 * math.sqrt(0.01 * looks)


def test_without_units_chance_has_no_limit() -> None:
    assert limit_movement(np.array([5.0, 5]), np.zeros(2), np.random.default_rng(0)) is None


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


def test_units_beyond_the_whole_reference_are_as_many_as_its_two_outer_gaps_expect() -> None:
    rng = np.random.default_rng(5)
    n, m, alpha, looks = 50, 40, 0.05, 1000
    exceeded = 0
    for _ in range(looks):
        reference, batch = rng.normal(size=n), rng.normal(size=m)
        rate = float(np.mean((batch < reference.min()) | (batch > reference.max())))
        found = weigh_novelty(rate, 1.0, n, m, alpha)
        assert found.chance is not None
        exceeded += rate > found.chance
    assert exceeded <= alpha * looks + 3 * math.sqrt(alpha * looks)
