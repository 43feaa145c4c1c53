"""How far two profiles of a column lie apart, and how far chance and the sketches alone would carry them.

Belongs here: distances between sketches in shares of the rows, and their bounds. Does not belong here: alarms, which
have a stated error rate over all looks (drift.py), what of a profile may be shown, and drawing.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from clinical_assets.monitoring.profiles import ColumnDistribution

_POINTS = 128


def rank_distance(one: ColumnDistribution, other: ColumnDistribution) -> float:
    """The largest difference of the two cumulative distributions (Kolmogorov-Smirnov), as a share of the values.

    It is read at the quantiles of both, each as below and as up to the value, so that ties are seen.
    """
    shares = [place / _POINTS for place in range(_POINTS + 1)]
    values = np.array([*one.quantiles(shares), *other.quantiles(shares)])
    finite = values[np.isfinite(values)]
    points = np.unique(np.concatenate([finite, np.nextafter(finite, math.inf)])).tolist()
    return float(np.abs(one.share_below(points) - other.share_below(points)).max()) if points else 0.0


def rank_distance_by_chance(n: float, m: float, errors: float, alpha: float) -> float:
    """The distance of ranks that two samples of one distribution exceed with the chance `alpha` at most (Smirnov 1939).

    Args:
        n: Independent values of the one sample.
        m: Independent values of the other.
        errors: What the two sketches state as errors of a rank, in sum; it is added.
        alpha: The chance.
    """
    return math.sqrt(-math.log(alpha / 2) / 2 * (1 / n + 1 / m)) + errors


def share_distance_by_chance(p: float, n: float, q: float, m: float, alpha: float) -> float:
    """The difference of two shares that chance exceeds with `alpha` where both are one: pooled normal, with continuity.

    Args:
        p: The share in a sample of n independent rows.
        n: Their number.
        q: The share in one of m.
        m: Their number.
        alpha: The chance.
    """
    pooled = (p * n + q * m) / (n + m)
    z = NormalDist().inv_cdf(1 - alpha / 2)
    return z * math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)) + (1 / n + 1 / m) / 2


def furthest_share(one: Mapping[str, float], other: Mapping[str, float], rest: str) -> str:
    """The value whose share differs most, `rest` only where there is no other; a value that is not there has none."""
    values = sorted({*one, *other} - {rest}) or [rest]
    return max(values, key=lambda value: abs(one.get(value, 0.0) - other.get(value, 0.0)))
