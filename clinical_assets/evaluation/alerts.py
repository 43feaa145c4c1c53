"""What alerting every unit at or above a threshold means on the ward: who is found, and for how many alerts.

Belongs here: metrics at one operating point. Does not belong here: how the threshold was chosen.

Every metric takes a `Sample` of n units and `weight` (resamples x n), and gives one value a resample, NaN where it is
undefined.
"""

from clinical_assets.evaluation.sample import FloatArray, Sample, ratio


def sensitivity(sample: Sample, weight: FloatArray) -> FloatArray:
    """Share of the units with the outcome that are alerted."""
    return ratio(weight @ (sample.outcome * sample.alerted), weight @ sample.outcome)


def ppv(sample: Sample, weight: FloatArray) -> FloatArray:
    """Share of the alerted units that have the outcome: the positive predictive value."""
    return ratio(weight @ (sample.outcome * sample.alerted), weight @ sample.alerted)


def alerts_per_100(sample: Sample, weight: FloatArray) -> FloatArray:
    """Alerted units of every 100."""
    return 100 * ratio(weight @ sample.alerted, weight.sum(axis=1))


def prevalence(sample: Sample, weight: FloatArray) -> FloatArray:
    """Share of the units that have the outcome."""
    return ratio(weight @ sample.outcome, weight.sum(axis=1))
