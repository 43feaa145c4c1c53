import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from clinical_assets.resources.lake import Lake, LakeError

JANUARY, FEBRUARY = date(2025, 1, 1), date(2025, 2, 1)

# argv: catalogue, data folder, number; writes when told to, and says how many attempts it took.
WRITER = """
import sys
from datetime import date
from pathlib import Path
import polars as pl
from clinical_assets.resources.lake import Lake

lake = Lake(sys.argv[1], Path(sys.argv[2]))
frame = pl.DataFrame({"month": [date(2025, 2, 1)] * 3000, "writer": [int(sys.argv[3])] * 3000})
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    lake.write_month("toy.stays", date(2025, 2, 1), frame, author=sys.argv[3], message="")
"""

# As above, but stops between the insert and the commit of the transaction that write_month makes.
HALF_A_WRITER = """
import sys, time
from pathlib import Path
from clinical_assets.resources.lake import Lake

cursor = Lake(sys.argv[1], Path(sys.argv[2])).cursor()
cursor.execute("BEGIN")
cursor.execute("DELETE FROM lake.toy.stays WHERE month = '2025-01-01'")
cursor.execute("INSERT INTO lake.toy.stays SELECT DATE '2025-01-01', 9 FROM range(3000)")
print("inserted", flush=True)
time.sleep(60)
"""

# Writes a month larger than any file may be: what a full disk does to it, in a process of its own.
WRITER_ON_A_FULL_DISK = """
import resource, sys
from datetime import date
from pathlib import Path
import numpy as np
import polars as pl
from clinical_assets.resources.lake import Lake, LakeError

lake = Lake(sys.argv[1], Path(sys.argv[2]))
lake.tables()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
noise = np.random.default_rng(0).integers(0, 2**60, 100_000)
frame = pl.DataFrame({"month": [date(2025, 1, 1)] * 100_000, "writer": noise})
try:
    lake.write_month("toy.stays", date(2025, 1, 1), frame, author="", message="")
except LakeError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The connection string of a Postgres server of our own, without a network."""
    initdb = shutil.which("initdb")
    if initdb is None:
        pytest.skip("no Postgres server is installed (initdb is not on the path)")
    binaries = Path(initdb).resolve().parent
    owner = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="lake-"))  # a socket's path must be short
    server = folder / "server"
    control = [binaries / "pg_ctl", "-D", server, "-w", "-l", folder / "log"]
    options = f"-c listen_addresses= -k {folder} -F"
    try:
        if owner is not None:
            shutil.chown(folder, owner)
        create = [binaries / "initdb", "-D", server, "-A", "trust", "-U", "lake", "--no-sync"]
        subprocess.run(create, user=owner, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            [*control, "-o", options, "start"], user=owner, cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        try:
            yield f"postgres:host={folder} user=lake"
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, user=owner, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "sqlite":
        return Lake(str(tmp_path / "catalogue.sqlite"), tmp_path / "data")
    server: str = request.getfixturevalue("postgres")
    database = f"lake_{abs(hash(tmp_path))}"
    folder = server.partition("host=")[2].partition(" ")[0]
    createdb = Path(shutil.which("initdb") or "").resolve().parent / "createdb"
    subprocess.run([createdb, "-h", folder, "-U", "lake", database], check=True)
    return Lake(f"{server} dbname={database}", tmp_path / "data")


@contextmanager
def started(script: str, lake: Lake, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, lake.catalogue, str(lake.data), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def stays(month: date, writer: int, rows: int = 3) -> pl.DataFrame:
    return pl.DataFrame({"month": [month] * rows, "writer": [writer] * rows})


def test_processes_that_make_the_same_new_month_at_once_leave_it_once(lake: Lake) -> None:
    with started(WRITER, lake, "0") as first, started(WRITER, lake, "1") as second:
        wait_for(first, "ready")
        wait_for(second, "ready")
        for writer in (first, second):
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert (first.wait(timeout=60), second.wait(timeout=60)) == (0, 0)

    month = lake.read("toy.stays", month=FEBRUARY)
    assert month.height == 3000
    assert month["writer"].n_unique() == 1
    authors = lake.snapshots().drop_nulls("author")["author"].value_counts().sort("author")
    assert authors.rows() == [("0", 3), ("1", 3)]


def test_the_catalogue_answers_alike_whatever_keeps_it(lake: Lake) -> None:
    said = {"description": "Stays", "comments": {"writer": "Who wrote"}}
    first = lake.write_month("toy.stays", JANUARY, stays(JANUARY, 1), author="a", message="m", **said)
    lake.write_month("toy.stays", FEBRUARY, stays(FEBRUARY, 2), author="", message="")
    lake.write_table("toy.other", pl.DataFrame({"x": [1]}), author="", message="")
    last = lake.write_month("toy.stays", JANUARY, stays(JANUARY, 3), author="", message="", **said)

    assert (lake.tables(), lake.exists("toy.other"), lake.exists("toy.none")) == (
        ["toy.other", "toy.stays"],
        True,
        False,
    )
    assert lake.months("toy.stays") == [JANUARY, FEBRUARY]
    assert lake.months("toy.stays", snapshot=first.snapshot) == [JANUARY]
    assert lake.read("toy.stays", month=JANUARY)["writer"].to_list() == [3, 3, 3]
    assert lake.changed_since(first.snapshot) == {"toy.stays", "toy.other"}
    assert lake.changed_since(last.snapshot - 1) == {"toy.stays"}
    described = lake.descriptions()["toy.stays"]
    assert (described.comment, [column.comment for column in described.columns]) == ("Stays", [None, "Who wrote"])
    committed = lake.snapshots().filter(snapshot=first.snapshot).row(0, named=True)
    assert (committed["author"], committed["message"], lake.latest_snapshot()) == ("a", "m", last.snapshot)
    assert abs(datetime.now(UTC) - committed["committed_at"]) < timedelta(minutes=5)


def test_of_two_open_transactions_on_the_same_new_month_one_must_fail(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, 1), author="", message="")
    with lake.cursor() as other:
        other.execute("BEGIN")
        other.execute("DELETE FROM lake.toy.stays WHERE month = '2025-02-01'")
        other.execute("INSERT INTO lake.toy.stays SELECT DATE '2025-02-01', 9 FROM range(3)")
        lake.write_month("toy.stays", FEBRUARY, stays(FEBRUARY, 2), author="", message="")
        with pytest.raises(duckdb.TransactionException):
            other.execute("COMMIT")

    assert lake.read("toy.stays", month=FEBRUARY)["writer"].to_list() == [2, 2, 2]


def test_a_reader_keeps_its_snapshot_and_holds_up_no_writer(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, 1), author="", message="")
    count = "SELECT count(*) FROM lake.toy.stays"
    with lake.cursor() as reader:
        reader.execute("BEGIN")
        assert reader.execute(count).fetchall() == [(3,)]
        commit = lake.write_month("toy.stays", FEBRUARY, stays(FEBRUARY, 2), author="", message="")
        assert commit.attempts == 1
        assert reader.execute(count).fetchall() == [(3,)]
        reader.execute("COMMIT")
        assert reader.execute(count).fetchall() == [(6,)]


def test_a_writer_killed_before_its_commit_leaves_the_old_month_and_no_lock(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, 1), author="", message="")
    with started(HALF_A_WRITER, lake) as writer:
        wait_for(writer, "inserted")
        meanwhile = lake.write_month("toy.stays", FEBRUARY, stays(FEBRUARY, 2), author="", message="")
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=60)

    assert meanwhile.attempts == 1
    assert lake.read("toy.stays", month=JANUARY)["writer"].to_list() == [1, 1, 1]
    assert lake.write_month("toy.stays", JANUARY, stays(JANUARY, 3), author="", message="").attempts == 1
    assert lake.read("toy.stays", month=JANUARY)["writer"].to_list() == [3, 3, 3]


@pytest.mark.parametrize("lake", ["sqlite"], indirect=True)
def test_a_full_disk_is_one_clear_error_and_leaves_the_old_month(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, 1), author="", message="")
    with started(WRITER_ON_A_FULL_DISK, lake, "200000") as writer:
        told, _ = writer.communicate(timeout=60)

    assert told.startswith("toy.stays: the transaction failed; check disk, rights and catalogue: ")
    assert "File too large" in told
    assert lake.read("toy.stays", month=JANUARY)["writer"].to_list() == [1, 1, 1]
    assert lake.write_month("toy.stays", JANUARY, stays(JANUARY, 2), author="", message="").attempts == 1


@pytest.mark.parametrize("lake", ["sqlite"], indirect=True)
def test_a_lake_whose_data_are_lost_says_so(lake: Lake) -> None:
    lake.write_month("toy.stays", JANUARY, stays(JANUARY, 1), author="", message="")
    for file in lake.data.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(LakeError, match=r"toy.stays: the transaction failed; .*Cannot open file"):
        lake.read("toy.stays")
