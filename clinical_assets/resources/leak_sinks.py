"""The sinks: every place of a home where an identifier could end up, and how each is read.

Belongs here: which files and tables belong to which sink, and what is not searched, with the reason. Does not belong
here: the search (governance/leak_scan.py), and what was searched before (leak_search.py).
"""

import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import polars as pl

from clinical_assets.governance.leak_scan import Exemption
from clinical_assets.governance.readable_content import (
    Content,
    UnreadableContentError,
    content_of_file,
    content_of_frame,
    content_of_texts,
    fragments_of,
)
from clinical_assets.protocol import protocol_names
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake_engine import quoted_name

_SQLITE, _DUCKDB = b"SQLite format 3\0", b"DUCK"
_ENCRYPTED_PARQUET = b"PARE"
_LOGS_OF_DATABASES = ("-wal", "-shm", "-journal", ".wal")
_ROWS_AT_A_TIME, _IMAGES_AT_A_TIME = 50_000, 500
_ATTEMPTS, _PAUSE_SECONDS = 8, 0.25


@dataclass(frozen=True, slots=True)
class Sink:
    """A kind of place: the files whose path in the home fits `files`, or the lake's tables whose name fits `tables`.

    `grows`: databases that change all the time, mostly by what is added, so that it pays to remember each text.
    """

    name: str
    files: str = ""
    tables: str = ""
    grows: bool = False


SINKS = (
    Sink("profiles", tables=r"\w+\.profile"),
    Sink("incidents", tables=r"governance\.incident\w*"),
    Sink("release ledger", tables=r"governance\.ledger\w*"),
    Sink("lake tables", tables=r".*"),
    Sink("lake catalogue", files=r"lake/.*", grows=True),
    Sink("registry database", files=r"registry/mlflow\.db.*", grows=True),
    Sink("registry artefacts", files=r"registry/.*"),
    Sink("Dagster runs and events", files=r"dagster/(history|schedules)/.*", grows=True),
    Sink("Dagster compute logs", files=r"dagster/storage/.*"),
    Sink("Dagster logs", files=r"dagster/.*"),
    Sink("reports", files=r"reports/.*"),
    Sink("notices", files=r"outbox/.*"),
    Sink("audit trail", files=r"audit/.*"),
    Sink("statements", files=r"governance/.*"),
    Sink("analytics file", files=r"\.?analytics\.duckdb.*"),
    Sink("other files", files=r".*"),
)
"""In this order: a file or a table belongs to the first that it fits."""

NOT_SEARCHED = {
    "keys": "secrets, and no rows",
    "identified": "the identified zone: identifiers belong there, encrypted",
    "simulated": "the simulated archives, as their publishers lay them out: sources, not results",
    "governance/leak_scan.json": "what was searched before: names, sizes and times of files",
    "governance/leak_scan.parquet": "what was searched before: hashes of texts",
}

_BILL_OF_MATERIALS = r"(reports|releases)/.*\.cdx\.json"
_PEERS_PAGES = r"reports/\w+/peers/.*\.html"
EXEMPTIONS = (
    Exemption(_BILL_OF_MATERIALS, "e-mail address", "authors of published packages"),
    Exemption(_BILL_OF_MATERIALS, "frequent name", "authors of published packages"),
    Exemption(_BILL_OF_MATERIALS, "IPv4 address", "versions of packages, which are written alike"),
    Exemption(_PEERS_PAGES, "e-mail address", "authors of the scripts that another tool's page is drawn by"),
    Exemption(_PEERS_PAGES, "IPv4 address", "versions of those scripts' parts, which are written alike"),
    Exemption(_PEERS_PAGES, "image", "icons and textures of those scripts; no image is handed to the tools"),
)
"""What a pattern finds that is no patient's; known identifiers are never exempt."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How a table of SQLite grows: by rows that stay as they are, but for those that these conditions meet.

    `unsettled` rows may still change; `changed` rows did since a moment (`:since`, UTC); both need some columns.
    """

    needs: tuple[str, ...] = ()
    unsettled: str = "false"
    changed: str = "false"


_APPENDED = Growth()
_GROWTH = {
    "event_logs": _APPENDED,
    "asset_event_tags": _APPENDED,
    "snapshots": _APPENDED,
    "job_ticks": Growth(
        ("status", "timestamp"),
        unsettled="status = 'STARTED' OR timestamp > datetime('now', '-10 minutes')"
        " OR (status = 'FAILURE' AND timestamp > datetime('now', '-1 day'))",
    ),
    "asset_daemon_asset_evaluations": Growth(
        ("create_timestamp",), unsettled="create_timestamp > datetime('now', '-10 minutes')"
    ),
    "runs": Growth(("update_timestamp",), changed="update_timestamp > :since"),
    "run_tags": Growth(("run_id",), changed="run_id IN (SELECT run_id FROM runs WHERE update_timestamp > :since)"),
    "ducklake_file_column_stats": _APPENDED,
    "ducklake_data_file": _APPENDED,
    "ducklake_snapshot_changes": _APPENDED,
}
"""The tables of Dagster and of the lake's catalogue that grow for years; every other table is read as a whole.

Of a row of the catalogue only numbers change: when it ended. A tick changes until it has ended, a run until it is
deleted, and Dagster writes down when.
"""


@dataclass(slots=True)
class ReadSoFar:
    """Up to which row the growing tables of a database were read, with a digest of that row, and what changed since.

    A row that is no longer what it was tells that rows were removed, and others may stand under their numbers.
    """

    since: str = ""
    rows: dict[str, tuple[int, str]] = field(default_factory=dict)


def files_by_sink(home: Home) -> dict[str, dict[str, Path]]:
    """The files of each sink by their place in the home, in order; folders that are not searched are left out."""
    found: dict[str, dict[str, Path]] = {sink.name: {} for sink in SINKS}
    archives = (home.raw, *filter(None, map(home.chosen_archive, protocol_names())))
    sources = [path.relative_to(home.root).as_posix() for path in archives if home.root in path.parents]
    left_out = (*NOT_SEARCHED, *sources)
    for path in sorted(home.root.rglob("*")):
        place = str(path)[len(str(home.root)) + 1 :]
        if not path.is_file() or any(place == left or place.startswith(f"{left}/") for left in left_out):
            continue
        sink = next(each for each in SINKS if each.files and re.fullmatch(each.files, place))
        found[sink.name][place] = path
    return found


def logs_beside(path: Path) -> list[os.stat_result]:
    """The logs beside a database of SQLite in which something stands."""
    logs: list[os.stat_result] = []
    for end in ("-wal", "-journal"):
        with suppress(FileNotFoundError):
            logs.append(path.with_name(f"{path.name}{end}").stat())
    return [log for log in logs if log.st_size]


def content_of(
    place: str,
    path: Path,
    images_expected: bool,
    unseen: Callable[[pl.Series], pl.Series],
    pages: bool,
    so_far: ReadSoFar,
) -> Iterator[Content]:
    """What a file lets read, by what it is: a database of SQLite or DuckDB, an archive, a text.

    Encrypted Parquet, as the lake's, lets nothing be read. Of SQLite's databases the tables that grow are read from the
    row on that was read `so_far`, which is brought up to date; `unseen` leaves of the texts of the others those not
    searched before; `pages` reads the file's pages too, in which removed rows may stand. Raises UnreadableContentError
    for what does not open.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if start.startswith(_ENCRYPTED_PARQUET):
            return
        if start == _SQLITE:
            yield from _content_of_sqlite(place, path, unseen, so_far)
            if pages:
                yield fragments_of(place, path.read_bytes())
        elif path.name.endswith(_LOGS_OF_DATABASES):
            yield fragments_of(place, path.read_bytes())
        elif start[8:12] == _DUCKDB:
            with closing(duckdb.connect(str(path), read_only=True)) as database:
                found = database.execute("SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal")
                for schema, table in found.fetchall():
                    source = f"{quoted_name(schema)}.{quoted_name(table)}"
                    yield from content_of_table(database, f"{place}:{schema}.{table}", source, images_expected)
        else:
            yield from content_of_file(place, path.read_bytes(), images_expected)
    except FileNotFoundError:
        return  # It was removed since it was listed: nothing is left to find.
    except (OSError, sqlite3.Error, duckdb.Error) as error:
        raise UnreadableContentError(f"it cannot be read ({type(error).__name__})") from error


def content_of_table(
    cursor: duckdb.DuckDBPyConnection, place: str, source: str, images_expected: bool, condition: str = "true"
) -> Iterator[Content]:
    """What the rows of a table that meet a condition let read, some thousand rows at a time."""
    columns = cursor.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    rows = _IMAGES_AT_A_TIME if any(kind == "BLOB" for _, kind, *_ in columns) else _ROWS_AT_A_TIME
    for batch in cursor.execute(f"SELECT * FROM {source} WHERE {condition}").to_arrow_reader(rows):
        if batch.num_rows:
            yield from content_of_frame(place, pl.DataFrame(batch), images_expected)


def tables_of(sink: Sink, tables: Collection[str]) -> list[str]:
    """Those of the lake's tables that belong to a sink."""
    if not sink.tables:
        return []
    return [
        table
        for table in tables
        if next(each for each in SINKS if each.tables and re.fullmatch(each.tables, table)) == sink
    ]


def _content_of_sqlite(
    place: str, path: Path, unseen: Callable[[pl.Series], pl.Series], so_far: ReadSoFar
) -> Iterator[Content]:
    """What a database lets read: its texts, column by column.

    Who begins or ends to write in the middle of it changes what there is to read, so that it is tried again; texts that
    were seen by then are not seen twice.
    """
    for attempt in range(_ATTEMPTS):
        try:
            yield from _content_of_resting_sqlite(place, path, unseen, so_far)
            return
        except sqlite3.Error:
            if attempt == _ATTEMPTS - 1 or not path.exists():
                raise
            time.sleep(_PAUSE_SECONDS)


def _content_of_resting_sqlite(
    place: str, path: Path, unseen: Callable[[pl.Series], pl.Series], so_far: ReadSoFar
) -> Iterator[Content]:
    # A reader of a database without a log would make one, or touch an empty one; nobody is writing to either.
    address = f"file:{path}?mode=ro" if logs_beside(path) else f"file:{path}?immutable=1"
    with closing(sqlite3.connect(address, uri=True, timeout=10)) as database:
        database.text_factory = lambda content: content.decode(errors="replace")
        database.execute("BEGIN")
        read_now = ReadSoFar(database.execute("SELECT datetime('now', '-10 minutes')").fetchone()[0])
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns = [name for _, name, *_ in database.execute(f"PRAGMA table_info({quoted_name(table)})").fetchall()]
            growth = _GROWTH.get(table)
            condition, grows = "true", growth is not None and set(growth.needs) <= set(columns)
            values: dict[str, str | int] = {}
            if growth is not None and grows:
                last, digest = so_far.rows.get(table, (-1, ""))
                if digest and _digest_of_row(database, table, last) == digest:
                    condition = f"(rowid > :last OR {growth.changed})"
                    values = {"last": last, "since": so_far.since}
                else:
                    last = -1
                read_now.rows[table] = _last_settled_row(database, table, growth, last)
            for column in columns:
                name, where = quoted_name(column), f"{place}:{table}.{column}"
                select = f"SELECT {name} FROM {quoted_name(table)} WHERE {condition} AND typeof({name}) ="
                if texts := [value for (value,) in database.execute(f"{select} 'text'", values)]:
                    found = pl.Series(texts, dtype=pl.String)
                    yield content_of_texts(where, found.unique() if grows else unseen(found))
                if blobs := [value for (value,) in database.execute(f"{select} 'blob'", values)]:
                    yield from content_of_frame(place, pl.DataFrame({f"{table}.{column}": blobs}))
    so_far.since, so_far.rows = read_now.since, read_now.rows


def _last_settled_row(database: sqlite3.Connection, table: str, growth: Growth, after: int) -> tuple[int, str]:
    """The last row before every row that may still change, at or after a row that was settled before."""
    of, settled = quoted_name(table), f"rowid > {after} AND ({growth.unsettled})"
    [(first_unsettled,)] = database.execute(f"SELECT min(rowid) FROM {of} WHERE {settled}").fetchall()
    before = "" if first_unsettled is None else f" WHERE rowid < {first_unsettled}"
    [(last,)] = database.execute(f"SELECT max(rowid) FROM {of}{before}").fetchall()
    return (-1, "") if last is None else (last, _digest_of_row(database, table, last))


def _digest_of_row(database: sqlite3.Connection, table: str, row: int) -> str:
    found = database.execute(f"SELECT * FROM {quoted_name(table)} WHERE rowid = ?", [row]).fetchall()
    return hashlib.sha256(repr(found).encode()).hexdigest() if found else ""
