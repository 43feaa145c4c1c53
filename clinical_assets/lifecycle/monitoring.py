"""What is seen of every month: profile, estimate, drift, performance once outcomes are known, and the repair planned.

Belongs here: the assets of monitoring. Of earlier months they read the scored history alone. Does not belong here: any
statistic, and what is done about a plan.
"""

import dagster as dg
import polars as pl

from clinical_assets.archives.archive import contract_of, describe_columns
from clinical_assets.learning.scoring import OUTPUTS
from clinical_assets.lifecycle.catalogue import described, markdown_table, picture
from clinical_assets.lifecycle.conditions import FLOW, RIPENING_TICK
from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.lifecycle.drift_evidence import keep_evidence, take_up_evidence
from clinical_assets.lifecycle.month_report import (
    baseline_auroc,
    drift_table,
    estimate_table,
    judge_month,
    loss_of,
    performance_table,
    scored_rows,
    watched_rows,
    weigh_matured,
)
from clinical_assets.lifecycle.month_report import estimate_performance as estimate_month
from clinical_assets.lifecycle.release_reference import release_reference
from clinical_assets.lifecycle.scored_history import (
    SCORED_HISTORY,
    history_rows,
    latest_matured,
    matured,
    months_scored,
    previous_risk,
    rows_beside,
    scored_through,
    with_previous_release,
)
from clinical_assets.monitoring.event_performance import EVENT
from clinical_assets.monitoring.profiles import profile_frame, profile_table
from clinical_assets.monitoring.repair_plan import expected_by_month, plan_repair
from clinical_assets.protocol import ModelProtocol, Verdict, last_day, load_object
from clinical_assets.reporting.figures import drift_bars, observed_expected_figure
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import RegistryResource


@dg.asset(partitions_def=MONTHS, automation_condition=FLOW, kinds={"whylogs"})
def profile(
    protocol: ModelProtocol, features: pl.DataFrame, predictions: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """The whylogs profile of what is watched, and of what the model made of it: each column's summary and sketches."""
    month = features["month"][0]
    watched = features.select(protocol.watched_columns(features.columns))
    outputs = predictions.select("risk", "alerted", pl.col(OUTPUTS))
    rows = pl.concat([watched, outputs], how="horizontal")
    view = profile_frame(rows)
    origin = pl.lit(features["data_origin"][0]).alias("data_origin")
    table = profile_table(view).select(pl.lit(month).alias("month"), pl.all(), origin)
    return dg.MaterializeResult(
        value=table,
        metadata={
            "profiled_rows": rows.height,
            "profiled_columns": table.height,
            "mean_missing_rate": table.select(pl.col("missing_rate").mean()).item(),
        },
    )


@dg.asset(partitions_def=MONTHS, automation_condition=FLOW, kinds={"polars", "duckdb"})
def scored_history(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    features: pl.DataFrame,
    predictions: pl.DataFrame,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """A row a unit with the few columns that looks of later months need: risk, alert, subgroups, and the outcome."""
    version, month = registry.open().version(protocol.model, predictions["model_version"][0]), features["month"][0]
    reference = release_reference(lake.open(), version, protocol, context.op_execution_context.run_id)
    previous = previous_risk(lake.open(), registry.open(), protocol, version, features)
    rows = history_rows(protocol, features, predictions, reference, previous)
    table = f"{protocol.model}.{SCORED_HISTORY}"
    others = rows_beside(lake.open(), table, month, "model_version", version.version)
    descriptions = describe_columns(contract_of(load_object(protocol.cohort)))
    return dg.MaterializeResult(
        value=pl.concat([others, rows], how="diagonal") if others is not None else rows,
        metadata={
            "dagster/column_schema": described(rows, descriptions),
            "model_version": version.version,
            "rows_of_other_versions": others.height if others is not None else 0,
            "previous_release": previous[0] if previous else "none",
        },
    )


@dg.asset(deps=["scored_history"], partitions_def=MONTHS, automation_condition=FLOW, kinds={"python"})
def estimated_performance(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    features: pl.DataFrame,
    predictions: pl.DataFrame,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """How well the month's predictions are likely to come true, before any outcome is known, and what a loss means."""
    version, month = registry.open().version(protocol.model, predictions["model_version"][0]), features["month"][0]
    reference = release_reference(lake.open(), version, protocol, context.op_execution_context.run_id)
    history = scored_through(lake.open(), protocol, version.version, month)
    estimated = estimate_month(scored_rows(protocol, features, predictions), history, reference, month)
    table = estimate_table(estimated, features.height).select(
        pl.lit(month).alias("month"),
        pl.lit(version.version, pl.Int32).alias("model_version"),
        pl.all(),
        pl.lit(features["data_origin"][0]).alias("data_origin"),
    )
    overall = table.filter(subgroup="overall").drop_nulls("value")
    return dg.MaterializeResult(
        value=table,
        metadata={
            "how": estimated if isinstance(estimated, str) else estimated[0].note,
            "overall": markdown_table(overall.select("metric", "value", "low", "high", "n")),
        },
    )


@dg.asset(deps=["scored_history"], partitions_def=MONTHS, automation_condition=FLOW, kinds={"python"})
def drift_report(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    features: pl.DataFrame,
    predictions: pl.DataFrame,
    estimated_performance: pl.DataFrame,
    profile: pl.DataFrame,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The month against the training data of the version that scored it: evidence per column, verdict, severity."""
    run_id = context.op_execution_context.run_id
    version, month = registry.open().version(protocol.model, predictions["model_version"][0]), features["month"][0]
    reference = release_reference(lake.open(), version, protocol, run_id)
    history = scored_through(lake.open(), protocol, version.version, month)
    looked_at = months_scored(history, reference.drift.digest, month)
    monitor = take_up_evidence(lake.open(), protocol.model, reference.drift, month, looked_at)
    report = monitor.check(watched_rows(protocol, features, predictions), period=month)
    keep_evidence(lake.open(), monitor, version, month, run_id)
    concept = weigh_matured(history, reference, protocol, month)
    judged = judge_month(report, concept, estimated_performance)
    table = drift_table(judged, concept, version, month, features["data_origin"][0])
    return dg.MaterializeResult(
        value=table,
        metadata={
            "drift/verdict": judged.verdict.value,
            "drift/reason": judged.reason,
            "drift/champion_version": version.version,
            "severity": judged.severity if judged.severity is not None else "cannot tell",
            "columns_flagged": report.columns.filter("flagged")["column"].n_unique(),
            "columns_compared": report.columns["column"].n_unique(),
            "concept": concept.reason if concept else "no month's outcomes are known yet",
            "evidence": picture(drift_bars(report.columns), "drift per column"),
        },
    )


@dg.asset(deps=["scored_history"], partitions_def=MONTHS, automation_condition=RIPENING_TICK, kinds={"python"})
def performance_report(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    estimated_performance: pl.DataFrame,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """What the champion achieved in the month, on known outcomes only, beside what was estimated and since release."""
    month, known_by = estimated_performance["month"][0], last_day(max(lake.open().months(f"{protocol.model}.features")))
    version = registry.open().version(protocol.model, estimated_performance["model_version"][0])
    reference = release_reference(lake.open(), version, protocol, context.op_execution_context.run_id)
    history = scored_through(lake.open(), protocol, version.version, month)
    table = performance_table(history, estimated_performance, reference.baseline, protocol, month, known_by)
    overall = table.filter(subgroup="overall").drop_nulls("value")
    alarmed = table.filter("alarmed")["subgroup"].to_list()
    estimated = table.filter(subgroup="overall").filter(pl.col("metric").str.starts_with(EVENT))
    return dg.MaterializeResult(
        value=table,
        metadata={
            "status": table["status"][0],
            "outcomes_known_by": known_by.isoformat(),
            "sensitivity_has_fallen_in": ", ".join(alarmed) or "no group",
            **dict(overall.select("metric", "value").iter_rows()),
            "overall": markdown_table(overall.select("metric", "value", "low", "high", "n")),
            "estimated": markdown_table(estimated.select("metric", "estimated", "value", "estimate_error", "baseline")),
        },
    )


@dg.asset(deps=["scored_history"], partitions_def=MONTHS, automation_condition=FLOW, kinds={"python"})
def repair_plan(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    drift_report: pl.DataFrame,
    estimated_performance: pl.DataFrame,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The smallest repair that is shown to help on matured rows, and what every other one would have gained."""
    month = drift_report["month"][0]
    version = registry.open().version(protocol.model, drift_report["champion_version"][0])
    reference = release_reference(lake.open(), version, protocol, context.op_execution_context.run_id)
    known = matured(scored_through(lake.open(), protocol, version.version, month), last_day(month))
    recent = latest_matured(known, protocol, drift_report["since"][0])
    recent = with_previous_release(recent, lake.open(), protocol, version.version)
    plan = plan_repair(
        recent.rename({protocol.patient: "patient"}),
        Verdict(drift_report["verdict"][0]),
        drift_report["fault"].drop_nulls().unique(maintain_order=True).to_list(),
        version.threshold,
        protocol.monitoring,
        protocol.operating_point,
        baseline_auroc(reference.baseline),
        loss_of(estimated_performance),
    )
    table = plan.options.select(
        pl.lit(month).alias("month"),
        pl.lit(version.version, pl.Int32).alias("champion_version"),
        pl.lit(plan.repair.value).alias("repair"),
        pl.all(),
        pl.lit(drift_report["data_origin"][0]).alias("data_origin"),
    )
    return dg.MaterializeResult(
        value=table,
        metadata={
            "repair/repair": plan.repair.value,
            "repair/reason": plan.reason,
            "repair/champion_version": version.version,
            "repair/columns": ", ".join(drift_report.filter("faulty")["column"].unique().sort()),
            "options": markdown_table(plan.options.select("rung", "benefit", "low", "high", "unit", "n", "reason")),
            "observed_over_expected": picture(
                observed_expected_figure(expected_by_month(known), protocol.monitoring.tolerated_miscalibration),
                "observed over expected by month",
            ),
        },
    )
