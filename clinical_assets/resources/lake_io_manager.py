"""How Dagster keeps frames in the lake: asset key `model/asset` is table `model.asset`, a monthly partition its month.

Belongs here: the translation between Dagster's contexts and the lake. Does not belong here: SQL, and other storage.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import polars.selectors as cs

from clinical_assets.governance.small_cells import is_small
from clinical_assets.resources.audited_outputs import record_materialisation
from clinical_assets.resources.column_descriptions import describe_column
from clinical_assets.resources.handed_on import HANDED_ON
from clinical_assets.resources.lake import Commit, Lake, LakeError, Write
from clinical_assets.resources.outward_gate import reporting

REPLACE_BY = "lake/replace_by"
COLUMN_SCHEMA = "dagster/column_schema"
VERSION = "lake/version"
COLUMNS = "lake/columns"

if TYPE_CHECKING:
    import pandas as pd


class LakeResource(dg.ConfigurableResource):
    """The lake of this platform: the address of its catalogue and the folder of its data files."""

    catalogue: str
    data: str

    def open(self) -> Lake:
        """The lake as a plain value."""
        return Lake(self.catalogue, Path(self.data))


@dataclass(frozen=True, slots=True)
class Batch:
    """The frames of several outputs of one step, which become one commit: the same batch is the value of each output.

    `frames` are by table (`model.asset`), and so are the descriptions of columns, which become comments. `beside` are
    tables that are no assets, and are written in the same commit.
    """

    frames: Mapping[str, "pl.DataFrame | pd.DataFrame"] = field(repr=False)
    descriptions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    beside: Sequence[Write] = ()
    _committed: list[tuple[Commit, Mapping[str, Write]]] = field(default_factory=list, init=False, repr=False)


class LakeIOManager(dg.ConfigurableIOManager):
    """Keeps Polars and pandas frames as tables of the lake, and hands a frame on to later steps of the run it is from.

    An output is a frame, or a Batch of which the output's table is one: the first output of a batch commits all of
    them. A run of several monthly partitions writes them in one commit, told apart by their column `month`.

    Definition metadata of an asset: `lake/replace_by` (an unpartitioned asset replaces only the rows whose value in
    this column it gives anew). Metadata of an output: `dagster/column_schema`, whose descriptions become comments
    beside the platform's own. Metadata of an input: `lake/version`, a snapshot to read at; `lake/columns`, the columns
    to read. Every output is recorded in the audit trail in the folder `audit`.

    What a step of this run wrote, in this process, an input gets from memory, as a read would give it, also where
    somebody else has written the same since; an input with `lake/version` is always read.
    """

    lake: dg.ResourceDependency[LakeResource]
    audit: str

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Drop the frames of the run that ends here."""
        HANDED_ON.forget()

    @reporting
    def handle_output(self, context: dg.OutputContext, obj: "pl.DataFrame | pd.DataFrame | Batch") -> None:
        """Writes the frame as one commit that names the run, and records rows, columns, snapshot and attempts."""
        table = _table_name(context.asset_key)
        batch = obj if isinstance(obj, Batch) else Batch({table: obj}, {table: _given_descriptions(context)})
        if not batch._committed:
            batch._committed.append(self._commit(context, batch))
        [(commit, writes)] = batch._committed
        if table not in writes:
            raise LakeError(f"{table}: the batch holds no frame for it, only for {', '.join(writes)}; add it")
        write = writes[table]
        columns = [
            dg.TableColumn(name, str(kind), write.comments.get(name)) for name, kind in write.frame.schema.items()
        ]
        context.add_output_metadata(
            {
                **_row_count(write.frame.height),
                "lake/table": table,
                "lake/snapshot": commit.snapshot,
                "lake/attempts": commit.attempts,
            }
            | ({} if COLUMN_SCHEMA in context.output_metadata else {COLUMN_SCHEMA: dg.TableSchema(columns)})
        )
        for key, rows in _rows_of_each_month(table, context, write).items():
            context.step_context.add_asset_metadata(_row_count(rows), context.asset_key, key)
        record_materialisation(self.audit, context, snapshot=commit.snapshot, details={"rows": write.frame.height})

    @reporting
    def load_input(self, context: dg.InputContext) -> "pl.DataFrame | pd.DataFrame":
        """The months the input asks for, or the table if these are all, as the frame the parameter is annotated."""
        table = _table_name(context.asset_key)
        months = None
        if context.has_asset_partitions:
            partitions = context.asset_partitions_def
            keys = context.asset_partition_keys
            if len(keys) == 1 or set(keys) != set(partitions.get_partition_keys()):
                months = [_month(table, partitions, key) for key in keys]
        asked = context.definition_metadata or {}
        wanted = context.dagster_type.typing_type
        in_polars = wanted in (pl.DataFrame, Any)
        if not in_polars and not _is_pandas(wanted):
            raise LakeError(f"{table}: annotate the input polars.DataFrame or pandas.DataFrame, not {wanted}")
        frame = self._frame(context, table, months, asked.get(VERSION), asked.get(COLUMNS))
        return frame if in_polars else frame.to_pandas()

    def _commit(self, context: dg.OutputContext, batch: Batch) -> tuple[Commit, Mapping[str, Write]]:
        writes = {table: _write(context, table, frame, batch) for table, frame in batch.frames.items()}
        partitions = ", ".join(context.asset_partition_keys) if context.has_asset_partitions else None
        assets = ", ".join(_asset_key(table).to_user_string() for table in writes)
        note = {"run_id": context.run_id, "asset": assets, "partition": partitions}
        together = [*writes.values(), *batch.beside]
        commit = self.lake.open().write_together(together, author=context.run_id, message=json.dumps(note))
        for table, write in writes.items():
            if write.replace_by is None:
                frame = write.frame.select(commit.columns[table])
                HANDED_ON.keep(context.run_id, self.lake.catalogue, table, frame, write.months)
        return commit, writes

    def _frame(
        self,
        context: dg.InputContext,
        table: str,
        months: Sequence[date] | None,
        snapshot: int | None,
        columns: Sequence[str] | None,
    ) -> pl.DataFrame:
        run_id, frame = _run_of(context), None
        if run_id is not None and snapshot is None:
            frame = HANDED_ON.take(run_id, self.lake.catalogue, table, months)
        if frame is None:
            return self.lake.open().read(table, months=months, snapshot=snapshot, columns=columns)
        if unknown := sorted(set(columns or ()) - set(frame.columns)):
            raise LakeError(f"{table}: no column {', '.join(unknown)}; it has {', '.join(frame.columns)}")
        return frame if columns is None else frame.select(columns)


def _write(context: dg.OutputContext, table: str, frame: Any, batch: Batch) -> Write:
    """What becomes of one table of a batch, by the definition of its asset and the partitions of the run."""
    definition, spec = context.step_context.assets_def, context.asset_spec
    specs = {spec.key: spec} | (dict(definition.specs_by_key) if definition is not None else {})
    if (spec := specs.get(_asset_key(table))) is None:
        raise LakeError(f"{table}: the step that wrote the batch has no such output; give frames of its own assets")
    frame = _to_polars(table, frame)
    given = batch.descriptions.get(table, {})
    months = None
    if spec.partitions_def is not None:
        months = [_month(table, spec.partitions_def, key) for key in context.asset_partition_keys]
    return Write(
        table,
        frame,
        months=months,
        replace_by=spec.metadata.get(REPLACE_BY) if months is None else None,
        description=spec.description,
        comments={name: text for name in frame.columns if (text := given.get(name) or describe_column(name))},
    ).storable()


def _run_of(context: dg.InputContext) -> str | None:
    """The run whose step asks; None where a person loads the input outside of any."""
    try:
        return context.step_context.run_id
    except dg.DagsterInvariantViolationError:
        return None


def _row_count(rows: int) -> dict[str, int]:
    """How many rows were written, which Dagster takes as a number alone; nothing where that would be a small count."""
    return {} if is_small(rows) else {"dagster/row_count": rows}


def _rows_of_each_month(table: str, context: dg.OutputContext, write: Write) -> dict[str, int]:
    """How many rows each partition has, where a run made several."""
    keys = context.asset_partition_keys if context.has_asset_partitions else []
    if len(keys) < 2:
        return {}
    counts = dict(write.frame.group_by("month").len().iter_rows())
    return {key: counts[_month(table, context.asset_partitions_def, key)] for key in keys}


def _given_descriptions(context: dg.OutputContext) -> dict[str, str]:
    given = context.output_metadata.get(COLUMN_SCHEMA)
    schema = given.value if isinstance(given, dg.TableSchemaMetadataValue) else given
    if not isinstance(schema, dg.TableSchema):
        return {}
    return {column.name: column.description for column in schema.columns if column.description}


def _table_name(key: dg.AssetKey) -> str:
    return ".".join(key.path)


def _asset_key(table: str) -> dg.AssetKey:
    return dg.AssetKey(table.split("."))


def _to_polars(table: str, frame: Any) -> pl.DataFrame:
    if isinstance(frame, pl.DataFrame):
        return frame
    if _is_pandas(type(frame)):
        # pandas knows no dates, and nanoseconds where the lake keeps microseconds.
        return pl.from_pandas(frame).with_columns(
            cs.datetime(time_zone="*").dt.cast_time_unit("us"), cs.by_name("month", require_all=False).cast(pl.Date)
        )
    raise LakeError(
        f"{table}: the lake keeps Polars and pandas frames, not {type(frame).__name__}; use another IO manager"
    )


def _is_pandas(kind: object) -> bool:
    import pandas as pd

    return kind is pd.DataFrame


def _month(table: str, partitions: dg.PartitionsDefinition, key: str) -> date:
    if not isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        raise LakeError(f"{table}: the lake keeps monthly partitions, not {type(partitions).__name__}")
    return partitions.time_window_for_partition_key(key).start.date()
