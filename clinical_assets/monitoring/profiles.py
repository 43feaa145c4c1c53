"""Profiles of a table as whylogs keeps them: sketches that merge over months and hold no row.

Belongs here: everything that knows whylogs. Does not belong here: comparing profiles, or where they are stored.
"""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    import pandas as pd
    from whylogs.core import ColumnProfileView, DatasetProfileView
    from whylogs.core.preprocessing import PreprocessedColumn

MOST_FREQUENT_ABOVE_DISTINCT = 50
"""With more distinct values than this the most frequent one is left out of the summary: it could name a person."""

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


def profile_frame(
    frame: "pl.DataFrame | pl.LazyFrame | pd.DataFrame", without: Sequence[str] = (), as_of: datetime | None = None
) -> "DatasetProfileView":
    """The whylogs profile of a frame, equal to what `why.log` makes of `frame.to_pandas()`, fed column by column.

    Args:
        frame: One row per prediction unit; columns of numbers, text, booleans, dates or times.
        without: Columns to leave out; identifiers belong here, since frequent values are kept by name.
        as_of: The time, in UTC, the profile stands for; now if it is not given.

    Raises:
        ProfileError: If a column of `without` is not there, or a column holds lists, structs or other nested values.
    """
    table = _as_polars(frame)
    if unknown := set(without) - set(table.columns):
        raise ProfileError(f"cannot leave out {sorted(unknown)}: the frame has no such columns")
    _prepare_whylogs()
    from whylogs.core import DatasetProfileView

    now = datetime.now(UTC)
    columns = {series.name: _profile_column(series) for series in table.drop(without)}
    return DatasetProfileView(columns=columns, dataset_timestamp=as_of or now, creation_timestamp=now)


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


def _as_polars(frame: "pl.DataFrame | pl.LazyFrame | pd.DataFrame") -> pl.DataFrame:
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if isinstance(frame, pl.DataFrame):
        return frame
    return pl.from_pandas(frame)


def _profile_column(series: pl.Series) -> "ColumnProfileView":
    from whylogs.core import ColumnProfileView
    from whylogs.core.metrics.metrics import MetricConfig
    from whylogs.core.schema import ColumnSchema

    metrics = ColumnSchema(dtype=_pandas_type(series), cfg=MetricConfig()).get_metrics(series.name)
    values = _split_by_type(series)
    results = [metric.columnar_update(values) for metric in metrics.values()]
    return ColumnProfileView(
        metrics=metrics,
        success_count=sum(result.successes for result in results),
        failure_count=sum(result.failures for result in results),
    )


def _pandas_type(series: pl.Series) -> Any:
    """The type pandas would give the column, by which whylogs chooses its sketches."""
    whole = series.null_count() == 0
    if series.dtype.is_integer() and whole:
        return np.dtype(np.int64)
    if series.dtype.is_integer() or series.dtype.is_float():
        return np.dtype(np.float64)
    if series.dtype == pl.Boolean and whole:
        return np.dtype(np.bool_)
    if series.dtype.is_temporal():
        return np.dtype("datetime64[us]")
    return np.dtype(object)


def _split_by_type(series: pl.Series) -> "PreprocessedColumn":
    """The column's values in the compartments whylogs' sketches read; what pandas calls missing is missing here."""
    from whylogs.core.preprocessing import ListView, NumpyView, PandasView, PreprocessedColumn

    column = PreprocessedColumn()
    column.len = len(series)
    column.null_count = series.null_count()
    values = series.drop_nulls()
    kind = series.dtype
    if kind.is_integer() and column.null_count == 0:
        column.numpy = NumpyView(ints=values.cast(pl.Int64).to_numpy())
    elif kind.is_numeric():
        numbers = values.cast(pl.Float64).drop_nans()
        column.null_count = column.len - len(numbers)
        # pandas keeps one kind of missing number, so a null counts as NaN too; decimals stay objects there.
        column.nan_count = 0 if kind.is_decimal() else column.null_count
        column.inf_count = int(numbers.is_infinite().sum())
        column.numpy = NumpyView(floats=numbers.to_numpy())
    elif kind == pl.Boolean:
        column.bool_count = len(values)
        column.bool_count_where_true = int(values.sum())
    elif kind in (pl.String, pl.Categorical, pl.Enum):
        column.list = ListView(strings=values.cast(pl.String).to_list())
    elif kind.is_temporal():
        column.pandas = PandasView(objs=values.to_pandas())
    elif kind != pl.Null:
        raise ProfileError(f"column {series.name!r} holds {kind} and cannot be profiled; leave it out by `without`")
    return column


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


def _metric(column: "ColumnProfileView", name: str) -> Any:
    return column.get_metric(name)


def _prevailing_kind(counts: dict[str, int]) -> str | None:
    kind = max(counts, key=lambda name: counts[name])
    return kind if counts[kind] else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
