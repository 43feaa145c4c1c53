from collections import Counter
from itertools import product

import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation import calibration_curve
from clinical_assets.reporting.shown_counts import hidden_cells, pool_bins, pool_calibration, show_cohort


def curve(n: list[int], events: list[int]) -> pl.DataFrame:
    """A calibration curve of bins of so many units and events."""
    outcome = np.concatenate([np.r_[np.ones(e), np.zeros(of - e)] for of, e in zip(n, events, strict=True)])
    curve = calibration_curve(outcome, np.repeat((np.arange(len(n)) + 1) / 10, n), bins=len(n))
    assert curve["n"].to_list() == n
    return curve


def test_bins_of_many_are_drawn_as_they_are() -> None:
    many = curve([50, 50, 50], [11, 20, 30])
    assert pool_calibration(many).equals(many)


def test_neighbouring_bins_are_pooled_until_none_tells_a_small_count() -> None:
    pooled = pool_calibration(curve([50, 50, 50, 50], [2, 9, 20, 45]))
    assert pooled["n"].to_list() == [100, 100]
    assert pooled["observed_rate"].to_list() == [0.11, 0.65]
    assert pooled["mean_risk"].to_list() == pytest.approx([0.15, 0.35])
    # Wilson's interval of 11 in 100 (Wilson 1927), as statsmodels gives it.
    assert pooled.select("low", "high").row(0) == pytest.approx((0.0625, 0.1863), abs=1e-4)


@pytest.mark.parametrize(("n", "events"), [([50, 50], [2, 3]), ([6], [0]), ([50, 50], [48, 49])])
def test_a_curve_of_few_events_or_few_without_has_no_point(n: list[int], events: list[int]) -> None:
    assert pool_calibration(curve(n, events)).is_empty()


def test_no_pooled_bin_tells_a_small_count_unless_all_of_them_together_do() -> None:
    for events in product((0, 3, 12, 39, 50), repeat=4):
        bins = pl.DataFrame({"n": [50] * 4, "events": events})
        of = pool_bins(bins)
        pooled = Counter[int]()
        for place, number in zip(of, events, strict=True):
            pooled[place] += number
        told = [number for place, count in pooled.items() for number in (count, 50 * of.count(place) - count)]
        # A single one may be left that tells a small count; it is not drawn.
        if len(pooled) > 1:
            assert not [number for number in told if 0 < number < 11], events


def test_a_cohort_tells_no_small_count_and_no_share_that_would() -> None:
    cohort = pl.DataFrame(
        {
            "split": ["train", "calibrate", "test", "none"],
            "rows": [1200, 100, 9, 0],
            "patients": [1000, 10, 9, 0],
            "events": [120, 96, 3, 0],
            "first_month": [None] * 4,
            "last_month": [None] * 4,
        }
    )
    shown = [(row["rows"], row["patients"], row["events"]) for row in show_cohort(cohort)]
    assert shown == [
        ("1,200", "1,000", "120 (10.0 %)"),
        ("100", "fewer than 11", "withheld"),
        ("fewer than 11", "fewer than 11", "withheld"),
        ("0", "0", "0"),
    ]


def test_no_hidden_cell_of_a_grade_table_follows_from_its_rows_and_the_agreement() -> None:
    """The attacker knows all that is shown, each row's total and the agreement in all: a system of linear equations.

    A cell follows from it exactly where no solution of the equations without right-hand side moves it.
    """
    generator = np.random.default_rng(5)
    tables = generator.poisson(generator.choice([2, 8, 30], size=(200, 3, 3)))
    tried = 0
    for counts in tables.tolist():
        hidden, hidden_totals = hidden_cells(counts)
        unknown = [(i, j) for i in range(3) for j in range(3) if hidden[i][j]]
        assert not [counts[i][j] for i in range(3) for j in range(3) if not hidden[i][j] and 0 < counts[i][j] < 11]
        rows = [[i == row for i, _ in unknown] for row in range(3) if not hidden_totals[row]]
        equations = np.array([*rows, [i == j for i, j in unknown]], dtype=float)
        if not unknown:
            continue
        tried += 1
        _, singular, directions = np.linalg.svd(equations)
        free = directions[int(np.sum(singular > 1e-9)) :]
        moved = np.abs(free).max(axis=0) > 1e-9 if len(free) else np.zeros(len(unknown), dtype=bool)
        assert moved.all(), (counts, hidden)
    assert tried > 100
