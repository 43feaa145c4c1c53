import numpy as np
import polars as pl
import pytest

from clinical_assets.monitoring.profile_sketches import (
    build_frequent_items_sketch,
    build_quantile_sketch,
    build_quantile_sketch_of_counts,
    keep_stated_frequent_items,
)
from clinical_assets.monitoring.profiles import _prepare_whylogs

_prepare_whylogs()
import whylogs_sketching as ds  # noqa: E402

K, LG_MAX = 1024, 10
STATED = ds.kll_doubles_sketch(k=K).normalized_rank_error(False)
QUANTILES = np.linspace(0.01, 0.99, 99)
EVERY = ds.frequent_items_error_type.NO_FALSE_NEGATIVES


def rank_error(sketch: ds.kll_doubles_sketch, rows: np.ndarray) -> float:
    """The largest share of rows by which a quantile of the sketch lies at another rank than asked for."""
    found = np.array(sketch.get_quantiles(list(QUANTILES)))
    ordered = np.sort(rows)
    below = np.searchsorted(ordered, found, "left") / len(rows) - QUANTILES
    above = QUANTILES - np.searchsorted(ordered, found, "right") / len(rows)
    return float(np.maximum(below, above).max())


@pytest.mark.parametrize("n", [1, 2, 1024, 1025, 3413, 50_000, 2**17, 2**17 + 1, 300_007])
@pytest.mark.parametrize("order", ["drawn", "ascending", "repeating"])
def test_a_quantile_lies_within_the_stated_error_in_whatever_order_the_rows_come(n: int, order: str) -> None:
    drawn = np.random.default_rng(n).gamma(2.0, size=n)
    rows = {"drawn": drawn, "ascending": np.sort(drawn), "repeating": np.arange(n) % 1024 * 1.0}[order]
    sketch = build_quantile_sketch(rows, K)
    assert (sketch.get_n(), sketch.get_min_value(), sketch.get_max_value()) == (n, rows.min(), rows.max())
    assert rank_error(sketch, rows) <= STATED


def test_a_column_that_fits_is_held_exactly_as_datasketches_holds_it() -> None:
    rows = np.random.default_rng(0).normal(size=K)
    stock = ds.kll_doubles_sketch(k=K)
    stock.update(rows)
    assert build_quantile_sketch(rows, K).get_quantiles(list(QUANTILES)) == stock.get_quantiles(list(QUANTILES))


@pytest.mark.parametrize("n", [1, 900, 3413, 200_001])
def test_counted_values_make_the_same_sketch_as_their_rows(n: int) -> None:
    rows = np.random.default_rng(n).poisson(30.0, n).astype(float)
    values, counts = np.unique(rows, return_counts=True)
    sketch = build_quantile_sketch_of_counts(values, counts, K)
    assert (sketch.get_n(), sketch.get_min_value(), sketch.get_max_value()) == (n, rows.min(), rows.max())
    assert rank_error(sketch, rows) <= STATED


def test_datasketches_adds_rows_and_sketches_of_its_own_to_ours() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.gamma(2.0, size=size) for size in (1, 900, 3_412, 40_000, 150_000, 70_000)]
    merged = build_quantile_sketch(parts[0], K)
    merged.update(parts[1])
    for part in parts[2:5]:
        merged.merge(build_quantile_sketch(part, K))
    stock = ds.kll_doubles_sketch(k=K)
    stock.update(parts[5])
    merged.merge(stock)
    again = ds.kll_doubles_sketch.deserialize(merged.serialize())
    rows = np.concatenate(parts)
    assert again.get_n() == len(rows)
    assert rank_error(again, rows) <= STATED


def test_values_that_fit_are_counted_exactly() -> None:
    counts = np.arange(1, 769)
    held = build_frequent_items_sketch(pl.Series(counts * 10), counts, LG_MAX).get_frequent_items(EVERY)
    assert {item: bounds for item, *bounds in held} == {str(n * 10): [n, n, n] for n in counts.tolist()}


def test_of_more_values_than_fit_every_true_count_lies_within_the_bounds() -> None:
    counts = 1 + 100_000 // np.random.default_rng(2).permutation(np.arange(1, 5001))
    sketch = build_frequent_items_sketch(pl.Series(np.arange(5000)), counts, LG_MAX)
    assert sketch.get_total_weight() == counts.sum()
    for item, count in enumerate(counts.tolist()):
        assert sketch.get_lower_bound(str(item)) <= count <= sketch.get_upper_bound(str(item))
    kept = keep_stated_frequent_items(sketch, LG_MAX)
    frequent = {str(item): count for item, count in enumerate(counts.tolist()) if count > 3.5 / 1024 * counts.sum()}
    assert frequent
    assert {item: estimate for item, estimate, *_ in kept.get_frequent_items(EVERY)} == frequent


def test_text_of_any_alphabet_is_read_back() -> None:
    items = ["", "ä", "心", "two words"]
    sketch = build_frequent_items_sketch(pl.Series(items), np.array([4, 3, 2, 1]), LG_MAX)
    again = ds.frequent_strings_sketch.deserialize(sketch.serialize())
    assert [item for item, *_ in again.get_frequent_items(EVERY)] == items
