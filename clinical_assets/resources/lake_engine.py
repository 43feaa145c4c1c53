"""The lake's engine: DuckDB with the DuckLake attached, one a process, and the retry of whole transactions.

Belongs here: extensions, attachment, encryption, access rights, patience with other writers. Does not belong here:
tables and rows, and Dagster.

Never open (or copy) an SQLite catalogue in a process that holds the lake: closing any other handle of the file drops
the locks of the engine.
"""

import fcntl
import importlib
import itertools
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb

T = TypeVar("T")

_TABLE = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")
_POSTGRES = "postgres:"
_ANOTHER_WRITER = (
    *("database is locked", "Transaction conflict", "Exceeded the maximum retry count"),
    *("duplicate key value", "already exists"),  # two processes that make the lake at once, on Postgres
    "Failed to probe DuckLake metadata",  # and on SQLite
)
_PATIENCE_OPENING_SECONDS = 60.0
_STORAGE_FAILED = ("disk is full", "disk I/O error", "No space left on device", "File too large")


class LakeError(RuntimeError):
    """The lake cannot do what was asked; the message names the table and the remedy."""


@dataclass(frozen=True, slots=True)
class LakeEngine:
    """A DuckDB instance in which the lake is the database `lake`, and the lock under which its cursors commit."""

    connection: duckdb.DuckDBPyConnection
    committing: threading.Lock


# By process and catalogue: loading the extensions costs 0.3 s, and a forked child may not use its parent's engine.
_ENGINES: dict[tuple[int, str, Path], LakeEngine] = {}
_OPENING = threading.Lock()
os.register_at_fork(before=_OPENING.acquire, after_in_parent=_OPENING.release, after_in_child=_OPENING.release)


def lake_engine(catalogue: str, data: Path) -> LakeEngine:
    """This process's engine of a lake, opened on first use; makes the lake where there is none.

    `catalogue` is the path of an SQLite file or `postgres:<connection string>`.
    """
    key = (os.getpid(), catalogue, data)
    with _OPENING:
        if key not in _ENGINES:
            _ENGINES[key] = _open(catalogue, data.absolute())
        return _ENGINES[key]


def attempt(what: str, patience_seconds: float, action: Callable[[], T]) -> tuple[T, int]:
    """Runs a whole transaction until no other writer is in its way, and counts the attempts; raises LakeError.

    What does not exist is left to the caller, as DuckDB raises it (CatalogException, InvalidInputException).
    DuckLake's own retry is off: it would repeat an insert without the delete before it, and keep a month twice.
    """
    deadline = time.monotonic() + patience_seconds
    for attempts in itertools.count(1):
        try:
            return action(), attempts
        except (duckdb.CatalogException, duckdb.InvalidInputException):
            raise  # what was asked for does not exist: the caller knows what to say
        except duckdb.Error as error:
            full = str(error)
        reason = _without_values(full)
        if any(text in full for text in _STORAGE_FAILED) or not any(text in full for text in _ANOTHER_WRITER):
            raise LakeError(f"{what}: the transaction failed; check disk, rights and catalogue: {reason}")
        if time.monotonic() > deadline:
            waited = f"{attempts} attempts in {patience_seconds:g} s"
            raise LakeError(f"{what}: other writers kept the lake busy ({waited}); try again later: {reason}")
        time.sleep(random.uniform(0.0, min(1.0, 0.02 * 2.0**attempts)))
    raise AssertionError("unreachable: the loop ends by returning or raising")


@contextmanager
def turn_to_write(catalogue: str, what: str, patience_seconds: float) -> Iterator[None]:
    """Alone as a writer of a lake in SQLite, among all processes of this machine, until the block ends.

    SQLite takes one writer at a time, and fails the commit of one who began before another's: a long write would begin
    again and again while short ones pass it. Readers wait for nobody; a killed writer holds no turn; on Postgres none
    is needed. Raises LakeError where the turn does not come in time.
    """
    if catalogue.startswith(_POSTGRES):
        yield
        return
    path = Path(catalogue).absolute()
    turn = os.open(path.with_name(f"{path.name}.turn"), os.O_CREAT | os.O_RDWR, 0o600)
    deadline = time.monotonic() + patience_seconds
    try:
        while not _is_taken(turn):
            if time.monotonic() > deadline:
                raise LakeError(f"{what}: other writers kept the lake busy for {patience_seconds:g} s; try again later")
            time.sleep(random.uniform(0.002, 0.02))
        yield
    finally:
        os.close(turn)


def _is_taken(turn: int) -> bool:
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(catalogue: str, data: Path) -> LakeEngine:
    """A DuckDB engine with the lake attached; makes the lake, readable by its owner alone, where there is none."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    data.chmod(0o700)
    if catalogue.startswith(_POSTGRES):
        scanner, address, options = "postgres_scanner", catalogue, ""
    else:
        path = Path(catalogue).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
        # Without the write-ahead log a reader blocks every writer for 5 s, and then fails it.
        scanner, address, options = "sqlite_scanner", f"sqlite:{path}", ", META_JOURNAL_MODE 'WAL'"
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False, "threads": 2}
    )
    for extension in ("httpfs", scanner, "ducklake"):  # httpfs brings the cryptography that writes encrypted files
        connection.load_extension(str(_extension_file(extension)))
    connection.execute("SET GLOBAL ducklake_max_retry_count = 0; SET GLOBAL TimeZone = 'UTC'")
    # The folder in which the catalogue was made is only where the files were then: a home may move, with both.
    attach = (
        f"ATTACH {quoted_text(f'ducklake:{address}')} AS lake (DATA_PATH {quoted_text(str(data))},"
        f" OVERRIDE_DATA_PATH TRUE, ENCRYPTED, DATA_INLINING_ROW_LIMIT 0{options})"
    )
    attempt("opening the lake", _PATIENCE_OPENING_SECONDS, lambda: connection.execute(attach))
    attempt("opening the lake", _PATIENCE_OPENING_SECONDS, lambda: _require_files(connection, data))
    return LakeEngine(connection=connection, committing=threading.Lock())


def _require_files(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    """Raises LakeError where the catalogue was made elsewhere and its newest file is not here: not its folder."""
    catalogue = "__ducklake_metadata_lake"
    made_at = connection.execute(f"SELECT value FROM {catalogue}.ducklake_metadata WHERE key = 'data_path'").fetchall()
    if Path(made_at[0][0]) == data:
        return
    newest = connection.execute(
        "SELECT schemas.path, tables.path, files.path"
        f" FROM {catalogue}.ducklake_data_file AS files JOIN {catalogue}.ducklake_table AS tables USING (table_id)"
        f" JOIN {catalogue}.ducklake_schema AS schemas USING (schema_id)"
        " WHERE files.end_snapshot IS NULL AND tables.end_snapshot IS NULL AND files.path_is_relative"
        " ORDER BY data_file_id DESC LIMIT 1"
    ).fetchall()
    if newest and not data.joinpath(*newest[0]).exists():
        raise LakeError(
            f"{data} does not hold the files of this catalogue, which was made for {made_at[0][0]}; "
            "move or restore the catalogue and its data together"
        )


def _extension_file(extension: str) -> Path:
    package = importlib.import_module(f"duckdb_extension_{extension}")
    return next(Path(package.__path__[0]).glob(f"extensions/*/{extension}.duckdb_extension"))


def _without_values(reason: str) -> str:
    # A failed statement quotes the catalogue's SQL, in which stand minima and maxima of columns, and the password.
    reason = re.sub(r'query ".*"', "query", reason, flags=re.DOTALL)
    reason = re.sub(r"password=\S+", "password=***", reason)
    return reason.rpartition(';"\n')[2].strip()  # before it: DuckLake's advice to turn its own retry on


def quoted_text(text: str) -> str:
    """A text as an SQL literal, for the statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def quoted_name(name: str) -> str:
    """The name of a column, table or schema as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quoted_table(table: str) -> str:
    """The table `model.asset` of the attached lake as an SQL identifier; raises LakeError for any other name."""
    if not _TABLE.fullmatch(table):
        raise LakeError(f"{table!r} is no name of a table; write model.asset in small letters, digits and underscores")
    schema, _, name = table.partition(".")
    return f"lake.{quoted_name(schema)}.{quoted_name(name)}"
