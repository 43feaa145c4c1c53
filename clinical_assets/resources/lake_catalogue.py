"""What the lake's catalogue says of its tables, asked of DuckLake's own tables as of a snapshot.

Belongs here: questions to the catalogue that open no data file. Does not belong here: rows, and anything that writes.

`duckdb_tables()` and `duckdb_columns()` are never asked: they load the statistics of every table of the lake, anew
after every commit of anybody. The question of one table must not cost more because there are a thousand others.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

import duckdb
import polars as pl

from clinical_assets.resources.lake_engine import quoted_text

CATALOGUE = "__ducklake_metadata_lake"
"""The database under which DuckLake attaches the catalogue of the database `lake`, whatever keeps it."""

_TABLE_NAMES = f"{CATALOGUE}.ducklake_table AS tables JOIN {CATALOGUE}.ducklake_schema AS schemas USING (schema_id)"
_TABLE_NAME = "schemas.schema_name || '.' || tables.table_name"
_KINDS_OF_CHANGE = (
    *(("ducklake_table", "table_id"), ("ducklake_column", "table_id"), ("ducklake_tag", "object_id")),
    *(("ducklake_column_tag", "table_id"), ("ducklake_data_file", "table_id"), ("ducklake_delete_file", "table_id")),
)


@dataclass(frozen=True, slots=True)
class ColumnDescription:
    """A column: its name, its type in DuckLake's words (`int64`, `varchar`, `blob`, `list`, ...), and its comment."""

    name: str
    kind: str
    comment: str | None


@dataclass(frozen=True, slots=True)
class TableDescription:
    """A table: its name `model.asset`, its number in the catalogue, its comment, and its columns in order."""

    table: str
    number: int
    comment: str | None
    columns: tuple[ColumnDescription, ...]


def newest_snapshot(cursor: duckdb.DuckDBPyConnection) -> int:
    """The number of the newest commit of anybody."""
    return cursor.execute(f"SELECT max(snapshot_id) FROM {CATALOGUE}.ducklake_snapshot").fetchall()[0][0]


def first_commit_at(cursor: duckdb.DuckDBPyConnection) -> datetime:
    """When the lake was made, UTC; tells one lake from another."""
    return cursor.execute(f"SELECT min(snapshot_time)::TIMESTAMPTZ FROM {CATALOGUE}.ducklake_snapshot").fetchall()[0][0]


def all_snapshots(cursor: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Every commit in order: snapshot, committed_at (UTC), author, message."""
    return cursor.execute(
        "SELECT snapshot_id AS snapshot, snapshot_time::TIMESTAMPTZ AS committed_at, author, commit_message AS message"
        f" FROM {CATALOGUE}.ducklake_snapshot LEFT JOIN {CATALOGUE}.ducklake_snapshot_changes USING (snapshot_id)"
        " ORDER BY snapshot_id"
    ).pl()


def table_names(cursor: duckdb.DuckDBPyConnection, snapshot: int) -> list[str]:
    """The tables there were at a snapshot, as `model.asset`, in alphabetical order."""
    found = cursor.execute(f"SELECT {_TABLE_NAME} FROM {_TABLE_NAMES} WHERE {_alive('tables', snapshot)}").fetchall()
    return sorted(name for (name,) in found)


def table_number(cursor: duckdb.DuckDBPyConnection, table: str, snapshot: int) -> int | None:
    """The number under which the catalogue keeps a table; None where there was no such table at the snapshot."""
    schema, _, name = table.partition(".")
    found = cursor.execute(
        f"SELECT table_id FROM {_TABLE_NAMES}"
        f" WHERE schema_name = ? AND table_name = ? AND {_alive('tables', snapshot)}",
        [schema, name],
    ).fetchall()
    return found[0][0] if found else None


def table_descriptions(
    cursor: duckdb.DuckDBPyConnection, snapshot: int, tables: Collection[str] | None = None
) -> dict[str, TableDescription]:
    """Comments and columns of these tables, or of all; a table that was not there at the snapshot is left out."""
    chosen = "" if tables is None else f" AND list_contains(?, {_TABLE_NAME})"
    given = [] if tables is None else [list(tables)]
    found = cursor.execute(
        f"SELECT table_id, {_TABLE_NAME}, tag.value FROM {_TABLE_NAMES}"
        f" LEFT JOIN {CATALOGUE}.ducklake_tag AS tag"
        f" ON tag.object_id = tables.table_id AND tag.key = 'comment' AND {_alive('tag', snapshot)}"
        f" WHERE {_alive('tables', snapshot)}{chosen}",
        given,
    ).fetchall()
    numbers = [number for number, *_ in found]
    # A comparison with one number is cheaper than a list of one, and it is what every write asks.
    of_these = f"= {numbers[0]}" if len(numbers) == 1 else f"IN ({', '.join(map(str, numbers)) or 'NULL'})"
    columns: dict[int, list[ColumnDescription]] = {number: [] for number in numbers}
    for number, name, kind, comment in cursor.execute(
        "SELECT columns.table_id, column_name, column_type, tag.value"
        f" FROM {CATALOGUE}.ducklake_column AS columns LEFT JOIN {CATALOGUE}.ducklake_column_tag AS tag"
        " ON tag.table_id = columns.table_id AND tag.column_id = columns.column_id AND tag.key = 'comment'"
        f" AND {_alive('tag', snapshot)}"
        f" WHERE columns.table_id {of_these} AND parent_column IS NULL AND {_alive('columns', snapshot)}"
        " ORDER BY columns.table_id, column_order"
    ).fetchall():
        columns[number].append(ColumnDescription(name, kind, comment))
    return {name: TableDescription(name, number, comment, tuple(columns[number])) for number, name, comment in found}


def partition_files(
    cursor: duckdb.DuckDBPyConnection, number: int, column: str, snapshot: int
) -> dict[str, list[str]] | None:
    """The names of a table's files by the value of a partition column, as text; None where the catalogue cannot know.

    It knows where every file was written under a partition by exactly this column. A file without a row is left out.
    """
    found = cursor.execute(
        "SELECT files.path, files.partition_id, partition_value,"
        " files.record_count > coalesce(deleted.rows, 0) AS has_rows"
        f" FROM {CATALOGUE}.ducklake_data_file AS files"
        f" LEFT JOIN {CATALOGUE}.ducklake_file_partition_value AS parts"
        f" ON parts.data_file_id = files.data_file_id AND parts.table_id = {number}"
        " LEFT JOIN (SELECT data_file_id, sum(delete_count) AS rows"
        f" FROM {CATALOGUE}.ducklake_delete_file AS gone WHERE table_id = {number} AND {_alive('gone', snapshot)}"
        " GROUP BY data_file_id) AS deleted ON deleted.data_file_id = files.data_file_id"
        f" WHERE files.table_id = {number} AND {_alive('files', snapshot)}",
    ).fetchall()
    partitions = {partition for _, partition, *_ in found}
    if partitions - _partitions_by(cursor, number, column, snapshot):
        return None
    files: dict[str, list[str]] = {}
    for path, _, value, has_rows in found:
        if has_rows and value is not None:
            files.setdefault(value, []).append(path.rpartition("/")[2])
    return files


def in_files(names: Iterable[str]) -> str:
    """The condition that a row of a table is in one of these files.

    Only these are opened then. A condition on a column opens as few, but looks at the statistics of every file of the
    lake for it.
    """
    return f"parse_filename(filename) IN ({', '.join(map(quoted_text, names)) or 'NULL'})"


def _partitions_by(cursor: duckdb.DuckDBPyConnection, number: int, column: str, snapshot: int) -> set[int]:
    keys = cursor.execute(
        "SELECT partition_id, column_id, transform"
        f" FROM {CATALOGUE}.ducklake_partition_column WHERE table_id = {number}"
    ).fetchall()
    columns = cursor.execute(
        f"SELECT column_id FROM {CATALOGUE}.ducklake_column AS columns WHERE table_id = {number}"
        f" AND column_name = ? AND parent_column IS NULL AND {_alive('columns', snapshot)}",
        [column],
    ).fetchall()
    others = {partition for partition, key, transform in keys if (key,) not in columns or transform != "identity"}
    return {partition for partition, *_ in keys} - others


def tables_changed_since(cursor: duckdb.DuckDBPyConnection, snapshot: int, newest: int) -> set[str]:
    """The tables whose rows, columns or comments are others at `newest` than at `snapshot`, gone and made ones too.

    Every table there is or was, where the catalogue no longer has the snapshot to compare with.
    """
    known = cursor.execute(f"SELECT 1 FROM {CATALOGUE}.ducklake_snapshot WHERE snapshot_id = {snapshot}").fetchall()
    within = f"BETWEEN {snapshot + 1} AND {newest}"
    changes = " UNION ".join(
        f"SELECT {number} AS table_id FROM {CATALOGUE}.{kind} WHERE begin_snapshot {within} OR end_snapshot {within}"
        for kind, number in _KINDS_OF_CHANGE
    )
    chosen = f" WHERE table_id IN ({changes})" if known else ""
    return {name for (name,) in cursor.execute(f"SELECT {_TABLE_NAME} FROM {_TABLE_NAMES}{chosen}").fetchall()}


def _alive(name: str, snapshot: int) -> str:
    return f"{name}.begin_snapshot <= {snapshot} AND ({name}.end_snapshot IS NULL OR {name}.end_snapshot > {snapshot})"
