"""How well risk ranks those with the outcome above those without: AUROC and average precision, under row weights.

Belongs here: rank metrics. Does not belong here: whether risks are right as probabilities, or alerts at a threshold.

Every metric takes a `Sample` of n units and `weight` (resamples x n), and gives one value a resample, NaN where it is
undefined.
"""

import numpy as np

from clinical_assets.evaluation.sample import FloatArray, Sample, ratio


def auroc(sample: Sample, weight: FloatArray) -> FloatArray:
    """Chance that a unit with the outcome has a higher risk than one without, ties counting half (Hanley 1982)."""
    with_outcome = np.add.reduceat(weight * sample.outcome, sample.tie_starts, axis=1)
    without = np.add.reduceat(weight * (1 - sample.outcome), sample.tie_starts, axis=1)
    ranked_below = np.cumsum(without, axis=1) - without / 2
    return ratio(np.sum(with_outcome * ranked_below, axis=1), with_outcome.sum(axis=1) * without.sum(axis=1))


def average_precision(sample: Sample, weight: FloatArray) -> FloatArray:
    """Mean PPV over the thresholds, weighted by the sensitivity each adds; not interpolated (Davis 2006)."""
    with_outcome = np.add.reduceat(weight * sample.outcome, sample.tie_starts, axis=1)
    all_units = np.add.reduceat(weight, sample.tie_starts, axis=1)
    alerted_with_outcome = np.cumsum(with_outcome[:, ::-1], axis=1)[:, ::-1]
    alerted = np.cumsum(all_units[:, ::-1], axis=1)[:, ::-1]
    precision = np.divide(alerted_with_outcome, alerted, out=np.zeros_like(alerted), where=alerted > 0)
    return ratio(np.sum(with_outcome * precision, axis=1), with_outcome.sum(axis=1))
