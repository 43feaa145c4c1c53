"""The lake: every table of every model, in DuckLake, written in whole transactions and read as typed Polars frames.

Belongs here: how rows get in and out, whole and encrypted. Does not belong here: what the rows mean, and Dagster.

Parquet files are encrypted, but the catalogue holds, in clear, the keys of the files and the least and greatest value
of every column: pseudonymise identifiers before they reach the lake, keep no free text, and guard the catalogue like a
key. Back it up together with the data (each is worthless alone), but to another place.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import duckdb
import polars as pl

from clinical_assets.resources.lake_catalogue import (
    TableDescription,
    all_snapshots,
    first_commit_at,
    in_files,
    newest_snapshot,
    partition_files,
    table_descriptions,
    table_names,
    table_number,
    tables_changed_since,
)
from clinical_assets.resources.lake_engine import (
    LakeError,
    attempt,
    lake_engine,
    quoted_name,
    quoted_table,
    quoted_text,
    turn_to_write,
)
from clinical_assets.resources.lake_write import Write

__all__ = ["Commit", "Lake", "LakeError", "Scalar", "Write"]

Scalar = bool | int | float | str | date
T = TypeVar("T")
Cursor = duckdb.DuckDBPyConnection

_YOUNGEST_ORPHAN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Commit:
    """What one write left behind: its own snapshot, its number of rows, and the attempts other writers made it take.

    `columns` are the columns of its tables after it, in the order in which a read gives them.
    """

    snapshot: int
    rows: int
    attempts: int
    columns: Mapping[str, tuple[str, ...]]


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
        return self.write_months(
            table, [month], frame, author=author, message=message, description=description, comments=comments
        )

    def write_months(
        self,
        table: str,
        months: Sequence[date],
        frame: pl.DataFrame,
        *,
        author: str,
        message: str,
        description: str | None = None,
        comments: Mapping[str, str] | None = None,
    ) -> Commit:
        """Replaces exactly these months of a table, or adds them, in one commit; the rules of `write_month` hold.

        Raises LakeError also where one of the months has no row in the frame.
        """
        write = Write(table, frame, months=months, description=description, comments=comments or {})
        return self.write_together([write], author=author, message=message)

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
        write = Write(table, frame, replace_by=replace_by, description=description, comments=comments or {})
        return self.write_together([write], author=author, message=message)

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
        write = Write(table, frame, append=True, description=description, comments=comments or {})
        return self.write_together([write], author=author, message=message)

    def write_together(self, writes: Sequence[Write], *, author: str, message: str) -> Commit:
        """Makes several writes, each to a table of its own, in one commit: all of them are seen, or none.

        The rules of `write_month` hold for each; the commit's `rows` are those of all.
        """
        if not writes or len({write.table for write in writes}) < len(writes):
            named = ", ".join(write.table for write in writes) or "none"
            raise LakeError(f"a commit is of one write or more, each to a table of its own, and not of: {named}")
        storable = [write.storable() for write in writes]
        committing = lake_engine(self.catalogue, self.data).committing

        def commit(cursor: Cursor) -> tuple[int, dict[str, tuple[str, ...]]]:
            cursor.execute("BEGIN")
            base = _number(cursor, "FROM lake.current_snapshot()")
            columns = {write.table: write.execute(cursor, base) for write in storable}
            cursor.execute("CALL lake.set_commit_message(?, ?)", [author, message])
            with committing:  # last_committed_snapshot() is the engine's, not the cursor's
                cursor.execute("COMMIT")
                # A commit that changes nothing (no rows over no rows) makes no snapshot: the one it began at stands.
                last = _number(cursor, "SELECT coalesce(max(id), 0) FROM lake.last_committed_snapshot()")
            return max(base, last), columns

        named = ", ".join(write.table for write in writes)
        with turn_to_write(self.catalogue, named, self.retry_seconds):
            (snapshot, columns), attempts = self._run(commit, named)
        return Commit(snapshot, sum(write.frame.height for write in storable), attempts, columns)

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
        if wanted is not None and not wanted:
            raise LakeError(f"{table}: no month is asked for; give at least one")
        source, selected = _source(table, snapshot), "*" if columns is None else ", ".join(map(quoted_name, columns))
        asked = {*(columns or ()), *(where or ()), *(("month",) if wanted is not None else ())}

        def read(cursor: Cursor) -> pl.DataFrame:
            cursor.execute("BEGIN")
            if asked:
                _require_columns(cursor, table, source, asked)
            values = list((where or {}).values())
            conditions = [f"{quoted_name(column)} = ?" for column in where or {}]

            def rows(*further: str) -> pl.DataFrame:
                filtered = f" WHERE {' AND '.join([*conditions, *further])}" if conditions or further else ""
                return cursor.execute(f"SELECT {selected} FROM {source}{filtered}", values).pl()

            if wanted is None:
                return rows()
            now = _number(cursor, "FROM lake.current_snapshot()")
            of_files, of_months = _of_months(cursor, table, snapshot, now, wanted)
            if of_files is not None:
                frame = rows(of_files)
                with self.cursor() as outside:  # what this transaction sees of the catalogue may be of its beginning
                    if newest_snapshot(outside) == now:
                        return frame
            # Somebody committed between these questions, and may have merged files: then names of files are no guide.
            return rows(of_months)

        return self._read_table(table, snapshot, read)

    def months(self, table: str, snapshot: int | None = None) -> list[date]:
        """The months a table has rows for, in order; raises LakeError where there is no such table."""

        def read(cursor: Cursor) -> list[date]:
            cursor.execute("BEGIN")
            _require_columns(cursor, table, _source(table, snapshot), {"month"})
            at = _number(cursor, "FROM lake.current_snapshot()") if snapshot is None else snapshot
            files = _files_by_month(cursor, table, at)
            return _months(cursor, table, snapshot) if files is None else sorted(map(date.fromisoformat, files))

        return self._read_table(table, snapshot, read)

    def tables(self) -> list[str]:
        """The tables of the lake as `model.asset`, in alphabetical order."""
        return self._read(lambda cursor: table_names(cursor, newest_snapshot(cursor)))

    def exists(self, table: str) -> bool:
        """Whether the table has ever been written (and not removed)."""
        quoted_table(table)
        return self._read(lambda cursor: table_number(cursor, table, newest_snapshot(cursor)) is not None)

    def descriptions(
        self, tables: Collection[str] | None = None, snapshot: int | None = None
    ) -> dict[str, TableDescription]:
        """The comments and columns of these tables, or of all of the lake; those that do not exist are left out."""
        return self._read(
            lambda cursor: table_descriptions(cursor, newest_snapshot(cursor) if snapshot is None else snapshot, tables)
        )

    def changed_since(self, snapshot: int) -> set[str]:
        """The tables that are not as they were at a snapshot: other rows, columns or comments, or made or gone since.

        Every table there is or was, where there is no such snapshot (any more). No data file is opened.
        """
        return self._read(lambda cursor: tables_changed_since(cursor, snapshot, newest_snapshot(cursor)))

    def snapshots(self) -> pl.DataFrame:
        """Every commit in order: snapshot, committed_at (UTC), author, message."""
        return self._read(all_snapshots)

    def made_at(self) -> datetime:
        """When this lake was made, UTC; no other was made at the same moment."""
        return self._read(first_commit_at)

    def latest_snapshot(self) -> int:
        """The number of the newest commit, which pins the state of all tables at once."""
        return self._read(newest_snapshot)

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

    def _read_table(self, table: str, snapshot: int | None, action: Callable[[Cursor], T]) -> T:
        try:
            return self._read(action, table)
        except duckdb.CatalogException as error:
            when = "" if snapshot is None else f" at snapshot {snapshot}"
            raise LakeError(f"there is no table {table}{when}; materialise it first") from error
        except duckdb.InvalidInputException as error:
            if snapshot is None or "No snapshot found" not in str(error):
                raise
            raise LakeError(f"{table}: there is no snapshot {snapshot}; see snapshots()") from error


def _source(table: str, snapshot: int | None) -> str:
    return quoted_table(table) + ("" if snapshot is None else f" AT (VERSION => {int(snapshot)})")


def _months(cursor: Cursor, table: str, snapshot: int | None) -> list[date]:
    """The months a table has rows for, by the rows."""
    found = cursor.execute(
        f"SELECT DISTINCT month FROM {_source(table, snapshot)} WHERE month IS NOT NULL ORDER BY month"
    ).fetchall()
    return [month for (month,) in found]


def _of_months(
    cursor: Cursor, table: str, snapshot: int | None, now: int, wanted: Collection[date]
) -> tuple[str | None, str]:
    """The condition that a row is of one of these months: by files, where the catalogue knows them, and by rows.

    Raises LakeError where the table lacks one of the months.
    """
    files = _files_by_month(cursor, table, now if snapshot is None else snapshot)
    present = _months(cursor, table, snapshot) if files is None else sorted(map(date.fromisoformat, files))
    if missing := ", ".join(f"{month:%Y-%m}" for month in sorted(set(wanted) - set(present))):
        span = f"{present[0]:%Y-%m}..{present[-1]:%Y-%m}" if present else "none"
        raise LakeError(f"{table} has no rows for {missing}; materialise {missing} first; months present: {span}")
    days = ", ".join(quoted_text(str(month)) for month in wanted)
    if files is None:
        return None, f"month IN ({days})"
    # As text, for a condition on the column itself looks at the statistics of every file of the lake.
    by_files = f"{in_files(name for month in wanted for name in files[str(month)])} AND month::VARCHAR IN ({days})"
    return by_files, f"month IN ({days})"


def _files_by_month(cursor: Cursor, table: str, snapshot: int) -> dict[str, list[str]] | None:
    number = table_number(cursor, table, snapshot)
    return None if number is None else partition_files(cursor, number, "month", snapshot)


def _require_columns(cursor: Cursor, table: str, source: str, asked: Collection[str]) -> None:
    known = [name for name, *_ in cursor.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    if unknown := sorted(set(asked) - set(known)):
        raise LakeError(f"{table}: no column {', '.join(unknown)}; it has {', '.join(known)}")


def _number(cursor: Cursor, query: str) -> int:
    return cursor.execute(query).fetchall()[0][0]
