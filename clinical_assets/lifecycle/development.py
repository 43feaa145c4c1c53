"""From features to a candidate with its validation report: training_set, trained_model, evaluation, validation_report.

Belongs here: the assets of development. Does not belong here: how a model learns, is measured or is judged.
"""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from clinical_assets.archives.archive import contract_of, describe_columns
from clinical_assets.archives.calendar import CALENDAR_NOTE
from clinical_assets.evaluation import calibration_curve, judge
from clinical_assets.learning.recipe import Recipe
from clinical_assets.learning.splits import assign_splits, kept_split
from clinical_assets.lifecycle.candidate import (
    RESAMPLES,
    compare_with_released,
    count_splits,
    findings_of,
    findings_table,
    make_estimator,
    measure_silent_months,
    measure_transport,
    read_rows_of_sites,
    read_training_rows,
    refuse_mixed_protocols,
    register_candidate,
    released_versions,
    report_table,
    silent_months_left,
)
from clinical_assets.lifecycle.catalogue import described, markdown_table, picture
from clinical_assets.lifecycle.conditions import DEVELOPMENT, REPAIR
from clinical_assets.lifecycle.evidence import gather_evidence, write_evidence
from clinical_assets.lifecycle.launch import who_launched
from clinical_assets.lifecycle.scored_training import keep_training_scores, outputs_of, with_training_scores
from clinical_assets.protocol import SILENT_MONTHS, ModelProtocol, ModelVersion, Repair, last_day, load_object
from clinical_assets.reporting.figures import calibration_figure
from clinical_assets.reporting.validation_report import ValidationReport, render
from clinical_assets.resources.home import hash_file, write_atomically
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.outward_gate import reporting
from clinical_assets.resources.platform import ALIAS, HomeResource, RegistryResource, finished_run
from clinical_assets.resources.registry import CHALLENGER, CHAMPION

DRAWN = ("outcome_known_on", "month", "data_origin")


@dg.asset(deps=["features"], kinds={"polars", "duckdb"}, tags=DEVELOPMENT)
@reporting
def training_set(protocol: ModelProtocol, lake: LakeResource) -> dg.MaterializeResult[pl.DataFrame]:
    """Which ripe rows a candidate learns from, is calibrated and is tested on, each patient in one split."""
    snapshot, table = lake.open().latest_snapshot(), f"{protocol.model}.features"
    drawn_from = [protocol.unit, protocol.patient, protocol.index_time, protocol.outcome.column, *DRAWN]
    features = lake.open().read(table, snapshot=snapshot, columns=drawn_from)
    known_by = last_day(max(features["month"]))
    kept = lake.open().read(kept_split(protocol.model)) if lake.open().exists(kept_split(protocol.model)) else None
    rows = assign_splits(features, protocol, known_by, kept).with_columns(
        protocol_sha256=pl.lit(protocol.sha256), features_snapshot=pl.lit(snapshot, pl.Int64)
    )
    return dg.MaterializeResult(
        value=rows,
        metadata={
            "features_snapshot": snapshot,
            "outcomes_known_by": known_by.isoformat(),
            "first_month": str(rows["month"].min()),
            "last_month": str(rows["month"].max()),
            "splits": markdown_table(count_splits(rows, protocol)),
            "protocol_sha256": protocol.sha256,
            "dagster/column_schema": described(rows, describe_columns(contract_of(load_object(protocol.cohort)))),
        },
    )


@dg.asset(
    deps=["training_set"],
    kinds={"python", "mlflow"},
    tags=DEVELOPMENT,
    pool="training",
    metadata={ALIAS: CHALLENGER},
    io_manager_key="model_version_io",
)
@reporting
def trained_model(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    home: HomeResource,
    lake: LakeResource,
    registry: RegistryResource,
    mlflow: dg.ResourceParam[Any],
) -> dg.MaterializeResult[ModelVersion]:
    """A candidate: an estimator trained anew, or the champion recalibrated; registered without pickle as challenger."""
    repair = Repair(context.op_execution_context.run_tags.get(REPAIR, Repair.RETRAIN.value))
    snapshot = lake.open().latest_snapshot()
    rows = read_training_rows(lake.open(), protocol, snapshot)
    refuse_mixed_protocols(protocol, rows["protocol_sha256"].unique(), "training_set")
    with finished_run(mlflow):
        base = None if repair is Repair.RETRAIN else registry.open().champion(protocol.model)
        estimator, calibrate = make_estimator(rows, protocol, repair, base, registry.open())
        trainer = who_launched(context.op_execution_context.run_tags)
        recipe = Recipe.of(protocol, repair, base, home.open().archive_pin(protocol))
        version = register_candidate(
            estimator, rows, calibrate, protocol, snapshot, registry.open(), mlflow, trainer, recipe
        )
    keep_training_scores(lake.open(), protocol, version, estimator, rows, context.op_execution_context.run_id)
    return dg.MaterializeResult(
        value=version,
        metadata={
            "version": version.version,
            "made_by": repair.value,
            "trained_by": version.trained_by,
            "mlflow_run_id": version.run_id,
            "artefact_sha256": version.artefact_sha256,
            "protocol_sha256": version.protocol_sha256,
            "training_set_snapshot": snapshot,
            "trained_through": version.trained_through.isoformat(),
            "threshold": version.threshold,
            "data_origin": version.data_origin,
        },
    )


@dg.asset(deps=["training_set"], kinds={"python"}, tags=DEVELOPMENT, metadata={"lake/replace_by": "version"})
@reporting
def evaluation(
    protocol: ModelProtocol, trained_model: ModelVersion, lake: LakeResource, registry: RegistryResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """Every measured figure of the candidate on its test patients, with intervals, overall, by subgroup and paired."""
    refuse_mixed_protocols(protocol, [trained_model.protocol_sha256], "trained_model")
    test = read_training_rows(lake.open(), protocol, trained_model.lake_snapshot, split="test")
    scored = with_training_scores(test, lake.open(), protocol, trained_model)
    scores = outputs_of(scored, test)
    findings = load_object(protocol.assessment).measure(scored, protocol, RESAMPLES)
    findings += compare_with_released(test, scores, protocol, trained_model, registry.open())
    for rows in read_rows_of_sites(lake.open(), protocol, trained_model.lake_snapshot):
        findings += measure_transport(protocol, rows)
    curve = calibration_curve(protocol.outcome.is_event(test), scores["risk"])
    return dg.MaterializeResult(
        value=findings_table(findings, trained_model),
        metadata={
            "version": trained_model.version,
            "data_origin": trained_model.data_origin,
            "test_rows": test.height,
            **{x.metric: x.value for x in findings if x.subgroup == "overall" and x.value is not None},
            "calibration": picture(calibration_figure(curve), "calibration curve"),
        },
    )


@dg.asset(deps=["features"], kinds={"python"}, tags=DEVELOPMENT, metadata={"lake/replace_by": "version"})
@reporting
def silent_run(
    protocol: ModelProtocol, trained_model: ModelVersion, lake: LakeResource, registry: RegistryResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """What the candidate says of the months that have arrived since it was trained, shown to nobody."""
    findings = measure_silent_months(lake.open(), registry.open(), protocol, trained_model)
    return dg.MaterializeResult(
        value=findings_table(findings, trained_model),
        metadata={
            "version": trained_model.version,
            "months_required": protocol.silent_months,
            **{x.metric: x.value for x in findings if x.value is not None},
        },
    )


@dg.asset(deps=["training_set"], kinds={"html"}, tags=DEVELOPMENT, metadata={"lake/replace_by": "version"})
@reporting
def validation_report(
    protocol: ModelProtocol,
    evaluation: pl.DataFrame,
    silent_run: pl.DataFrame,
    trained_model: ModelVersion,
    home: HomeResource,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Each limit of the protocol beside what was measured, with its judgement; and the report that people sign."""
    findings = findings_of(evaluation, trained_model, protocol) + findings_of(silent_run, trained_model, protocol)
    released = released_versions(registry.open(), trained_model)
    judged = judge(protocol.limits, findings, protocol.minimum_n, frozenset(released))
    drawn = lake.open().read(f"{protocol.model}.training_set", snapshot=trained_model.lake_snapshot)
    cohort = count_splits(drawn, protocol)
    evidence = gather_evidence(
        protocol, trained_model, findings, judged, cohort, released.get(CHAMPION), lake.open(), registry.open()
    )
    evidence_folder = home.open().evidence(protocol.model, trained_model.version)
    evidence_sha256 = write_evidence(evidence, evidence_folder)
    test = read_training_rows(lake.open(), protocol, trained_model.lake_snapshot, split="test")
    scored = with_training_scores(test, lake.open(), protocol, trained_model)
    report = ValidationReport(
        kind="candidate",
        protocol=protocol,
        version=trained_model,
        findings=findings,
        judged=judged,
        calibration=calibration_curve(protocol.outcome.is_event(scored), scored["risk"]),
        exhibits=[load_object(exhibit)(scored, protocol, findings) for exhibit in protocol.exhibits],
        cohort=cohort,
        data_origin=trained_model.data_origin,
        created_at=datetime.now(UTC),
        champion_version=released[CHAMPION].version if CHAMPION in released else None,
        lake_snapshot=trained_model.lake_snapshot,
        calendar_note=CALENDAR_NOTE,
        evidence_sha256=evidence_sha256,
    )
    path = home.open().report(protocol.model, trained_model.version)
    write_atomically(path, render(report))
    table = report_table(judged, trained_model, hash_file(path))
    blocking = [item for item in judged if item.blocks_release]
    left = silent_months_left(findings, protocol)
    return dg.MaterializeResult(
        value=table,
        metadata={
            "version": trained_model.version,
            "passes": not blocking,
            "silent_months_left": left,
            "may_pass": all(item.limit.metric == SILENT_MONTHS for item in blocking),
            "features_through": max(lake.open().months(f"{protocol.model}.features")).isoformat(),
            "blocking": dg.MetadataValue.md("\n".join(f"- {item.reason}" for item in blocking) or "nothing"),
            "report": dg.MetadataValue.path(path),
            "report_sha256": table["report_sha256"][0],
            "evidence": dg.MetadataValue.path(evidence_folder),
            "evidence_sha256": evidence_sha256,
            "limits": markdown_table(table.select("metric", "subgroup", "limit", "value", "low", "high", "judgement")),
        },
    )
