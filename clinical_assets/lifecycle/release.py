"""From a signed candidate to what is live: sign_off, release, and the champion's monthly predictions.

Belongs here: the assets of release. Does not belong here: how a signature is made or verified.
"""

from datetime import UTC, datetime

import dagster as dg
import polars as pl

from clinical_assets.archives.archive import contract_of, describe_columns
from clinical_assets.learning.scoring import score
from clinical_assets.lifecycle.candidate import check_sign_offs, reasons_against_release, release_row, sign_off_table
from clinical_assets.lifecycle.catalogue import described, markdown_table
from clinical_assets.lifecycle.conditions import DEVELOPMENT, SCORING
from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.protocol import ModelProtocol, ModelVersion, load_object
from clinical_assets.resources.column_descriptions import COLUMN_DESCRIPTIONS
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import ALIAS, HomeResource, RegistryResource
from clinical_assets.resources.registry import CHAMPION


class ReleaseError(RuntimeError):
    """A candidate may not be released; the message gives every reason."""


@dg.asset(kinds={"ed25519"}, tags=DEVELOPMENT, metadata={"lake/replace_by": "version"})
def sign_off(
    protocol: ModelProtocol, validation_report: pl.DataFrame, trained_model: ModelVersion, home: HomeResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """Every signature on the candidate, by whom, in which role, with which decision, and whether it counts."""
    report = validation_report.filter(pl.col("version") == trained_model.version)
    if report.is_empty():
        raise ReleaseError(f"{protocol.model} version {trained_model.version} has no validation report to sign")
    checked = check_sign_offs(home.open(), protocol, trained_model, report)
    table = sign_off_table(checked, trained_model)
    return dg.MaterializeResult(
        value=table,
        metadata={
            "version": trained_model.version,
            "signatures": markdown_table(table.select("role", "signer", "decision", "reason", "signed_at", "fault")),
        },
    )


@dg.asset(
    deps=["sign_off", "validation_report"],
    kinds={"mlflow"},
    tags=DEVELOPMENT,
    metadata={ALIAS: CHAMPION},
    io_manager_key="model_version_io",
)
def release(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    trained_model: ModelVersion,
    home: HomeResource,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[ModelVersion]:
    """The released version: the only act that moves `champion`, and only if the report passes and every role signed."""
    report = lake.open().read(f"{protocol.model}.validation_report", where={"version": trained_model.version})
    registry.open().load(trained_model, protocol.estimator)
    if reasons := reasons_against_release(home.open(), protocol, trained_model, report):
        raise ReleaseError(f"{protocol.model} version {trained_model.version} is not released: {'; '.join(reasons)}")
    previous = registry.open().find(protocol.model, CHAMPION)
    row = release_row(trained_model, previous, report, datetime.now(UTC))
    lake.open().write_table(
        f"{protocol.model}.release",
        row,
        replace_by="version",
        author=context.op_execution_context.run_id,
        message=f"release of version {trained_model.version}",
        description="Every release: which version, in place of which, on which files, report and protocol.",
        comments={name: COLUMN_DESCRIPTIONS[name] for name in row.columns},
    )
    registry.open().release(trained_model)
    return dg.MaterializeResult(
        value=trained_model,
        metadata={
            "version": trained_model.version,
            "previous_champion": previous.version if previous else "none",
            "artefact_sha256": trained_model.artefact_sha256,
            "report_sha256": row["report_sha256"][0],
            "protocol_sha256": protocol.sha256,
        },
    )


@dg.asset(partitions_def=MONTHS, automation_condition=SCORING, kinds={"polars", "duckdb"})
def predictions(
    protocol: ModelProtocol, features: pl.DataFrame, release: ModelVersion, registry: RegistryResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """The champion's risk for every prediction unit of the month, and who is alerted."""
    scores = score(registry.open().load(release, protocol.estimator), features, release, protocol)
    keys = features.select(protocol.unit, protocol.patient, "month", protocol.index_time)
    table = keys.hstack(scores).hstack(features.select("data_origin"))
    return dg.MaterializeResult(
        value=table,
        metadata={
            "model_version": release.version,
            "alerts_per_100": table.select(100 * pl.col("alerted").mean()).item(),
            "mean_risk": table.select(pl.col("risk").mean()).item(),
            "latency_ms_per_1000": table["latency_ms_per_1000"][0],
            "dagster/column_schema": described(table, describe_columns(contract_of(load_object(protocol.cohort)))),
        },
    )
