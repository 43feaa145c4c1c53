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
FILES = [".analytics.duckdb.lock", ".analytics.duckdb.record", "analytics.duckdb"]

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

# A publisher killed after a step of putting the new file in the place of the old.
KILLED_IN_THE_SWAP = """
import os, signal, sys
from pathlib import Path
from clinical_assets.resources import analytics
from clinical_assets.resources.lake import Lake

def and_die(step):
    def do(*arguments):
        step(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    return do

last_step, catalogue, data, path = sys.argv[1:]
if last_step == "link":
    os.link = and_die(os.link)
elif last_step == "replace":
    Path.replace = and_die(Path.replace)
else:
    analytics.write_atomically = and_die(analytics.write_atomically)
analytics.publish_analytics(Lake(catalogue, Path(data)), Path(path), ["toy"])
"""

# A publisher killed in the middle of building.
HALF_A_PUBLISHER = """
import os, signal, sys
from pathlib import Path
from clinical_assets.resources import analytics, analytics_content
from clinical_assets.resources.lake import Lake

analytics_content._create_view = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
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
    from clinical_assets.resources import analytics_content

    lake.write_table("toy.alpha", pl.DataFrame({"x": [1]}), **RUN)
    lake.write_table("toy.beta", pl.DataFrame({"x": [1]}), **RUN)
    before = lake.latest_snapshot()
    renew = analytics_content._renew_table

    def renew_and_write(*arguments: Any) -> None:
        renew(*arguments)
        for name in ("toy.alpha", "toy.beta"):
            lake.write_table(name, pl.DataFrame({"x": [2]}), **RUN)

    monkeypatch.setattr(analytics_content, "_renew_table", renew_and_write)
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


def take_away_what_stands_in_it(lake: Lake) -> None:
    """The lake's files of before can no longer be read."""
    for file in lake.data.rglob("*.parquet"):
        file.rename(file.with_suffix(".gone"))


def test_only_months_and_tables_that_changed_are_read_again(lake: Lake, path: Path) -> None:
    lake.write_table("toy.release", pl.DataFrame({"version": [1]}), **RUN)
    write_evaluation(lake, 40)
    publish_analytics(lake, path, ["toy"])
    take_away_what_stands_in_it(lake)
    lake.write_month("toy.predictions", FEBRUARY, pl.DataFrame({"month": [FEBRUARY]}), **RUN)
    assert publish_analytics(lake, path, ["toy"]).rows == 7
    lake.write_month("toy.predictions", JANUARY, pl.DataFrame({"month": [JANUARY]}), **RUN)
    assert publish_analytics(lake, path, ["toy"]).rows == 8
    assert query(path, "SELECT count(*) FROM toy.stays") == [(2,)]


def test_comments_that_changed_are_shown_and_so_are_those_of_views(lake: Lake, path: Path) -> None:
    frame = pl.DataFrame({"month": [JANUARY], "verdict": ["stable"]})
    said = "SELECT DISTINCT comment FROM duckdb_columns() WHERE column_name = 'verdict'"
    for words in ("Verdict", "What is said of the month"):
        lake.write_month("toy.predictions", JANUARY, frame, comments={"verdict": words}, **RUN)
        publish_analytics(lake, path, ["toy"])
        assert query(path, said) == [(words,)]


def test_where_the_lake_has_nothing_new_the_file_stays_as_it_is(lake: Lake, path: Path) -> None:
    first = publish_analytics(lake, path, ["toy"])
    before = path.stat()
    again = publish_analytics(lake, path, ["toy"])
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.tables, again.rows, again.snapshot) == (first.tables, first.rows, first.snapshot)
    assert path.stat() == before


def test_who_waited_for_a_newer_publication_does_not_publish_once_more(lake: Lake, path: Path) -> None:
    asked = lake.latest_snapshot()
    write_stays(lake, FEBRUARY, 1)
    publish_analytics(lake, path, ["toy"])
    write_stays(lake, FEBRUARY, 2)
    assert not publish_analytics(lake, path, ["toy"], asked=asked).is_new
    assert publish_analytics(lake, path, ["toy"]).is_new


def test_two_files_take_turns_and_nothing_is_copied(lake: Lake, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inodes = []
    for rows in range(1, 6):
        if rows == 3:
            monkeypatch.setattr(shutil, "copyfile", None)
        write_stays(lake, FEBRUARY, rows)
        publish_analytics(lake, path, ["toy"])
        assert query(path, "SELECT count(*) FROM toy.stays") == [(2 + rows,)]
        inodes.append(path.stat().st_ino)
        assert path.stat().st_mode & 0o777 == 0o444
    assert inodes[0] == inodes[2] == inodes[4] != inodes[1] == inodes[3]
    assert path.with_name(".analytics.duckdb.spare").stat().st_mode & 0o777 == 0o600


def test_a_file_that_an_analyst_keeps_open_never_changes_under_him(lake: Lake, path: Path) -> None:
    publish_analytics(lake, path, ["toy"])
    publish_analytics(lake, path, ["toy"])
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for rows in (0, 3, 4, 5, 6):
            if rows:
                write_stays(lake, FEBRUARY, rows)
                publish_analytics(lake, path, ["toy"])
                assert query(path, "SELECT count(*) FROM toy.stays") == [(2 + rows,)]
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert int(reader.stdout.readline()) == 2


@pytest.mark.parametrize("how", ["read", "linked"])
def test_a_file_in_use_by_any_program_or_under_another_name_is_not_written_to(
    lake: Lake, path: Path, tmp_path: Path, how: str
) -> None:
    """A backup takes no lock, and neither does this process when it reads; another name may be a backup's too."""
    publish_analytics(lake, path, ["toy"])
    whole, mine = path.read_bytes(), tmp_path / "mine"
    mine.hardlink_to(path)
    with mine.open("rb") as used:
        if how == "read":
            mine.unlink()
        for rows in (3, 4, 5):
            write_stays(lake, FEBRUARY, rows)
            publish_analytics(lake, path, ["toy"])
            used.seek(0)
            assert used.read() == whole
    if how == "linked":
        write_stays(lake, FEBRUARY, 6)
        publish_analytics(lake, path, ["toy"])
        assert mine.read_bytes() == whole
    assert query(path, "SELECT count(*) FROM toy.stays")[0][0] in (7, 8)


@pytest.mark.parametrize("damage", [b"no database", None])
def test_a_spare_file_that_somebody_changed_is_thrown_away(lake: Lake, path: Path, damage: bytes | None) -> None:
    for rows in (1, 2):
        write_stays(lake, FEBRUARY, rows)
        publish_analytics(lake, path, ["toy"])
    spare = path.with_name(".analytics.duckdb.spare")
    if damage:
        spare.write_bytes(damage)
    else:
        with duckdb.connect(str(spare)) as connection:
            connection.execute("UPDATE toy.stays SET days = 99")
    write_stays(lake, FEBRUARY, 3)
    publish_analytics(lake, path, ["toy"])
    assert query(path, "SELECT count(*), max(days) FROM toy.stays") == [(5, 2)]


def test_what_an_analyst_did_to_the_published_file_is_gone_for_good(lake: Lake, path: Path) -> None:
    publish_analytics(lake, path, ["toy"])
    path.chmod(0o600)
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE toy.stays SET days = 99")
    for rows in (1, 2, 3):
        if rows > 1:
            write_stays(lake, FEBRUARY, rows)
        assert publish_analytics(lake, path, ["toy"]).is_new
        assert query(path, "SELECT max(days) FROM toy.stays WHERE month = '2025-01-01'") == [(1,)]


def test_a_file_of_another_lake_is_built_anew(lake: Lake, path: Path, tmp_path: Path) -> None:
    publish_analytics(lake, path, ["toy"])
    other = Lake(str(tmp_path / "other" / "catalogue.sqlite"), tmp_path / "other" / "data")
    write_stays(other, JANUARY, 2)
    other.write_month("toy.stays", JANUARY, other.read("toy.stays").with_columns(days=pl.lit(7, pl.Int8)), **RUN)
    publish_analytics(other, path, ["toy"])
    assert query(path, "SELECT DISTINCT days FROM toy.stays") == [(7,)]


@pytest.mark.parametrize("last_step", ["link", "replace", "write_atomically"])
def test_a_publisher_killed_while_it_swaps_leaves_a_whole_file(lake: Lake, path: Path, last_step: str) -> None:
    """The old one or the new one; and the next publication is right."""
    for rows in (1, 2):
        write_stays(lake, FEBRUARY, rows)
        publish_analytics(lake, path, ["toy"])
    write_stays(lake, FEBRUARY, 3)
    command = [sys.executable, "-c", KILLED_IN_THE_SWAP, last_step, lake.catalogue, str(lake.data), str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert query(path, "SELECT count(*) FROM toy.stays")[0][0] in (4, 5)
    for rows in (4, 5, 6):
        write_stays(lake, FEBRUARY, rows)
        publish_analytics(lake, path, ["toy"])
        assert query(path, "SELECT count(*) FROM toy.stays") == [(2 + rows,)]


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
