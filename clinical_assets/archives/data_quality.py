"""What a month's data lack, as one table: values missing, values nobody can have, records that could not be read.

Belongs here: the shape of that table, and what every dataset says of itself. Does not belong here: what is implausible
in a cohort or broken in an archive, which the protocol's own function says.
"""

import polars as pl

FAULTS_SCHEMA = pl.Schema(
    {
        "column": pl.String,
        "subgroup": pl.String,
        "fault": pl.String,
        "reason": pl.String,
        "place": pl.String,
        "affected": pl.Int64,
        "rows": pl.Int64,
    }
)
"""One row a fault: `missing`, `implausible` or `quarantined`. `place` names a record, and nothing else does."""

MOST_SHOWN = 12


class DataQualityError(ValueError):
    """Faults cannot be tabulated as they stand; the message names the columns."""


def tabulate_quality(dataset: pl.DataFrame, faults: pl.DataFrame | None) -> pl.DataFrame:
    """The missing values of every column of a month, then the faults its cohort reports: columns of `FAULTS_SCHEMA`.

    A fault that affects nothing is kept: that a column was looked at says something. Raises DataQualityError where the
    faults have other columns.
    """
    missing = pl.DataFrame(
        {
            "column": dataset.columns,
            "affected": pl.Series([column.null_count() for column in dataset], dtype=pl.Int64),
        }
    ).select(
        "column",
        pl.lit("overall").alias("subgroup"),
        pl.lit("missing").alias("fault"),
        pl.lit("no value was recorded").alias("reason"),
        pl.lit(None, pl.String).alias("place"),
        "affected",
        pl.lit(dataset.height, pl.Int64).alias("rows"),
    )
    if faults is None:
        return missing
    if faults.schema != FAULTS_SCHEMA:
        raise DataQualityError(f"the faults have the columns {dict(faults.schema)}; they must be {dict(FAULTS_SCHEMA)}")
    return pl.concat([missing, faults])


def count_affected(quality: pl.DataFrame, fault: str) -> int:
    """How many values or records have a fault of one kind."""
    return int(quality.filter(fault=fault)["affected"].sum())


def worst_faults(quality: pl.DataFrame) -> pl.DataFrame:
    """The implausible and the quarantined, most affected first, at most twelve rows, without the place."""
    return (
        quality.filter(pl.col("fault") != "missing", pl.col("affected") > 0)
        .group_by("fault", "column", "subgroup", "reason")
        .agg(pl.col("affected").sum(), pl.col("rows").max())
        .sort("fault", "affected", "column", descending=[True, True, False])
        .head(MOST_SHOWN)
    )
