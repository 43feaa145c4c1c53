"""Scoring rows with one model version: risk, alert, and how long it took.

Belongs here: what every use of a version does alike - monthly predictions, evaluation, external validation.
Does not belong here: loading the version, and judging its scores.
"""

import time

import polars as pl

from clinical_assets.learning.estimator import RiskEstimator
from clinical_assets.protocol import ModelVersion

SCORE_COLUMNS = ("risk", "alerted", "threshold", "model_version", "latency_ms_per_1000")


def score(estimator: RiskEstimator, rows: pl.DataFrame, version: ModelVersion) -> pl.DataFrame:
    """The rows with `risk`, `alerted`, `threshold`, `model_version` and `latency_ms_per_1000` (wall time, all rows)."""
    start = time.perf_counter()
    risk = estimator.predict(rows)
    seconds = time.perf_counter() - start
    return rows.with_columns(
        pl.Series("risk", risk, pl.Float64),
        pl.Series("alerted", risk >= version.threshold),
        threshold=pl.lit(version.threshold),
        model_version=pl.lit(version.version, pl.Int32),
        latency_ms_per_1000=pl.lit(seconds * 1e6 / max(rows.height, 1)),
    )
