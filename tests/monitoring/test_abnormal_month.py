from datetime import date

import polars as pl
import pytest

from clinical_assets.monitoring.abnormal_month import unusual_rows, worse_faults

APRIL, MAY = date(2025, 4, 1), date(2025, 5, 1)


def quality(now: int, before: int, rows: int = 1000, fault: str = "missing", rows_before: int = 1000) -> pl.DataFrame:
    """One column's fault in a month and the month before, beside one that is as ever."""
    return pl.DataFrame(
        [
            {"month": month, "column": column, "subgroup": "overall", "fault": fault, "affected": n, "rows": of}
            for month, column, n, of in (
                (APRIL, "lactate", before, rows_before),
                (MAY, "lactate", now, rows),
                (APRIL, "age", 20, 1000),
                (MAY, "age", 22, 1000),
            )
        ]
    )


@pytest.mark.parametrize(("now", "before"), [(300, 100), (100, 300)])
def test_a_fault_far_more_or_less_frequent_than_before_is_found_with_both_rates(now: int, before: int) -> None:
    [found] = worse_faults(quality(now, before), MAY).to_dicts()
    assert (found["column"], found["rate"], found["rate_before"]) == ("lactate", now / 1000, before / 1000)


def test_a_difference_that_chance_explains_or_that_is_too_small_is_not_found() -> None:
    assert worse_faults(quality(2, 1, rows=10, rows_before=10), MAY).is_empty()
    assert worse_faults(quality(5200, 4900, rows=100_000, rows_before=100_000), MAY).is_empty()


def test_records_in_quarantine_count_from_one_in_a_hundred_on() -> None:
    assert worse_faults(quality(20, 0, fault="quarantined"), MAY).height == 1
    assert worse_faults(quality(20, 0, fault="missing"), MAY).is_empty()


def test_a_fault_never_looked_for_before_is_found_and_its_rate_before_is_unknown() -> None:
    only_now = quality(300, 100).filter((pl.col("month") == MAY) | (pl.col("column") == "age"))
    [found] = worse_faults(only_now, MAY).to_dicts()
    assert found["rate_before"] is None


def test_months_after_do_not_count() -> None:
    assert worse_faults(quality(300, 100), APRIL).select("rate_before").to_series().null_count() == 1


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (40, "40 rows, 0.4 times the 100 of the months before"),
        (210, "210 rows, 2.1 times the 100 of the months before"),
        (50, ""),
        (200, ""),
    ],
)
def test_far_fewer_or_more_rows_than_before_are_told(rows: int, told: str) -> None:
    assert unusual_rows(rows, [90, 100, 130]) == told


def test_a_first_month_is_never_unusual() -> None:
    assert unusual_rows(3, []) == ""
