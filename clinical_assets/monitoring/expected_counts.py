"""What a group of units with known risks is expected to show, were each event drawn with its probability.

Belongs here: expected counts, the metrics they give, and how both move with outcomes. Does not belong here: where the
probabilities come from, and how uncertain they are.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from clinical_assets.evaluation.sample import FloatArray, ratio

ESTIMATED_METRICS = ("auroc", "sensitivity", "ppv", "observed_expected_ratio", "alerts_per_100")
PER_1000 = 1_000


@dataclass(frozen=True, slots=True)
class ExpectedCounts:
    """The expected counts of a group of units, and what is needed to see how they move.

    `concordant` are pairs of an event and another unit of lower risk, those of equal risk counting half; `of_one_unit`
    is the chance, summed over units, of one being both, which no outcome shows. `risk` ascends; `events_below` and
    `others_below` have one entry more, the sums over all lower positions.
    """

    n: int
    events: float
    alerted_events: float
    alerts: float
    risks: float
    concordant: float
    of_one_unit: float
    risk: FloatArray
    events_below: FloatArray
    others_below: FloatArray

    @classmethod
    def of(cls, risk: FloatArray, alerted: FloatArray, probability: FloatArray) -> Self:
        """The counts of units in any order; with outcomes (0 or 1) as probabilities, those that were observed."""
        order = np.argsort(risk, kind="stable")
        risk, alerted, probability = risk[order], alerted[order], probability[order]
        others_below = np.r_[0.0, np.cumsum(1 - probability)]
        return cls(
            n=len(risk),
            events=float(probability.sum()),
            alerted_events=float(probability @ alerted),
            alerts=float(alerted.sum()),
            risks=float(risk.sum()),
            concordant=float(probability @ _sum_below(others_below, risk, risk)),
            of_one_unit=float(probability @ (1 - probability)),
            risk=risk,
            events_below=np.r_[0.0, np.cumsum(probability)],
            others_below=others_below,
        )

    @property
    def missed_per_1000(self) -> float:
        """Units with the event that are not alerted, of 1,000 units."""
        return PER_1000 * (self.events - self.alerted_events) / self.n

    def values(self) -> dict[str, float]:
        """The expected value of every metric, NaN where undefined; no unit is compared with itself."""
        others = self.n - self.events
        numerators = np.array([self.concordant - self.of_one_unit / 2, self.alerted_events, self.alerted_events])
        denominators = np.array([self.events * others - self.of_one_unit, self.events, self.alerts])
        auroc, sensitivity, ppv = ratio(numerators, denominators)
        observed_expected = self.events / self.risks if self.risks else np.nan
        values = (auroc, sensitivity, ppv, observed_expected, 100 * self.alerts / self.n)
        return dict(zip(ESTIMATED_METRICS, map(float, values), strict=True))

    def move(self, risk: FloatArray, alerted: FloatArray, change: FloatArray) -> FloatArray:
        """What a change of the outcome of units at given risks adds to (concordant pairs, events, alerted events).

        All have one entry a unit; the result is units x 3.
        """
        others = _sum_below(self.others_below, self.risk, risk)
        events_above = self.events - _sum_below(self.events_below, self.risk, risk)
        return np.column_stack([change * (others - events_above), change, change * alerted])

    def moved_values(self, moved: FloatArray) -> dict[str, FloatArray]:
        """Every metric where outcomes turn out otherwise: `moved` is draws x (concordant pairs, events, those alerted).

        Exact for outcomes y = p + e: the concordant pairs of y are those of p, what e adds to them one by one, and less
        half the square of the sum of e, since of two units either order is concordant, or both by half.
        """
        events = self.events + moved[:, 1]
        events = np.where((events > 0) & (events < self.n), events, np.nan)
        hits = np.clip(self.alerted_events + moved[:, 2], 0, np.minimum(events, self.alerts))
        concordant = self.concordant + moved[:, 0] - moved[:, 1] ** 2 / 2
        every = np.ones(len(moved))
        values = (
            np.clip(ratio(concordant, events * (self.n - events)), 0, 1),
            ratio(hits, events),
            ratio(hits, every * self.alerts),
            ratio(events, every * self.risks),
            every * 100 * self.alerts / self.n,
        )
        return dict(zip(ESTIMATED_METRICS, values, strict=True))


def _sum_below(below: FloatArray, sorted_risk: FloatArray, risk: FloatArray) -> FloatArray:
    """The sum over all units of lower risk and half of those of equal risk, from sums over lower positions."""
    return (below[np.searchsorted(sorted_risk, risk, "left")] + below[np.searchsorted(sorted_risk, risk, "right")]) / 2
