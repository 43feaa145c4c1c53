import multiprocessing
import shutil
import signal
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from clinical_assets.resources.analytics import publish_analytics
from clinical_assets.resources.lake import Lake, LakeError

JANUARY, FEBRUARY = date(2025, 1, 1), date(2025, 2, 1)
RUN: Any = {"author": "run-1", "message": "{}"}
FILES = [".analytics.duckdb.lock", ".analytics.duckdb.working", "analytics.duckdb"]

# An analyst with the file open read-only: says what it counts each time it is asked.
READER = """
import sys
import duckdb

connection = duckdb.connect(sys.argv[1], read_only=True)
for _ in sys.stdin:
    print(connection.execute("SELECT count(*) FROM toy.stays").fetchall()[0][0], flush=True)
"""

# An analyst who forces the file writable, makes a table of his own, and is killed before his log is folded in.
SCRIBBLER = """
import os, signal, sys
import duckdb

os.chmod(sys.argv[1], 0o600)
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE toy.mine AS SELECT 1 AS x")
os.kill(os.getpid(), signal.SIGKILL)
"""

# A publisher killed in the middle of building.
HALF_A_PUBLISHER = """
import os, signal, sys
from pathlib import Path
from clinical_assets.resources import analytics
from clinical_assets.resources.lake import Lake

analytics._create_view = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
analytics.publish_analytics(Lake(sys.argv[1], Path(sys.argv[2])), Path(sys.argv[3]), ["toy"])
"""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake" / "catalogue.sqlite"), tmp_path / "lake" / "data")
    write_stays(lake, JANUARY, 2)
    return lake


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "published" / "analytics.duckdb"


def write_stays(lake: Lake, month: date, rows: int) -> None:
    frame = pl.DataFrame(
        {
            "month": [month] * rows,
            "admitted_at": [datetime(2025, 1, 2, 3, tzinfo=UTC)] * rows,
            "days": pl.Series(range(rows), dtype=pl.Int8),
        }
    )
    said = {"month": "First of the month", "admitted_at": "Admission (UTC)", "days": "Stay (patient's days)"}
    lake.write_month("toy.stays", month, frame, description="One row a stay", comments=said, **RUN)


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def tables(path: Path) -> list[str]:
    found = "SELECT table_schema || '.' || table_name FROM information_schema.tables ORDER BY 1"
    return [name for (name,) in query(path, found) if name != "governance.publication"]


def test_the_file_has_the_lakes_tables_rows_types_and_comments(lake: Lake, path: Path) -> None:
    write_stays(lake, FEBRUARY, 3)
    published = publish_analytics(lake, path, ["toy"])

    assert (published.path, published.tables, published.rows) == (path, 1, 5)
    assert published.snapshot == lake.latest_snapshot()
    assert query(path, "SELECT month, count(*) FROM toy.stays GROUP BY 1 ORDER BY 1") == [(JANUARY, 2), (FEBRUARY, 3)]
    assert query(path, "SELECT comment FROM duckdb_tables() WHERE schema_name = 'toy'") == [("One row a stay",)]
    assert query(path, "SELECT snapshot FROM governance.publication") == [(lake.latest_snapshot(),)]
    assert query(path, "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE schema_name = 'toy'") == [
        ("month", "DATE", "First of the month"),
        ("admitted_at", "TIMESTAMP WITH TIME ZONE", "Admission (UTC)"),
        ("days", "TINYINT", "Stay (patient's days)"),
    ]


def test_only_the_tables_of_the_models_named_and_of_governance_are_published(lake: Lake, path: Path) -> None:
    lake.write_table("governance.incident", pl.DataFrame({"entry": ["a"]}), **RUN)
    lake.write_table("private.names", pl.DataFrame({"name": ["b"]}), **RUN)
    publish_analytics(lake, path, ["toy", "not_yet_built"])

    assert tables(path) == ["governance.incident", "toy.stays"]


def test_columns_of_bytes_stay_in_the_lake(lake: Lake, path: Path) -> None:
    profile = pl.DataFrame({"column": ["age"], "sketch": [b"\x00"]})
    lake.write_table("toy.sketches", profile, comments={"column": "Column profiled"}, **RUN)
    publish_analytics(lake, path, ["toy"])

    assert query(path, "DESCRIBE toy.sketches")[0][:2] == ("column", "VARCHAR")
    assert query(path, "FROM toy.sketches") == [("age",)]


def test_views_show_all_models_under_any_name_the_client_gives_the_file(lake: Lake, path: Path) -> None:
    reports = pl.DataFrame({"month": [JANUARY], "verdict": ["stable"]})
    lake.write_month("toy.predictions", JANUARY, reports, description="Drift", comments={"verdict": "Verdict"}, **RUN)
    lake.write_month("other.predictions", JANUARY, reports.with_columns(severity=0.5), **RUN)
    lake.write_table("toy.release", pl.DataFrame({"model": ["toy"], "version": [1]}), **RUN)
    publish_analytics(lake, path, ["toy", "other"])

    seen = "SELECT model, verdict, severity FROM {}monitoring.predictions ORDER BY model"
    rows = [("other", "stable", 0.5), ("toy", "stable", None)]
    assert query(path, seen.format("")) == rows
    assert query(path, "FROM governance.release") == [("toy", 1)]
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{path}' AS any_name (READ_ONLY)")
        assert connection.execute(seen.format("any_name.")).fetchall() == rows
    said = "SELECT column_name, comment FROM duckdb_columns() WHERE schema_name = 'monitoring'"
    assert ("verdict", "Verdict") in query(path, said)
    assert ("model", "Model the row is of") in query(path, said)
    assert tables(path) == [
        *("governance.release", "monitoring.predictions"),
        *("other.predictions", "toy.predictions", "toy.release", "toy.stays"),
    ]


def test_all_tables_show_the_same_snapshot_while_writers_go_on(
    lake: Lake, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clinical_assets.resources import analytics

    lake.write_table("toy.alpha", pl.DataFrame({"x": [1]}), **RUN)
    lake.write_table("toy.beta", pl.DataFrame({"x": [1]}), **RUN)
    before = lake.latest_snapshot()
    renew = analytics._renew_table

    def renew_and_write(*arguments: Any) -> int:
        rows = renew(*arguments)
        for name in ("toy.alpha", "toy.beta"):
            lake.write_table(name, pl.DataFrame({"x": [2]}), **RUN)
        return rows

    monkeypatch.setattr(analytics, "_renew_table", renew_and_write)
    assert publish_analytics(lake, path, ["toy"]).snapshot == before
    assert query(path, "SELECT alpha.x, beta.x FROM toy.alpha, toy.beta") == [(1, 1)]


def test_a_reader_is_not_disturbed_and_the_next_one_sees_the_new_file(lake: Lake, path: Path) -> None:
    publish_analytics(lake, path, ["toy"])
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:

        def ask() -> int:
            assert reader.stdin is not None
            assert reader.stdout is not None
            reader.stdin.write("\n")
            reader.stdin.flush()
            return int(reader.stdout.readline())

        assert ask() == 2
        write_stays(lake, FEBRUARY, 3)
        publish_analytics(lake, path, ["toy"])
        assert ask() == 2
    assert reader.returncode == 0
    assert query(path, "SELECT count(*) FROM toy.stays") == [(5,)]


def test_the_log_of_a_killed_analyst_is_not_replayed_into_the_new_file(lake: Lake, path: Path) -> None:
    publish_analytics(lake, path, ["toy"])
    killed = subprocess.run([sys.executable, "-c", SCRIBBLER, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    log = path.with_name("analytics.duckdb.wal")
    assert log.exists()

    publish_analytics(lake, path, ["toy"])
    assert not log.exists()
    assert tables(path) == ["toy.stays"]


def test_the_file_is_read_only_unencrypted_and_alone(lake: Lake, path: Path) -> None:
    publish_analytics(lake, path, ["toy"])

    assert path.stat().st_mode & 0o777 == 0o444
    assert sorted(entry.name for entry in path.parent.iterdir()) == FILES
    copy = path.with_name("copy.duckdb")
    shutil.copy(path, copy)
    assert query(copy, "SELECT count(*) FROM toy.stays") == [(2,)]


def test_a_killed_publisher_leaves_no_file_and_the_next_publishes_all(lake: Lake, path: Path) -> None:
    lake.write_month("toy.predictions", JANUARY, pl.DataFrame({"month": [JANUARY]}), **RUN)
    command = [sys.executable, "-c", HALF_A_PUBLISHER, lake.catalogue, str(lake.data), str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not path.exists()

    publish_analytics(lake, path, ["toy"])
    assert sorted(entry.name for entry in path.parent.iterdir()) == FILES
    assert query(path, "SELECT count(*) FROM toy.stays") == [(2,)]


def test_a_file_renewed_by_months_equals_one_built_from_nothing(lake: Lake, path: Path, tmp_path: Path) -> None:
    lake.write_table("toy.training_set", pl.DataFrame({"month": [JANUARY, FEBRUARY], "split": ["a", "b"]}), **RUN)
    lake.write_table("toy.release", pl.DataFrame({"version": [1]}), **RUN)
    publish_analytics(lake, path, ["toy"])

    write_stays(lake, JANUARY, 4)  # a month replaced,
    write_stays(lake, FEBRUARY, 3)  # a month added,
    lake.write_table("toy.training_set", pl.DataFrame({"month": [FEBRUARY], "split": ["c"]}), **RUN)  # a month lost,
    lake.append("toy.release", pl.DataFrame({"version": [2]}), **RUN)  # rows added,
    publish_analytics(lake, path, ["toy"])
    renewed = {table: sorted(query(path, f"FROM {table}")) for table in tables(path)}
    fresh = tmp_path / "fresh" / "analytics.duckdb"
    publish_analytics(lake, fresh, ["toy"])

    assert renewed == {table: sorted(query(fresh, f"FROM {table}")) for table in tables(fresh)}
    assert query(path, "SELECT month, count(*) FROM toy.stays GROUP BY 1 ORDER BY 1") == [(JANUARY, 4), (FEBRUARY, 3)]
    assert query(path, "FROM toy.training_set") == [(FEBRUARY, "c")]


def test_only_changed_months_are_copied_again(lake: Lake, path: Path) -> None:
    publish_analytics(lake, path, ["toy"])
    working = path.with_name(".analytics.duckdb.working")
    with duckdb.connect(str(working)) as connection:
        connection.execute("UPDATE toy.stays SET days = 99")
    write_stays(lake, FEBRUARY, 1)
    publish_analytics(lake, path, ["toy"])

    assert query(path, "SELECT month, days FROM toy.stays ORDER BY ALL") == [
        (JANUARY, 99),
        (JANUARY, 99),
        (FEBRUARY, 0),
    ]


def test_a_working_copy_that_is_damaged_or_of_another_lake_is_built_anew(
    lake: Lake, path: Path, tmp_path: Path
) -> None:
    publish_analytics(lake, path, ["toy"])
    path.with_name(".analytics.duckdb.working").write_bytes(b"no database")
    publish_analytics(lake, path, ["toy"])
    assert query(path, "SELECT count(*) FROM toy.stays") == [(2,)]

    other = Lake(str(tmp_path / "other" / "catalogue.sqlite"), tmp_path / "other" / "data")
    write_stays(other, JANUARY, 2)
    other.write_month("toy.stays", JANUARY, other.read("toy.stays").with_columns(days=pl.lit(7, pl.Int8)), **RUN)
    publish_analytics(other, path, ["toy"])
    assert query(path, "SELECT DISTINCT days FROM toy.stays") == [(7,)]


def test_publishers_at_once_wait_for_each_other(lake: Lake, path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    publishers = [spawn.Process(target=publish_analytics, args=(lake, path, ["toy"])) for _ in range(3)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(timeout=60)

    assert [publisher.exitcode for publisher in publishers] == [0, 0, 0]
    assert query(path, "SELECT count(*) FROM toy.stays") == [(2,)]


def test_nothing_to_publish_is_an_error_and_leaves_the_file_of_before(lake: Lake, path: Path) -> None:
    publish_analytics(lake, path, ["toy"])
    before = path.stat()
    with pytest.raises(LakeError, match="nothing to publish: no table of unknown is in the lake"):
        publish_analytics(lake, path, ["unknown"])

    assert path.stat().st_ino == before.st_ino
    assert sorted(entry.name for entry in path.parent.iterdir()) == FILES
    assert publish_analytics(lake, path, ["toy"]).rows == 2


def write_evaluation(lake: Lake, n: int) -> None:
    findings = pl.DataFrame(
        {
            "version": 1,
            "metric": "auroc",
            "subgroup": ["overall", "sex=F", "sex=M"],
            "value": [0.8, 0.7, 0.9],
            "low": 0.6,
            "high": 1.0,
            "n": [100, 100 - n, n],
        }
    )
    lake.write_table("toy.evaluation", findings, comments={"n": "Rows"}, **RUN)


def test_small_counts_stay_in_the_lake_and_null_is_told_from_suppressed(lake: Lake, path: Path) -> None:
    write_evaluation(lake, 4)
    lake.write_table("other.evaluation", lake.read("toy.evaluation"), **RUN)
    publish_analytics(lake, path, ["toy", "other"])

    shown = "SELECT subgroup, value, n, suppressed FROM {} ORDER BY subgroup"
    rows = [("overall", 0.8, 100, False), ("sex=F", None, None, True), ("sex=M", None, None, True)]
    assert query(path, shown.format("toy.evaluation")) == rows
    assert query(path, shown.format("governance.evaluation") + ", model")[::2] == rows
    assert sorted(lake.read("toy.evaluation")["n"]) == [4, 96, 100]
    [(comment,)] = query(
        path, "SELECT DISTINCT comment FROM duckdb_columns() WHERE column_name = 'suppressed' AND comment IS NOT NULL"
    )
    assert "1 to 10" in comment


def test_an_aggregate_table_is_shown_anew_when_it_changes(lake: Lake, path: Path) -> None:
    for n, seen in ((4, None), (40, 40), (40, 40)):
        write_evaluation(lake, n)
        publish_analytics(lake, path, ["toy"])
        assert query(path, "SELECT n FROM toy.evaluation WHERE subgroup = 'sex=M'") == [(seen,)]
        publish_analytics(lake, path, ["toy"])  # nothing new
        assert query(path, "SELECT n FROM toy.evaluation WHERE subgroup = 'sex=M'") == [(seen,)]


def test_an_aggregate_table_whose_counts_cannot_be_checked_is_not_published(lake: Lake, path: Path) -> None:
    lake.write_table("toy.evaluation", pl.DataFrame({"version": [1], "value": [0.5]}), **RUN)
    with pytest.raises(LakeError, match=r"toy\.evaluation lacks a column, without which its small counts"):
        publish_analytics(lake, path, ["toy"])
    assert not path.exists()
