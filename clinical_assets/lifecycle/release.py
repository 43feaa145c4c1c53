"""From a signed candidate to what is live: sign_off, release, its pin, and the champion's monthly predictions.

Belongs here: the assets of release. Does not belong here: how a signature is made or verified.
"""

from typing import Any

import dagster as dg
import polars as pl

from clinical_assets.archives.archive import contract_of, describe_columns
from clinical_assets.governance.dvc_pins import Pin
from clinical_assets.learning.scoring import score
from clinical_assets.lifecycle.candidate import check_sign_offs, sign_off_table
from clinical_assets.lifecycle.catalogue import described, markdown_table
from clinical_assets.lifecycle.champion_move import Platform, ReleaseError, release_metadata
from clinical_assets.lifecycle.conditions import DEVELOPMENT, SCORING
from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.lifecycle.pinned_release import pin_release
from clinical_assets.lifecycle.release_act import release_version
from clinical_assets.protocol import ModelProtocol, ModelVersion, load_object
from clinical_assets.resources.audited_outputs import record_kept
from clinical_assets.resources.dvc_tool import store
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.outward_gate import reporting
from clinical_assets.resources.pinned_tree import NOT_SET, PinnedTree
from clinical_assets.resources.platform import ALIAS, HomeResource, RegistryResource
from clinical_assets.resources.registry import CHAMPION


@dg.asset(kinds={"ed25519"}, tags=DEVELOPMENT, metadata={"lake/replace_by": "version"})
@reporting
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
@reporting
def release(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    trained_model: ModelVersion,
    home: HomeResource,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[ModelVersion]:
    """The released version: `champion` moves to it only if its report passes and every role signed."""
    at = Platform(home.open(), lake.open(), registry.open(), context.instance)
    live = release_version(at, protocol, trained_model, context.op_execution_context.run_id)
    return dg.MaterializeResult(value=trained_model, metadata=release_metadata(live, read_ledger(at.lake, live.model)))


@dg.asset(deps=["release"], kinds={"dvc"}, tags=DEVELOPMENT)
@reporting
def release_pin(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    home: HomeResource,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult:
    """The pin of what the live release rests on, in the hospital's own Git; nothing where no pins are kept.

    Where it fails its run fails, which opens an incident; the release stands.
    """
    metadata: dict[str, Any] = {"pinned": NOT_SET}
    if (tree := PinnedTree.from_environment()) is not None:
        version = registry.open().champion(protocol.model)
        metadata = figures_of_pin(tree, pin_release(tree, home.open(), lake.open(), registry.open(), version), version)
    record_kept(home.open().audit, context.asset_key, context.run, details=metadata)
    return dg.MaterializeResult(metadata=metadata)


def figures_of_pin(tree: PinnedTree, pin: Pin, version: ModelVersion) -> dict[str, Any]:
    """What the catalogue and the audit trail keep of a release's pin, whose bytes are put into DVC's storage."""
    return {
        "version": version.version,
        "pinned": tree.place_of(pin),
        "md5": pin.md5,
        "sha256": pin.sha256,
        "files": pin.nfiles,
        "bytes": pin.size,
        "stored": store(tree.root, pin.file),
        "commit": tree.commit_of(pin),
    }


@dg.asset(partitions_def=MONTHS, automation_condition=SCORING, kinds={"polars", "duckdb"})
@reporting
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
