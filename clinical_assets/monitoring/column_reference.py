"""What is kept of one column of the reference, and how a batch's values are counted against it.

Belongs here: binning of numbers and categories. Does not belong here: how far is too far.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinical_assets.monitoring.evidence import Counts

BINS = 10
"""Deciles of a number; the nine commonest categories and the others."""


class DriftError(ValueError):
    """A reference or a batch cannot be used; the message names the column and the remedy."""


@dataclass(frozen=True, slots=True)
class NumberReference:
    """A number's deciles, range and median in the reference, over the rows that have it."""

    column: str
    edges: NDArray[np.float64]
    counts: Counts
    missing_rate: float
    low: float
    high: float
    median: float

    @classmethod
    def of(cls, series: pl.Series) -> Self:
        """The reference of a numeric column; NaN counts as missing."""
        values = _numbers(series)
        missing_rate = 1 - len(values) / len(series)
        if not len(values):
            return cls(series.name, np.array([]), np.zeros(1), missing_rate, np.nan, np.nan, np.nan)
        cuts = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
        edges, repeats = np.unique(cuts, return_counts=True)
        # A value that holds two deciles or more gets a bin of its own.
        edges = np.unique(np.concatenate([edges, np.nextafter(edges[repeats > 1], -np.inf)]))
        return cls(
            column=series.name,
            edges=edges,
            counts=_count_in_bins(values, edges),
            missing_rate=missing_rate,
            low=float(values.min()),
            high=float(values.max()),
            median=float(np.median(values)),
        )

    def count(self, batch: pl.Series, factor: float = 1.0) -> Counts:
        """The batch's rows in each bin after division by `factor`, shape (bins,); missing ones are in none."""
        return _count_in_bins(_numbers(batch) / factor, self.edges)

    @property
    def widened(self) -> tuple[float, float]:
        """The reference's range, widened by its own width on both sides; beyond lies hardly the same quantity."""
        width = self.high - self.low
        return self.low - width, self.high + width

    def novel_rate(self, batch: pl.Series) -> float | None:
        """The share of the batch's values beyond the widened range; `None` where there is no range or no value."""
        values = _numbers(batch)
        low, high = self.widened
        if not len(values) or not high > low:
            return None
        return float(np.mean((values < low) | (values > high)))

    @property
    def novel_in_reference(self) -> float:
        """One: by ranks, the next value lies beyond the smallest or the largest with probability 2 / (n + 1)."""
        return 1.0

    def median_ratio(self, batch: pl.Series) -> float | None:
        """The batch's median over the reference's; `None` unless both are positive."""
        values = _numbers(batch)
        if not len(values) or not self.median > 0:
            return None
        median = float(np.median(values))
        return median / self.median if median > 0 else None


@dataclass(frozen=True, slots=True)
class CategoryReference:
    """A category column's values and their counts in the reference, commonest first."""

    column: str
    categories: tuple[str, ...]
    counts: Counts
    missing_rate: float
    known: frozenset[str]
    novel_in_reference: float

    @classmethod
    def of(cls, series: pl.Series) -> Self:
        """The reference of a text, category or boolean column."""
        tally = _tally(series)
        values, counts = tally["value"].to_list(), tally["count"].to_numpy().astype(np.float64)
        leading = BINS - 1
        return cls(
            column=series.name,
            categories=tuple(values[:leading]),
            counts=np.append(counts[:leading], counts[leading:].sum()),
            missing_rate=series.null_count() / len(series),
            known=frozenset(values),
            novel_in_reference=float(np.sum(counts == 1)),
        )

    def count(self, batch: pl.Series) -> Counts:
        """The batch's rows in each of the reference's commonest categories, then in all others: (categories + 1,)."""
        tally = _tally(batch)
        found = dict(zip(tally["value"], tally["count"], strict=True))
        leading = [float(found.get(category, 0)) for category in self.categories]
        return np.array([*leading, float(tally["count"].sum()) - sum(leading)])

    def novel_rate(self, batch: pl.Series) -> float | None:
        """The share of the batch's values the reference does not hold; `None` without values on either side."""
        tally = _tally(batch)
        total = int(tally["count"].sum())
        if not total or not self.known:
            return None
        return int(tally.filter(~pl.col("value").is_in(list(self.known)))["count"].sum()) / total


ColumnReference = NumberReference | CategoryReference


def learn_column(series: pl.Series) -> ColumnReference:
    """What is kept of a reference column; raises DriftError for a type that cannot be compared."""
    if series.dtype.is_numeric():
        return NumberReference.of(series)
    if is_category(series.dtype):
        return CategoryReference.of(series)
    raise DriftError(f"column {series.name!r} holds {series.dtype} and cannot be watched; leave it out of `columns`")


def is_category(dtype: pl.DataType) -> bool:
    """Whether values of this type are compared as categories."""
    return dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)


def missing_rate(series: pl.Series) -> float:
    """The share of a column's rows without a value; NaN is none."""
    absent = series.is_null() | series.is_nan() if series.dtype.is_float() else series.is_null()
    return float(absent.sum()) / len(series)


def _numbers(series: pl.Series) -> NDArray[np.float64]:
    return series.cast(pl.Float64).drop_nulls().drop_nans().to_numpy()


def _count_in_bins(values: NDArray[np.float64], edges: NDArray[np.float64]) -> Counts:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=edges.size + 1).astype(np.float64)


def _tally(series: pl.Series) -> pl.DataFrame:
    values = series.drop_nulls().cast(pl.String).alias("value")
    return values.value_counts().sort(["count", "value"], descending=[True, False])
