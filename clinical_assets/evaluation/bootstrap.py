"""Resampling of whole patients: how often each is drawn, and the 95 % interval of a metric over the draws.

Belongs here: the draws and the intervals. Does not belong here: what is measured on them.
"""

from collections.abc import Iterator

import numpy as np

from clinical_assets.evaluation.sample import FloatArray

# Weights held at once, resamples x rows: few enough to stay near the processor, and memory stays bounded.
MOST_WEIGHTS = 4_000_000
MOST_RESAMPLES = 32
LEAST_DEFINED = 0.9


def draw_patients(patients: int, rows: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """How often each patient is drawn with replacement, in blocks of (resamples x patients), fewer the more rows.

    Patients, not rows, are drawn, since the rows of one patient are not independent (Davison and Hinkley 1997, 3.8).
    """
    random = np.random.default_rng(seed)
    at_once = min(MOST_RESAMPLES, max(1, MOST_WEIGHTS // rows))
    for first in range(0, resamples, at_once):
        block = min(at_once, resamples - first)
        drawn = random.integers(patients, size=(block, patients)) + patients * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * patients).reshape(block, patients).astype(np.float64)


def percentile_interval(resampled: FloatArray) -> tuple[float, float] | None:
    """The 2.5 and 97.5 percentiles of the draws that define the metric; None when fewer than nine in ten do."""
    defined = resampled[np.isfinite(resampled)]
    if not len(defined) or len(defined) < LEAST_DEFINED * len(resampled):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def centred_interval(resampled: FloatArray, value: float) -> tuple[float, float] | None:
    """The percentile interval of a distance, moved so that its median draw is the value, and not below 0.

    Resampling adds noise, and noise only lengthens a distance such as a calibration error or a gap: the plain
    percentiles would lie above the value itself.
    """
    interval = percentile_interval(resampled)
    if interval is None:
        return None
    excess = float(np.nanmedian(resampled)) - value
    return max(0.0, interval[0] - excess), max(0.0, interval[1] - excess)
