"""What one independent unit is: a patient in one look, of which a large table is sampled and read in batches.

Belongs here: sampling and collapsing rows to units. Does not belong here: what is made of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

Frame = pl.DataFrame | pl.LazyFrame

ROWS_PER_BATCH = 200_000
"""So many rows of a table that does not fit into memory are read at a time."""

MOST_ROWS_COUNTED_EXACTLY = 2_000_000
"""The units of more rows are counted by a sketch, in flat memory."""

ROW = "(row)"


class DriftError(ValueError):
    """A reference or a batch cannot be used; the message names the column and the remedy."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows of sampled units, and how many rows and units there were to sample from."""

    rows: pl.DataFrame
    n_rows: int
    n_units: int


@dataclass(frozen=True, slots=True)
class Units:
    """One row a unit: `values` holds the mean of its numbers and its first category, `missing` the missing shares."""

    values: pl.DataFrame
    missing: pl.DataFrame

    def __len__(self) -> int:
        return len(self.values)


def sample_units(frame: Frame, columns: Sequence[str], grouped_by: Sequence[str], most: int, seed: int) -> Sample:
    """All rows of a sample of units; every unit where there are no more than `most`.

    Args:
        frame: One row per prediction unit of the model; a lazy frame is read twice, in batches.
        columns: What to keep beside `grouped_by`.
        grouped_by: The columns whose equal values make a unit; none if every row is one.
        most: How many units to keep, about.
        seed: The sample depends on it and on nothing else.

    Raises:
        DriftError: If rows have no value in a column of `grouped_by`.
    """
    lazy = frame.lazy()
    key = pl.struct(grouped_by) if grouped_by else pl.col(ROW)
    n_rows = n_units = lazy.select(pl.len()).collect(engine="streaming").item()
    if grouped_by:
        nulls = [pl.col(column).null_count().alias(column) for column in grouped_by]
        counted = lazy.select(_count_distinct(key, n_rows).alias(ROW), *nulls).collect(engine="streaming")
        for column in grouped_by:
            if lost := counted[column].item():
                raise DriftError(f"{lost} rows have no {column!r}, by which rows are grouped; fill it, or drop them")
        n_units = counted[ROW].item()
    wanted = list(dict.fromkeys([*grouped_by, *columns]))
    if n_units <= most:
        return Sample(lazy.select(wanted).collect(), n_rows, n_units)
    below = math.floor(2**64 * (most / n_units))
    kept = lazy.select(wanted).with_row_index(ROW).filter(key.hash(seed) < pl.lit(below, pl.UInt64)).drop(ROW)
    return Sample(kept.collect(engine="streaming"), n_rows, n_units)


def collapse(rows: pl.DataFrame, columns: Sequence[str], grouped_by: Sequence[str]) -> Units:
    """The units of some rows: numbers as the mean of those present, categories as the first, missing as a share.

    NaN and infinite numbers count as missing.
    """
    clean = rows.select(
        *grouped_by,
        *(
            pl.when(pl.col(column).is_finite()).then(column).alias(column)
            if rows.schema[column].is_float()
            else pl.col(column)
            for column in columns
        ),
    )
    if not grouped_by:
        missing = clean.select(pl.col(columns).is_null().cast(pl.Float64))
        return Units(clean.select(columns), missing)
    values = [
        pl.col(column).mean() if clean.schema[column].is_numeric() else pl.col(column).drop_nulls().first()
        for column in columns
    ]
    missing = [pl.col(column).is_null().mean().alias(f"missing {column}") for column in columns]
    units = clean.group_by(grouped_by, maintain_order=True).agg(*values, *missing)
    shares = units.select(pl.col(f"missing {column}").alias(column) for column in columns)
    return Units(units.select(columns), shares)


def read_batches(frame: Frame, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The columns of a frame: at once if it is in memory, in batches if it is lazy."""
    if isinstance(frame, pl.DataFrame):
        yield frame.select(columns)
    else:
        yield from frame.select(columns).collect_batches(chunk_size=ROWS_PER_BATCH)


def _count_distinct(key: pl.Expr, n_rows: int) -> pl.Expr:
    """How many units: exactly, or of very many rows by a sketch (Flajolet et al. 2007, "HyperLogLog")."""
    return key.n_unique() if n_rows <= MOST_ROWS_COUNTED_EXACTLY else key.hash().approx_n_unique()
