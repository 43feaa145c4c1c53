"""The assessment of models that give one risk of one binary outcome for each unit.

Belongs here: which functions of this package such models are measured by. Does not belong here: any metric.
"""

import polars as pl

from clinical_assets.evaluation.assessment import Assessment, Findings, Thresholds
from clinical_assets.evaluation.findings import compare, evaluate
from clinical_assets.evaluation.operating_point import choose_alert_threshold
from clinical_assets.evaluation.sample import FloatArray
from clinical_assets.protocol import ALERT, ModelProtocol


def _tabulate(prediction: FloatArray, protocol: ModelProtocol) -> pl.DataFrame:
    return pl.DataFrame({"risk": pl.Series(prediction, dtype=pl.Float64)})


def _choose_thresholds(calibrate: pl.DataFrame, protocol: ModelProtocol) -> Thresholds:
    return {ALERT: choose_alert_threshold(calibrate, protocol)}


def _decide(tabulated: pl.DataFrame, thresholds: Thresholds) -> pl.DataFrame:
    return tabulated.with_columns(alerted=pl.col("risk") >= thresholds[ALERT], threshold=pl.lit(thresholds[ALERT]))


def _measure(scored: pl.DataFrame, protocol: ModelProtocol, resamples: int) -> Findings:
    return evaluate(
        protocol.outcome.is_event(scored),
        scored["risk"],
        scored[protocol.patient],
        scored["threshold"][0],
        scored.select(protocol.subgroups),
        protocol.minimum_n,
        resamples,
    )


def _compare(scored: pl.DataFrame, reference: pl.DataFrame, name: str, protocol: ModelProtocol) -> Findings:
    event, patient = protocol.outcome.is_event(scored), scored[protocol.patient]
    return compare(event, scored["risk"], reference["risk"], patient, name)


BINARY_RISK = Assessment(_tabulate, _choose_thresholds, _decide, _measure, _compare)
"""One risk a unit; a unit is alerted from the threshold on."""
