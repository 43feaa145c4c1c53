"""Profiles of a table as whylogs keeps them: sketches that merge over months and hold no row.

Belongs here: everything that knows whylogs. Does not belong here: how a sketch is made of a column (profile_sketches),
comparing profiles, or where they are stored.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from clinical_assets.monitoring.profile_sketches import (
    build_frequent_items_sketch,
    build_quantile_sketch,
    build_quantile_sketch_of_counts,
    keep_stated_frequent_items,
)

if TYPE_CHECKING:
    import pandas as pd
    import whylogs_sketching as ds
    from numpy.typing import NDArray
    from whylogs.core import ColumnProfileView, DatasetProfileView
    from whylogs.core.metrics.metrics import CardinalityMetric

MOST_FREQUENT_ABOVE_DISTINCT = 50
"""With more distinct values than this the most frequent one is left out of the summary: it could name a person."""

IDENTIFIER_ABOVE_DISTINCT = 20
"""With more distinct values than this, and more than one for every two rows, a column is taken for an identifier."""

ROWS_AT_A_TIME = 2**18
"""The rows of a lazy frame that are in memory at once."""

SUMMARY_SCHEMA = pl.Schema(
    {
        "column": pl.String,
        "kind": pl.String,
        "n": pl.Int64,
        "n_null": pl.Int64,
        "missing_rate": pl.Float64,
        "mean": pl.Float64,
        "stddev": pl.Float64,
        "minimum": pl.Float64,
        "maximum": pl.Float64,
        "quantile_05": pl.Float64,
        "median": pl.Float64,
        "quantile_95": pl.Float64,
        "distinct_estimate": pl.Float64,
        "most_frequent": pl.String,
        "most_frequent_rate": pl.Float64,
    }
)


_TEXT = (pl.String, pl.Categorical, pl.Enum)


class ProfileError(ValueError):
    """A frame or a stored profile cannot be used; the message names the column and the remedy."""


@dataclass(frozen=True, slots=True)
class ColumnSummary:
    """What a profile says of one column; moments and quantiles are `None` where the column holds no number."""

    column: str
    kind: str | None
    n: int
    n_null: int
    missing_rate: float | None
    mean: float | None
    stddev: float | None
    minimum: float | None
    maximum: float | None
    quantile_05: float | None
    median: float | None
    quantile_95: float | None
    distinct_estimate: float | None
    most_frequent: str | None
    most_frequent_rate: float | None


@dataclass(frozen=True, slots=True)
class ColumnDistribution:
    """How the values of one column are distributed, by its sketches.

    `counts` are rows by value, of values kept by name, each at most `count_error` too high; a value not among them
    occurs in `count_error` rows at most. They are empty for numbers of more than two values that are no integers.
    `numbers` is the quantile sketch, None where the column holds no number, and `distinct` the estimated number of
    values.
    """

    n: int
    n_null: int
    counts: dict[str, int] = field(repr=False)
    count_error: int
    numbers: "ds.kll_doubles_sketch | None" = field(repr=False)
    distinct: float

    @property
    def n_values(self) -> int:
        """The rows that have a value."""
        return self.n - self.n_null

    @property
    def rank_error(self) -> float:
        """How far a rank may be wrong, as a share of the values: the error that the sketch states."""
        return float(self.numbers.normalized_rank_error(False)) if self.numbers is not None else 0.0

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The values below which these shares of the values lie; raises ProfileError where there is no number."""
        return list(self._sketch.get_quantiles(list(shares)))

    def share_below(self, points: Sequence[float]) -> "NDArray[np.float64]":
        """The share of the values that lie below each of some ascending points; raises ProfileError without numbers."""
        return np.array(self._sketch.get_cdf(list(points))[:-1])

    @property
    def _sketch(self) -> "ds.kll_doubles_sketch":
        if self.numbers is None:
            raise ProfileError("a column without numbers has no quantiles; look at its counts")
        return self.numbers


def profile_frame(
    frame: "pl.DataFrame | pl.LazyFrame | pd.DataFrame", without: Sequence[str] = (), as_of: datetime | None = None
) -> "DatasetProfileView":
    """The whylogs profile of a frame, equal to what `why.log` makes of `frame.to_pandas()`, made column by column.

    A lazy frame is read in batches, so it may be larger than memory. Frequent values are kept by name, except where
    they could name a person: a column of mostly distinct values keeps none, and one of more values than the sketch
    holds keeps those that occur more often than the error the sketch states (0.34 % of the rows). Numbers are not text:
    the quantile sketch of a column holds up to 3,100 of them, and its minimum and maximum.

    Args:
        frame: One row per prediction unit; columns of numbers, text, booleans, dates or times.
        without: Columns to leave out; identifiers belong here.
        as_of: The time, in UTC, the profile stands for; now if it is not given.

    Raises:
        ProfileError: If a column of `without` is not there, a column holds lists, structs or other nested values, or
            whole numbers too large for 64 bits.
    """
    table = frame if isinstance(frame, pl.DataFrame | pl.LazyFrame) else pl.from_pandas(frame)
    schema = table.collect_schema()
    if unknown := set(without) - set(schema):
        raise ProfileError(f"cannot leave out {sorted(unknown)}: the frame has no such columns")
    table = table.drop(without)
    _prepare_whylogs()
    _load_sketches()
    from whylogs.core import ColumnProfileView, DatasetProfileView

    columns = _empty_columns(table)
    rows = 0
    # The sketches of a column are its own, so columns can be filled side by side.
    with ThreadPoolExecutor(pl.thread_pool_size()) as threads:
        for batch in _batches(table):
            rows += len(batch)
            for _ in threads.map(lambda column, rows=batch: column.add(rows[column.name]), columns):
                pass
    for column in columns:
        column.take_nulls_as_pandas_does()
        column.forget_identifiers()
    now = datetime.now(UTC)
    return DatasetProfileView(
        columns={column.name: ColumnProfileView(column.metrics, success_count=rows) for column in columns},
        dataset_timestamp=as_of or now,
        creation_timestamp=now,
    )


def serialise(view: "DatasetProfileView") -> bytes:
    """The profile in whylogs' own file format (protobuf)."""
    return view.serialize()


def deserialise(content: bytes) -> "DatasetProfileView":
    """The profile that `serialise` wrote; raises ProfileError where the bytes are none."""
    _prepare_whylogs()
    from google.protobuf.message import DecodeError
    from whylogs.core import DatasetProfileView
    from whylogs.core.errors import DeserializationError

    try:
        return DatasetProfileView.deserialize(content)
    except (DeserializationError, DecodeError, UnicodeDecodeError, OSError) as error:
        raise ProfileError(
            f"these {len(content)} bytes are no whylogs profile ({error}); profile the month again"
        ) from error


def merge(views: Iterable["DatasetProfileView"]) -> "DatasetProfileView":
    """One profile of several months, as if their rows had been profiled together; raises ProfileError without any."""
    months = list(views)
    if not months:
        raise ProfileError("there is no profile to merge; profile at least one month")
    return reduce(lambda merged, month: merged.merge(month), months)


def summarise(view: "DatasetProfileView") -> pl.DataFrame:
    """A profile as a table, one row a column in alphabetical order; the columns are those of `SUMMARY_SCHEMA`.

    Quantiles are the KLL sketch's and distinct counts the HyperLogLog sketch's estimates. The most frequent value is
    given only for columns with at most 50 distinct values.
    """
    summaries = [_summarise_column(name, column) for name, column in sorted(view.get_columns().items())]
    return pl.DataFrame(summaries, schema=SUMMARY_SCHEMA)


def distributions(view: "DatasetProfileView") -> dict[str, ColumnDistribution]:
    """How the values of each column of a profile are distributed, by its name."""
    return {name: _distribution(column) for name, column in view.get_columns().items()}


def profile_table(view: "DatasetProfileView") -> pl.DataFrame:
    """The summary of a profile with each column's own sketches beside it, as bytes in the column `profile`."""
    sketches = {name: column.serialize() for name, column in view.get_columns().items()}
    summary = summarise(view)
    return summary.with_columns(pl.Series("profile", [sketches[name] for name in summary["column"]], pl.Binary))


def restore(table: pl.DataFrame, as_of: datetime) -> "DatasetProfileView":
    """The profile that `profile_table` made a table of; raises ProfileError where the bytes of a column are none."""
    _prepare_whylogs()
    from google.protobuf.message import DecodeError
    from whylogs.core import ColumnProfileView, DatasetProfileView
    from whylogs.core.errors import DeserializationError

    columns: dict[str, ColumnProfileView] = {}
    for name, content in table.select("column", "profile").iter_rows():
        try:
            columns[name] = ColumnProfileView.deserialize(content)
        except (DeserializationError, DecodeError, OSError) as error:
            message = f"column {name!r} holds no whylogs profile ({error}); profile the month again"
            raise ProfileError(message) from error
    return DatasetProfileView(columns=columns, dataset_timestamp=as_of, creation_timestamp=as_of)


def _prepare_whylogs() -> None:
    # whylogs reports its use to its maker unless this is set before its first import, and names a type numpy 2 dropped.
    os.environ["WHYLOGS_NO_ANALYTICS"] = "1"
    if not hasattr(np, "unicode_"):
        np.unicode_ = np.str_  # type: ignore[attr-defined]


@cache
def _load_sketches() -> None:
    """Have the sketches import NumPy's C interface, here and not in the threads.

    They do so at the first array they are given, under a lock that is no Python lock. Two threads that give their first
    arrays at once wait for each other for ever: one holds that lock and wants Python's, the other the reverse.
    """
    from whylogs_sketching import hll_sketch

    hll_sketch(4).update_np(np.zeros(1))


def _batches(table: pl.DataFrame | pl.LazyFrame) -> Iterator[pl.DataFrame]:
    if isinstance(table, pl.DataFrame):
        yield table
    elif _is_bare_parquet_scan(table):
        rows = table.select(pl.len()).collect().item()
        for start in range(0, rows, ROWS_AT_A_TIME):
            yield table.slice(start, ROWS_AT_A_TIME).collect()
    else:
        yield from table.collect_batches(chunk_size=ROWS_AT_A_TIME)


def _is_bare_parquet_scan(table: pl.LazyFrame) -> bool:
    """Whether a slice of the frame is read at its place in a file, without what lies before it.

    Polars says so in the words of its plan only. Read in slices a file takes a third less memory than in Polars' own
    batches, which run ahead by several row groups; any other plan would be computed again for each slice.
    """
    plan = table.explain()
    return plan.startswith("Parquet SCAN") and "SELECTION:" not in plan and "SLICE:" not in plan


def _empty_columns(table: pl.DataFrame | pl.LazyFrame) -> "list[_ColumnProfile]":
    """The profile of no row for each column of a table, with the sketches whylogs gives a column of its type."""
    from whylogs.core.metrics.metrics import CardinalityMetric, MetricConfig
    from whylogs.core.schema import ColumnSchema

    config = MetricConfig()
    columns: list[_ColumnProfile] = []
    for name, kind in table.collect_schema().items():
        if not (kind.is_numeric() or kind.is_temporal() or kind in (pl.Boolean, pl.Null, *_TEXT)):
            raise ProfileError(f"column {name!r} holds {kind} and cannot be profiled; leave it out by `without`")
        metrics = ColumnSchema(dtype=_pandas_type(kind), cfg=config).get_metrics(name)
        columns.append(_ColumnProfile(name, kind, config.fi_lg_max_k, metrics, CardinalityMetric.zero(config)))
    return columns


def _pandas_type(kind: pl.DataType) -> Any:
    """The type pandas would give the column if it had no null, by which whylogs chooses its sketches."""
    if kind.is_integer():
        return np.dtype(np.int64)
    if kind.is_float():
        return np.dtype(np.float64)
    if kind == pl.Boolean:
        return np.dtype(np.bool_)
    if kind.is_temporal():
        return np.dtype("datetime64[us]")
    return np.dtype(object)


@dataclass(frozen=True, slots=True)
class _ColumnProfile:
    """whylogs' metrics of one column, to which batches are added; `as_floats` is the cardinality of integers as floats.

    Whether pandas would keep integers as such is known at the end only: one null makes floats of all of them.
    """

    name: str
    kind: pl.DataType
    lg_frequent: int
    metrics: dict[str, Any]
    as_floats: "CardinalityMetric"

    def add(self, series: pl.Series) -> None:
        """Add a batch of rows; what pandas calls missing is missing here."""
        kind = self.kind
        values = series.drop_nulls()
        if kind.is_numeric() and not kind.is_integer():
            values = values.cast(pl.Float64).drop_nans()
        n, n_missing = len(series), len(series) - len(values)
        # pandas keeps one kind of missing number, so a null counts as NaN too; decimals stay objects there.
        self._count("counts", n=n, null=n_missing, nan=n_missing if kind.is_integer() or kind.is_float() else 0)
        if values.is_empty():
            return
        if kind.is_integer():
            self._add_integers(_as_int64(values))
        elif kind.is_numeric():
            self._add_floats(values.to_numpy())
        elif kind == pl.Boolean:
            self._add_booleans(n_true=int(values.sum()), n_false=int((~values).sum()))
        elif kind in _TEXT:
            self._add_text(values)
        else:
            self._count("types", object=len(values))

    def take_nulls_as_pandas_does(self) -> None:
        """With a null among them, integers are floats to pandas and truth values objects."""
        if "ints" not in self.metrics or self.metrics["counts"].null.value == 0:
            return
        del self.metrics["ints"]
        if self.kind.is_integer():
            types = self.metrics["types"]
            types.fractional.set(types.integral.value)
            types.integral.set(0)
            del self.metrics["frequent_items"]
            self.metrics["cardinality"] = self.as_floats

    def forget_identifiers(self) -> None:
        """Leave no frequent value by name that could be a person's."""
        if "frequent_items" not in self.metrics:
            return
        frequent, counts = self.metrics["frequent_items"], self.metrics["counts"]
        distinct = round(self.metrics["cardinality"].hll.value.get_estimate())
        n_values = counts.n.value - counts.null.value
        if distinct > IDENTIFIER_ABOVE_DISTINCT and distinct > n_values / 2:
            frequent.frequent_strings.set(frequent.zero().frequent_strings.value)
        else:
            stated = keep_stated_frequent_items(frequent.frequent_strings.value, self.lg_frequent)
            frequent.frequent_strings.set(stated)

    def _add_integers(self, rows: "NDArray[np.int64]") -> None:
        values, counts = _count_integers(rows)
        numbers = values.astype(np.float64)
        self._count("types", integral=len(rows))
        self.metrics["cardinality"].hll.value.update_np(values)
        self.as_floats.hll.value.update_np(numbers)
        self._add_counted_numbers(numbers, counts)
        self._add_frequent_items(pl.Series(values), counts)
        ints = self.metrics["ints"]
        ints.min.set(min(ints.min.value, int(values[0])))
        ints.max.set(max(ints.max.value, int(values[-1])))

    def _add_floats(self, values: "NDArray[np.float64]") -> None:
        self._count("types", fractional=len(values))
        self.metrics["cardinality"].hll.value.update_np(values)
        sketch = build_quantile_sketch(values, self._k)
        if not (math.isfinite(sketch.get_min_value()) and math.isfinite(sketch.get_max_value())):
            self._count("counts", inf=int(np.isinf(values).sum()))
        with np.errstate(invalid="ignore"):
            self._add_distribution(sketch, float(values.mean()), float(values.var()) * len(values))
        # Decimals are objects to pandas, and whylogs counts the frequent values of those.
        if "frequent_items" in self.metrics:
            self.metrics["frequent_items"].frequent_strings.value.update_np(values)

    def _add_booleans(self, n_true: int, n_false: int) -> None:
        counts = np.array([n_false, n_true])
        values = np.flatnonzero(counts)
        self._count("types", boolean=n_true + n_false)
        self._count("counts", true=n_true)
        self.metrics["cardinality"].hll.value.update_np(values)
        self._add_counted_numbers(values.astype(np.float64), counts[values])
        self._add_frequent_items(pl.Series(["False", "True"]).gather(values), counts[values])

    def _add_text(self, rows: pl.Series) -> None:
        # In the order of the rows, since the order of values decides the last digits of a cardinality.
        counted = rows.alias("value").to_frame().group_by("value", maintain_order=True).len("n")
        counted = counted.with_columns(pl.col("value").cast(pl.String), pl.col("n").cast(pl.Int64))
        self._count("types", string=len(rows))
        self.metrics["cardinality"].hll.value.update_str_list(counted["value"].to_list())
        longest = self.metrics["frequent_items"].max_frequent_item_size
        if (counted["value"].str.len_bytes() > longest).any():
            counted = counted.group_by(pl.col("value").str.head(longest), maintain_order=True).agg(pl.col("n").sum())
        self._add_frequent_items(counted["value"], counted["n"].to_numpy())

    def _add_counted_numbers(self, values: "NDArray[np.float64]", counts: "NDArray[np.int64]") -> None:
        mean = float(np.average(values, weights=counts))
        sketch = build_quantile_sketch_of_counts(values, counts, self._k)
        self._add_distribution(sketch, mean, float((values - mean) ** 2 @ counts))

    def _add_distribution(self, sketch: Any, mean: float, m2: float) -> None:
        """Merge the moments of a batch: its mean, and m2, its sum of squared deviations (Chan, Golub, LeVeque 1983)."""
        held = self.metrics["distribution"]
        if held.n == 0:
            held.kll.set(sketch)
            held.mean.set(mean)
            held.m2.set(m2)
            return
        share = sketch.get_n() / (held.n + sketch.get_n())
        held.m2.set(held.m2.value + m2 + (mean - held.avg) ** 2 * held.n * share)
        held.mean.set((1 - share) * held.avg + share * mean)
        held.kll.value.merge(sketch)

    def _add_frequent_items(self, items: pl.Series, counts: "NDArray[np.int64]") -> None:
        held = self.metrics["frequent_items"].frequent_strings
        added = build_frequent_items_sketch(items, counts, self.lg_frequent)
        if held.value.is_empty():
            held.set(added)
        else:
            held.value.merge(added)

    def _count(self, metric: str, **added: int) -> None:
        for name, number in added.items():
            component = getattr(self.metrics[metric], name)
            component.set(component.value + number)

    @property
    def _k(self) -> int:
        return self.metrics["distribution"].kll.value.get_k()


def _as_int64(values: pl.Series) -> "NDArray[np.int64]":
    try:
        return values.cast(pl.Int64).to_numpy()
    except pl.exceptions.InvalidOperationError as error:
        raise ProfileError(
            f"column {values.name!r} holds {values.dtype} numbers too large for 64 bits; leave it out by `without`"
        ) from error


def _count_integers(rows: "NDArray[np.int64]") -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """The distinct values in ascending order, and how many rows hold each."""
    lowest, highest = int(rows.min()), int(rows.max())
    if highest - lowest > max(len(rows), 2**16):
        return np.unique(rows, return_counts=True)
    counts = np.bincount(rows - lowest)
    held = np.flatnonzero(counts)
    return held + lowest, counts[held]


def _summarise_column(name: str, column: "ColumnProfileView") -> ColumnSummary:
    counts, types = _metric(column, "counts"), _metric(column, "types")
    n, n_null = int(counts.n.value), int(counts.null.value)
    # A column that never holds a number has an empty distribution.
    distribution = _metric(column, "distribution")
    measured = distribution if distribution is not None and distribution.n > 0 else None
    cardinality = _metric(column, "cardinality")
    distinct = cardinality.estimate if cardinality is not None else None
    frequent = _metric(column, "frequent_items")
    few = distinct is not None and distinct <= MOST_FREQUENT_ABOVE_DISTINCT
    leading = frequent.strings[0] if frequent is not None and few and frequent.strings else None
    return ColumnSummary(
        column=name,
        kind=_prevailing_kind(types.to_summary_dict()),
        n=n,
        n_null=n_null,
        missing_rate=n_null / n if n else None,
        mean=_finite(measured.avg) if measured is not None else None,
        stddev=_finite(measured.stddev) if measured is not None else None,
        minimum=_finite(measured.min) if measured is not None else None,
        maximum=_finite(measured.max) if measured is not None else None,
        quantile_05=_finite(measured.q_05) if measured is not None else None,
        median=_finite(measured.median) if measured is not None else None,
        quantile_95=_finite(measured.q_95) if measured is not None else None,
        distinct_estimate=distinct,
        most_frequent=leading.value if leading else None,
        most_frequent_rate=leading.est / (n - n_null) if leading and n > n_null else None,
    )


def _distribution(column: "ColumnProfileView") -> ColumnDistribution:
    from whylogs_sketching import frequent_items_error_type

    counts, measured = _metric(column, "counts"), _metric(column, "distribution")
    cardinality, frequent = _metric(column, "cardinality"), _metric(column, "frequent_items")
    distinct = cardinality.estimate if cardinality is not None else 0.0
    numbers: Any = measured.kll.value if measured is not None and measured.n > 0 else None
    by_value: dict[str, int] = {}
    error = 0
    if measured is not None and numbers is not None and round(distinct) <= 2 and math.isfinite(measured.avg):
        by_value = _counts_of_two(measured)
    elif frequent is not None:
        held = frequent.frequent_strings.value.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
        by_value = {item: int(estimate) for item, estimate, _, _ in held}
        error = max((int(upper - lower) for _, _, lower, upper in held), default=0)
    return ColumnDistribution(int(counts.n.value), int(counts.null.value), by_value, error, numbers, distinct)


def _counts_of_two(measured: Any) -> dict[str, int]:
    """How many rows hold the least and how many the greatest of two values; their mean tells it."""
    low, high, n = measured.min, measured.max, int(measured.n)
    if low == high:
        return {f"{low:g}": n}
    above = round(n * (measured.avg - low) / (high - low))
    return {f"{low:g}": n - above, f"{high:g}": above}


def _metric(column: "ColumnProfileView", name: str) -> Any:
    return column.get_metric(name)


def _prevailing_kind(counts: dict[str, int]) -> str | None:
    kind = max(counts, key=lambda name: counts[name])
    return kind if counts[kind] else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
