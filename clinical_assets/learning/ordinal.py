"""Ordered grades as a series of questions "is it at least this grade?", and probabilities of grades that come of them.

Belongs here: targets, probabilities and their calibration, for any model of ordered grades. Does not belong here: any
model, and how well one predicts.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

LEAST_PROBABILITY = 1e-4
LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 0.1, 10.0


def exceedance_targets(grade: npt.ArrayLike, grades: int) -> FloatArray:
    """Whether each unit has grade 1 or more, 2 or more, and so on: units x (grades - 1), 0 or 1 (Frank & Hall 2001)."""
    return (np.asarray(grade)[:, None] >= np.arange(1, grades)).astype(np.float64)


def grade_probability(exceedance: FloatArray) -> FloatArray:
    """The probability of every grade (units x grades) from that of reaching grade 1, 2, ... (units x (grades - 1)).

    A higher grade is never likelier to be reached than a lower one: where models of them say so, the lower one counts.
    No grade has less than 1 in 10,000, so that logarithms exist.
    """
    reached = np.minimum.accumulate(exceedance, axis=1)
    ends = np.ones((len(reached), 1)), np.zeros((len(reached), 1))
    probability = -np.diff(np.hstack([ends[0], reached, ends[1]]), axis=1)
    return _normalise(probability.clip(LEAST_PROBABILITY))


def pool_geometrically(probabilities: list[FloatArray]) -> FloatArray:
    """The normalised geometric mean of several models' probabilities (units x grades): logarithmic pooling."""
    return _normalise(np.exp(np.mean(np.log(probabilities), axis=0)))


def apply_temperature(probability: FloatArray, temperature: float) -> FloatArray:
    """Probabilities (units x grades) drawn together by a temperature above 1, or apart by one below (Guo 2017)."""
    return _normalise(probability ** (1 / temperature))


def fit_temperature(probability: FloatArray, grade: npt.ArrayLike) -> float:
    """The temperature, from 0.1 to 10, at which the true grades are likeliest; the likelihood has one maximum."""
    from scipy.optimize import minimize_scalar

    truth = np.asarray(grade).astype(np.int64)

    def surprise(inverse: float) -> float:
        log = np.log(apply_temperature(probability, 1 / inverse))
        return -float(np.mean(log[np.arange(len(truth)), truth]))

    bounds = (1 / GREATEST_TEMPERATURE, 1 / LEAST_TEMPERATURE)
    found: Any = minimize_scalar(surprise, bounds=bounds, method="bounded")
    return 1 / float(found.x)


def _normalise(weight: FloatArray) -> FloatArray:
    return weight / weight.sum(axis=1, keepdims=True)
