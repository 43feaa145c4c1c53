"""What the lake's catalogue says of its tables, asked of DuckLake's own tables as of a snapshot.

Belongs here: questions to the catalogue that open no data file. Does not belong here: rows, and anything that writes.

`duckdb_tables()` and `duckdb_columns()` are never asked: they load the statistics of every table of the lake, anew
after every commit of anybody. The question of one table must not cost more because there are a thousand others.
"""

from collections.abc import Collection
from dataclasses import dataclass

import duckdb
import polars as pl

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
    """A table: its name `model.asset`, its comment, and its columns in order."""

    table: str
    comment: str | None
    columns: tuple[ColumnDescription, ...]


def newest_snapshot(cursor: duckdb.DuckDBPyConnection) -> int:
    """The number of the newest commit of anybody."""
    return cursor.execute(f"SELECT max(snapshot_id) FROM {CATALOGUE}.ducklake_snapshot").fetchall()[0][0]


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
    return {name: TableDescription(name, comment, tuple(columns[number])) for number, name, comment in found}


def partition_values(cursor: duckdb.DuckDBPyConnection, number: int, column: str, snapshot: int) -> set[str] | None:
    """The values of a partition column that a table has rows for, as text; None where the catalogue cannot know.

    It knows them where every file with rows was written under a partition by exactly this column.
    """
    found = cursor.execute(
        "WITH live AS (SELECT data_file_id, record_count, partition_id"
        f" FROM {CATALOGUE}.ducklake_data_file AS files WHERE table_id = {number} AND {_alive('files', snapshot)}),"
        " gone AS (SELECT data_file_id, sum(delete_count) AS rows"
        f" FROM {CATALOGUE}.ducklake_delete_file AS files WHERE table_id = {number} AND {_alive('files', snapshot)}"
        " GROUP BY data_file_id),"
        " keys AS (SELECT partition_id, count(*) AS keys, bool_and(transform = 'identity' AND column_name = ?) AS named"
        f" FROM {CATALOGUE}.ducklake_partition_column AS parts JOIN {CATALOGUE}.ducklake_column AS columns"
        " ON columns.table_id = parts.table_id AND columns.column_id = parts.column_id"
        f" WHERE parts.table_id = {number} AND columns.table_id = {number} AND {_alive('columns', snapshot)}"
        " GROUP BY partition_id)"
        " SELECT DISTINCT coalesce(keys = 1 AND named, false), partition_value FROM live"
        " LEFT JOIN keys USING (partition_id) LEFT JOIN gone USING (data_file_id)"
        f" LEFT JOIN (SELECT * FROM {CATALOGUE}.ducklake_file_partition_value WHERE table_id = {number})"
        " USING (data_file_id) WHERE record_count > coalesce(gone.rows, 0)",
        [column],
    ).fetchall()
    return {value for _, value in found if value is not None} if all(known for known, _ in found) else None


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
