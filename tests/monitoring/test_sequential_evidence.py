import math
from collections.abc import Callable

import numpy as np
import pytest

from clinical_assets.monitoring.sequential_evidence import RankReference, units_needed

Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=n)


def with_ties(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.poisson(0.4, n).astype(float)


def rare_event(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.random(n) < 0.01).astype(float)


def year(
    rng: np.random.Generator, draw: Draw, n_reference: int, n_look: int, by_category: bool, shift: float = 0.0
) -> np.ndarray:
    reference = RankReference.learn(draw(rng, n_reference), rng, by_category)
    looks = np.array([reference.count(draw(rng, n_look) + shift, rng) for _ in range(12)])
    return np.array([reference.log_evidence(looks[: look + 1], looks_per_year=12) for look in range(12)])


@pytest.mark.parametrize(("draw", "by_category"), [(normal, False), (with_ties, False), (rare_event, True)])
@pytest.mark.parametrize(("n_reference", "n_look"), [(40, 30), (400, 100)])
def test_evidence_without_drift_reaches_one_over_alpha_in_a_year_no_more_often_than_alpha(
    draw: Draw, by_category: bool, n_reference: int, n_look: int
) -> None:
    rng = np.random.default_rng(1)
    years = 120
    largest = np.array([year(rng, draw, n_reference, n_look, by_category).max() for _ in range(years)])
    for alpha in (0.2, 0.05):
        assert np.sum(largest >= -math.log(alpha)) <= alpha * years


@pytest.mark.parametrize("values", [np.array([0.0, 0, 0, 0, 1]), np.array([3.0, 1, 2, 2, 5, 4, 9])])
def test_the_next_unit_falls_into_each_bin_as_often_as_the_bin_has_gaps(values: np.ndarray) -> None:
    """Over random orders of the same units the shares are exact, ties or not."""
    rng = np.random.default_rng(2)
    draws = 2000
    counts = np.zeros(values.size)
    for _ in range(draws):
        order = rng.permutation(values.size)
        reference = RankReference.learn(values[order[:-1]], rng)
        counts += reference.count(values[order[-1:]], rng)
    gaps = RankReference.learn(values[1:], rng).gaps
    assert counts / draws == pytest.approx(gaps / gaps.sum(), abs=4 * math.sqrt(0.25 / draws))


def test_the_mean_e_value_of_one_look_is_one_over_all_counts_the_urn_can_give() -> None:
    """Summed over every possible count of two new units, weighted by its probability, the e-value is one."""
    reference = RankReference.learn(np.arange(5.0), np.random.default_rng(3))
    bins = reference.gaps.size
    mean = 0.0
    for first in range(bins):
        for second in range(bins):
            urn, counts = reference.gaps.copy(), np.zeros(bins)
            probability = urn[first] / urn.sum()
            urn[first] += 1
            probability *= urn[second] / urn.sum()
            counts[first] += 1
            counts[second] += 1
            mean += probability * math.exp(reference.log_evidence(counts[None, :], looks_per_year=1))
    assert mean == pytest.approx(1.0)


def test_a_shift_of_three_tenths_of_a_standard_deviation_is_found_within_500_of_one_in_forty_columns() -> None:
    rng = np.random.default_rng(4)
    threshold = -math.log(0.04 / 80)
    first = [
        int(np.argmax(np.append(year(rng, normal, 4000, 100, False, shift=0.3), math.inf) >= threshold)) + 1
        for _ in range(15)
    ]
    assert np.median(first) <= 5


def test_missing_values_where_there_were_none_are_strong_evidence_at_once() -> None:
    rng = np.random.default_rng(5)
    reference = RankReference.learn(np.zeros(3000), rng, by_category=True)
    looks = reference.count(np.repeat([0.0, 1.0], [285, 15]), rng)[None, :]
    assert reference.log_evidence(looks, looks_per_year=12) > math.log(1e5)


def test_a_movement_that_begins_late_is_not_hidden_by_the_looks_before_it() -> None:
    rng = np.random.default_rng(6)
    reference = RankReference.learn(normal(rng, 4000), rng)
    looks = np.array([reference.count(normal(rng, 500) + 0.4 * (look >= 8), rng) for look in range(10)])
    assert reference.log_evidence(looks[:8], 12) < math.log(20)
    assert reference.log_evidence(looks, 12) > math.log(1e6)


def test_a_wider_spread_and_a_commoner_category_are_seen_though_the_mean_stands() -> None:
    rng = np.random.default_rng(7)
    wide = RankReference.learn(normal(rng, 3000), rng)
    assert wide.log_evidence(wide.count(1.5 * normal(rng, 600), rng)[None, :], 12) > math.log(1e6)
    category = RankReference.learn(rng.choice(np.arange(4.0), 3000, p=[0.4, 0.3, 0.2, 0.1]), rng, by_category=True)
    batch = rng.choice(np.arange(4.0), 600, p=[0.4, 0.1, 0.4, 0.1])
    assert category.log_evidence(category.count(batch, rng)[None, :], 12) > math.log(1e6)


def test_without_units_on_either_side_there_is_no_evidence() -> None:
    rng = np.random.default_rng(8)
    empty = RankReference.learn(np.zeros(0), rng)
    assert empty.n == 0
    assert empty.log_evidence(empty.count(normal(rng, 50), rng)[None, :], 12) == 0.0
    reference = RankReference.learn(normal(rng, 100), rng)
    assert reference.log_evidence(np.zeros((0, reference.gaps.size)), 12) == 0.0
    assert reference.log_evidence(reference.count(np.zeros(0), rng)[None, :], 12) == pytest.approx(0.0)


def test_as_many_units_as_are_said_to_be_needed_show_the_shift_four_times_in_five() -> None:
    rng = np.random.default_rng(9)
    weight, alpha = 1 / 60, 0.04
    n = units_needed(0.2, 20_000, weight, alpha, 12)
    assert n is not None
    found = 0
    for _ in range(60):
        reference = RankReference.learn(normal(rng, 20_000), rng)
        looks = reference.count(normal(rng, n) + 0.2, rng)[None, :]
        found += reference.log_evidence(looks, 12) >= -math.log(weight * alpha)
    assert found >= 0.6 * 60
    assert units_needed(0.2, 500, weight, alpha, 12) is None
