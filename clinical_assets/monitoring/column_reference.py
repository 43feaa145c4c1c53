"""What is kept of one column of the reference, and how a batch's rows and units are counted against it.

Belongs here: binning of numbers and categories. Does not belong here: how far is too far.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinical_assets.monitoring.evidence import Counts
from clinical_assets.monitoring.sequential_evidence import RankReference
from clinical_assets.monitoring.unit_change import ReferenceDensity
from clinical_assets.monitoring.units import DriftError

__all__ = ["ColumnReference", "DriftError", "RowTally", "is_category", "learn_column"]

Floats = NDArray[np.float64]

BINS = 10
"""Deciles of a number; the nine commonest categories and the others."""

MOST_RANKED_ROWS = 50_000
"""The deciles are those of about so many rows, evenly taken; all rows are counted in them."""

NO_CATEGORIES = pl.DataFrame(schema={"value": pl.String, "count": pl.UInt32})


@dataclass(frozen=True, slots=True)
class RowTally:
    """What is counted of a column's rows, batch by batch; a number's range and sum are over its finite values."""

    n: int
    n_missing: int
    counts: Counts
    total: float
    low: float
    high: float
    n_beyond: int
    categories: pl.DataFrame

    def __add__(self, other: "RowTally") -> "RowTally":
        return RowTally(
            n=self.n + other.n,
            n_missing=self.n_missing + other.n_missing,
            counts=self.counts + other.counts,
            total=self.total + other.total,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            n_beyond=self.n_beyond + other.n_beyond,
            categories=pl.concat([self.categories, other.categories]).group_by("value").sum(),
        )

    @property
    def missing_rate(self) -> float:
        """The share of rows without a value."""
        return self.n_missing / self.n

    @property
    def n_present(self) -> int:
        """How many rows have a value."""
        return self.n - self.n_missing

    @property
    def mean(self) -> float | None:
        """The mean of a number; `None` where no row has one."""
        return self.total / self.n_present if self.n_present else None


@dataclass(frozen=True, slots=True)
class NumberReference:
    """A number in the reference: deciles and range of its rows, and the urns of its units.

    `unit_counts` and `positions_sd` are the number and the mean (in standard deviations) of the units in each decile;
    `spread` is by how much the standard deviation exceeds that of the deciles' means.
    """

    column: str
    edges: Floats
    rows: RowTally
    unit_counts: Counts
    positions_sd: Floats
    spread: float
    sd: float
    values: RankReference
    missing: RankReference
    density: ReferenceDensity | None

    @classmethod
    def learn(cls, rows: pl.Series, units: pl.Series, missing_shares: Floats, generator: np.random.Generator) -> Self:
        """The reference of a numeric column, from a sample; its rows are still to be counted."""
        finite, of_units = _finite(rows), _finite(units)
        cuts = _quantiles(finite)
        edges, repeats = np.unique(cuts, return_counts=True)
        # A value that holds two deciles or more gets a bin of its own.
        edges = np.unique(np.concatenate([edges, np.nextafter(edges[repeats > 1], -np.inf)]))
        in_bin = np.searchsorted(edges, of_units, side="left")
        counts = np.bincount(in_bin, minlength=edges.size + 1).astype(np.float64)
        sd = float(of_units.std()) if of_units.size else 0.0
        sums = np.bincount(in_bin, of_units - of_units.mean() if of_units.size else None, minlength=edges.size + 1)
        positions = sums / np.maximum(counts, 1) / sd if sd > 0 else np.zeros(counts.size)
        between = float(np.sqrt(counts @ positions**2 / max(of_units.size, 1)))
        return cls(
            column=rows.name,
            edges=edges,
            rows=_count_number(rows.clear(), edges, (-np.inf, np.inf)),
            unit_counts=counts,
            positions_sd=positions,
            spread=1 / between if between > 0 else 1.0,
            sd=sd,
            values=RankReference.learn(of_units, generator),
            missing=RankReference.learn(missing_shares, generator, by_category=True),
            density=ReferenceDensity.of(of_units, generator),
        )

    def counted(self, rows: RowTally) -> "NumberReference":
        """This reference with all of its rows counted."""
        return replace(self, rows=rows)

    def count_rows(self, batch: pl.Series) -> RowTally:
        """The rows of a batch in each decile, and beyond the widened range of the reference."""
        return _count_number(batch, self.edges, self.widened)

    def count_units(self, units: Floats) -> Counts:
        """Units in each decile, shape (bins,)."""
        in_bin = np.searchsorted(self.edges, units, side="left")
        return np.bincount(in_bin, minlength=self.edges.size + 1).astype(np.float64)

    def place(self, units: pl.Series) -> Floats:
        """The finite values of units, one each."""
        return _finite(units)

    @property
    def widened(self) -> tuple[float, float]:
        """The reference's range, widened by its own width on both sides; beyond lies hardly the same quantity."""
        width = self.rows.high - self.rows.low
        return (self.rows.low - width, self.rows.high + width) if width > 0 else (-np.inf, np.inf)

    def novel_rate(self, batch: RowTally) -> float | None:
        """The share of the batch's values beyond the widened range; `None` where there is no range or no value."""
        return batch.n_beyond / batch.n_present if batch.n_present and self.rows.high > self.rows.low else None

    @property
    def novel_in_reference(self) -> float:
        """One: by ranks, the next value lies beyond the smallest or the largest with probability 2 / (n + 1)."""
        return 1.0

    def mean_difference_sd(self, batch: RowTally) -> float | None:
        """The difference of the means, in standard deviations of the reference's units; `None` where undefined."""
        if batch.mean is None or self.rows.mean is None or not self.sd > 0:
            return None
        return (batch.mean - self.rows.mean) / self.sd


@dataclass(frozen=True, slots=True)
class CategoryReference:
    """A text, category or boolean column in the reference: its commonest values, all known ones, its units' urns.

    `order` are the categories of the units by name: an order that owes nothing to the data.
    """

    column: str
    leading: tuple[str, ...]
    rows: RowTally
    known: frozenset[str]
    novel_in_reference: float
    order: tuple[str, ...]
    unit_counts: Counts
    values: RankReference
    missing: RankReference

    @classmethod
    def learn(cls, rows: pl.Series, units: pl.Series, missing_shares: Floats, generator: np.random.Generator) -> Self:
        """The reference of a category column, from a sample; its rows are still to be counted."""
        texts = units.drop_nulls().cast(pl.String)
        tally = _tally(texts)
        order = tuple(sorted(tally["value"].to_list()))
        leading = tuple(tally["value"].head(BINS - 1).to_list())
        return cls(
            column=rows.name,
            leading=leading,
            rows=_count_category(rows.clear(), leading),
            known=frozenset(order),
            novel_in_reference=0.0,
            order=order,
            unit_counts=_in_bins(tally, leading),
            values=RankReference.learn(_positions(texts, order), generator, by_category=True),
            missing=RankReference.learn(missing_shares, generator, by_category=True),
        )

    def counted(self, rows: RowTally) -> "CategoryReference":
        """This reference with all of its rows counted, and each of their categories known."""
        seen_once = float((rows.categories["count"] == 1).sum())
        return replace(self, rows=rows, known=frozenset(rows.categories["value"]), novel_in_reference=seen_once)

    def count_rows(self, batch: pl.Series) -> RowTally:
        """The rows of a batch in each of the commonest categories, in all others, and in each by name."""
        return _count_category(batch, self.leading)

    def count_units(self, units: Floats) -> Counts:
        """Units in each of the commonest categories, then in all others, from their places; shape (bins,)."""
        bins = [self.order.index(category) for category in self.leading]
        leading = [float(np.count_nonzero(units == place)) for place in bins]
        return np.array([*leading, units.size - sum(leading)])

    def place(self, units: pl.Series) -> Floats:
        """The place of each present unit's category in the order of names; new ones lie between."""
        return _positions(units.drop_nulls().cast(pl.String), self.order)

    def novel_rate(self, batch: RowTally) -> float | None:
        """The share of the batch's values the reference does not hold; `None` without values on either side."""
        if not batch.n_present or not self.known:
            return None
        return int(batch.categories.filter(~pl.col("value").is_in(list(self.known)))["count"].sum()) / batch.n_present


ColumnReference = NumberReference | CategoryReference


def learn_column(
    rows: pl.Series, units: pl.Series, missing_shares: Floats, generator: np.random.Generator
) -> ColumnReference:
    """What is kept of a reference column; raises DriftError for a type that cannot be compared."""
    if rows.dtype.is_numeric():
        return NumberReference.learn(rows, units, missing_shares, generator)
    if is_category(rows.dtype):
        return CategoryReference.learn(rows, units, missing_shares, generator)
    raise DriftError(f"column {rows.name!r} holds {rows.dtype} and cannot be watched; leave it out of `columns`")


def is_category(dtype: pl.DataType) -> bool:
    """Whether values of this type are compared as categories."""
    return dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)


def _finite(series: pl.Series) -> Floats:
    values = series.to_numpy() if series.dtype.is_numeric() else series.cast(pl.Float64).to_numpy()
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values.sum(dtype=np.float64)):
        values = values[np.isfinite(values)]
    return values if values.dtype == np.float32 else values.astype(np.float64, copy=False)


def _quantiles(values: Floats) -> Floats:
    some = values[:: max(1, values.size // MOST_RANKED_ROWS)]
    return np.quantile(some, np.arange(1, BINS) / BINS, method="inverted_cdf") if some.size else np.array([])


def _count_number(series: pl.Series, edges: Floats, widened: tuple[float, float]) -> RowTally:
    values = _finite(series)
    # Comparing with each of nine edges is several times faster than a binary search of every value.
    above = np.array([values.size, *(np.count_nonzero(values > edge) for edge in edges), 0], dtype=np.float64)
    low, high = (float(values.min()), float(values.max())) if values.size else (np.inf, -np.inf)
    below = int(np.count_nonzero(values < widened[0])) if low < widened[0] else 0
    beyond = below + (int(np.count_nonzero(values > widened[1])) if high > widened[1] else 0)
    return RowTally(
        n=len(series),
        n_missing=len(series) - values.size,
        counts=above[:-1] - above[1:],
        total=float(values.sum(dtype=np.float64)),
        low=low,
        high=high,
        n_beyond=beyond,
        categories=NO_CATEGORIES,
    )


def _count_category(series: pl.Series, leading: Sequence[str]) -> RowTally:
    tally = _tally(series)
    return RowTally(
        n=len(series),
        n_missing=series.null_count(),
        counts=_in_bins(tally, leading),
        total=0.0,
        low=np.inf,
        high=-np.inf,
        n_beyond=0,
        categories=tally,
    )


def _tally(series: pl.Series) -> pl.DataFrame:
    counted = series.alias("value").value_counts().drop_nulls("value")
    texts = counted.select(pl.col("value").cast(pl.String), pl.col("count").cast(pl.UInt32))
    return texts.sort(["count", "value"], descending=[True, False])


def _in_bins(tally: pl.DataFrame, leading: Sequence[str]) -> Counts:
    found = dict(zip(tally["value"], tally["count"], strict=True))
    counts = [float(found.get(category, 0)) for category in leading]
    return np.array([*counts, float(tally["count"].sum()) - sum(counts)])


def _positions(texts: pl.Series, order: Sequence[str]) -> Floats:
    places = {category: float(place) for place, category in enumerate(order)}
    for category in set(texts.unique()) - places.keys():
        places[category] = bisect_left(order, category) - 0.5
    return texts.replace_strict(places, return_dtype=pl.Float64).to_numpy() if len(texts) else np.zeros(0)
