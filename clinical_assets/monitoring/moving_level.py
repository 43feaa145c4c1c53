"""How a figure's gap between realised and expected moves from period to period, and where it is likely to stand next.

Belongs here: the local level model. Does not belong here: what the gap is of.

A random walk seen with noise (Harvey 1989, "Forecasting, structural time series models and the Kalman filter", chapter
4). How far it moves in a period is not known: the walks tried are averaged by how well each foretold the periods, from
a prior half of which says that nothing moves (Hoeting et al. 1999, "Bayesian model averaging").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clinical_assets.evaluation.sample import FloatArray

STEPS = np.array([0.0, 0.02, 0.04, 0.08, 0.16])
PRIOR = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
"""By how much a level may move in a period (standard deviations, logarithms), and how likely that is held to be."""


@dataclass(frozen=True, slots=True)
class ForecastLevel:
    """Where a level is likely to stand, and the variance of that."""

    mean: float
    variance: float


def forecast_level(
    periods: Sequence[int], level: FloatArray, variance: FloatArray, ahead_of: int
) -> ForecastLevel | None:
    """The level in a later period, by what it was found to be in earlier ones; None where fewer than two are known.

    `periods` number the periods, rising; `level` and the `variance` of its noise have one entry each; NaN is unknown.
    """
    known = np.isfinite(level) & np.isfinite(variance) & (variance > 0)
    if known.sum() < 2:
        return None
    numbers, found, noise = np.asarray(periods)[known], level[known], variance[known]
    moves = STEPS**2
    # The first period is all that is known of the level before.
    mean, spread, fit = np.full(len(moves), found[0]), np.full(len(moves), noise[0]), np.log(PRIOR)
    for since, value, error in zip(np.diff(numbers), found[1:], noise[1:], strict=True):
        spread = spread + since * moves
        total, missed = spread + error, value - mean
        fit = fit - (np.log(total) + missed**2 / total) / 2
        mean, spread = mean + spread / total * missed, spread * error / total
    spread = spread + (ahead_of - numbers[-1]) * moves
    weight = np.exp(fit - fit.max())
    weight /= weight.sum()
    centre = float(weight @ mean)
    return ForecastLevel(centre, float(weight @ (spread + (mean - centre) ** 2)))
