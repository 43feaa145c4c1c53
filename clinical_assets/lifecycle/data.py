"""From the archive to what the estimator sees: protocol, dataset, features, and what must hold of them.

Belongs here: the assets that make rows. Does not belong here: how an archive is read or a feature computed.
"""

import dagster as dg
import polars as pl

from clinical_assets.archives.archive import MonthWindow, contract_of, describe_columns
from clinical_assets.archives.calendar import FIRST_MONTH, LAST_MONTH
from clinical_assets.archives.data_quality import count_affected, tabulate_quality, worst_faults
from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.pseudonyms import load_or_create_key, pseudonymise
from clinical_assets.governance.safe_harbor import DEMOGRAPHICS
from clinical_assets.lifecycle.catalogue import described, markdown_table
from clinical_assets.lifecycle.conditions import DEVELOPMENT, FLOW, MONTHLY_TICK
from clinical_assets.lifecycle.identified_month import (
    NO_IDENTIFIERS,
    de_identified_rows,
    declaration_table,
    has_identified_feed,
    identified_rows,
    pseudonymous_rows,
    zone_of,
)
from clinical_assets.protocol import ModelProtocol, load_object, month_after
from clinical_assets.resources.audited_outputs import record_kept
from clinical_assets.resources.platform import PROTOCOL_JSON, HomeResource

MONTHS = dg.MonthlyPartitionsDefinition(
    start_date=f"{FIRST_MONTH:%Y-%m}", end_date=f"{month_after(LAST_MONTH):%Y-%m}", fmt="%Y-%m"
)


def protocol_asset(protocol: ModelProtocol) -> dg.AssetsDefinition:
    """The asset `<model>/protocol`; its definition carries the protocol to every asset of the lifecycle."""

    @dg.asset(
        name="protocol",
        key_prefix=protocol.model,
        group_name=protocol.model,
        owners=list(protocol.owners),
        kinds={"yaml"},
        tags=DEVELOPMENT,
        code_version=protocol.sha256,
        metadata={PROTOCOL_JSON: protocol.model_dump_json(), "protocol/sha256": protocol.sha256},
        io_manager_key="protocol_io",
        description=f"The plan that governs this model: {protocol.title}. {protocol.intended_use}",
    )
    def stamped() -> dg.MaterializeResult[ModelProtocol]:
        return dg.MaterializeResult(
            value=protocol,
            metadata={
                "sha256": protocol.sha256,
                "protocol": dg.MetadataValue.json(protocol.model_dump(mode="json")),
                "limits": dg.MetadataValue.md("\n".join(f"- {x.metric} {x.in_words()}" for x in protocol.acceptance)),
            },
        )

    return stamped


@dg.asset(partitions_def=MONTHS, automation_condition=MONTHLY_TICK, kinds={"polars"})
def identified_feed(
    context: dg.AssetExecutionContext, protocol: ModelProtocol, home: HomeResource
) -> dg.MaterializeResult:
    """The month's rows with direct identifiers, encrypted in the identified zone; of a simulated archive alone."""
    archive, month = home.open().open_archive(protocol), context.partition_time_window.start.date()
    if not has_identified_feed(archive):
        record_kept(home.open().audit, context.asset_key, context.run, details={"data_origin": archive.data_origin})
        return dg.MaterializeResult(metadata={"data_origin": archive.data_origin, "identifiers": NO_IDENTIFIERS})
    planted = canaries(load_or_create_key(home.open().pseudonym_key))
    rows = identified_rows(protocol, archive, month, planted)
    path = zone_of(home.open()).write(protocol.model, month, rows)
    record_kept(home.open().audit, context.asset_key, context.run, details={"data_origin": archive.data_origin})
    return dg.MaterializeResult(
        metadata={
            "data_origin": archive.data_origin,
            "identifiers": "simulated: nobody is behind any of them",
            "patients": rows[protocol.patient].n_unique(),
            "path": dg.MetadataValue.path(path),
            "declaration": markdown_table(declaration_table(protocol)),
        }
    )


@dg.asset(deps=["identified_feed"], partitions_def=MONTHS, automation_condition=FLOW, kinds={"polars", "duckdb"})
def dataset(
    context: dg.AssetExecutionContext, protocol: ModelProtocol, home: HomeResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row per prediction unit of the month, de-identified, with pseudonyms in place of identifiers."""
    archive, month = home.open().open_archive(protocol), context.partition_time_window.start.date()
    if has_identified_feed(archive):
        rows = de_identified_rows(home.open(), protocol, month, context.run.run_id)
    else:
        rows = pseudonymous_rows(home.open(), protocol, archive, month)
    return dg.MaterializeResult(
        value=rows,
        metadata={
            "data_origin": archive.data_origin,
            "archive_sha256": archive.sha256,
            "share_of_patients": archive.share_of_patients,
            "patients": rows[protocol.patient].n_unique(),
            "event_rate": rows.select(protocol.outcome.is_event(rows).mean()).item(),
            "dagster/column_schema": described(rows, describe_columns(contract_of(load_object(protocol.cohort)))),
        },
    )


@dg.asset(partitions_def=MONTHS, automation_condition=FLOW, kinds={"polars", "duckdb"})
def data_quality(
    context: dg.AssetExecutionContext, protocol: ModelProtocol, dataset: pl.DataFrame, home: HomeResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """What the month's data lack: values missing in each column, values no patient can have, records in quarantine."""
    window = MonthWindow.of_month(context.partition_time_window.start.date())
    archive = home.open().open_archive(protocol)
    faults = load_object(protocol.faults)(archive, window) if protocol.faults else None
    table = tabulate_quality(dataset, faults)
    table = pseudonymise(table, ("place",), load_or_create_key(home.open().pseudonym_key)).select(
        pl.lit(window.start).alias("month"), pl.all(), pl.lit(archive.data_origin).alias("data_origin")
    )
    return dg.MaterializeResult(
        value=table,
        metadata={
            "missing_values": count_affected(table, "missing"),
            "implausible_values": count_affected(table, "implausible"),
            "quarantined": count_affected(table, "quarantined"),
            "faults": markdown_table(worst_faults(table)),
        },
    )


@dg.asset(partitions_def=MONTHS, automation_condition=FLOW, kinds={"polars", "duckdb"})
def features(protocol: ModelProtocol, dataset: pl.DataFrame) -> dg.MaterializeResult[pl.DataFrame]:
    """What the estimator sees of each prediction unit of the month, with its outcome and when that can be known."""
    clinical = dataset.drop(DEMOGRAPHICS, strict=False)
    rows = load_object(protocol.features)(clinical) if protocol.features else clinical
    descriptions = describe_columns(contract_of(load_object(protocol.cohort)))
    if protocol.feature_descriptions:
        descriptions |= load_object(protocol.feature_descriptions)()
    return dg.MaterializeResult(
        value=rows,
        metadata={
            "features": len(protocol.feature_columns(rows.columns)),
            "data_origin": rows["data_origin"][0],
            "dagster/column_schema": described(rows, descriptions),
        },
    )
