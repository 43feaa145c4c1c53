"""The sinks: every place of a home where an identifier could end up, and how each is read.

Belongs here: which files and tables belong to which sink, and what is not searched, with the reason. Does not belong
here: the search (governance/leak_scan.py), and what was searched before (leak_search.py).
"""

import os
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
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

_BILL_OF_MATERIALS = r"reports/.*\.cdx\.json"
EXEMPTIONS = (
    Exemption(_BILL_OF_MATERIALS, "e-mail address", "authors of published packages"),
    Exemption(_BILL_OF_MATERIALS, "frequent name", "authors of published packages"),
    Exemption(_BILL_OF_MATERIALS, "IPv4 address", "versions of packages, which are written alike"),
)
"""What a pattern finds that is no patient's; known identifiers are never exempt."""


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
    place: str, path: Path, images_expected: bool, unseen: Callable[[pl.Series], pl.Series], pages: bool
) -> Iterator[Content]:
    """What a file lets read, by what it is: a database of SQLite or DuckDB, an archive, a text.

    Encrypted Parquet, as the lake's, lets nothing be read. `unseen` leaves of the texts of SQLite's databases those not
    searched before; `pages` reads the file's pages too, in which removed rows may stand. Raises UnreadableContentError
    for what does not open.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if start.startswith(_ENCRYPTED_PARQUET):
            return
        if start == _SQLITE:
            yield from _content_of_sqlite(place, path, unseen)
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


def _content_of_sqlite(place: str, path: Path, unseen: Callable[[pl.Series], pl.Series]) -> Iterator[Content]:
    """What a database lets read: its texts, column by column.

    Who begins or ends to write in the middle of it changes what there is to read, so that it is tried again; texts that
    were seen by then are not seen twice.
    """
    for attempt in range(_ATTEMPTS):
        try:
            yield from _content_of_resting_sqlite(place, path, unseen)
            return
        except sqlite3.Error:
            if attempt == _ATTEMPTS - 1 or not path.exists():
                raise
            time.sleep(_PAUSE_SECONDS)


def _content_of_resting_sqlite(place: str, path: Path, unseen: Callable[[pl.Series], pl.Series]) -> Iterator[Content]:
    # A reader of a database without a log would make one, or touch an empty one; nobody is writing to either.
    address = f"file:{path}?mode=ro" if logs_beside(path) else f"file:{path}?immutable=1"
    with closing(sqlite3.connect(address, uri=True, timeout=10)) as database:
        database.text_factory = lambda content: content.decode(errors="replace")
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for _, column, *_ in database.execute(f"PRAGMA table_info({quoted_name(table)})").fetchall():
                name, where = quoted_name(column), f"{place}:{table}.{column}"
                select = f"SELECT {name} FROM {quoted_name(table)} WHERE typeof({name}) ="
                if texts := [value for (value,) in database.execute(f"{select} 'text'")]:
                    yield content_of_texts(where, unseen(pl.Series(texts, dtype=pl.String)))
                if blobs := [value for (value,) in database.execute(f"{select} 'blob'")]:
                    yield from content_of_frame(place, pl.DataFrame({f"{table}.{column}": blobs}))
