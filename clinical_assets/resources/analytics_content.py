"""The content of the published file: tables, comments and views, brought from one snapshot of the lake to the newest.

Aggregate tables are shown with their small counts suppressed (`reporting.shown_tables`); tables with a row a unit are
de-identified, not aggregated, and stand as they are. The lake keeps the exact figures, for its owner alone.

Belongs here: what stands in the file, and which of it is renewed. Does not belong here: which file is written, and how
it gets to its readers (analytics.py); what is suppressed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from clinical_assets.governance.small_cells import SUPPRESSED
from clinical_assets.reporting.shown_tables import SHOWN_TABLES, SUPPRESSED_COMMENT, ShownTable
from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.lake_catalogue import CATALOGUE, table_descriptions, tables_changed_since
from clinical_assets.resources.lake_engine import quoted_name, quoted_text
from clinical_assets.resources.ledger_views import create_ledger_views

GOVERNANCE = "governance"
_PUBLICATION = "publication"
_ROWS_AT_A_TIME = 20_000
_VIEWS_OVER_ALL_MODELS = {
    "monitoring": (
        "data_quality",
        "estimated_performance",
        "drift_report",
        "performance_report",
        "repair_plan",
        "predictions",
        "peer_report",
    ),
    GOVERNANCE: ("evaluation", "silent_run", "validation_report", "sign_off", "release", "incident"),
}
Cursor = duckdb.DuckDBPyConnection


@dataclass(frozen=True, slots=True)
class Content:
    """What stands in a file: the lake's snapshot, tables and their rows in sum, and the mark of its views."""

    snapshot: int
    tables: int
    rows: int
    views: str


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    comment: str | None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class _Table:
    schema: str
    name: str
    comment: str | None
    columns: tuple[_Column, ...]

    @property
    def target(self) -> str:
        return f"{quoted_name(self.schema)}.{quoted_name(self.name)}"

    @property
    def key(self) -> tuple[str, str]:
        return self.schema, self.name

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def shown(self) -> ShownTable | None:
        return None if self.schema == GOVERNANCE else SHOWN_TABLES.get(self.name)


def renew_content(lake: Lake, file: Path, models: Sequence[str], views: str) -> Content:
    """Bring a file to the lake's newest snapshot, or make it; `views` is the mark of the views that stand in it.

    Only tables that changed since the file's own snapshot are touched. Raises LakeError if no table of the models or of
    governance is in the lake, or the small counts of one cannot be suppressed.
    """
    with closing(_opened(file)) as target, lake.cursor() as source:
        # One transaction of the lake, hence one snapshot; one of the file, hence all or nothing.
        source.execute("BEGIN")
        target.execute("BEGIN")
        [(snapshot,)] = source.execute("FROM lake.current_snapshot()").fetchall()
        [(created_at,)] = source.execute(
            f"SELECT min(snapshot_time)::VARCHAR FROM {CATALOGUE}.ducklake_snapshot"
        ).fetchall()
        tables = _tables_of_lake(source, snapshot, [*models, GOVERNANCE])
        if not tables:
            raise LakeError(f"nothing to publish: no table of {', '.join(models)} is in the lake; materialise first")
        before = _tables_of_file(target)
        since = _last_published(target, before, snapshot, created_at)
        renewed = set(tables) if since is None else tables_changed_since(source, since, snapshot)
        for key in before.keys() - {table.key for table in tables.values()} - {(GOVERNANCE, _PUBLICATION)}:
            target.execute(f"DROP TABLE {quoted_name(key[0])}.{quoted_name(key[1])}")
        touched = []
        for name, table in tables.items():
            shown, old = table.shown, before.get(table.key)
            looked_at = {f"{table.schema}.{other}" for other in shown.looks_at} & set(tables) if shown else {name}
            if old is not None and not looked_at & renewed:
                continue
            touched.append(table)
            if shown:
                _renew_shown_table(source, target, table, shown, [tables[other] for other in sorted(looked_at)])
            else:
                _renew_table(source, target, table, old, since)
        after = _tables_of_file(target)
        for table in touched:
            _comment_where_it_differs(target, table, after[table.key])
        standing = _tables_of_file(target)
        own = [standing[table.key] for table in tables.values()]
        mark = _renew_views(target, own, "" if since is None else views)
        _record_publication(target, snapshot, created_at)
        counts = " UNION ALL ".join(f"SELECT count(*) AS n FROM {table.target}" for table in own)
        [(rows,)] = target.execute(f"SELECT sum(n)::BIGINT FROM ({counts})").fetchall()
        target.execute("COMMIT")
        target.execute("CHECKPOINT")
    return Content(snapshot, len(tables), rows, mark)


def _opened(file: Path) -> Cursor:
    """The file in an engine of its own: asked of the lake's, its catalogue would cost a look at every table there."""
    config = {"autoinstall_known_extensions": False, "autoload_known_extensions": False, "threads": 1}
    try:
        opened = duckdb.connect(str(file), config=config)
    except duckdb.Error:
        # Of another DuckDB: it holds nothing that the lake does not.
        for damaged in file.parent.glob(f"{file.name}*"):
            damaged.unlink()
        opened = duckdb.connect(str(file), config=config)
    file.chmod(0o600)
    return opened


def _tables_of_lake(source: Cursor, snapshot: int, schemas: Sequence[str]) -> dict[str, _Table]:
    """The tables of these schemas as `model.asset`, in order; columns of bytes are left out."""
    tables = {}
    for name, described in sorted(table_descriptions(source, snapshot).items()):
        schema, _, table = name.partition(".")
        columns = tuple(_Column(x.name, x.comment) for x in described.columns if x.kind != "blob")
        if schema in schemas and columns:
            tables[name] = _Table(schema, table, described.comment, columns)
    return tables


def _tables_of_file(target: Cursor) -> dict[tuple[str, str], _Table]:
    """The tables of the file, with types and comments, by schema and name."""
    found = target.execute(
        "SELECT schema_name, table_name, any_value(tables.comment),"
        " list({'name': column_name, 'comment': columns.comment, 'kind': data_type} ORDER BY column_index)"
        " FROM duckdb_tables() AS tables JOIN duckdb_columns() AS columns USING (database_oid, schema_name, table_name)"
        " WHERE database_oid = (SELECT database_oid FROM duckdb_databases() WHERE database_name = current_database())"
        " GROUP BY ALL"
    ).fetchall()
    return {
        (schema, name): _Table(schema, name, comment, tuple(_Column(**column) for column in columns))
        for schema, name, comment, columns in found
    }


def _last_published(
    target: Cursor, tables: Mapping[tuple[str, str], _Table], snapshot: int, created_at: str
) -> int | None:
    """The snapshot that the file shows; None if it shows nothing yet, or another lake."""
    if (GOVERNANCE, _PUBLICATION) not in tables:
        return None
    query = f"SELECT snapshot, lake_created_at = ?::TIMESTAMPTZ FROM {GOVERNANCE}.{_PUBLICATION}"
    [(shown, of_this_lake)] = target.execute(query, [created_at]).fetchall()
    return shown if of_this_lake and shown <= snapshot else None


def _renew_table(source: Cursor, target: Cursor, table: _Table, old: _Table | None, since: int | None) -> None:
    """Bring one table of the file to the state of the lake: the months with rows newer than `since`, or all."""
    columns, lakes = ", ".join(map(quoted_name, table.column_names)), f"lake.{table.target}"
    if since is not None and old is not None and old.column_names == table.column_names:
        newer = f"FROM {lakes} WHERE snapshot_id > {since}"
        if "month" in table.column_names:
            if months := [month for (month,) in source.execute(f"SELECT DISTINCT month {newer}").fetchall()]:
                of_these = f"month IN ({', '.join('?' * len(months))})"
                target.execute(f"DELETE FROM {table.target} WHERE {of_these}", months)
                query = f"SELECT {columns} FROM {lakes} WHERE {of_these}"
                _bring(source, target, query, f"INSERT INTO {table.target}", months)
            changed = False
        else:
            changed = _count(source, newer) > 0
        # Rows that the lake has lost since have left no newer row behind.
        if not changed and _count(target, f"FROM {table.target}") == _count(source, f"FROM {lakes}"):
            return
    target.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_name(table.schema)}")
    _bring(source, target, f"SELECT {columns} FROM {lakes}", f"CREATE OR REPLACE TABLE {table.target} AS", [])


def _bring(source: Cursor, target: Cursor, query: str, into: str, values: Sequence[object]) -> None:
    target.register("incoming", source.execute(query, values).to_arrow_reader(_ROWS_AT_A_TIME))
    target.execute(f"{into} FROM incoming")
    target.unregister("incoming")


def _renew_shown_table(
    source: Cursor, target: Cursor, table: _Table, shown: ShownTable, looked_at: Sequence[_Table]
) -> None:
    """Bring an aggregate table of the file to what may be shown of the lake's: as a whole, for it is small."""
    exact = {other.name: _read_exact(source, other) for other in looked_at}
    try:
        frame = shown.show(exact)
    except pl.exceptions.ColumnNotFoundError as error:
        raise LakeError(
            f"{table.schema}.{table.name} lacks a column, without which its small counts cannot be suppressed: "
            f"{str(error).splitlines()[0]}; materialise it again"
        ) from error
    target.register("shown", frame)
    target.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_name(table.schema)}")
    target.execute(f"CREATE OR REPLACE TABLE {table.target} AS FROM shown")
    target.unregister("shown")


def _read_exact(source: Cursor, table: _Table) -> pl.DataFrame:
    columns = ", ".join(map(quoted_name, table.column_names))
    return source.execute(f"SELECT {columns} FROM lake.{table.target}").pl()


def _count(cursor: Cursor, rows: str) -> int:
    return cursor.execute(f"SELECT count(*) {rows}").fetchall()[0][0]


def _comment_where_it_differs(target: Cursor, table: _Table, now: _Table) -> None:
    """Give a table of the file, as it stands now, the comments that it has in the lake."""
    wanted = {column.name: column.comment for column in table.columns} | {SUPPRESSED: SUPPRESSED_COMMENT}
    if table.comment not in (None, now.comment):
        target.execute(f"COMMENT ON TABLE {table.target} IS {quoted_text(table.comment or '')}")
    _comment_columns(
        target,
        table.target,
        [
            _Column(column.name, wanted[column.name])
            for column in now.columns
            if wanted.get(column.name) not in (None, column.comment)
        ],
    )


def _renew_views(target: Cursor, tables: Sequence[_Table], mark: str) -> str:
    """Make the views over all models and over the ledger, unless `mark` says that they stand already; gives theirs."""
    views = {
        (schema, name): members
        for schema, names in _VIEWS_OVER_ALL_MODELS.items()
        for name in names
        if (members := [table for table in tables if table.name == name and table.schema != GOVERNANCE])
    }
    ledger = [table for table in tables if table.key == (GOVERNANCE, "ledger")]
    said = repr([*views.items(), *ledger])
    if (wanted := hashlib.sha256(said.encode()).hexdigest()) == mark:
        return mark
    existing = "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal"
    for schema, name in target.execute(existing).fetchall():
        target.execute(f"DROP VIEW {quoted_name(schema)}.{quoted_name(name)}")
    for (schema, name), members in views.items():
        _create_view(target, schema, name, members)
    if ledger:
        create_ledger_views(target)
    return wanted


def _create_view(target: Cursor, schema: str, name: str, members: Sequence[_Table]) -> None:
    view = f"{quoted_name(schema)}.{quoted_name(name)}"
    # Names in views go without the database: a client picks its own.
    selects = [
        f"SELECT {quoted_text(table.schema)} AS model, {_all_but_model(table)} FROM {table.target}" for table in members
    ]
    target.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_name(schema)}")
    target.execute(f"CREATE VIEW {view} AS {' UNION ALL BY NAME '.join(selects)}")
    described = [column for table in reversed(members) for column in table.columns if column.comment is not None]
    columns = {column.name: column for column in described}
    columns["model"] = _Column("model", "Model the row is of")
    if (comment := members[0].comment) is not None:
        target.execute(f"COMMENT ON VIEW {view} IS {quoted_text(comment)}")
    _comment_columns(target, view, list(columns.values()))


def _all_but_model(table: _Table) -> str:
    return "* EXCLUDE (model)" if "model" in table.column_names else "*"


def _record_publication(target: Cursor, snapshot: int, created_at: str) -> None:
    said = f"{GOVERNANCE}.{_PUBLICATION}"
    target.execute(f"CREATE SCHEMA IF NOT EXISTS {GOVERNANCE}")
    target.execute(
        f"CREATE OR REPLACE TABLE {said} AS"
        " SELECT ?::BIGINT AS snapshot, now() AS published_at, ?::TIMESTAMPTZ AS lake_created_at",
        [snapshot, created_at],
    )
    target.execute(f"COMMENT ON TABLE {said} IS 'What this file shows, and since when'")
    columns = (
        _Column("snapshot", "The snapshot of the lake that this file shows"),
        _Column("published_at", "When this file was made, UTC"),
        _Column("lake_created_at", "When the lake was made, UTC; tells one lake from another"),
    )
    _comment_columns(target, said, columns)


def _comment_columns(target: Cursor, of: str, columns: Sequence[_Column]) -> None:
    for column in columns:
        if column.comment is not None:
            target.execute(f"COMMENT ON COLUMN {of}.{quoted_name(column.name)} IS {quoted_text(column.comment)}")
