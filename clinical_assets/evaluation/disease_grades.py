"""The assessment of models that grade a disease: a probability for every grade, and a referral from one grade on.

Belongs here: how grades are chosen from probabilities, and which functions of this package such models are measured by.
Does not belong here: any metric.
"""

import numpy as np
import polars as pl

from clinical_assets.evaluation.assessment import Assessment, Findings, Thresholds
from clinical_assets.evaluation.grading import (
    choose_grade_cuts,
    compare_grading,
    evaluate_grading,
    grade_by_cuts,
    referable_risk,
)
from clinical_assets.evaluation.operating_point import choose_alert_threshold
from clinical_assets.evaluation.sample import FloatArray
from clinical_assets.protocol import ALERT, ModelProtocol

PROBABILITY, CUT = "probability_", "grade_from_"


def _tabulate(prediction: FloatArray, protocol: ModelProtocol) -> pl.DataFrame:
    columns = {f"{PROBABILITY}{grade}": prediction[:, grade] for grade in range(prediction.shape[1])}
    return pl.DataFrame({"risk": referable_risk(prediction, protocol.outcome.event_from), **columns})


def _choose_thresholds(calibrate: pl.DataFrame, protocol: ModelProtocol) -> Thresholds:
    probability = _probabilities(calibrate)
    grade = calibrate[protocol.outcome.column].to_numpy()
    cuts = choose_grade_cuts(_expected_grade(probability), grade, probability.shape[1])
    named = {f"{CUT}{grade}": float(cut) for grade, cut in enumerate(cuts, start=1)}
    return {ALERT: choose_alert_threshold(calibrate, protocol), **named}


def _decide(tabulated: pl.DataFrame, thresholds: Thresholds) -> pl.DataFrame:
    probability = _probabilities(tabulated)
    cuts = tuple(thresholds[f"{CUT}{grade}"] for grade in range(1, probability.shape[1]))
    return tabulated.with_columns(
        pl.Series("predicted_grade", grade_by_cuts(_expected_grade(probability), cuts), pl.Int8),
        alerted=pl.col("risk") >= thresholds[ALERT],
        threshold=pl.lit(thresholds[ALERT]),
    )


def _measure(scored: pl.DataFrame, protocol: ModelProtocol, resamples: int) -> Findings:
    return evaluate_grading(
        scored[protocol.outcome.column].to_numpy(),
        _probabilities(scored),
        scored["predicted_grade"].to_numpy(),
        scored[protocol.patient],
        scored["threshold"][0],
        scored.select(protocol.subgroups),
        protocol.minimum_n,
        resamples,
        referable_from=protocol.outcome.event_from,
    )


def _compare(scored: pl.DataFrame, reference: pl.DataFrame, name: str, protocol: ModelProtocol) -> Findings:
    return compare_grading(
        scored[protocol.outcome.column].to_numpy(),
        _probabilities(scored),
        scored["predicted_grade"].to_numpy(),
        _probabilities(reference),
        reference["predicted_grade"].to_numpy(),
        scored[protocol.patient],
        name,
    )


def _probabilities(rows: pl.DataFrame) -> FloatArray:
    names = sorted(name for name in rows.columns if name.startswith(PROBABILITY))
    return rows.select(names).to_numpy()


def _expected_grade(probability: FloatArray) -> FloatArray:
    return probability @ np.arange(probability.shape[1])


DISEASE_GRADES = Assessment(_tabulate, _choose_thresholds, _decide, _measure, _compare)
"""A probability for every grade; the predicted grade follows from cut-points, a referral from the threshold on."""
