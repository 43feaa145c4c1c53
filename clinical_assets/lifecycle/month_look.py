"""One look at a scored month: what each of its tables says, seen once and together from the same rows.

Belongs here: what a look is made of, and the frame and the notes of each table. Does not belong here: any statistic,
Dagster's step, and outcomes that are known later.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from clinical_assets.archives.archive import contract_of, describe_columns
from clinical_assets.learning.scoring import OUTPUTS
from clinical_assets.lifecycle.catalogue import markdown_table, picture
from clinical_assets.lifecycle.drift_evidence import evidence_write, take_up_evidence
from clinical_assets.lifecycle.month_report import (
    baseline_auroc,
    drift_table,
    estimate_performance,
    estimate_table,
    judge_month,
    loss_of,
    scored_rows,
    watched_rows,
    weigh_matured,
)
from clinical_assets.lifecycle.release_reference import ReleaseReference, release_reference
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
from clinical_assets.monitoring.profiles import profile_frame, profile_table
from clinical_assets.monitoring.repair_plan import expected_by_month, plan_repair
from clinical_assets.protocol import ModelProtocol, ModelVersion, Verdict, last_day, load_object
from clinical_assets.reporting.figures import drift_bars, observed_expected_figure
from clinical_assets.resources.lake import Lake, Write
from clinical_assets.resources.registry import Registry


@dataclass(frozen=True, slots=True)
class Seen:
    """One table of a look: its rows, what the catalogue shows of it, and what is to be written along with it."""

    frame: pl.DataFrame = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)
    descriptions: Mapping[str, str] = field(default_factory=dict, repr=False)
    beside: tuple[Write, ...] = ()


@dataclass(frozen=True, slots=True)
class MonthLook:
    """A month's rows and scores, and what they are held against: the version's reference and the months before it."""

    protocol: ModelProtocol
    version: ModelVersion
    features: pl.DataFrame = field(repr=False)
    predictions: pl.DataFrame = field(repr=False)
    reference: ReleaseReference = field(repr=False)
    lake: Lake
    registry: Registry

    @classmethod
    def of(
        cls,
        protocol: ModelProtocol,
        features: pl.DataFrame,
        predictions: pl.DataFrame,
        lake: Lake,
        registry: Registry,
        run_id: str,
    ) -> "MonthLook":
        """The look at a month that one version has scored."""
        version = registry.version(protocol.model, predictions["model_version"][0])
        reference = release_reference(lake, version, protocol, run_id)
        return cls(protocol, version, features, predictions, reference, lake, registry)

    @property
    def month(self) -> date:
        """The month looked at."""
        return self.features["month"][0]

    @property
    def data_origin(self) -> str:
        """Where the month's rows come from."""
        return self.features["data_origin"][0]


def look_at_month(look: MonthLook) -> dict[str, Seen]:
    """Every table of a look, by its name; nothing is written."""
    scored = see_scored_history(look)
    history = history_through(look, scored.frame)
    estimated = see_estimated_performance(look, history)
    drift = see_drift_report(look, history, estimated.frame)
    return {
        "profile": see_profile(look),
        SCORED_HISTORY: scored,
        "estimated_performance": estimated,
        "drift_report": drift,
        "repair_plan": see_repair_plan(look, history, estimated.frame, drift.frame),
    }


def history_through(look: MonthLook, scored: pl.DataFrame) -> pl.DataFrame:
    """All rows that the version has scored up to the month, those of the month as they have just been made."""
    own = scored.filter(model_version=look.version.version)
    if not look.lake.exists(f"{look.protocol.model}.{SCORED_HISTORY}"):
        return own
    history = scored_through(look.lake, look.protocol, look.version.version, look.month)
    return pl.concat([history.filter(pl.col("month") < look.month), own], how="diagonal")


def see_profile(look: MonthLook) -> Seen:
    """The whylogs profile of what is watched, and of what the model made of it: each column's summary and sketches."""
    watched = look.features.select(look.protocol.watched_columns(look.features.columns))
    outputs = look.predictions.select("risk", "alerted", pl.col(OUTPUTS))
    rows = pl.concat([watched, outputs], how="horizontal")
    table = _of_month(look, profile_table(profile_frame(rows)))
    return Seen(
        table,
        {
            "profiled_rows": rows.height,
            "profiled_columns": table.height,
            "mean_missing_rate": table.select(pl.col("missing_rate").mean()).item(),
        },
    )


def see_scored_history(look: MonthLook) -> Seen:
    """A row a unit with the few columns that looks of later months need: risk, alert, subgroups, and the outcome."""
    previous = previous_risk(look.lake, look.registry, look.protocol, look.version, look.features)
    rows = history_rows(look.protocol, look.features, look.predictions, look.reference, previous)
    table, number = f"{look.protocol.model}.{SCORED_HISTORY}", look.version.version
    others = rows_beside(look.lake, table, look.month, "model_version", number)
    return Seen(
        pl.concat([others, rows], how="diagonal") if others is not None else rows,
        {
            "model_version": number,
            "rows_of_other_versions": others.height if others is not None else 0,
            "previous_release": previous[0] if previous else "none",
        },
        describe_columns(contract_of(load_object(look.protocol.cohort))),
    )


def see_estimated_performance(look: MonthLook, history: pl.DataFrame) -> Seen:
    """How well the month's predictions are likely to come true, before any outcome is known, and what a loss means."""
    scored = scored_rows(look.protocol, look.features, look.predictions)
    estimated = estimate_performance(scored, history, look.reference, look.month)
    number = pl.lit(look.version.version, pl.Int32).alias("model_version")
    table = _of_month(look, estimate_table(estimated, look.features.height), number)
    overall = table.filter(subgroup="overall").drop_nulls("value")
    return Seen(
        table,
        {
            "how": estimated if isinstance(estimated, str) else estimated[0].note,
            "overall": markdown_table(overall.select("metric", "value", "low", "high", "n")),
        },
    )


def see_drift_report(look: MonthLook, history: pl.DataFrame, estimated: pl.DataFrame) -> Seen:
    """The month against the training data of the version that scored it: evidence per column, verdict, severity."""
    looked_at = months_scored(history, look.reference.drift.digest, look.month)
    monitor = take_up_evidence(look.lake, look.protocol.model, look.reference.drift, look.month, looked_at)
    report = monitor.check(watched_rows(look.protocol, look.features, look.predictions), period=look.month)
    concept = weigh_matured(history, look.reference, look.protocol, look.month)
    judged = judge_month(report, concept, estimated)
    return Seen(
        drift_table(judged, concept, look.version, look.month, look.data_origin),
        {
            "drift/verdict": judged.verdict.value,
            "drift/reason": judged.reason,
            "drift/champion_version": look.version.version,
            "severity": judged.severity if judged.severity is not None else "cannot tell",
            "columns_flagged": report.columns.filter("flagged")["column"].n_unique(),
            "columns_compared": report.columns["column"].n_unique(),
            "concept": concept.reason if concept else "no month's outcomes are known yet",
            "evidence": picture(drift_bars(report.columns), "drift per column"),
        },
        beside=(evidence_write(look.lake, monitor, look.version, look.month),),
    )


def see_repair_plan(look: MonthLook, history: pl.DataFrame, estimated: pl.DataFrame, drift: pl.DataFrame) -> Seen:
    """The smallest repair that is shown to help on matured rows, and what every other one would have gained."""
    protocol, version = look.protocol, look.version
    known = matured(history, last_day(look.month))
    recent = latest_matured(known, protocol, drift["since"][0])
    recent = with_previous_release(recent, look.lake, protocol, version.version)
    plan = plan_repair(
        recent.rename({protocol.patient: "patient"}),
        Verdict(drift["verdict"][0]),
        drift["fault"].drop_nulls().unique(maintain_order=True).to_list(),
        version.threshold,
        protocol.monitoring,
        protocol.operating_point,
        baseline_auroc(look.reference.baseline),
        loss_of(estimated),
    )
    number, repair = pl.lit(version.version, pl.Int32).alias("champion_version"), pl.lit(plan.repair.value)
    return Seen(
        _of_month(look, plan.options, number, repair.alias("repair")),
        {
            "repair/repair": plan.repair.value,
            "repair/reason": plan.reason,
            "repair/champion_version": version.version,
            "repair/columns": ", ".join(drift.filter("faulty")["column"].unique().sort()),
            "options": markdown_table(plan.options.select("rung", "benefit", "low", "high", "unit", "n", "reason")),
            "observed_over_expected": picture(
                observed_expected_figure(expected_by_month(known), protocol.monitoring.tolerated_miscalibration),
                "observed over expected by month",
            ),
        },
    )


def _of_month(look: MonthLook, rows: pl.DataFrame, *first: pl.Expr) -> pl.DataFrame:
    """The rows with the month before them and the origin of its data behind."""
    origin = pl.lit(look.data_origin).alias("data_origin")
    return rows.select(pl.lit(look.month).alias("month"), *first, pl.all(), origin)
