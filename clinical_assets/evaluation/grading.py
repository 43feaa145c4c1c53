"""How well an ordinal grade is predicted: over all grades, and for the disease that is referred.

Belongs here: metrics of graded outcomes with their intervals, overall and by subgroup, and of two models on the same
units. Does not belong here: metrics of a binary outcome, and how a grade or a threshold was chosen.

Every metric takes a `GradedSample` and `drawn` (resamples x patients: how often each patient counts), and gives one
value a resample, NaN where it is undefined.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.bootstrap import draw_patients, percentile_interval
from clinical_assets.evaluation.discrimination import auroc
from clinical_assets.evaluation.findings import MISSING, OVERALL, evaluate
from clinical_assets.evaluation.sample import (
    EvaluationError,
    FloatArray,
    IntArray,
    Patients,
    Sample,
    patient_numbers,
    ratio,
)
from clinical_assets.protocol import Finding

REFERABLE_FROM = 2
"""Moderate non-proliferative retinopathy: at this grade and above a patient is referred (Gulshan et al. 2016, JAMA)."""

MOST_ROUNDING = 1e-3  # by which the probabilities of one unit, often of single precision, may miss a sum of 1

RENAMED = {"auroc": "referable_auroc", "average_precision": "referable_average_precision"}


@dataclass(frozen=True, slots=True)
class GradedSample:
    """Units of one group of patients with their grade and what was predicted, in any order.

    `grade` and `predicted` (0 to grades - 1), `alerted` (referral, 0 or 1) and `patient` (0 to patients - 1) have one
    entry a unit, `probability` one row a unit and one column a grade; `one_grade` holds, grade by grade, the units in
    order of that grade's probability.
    """

    grade: IntArray
    predicted: IntArray
    probability: FloatArray
    alerted: FloatArray
    patient: IntArray
    one_grade: tuple[Sample, ...]
    referable_from: int

    @classmethod
    def of(
        cls,
        grade: IntArray,
        predicted: IntArray,
        probability: FloatArray,
        alerted: FloatArray,
        patient: IntArray,
        referable_from: int,
    ) -> Self:
        """The sample of arrays that are already checked."""
        one_grade = tuple(
            Sample.of((grade == level).astype(np.float64), probability[:, level], alerted, patient)
            for level in range(probability.shape[1])
        )
        return cls(grade, predicted, probability, alerted, patient, one_grade, referable_from)

    def where(self, rows: npt.NDArray[np.bool_]) -> Self:
        """The units a mask selects; patients keep their numbers."""
        return self.of(
            self.grade[rows],
            self.predicted[rows],
            self.probability[rows],
            self.alerted[rows],
            self.patient[rows],
            self.referable_from,
        )


def macro_auroc(sample: GradedSample, drawn: FloatArray) -> FloatArray:
    """Mean AUROC of each grade against all others, as MedMNIST defines it (Yang 2023); every grade must occur."""
    return np.mean([auroc(each, drawn[:, each.patient]) for each in sample.one_grade], axis=0)


def accuracy(sample: GradedSample, drawn: FloatArray) -> FloatArray:
    """Share of the units whose most probable grade is the right one, as MedMNIST defines it (Yang 2023)."""
    weight = drawn[:, sample.patient]
    right = (sample.probability.argmax(axis=1) == sample.grade).astype(np.float64)
    return ratio(weight @ right, weight.sum(axis=1))


def quadratic_weighted_kappa(sample: GradedSample, drawn: FloatArray) -> FloatArray:
    """Agreement of predicted and true grade beyond chance, errors weighed by their square (Cohen 1968)."""
    grades = sample.probability.shape[1]
    weight = drawn[:, sample.patient]
    cell = np.eye(grades**2)[sample.grade * grades + sample.predicted]
    observed = (weight @ cell).reshape(-1, grades, grades)
    expected = observed.sum(axis=2)[:, :, None] * observed.sum(axis=1)[:, None, :]
    penalty = np.subtract.outer(np.arange(grades), np.arange(grades)) ** 2.0
    disagreement = weight.sum(axis=1) * (observed * penalty).sum(axis=(1, 2))
    return 1 - ratio(disagreement, (expected * penalty).sum(axis=(1, 2)))


def specificity(sample: GradedSample, drawn: FloatArray) -> FloatArray:
    """Share of the units without referable disease that are not referred."""
    healthy = drawn[:, sample.patient] * (sample.grade < sample.referable_from)
    return ratio(healthy @ (1 - sample.alerted), healthy.sum(axis=1))


Metric = Callable[[GradedSample, FloatArray], FloatArray]

METRICS: dict[str, Metric] = {
    "auroc": macro_auroc,
    "accuracy": accuracy,
    "quadratic_weighted_kappa": quadratic_weighted_kappa,
    "specificity": specificity,
}
COMPARED = ("auroc", "accuracy", "quadratic_weighted_kappa")


def evaluate_grading(
    grade: npt.ArrayLike,
    probability: npt.ArrayLike,
    predicted: npt.ArrayLike,
    patient: Patients,
    threshold: float,
    subgroups: pl.DataFrame,
    minimum_n: int,
    resamples: int = 500,
    seed: int = 0,
    referable_from: int = REFERABLE_FROM,
) -> list[Finding]:
    """Every metric overall and in each large enough subgroup, with 95 % bootstrap intervals drawn by patient.

    `grade` and `predicted` (0 to grades - 1) and `patient` have one entry a row, `probability` a row and a
    column a grade. A row is referred when the probability of `referable_from` or above is at or above `threshold`.
    `auroc`, `accuracy` and `quadratic_weighted_kappa` are of all grades; every other metric is of referable disease,
    the metrics of `evaluate` among them, with `referable_auroc` and `referable_average_precision` for its `auroc` and
    `average_precision`. `accuracy` is of the most probable grade, kappa of `predicted`, which may be chosen for it.
    Subgroups, undefined values and `resamples=0` are as in `evaluate`. Raises EvaluationError on arrays of unequal
    length, grades out of range, and probabilities that do not sum to 1.
    """
    everyone, patients = _checked(grade, probability, predicted, patient, threshold, referable_from)
    n = len(everyone.grade)
    if subgroups.width and subgroups.height != n:
        raise EvaluationError(f"subgroups has {subgroups.height:,} rows and grade has {n:,}")
    samples = {OVERALL: everyone}
    for name in subgroups.columns:
        levels = subgroups[name].cast(pl.String).fill_null(MISSING)
        for level in levels.unique().sort():
            rows = (levels == level).to_numpy()
            if rows.sum() >= minimum_n:
                samples[f"{name}={level}"] = everyone.where(rows)

    def measure(drawn: FloatArray) -> FloatArray:
        return np.array([metric(sample, drawn) for sample in samples.values() for metric in METRICS.values()])

    names = [(name, group, len(sample.grade)) for group, sample in samples.items() for name in METRICS]
    graded = _with_intervals(names, measure, draw_patients(patients, n, resamples, seed), patients)
    referable = (everyone.grade >= referable_from).astype(np.float64)
    risk = referable_risk(everyone.probability, referable_from)
    binary = evaluate(referable, risk, patient, threshold, subgroups, minimum_n, resamples, seed)
    return graded + [replace(finding, metric=RENAMED.get(finding.metric, finding.metric)) for finding in binary]


def compare_grading(
    grade: npt.ArrayLike,
    probability: npt.ArrayLike,
    predicted: npt.ArrayLike,
    reference_probability: npt.ArrayLike,
    reference_predicted: npt.ArrayLike,
    patient: Patients,
    reference: str = "champion",
    resamples: int = 500,
    seed: int = 0,
) -> list[Finding]:
    """Metrics of a candidate minus those of a reference model on the same rows, with paired 95 % bootstrap intervals.

    Gives `auroc_minus_<reference>`, `accuracy_minus_<reference>` and `quadratic_weighted_kappa_minus_<reference>`; both
    models are measured on the same draws of patients. Arrays and errors are those of `evaluate_grading`.
    """
    nobody_referred = np.inf
    candidate, patients = _checked(grade, probability, predicted, patient, nobody_referred)
    other, _ = _checked(grade, reference_probability, reference_predicted, patient, nobody_referred)
    n = len(candidate.grade)

    def measure(drawn: FloatArray) -> FloatArray:
        return np.array([METRICS[name](candidate, drawn) - METRICS[name](other, drawn) for name in COMPARED])

    names = [(f"{name}_minus_{reference}", OVERALL, n) for name in COMPARED]
    return _with_intervals(names, measure, draw_patients(patients, n, resamples, seed), patients)


def _with_intervals(
    names: list[tuple[str, str, int]],
    measure: Callable[[FloatArray], FloatArray],
    draws: Iterable[FloatArray],
    patients: int,
) -> list[Finding]:
    """The measured values (one row for each metric, subgroup and n) with the intervals over the draws."""
    value = measure(np.ones((1, patients)))[:, 0]
    resampled = np.concatenate([np.empty((len(names), 0)), *map(measure, draws)], axis=1)
    findings = []
    for (metric, subgroup, n), point, spread in zip(names, value, resampled, strict=True):
        defined = bool(np.isfinite(point))
        low, high = (percentile_interval(spread) if defined else None) or (None, None)
        findings.append(Finding(metric, subgroup, float(point) if defined else None, low, high, n))
    return findings


def referable_risk(probability: FloatArray, referable_from: int = REFERABLE_FROM) -> FloatArray:
    """The probability of `referable_from` or a higher grade; `probability` has a row a unit and a column a grade."""
    return probability[:, referable_from:].sum(axis=1).clip(0.0, 1.0)


def _checked(
    grade: npt.ArrayLike,
    probability: npt.ArrayLike,
    predicted: npt.ArrayLike,
    patient: Patients,
    threshold: float,
    referable_from: int = REFERABLE_FROM,
) -> tuple[GradedSample, int]:
    """The sample of arrays that fit together, and how many patients it has; raises EvaluationError."""
    chance = np.asarray(probability, dtype=np.float64)
    if chance.ndim != 2 or not len(chance) or chance.shape[1] <= referable_from:
        raise EvaluationError(
            f"probability has shape {chance.shape}; give one row a unit and one column a grade, grades 0 to at least "
            f"{referable_from}"
        )
    n, grades = chance.shape
    # NaN compares as false: written so that it is refused.
    improbable = ~((chance >= 0) & (chance <= 1)).all(axis=1) | ~(np.abs(chance.sum(axis=1) - 1) <= MOST_ROUNDING)
    if wrong := int(improbable.sum()):
        raise EvaluationError(
            f"probability: {wrong:,} of {n:,} rows are not numbers between 0 and 1 that sum to 1; "
            "give the probability of every grade"
        )
    numbers, patients = patient_numbers(patient, n)
    sample = GradedSample.of(
        _checked_grades(grade, n, grades, "grade"),
        _checked_grades(predicted, n, grades, "predicted"),
        chance,
        (referable_risk(chance, referable_from) >= threshold).astype(np.float64),
        numbers,
        referable_from,
    )
    return sample, patients


def _checked_grades(values: npt.ArrayLike, n: int, grades: int, name: str) -> IntArray:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (n,):
        raise EvaluationError(f"{name} has shape {found.shape} and probability {n:,} rows; give one grade a row")
    if wrong := int(np.sum(~np.isin(found, np.arange(grades)))):
        raise EvaluationError(f"{name}: {wrong:,} of {n:,} rows are no grade from 0 to {grades - 1}")
    return found.astype(np.int64)


def choose_grade_cuts(expected_grade: npt.ArrayLike, grade: npt.ArrayLike, grades: int = 5) -> tuple[float, ...]:
    """The cuts on the expected grade, one between each two grades, at which quadratic weighted kappa is greatest.

    `expected_grade` is the mean of the grade under its probabilities, `grade` (0 to grades - 1) the true one. The cuts
    ascend; two are equal where the grade between them is best never given. The maximum is exact: with the true grades
    fixed, disagreement and chance disagreement are sums over units, whose ratio is minimised by a sequence of weighted
    sums (Dinkelbach 1967), each by dynamic programming over the units in order. Raises EvaluationError on arrays of
    unequal length, expected grades that are no numbers, grades out of range, and fewer than two different grades.
    """
    expected = np.asarray(expected_grade, dtype=np.float64)
    n = len(expected) if expected.ndim == 1 else 0
    if not n or not np.isfinite(expected).all():
        raise EvaluationError(f"expected_grade has shape {expected.shape}; give one finite number a unit")
    truth = _checked_grades(grade, n, grades, "grade")
    if len(np.unique(truth)) == 1:
        raise EvaluationError(f"grade: all {n:,} units have grade {truth[0]}; kappa needs two different grades")
    order = np.argsort(expected, kind="stable")
    value, truth = expected[order], truth[order]
    levels = np.arange(grades)
    disagreement = n * np.subtract.outer(truth, levels) ** 2.0
    by_chance = np.bincount(truth, minlength=grades) @ np.subtract.outer(levels, levels) ** 2.0
    starts = np.flatnonzero(np.r_[True, np.diff(value) > 0, True])

    def relative_disagreement(bounds: IntArray) -> float:
        predicted = np.searchsorted(bounds, np.arange(n), side="right")
        return float(disagreement[np.arange(n), predicted].sum() / by_chance[predicted].sum())

    bounds = _cheapest_bounds(disagreement, starts)
    better = _cheapest_bounds(disagreement - relative_disagreement(bounds) * by_chance, starts)
    while relative_disagreement(better) < relative_disagreement(bounds):
        bounds, better = better, _cheapest_bounds(disagreement - relative_disagreement(better) * by_chance, starts)
    values = value.tolist()
    # At the ends there is no other side: a cut at the lowest value, or just above the highest.
    return tuple(
        values[0] if bound == 0 else _between(values[bound - 1], values[bound] if bound < n else None)
        for bound in bounds.tolist()
    )


def grade_by_cuts(expected_grade: npt.ArrayLike, cuts: Sequence[float]) -> IntArray:
    """The grade of each expected grade: how many cuts it reaches; raises EvaluationError on cuts that descend."""
    if list(cuts) != sorted(cuts):
        raise EvaluationError(f"the cuts {list(cuts)} do not ascend; give them from the lowest grade to the highest")
    return np.searchsorted(np.asarray(cuts), np.asarray(expected_grade, dtype=np.float64), side="right")


def _cheapest_bounds(cost: FloatArray, starts: IntArray) -> IntArray:
    """The first unit of every level but the lowest, at which the cost (units x levels) of ordered levels is least."""
    total = np.vstack([np.zeros(cost.shape[1]), np.cumsum(cost, axis=0)])[starts]
    least = np.zeros(len(starts))
    origins: list[IntArray] = []
    for level in range(1, cost.shape[1]):
        here = least + total[:, level - 1] - total[:, level]
        least = np.minimum.accumulate(here)
        # The place at which the running minimum was last lowered.
        lowered = np.r_[True, np.diff(least) < 0]
        origins.append(np.maximum.accumulate(np.where(lowered, np.arange(len(starts)), 0)))
    place = len(starts) - 1
    bounds = []
    for origin in reversed(origins):
        place = origin[place]
        bounds.append(starts[place])
    return np.array(bounds[::-1])


def _between(lower: float, upper: float | None) -> float:
    """The middle of two numbers, but above the lower; the next number above it where there is no upper one."""
    just_above = float(np.nextafter(lower, np.inf))
    return just_above if upper is None else max((lower + upper) / 2, just_above)
