"""Where the alert begins: the threshold that keeps to the share of units a ward can look after.

Belongs here: the choice of a threshold. Does not belong here: what alerting there achieves.
"""

import numpy as np
import numpy.typing as npt

from clinical_assets.learning.estimator import LearningError


def choose_threshold(risk: npt.NDArray[np.float64], alerted_fraction: float) -> float:
    """The lowest risk at which no more than `alerted_fraction` of the units are at or above it.

    `risk` is that of the calibration split, never of the test split. Raises LearningError when not one unit may be
    alerted, because there are too few or too many share the highest risk.
    """
    allowed = int(np.floor(alerted_fraction * len(risk) + 1e-9))
    values, counts = np.unique(risk, return_counts=True)
    alerted = np.cumsum(counts[::-1])[::-1]
    within = np.flatnonzero(alerted <= allowed)
    if not len(within):
        shared = f", and {counts[-1]:,} share the highest risk" if len(risk) else ""
        raise LearningError(
            f"no threshold alerts at most {alerted_fraction:g} of {len(risk):,} units: that is {allowed:,} units"
            f"{shared}; use more calibration months or a larger alerted_fraction"
        )
    return float(values[within[0]])
