"""How Dagster keeps frames in the lake: asset key `model/asset` is table `model.asset`, a monthly partition its month.

Belongs here: the translation between Dagster's contexts and the lake. Does not belong here: SQL, and other storage.
"""

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import polars.selectors as cs

from clinical_assets.resources.audited_outputs import record_materialisation
from clinical_assets.resources.column_descriptions import COLUMN_DESCRIPTIONS
from clinical_assets.resources.lake import Lake, LakeError

REPLACE_BY = "lake/replace_by"
COLUMN_SCHEMA = "dagster/column_schema"
VERSION = "lake/version"

if TYPE_CHECKING:
    import pandas as pd


class LakeResource(dg.ConfigurableResource):
    """The lake of this platform: the address of its catalogue and the folder of its data files."""

    catalogue: str
    data: str

    def open(self) -> Lake:
        """The lake as a plain value."""
        return Lake(self.catalogue, Path(self.data))


class LakeIOManager(dg.ConfigurableIOManager):
    """Keeps Polars and pandas frames as tables of the lake.

    Definition metadata of an asset: `lake/replace_by` (an unpartitioned asset replaces only the rows whose value in
    this column it gives anew). Metadata of an output: `dagster/column_schema`, whose descriptions become comments
    beside the platform's own. Metadata of an input: `lake/version`, a snapshot to read at. Every output is recorded in
    the audit trail in the folder `audit`.
    """

    lake: dg.ResourceDependency[LakeResource]
    audit: str

    def handle_output(self, context: dg.OutputContext, obj: "pl.DataFrame | pd.DataFrame") -> None:
        """Writes the frame as one commit that names the run, and records rows, columns, snapshot and attempts."""
        table = _table_name(context.asset_key)
        frame = _to_polars(table, obj)
        metadata = context.definition_metadata or {}
        comments = COLUMN_DESCRIPTIONS | _given_descriptions(context)
        partition = _only_partition(table, context) if context.has_asset_partitions else None
        note = {"run_id": context.run_id, "asset": context.asset_key.to_user_string(), "partition": partition}
        provenance: dict[str, Any] = {
            "author": context.run_id,
            "message": json.dumps(note),
            "description": context.asset_spec.description,
            "comments": {name: text for name, text in comments.items() if name in frame.columns},
        }
        if partition is None:
            commit = self.lake.open().write_table(table, frame, replace_by=metadata.get(REPLACE_BY), **provenance)
        else:
            month = _month(table, context.asset_partitions_def, partition)
            commit = self.lake.open().write_month(table, month, frame, **provenance)
        columns = [dg.TableColumn(name, str(kind), comments.get(name)) for name, kind in frame.schema.items()]
        context.add_output_metadata(
            {
                "dagster/row_count": commit.rows,
                "lake/table": table,
                "lake/snapshot": commit.snapshot,
                "lake/attempts": commit.attempts,
            }
            | ({} if COLUMN_SCHEMA in context.output_metadata else {COLUMN_SCHEMA: dg.TableSchema(columns)})
        )
        record_materialisation(self.audit, context, snapshot=commit.snapshot, details={"rows": commit.rows})

    def load_input(self, context: dg.InputContext) -> "pl.DataFrame | pd.DataFrame":
        """The months the input asks for, or the table if these are all, as the frame the parameter is annotated."""
        table = _table_name(context.asset_key)
        months = None
        if context.has_asset_partitions:
            partitions = context.asset_partitions_def
            keys = context.asset_partition_keys
            if len(keys) == 1 or set(keys) != set(partitions.get_partition_keys()):
                months = [_month(table, partitions, key) for key in keys]
        snapshot = (context.definition_metadata or {}).get(VERSION)
        wanted = context.dagster_type.typing_type
        in_polars = wanted in (pl.DataFrame, Any)
        if not in_polars and not _is_pandas(wanted):
            raise LakeError(f"{table}: annotate the input polars.DataFrame or pandas.DataFrame, not {wanted}")
        frame = self.lake.open().read(table, months=months, snapshot=snapshot)
        return frame if in_polars else frame.to_pandas()


def _given_descriptions(context: dg.OutputContext) -> dict[str, str]:
    given = context.output_metadata.get(COLUMN_SCHEMA)
    schema = given.value if isinstance(given, dg.TableSchemaMetadataValue) else given
    if not isinstance(schema, dg.TableSchema):
        return {}
    return {column.name: column.description for column in schema.columns if column.description}


def _table_name(key: dg.AssetKey) -> str:
    return ".".join(key.path)


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


def _only_partition(table: str, context: dg.OutputContext) -> str:
    keys = context.asset_partition_keys
    if len(keys) != 1:
        raise LakeError(f"{table}: a run writes one month, not {len(keys)}; launch one run a partition")
    return keys[0]


def _month(table: str, partitions: dg.PartitionsDefinition, key: str) -> date:
    if not isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        raise LakeError(f"{table}: the lake keeps monthly partitions, not {type(partitions).__name__}")
    return partitions.time_window_for_partition_key(key).start.date()
