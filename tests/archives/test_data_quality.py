import polars as pl
import pytest

from clinical_assets.archives.data_quality import (
    FAULTS_SCHEMA,
    MOST_SHOWN,
    DataQualityError,
    count_affected,
    tabulate_quality,
    worst_faults,
)

FOUR_HOURS = pl.DataFrame({"hour_id": ["a", "b", "c", "d"], "lactate": [None, 2.0, None, None], "site": ["A"] * 4})


def faults(*rows: tuple[str | None, str, str, str, str | None, int, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=FAULTS_SCHEMA, orient="row")


IMPLAUSIBLE = ("lactate", "site=A", "implausible", "outside its range", None, 2, 3)
NEVER_MEASURED = ("ph", "site=B", "missing", "this hospital never measures it", None, 4, 4)
QUARANTINED = (None, "site=B", "quarantined", "no header", "p100001", 1, 1)


def test_a_cohort_that_reports_no_faults_still_has_its_missing_values_counted() -> None:
    table = tabulate_quality(FOUR_HOURS, None)
    assert table.schema == FAULTS_SCHEMA
    assert table.select("column", "subgroup", "fault", "affected", "rows").rows() == [
        ("hour_id", "overall", "missing", 0, 4),
        ("lactate", "overall", "missing", 3, 4),
        ("site", "overall", "missing", 0, 4),
    ]


def test_a_month_without_rows_lacks_nothing() -> None:
    assert tabulate_quality(FOUR_HOURS.clear(), None)["affected"].sum() == 0


def test_what_the_cohort_reports_stands_below_what_every_dataset_says_of_itself() -> None:
    reported = faults(IMPLAUSIBLE, NEVER_MEASURED, QUARANTINED)
    table = tabulate_quality(FOUR_HOURS, reported)
    assert table.tail(3).equals(reported)
    assert table.height == FOUR_HOURS.width + 3


def test_faults_are_counted_by_kind() -> None:
    twice = (*IMPLAUSIBLE[:-2], 5, 9)
    table = tabulate_quality(FOUR_HOURS, faults(IMPLAUSIBLE, twice, NEVER_MEASURED, QUARANTINED))
    counts = {fault: count_affected(table, fault) for fault in ("missing", "implausible", "quarantined")}
    assert counts == {"missing": 3 + 4, "implausible": 7, "quarantined": 1}
    assert count_affected(tabulate_quality(FOUR_HOURS, None), "quarantined") == 0


@pytest.mark.parametrize(
    "spoilt",
    [
        faults(IMPLAUSIBLE).drop("place"),
        faults(IMPLAUSIBLE).with_columns(pl.col("affected").cast(pl.Int32)),
        faults(IMPLAUSIBLE).with_columns(site=pl.lit("A")),
    ],
    ids=["column absent", "other type", "one column more"],
)
def test_faults_of_another_shape_are_refused(spoilt: pl.DataFrame) -> None:
    with pytest.raises(DataQualityError, match="they must be"):
        tabulate_quality(FOUR_HOURS, spoilt)


def test_the_worst_are_shown_first_without_the_place_and_without_what_affects_nothing() -> None:
    others = [(f"column_{n:02}", "site=A", "implausible", "outside its range", None, n, 100) for n in range(20)]
    broken = [(*QUARANTINED[:4], f"p10000{n}", 1, 1) for n in range(3)]
    shown = worst_faults(tabulate_quality(FOUR_HOURS, faults(*others, *broken, NEVER_MEASURED)))
    assert shown.height == MOST_SHOWN
    assert shown.row(0, named=True)["affected"] == 3
    assert shown["affected"].to_list()[1:] == list(range(19, 19 - MOST_SHOWN + 1, -1))
    assert "place" not in shown.columns
    assert "missing" not in shown["fault"].to_list()
