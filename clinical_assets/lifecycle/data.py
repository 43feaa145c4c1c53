"""From the archive to what the estimator sees: protocol, dataset, features, and what must hold of them.

Belongs here: the assets that make rows. Does not belong here: how an archive is read or a feature computed.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from clinical_assets.archives.archive import Archive, MonthWindow, contract_of, describe_columns
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
from clinical_assets.protocol import ArchivePin, ModelProtocol, load_object, month_after
from clinical_assets.resources.audited_outputs import record_kept
from clinical_assets.resources.outward_gate import reporting, searched
from clinical_assets.resources.platform import PROTOCOL_JSON, HomeResource

MONTHS = dg.MonthlyPartitionsDefinition(
    start_date=f"{FIRST_MONTH:%Y-%m}", end_date=f"{month_after(LAST_MONTH):%Y-%m}", fmt="%Y-%m"
)


def monthly(**described: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """An asset of months; those asked for together, as a development year is, are one run and one commit a table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # so Dagster still calls a policy of backfills
        return dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run(), **described)


def months_asked_for(context: dg.AssetExecutionContext) -> list[date]:
    """The months that a run is to make, in order, without a gap."""
    return [MONTHS.time_window_for_partition_key(key).start.date() for key in context.partition_keys]


def window_of(months: Sequence[date]) -> MonthWindow:
    """From the first of these months to the end of the last."""
    return MonthWindow(months[0], month_after(months[-1]))


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
    @reporting
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


@monthly(automation_condition=MONTHLY_TICK, kinds={"polars"})
@reporting
def identified_feed(
    context: dg.AssetExecutionContext, protocol: ModelProtocol, home: HomeResource
) -> dg.MaterializeResult:
    """The month's rows with direct identifiers, encrypted in the identified zone; of a simulated archive alone."""
    archive = home.open().open_archive(protocol)
    kept = partial(record_kept, home.open().audit, context.asset_key, context.run, partitions=context.partition_keys)
    if not has_identified_feed(archive):
        kept(details={"data_origin": archive.data_origin})
        return dg.MaterializeResult(metadata={"data_origin": archive.data_origin, "identifiers": NO_IDENTIFIERS})
    planted = canaries(load_or_create_key(home.open().pseudonym_key))
    feeds = {month: identified_rows(protocol, archive, month, planted) for month in months_asked_for(context)}
    for month, rows in feeds.items():
        zone_of(home.open()).write(protocol.model, month, rows)
        of_month = searched("identified_feed", {"patients": rows[protocol.patient].n_unique()})
        context.add_asset_metadata(of_month, partition_key=f"{month:%Y-%m}")
    kept(details={"data_origin": archive.data_origin})
    return dg.MaterializeResult(
        metadata={
            "data_origin": archive.data_origin,
            "identifiers": "simulated: nobody is behind any of them",
            "path": dg.MetadataValue.path(home.open().identified / protocol.model),
            "declaration": markdown_table(declaration_table(protocol)),
        }
    )


@monthly(deps=["identified_feed"], automation_condition=FLOW, kinds={"polars", "duckdb"})
@reporting
def dataset(
    context: dg.AssetExecutionContext, protocol: ModelProtocol, home: HomeResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row per prediction unit of the month, de-identified, with pseudonyms in place of identifiers."""
    archive, months = home.open().open_archive(protocol), months_asked_for(context)
    if has_identified_feed(archive):
        run_id = context.run.run_id
        rows = pl.concat([de_identified_rows(home.open(), protocol, month, run_id) for month in months])
    else:
        rows = pseudonymous_rows(home.open(), protocol, archive, window_of(months))
    for month in months:
        of_month = searched("dataset", figures_of_month(protocol, rows.filter(month=month)))
        context.add_asset_metadata(of_month, partition_key=f"{month:%Y-%m}")
    return dg.MaterializeResult(
        value=rows,
        metadata={
            "data_origin": archive.data_origin,
            "archive_sha256": archive.sha256,
            "share_of_patients": archive.share_of_patients,
            **pin_metadata(archive.pin),
            "dagster/column_schema": described(rows, describe_columns(contract_of(load_object(protocol.cohort)))),
        },
    )


@monthly(automation_condition=FLOW, kinds={"polars", "duckdb"})
@reporting
def data_quality(
    context: dg.AssetExecutionContext, protocol: ModelProtocol, dataset: pl.DataFrame, home: HomeResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """What the month's data lack: values missing in each column, values no patient can have, records in quarantine."""
    archive = home.open().open_archive(protocol)
    table = pl.concat(
        quality_of_month(protocol, archive, dataset.filter(month=month), month) for month in months_asked_for(context)
    )
    table = pseudonymise(table, ("place",), load_or_create_key(home.open().pseudonym_key))
    for month in months_asked_for(context):
        of_month = searched("data_quality", figures_of_quality(table.filter(month=month)))
        context.add_asset_metadata(of_month, partition_key=f"{month:%Y-%m}")
    return dg.MaterializeResult(value=table)


def pin_metadata(pin: ArchivePin | None) -> dict[str, str]:
    """What lineage keeps of an archive's pin in the hospital's Git; nothing where there is none."""
    return {f"pin_{name}": value for name, value in asdict(pin).items()} if pin else {}


def figures_of_month(protocol: ModelProtocol, rows: pl.DataFrame) -> dict[str, Any]:
    """What the catalogue shows of one month's rows."""
    return {
        "patients": rows[protocol.patient].n_unique(),
        "event_rate": rows.select(protocol.outcome.is_event(rows).mean()).item(),
    }


def figures_of_quality(of_month: pl.DataFrame) -> dict[str, Any]:
    """What the catalogue shows of one month's quality."""
    return {
        "missing_values": count_affected(of_month, "missing"),
        "implausible_values": count_affected(of_month, "implausible"),
        "quarantined": count_affected(of_month, "quarantined"),
        "faults": markdown_table(worst_faults(of_month)),
    }


def quality_of_month(protocol: ModelProtocol, archive: Archive, dataset: pl.DataFrame, month: date) -> pl.DataFrame:
    """One row a column and fault of a month's data, places under the archive's own names."""
    faults = load_object(protocol.faults)(archive, MonthWindow.of_month(month)) if protocol.faults else None
    return tabulate_quality(dataset, faults).select(
        pl.lit(month).alias("month"), pl.all(), pl.lit(archive.data_origin).alias("data_origin")
    )


@monthly(automation_condition=FLOW, kinds={"polars", "duckdb"})
@reporting
def features(protocol: ModelProtocol, dataset: pl.DataFrame) -> dg.MaterializeResult[pl.DataFrame]:
    """What the estimator sees of each prediction unit of the month, with its outcome and when that can be known."""
    clinical = dataset.drop(DEMOGRAPHICS, strict=False)
    rows = clinical
    if protocol.features:
        make = load_object(protocol.features)
        # Month by month: what a unit's features are may not depend on which months are made together.
        rows = pl.concat([make(of_month) for of_month in clinical.partition_by("month", maintain_order=True)])
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
