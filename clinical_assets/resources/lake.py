"""The lake: every table of every model, in DuckLake, written in whole transactions and read as typed Polars frames.

Belongs here: how rows get in and out, whole and encrypted. Does not belong here: what the rows mean, and Dagster.

Parquet files are encrypted, but the catalogue holds, in clear, the keys of the files and the least and greatest value
of every column: pseudonymise identifiers before they reach the lake, keep no free text, and guard the catalogue like a
key. Back it up together with the data (each is worthless alone), but to another place.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

import duckdb
import polars as pl
import polars.selectors as cs
from polars.datatypes import DataTypeClass

from clinical_assets.resources.lake_engine import LakeError, attempt, lake_engine, quoted_name, quoted_text

__all__ = ["Commit", "Lake", "LakeError", "Scalar"]

Scalar = bool | int | float | str | date
T = TypeVar("T")
Cursor = duckdb.DuckDBPyConnection

_TABLE = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")
_YOUNGEST_ORPHAN = timedelta(hours=1)
_SCALARS = frozenset(
    {
        *(pl.Boolean, pl.String, pl.Binary, pl.Date, pl.Float32, pl.Float64),
        *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    }
)


@dataclass(frozen=True, slots=True)
class Commit:
    """What one write left behind: its own snapshot, its number of rows, and the attempts other writers made it take."""

    snapshot: int
    rows: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Lake:
    """A DuckLake: `catalogue` is the path of an SQLite file or `postgres:<connection string>`, `data` a local folder.

    An SQLite catalogue must lie on a local disk (it is in WAL mode, so that readers and writers do not wait for each
    other). A write that meets other writers is tried again, as a whole, for `retry_seconds`.
    """

    catalogue: str = field(repr=False)
    data: Path
    retry_seconds: float = 60.0

    def cursor(self) -> Cursor:
        """A connection of its own to the process's engine, in which the lake is the database `lake`."""
        return lake_engine(self.catalogue, self.data).connection.cursor()

    def write_month(
        self,
        table: str,
        month: date,
        frame: pl.DataFrame,
        *,
        author: str,
        message: str,
        description: str | None = None,
        comments: Mapping[str, str] | None = None,
    ) -> Commit:
        """Replaces one month of a table, or adds it; `month` is the first of the month and in every row's `month`.

        Columns the table lacks are added to it. Raises LakeError for rows of other months, no rows, missing columns,
        changed types, types the lake cannot keep, and other writers beyond patience.
        """
        if month.day != 1:
            raise LakeError(f"{table}: {month} is not the first of a month; give the first")
        if frame.schema.get("month") != pl.Date:
            raise LakeError(f"{table}: the frame needs a column `month` of type Date, the first of the month")
        if frame.is_empty():
            raise LakeError(f"{table}: no rows for month {month:%Y-%m}; a month without rows is not written")
        if strangers := frame.height - frame.filter(pl.col("month") == month).height:
            raise LakeError(f"{table}: {strangers} of {frame.height} rows are not of month {month:%Y-%m}; remove them")
        return self._write(table, frame, "month", False, author, message, description, comments or {})

    def write_table(
        self,
        table: str,
        frame: pl.DataFrame,
        *,
        author: str,
        message: str,
        replace_by: str | None = None,
        description: str | None = None,
        comments: Mapping[str, str] | None = None,
    ) -> Commit:
        """Replaces a table; with `replace_by` only the rows whose value in that column occurs in the frame.

        A table replaced as a whole may change its columns; with `replace_by` the rules of `write_month` hold.
        """
        if replace_by is not None:
            if replace_by not in frame.columns:
                raise LakeError(f"{table}: the frame lacks the column {replace_by}, by which rows are replaced")
            if frame.is_empty():
                raise LakeError(f"{table}: no rows, so it is unknown which {replace_by} they would replace")
            if nulls := frame[replace_by].null_count():
                raise LakeError(f"{table}: {nulls} rows have no {replace_by}, by which rows are replaced; fill it")
        return self._write(table, frame, replace_by, replace_by is None, author, message, description, comments or {})

    def append(
        self,
        table: str,
        frame: pl.DataFrame,
        *,
        author: str,
        message: str,
        description: str | None = None,
        comments: Mapping[str, str] | None = None,
    ) -> Commit:
        """Adds rows to a table and removes none; the rules of `write_month` hold."""
        if frame.is_empty():
            raise LakeError(f"{table}: no rows to append")
        return self._write(table, frame, None, False, author, message, description, comments or {})

    def read(
        self,
        table: str,
        *,
        month: date | None = None,
        months: Sequence[date] | None = None,
        snapshot: int | None = None,
        columns: Sequence[str] | None = None,
        where: Mapping[str, Scalar] | None = None,
    ) -> pl.DataFrame:
        """A table, or those of its months, columns and rows (`where`: column equals value) that are asked for.

        Types are those written, except that categories come back as String; rows are in no particular order. Raises
        LakeError for a table, column or snapshot that does not exist and for a month never written; a `where` that no
        row meets gives no rows.
        """
        if month is not None and months is not None:
            raise LakeError(f"{table}: give month or months, not both")
        wanted = [month] if month is not None else months
        at = "" if snapshot is None else f" AT (VERSION => {int(snapshot)})"
        source = f"{_quoted_table(table)}{at}"
        conditions = [f"{quoted_name(column)} = ?" for column in where or {}]
        values: list[Scalar] = list((where or {}).values())
        if wanted is not None:
            conditions.append(f"month IN ({_placeholders(wanted)})")
            values.extend(wanted)
        selected = "*" if columns is None else ", ".join(map(quoted_name, columns))
        filtered = f" WHERE {' AND '.join(conditions)}" if conditions else ""

        def read(cursor: Cursor) -> pl.DataFrame:
            cursor.execute("BEGIN")
            found = cursor.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
            asked = {*(columns or ()), *(where or ()), *(("month",) if wanted is not None else ())}
            if unknown := sorted(asked - {name for name, *_ in found}):
                raise LakeError(f"{table}: no column {', '.join(unknown)}; it has {', '.join(row[0] for row in found)}")
            if wanted is not None:
                _require_months(cursor, table, source, wanted)
            return cursor.execute(f"SELECT {selected} FROM {source}{filtered}", values).pl()

        try:
            return self._read(read, table)
        except duckdb.CatalogException as error:
            when = "" if snapshot is None else f" at snapshot {snapshot}"
            raise LakeError(f"there is no table {table}{when}; materialise it first") from error
        except duckdb.InvalidInputException as error:
            if snapshot is None or "No snapshot found" not in str(error):
                raise
            raise LakeError(f"{table}: there is no snapshot {snapshot}; see snapshots()") from error

    def months(self, table: str, snapshot: int | None = None) -> list[date]:
        """The months a table has rows for, in order; raises LakeError where there is no such table."""
        return sorted(self.read(table, columns=["month"], snapshot=snapshot)["month"].unique())

    def tables(self) -> list[str]:
        """The tables of the lake as `model.asset`, in alphabetical order."""
        query = "SELECT schema_name || '.' || table_name FROM duckdb_tables() WHERE database_name = 'lake' ORDER BY 1"
        return [name for (name,) in self._read(lambda cursor: cursor.execute(query).fetchall())]

    def exists(self, table: str) -> bool:
        """Whether the table has ever been written (and not removed)."""
        _quoted_table(table)
        return table in self.tables()

    def snapshots(self) -> pl.DataFrame:
        """Every commit in order: snapshot, committed_at (UTC), author, message."""
        query = (
            "SELECT snapshot_id AS snapshot, snapshot_time AS committed_at, author, commit_message AS message"
            " FROM lake.snapshots() ORDER BY snapshot_id"
        )
        return self._read(lambda cursor: cursor.execute(query).pl())

    def latest_snapshot(self) -> int:
        """The number of the newest commit, which pins the state of all tables at once."""
        return self._read(lambda cursor: _number(cursor, "FROM lake.current_snapshot()"))

    def delete_orphaned_files(self, older_than: timedelta) -> int:
        """Deletes files, an hour old or more, that no snapshot knows (killed writers leave them), and says how many."""
        if older_than < _YOUNGEST_ORPHAN:
            raise LakeError(f"orphaned files younger than {_YOUNGEST_ORPHAN} may belong to a writer at work")
        seconds = int(older_than.total_seconds())
        call = f"CALL ducklake_delete_orphaned_files('lake', older_than => now() - INTERVAL {seconds} SECOND)"
        return len(self._read(lambda cursor: cursor.execute(call).fetchall()))

    def _run(self, action: Callable[[Cursor], T], what: str = "the lake") -> tuple[T, int]:
        def run() -> T:
            with self.cursor() as cursor:  # closing it rolls back what is open
                return action(cursor)

        return attempt(what, self.retry_seconds, run)

    def _read(self, action: Callable[[Cursor], T], what: str = "the lake") -> T:
        return self._run(action, what)[0]

    def _write(
        self,
        table: str,
        frame: pl.DataFrame,
        replace_by: str | None,
        whole: bool,
        author: str,
        message: str,
        description: str | None,
        comments: Mapping[str, str],
    ) -> Commit:
        target = _quoted_table(table)
        frame = frame.with_columns(cs.categorical().cast(pl.String), cs.enum().cast(pl.String))
        _require_storable(table, frame)
        if unknown := sorted(set(comments) - set(frame.columns)):
            raise LakeError(f"{table}: comments on columns the frame does not have: {', '.join(unknown)}")
        values = frame[replace_by].unique().to_list() if replace_by is not None else []
        committing = lake_engine(self.catalogue, self.data).committing

        def write(cursor: Cursor) -> int:
            cursor.register("incoming", frame)
            cursor.execute("BEGIN")
            base = _number(cursor, "FROM lake.current_snapshot()")
            _fit_table(cursor, table, whole, replace_by)
            if replace_by is not None:
                replaced = f"{quoted_name(replace_by)} IN ({_placeholders(values)})"
                cursor.execute(f"DELETE FROM {target} WHERE {replaced}", values)
            elif whole:
                cursor.execute(f"DELETE FROM {target}")
            cursor.execute(f"INSERT INTO {target} BY NAME SELECT * FROM incoming")
            _set_comments(cursor, table, description, comments)
            cursor.execute("CALL lake.set_commit_message(?, ?)", [author, message])
            with committing:  # last_committed_snapshot() is the engine's, not the cursor's
                cursor.execute("COMMIT")
                # A commit that changes nothing (no rows over no rows) makes no snapshot: the one it began at stands.
                return max(base, _number(cursor, "SELECT coalesce(max(id), 0) FROM lake.last_committed_snapshot()"))

        snapshot, attempts = self._run(write, table)
        return Commit(snapshot=snapshot, rows=frame.height, attempts=attempts)


def _fit_table(cursor: Cursor, table: str, whole: bool, partition_by: str | None) -> None:
    """Makes the table of the incoming columns, or brings an existing one to them if that loses nothing."""
    target = _quoted_table(table)
    incoming = {name: kind for name, kind, *_ in cursor.execute("DESCRIBE incoming").fetchall()}
    kept = {name: kind for name, kind, _ in _columns(cursor, table)}
    if whole and kept and kept != incoming:
        cursor.execute(f"DROP TABLE {target}")
        kept = {}
    if not kept:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS lake.{quoted_name(table.partition('.')[0])}")
        cursor.execute(f"CREATE TABLE {target} AS FROM incoming LIMIT 0")
        if partition_by is not None:
            cursor.execute(f"ALTER TABLE {target} SET PARTITIONED BY ({quoted_name(partition_by)})")
        return
    remedy = "give it as before, or replace the whole table"
    if missing := [f"{name} ({kind})" for name, kind in kept.items() if name not in incoming]:
        raise LakeError(f"{table}: the frame lacks {', '.join(missing)}, which the table has; {remedy}")
    for name, kind in incoming.items():
        if name not in kept:
            cursor.execute(f"ALTER TABLE {target} ADD COLUMN {quoted_name(name)} {kind}")
        elif kept[name] != kind:
            raise LakeError(f"{table}: column {name} is {kind} in the frame and {kept[name]} in the table; {remedy}")


def _set_comments(cursor: Cursor, table: str, description: str | None, comments: Mapping[str, str]) -> None:
    # Only what differs: a comment alters the table, and thereby collides with every other writer of it.
    query = "SELECT comment FROM duckdb_tables() WHERE database_name = 'lake' AND schema_name || '.' || table_name = ?"
    if description is not None and cursor.execute(query, [table]).fetchone() != (description,):
        cursor.execute(f"COMMENT ON TABLE {_quoted_table(table)} IS {quoted_text(description)}")
    for name, _, comment in _columns(cursor, table):
        if comments.get(name, comment) != comment:
            column = f"{_quoted_table(table)}.{quoted_name(name)}"
            cursor.execute(f"COMMENT ON COLUMN {column} IS {quoted_text(comments[name])}")


def _columns(cursor: Cursor, table: str) -> list[tuple[str, str, str | None]]:
    return cursor.execute(
        "SELECT column_name, data_type, comment FROM duckdb_columns()"
        " WHERE database_name = 'lake' AND schema_name || '.' || table_name = ? ORDER BY column_index",
        [table],
    ).fetchall()


def _require_months(cursor: Cursor, table: str, source: str, wanted: Sequence[date]) -> None:
    if not wanted:
        raise LakeError(f"{table}: no month is asked for; give at least one")
    present = {month for (month,) in cursor.execute(f"SELECT DISTINCT month FROM {source}").fetchall()}
    if missing := ", ".join(f"{month:%Y-%m}" for month in sorted(set(wanted) - present)):
        span = f"{min(present):%Y-%m}..{max(present):%Y-%m}" if present else "none"
        raise LakeError(f"{table} has no rows for {missing}; materialise {missing} first; months present: {span}")


def _require_storable(table: str, frame: pl.DataFrame) -> None:
    if not frame.columns:
        raise LakeError(f"{table}: the frame has no columns")
    if len({name.lower() for name in frame.columns}) != len(frame.columns):
        raise LakeError(f"{table}: column names must differ in more than upper and lower case")
    # Other types come back as another type, or (Time) take the whole engine down.
    if other := [f"{name} ({kind})" for name, kind in frame.schema.items() if not _is_storable(kind)]:
        raise LakeError(f"{table}: the lake cannot keep the types of {', '.join(other)}; cast them (times to UTC)")


def _is_storable(kind: pl.DataType | DataTypeClass) -> bool:
    match kind:
        case pl.Datetime():
            return kind.time_zone is None or (kind.time_zone, kind.time_unit) == ("UTC", "us")
        case pl.Decimal():
            return True
        case pl.List():
            return _is_storable(kind.inner)
        case pl.Struct():
            return all(_is_storable(field.dtype) for field in kind.fields)
        case _:
            return kind in _SCALARS


def _number(cursor: Cursor, query: str) -> int:
    return cursor.execute(query).fetchall()[0][0]


def _quoted_table(table: str) -> str:
    if not _TABLE.fullmatch(table):
        raise LakeError(f"{table!r} is no name of a table; write model.asset in small letters, digits and underscores")
    schema, _, name = table.partition(".")
    return f'lake."{schema}"."{name}"'


def _placeholders(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
