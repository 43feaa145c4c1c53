"""Scoring rows with one model version: risk, alert, what else its kind of model says, and how long it took.

Belongs here: what every use of a version does alike - monthly predictions, evaluation, external validation.
Does not belong here: loading the version, and judging its scores.
"""

import time

import polars as pl

from clinical_assets.evaluation.assessment import Assessment
from clinical_assets.learning.estimator import FittedEstimator
from clinical_assets.protocol import ModelProtocol, ModelVersion, load_object

REPRESENTATION = "representation_"
BOOKKEEPING = ("model_version", "latency_ms_per_1000")
"""Columns of scores that say nothing of the row."""

OUTPUTS = f"^(predicted_|{REPRESENTATION}).+$"


def score(
    estimator: FittedEstimator, rows: pl.DataFrame, version: ModelVersion, protocol: ModelProtocol
) -> pl.DataFrame:
    """What a version says of every row, in the order of the rows: the columns to stand beside theirs.

    `risk`, `alerted`, `threshold` and what else the protocol's assessment makes of a prediction; the columns
    `representation_1` and on of a model that has them; `model_version`; `latency_ms_per_1000` (wall time of the
    prediction, all rows).
    """
    assessment: Assessment = load_object(protocol.assessment)
    start = time.perf_counter()
    prediction = estimator.predict(rows)
    seconds = time.perf_counter() - start
    decided = assessment.decide(assessment.tabulate(prediction, protocol), version.thresholds)
    return decided.hstack(estimator.represent(rows)).with_columns(
        model_version=pl.lit(version.version, pl.Int32),
        latency_ms_per_1000=pl.lit(seconds * 1e6 / max(rows.height, 1)),
    )


def watched_outputs(scores: pl.DataFrame) -> pl.DataFrame:
    """The columns of scores that monitoring watches beside the features: `predicted_risk`, grades, representation."""
    return scores.select(pl.col("risk").alias("predicted_risk"), pl.col(OUTPUTS))
