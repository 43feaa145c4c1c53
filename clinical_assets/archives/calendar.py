"""The replay calendar: the months on which undated archives are played back, as if they happened now.

Belongs here: how rows in an assumed order get a time. Does not belong here: what order a publisher's rows have.
"""

from datetime import date

import numpy as np
import polars as pl

FIRST_MONTH = date(2024, 1, 1)
REPLAY_MONTHS = 24
LAST_MONTH = date(2025, 12, 1)
CALENDAR_NOTE = "The archive has no dates: months and days are those of a replay calendar, not of real admissions."


def spread_over_months(rows: int) -> pl.Series:
    """Times that spread rows, taken in order, evenly over the 24 months from January 2024.

    The months get equal counts, plus or minus one; within a month the rows are equally far apart. The archives this is
    for have no dates. For diabetes130 the order is an inference from `encounter_id`, undocumented by its publisher, and
    a decade is pressed into two years: neither the days shown nor the intervals between them are real.

    Args:
        rows: how many rows there are, at least 0.

    Returns:
        `rows` ascending datetimes, microseconds, UTC, whole seconds.
    """
    first = np.datetime64(FIRST_MONTH, "M")
    month_starts = (first + np.arange(REPLAY_MONTHS + 1)).astype("datetime64[s]").astype(np.int64)
    first_rows = -(-np.arange(REPLAY_MONTHS + 1) * rows // REPLAY_MONTHS)
    row = np.arange(rows)
    month = row * REPLAY_MONTHS // max(rows, 1)
    share_of_month = (row - first_rows[month] + 0.5) / np.diff(first_rows)[month]
    seconds = month_starts[month] + np.floor(share_of_month * np.diff(month_starts)[month]).astype(np.int64)
    return pl.Series("time", seconds * 1_000_000, dtype=pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
