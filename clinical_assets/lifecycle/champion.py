"""What monitoring needs of the version that scored a month: its drift monitor, and the rows of a drift report.

Belongs here: fetching and assembling; no asset stands here. Does not belong here: any statistic.
"""

from functools import lru_cache

import polars as pl

from clinical_assets.learning.scoring import score, watched_outputs
from clinical_assets.lifecycle.candidate import read_training_rows
from clinical_assets.monitoring.drift import DriftMonitor, DriftReport
from clinical_assets.protocol import ModelProtocol, ModelVersion
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry


def drift_monitor(lake: Lake, registry: Registry, version: ModelVersion, protocol: ModelProtocol) -> DriftMonitor:
    """The monitor fitted on the version's own training data, as they stood in the lake, with its own risks for them."""
    return _fitted(lake, registry, version, protocol.model_dump_json())


# A replay asks for the same monitor every month; it depends on nothing but its arguments.
@lru_cache(maxsize=4)
def _fitted(lake: Lake, registry: Registry, version: ModelVersion, protocol_json: str) -> DriftMonitor:
    protocol = ModelProtocol.model_validate_json(protocol_json)
    rows = read_training_rows(lake, protocol, version.lake_snapshot)
    outputs = watched_outputs(score(registry.load(version, protocol.estimator), rows, version, protocol))
    watched = [*protocol.watched_columns(rows.columns), *outputs.columns]
    return DriftMonitor.fit(rows.hstack(outputs), protocol.monitoring, watched, patient=protocol.patient)


def drift_table(report: DriftReport, version: ModelVersion, features: pl.DataFrame) -> pl.DataFrame:
    """One row a comparison of a column, each with the verdict on the month."""
    return report.columns.select(
        pl.lit(features["month"][0]).alias("month"),
        pl.lit(version.version, pl.Int32).alias("champion_version"),
        pl.all(),
        pl.lit(report.verdict.value).alias("verdict"),
        pl.lit(report.severity).alias("severity"),
        pl.lit(report.reason).alias("reason"),
        pl.lit(features["data_origin"][0]).alias("data_origin"),
    )
