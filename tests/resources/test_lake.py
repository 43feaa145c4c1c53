import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from clinical_assets.resources import lake as lake_module
from clinical_assets.resources.lake import Lake, LakeError, Write
from clinical_assets.resources.lake_engine import attempt

JANUARY, FEBRUARY, MARCH = date(2025, 1, 1), date(2025, 2, 1), date(2025, 3, 1)
RUN: Any = {"author": "run-1", "message": "{}"}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "catalogue.sqlite"), tmp_path / "data")


def stays(month: date, days: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"month": [month] * len(days), "days": days}, schema={"month": pl.Date, "days": pl.Int64})


def days(lake: Lake, month: date | None = None, snapshot: int | None = None) -> list[int]:
    return sorted(lake.read("toy.stays", month=month, snapshot=snapshot)["days"].to_list())


def test_a_month_written_again_replaces_that_month_alone(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1, 2]), **RUN)
    lake.write_month("toy.stays", FEBRUARY, stays(FEBRUARY, [3]), **RUN)
    commit = lake.write_month("toy.stays", JANUARY, stays(JANUARY, [4, 5, 6]), **RUN)

    assert commit.rows == 3
    assert days(lake, JANUARY) == [4, 5, 6]
    assert days(lake, FEBRUARY) == [3]
    assert lake.months("toy.stays") == [JANUARY, FEBRUARY]


def test_types_come_back_as_they_were_written(lake: Lake) -> None:
    moment = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "month": [JANUARY, JANUARY],
            "i8": pl.Series([1, None], dtype=pl.Int8),
            "u16": pl.Series([1, None], dtype=pl.UInt16),
            "u64": pl.Series([1, None], dtype=pl.UInt64),
            "f32": pl.Series([0.5, None], dtype=pl.Float32),
            "f64": [float("inf"), None],
            "flag": [True, None],
            "text": ["x'y\"z", None],
            "bytes": [b"\x00\xff", None],
            "in_utc": pl.Series([moment, None], dtype=pl.Datetime("us", "UTC")),
            "local": [moment.replace(tzinfo=None), None],
            "in_ns": pl.Series([moment.replace(tzinfo=None), None], dtype=pl.Datetime("ns")),
            "amount": pl.Series([Decimal("1.20"), None], dtype=pl.Decimal(10, 2)),
            "list": [[1.0, 2.0], None],
            "pair": [{"low": 0.1, "n": 3}, None],
        }
    )
    lake.write_month("toy.types", JANUARY, frame, **RUN)

    assert_frame_equal(lake.read("toy.types"), frame, check_row_order=False)


def test_categories_come_back_as_text_and_an_undefined_number_stays_apart_from_a_missing_one(lake: Lake) -> None:
    frame = pl.DataFrame(
        {
            "sex": pl.Series(["f", None, "m"], dtype=pl.Categorical),
            "band": pl.Series(["old", None, "old"], dtype=pl.Enum(["young", "old"])),
            "ratio": [float("nan"), None, 1.0],
        }
    )
    lake.write_table("toy.categories", frame, **RUN)

    back = lake.read("toy.categories")
    assert back.schema == {"sex": pl.String, "band": pl.String, "ratio": pl.Float64}
    assert back.sort("sex", nulls_last=False)["sex"].to_list() == [None, "f", "m"]
    assert (back["ratio"].is_nan().sum(), back["ratio"].null_count()) == (1, 1)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("bad", [None], dtype=pl.Null),
        pl.Series("bad", [timedelta(days=1)]),
        pl.Series("bad", [datetime(2025, 1, 1).time()]),
        pl.Series("bad", [[datetime(2025, 1, 1).time()]]),
        pl.Series("bad", [[1.0, 2.0]], dtype=pl.Array(pl.Float64, 2)),
        pl.Series("bad", [1], dtype=pl.Int128),
        pl.Series("bad", [datetime(2025, 1, 1)]).dt.replace_time_zone("Europe/Berlin"),
        pl.Series("bad", [datetime(2025, 1, 1)], dtype=pl.Datetime("ns")).dt.replace_time_zone("UTC"),
    ],
    ids=lambda column: str(column.dtype),
)
def test_a_type_that_would_come_back_as_another_is_refused(lake: Lake, column: pl.Series) -> None:
    with pytest.raises(LakeError, match=r"toy.stays: the lake cannot keep the types of bad \("):
        lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]).with_columns(column), **RUN)
    assert not lake.exists("toy.stays")


def test_columns_that_differ_only_in_case_are_refused_not_renamed(lake: Lake) -> None:
    with pytest.raises(LakeError, match="must differ in more than upper and lower case"):
        lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]).with_columns(DAYS=2), **RUN)


def test_rows_of_another_month_are_refused_with_their_number(lake: Lake) -> None:
    frame = pl.concat([stays(JANUARY, [1]), stays(FEBRUARY, [2, 3])])
    with pytest.raises(LakeError, match=r"toy.stays: 2 of 3 rows are not of month 2025-01"):
        lake.write_month("toy.stays", JANUARY, frame, **RUN)
    with pytest.raises(LakeError, match=r"toy.stays: 1 of 1 rows are not of month 2025-01"):
        lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]).with_columns(month=pl.lit(None, pl.Date)), **RUN)


def test_a_month_without_rows_is_not_written(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"toy.stays: no rows for month 2025-01"):
        lake.write_month("toy.stays", JANUARY, stays(JANUARY, []), **RUN)
    with pytest.raises(LakeError, match="is not the first of a month"):
        lake.write_month("toy.stays", date(2025, 1, 2), stays(JANUARY, [1]), **RUN)
    with pytest.raises(LakeError, match="needs a column `month` of type Date"):
        lake.write_month("toy.stays", JANUARY, pl.DataFrame({"days": [1]}), **RUN)


def test_reading_a_month_never_written_is_an_error_that_says_which_are(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    lake.write_month("toy.stays", FEBRUARY, stays(FEBRUARY, [1]), **RUN)

    expected = r"toy.stays has no rows for 2025-03; materialise 2025-03 first; months present: 2025-01..2025-02"
    with pytest.raises(LakeError, match=expected):
        lake.read("toy.stays", month=MARCH)
    with pytest.raises(LakeError, match=expected):
        lake.read("toy.stays", months=[JANUARY, MARCH])
    with pytest.raises(LakeError, match="no month is asked for"):
        lake.read("toy.stays", months=[])
    assert lake.read("toy.stays", months=[JANUARY, FEBRUARY]).height == 2


def test_reading_what_does_not_exist_is_an_error(lake: Lake) -> None:
    first = lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    lake.write_table("toy.later", stays(JANUARY, [1]), **RUN)

    with pytest.raises(LakeError, match=r"there is no table toy.nothing; materialise it first"):
        lake.read("toy.nothing")
    with pytest.raises(LakeError, match=r"there is no table toy.nothing"):
        lake.months("toy.nothing")
    with pytest.raises(LakeError, match=rf"there is no table toy.later at snapshot {first.snapshot}"):
        lake.read("toy.later", snapshot=first.snapshot)
    with pytest.raises(LakeError, match=r"toy.stays: there is no snapshot 999"):
        lake.read("toy.stays", snapshot=999)
    with pytest.raises(LakeError, match=r"toy.stays: no column age; it has month, days"):
        lake.read("toy.stays", columns=["age"])
    with pytest.raises(LakeError, match=r"toy.stays: no column age"):
        lake.read("toy.stays", where={"age": 3})
    assert (lake.exists("toy.nothing"), lake.exists("toy.stays")) == (False, True)
    assert lake.tables() == ["toy.later", "toy.stays"]


def test_a_read_can_be_limited_to_columns_and_rows(lake: Lake) -> None:
    frame = pl.DataFrame({"version": [1, 2, 2], "metric": ["auroc", "auroc", "brier"], "value": [0.6, 0.7, 0.1]})
    lake.write_table("toy.evaluation", frame, **RUN)

    found = lake.read("toy.evaluation", columns=["value"], where={"version": 2, "metric": "auroc"})
    assert_frame_equal(found, pl.DataFrame({"value": [0.7]}))
    assert lake.read("toy.evaluation", where={"version": 3}).is_empty()


def test_a_pinned_snapshot_shows_the_table_as_it_was(lake: Lake) -> None:
    before = lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [2]), **RUN)
    lake.write_month("toy.stays", FEBRUARY, stays(FEBRUARY, [3]), **RUN)

    assert days(lake, snapshot=before.snapshot) == [1]
    assert days(lake) == [2, 3]
    with pytest.raises(LakeError, match="no rows for 2025-02"):
        lake.read("toy.stays", month=FEBRUARY, snapshot=before.snapshot)


def test_a_new_column_is_added_and_empty_in_the_months_before(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    wider = stays(FEBRUARY, [2]).with_columns(age=pl.lit(70, pl.Int16))
    lake.write_month("toy.stays", FEBRUARY, wider, comments={"age": "Age (years)"}, **RUN)

    assert sorted(lake.read("toy.stays").select("days", "age").rows()) == [(1, None), (2, 70)]
    assert lake.read("toy.stays").schema["age"] == pl.Int16


@pytest.mark.parametrize("write", ["write_month", "append", "replace_by"])
def test_a_lost_column_or_a_changed_type_is_refused_and_changes_nothing(lake: Lake, write: str) -> None:
    def put(frame: pl.DataFrame) -> None:
        if write == "write_month":
            lake.write_month("toy.stays", JANUARY, frame, **RUN)
        elif write == "append":
            lake.append("toy.stays", frame, **RUN)
        else:
            lake.write_table("toy.stays", frame, replace_by="month", **RUN)

    put(stays(JANUARY, [1]))
    with pytest.raises(LakeError, match=r"toy.stays: the frame lacks days \(BIGINT\), which the table has"):
        put(stays(JANUARY, [1]).drop("days").with_columns(other=1))
    with pytest.raises(LakeError, match=r"toy.stays: column days is VARCHAR in the frame and BIGINT in the table"):
        put(stays(JANUARY, [1]).with_columns(pl.col("days").cast(pl.String), other=1))
    assert lake.read("toy.stays").rows() == [(JANUARY, 1)]
    assert lake.read("toy.stays").columns == ["month", "days"]


def test_a_table_replaced_as_a_whole_may_change_its_columns_and_keeps_its_past(lake: Lake) -> None:
    before = lake.write_table("toy.stays", stays(JANUARY, [1]), **RUN)
    after = lake.write_table("toy.stays", pl.DataFrame({"score": [0.5]}), description="Scores", **RUN)

    assert lake.read("toy.stays").rows() == [(0.5,)]
    assert days(lake, snapshot=before.snapshot) == [1]
    assert lake.write_table("toy.stays", pl.DataFrame({"score": [0.7]}), **RUN).snapshot == after.snapshot + 1
    assert lake.read("toy.stays").rows() == [(0.7,)]


def test_replacing_by_version_keeps_the_other_versions(lake: Lake) -> None:
    lake.write_table("toy.findings", pl.DataFrame({"version": [1, 2], "n": [10, 20]}), replace_by="version", **RUN)
    lake.write_table("toy.findings", pl.DataFrame({"version": [2, 3], "n": [21, 30]}), replace_by="version", **RUN)

    assert sorted(lake.read("toy.findings").rows()) == [(1, 10), (2, 21), (3, 30)]
    with pytest.raises(LakeError, match="1 rows have no version"):
        lake.write_table("toy.findings", pl.DataFrame({"version": [2, None], "n": [1, 1]}), replace_by="version", **RUN)
    with pytest.raises(LakeError, match="no rows, so it is unknown which version"):
        lake.write_table("toy.findings", lake.read("toy.findings").clear(), replace_by="version", **RUN)
    with pytest.raises(LakeError, match="lacks the column role"):
        lake.write_table("toy.findings", lake.read("toy.findings"), replace_by="role", **RUN)


def test_appending_removes_nothing(lake: Lake) -> None:
    lake.append("toy.ledger", pl.DataFrame({"entry": ["a"]}), **RUN)
    lake.append("toy.ledger", pl.DataFrame({"entry": ["b"]}), **RUN)

    assert sorted(lake.read("toy.ledger")["entry"].to_list()) == ["a", "b"]
    with pytest.raises(LakeError, match="no rows to append"):
        lake.append("toy.ledger", pl.DataFrame({"entry": []}, schema={"entry": pl.String}), **RUN)


def test_a_table_without_rows_can_be_kept_and_writing_it_again_changes_nothing(lake: Lake) -> None:
    empty = pl.DataFrame(schema={"role": pl.String})
    first = lake.write_table("toy.sign_off", empty, **RUN)
    lake.write_table("toy.other", stays(JANUARY, [1]), **RUN)
    again = lake.write_table("toy.sign_off", empty, **RUN)

    assert_frame_equal(lake.read("toy.sign_off"), empty)
    assert (first.rows, again.snapshot) == (0, lake.latest_snapshot())


def test_months_are_told_of_tables_that_are_not_kept_by_month_too(lake: Lake) -> None:
    """The catalogue knows the months where files are partitioned by them; elsewhere the rows are asked."""
    both = pl.concat([stays(FEBRUARY, [1]), stays(JANUARY, [2])])
    lake.write_table("toy.stays", both, **RUN)
    assert lake.months("toy.stays") == [JANUARY, FEBRUARY]
    with pytest.raises(LakeError, match=r"no rows for 2025-03; .*; months present: 2025-01..2025-02"):
        lake.read("toy.stays", month=MARCH)

    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [3]), **RUN)
    assert (days(lake), days(lake, JANUARY)) == ([1, 3], [3])
    lake.write_table("toy.figures", pl.DataFrame({"value": [0.5]}), **RUN)
    with pytest.raises(LakeError, match=r"toy.figures: no column month; it has value"):
        lake.months("toy.figures")


def test_a_month_whose_last_row_is_gone_is_no_month_of_the_table(lake: Lake) -> None:
    lake.write_months(
        "toy.stays", [JANUARY, FEBRUARY], pl.concat([stays(JANUARY, [1, 2]), stays(FEBRUARY, [3])]), **RUN
    )
    before = lake.latest_snapshot()
    for day in (1, 2):
        with lake.cursor() as cursor:
            cursor.execute("DELETE FROM lake.toy.stays WHERE days = ?", [day])
    assert lake.months("toy.stays") == [FEBRUARY]
    assert lake.months("toy.stays", snapshot=before) == [JANUARY, FEBRUARY]
    with pytest.raises(LakeError, match="no rows for 2025-01"):
        lake.read("toy.stays", month=JANUARY)


def test_months_are_read_and_replaced_alike_after_small_files_were_merged(lake: Lake) -> None:
    lake.append("toy.stays", stays(JANUARY, [1]), **RUN)
    for day in (2, 3):
        lake.write_table("toy.stays", stays(JANUARY, [day]), **RUN)
    lake.write_month("toy.by_month", JANUARY, stays(JANUARY, [1, 2]), **RUN)
    lake.append("toy.by_month", stays(JANUARY, [3]), **RUN)
    lake.append("toy.by_month", stays(FEBRUARY, [4]), **RUN)
    before = lake.latest_snapshot()
    with lake.cursor() as cursor:
        cursor.execute("CALL ducklake_merge_adjacent_files('lake')")

    assert lake.latest_snapshot() > before, "by which a reader knows that files were merged meanwhile"
    assert lake.months("toy.by_month") == [JANUARY, FEBRUARY]
    assert sorted(lake.read("toy.by_month", month=JANUARY)["days"]) == [1, 2, 3]
    lake.write_month("toy.by_month", JANUARY, stays(JANUARY, [5]), **RUN)
    assert sorted(lake.read("toy.by_month")["days"]) == [4, 5]


def test_a_month_is_read_whole_while_somebody_merges_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1, 2]), **RUN)
    lake.append("toy.stays", stays(JANUARY, [3]), **RUN)
    ask, merged = lake_module.partition_files, []

    def ask_before_a_merge(*asked: Any) -> dict[str, list[str]] | None:
        answer = ask(*asked)
        if not merged:
            merged.extend(lake.cursor().execute("CALL ducklake_merge_adjacent_files('lake')").fetchall())
        return answer

    monkeypatch.setattr(lake_module, "partition_files", ask_before_a_merge)
    assert days(lake, JANUARY) == [1, 2, 3]
    assert len(merged) == 1
    assert days(lake, JANUARY) == [1, 2, 3]


def test_a_month_with_rows_of_which_none_is_asked_for_is_there_all_the_same(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    found = lake.read("toy.stays", month=JANUARY, where={"days": 7}, columns=["days"])
    assert_frame_equal(found, pl.DataFrame(schema={"days": pl.Int64}))
    with pytest.raises(LakeError, match="no rows for 2025-02"):
        lake.read("toy.stays", months=[JANUARY, FEBRUARY], where={"days": 1}, columns=["days"])


def test_several_months_are_replaced_in_one_commit_and_the_others_stay(lake: Lake) -> None:
    for month in (JANUARY, FEBRUARY, MARCH):
        lake.write_month("toy.stays", month, stays(month, [1]), **RUN)
    before = lake.latest_snapshot()
    anew = pl.concat([stays(MARCH, [4, 5]), stays(JANUARY, [6])])
    commit = lake.write_months("toy.stays", [JANUARY, MARCH], anew, **RUN)

    assert (commit.snapshot, commit.rows) == (before + 1, 3)
    assert [days(lake, month) for month in (JANUARY, FEBRUARY, MARCH)] == [[6], [1], [4, 5]]


def test_of_several_months_each_must_have_rows_and_no_row_may_be_of_another(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"toy.stays: no rows for month 2025-02; a month without rows is not written"):
        lake.write_months("toy.stays", [JANUARY, FEBRUARY], stays(JANUARY, [1]), **RUN)
    both = pl.concat([stays(JANUARY, [1]), stays(FEBRUARY, [2])])
    with pytest.raises(LakeError, match=r"toy.stays: 1 of 2 rows are not of month 2025-01, 2025-03; remove them"):
        lake.write_months("toy.stays", [JANUARY, MARCH], both, **RUN)
    with pytest.raises(LakeError, match="no month is given to write"):
        lake.write_months("toy.stays", [], stays(JANUARY, []), **RUN)
    assert not lake.exists("toy.stays")


@pytest.mark.parametrize("value", ["a b/c=d%20", "Müller'", "", 7, JANUARY])
def test_rows_are_replaced_by_any_value(lake: Lake, value: Any) -> None:
    """What the catalogue says of the values of a partition decides whether there is anything to replace."""
    frame = pl.DataFrame({"by": [value], "n": [1]})
    lake.write_table("toy.by_value", frame, replace_by="by", **RUN)
    lake.write_table("toy.by_value", pl.DataFrame({"by": [value], "n": [2]}), replace_by="by", **RUN)
    assert lake.read("toy.by_value").rows() == [(value, 2)]


def test_tables_written_together_are_one_commit(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    before = lake.latest_snapshot()
    commit = lake.write_together(
        [
            Write("toy.stays", stays(FEBRUARY, [2]), months=[FEBRUARY], comments={"days": "Stay (days)"}),
            Write("other.ledger", pl.DataFrame({"entry": ["a", "b"]}), append=True, description="What happened"),
            Write("toy.findings", pl.DataFrame({"version": [1], "n": [10]}), replace_by="version"),
        ],
        author="o'run",
        message="{}",
    )

    assert (commit.snapshot, commit.rows) == (before + 1, 4)
    assert commit.columns == {
        "toy.stays": ("month", "days"),
        "other.ledger": ("entry",),
        "toy.findings": ("version", "n"),
    }
    assert days(lake) == [1, 2]
    assert sorted(lake.read("other.ledger")["entry"]) == ["a", "b"]
    assert lake.descriptions()["other.ledger"].comment == "What happened"
    assert lake.snapshots().row(-1, named=True)["author"] == "o'run"


def test_of_tables_written_together_one_that_is_refused_keeps_out_all(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    before = lake.latest_snapshot()
    other = Write("toy.other", pl.DataFrame({"x": [1]}))
    for refused in (
        Write("toy.stays", stays(JANUARY, [2]).drop("days").with_columns(x=1), months=[JANUARY]),
        Write("toy.stays", stays(JANUARY, [2]), months=[FEBRUARY]),
        Write("toy.stays", stays(JANUARY, [2]), months=[JANUARY], append=True),
        Write("toy.other", pl.DataFrame({"x": [2]})),
    ):
        with pytest.raises(LakeError, match=r"frame lacks|not of month|not two of them|each to a table of its own"):
            lake.write_together([other, refused], **RUN)
    with pytest.raises(LakeError, match="one write or more"):
        lake.write_together([], **RUN)
    assert (lake.latest_snapshot(), lake.tables(), days(lake)) == (before, ["toy.stays"], [1])


def test_a_commit_says_the_columns_in_the_order_in_which_they_are_read(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    turned = stays(FEBRUARY, [2]).select(pl.lit(70).alias("age"), "days", "month")
    commit = lake.write_month("toy.stays", FEBRUARY, turned, **RUN)
    assert list(commit.columns["toy.stays"]) == lake.read("toy.stays").columns == ["month", "days", "age"]


def test_the_catalogue_tells_which_tables_changed_since_a_snapshot(lake: Lake) -> None:
    def changed_by(act: Callable[[], object]) -> set[str]:
        before = lake.latest_snapshot()
        assert lake.changed_since(before) == set()
        act()
        return lake.changed_since(before)

    def write(table: str, month: date = JANUARY, **given: Any) -> Callable[[], object]:
        return lambda: lake.write_month(table, month, stays(month, [1]), **RUN, **given)

    def execute(statement: str) -> Callable[[], object]:
        return lambda: lake.cursor().execute(statement)

    write("toy.untouched")()
    first = lake.latest_snapshot()
    assert changed_by(write("toy.stays")) == {"toy.stays"}
    assert changed_by(write("toy.stays", FEBRUARY)) == {"toy.stays"}
    assert changed_by(write("toy.other")) == {"toy.other"}
    assert changed_by(write("toy.other", description="Others")) == {"toy.other"}
    assert changed_by(write("toy.other", comments={"days": "Days"})) == {"toy.other"}
    assert changed_by(execute("DELETE FROM lake.toy.stays WHERE month = '2025-01-01'")) == {"toy.stays"}
    assert changed_by(execute("ALTER TABLE lake.toy.stays ADD COLUMN age INT")) == {"toy.stays"}
    assert changed_by(execute("DROP TABLE lake.toy.stays")) == {"toy.stays"}
    assert lake.changed_since(first) == {"toy.stays", "toy.other"}
    assert lake.changed_since(0) == lake.changed_since(999) == {"toy.untouched", "toy.stays", "toy.other"}


def test_where_the_snapshot_to_compare_with_is_gone_every_table_may_have_changed(lake: Lake) -> None:
    first = lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    lake.write_table("toy.other", stays(JANUARY, [1]), **RUN)
    assert lake.changed_since(first.snapshot) == {"toy.other"}
    with lake.cursor() as cursor:
        cursor.execute(f"CALL ducklake_expire_snapshots('lake', versions => [{first.snapshot}])")
    assert lake.changed_since(first.snapshot) == {"toy.stays", "toy.other"}


def test_the_catalogue_describes_tables_as_they_were_at_a_snapshot(lake: Lake) -> None:
    first = lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), description="Stays", **RUN)
    lake.write_month(
        "toy.stays", JANUARY, stays(JANUARY, [1]).with_columns(scan=pl.lit(b"x")), comments={"days": "Days"}, **RUN
    )
    lake.write_table("toy.other", stays(JANUARY, [1]), **RUN)

    assert set(lake.descriptions()) == {"toy.stays", "toy.other"}
    assert lake.descriptions(["toy.nothing"]) == {}
    now = lake.descriptions(["toy.stays"])["toy.stays"]
    assert (now.table, now.comment) == ("toy.stays", "Stays")
    assert [(column.name, column.kind, column.comment) for column in now.columns] == [
        ("month", "date", None),
        ("days", "int64", "Days"),
        ("scan", "blob", None),
    ]
    then = lake.descriptions(snapshot=first.snapshot)
    assert [column.name for column in then["toy.stays"].columns] == ["month", "days"]
    assert {column.comment for column in then["toy.stays"].columns} == {None}
    assert set(then) == {"toy.stays"}


def test_no_question_and_no_write_asks_for_the_statistics_of_other_tables(lake: Lake) -> None:
    """DuckDB's own functions do, of every table and after every commit: that is hours of work on a big platform."""
    for table in ("toy.stays", "toy.other", "toy.third"):
        lake.write_month(table, JANUARY, stays(JANUARY, [1]), **RUN)
    script = """
import sys
from datetime import date
from pathlib import Path
import polars as pl
from clinical_assets.resources.lake import Lake

lake = Lake(sys.argv[1], Path(sys.argv[2]))
cursor = lake.cursor()
cursor.execute("CALL enable_logging('DuckLakeMetadata')")
frame = pl.DataFrame({"month": [date(2025, 1, 1)], "days": [2]})
lake.exists("toy.stays"), lake.tables(), lake.descriptions(), lake.changed_since(1), lake.months("toy.stays")
lake.read("toy.stays", month=date(2025, 1, 1))
lake.write_month("toy.stays", date(2025, 1, 1), frame, author="", message="", description="x", comments={"days": "y"})
for (message,) in cursor.execute("SELECT message FROM duckdb_logs WHERE type = 'DuckLakeMetadata'").fetchall():
    print(" ".join(str(message).split()))
"""
    command = [sys.executable, "-c", script, lake.catalogue, str(lake.data)]
    said = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout.splitlines()
    asked = [line for line in said if "record_count, next_row_id" in line]
    of_tables = {found[1] for line in asked if (found := re.search(r"table_id = (\d+)", line))}
    assert len(asked) > 0
    assert len(of_tables) == 1, "statistics of the table that is written, and of no other"
    assert all("table_id = " in line for line in asked)


def comments(lake: Lake) -> tuple[list[tuple[str]], list[tuple[str, str]]]:
    with lake.cursor() as cursor:
        tables = cursor.execute("SELECT comment FROM duckdb_tables() WHERE table_name = 'stays'").fetchall()
        columns = "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'stays' ORDER BY column_index"
        return tables, cursor.execute(columns).fetchall()


def test_tables_and_columns_carry_their_descriptions(lake: Lake) -> None:
    said = {"month": "First of the month", "days": "Patient's stay (days)"}
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), description="One row a stay", comments=said, **RUN)
    assert comments(lake) == ([("One row a stay",)], list(said.items()))

    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), comments={"days": "Stay (days)"}, **RUN)
    assert comments(lake) == ([("One row a stay",)], [("month", "First of the month"), ("days", "Stay (days)")])

    with pytest.raises(LakeError, match="comments on columns the frame does not have: age"):
        lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), comments={"age": "Age (years)"}, **RUN)


def test_the_same_description_again_does_not_alter_the_table(lake: Lake) -> None:
    for _ in range(2):
        said = {"days": "Stay (days)"}
        lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), description="Stays", comments=said, **RUN)

    with lake.cursor() as cursor:
        changes = cursor.execute("SELECT changes FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT 1").fetchall()
    assert "tables_inserted_into" in changes[0][0]
    assert "tables_altered" not in changes[0][0]


def test_snapshots_tell_author_and_message(lake: Lake) -> None:
    commit = lake.write_month(
        "toy.stays", JANUARY, stays(JANUARY, [1]), author="o'run", message='{"asset": "toy/stays"}'
    )

    last = lake.snapshots().row(-1, named=True)
    assert (last["snapshot"], last["author"], last["message"]) == (commit.snapshot, "o'run", '{"asset": "toy/stays"}')
    assert abs(datetime.now(UTC) - last["committed_at"]) < timedelta(minutes=1)


def test_the_snapshot_of_a_commit_is_its_own_also_among_threads(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: dict[str, int] = {}
    lake.tables()
    number = lake_module._number

    def number_after_the_others_had_time(cursor: duckdb.DuckDBPyConnection, query: str) -> int:
        if "last_committed" in query:
            time.sleep(0.05)
        return number(cursor, query)

    monkeypatch.setattr(lake_module, "_number", number_after_the_others_had_time)

    def write(name: str) -> None:
        for turn in range(3):
            author = f"{name}-{turn}"
            frame = pl.DataFrame({"x": [turn]})
            commits[author] = lake.write_table(f"toy.{name}", frame, author=author, message="").snapshot

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    told = lake.snapshots().drop_nulls("author")
    assert commits == dict(zip(told["author"], told["snapshot"], strict=True))
    assert len(commits) == 9


@pytest.mark.parametrize(
    "name",
    ["stays", "toy.stays.x", "Toy.stays", 'toy."stays"', "toy.stays; DROP TABLE toy.stays", "toy.", "", "toy.a\n"],
)
def test_names_that_are_no_identifiers_never_reach_the_engine(lake: Lake, name: str) -> None:
    with pytest.raises(LakeError, match="is no name of a table"):
        lake.read(name)
    with pytest.raises(LakeError, match="is no name of a table"):
        lake.write_table(name, stays(JANUARY, [1]), **RUN)
    with pytest.raises(LakeError, match="is no name of a table"):
        lake.exists(name)


def test_a_column_may_have_any_name(lake: Lake) -> None:
    frame = pl.DataFrame({'glyburide-metformin "x"; DROP': [1], "O2Sat": [2]})
    lake.write_table("toy.odd", frame, comments={'glyburide-metformin "x"; DROP': "Dose change"}, **RUN)
    assert_frame_equal(lake.read("toy.odd", where={'glyburide-metformin "x"; DROP': 1}), frame)


def test_the_lake_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "catalogue.sqlite").touch(mode=0o666)
    (tmp_path / "data").mkdir(mode=0o777)
    Lake(str(tmp_path / "catalogue.sqlite"), tmp_path / "data").tables()

    assert (tmp_path / "catalogue.sqlite").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_no_value_stands_in_clear_in_a_file_except_the_least_and_greatest_in_the_catalogue(
    lake: Lake, tmp_path: Path
) -> None:
    least, canary, greatest = "aaaa-first-patient", "mmmm-canary-patient", "zzzz-last-patient"
    frame = pl.DataFrame({"month": [JANUARY] * 3, "patient": [least, canary, greatest]})
    lake.write_month("toy.stays", JANUARY, frame, **RUN)

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    parquet = [path.read_bytes() for path in files if path.suffix == ".parquet"]
    catalogue = b"".join(path.read_bytes() for path in files if path.suffix != ".parquet")
    assert len(parquet) == 1
    assert not any(word.encode() in content for content in parquet for word in (least, canary, greatest))
    assert canary.encode() not in catalogue
    # Documented: why identifiers are pseudonymised before they reach the lake.
    assert least.encode() in catalogue
    assert greatest.encode() in catalogue


def test_an_engine_is_opened_once_and_not_shared_with_a_forked_child(tmp_path: Path) -> None:
    script = """
import os, sys
from datetime import date
from pathlib import Path
import polars as pl
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_engine import lake_engine

lake = Lake(sys.argv[1] + "/catalogue.sqlite", Path(sys.argv[1]) / "data")
frame = pl.DataFrame({"month": [date(2025, 1, 1)], "x": [1]})
lake.write_month("toy.a", date(2025, 1, 1), frame, author="parent", message="")
engine = lake_engine(lake.catalogue, lake.data)
assert lake_engine(lake.catalogue, lake.data) is engine
child = os.fork()
if child == 0:
    assert lake_engine(lake.catalogue, lake.data) is not engine
    with lake.cursor() as cursor:
        cursor.execute("INSERT INTO lake.toy.a VALUES ('2025-02-01', 2)")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert lake.months("toy.a") == [date(2025, 1, 1), date(2025, 2, 1)]
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)


def test_a_transaction_is_tried_again_until_the_other_writers_are_done() -> None:
    advice = 'Exceeded the maximum retry count of 0. E.g., "SET ducklake_max_retry_count = 0;"\n'
    answers = ["database is locked", "Transaction conflict - another has deleted", f"{advice}could not serialize", ""]

    def act() -> str:
        if answer := answers.pop(0):
            raise duckdb.Error(answer)
        return "done"

    assert attempt("toy.stays", 60.0, act) == ("done", 4)


def test_other_writers_beyond_patience_are_an_error_that_names_the_table() -> None:
    def act() -> None:
        raise duckdb.Error("Failed to flush changes into DuckLake: database is locked")

    with pytest.raises(
        LakeError, match=r"toy.stays: other writers kept the lake busy \(\d+ attempts in 0.05 s\).*is locked$"
    ):
        attempt("toy.stays", 0.05, act)


def test_a_full_disk_is_told_at_once() -> None:
    def act() -> None:
        advice = 'Exceeded the maximum retry count of 0. E.g., "SET ducklake_max_retry_count = 0;"'
        raise duckdb.Error(f"{advice}\ndatabase or disk is full")

    with pytest.raises(LakeError, match=r"toy.stays: the transaction failed; .*: database or disk is full$"):
        attempt("toy.stays", 60.0, act)


def test_an_error_of_the_catalogue_quotes_no_value_and_no_password() -> None:
    def fail() -> None:
        raise duckdb.Error(
            'Failed to execute query "INSERT INTO stats VALUES (\'canary-7\', "min")": password=secret gone'
        )

    with pytest.raises(LakeError, match=r"toy.stays: the transaction failed") as caught:
        attempt("toy.stays", 0.0, fail)
    assert "canary-7" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_the_catalogue_of_another_data_folder_is_refused(lake: Lake, tmp_path: Path) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    with pytest.raises(
        LakeError, match=r"elsewhere does not hold the files of this catalogue, which was made for .*data"
    ):
        Lake(lake.catalogue, tmp_path / "elsewhere").tables()


MOVED = """
import sys
from datetime import date, timedelta
from pathlib import Path
import polars as pl
from clinical_assets.resources.lake import Lake

lake = Lake(sys.argv[1] + "/catalogue.sqlite", Path(sys.argv[1]) / "data")
print(sorted(lake.read("toy.stays", month=date(2025, 1, 1))["days"]))
frame = pl.DataFrame({"month": [date(2025, 2, 1)], "days": [7]})
lake.write_month("toy.stays", date(2025, 2, 1), frame, author="", message="")
lake.write_month("toy.stays", date(2025, 1, 1), frame.with_columns(month=date(2025, 1, 1)), author="", message="")
print(sorted(lake.read("toy.stays")["days"]), lake.delete_orphaned_files(timedelta(hours=1)))
"""


@pytest.mark.parametrize("old_stays", [False, True], ids=["moved", "copied"])
def test_a_lake_can_be_moved_or_copied_and_a_copy_leaves_the_original_alone(tmp_path: Path, old_stays: bool) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    lake = Lake(str(old / "catalogue.sqlite"), old / "data")
    write = (
        "import sys; from pathlib import Path; from test_lake import *; lake = Lake(sys.argv[1], Path(sys.argv[2]));"
    )
    write += "lake.write_month('toy.stays', JANUARY, stays(JANUARY, [1, 2]), **RUN)"
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", write, lake.catalogue, str(lake.data)]
    subprocess.run(command, check=True, timeout=60, env=os.environ | path)
    (orphan := old / "data" / "toy" / "stays" / "ducklake-orphan.parquet").touch()
    os.utime(orphan, (1.0, 1.0))
    if old_stays:
        shutil.copytree(old, new)
    else:
        old.rename(new)
    originals = sorted(old.rglob("*.parquet"))

    told = subprocess.run(
        [sys.executable, "-c", MOVED, str(new)], check=True, timeout=60, capture_output=True, text=True
    )
    assert told.stdout.splitlines() == ["[1, 2]", "[7, 7] 1"]
    assert not (new / "data" / "toy" / "stays" / "ducklake-orphan.parquet").exists()
    assert sorted(old.rglob("*.parquet")) == originals
    assert len(originals) == (2 if old_stays else 0)
    assert days(Lake(str(new / "catalogue.sqlite"), new / "data")) == [7, 7]


def test_only_old_files_that_no_snapshot_knows_are_deleted(lake: Lake, tmp_path: Path) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, [1]), **RUN)
    [known] = (tmp_path / "data").rglob("*.parquet")
    old, young = known.with_name("ducklake-old.parquet"), known.with_name("ducklake-young.parquet")
    for path, age in ((old, timedelta(days=2)), (young, timedelta(0)), (known, timedelta(days=2))):
        path.touch()
        moment = time.time() - age.total_seconds()
        os.utime(path, (moment, moment))

    assert lake.delete_orphaned_files(timedelta(days=1)) == 1
    assert (old.exists(), young.exists(), known.exists()) == (False, True, True)
    assert days(lake) == [1]
    with pytest.raises(LakeError, match="may belong to a writer at work"):
        lake.delete_orphaned_files(timedelta(minutes=5))
