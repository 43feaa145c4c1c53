"""The scored units an evaluation works on: checked, in ascending order of risk, with ties and equal-mass bins marked.

Belongs here: what every metric needs to know of its input. Does not belong here: any metric.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Patients = npt.NDArray[np.generic] | pl.Series

CALIBRATION_BINS = 10


class EvaluationError(ValueError):
    """Scores cannot be evaluated as they stand; the message names the array, the fault and how many rows have it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Scored units of one group of patients, in ascending order of risk.

    `outcome` (0 or 1), `risk` (a probability), `alerted` (0 or 1) and `patient` (0 to patients - 1) have one entry a
    unit. `tie_starts` and `bin_starts` are the first positions of runs of equal risk and of the equal-mass bins.
    """

    outcome: FloatArray
    risk: FloatArray
    alerted: FloatArray
    patient: IntArray
    tie_starts: IntArray
    bin_starts: IntArray

    @property
    def n(self) -> int:
        """The number of units."""
        return len(self.risk)

    @classmethod
    def of(cls, outcome: FloatArray, risk: FloatArray, alerted: FloatArray, patient: IntArray) -> Self:
        """The sample of arrays that are already checked, in any order."""
        order = np.argsort(risk, kind="stable")
        risk = risk[order]
        return cls(outcome[order], risk, alerted[order], patient[order], tie_starts(risk), equal_mass_bins(risk))

    def where(self, rows: npt.NDArray[np.bool_]) -> Self:
        """The units a mask over this sample selects; patients keep their numbers."""
        return self.of(self.outcome[rows], self.risk[rows], self.alerted[rows], self.patient[rows])


def equal_mass_bins(sorted_risk: FloatArray, bins: int = CALIBRATION_BINS) -> IntArray:
    """First positions of at most `bins` bins of equal mass over ascending risks; units of equal risk share a bin."""
    ties = tie_starts(sorted_risk)
    bin_of_tie = ties * bins // len(sorted_risk)
    return ties[np.r_[True, bin_of_tie[1:] > bin_of_tie[:-1]]]


def tie_starts(sorted_risk: FloatArray) -> IntArray:
    """First positions of the runs of equal risk over ascending risks."""
    return np.flatnonzero(np.r_[True, sorted_risk[1:] > sorted_risk[:-1]])


def checked_outcome(outcome: npt.ArrayLike) -> FloatArray:
    """The outcomes as 0.0 and 1.0; raises EvaluationError when there is none or one is anything else."""
    values = np.asarray(outcome, dtype=np.float64)
    if not len(values):
        raise EvaluationError("there is no row to evaluate")
    if wrong := int(np.sum((values != 0) & (values != 1))):
        raise EvaluationError(f"outcome: {wrong:,} of {len(values):,} rows are neither 0 nor 1; leave unripe rows out")
    return values


def checked_risk(risk: npt.ArrayLike, n: int, name: str = "risk") -> FloatArray:
    """The risks as floats; raises EvaluationError when there are not n or one is no probability."""
    values = np.asarray(risk, dtype=np.float64)
    if len(values) != n:
        raise EvaluationError(f"{name} has {len(values):,} rows and outcome has {n:,}; give one risk a row")
    if wrong := int(np.sum(~((values >= 0) & (values <= 1)))):
        raise EvaluationError(f"{name}: {wrong:,} of {n:,} rows are no probability between 0 and 1")
    return values


def patient_numbers(patient: Patients, n: int) -> tuple[IntArray, int]:
    """A number from 0 for every row's patient, and how many patients there are; raises EvaluationError on a null."""
    identifiers = pl.Series("patient", patient)
    if len(identifiers) != n:
        raise EvaluationError(f"patient has {len(identifiers):,} rows and outcome has {n:,}; give one patient a row")
    if missing := identifiers.null_count():
        raise EvaluationError(f"patient: {missing:,} of {n:,} rows have none; intervals are drawn by patient")
    numbers = identifiers.rank("dense").to_numpy().astype(np.int64) - 1
    return numbers, int(numbers.max()) + 1


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Element-wise quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)
