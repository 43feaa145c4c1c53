"""What alerting is worth when a false alert is weighed against a found event: net benefit (decision curve analysis).

Belongs here: net benefit at thresholds of probability. Does not belong here: metrics at an operating point that was
chosen, and the drawing of the curve.

Source of all formulas: Vickers and Elkin 2006, Medical Decision Making 26(6):565-574, doi 10.1177/0272989X06295361.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.sample import EvaluationError, FloatArray, checked_outcome, checked_risk


def net_benefit(outcome: npt.ArrayLike, risk: npt.ArrayLike, threshold_probabilities: npt.ArrayLike) -> pl.DataFrame:
    """Net benefit of alerting by the risk, and of alerting every unit, at each threshold probability.

    A unit is alerted whose risk is at or above the threshold. Net benefit is in events found for each unit, net of
    false alerts; that of alerting nobody is 0.

    Args:
        outcome: 0 or 1, one a unit.
        risk: probability of the outcome, one a unit.
        threshold_probabilities: above 0 and below 1, in any order.

    Returns:
        one row a threshold, in the order given: `threshold_probability`, `model`, `all`. Raises EvaluationError on
        arrays of unequal length, outcomes other than 0 and 1, risks that are no probability, and thresholds that are
        not between 0 and 1.
    """
    observed = checked_outcome(outcome)
    predicted = checked_risk(risk, len(observed))
    threshold = np.asarray(threshold_probabilities, dtype=np.float64)
    order = np.argsort(predicted, kind="stable")
    first_alerted = np.searchsorted(predicted[order], threshold, side="left")
    events_below = np.r_[0.0, np.cumsum(observed[order])]
    events, n = events_below[-1], len(observed)
    found = events - events_below[first_alerted]
    false_alerts = n - first_alerted - found
    odds = exchange_rate(threshold)
    return pl.DataFrame(
        {
            "threshold_probability": threshold,
            "model": (found - odds * false_alerts) / n,
            "all": (events - odds * (n - events)) / n,
        }
    )


def exchange_rate(threshold_probability: npt.ArrayLike) -> FloatArray:
    """How many found events one false alert costs: the odds of the threshold probability.

    Who alerts from a risk of 2 % on accepts 49 false alerts for one found event. Raises EvaluationError on
    thresholds that are not above 0 and below 1.
    """
    threshold = np.asarray(threshold_probability, dtype=np.float64)
    if wrong := int(np.sum(~((threshold > 0) & (threshold < 1)))):
        raise EvaluationError(
            f"threshold_probabilities: {wrong:,} of {threshold.size:,} are not above 0 and below 1; "
            "a threshold of 2 % is 0.02"
        )
    return threshold / (1 - threshold)
