"""Profiles of parts, merged, say what the profile of all rows together says, within what the sketches state."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from clinical_assets.monitoring.profile_comparison import (
    furthest_share,
    rank_distance,
    rank_distance_by_chance,
    share_distance_by_chance,
)
from clinical_assets.monitoring.profiles import ProfileError, distributions, merge, profile_frame

SPLITS = 100
HLL_ERROR = 0.05
"""Three standard errors of whylogs' HyperLogLog of 2^12 registers, 1.04 / sqrt(4096) each."""


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(11)
    n = 6_000
    return pl.DataFrame(
        {
            "creatinine": np.where(rng.random(n) < 0.2, np.nan, rng.lognormal(0, 0.5, n)),
            "stays": rng.poisson(0.6, n),
            "died": rng.random(n) < 0.03,
            "unit": rng.choice(["medical", "surgical", "cardiac"], n, p=[0.6, 0.39, 0.01]),
            "diagnosis": np.minimum(rng.zipf(1.6, n), 300).astype(str),
        }
    )


def cut(rows: pl.DataFrame, rng: np.random.Generator) -> list[pl.DataFrame]:
    """The rows in up to twelve parts of any size, in order or shuffled."""
    ends = np.sort(rng.choice(np.arange(1, len(rows)), rng.integers(1, 12), replace=False)).tolist()
    if rng.random() < 0.5:
        rows = rows.sample(fraction=1.0, shuffle=True, seed=int(rng.integers(2**31)))
    return [rows[start:end] for start, end in zip([0, *ends], [*ends, len(rows)], strict=True)]


def test_merged_profiles_equal_the_profile_of_all_rows_in_100_random_splits(rows: pl.DataFrame) -> None:
    rng = np.random.default_rng(12)
    whole = distributions(profile_frame(rows))
    for _ in range(SPLITS):
        merged = distributions(merge(profile_frame(part) for part in cut(rows, rng)))
        assert merged.keys() == whole.keys()
        for name, column in merged.items():
            other = whole[name]
            assert (column.n, column.n_null) == (other.n, other.n_null)
            assert abs(column.distinct - other.distinct) <= HLL_ERROR * other.distinct
            if other.numbers is not None:
                assert rank_distance(column, other) <= column.rank_error + other.rank_error
            if name in ("died", "unit", "stays"):
                assert column.counts == other.counts
        true = dict(rows["diagnosis"].value_counts().iter_rows())
        counted = merged["diagnosis"]
        for value, count in counted.counts.items():
            assert count - counted.count_error <= true[value] <= count
        for value, count in true.items():
            assert value in counted.counts or count <= counted.count_error


def test_a_moved_column_lies_further_off_than_chance_and_an_unmoved_one_does_not(
    encounters: Callable[[int], pl.DataFrame],
) -> None:
    before, now = encounters(4_000), encounters(4_000).with_columns(pl.col("age") + 5)
    one, other = distributions(profile_frame(before)), distributions(profile_frame(now))

    def beyond_chance(name: str) -> bool:
        a, b = one[name], other[name]
        errors = a.rank_error + b.rank_error
        return rank_distance(a, b) > rank_distance_by_chance(a.n_values, b.n_values, errors, 0.001)

    assert [name for name in ("age", "creatinine", "prior_stays") if beyond_chance(name)] == ["age"]


def test_ranks_are_compared_below_and_up_to_a_value_that_many_rows_hold() -> None:
    nought, some = pl.DataFrame({"x": [0] * 700 + [1, 2, 3] * 100}), pl.DataFrame({"x": [0] * 400 + [1, 2, 3] * 200})
    [one], [other] = (distributions(profile_frame(frame)).values() for frame in (nought, some))
    assert rank_distance(one, other) == pytest.approx(0.3, abs=0.001)


def test_chance_explains_less_the_more_rows_there_are_and_counts_the_rows_of_both() -> None:
    assert rank_distance_by_chance(100, 100, 0, 0.05) == pytest.approx(0.192, abs=0.001)  # 1.358 * sqrt(2 / 100)
    assert rank_distance_by_chance(100, 1e9, 0.01, 0.05) == pytest.approx(0.1458, abs=0.001)
    assert share_distance_by_chance(0.5, 1_000, 0.5, 1_000, 0.05) == pytest.approx(0.0448, abs=0.0001)
    assert share_distance_by_chance(0.0, 50, 0.0, 50, 0.05) > 0


def test_the_furthest_share_is_of_a_named_value_where_there_is_one() -> None:
    assert furthest_share({"a": 0.2, "rest": 0.8}, {"a": 0.3, "rest": 0.6}, "rest") == "a"
    assert furthest_share({"rest": 1.0}, {"rest": 1.0}, "rest") == "rest"


def test_counts_of_two_values_are_known_also_of_numbers_and_a_column_without_numbers_has_no_quantiles() -> None:
    view = profile_frame(pl.DataFrame({"yes": [1.0] * 3 + [0.0] * 7 + [None], "one": [2.5] * 11, "text": ["a"] * 11}))
    column = distributions(view)
    assert column["yes"].counts == {"0": 7, "1": 3}
    assert (column["yes"].n_values, column["one"].counts, column["text"].counts) == (10, {"2.5": 11}, {"a": 11})
    with pytest.raises(ProfileError, match="no quantiles"):
        column["text"].quantiles([0.5])
