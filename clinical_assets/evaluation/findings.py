"""Everything measured of a set of scored units, and of two models on the same units, as findings with intervals.

Belongs here: which metrics are measured on which groups, and how draws become findings. Does not belong here: the
metrics themselves, and what a finding means for a limit.
"""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.alerts import alerts_per_100, ppv, prevalence, sensitivity
from clinical_assets.evaluation.bootstrap import centred_interval, draw_patients, percentile_interval
from clinical_assets.evaluation.calibration import (
    brier,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
    observed_expected_ratio,
)
from clinical_assets.evaluation.discrimination import auroc, average_precision
from clinical_assets.evaluation.sample import (
    EvaluationError,
    FloatArray,
    Patients,
    Sample,
    checked_outcome,
    checked_risk,
    patient_numbers,
)
from clinical_assets.protocol import Finding

OVERALL = "overall"
MISSING = "missing"
SENSITIVITY_GAP = "sensitivity_gap"

Metric = Callable[[Sample, FloatArray], FloatArray]

METRICS: dict[str, Metric] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "brier": brier,
    "calibration_slope": calibration_slope,
    "calibration_intercept": calibration_intercept,
    "expected_calibration_error": expected_calibration_error,
    "observed_expected_ratio": observed_expected_ratio,
    "sensitivity": sensitivity,
    "ppv": ppv,
    "alerts_per_100": alerts_per_100,
    "prevalence": prevalence,
}
COMPARED = ("auroc", "average_precision", "brier")
DISTANCES = frozenset({"expected_calibration_error", SENSITIVITY_GAP})


def evaluate(
    outcome: npt.ArrayLike,
    risk: npt.ArrayLike,
    patient: Patients,
    threshold: float,
    subgroups: pl.DataFrame,
    minimum_n: int,
    resamples: int = 500,
    seed: int = 0,
) -> list[Finding]:
    """Every metric overall and in each large enough subgroup, with 95 % bootstrap intervals drawn by patient.

    `outcome` (0 or 1), `risk` (probability) and `patient` have one entry a row; a row is alerted when its risk is at or
    above `threshold`. `subgroups` has one categorical column a grouping and may have none; a level with at least
    `minimum_n` rows is the subgroup `column=level`, nulls being `column=missing`. A value or interval is None where it
    is undefined, and with `resamples=0` there are no intervals. `sensitivity_gap` is the largest sensitivity minus the
    smallest among the subgroups of one column, for the column where that is widest. Raises EvaluationError on arrays
    of unequal length, outcomes other than 0 and 1, and risks that are no probability.
    """
    observed = checked_outcome(outcome)
    predicted = checked_risk(risk, len(observed))
    numbers, patients = patient_numbers(patient, len(observed))
    if subgroups.width and subgroups.height != len(observed):
        raise EvaluationError(f"subgroups has {subgroups.height:,} rows and outcome has {len(observed):,}")
    order = np.argsort(predicted, kind="stable")
    everyone = Sample.of(
        observed[order], predicted[order], (predicted[order] >= threshold).astype(np.float64), numbers[order]
    )
    samples = {OVERALL: everyone}
    columns = defaultdict[str, list[str]](list)
    for name in subgroups.columns:
        levels = subgroups[name].cast(pl.String).fill_null(MISSING).gather(order)
        for level in levels.unique().sort():
            rows = (levels == level).to_numpy()
            if rows.sum() >= minimum_n:
                samples[f"{name}={level}"] = everyone.where(rows)
                columns[name].append(f"{name}={level}")

    point = {
        (group, name): metric(sample, np.ones((1, sample.n)))
        for group, sample in samples.items()
        for name, metric in METRICS.items()
    }
    blocks = defaultdict[tuple[str, str], list[FloatArray]](list)
    for drawn in draw_patients(patients, len(observed), resamples, seed):
        for group, sample in samples.items():
            weight = drawn[:, sample.patient]
            for name, metric in METRICS.items():
                blocks[group, name].append(metric(sample, weight))
    draws = {key: np.concatenate(blocks[key]) if resamples else np.empty(0) for key in point}
    gap = OVERALL, SENSITIVITY_GAP
    point[gap], draws[gap] = _widest_gap(point, columns), _widest_gap(draws, columns)
    return [
        _finding(name, group, float(value[0]), draws[group, name], samples[group].n)
        for (group, name), value in point.items()
    ]


def compare(
    outcome: npt.ArrayLike,
    risk: npt.ArrayLike,
    reference_risk: npt.ArrayLike,
    patient: Patients,
    reference: str = "champion",
    resamples: int = 500,
    seed: int = 0,
) -> list[Finding]:
    """Metrics of a candidate minus those of a reference model on the same rows, with paired 95 % bootstrap intervals.

    Gives `auroc_minus_<reference>`, `average_precision_minus_<reference>` and `brier_minus_<reference>`; both models
    are measured on the same draws of patients. Arrays and errors are those of `evaluate`.
    """
    observed = checked_outcome(outcome)
    numbers, patients = patient_numbers(patient, len(observed))
    nobody = np.zeros(len(observed))
    candidate = Sample.of(observed, checked_risk(risk, len(observed)), nobody, numbers)
    other = Sample.of(observed, checked_risk(reference_risk, len(observed), f"{reference} risk"), nobody, numbers)

    def differences(drawn: FloatArray) -> FloatArray:
        return np.array(
            [
                METRICS[name](candidate, drawn[:, candidate.patient]) - METRICS[name](other, drawn[:, other.patient])
                for name in COMPARED
            ]
        )

    value = differences(np.ones((1, patients)))
    drawn = [differences(block) for block in draw_patients(patients, len(observed), resamples, seed)]
    resampled = np.concatenate(drawn, axis=1) if drawn else np.empty((len(COMPARED), 0))
    return [
        _finding(f"{name}_minus_{reference}", OVERALL, float(value[i, 0]), resampled[i], len(observed))
        for i, name in enumerate(COMPARED)
    ]


def _widest_gap(values: dict[tuple[str, str], FloatArray], columns: dict[str, list[str]]) -> FloatArray:
    """Largest minus smallest subgroup sensitivity, for the column where that is widest; NaN where none has two."""
    widest = np.full(len(values[OVERALL, "sensitivity"]), np.nan)
    for groups in columns.values():
        found = np.array([values[group, "sensitivity"] for group in groups])
        gap = np.fmax.reduce(found) - np.fmin.reduce(found)
        widest = np.fmax(widest, np.where(np.isfinite(found).sum(axis=0) > 1, gap, np.nan))
    return widest


def _finding(metric: str, subgroup: str, value: float, draws: FloatArray, n: int) -> Finding:
    if not np.isfinite(value):
        return Finding(metric, subgroup, None, None, None, n)
    interval = centred_interval(draws, value) if metric in DISTANCES else percentile_interval(draws)
    low, high = interval if interval is not None else (None, None)
    return Finding(metric, subgroup, value, low, high, n)
