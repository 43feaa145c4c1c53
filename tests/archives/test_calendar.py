from datetime import date

import polars as pl
import pytest

from clinical_assets.archives.calendar import FIRST_MONTH, REPLAY_MONTHS, spread_over_months


@pytest.mark.parametrize("rows", [24, 25, 1_000, 86_615, 101_766])
def test_every_month_gets_the_same_number_of_rows_give_or_take_one(rows: int) -> None:
    per_month = spread_over_months(rows).dt.month_start().dt.date().value_counts()
    counts = per_month["count"].to_numpy()
    assert len(counts) == REPLAY_MONTHS
    assert counts.sum() == rows
    assert counts.max() - counts.min() <= 1


def test_rows_keep_their_order_and_no_two_share_a_time() -> None:
    times = spread_over_months(101_766)
    assert (times.diff().drop_nulls().dt.total_seconds() > 0).all()


def test_all_times_lie_within_the_replay_calendar_in_utc() -> None:
    times = spread_over_months(10_000)
    assert times.dtype == pl.Datetime("us", "UTC")
    assert times.dt.date().min() == FIRST_MONTH
    assert times.dt.date().max() == date(2025, 12, 31)


def test_fewer_rows_than_months_leave_months_empty() -> None:
    assert spread_over_months(2).dt.month_start().dt.date().to_list() == [date(2024, 1, 1), date(2025, 1, 1)]


def test_no_rows_give_no_times() -> None:
    assert spread_over_months(0).is_empty()
