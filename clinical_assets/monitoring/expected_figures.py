"""What a group of units with known risks is expected to show, were each event drawn with its probability.

Belongs here: expected figures, and how each hangs on a unit and on its outcome. Does not belong here: where the
probabilities come from, and how uncertain they are.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from clinical_assets.evaluation.calibration import from_logit, logit
from clinical_assets.evaluation.sample import FloatArray, IntArray, ratio

OUTCOME_METRICS = ("auroc", "sensitivity", "ppv", "observed_expected_ratio")
ESTIMATED_METRICS = (*OUTCOME_METRICS, "alerts_per_100")
PER_1000 = 1_000

SHARES = np.array([True, True, True, False])
"""Which of the metrics lie between 0 and 1, and are looked at as log odds; the others are looked at as logarithms."""


@dataclass(frozen=True, slots=True)
class ExpectedFigures:
    """The figures of a group of units, in the order of `OUTCOME_METRICS`, NaN where undefined.

    `of_unit` is what each unit adds to each figure, units x metrics: the empirical influence (Hampel 1974; of the AUROC
    DeLong et al. 1988), whose sum is 0 and whose squares sum to the variance where units are independent. `of_outcome`
    is what one more event at the unit would add.
    """

    values: FloatArray
    of_unit: FloatArray
    of_outcome: FloatArray
    n: int
    events: float
    alerts: float
    risks: float

    @classmethod
    def of(cls, risk: FloatArray, alerted: FloatArray, outcome: FloatArray) -> Self:
        """The figures of units in any order, whose outcomes are 0, 1, or probabilities in between.

        No unit is compared with itself.
        """
        n, events, alerts, risks = len(risk), float(outcome.sum()), float(alerted.sum()), float(risk.sum())
        _, level = np.unique(risk, return_inverse=True)
        with_event, without = np.bincount(level, outcome), np.bincount(level, 1 - outcome)
        others_below = (np.cumsum(without) - without / 2)[level]
        events_above = (events - np.cumsum(with_event) + with_event / 2)[level]
        of_one_unit = float(outcome @ (1 - outcome))
        hits = float(outcome @ alerted)
        values = ratio(
            np.array([outcome @ others_below - of_one_unit / 2, hits, hits, events]),
            np.array([events * (n - events) - of_one_unit, events, alerts, risks]),
        )
        auroc, sensitivity, ppv, observed_expected = values
        with np.errstate(divide="ignore", invalid="ignore"):
            above, below = others_below / (n - events) - auroc, events_above / events - auroc
            of_unit = (
                outcome * above / events + (1 - outcome) * below / (n - events),
                outcome * (alerted - sensitivity) / events,
                alerted * (outcome - ppv) / alerts,
                (outcome - observed_expected * risk) / risks,
            )
            of_outcome = (
                above / events - below / (n - events),
                (alerted - sensitivity) / events,
                alerted / alerts,
                np.full(n, 1 / risks),
            )
        return cls(values, np.column_stack(of_unit), np.column_stack(of_outcome), n, events, alerts, risks)

    @property
    def missed_per_1000(self) -> float:
        """Units with the event that are not alerted, of 1,000 units."""
        sensitivity = self.values[OUTCOME_METRICS.index("sensitivity")] if self.events else 0.0
        return float(PER_1000 * self.events * (1 - sensitivity) / self.n)

    @property
    def certain(self) -> npt.NDArray[np.bool_]:
        """The figures that no outcome can change: the sensitivity, where all units are alerted, or none."""
        return np.array([False, self.alerts in (0, self.n), False, False], dtype=np.bool_)

    @property
    def denominators(self) -> FloatArray:
        """What each figure rests on: events, or alerts of the positive predictive value."""
        return np.array([self.events, self.events, self.alerts, self.events])


def to_scale(values: FloatArray) -> FloatArray:
    """Values of `OUTCOME_METRICS` (last axis) as log odds or logarithms, on which intervals are even."""
    held = np.where(SHARES, values, 0.5)
    return np.where(SHARES, logit(held), np.log(np.where(SHARES, 1.0, values)))


def from_scale(scaled: FloatArray) -> FloatArray:
    """The values again."""
    return np.where(SHARES, from_logit(scaled), np.exp(np.where(SHARES, 0.0, scaled)))


def per_unit_of_scale(values: FloatArray) -> FloatArray:
    """By how much the scaled value moves with the value; NaN at its ends."""
    slope = np.where(SHARES, values * (1 - values), values)
    return ratio(np.ones_like(slope), slope)


def sum_columns_by_patient(columns: FloatArray, patient: IntArray) -> FloatArray:
    """The sums of rows x columns over each patient's rows; patients are numbers from 0."""
    return np.column_stack([np.bincount(patient, column) for column in columns.T]).astype(np.float64)
