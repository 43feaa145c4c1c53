"""The published file, analytics.duckdb: the lake at one snapshot, in clear and read-only, for any DuckDB client.

Aggregate tables are shown with their small counts suppressed (`reporting.shown_tables`); tables with a row a unit are
de-identified, not aggregated, and stand as they are. The lake keeps the exact figures, for its owner alone.

Belongs here: how the file is built and swapped in under its readers. Does not belong here: what is de-identified (all
that reaches the lake is), what is suppressed, and Dagster.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb
import polars as pl

from clinical_assets.governance.small_cells import SUPPRESSED
from clinical_assets.reporting.shown_tables import SHOWN_TABLES, SUPPRESSED_COMMENT, ShownTable
from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.lake_engine import attempt, quoted_name, quoted_text
from clinical_assets.resources.ledger_views import create_ledger_views

GOVERNANCE = "governance"
_PUBLICATION = "publication"
_VIEWS_OVER_ALL_MODELS = {
    "monitoring": (
        "data_quality",
        "estimated_performance",
        "drift_report",
        "performance_report",
        "repair_plan",
        "predictions",
    ),
    GOVERNANCE: ("evaluation", "silent_run", "validation_report", "sign_off", "release", "incident"),
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


def publish_analytics(
    lake: Lake, path: Path, models: Sequence[str], before_replacing: Callable[[int], None] | None = None
) -> Published:
    """Publishes the tables of the models and of governance, with their comments, and views over all models.

    Readers of the file of before keep it; who opens the file afterwards sees the new one. Columns of type BLOB are left
    out. The publisher keeps a working copy beside the file, for its own eyes, in which it renews only the months that
    changed since; what an analyst does to the published file is gone with the next. `before_replacing` is told the
    snapshot that is about to be shown; if it raises, the published file stays as it was. Raises LakeError if no table
    is there to publish.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    working, building = working_copy(path), path.with_name(f".{path.name}.building")
    with _only_publisher(path):
        try:
            published, _ = attempt("publication", lake.retry_seconds, lambda: _renew(lake, working, path, models))
            if working.with_name(f"{working.name}.wal").exists():
                raise LakeError(f"{path.name}: the file is not whole, a log is left beside it; publish again")
            if before_replacing is not None:
                before_replacing(published.snapshot)
            shutil.copyfile(working, building)
            building.chmod(0o444)
            # A log that a killed analyst left would be replayed into the new file, by its first reader.
            _delete_logs(path)
            building.replace(path)
            _delete_logs(path)
        finally:
            building.unlink(missing_ok=True)
    return published


def working_copy(path: Path) -> Path:
    """The publisher's own copy of the file at `path`."""
    return path.with_name(f".{path.name}.working")


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


def _renew(lake: Lake, working: Path, path: Path, models: Sequence[str]) -> Published:
    database = f"publication_{uuid.uuid4().hex}"
    _attach(lake, working, database)
    try:
        with lake.cursor() as cursor:
            # One transaction, hence one snapshot. Names in views go without the database: a client picks its own.
            cursor.execute(f"USE {database}; BEGIN")
            snapshot, created_at = cursor.execute(
                "SELECT max(snapshot_id), min(snapshot_time) FROM lake.snapshots()"
            ).fetchall()[0]
            tables = _tables(cursor, [*models, GOVERNANCE])
            if not tables:
                raise LakeError(
                    f"nothing to publish: no table of {', '.join(models)} is in the lake; materialise first"
                )
            since = _last_published(cursor, database, snapshot, created_at)
            _drop_all_but(cursor, database, tables if since is not None else [])
            rows = sum(
                _renew_shown_table(cursor, database, table, shown, tables, since)
                if table.schema != GOVERNANCE and (shown := SHOWN_TABLES.get(table.name))
                else _renew_table(cursor, database, table, since)
                for table in tables
            )
            for schema, names in _VIEWS_OVER_ALL_MODELS.items():
                for name in names:
                    if members := [table for table in tables if table.name == name and table.schema != GOVERNANCE]:
                        _create_view(cursor, schema, name, [_as_shown(cursor, database, table) for table in members])
            if any((table.schema, table.name) == (GOVERNANCE, "ledger") for table in tables):
                create_ledger_views(cursor)
            _record_publication(cursor, snapshot, created_at)
            cursor.execute("COMMIT")
            cursor.execute(f"CHECKPOINT {database}")
    finally:
        with lake.cursor() as cursor:
            cursor.execute(f"DETACH {database}")
    return Published(path=path, tables=len(tables), rows=rows, snapshot=snapshot)


def _attach(lake: Lake, working: Path, database: str) -> None:
    with lake.cursor() as cursor:
        attach = f"ATTACH {quoted_text(str(working))} AS {database}"
        try:
            cursor.execute(attach)
        except duckdb.Error:
            # Damaged, or of another DuckDB: it holds nothing that the lake does not.
            for file in working.parent.glob(f"{working.name}*"):
                file.unlink()
            cursor.execute(attach)
    working.chmod(0o600)


def _last_published(
    cursor: duckdb.DuckDBPyConnection, database: str, snapshot: int, created_at: datetime
) -> int | None:
    """The snapshot that the working copy shows; None if it shows nothing yet, or another lake."""
    known = "SELECT 1 FROM duckdb_tables() WHERE database_name = ? AND schema_name = ? AND table_name = ?"
    if not cursor.execute(known, [database, GOVERNANCE, _PUBLICATION]).fetchall():
        return None
    [(shown, of_lake)] = cursor.execute(f"SELECT snapshot, lake_created_at FROM {GOVERNANCE}.{_PUBLICATION}").fetchall()
    return shown if of_lake == created_at and shown <= snapshot else None


def _drop_all_but(cursor: duckdb.DuckDBPyConnection, database: str, tables: Sequence[_Table]) -> None:
    kept = {(table.schema, table.name) for table in tables}
    views = "SELECT schema_name, view_name FROM duckdb_views() WHERE database_name = ? AND NOT internal"
    for schema, name in cursor.execute(views, [database]).fetchall():
        cursor.execute(f"DROP VIEW {quoted_name(schema)}.{quoted_name(name)}")
    shown = "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = ?"
    for schema, name in cursor.execute(shown, [database]).fetchall():
        if (schema, name) not in kept:
            cursor.execute(f"DROP TABLE {quoted_name(schema)}.{quoted_name(name)}")


def _record_publication(cursor: duckdb.DuckDBPyConnection, snapshot: int, created_at: datetime) -> None:
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {GOVERNANCE}")
    cursor.execute(
        f"CREATE OR REPLACE TABLE {GOVERNANCE}.{_PUBLICATION} AS"
        " SELECT ?::BIGINT AS snapshot, now() AS published_at, ?::TIMESTAMPTZ AS lake_created_at",
        [snapshot, created_at],
    )
    columns = (
        _Column("snapshot", "The snapshot of the lake that this file shows"),
        _Column("published_at", "When this file was made, UTC"),
        _Column("lake_created_at", "When the lake was made, UTC; tells one lake from another"),
    )
    _comment(cursor, "TABLE", f"{GOVERNANCE}.{_PUBLICATION}", "What this file shows, and since when", columns)


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


def _renew_table(cursor: duckdb.DuckDBPyConnection, database: str, table: _Table, since: int | None) -> int:
    """Bring one table of the working copy to the state of the lake: the months with rows newer than `since`, or all."""
    target = f"{quoted_name(table.schema)}.{quoted_name(table.name)}"
    names = [column.name for column in table.columns]
    columns = ", ".join(quoted_name(name) for name in names)
    rows = cursor.execute(f"SELECT count(*) FROM lake.{target}").fetchall()[0][0]
    if since is not None and _shown_columns(cursor, database, table) == names:
        newer = f"FROM lake.{target} WHERE snapshot_id > {since}"
        if "month" in names:
            months = f"(SELECT DISTINCT month {newer})"
            cursor.execute(f"DELETE FROM {target} WHERE month IN {months}")
            cursor.execute(f"INSERT INTO {target} SELECT {columns} FROM lake.{target} WHERE month IN {months}")
            changed = False
        else:
            changed = cursor.execute(f"SELECT count(*) {newer}").fetchall()[0][0] > 0
        # Rows that the lake has lost since have left no newer row behind.
        if not changed and cursor.execute(f"SELECT count(*) FROM {target}").fetchall()[0][0] == rows:
            _comment(cursor, "TABLE", target, table.comment, table.columns)
            return rows
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_name(table.schema)}")
    cursor.execute(f"CREATE OR REPLACE TABLE {target} AS SELECT {columns} FROM lake.{target}")
    _comment(cursor, "TABLE", target, table.comment, table.columns)
    return rows


def _renew_shown_table(
    cursor: duckdb.DuckDBPyConnection,
    database: str,
    table: _Table,
    shown: ShownTable,
    tables: Sequence[_Table],
    since: int | None,
) -> int:
    """Bring an aggregate table of the working copy to what may be shown of the lake's: as a whole, for it is small."""
    target = f"{quoted_name(table.schema)}.{quoted_name(table.name)}"
    seen = [other for other in tables if other.schema == table.schema and other.name in shown.looks_at]
    if since is not None and SUPPRESSED in _shown_columns(cursor, database, table):
        sources = [f"lake.{quoted_name(other.schema)}.{quoted_name(other.name)}" for other in seen]
        newer = sum(_count(cursor, f"{source} WHERE snapshot_id > {since}") for source in sources)
        rows = _count(cursor, target)
        # Rows that the lake has lost since have left no newer row behind.
        if not newer and rows == _count(cursor, f"lake.{target}"):
            _comment(cursor, "TABLE", target, table.comment, _as_shown(cursor, database, table).columns)
            return rows
    exact = {other.name: _read_exact(cursor, other) for other in seen}
    try:
        frame = shown.show(exact)
    except pl.exceptions.ColumnNotFoundError as error:
        raise LakeError(
            f"{table.schema}.{table.name} lacks a column, without which its small counts cannot be suppressed: "
            f"{str(error).splitlines()[0]}; materialise it again"
        ) from error
    cursor.register("shown", frame)
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_name(table.schema)}")
    cursor.execute(f"CREATE OR REPLACE TABLE {target} AS FROM shown")
    cursor.unregister("shown")
    _comment(cursor, "TABLE", target, table.comment, _as_shown(cursor, database, table).columns)
    return frame.height


def _read_exact(cursor: duckdb.DuckDBPyConnection, table: _Table) -> pl.DataFrame:
    columns = ", ".join(quoted_name(column.name) for column in table.columns)
    return cursor.execute(f"SELECT {columns} FROM lake.{quoted_name(table.schema)}.{quoted_name(table.name)}").pl()


def _count(cursor: duckdb.DuckDBPyConnection, source: str) -> int:
    return cursor.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0]


def _as_shown(cursor: duckdb.DuckDBPyConnection, database: str, table: _Table) -> _Table:
    """A table of the lake with the columns that it has in the working copy."""
    comments = {column.name: column.comment for column in table.columns} | {SUPPRESSED: SUPPRESSED_COMMENT}
    shown = _shown_columns(cursor, database, table)
    return replace(table, columns=tuple(_Column(name, comments.get(name)) for name in shown))


def _shown_columns(cursor: duckdb.DuckDBPyConnection, database: str, table: _Table) -> list[str]:
    query = (
        "SELECT column_name FROM duckdb_columns()"
        " WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index"
    )
    return [name for (name,) in cursor.execute(query, [database, table.schema, table.name]).fetchall()]


def _create_view(cursor: duckdb.DuckDBPyConnection, schema: str, name: str, members: Sequence[_Table]) -> None:
    target = f"{quoted_name(schema)}.{quoted_name(name)}"
    selects = [
        f"SELECT {quoted_text(table.schema)} AS model, {_all_but_model(table)}"
        f" FROM {quoted_name(table.schema)}.{quoted_name(table.name)}"
        for table in members
    ]
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_name(schema)}")
    cursor.execute(f"CREATE OR REPLACE VIEW {target} AS {' UNION ALL BY NAME '.join(selects)}")
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
