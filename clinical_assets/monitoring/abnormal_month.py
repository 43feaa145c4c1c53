"""Whether a month's data are unlike the months before: more faults, or far fewer or more rows.

Belongs here: the comparison of one month's counts with earlier ones. Does not belong here: drift of the values
(`drift`), and what follows.

Rules of thumb for a diagnosis that a person reads, not calibrated alarms: the drift report alarms.
"""

from collections.abc import Sequence
from datetime import date
from statistics import NormalDist, median

import polars as pl

ERROR_RATE = 0.01
RELEVANT = {"missing": 0.05, "implausible": 0.01, "quarantined": 0.01}
"""The least change of a fault's rate that is worth a look."""

FEWEST, MOST = 0.5, 2.0
"""How many rows, as a multiple of the median of the months before, are as expected."""


def worse_faults(quality: pl.DataFrame, month: date) -> pl.DataFrame:
    """The faults of a month whose rates differ from the months before by more than chance explains, and relevantly.

    `quality` is a `data_quality` table of all months. Gives column, subgroup, fault, rate, rate_before (null where the
    fault was never looked for before), rows; the largest difference first.
    """
    keys = ["column", "subgroup", "fault"]
    counted = pl.col("affected", "rows").sum().cast(pl.Float64)
    now = quality.filter(month=month).group_by(keys).agg(counted)
    before = quality.filter(pl.col("month") < month).group_by(keys).agg(counted.name.suffix("_before"))
    rate, rate_before = pl.col("affected") / pl.col("rows"), pl.col("affected_before") / pl.col("rows_before")
    pooled = (pl.col("affected") + pl.col("affected_before")) / (pl.col("rows") + pl.col("rows_before"))
    error = (pooled * (1 - pooled) * (1 / pl.col("rows") + 1 / pl.col("rows_before"))).sqrt()
    critical = NormalDist().inv_cdf(1 - ERROR_RATE / 2 / max(1, now.height))
    difference = (pl.col("rate") - pl.col("rate_before").fill_null(0.0)).abs()
    relevant = pl.col("fault").replace_strict(RELEVANT, default=0.01)
    return (
        now.filter(pl.col("rows") > 0)
        .join(before.filter(pl.col("rows_before") > 0), on=keys, how="left")
        .with_columns(rate=rate, rate_before=rate_before, error=error)
        .filter(difference >= relevant, pl.col("error").is_null() | (difference > critical * pl.col("error")))
        .sort(difference, descending=True)
        .select(*keys, "rate", "rate_before", pl.col("rows").cast(pl.Int64))
    )


def unusual_rows(rows: int, before: Sequence[int]) -> str:
    """How a month's number of rows is unlike the months before, in words; empty where it is not."""
    if not before or (usual := median(before)) <= 0:
        return ""
    share = rows / usual
    if FEWEST <= share <= MOST:
        return ""
    return f"{rows:,} rows, {share:.2g} times the {usual:,.0f} of the months before"
