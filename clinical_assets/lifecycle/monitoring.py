"""What is seen of every month: profile, drift_report, and performance_report once outcomes are ripe.

Belongs here: the assets of monitoring. Does not belong here: any statistic, and what is done about a verdict.
"""

import dagster as dg
import polars as pl

from clinical_assets.learning.scoring import OUTPUTS, watched_outputs
from clinical_assets.lifecycle.catalogue import markdown_table, picture
from clinical_assets.lifecycle.champion import drift_monitor, drift_table
from clinical_assets.lifecycle.conditions import FLOW, RIPENING_TICK
from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.monitoring.performance import measure_performance
from clinical_assets.monitoring.profiles import profile_frame, profile_table
from clinical_assets.protocol import ModelProtocol, last_day
from clinical_assets.reporting.figures import drift_bars
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


@dg.asset(partitions_def=MONTHS, automation_condition=FLOW, kinds={"python"})
def drift_report(
    protocol: ModelProtocol,
    features: pl.DataFrame,
    predictions: pl.DataFrame,
    profile: pl.DataFrame,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The month against the training data of the version that scored it: evidence per column, verdict, severity."""
    version = registry.open().version(protocol.model, predictions["model_version"][0])
    outputs = predictions.select(protocol.unit).hstack(watched_outputs(predictions))
    rows = features.join(outputs, on=protocol.unit)
    report = drift_monitor(lake.open(), registry.open(), version, protocol).check(rows)
    table = drift_table(report, version, features)
    return dg.MaterializeResult(
        value=table,
        metadata={
            "drift/verdict": report.verdict.value,
            "drift/reason": report.reason,
            "drift/champion_version": version.version,
            "severity": report.severity,
            "columns_flagged": report.columns.filter("flagged")["column"].n_unique(),
            "columns_compared": report.columns["column"].n_unique(),
            "evidence": picture(drift_bars(report.columns), "drift per column"),
        },
    )


@dg.asset(partitions_def=MONTHS, automation_condition=RIPENING_TICK, kinds={"python"})
def performance_report(
    protocol: ModelProtocol, features: pl.DataFrame, predictions: pl.DataFrame, lake: LakeResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """What the champion achieved in the month, on ripe outcomes only; an unripe month says that it is not ripe."""
    known_by = last_day(max(lake.open().months(f"{protocol.model}.features")))
    scored = features.join(
        predictions.drop(protocol.patient, "month", protocol.index_time, "data_origin"), on=protocol.unit
    )
    measured = measure_performance(scored, protocol, known_by)
    table = measured.select(
        pl.lit(features["month"][0]).alias("month"),
        pl.lit(scored["model_version"][0], pl.Int32).alias("model_version"),
        pl.all(),
        pl.lit(features["data_origin"][0]).alias("data_origin"),
    )
    overall = table.filter(subgroup="overall").drop_nulls("value")
    return dg.MaterializeResult(
        value=table,
        metadata={
            "status": table["status"][0],
            "outcomes_known_by": known_by.isoformat(),
            **dict(overall.select("metric", "value").iter_rows()),
            "overall": markdown_table(overall.select("metric", "value", "low", "high", "n")),
        },
    )
