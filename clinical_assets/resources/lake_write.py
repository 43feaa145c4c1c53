"""One write to one table of the lake: what it may be, and its statements within a transaction that is already open.

Belongs here: what a frame must be to be kept, and how a table is brought to it without loss. Does not belong here: the
transaction, its commit and its retry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import duckdb
import polars as pl
import polars.selectors as cs
from polars.datatypes import DataTypeClass

from clinical_assets.resources.lake_catalogue import TableDescription, in_files, partition_files, table_descriptions
from clinical_assets.resources.lake_engine import LakeError, quoted_name, quoted_table, quoted_text

_SCALARS = frozenset(
    {
        *(pl.Boolean, pl.String, pl.Binary, pl.Date, pl.Float32, pl.Float64),
        *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    }
)
_REMEDY = "give it as before, or replace the whole table"


@dataclass(frozen=True, slots=True)
class Write:
    """What becomes of one table: the rows that replace it as a whole, or some of it, or that are added to it.

    `months` are the months replaced, each the first of the month; `replace_by` is the column whose values in the frame
    are replaced; `append` removes nothing. At most one of the three is given. `comments` are of columns.
    """

    table: str
    frame: pl.DataFrame = field(repr=False)
    months: Sequence[date] | None = None
    replace_by: str | None = None
    append: bool = False
    description: str | None = None
    comments: Mapping[str, str] = field(default_factory=dict)

    def storable(self) -> "Write":
        """The same with categories as text, as the lake keeps them; raises LakeError for what it cannot keep."""
        quoted_table(self.table)
        if (self.months is not None) + (self.replace_by is not None) + self.append > 1:
            raise LakeError(f"{self.table}: give months, or a column to replace by, or append; not two of them")
        if self.months is not None:
            _require_these_months(self.table, self.frame, self.months)
        elif self.replace_by is not None:
            _require_values(self.table, self.frame, self.replace_by)
        elif self.append and self.frame.is_empty():
            raise LakeError(f"{self.table}: no rows to append")
        frame = self.frame.with_columns(cs.categorical().cast(pl.String), cs.enum().cast(pl.String))
        _require_storable(self.table, frame)
        if unknown := sorted(set(self.comments) - set(frame.columns)):
            raise LakeError(f"{self.table}: comments on columns the frame does not have: {', '.join(unknown)}")
        return replace(self, frame=frame)

    def execute(self, cursor: duckdb.DuckDBPyConnection, snapshot: int) -> tuple[str, ...]:
        """Make the write in the cursor's open transaction, begun at `snapshot`, and say the table's columns in order.

        Raises LakeError for missing columns and changed types.
        """
        target, replaced_by = quoted_table(self.table), "month" if self.months is not None else self.replace_by
        cursor.register("incoming", self.frame)
        known = table_descriptions(cursor, snapshot, [self.table]).get(self.table)
        columns, is_new = self._fit_table(cursor, known, replaced_by)
        if is_new or known is None:
            known = None
        elif replaced_by is not None:
            self._delete(cursor, known.number, snapshot, replaced_by)
        elif not self.append:
            cursor.execute(f"DELETE FROM {target}")
        cursor.execute(f"INSERT INTO {target} BY NAME SELECT * FROM incoming")
        self._comment(cursor, known)
        cursor.unregister("incoming")
        return columns

    def _fit_table(
        self, cursor: duckdb.DuckDBPyConnection, known: TableDescription | None, partition_by: str | None
    ) -> tuple[tuple[str, ...], bool]:
        """Makes the table of the incoming columns, or brings an existing one to them if that loses nothing.

        Says its columns in order, and whether it is a new table.
        """
        target, whole = quoted_table(self.table), partition_by is None and not self.append
        incoming = _types(cursor, "incoming")
        kept = _types(cursor, target) if known is not None else {}
        if whole and kept and kept != incoming:
            cursor.execute(f"DROP TABLE {target}")
            kept = {}
        if not kept:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS lake.{quoted_name(self.table.partition('.')[0])}")
            cursor.execute(f"CREATE TABLE {target} AS FROM incoming LIMIT 0")
            if partition_by is not None:
                cursor.execute(f"ALTER TABLE {target} SET PARTITIONED BY ({quoted_name(partition_by)})")
            return tuple(incoming), True
        if missing := [f"{name} ({kind})" for name, kind in kept.items() if name not in incoming]:
            raise LakeError(f"{self.table}: the frame lacks {', '.join(missing)}, which the table has; {_REMEDY}")
        for name, kind in incoming.items():
            if name not in kept:
                cursor.execute(f"ALTER TABLE {target} ADD COLUMN {quoted_name(name)} {kind}")
            elif kept[name] != kind:
                raise LakeError(
                    f"{self.table}: column {name} is {kind} in the frame and {kept[name]} in the table; {_REMEDY}"
                )
        return tuple(kept | incoming), False

    def _delete(self, cursor: duckdb.DuckDBPyConnection, number: int, snapshot: int, column: str) -> None:
        """Delete the rows whose value in the column occurs in the frame; nothing, where the table has none of them."""
        target, values = quoted_table(self.table), self.frame[column].unique().to_list()
        files = partition_files(cursor, number, column, snapshot)
        if files is None or not all(type(value) in (str, date, int) for value in values):
            replaced = f"{quoted_name(column)} IN ({', '.join('?' * len(values))})"
            cursor.execute(f"DELETE FROM {target} WHERE {replaced}", values)
        elif present := [str(value) for value in values if str(value) in files]:
            replaced = f"{quoted_name(column)}::VARCHAR IN ({', '.join('?' * len(present))})"
            within = in_files(name for value in present for name in files[value])
            cursor.execute(f"DELETE FROM {target} WHERE {within} AND {replaced}", present)

    def _comment(self, cursor: duckdb.DuckDBPyConnection, known: TableDescription | None) -> None:
        # Only what differs: a comment alters the table, and thereby collides with every other writer of it.
        target = quoted_table(self.table)
        if self.description is not None and (known is None or known.comment != self.description):
            cursor.execute(f"COMMENT ON TABLE {target} IS {quoted_text(self.description)}")
        said = {} if known is None else {column.name: column.comment for column in known.columns}
        for name, comment in self.comments.items():
            if said.get(name) != comment:
                cursor.execute(f"COMMENT ON COLUMN {target}.{quoted_name(name)} IS {quoted_text(comment)}")


def _types(cursor: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    return {name: kind for name, kind, *_ in cursor.execute(f"DESCRIBE {source}").fetchall()}


def _require_these_months(table: str, frame: pl.DataFrame, months: Sequence[date]) -> None:
    said = ", ".join(f"{month:%Y-%m}" for month in sorted(set(months)))
    if not months:
        raise LakeError(f"{table}: no month is given to write; give at least one")
    if late := [str(month) for month in months if month.day != 1]:
        raise LakeError(f"{table}: {late[0]} is not the first of a month; give the first")
    if frame.schema.get("month") != pl.Date:
        raise LakeError(f"{table}: the frame needs a column `month` of type Date, the first of the month")
    if strangers := frame.height - frame.filter(pl.col("month").is_in(list(months))).height:
        raise LakeError(f"{table}: {strangers} of {frame.height} rows are not of month {said}; remove them")
    if missing := sorted(set(months) - set(frame["month"].unique())):
        named = ", ".join(f"{month:%Y-%m}" for month in missing)
        raise LakeError(f"{table}: no rows for month {named}; a month without rows is not written")


def _require_values(table: str, frame: pl.DataFrame, column: str) -> None:
    if column not in frame.columns:
        raise LakeError(f"{table}: the frame lacks the column {column}, by which rows are replaced")
    if frame.is_empty():
        raise LakeError(f"{table}: no rows, so it is unknown which {column} they would replace")
    if nulls := frame[column].null_count():
        raise LakeError(f"{table}: {nulls} rows have no {column}, by which rows are replaced; fill it")


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
