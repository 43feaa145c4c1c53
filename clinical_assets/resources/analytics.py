"""The published file, analytics.duckdb: the lake at one snapshot, in clear and read-only, for any DuckDB client.

Belongs here: how the file is built and swapped in under its readers. Does not belong here: what is de-identified (all
that reaches the lake is), and Dagster.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.lake_engine import attempt, quoted_name, quoted_text

GOVERNANCE = "governance"
_VIEWS_OVER_ALL_MODELS = {
    "monitoring": ("drift_report", "performance_report", "repair_plan", "predictions"),
    GOVERNANCE: ("evaluation", "validation_report", "sign_off", "release", "incident"),
}


@dataclass(frozen=True, slots=True)
class Published:
    """What was published: the file, the number of its tables, their rows in sum, and the lake's snapshot they show."""

    path: Path
    tables: int
    rows: int
    snapshot: int


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    comment: str | None


@dataclass(frozen=True, slots=True)
class _Table:
    schema: str
    name: str
    comment: str | None
    columns: tuple[_Column, ...]


def publish_analytics(lake: Lake, path: Path, models: Sequence[str]) -> Published:
    """Publishes the tables of the models and of governance, with their comments, and views over all models.

    Readers of the file of before keep it; who opens the file afterwards sees the new one. Columns of type BLOB are left
    out. Raises LakeError if no table is there to publish.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f".{path.name}.building")
    with _only_publisher(path):
        shutil.rmtree(building, ignore_errors=True)  # of a publisher that was killed
        building.mkdir(mode=0o700)
        try:
            file = building / path.name
            published, _ = attempt("publication", lake.retry_seconds, lambda: _build(lake, file, path, models))
            if list(building.iterdir()) != [file]:
                raise LakeError(f"{path.name}: the file is not whole, a log is left beside it; publish again")
            file.chmod(0o444)
            # A log that a killed analyst left would be replayed into the new file, by its first reader.
            _delete_logs(path)
            file.replace(path)
            _delete_logs(path)
        finally:
            shutil.rmtree(building)
    return published


@contextmanager
def _only_publisher(path: Path) -> Iterator[None]:
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _delete_logs(path: Path) -> None:
    for log in path.parent.glob(f"{path.name}.wal*"):
        log.unlink(missing_ok=True)


def _build(lake: Lake, file: Path, path: Path, models: Sequence[str]) -> Published:
    database = f"publication_{uuid.uuid4().hex}"
    with lake.cursor() as cursor:
        file.unlink(missing_ok=True)
        cursor.execute(f"ATTACH {quoted_text(str(file))} AS {database}")
    try:
        with lake.cursor() as cursor:
            # One transaction, hence one snapshot. Names in views go without the database: a client picks its own.
            cursor.execute(f"USE {database}; BEGIN")
            snapshot = cursor.execute("FROM lake.current_snapshot()").fetchall()[0][0]
            tables = _tables(cursor, [*models, GOVERNANCE])
            if not tables:
                raise LakeError(
                    f"nothing to publish: no table of {', '.join(models)} is in the lake; materialise first"
                )
            rows = sum(_copy(cursor, table) for table in tables)
            for schema, names in _VIEWS_OVER_ALL_MODELS.items():
                for name in names:
                    if members := [table for table in tables if table.name == name and table.schema != GOVERNANCE]:
                        _create_view(cursor, schema, name, members)
            cursor.execute("COMMIT")
            cursor.execute(f"CHECKPOINT {database}")
    finally:
        with lake.cursor() as cursor:
            cursor.execute(f"DETACH {database}")
    return Published(path=path, tables=len(tables), rows=rows, snapshot=snapshot)


def _tables(cursor: duckdb.DuckDBPyConnection, schemas: Sequence[str]) -> list[_Table]:
    found = cursor.execute(
        "SELECT schema_name, table_name, any_value(tables.comment),"
        " list({'name': column_name, 'comment': columns.comment} ORDER BY column_index)"
        " FROM duckdb_tables() AS tables"
        " JOIN duckdb_columns() AS columns USING (database_name, schema_name, table_name)"
        " WHERE database_name = 'lake' AND list_contains(?, schema_name) AND data_type != 'BLOB'"
        " GROUP BY ALL ORDER BY schema_name, table_name",
        [list(schemas)],
    ).fetchall()
    return [
        _Table(schema, name, comment, tuple(_Column(**column) for column in columns))
        for schema, name, comment, columns in found
    ]


def _copy(cursor: duckdb.DuckDBPyConnection, table: _Table) -> int:
    target = f"{quoted_name(table.schema)}.{quoted_name(table.name)}"
    columns = ", ".join(quoted_name(column.name) for column in table.columns)
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_name(table.schema)}")
    rows = cursor.execute(f"CREATE TABLE {target} AS SELECT {columns} FROM lake.{target}").fetchall()[0][0]
    _comment(cursor, "TABLE", target, table.comment, table.columns)
    return rows


def _create_view(cursor: duckdb.DuckDBPyConnection, schema: str, name: str, members: Sequence[_Table]) -> None:
    target = f"{quoted_name(schema)}.{quoted_name(name)}"
    selects = [
        f"SELECT {quoted_text(table.schema)} AS model, {_all_but_model(table)}"
        f" FROM {quoted_name(table.schema)}.{quoted_name(table.name)}"
        for table in members
    ]
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_name(schema)}")
    cursor.execute(f"CREATE VIEW {target} AS {' UNION ALL BY NAME '.join(selects)}")
    described = [column for table in reversed(members) for column in table.columns if column.comment is not None]
    columns = {column.name: column for column in described}
    columns["model"] = _Column("model", "Model the row is of")
    _comment(cursor, "VIEW", target, members[0].comment, tuple(columns.values()))


def _all_but_model(table: _Table) -> str:
    return "* EXCLUDE (model)" if any(column.name == "model" for column in table.columns) else "*"


def _comment(
    cursor: duckdb.DuckDBPyConnection, kind: str, target: str, comment: str | None, columns: Sequence[_Column]
) -> None:
    if comment is not None:
        cursor.execute(f"COMMENT ON {kind} {target} IS {quoted_text(comment)}")
    for column in columns:
        if column.comment is not None:
            cursor.execute(f"COMMENT ON COLUMN {target}.{quoted_name(column.name)} IS {quoted_text(column.comment)}")
