"""What a month's model did for the event it predicts: estimated at once, realised once ripe, and watched since release.

Belongs here: the one table in which the three stand side by side, the same for every kind of model. Does not belong
here: how each is computed (`estimated_performance`, `evaluation`, `performance_watch`), and a kind's own metrics.
"""

from collections.abc import Sequence

import polars as pl

from clinical_assets.evaluation.findings import evaluate
from clinical_assets.monitoring.estimated_performance import ESTIMATED_METRICS, score_estimate
from clinical_assets.monitoring.performance_watch import subgroup_alarms, watch_performance
from clinical_assets.protocol import Finding, ModelProtocol

EVENT = "event_"
"""Before a metric's name: of single rows, an event being an outcome at or beyond the protocol's `event_from`."""

BASELINE_RESAMPLES = 200

EVENT_SCHEMA = pl.Schema(
    {
        "metric": pl.String,
        "subgroup": pl.String,
        "value": pl.Float64,
        "n": pl.Int64,
        "estimated": pl.Float64,
        "estimate_low": pl.Float64,
        "estimate_high": pl.Float64,
        "estimate_error": pl.Float64,
        "estimate_covered": pl.Boolean,
        "value_so_far": pl.Float64,
        "low_so_far": pl.Float64,
        "high_so_far": pl.Float64,
        "baseline": pl.Float64,
        "below_baseline": pl.Boolean,
        "alarmed": pl.Boolean,
    }
)


def measure_events(rows: pl.DataFrame, protocol: ModelProtocol, resamples: int = 0) -> list[Finding]:
    """The metrics that are also estimated, of scored rows with their `event`, overall and by subgroup.

    `rows` has `event`, `risk`, `threshold`, the patient and the subgroups of the protocol.
    """
    findings = evaluate(
        rows["event"],
        rows["risk"],
        rows[protocol.patient],
        rows["threshold"][0],
        rows.select(protocol.subgroups),
        protocol.minimum_n,
        resamples,
    )
    return [finding for finding in findings if finding.metric in ESTIMATED_METRICS]


def report_events(
    since_release: pl.DataFrame, estimated: Sequence[Finding], baseline: Sequence[Finding], protocol: ModelProtocol
) -> pl.DataFrame:
    """One row a metric and group of the month: columns of `EVENT_SCHEMA`.

    Args:
        since_release: Ripe, scored rows of the version's months up to this one, which is the newest: as for
            `measure_events`, with `alerted` and `month`. Empty where nothing is ripe.
        estimated: What was estimated of the month.
        baseline: `measure_events` of the version's test rows, with intervals.
        protocol: Names the columns, and the chance of a false alarm a year.
    """
    table = pl.DataFrame(
        [(x.metric, x.subgroup, x.value, x.low, x.high, x.n) for x in estimated],
        schema={
            "metric": pl.String,
            "subgroup": pl.String,
            "estimated": pl.Float64,
            "estimate_low": pl.Float64,
            "estimate_high": pl.Float64,
            "n_estimated": pl.Int64,
        },
        orient="row",
    )
    if since_release.is_empty():
        return _conform(table)
    month = since_release["month"].max()
    realised = measure_events(since_release.filter(month=month), protocol)
    values = pl.DataFrame(
        [(x.metric, x.subgroup, x.value, x.n) for x in realised],
        schema={"metric": pl.String, "subgroup": pl.String, "value": pl.Float64, "n": pl.Int64},
        orient="row",
    )
    scored = score_estimate(estimated, realised).select(
        "metric", "subgroup", "estimate_error", pl.col("covered").alias("estimate_covered")
    )
    by_patient = since_release.rename({protocol.patient: "patient"})
    watched = watch_performance(
        by_patient, baseline, protocol.subgroups, minimum_n=protocol.minimum_n, latest_only=True
    )
    alarms = subgroup_alarms(
        by_patient,
        baseline,
        protocol.subgroups,
        level=protocol.monitoring.false_alarms_per_year,
        minimum_n=protocol.minimum_n,
    )
    key = ["metric", "subgroup"]
    joined = (
        table.join(values, on=key, how="full", coalesce=True, maintain_order="left_right")
        .join(scored, on=key, how="left", maintain_order="left")
        .join(
            watched.filter(month=month).select(
                *key,
                "value_so_far",
                "baseline",
                "below_baseline",
                pl.col("low").alias("low_so_far"),
                pl.col("high").alias("high_so_far"),
            ),
            on=key,
            how="left",
            maintain_order="left",
        )
        .join(
            alarms.filter(month=month).select(pl.lit("sensitivity").alias("metric"), "subgroup", "alarmed"),
            on=key,
            how="left",
            maintain_order="left",
        )
    )
    return _conform(joined)


def _conform(table: pl.DataFrame) -> pl.DataFrame:
    absent = [pl.lit(None, kind).alias(name) for name, kind in EVENT_SCHEMA.items() if name not in table.columns]
    return (
        table.with_columns(absent)
        .with_columns(pl.col("n").fill_null(pl.col("n_estimated")), metric=EVENT + pl.col("metric"))
        .select(list(EVENT_SCHEMA))
    )
