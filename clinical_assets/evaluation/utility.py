"""The utility of hourly sepsis alarms as the PhysioNet/CinC Challenge 2019 defines it, and what each alarm adds to it.

Belongs here: the Challenge's utility function. Does not belong here: how a threshold is chosen to maximise it.

Source of all formulas: Reyna et al. 2020, Critical Care Medicine 48(2):210-217, doi 10.1097/CCM.0000000000004145.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clinical_assets.evaluation.sample import EvaluationError, FloatArray, Patients, checked_outcome, patient_numbers

EARLY_H = -12
OPTIMAL_H = -6
LATE_H = 3
BEST_TRUE_ALARM = 1.0
WORST_MISSED_ONSET = -2.0
FALSE_ALARM = -0.05


@dataclass(frozen=True, slots=True)
class HourlyUtility:
    """What an alarm, and silence, is worth in each hour: two arrays of one value a row, in the order of the rows."""

    alarm: FloatArray
    silence: FloatArray

    @property
    def gain(self) -> FloatArray:
        """What an alarm adds to silence, hour by hour; negative where it is a false one."""
        return self.alarm - self.silence

    @property
    def best_gain(self) -> FloatArray:
        """What the best decision adds to silence: the gain where it is positive, else 0."""
        return np.maximum(self.gain, 0.0)


def normalized_utility(label: npt.ArrayLike, prediction: npt.ArrayLike, patient: Patients) -> float:
    """The Challenge's utility of hourly alarms: 0 for never alarming, 1 for the best alarms, negative below silence.

    Utilities are summed over the hours of all patients, of the alarms given, of no alarm and of the best alarms, and
    then normalised: (given - none) / (best - none).

    Args:
        label: 1 from six hours before the onset of sepsis on, else 0; one row an hour.
        prediction: 1 where an alarm is given, else 0.
        patient: whose hour it is; the hours of a patient are in the order of time, patients in any order.

    Returns:
        the utility; NaN, as from the official scorer, where no hour can gain anything, as when no patient is septic.
        Raises EvaluationError on no rows, unequal lengths, values other than 0 and 1, and rows without a patient.
    """
    utility = value_hours(label, patient)
    alarm = np.asarray(prediction, dtype=np.float64)
    if len(alarm) != len(utility.alarm):
        raise EvaluationError(
            f"prediction has {len(alarm):,} rows and label has {len(utility.alarm):,}; give one an hour"
        )
    if wrong := int(np.sum((alarm != 0) & (alarm != 1))):
        raise EvaluationError(
            f"prediction: {wrong:,} of {len(alarm):,} rows are neither 0 nor 1; apply a threshold first"
        )
    best = float(utility.best_gain.sum())
    return float(utility.gain @ alarm) / best if best else float("nan")


def value_hours(label: npt.ArrayLike, patient: Patients) -> HourlyUtility:
    """What an alarm and silence are worth in each hour of each patient.

    Onset is six hours after a patient's first label of 1. Before it an alarm is worth from -0.05 (more than 12 h ahead)
    rising to 1 (6 h ahead), and falls to 0 at 3 h after it; silence is worth 0 until 6 h ahead and falls to -2 at 3 h
    after it; later, both are worth 0. Without sepsis an alarm is worth -0.05 and silence 0.

    Args:
        label: 0 or 1, one row an hour.
        patient: whose hour it is; the hours of a patient are in the order of time, patients in any order.

    Raises EvaluationError on no rows, unequal lengths, values other than 0 and 1, and rows without a patient.
    """
    septic_hour = checked_outcome(label)
    number, patients = patient_numbers(patient, len(septic_hour))
    order = np.argsort(number, kind="stable")
    start = np.flatnonzero(np.diff(number[order], prepend=-1))
    hour = np.empty(len(order), dtype=np.int64)
    hour[order] = np.arange(len(order)) - np.repeat(start, np.bincount(number, minlength=patients))
    never = np.iinfo(np.int64).max
    first_label = np.full(patients, never)
    np.minimum.at(first_label, number[septic_hour == 1], hour[septic_hour == 1])
    septic = (first_label != never)[number]
    since_onset = np.where(septic, hour - np.where(septic, first_label[number], 0) + OPTIMAL_H, 0).astype(np.float64)

    rising = BEST_TRUE_ALARM * (since_onset - EARLY_H) / (OPTIMAL_H - EARLY_H)
    to_late = (LATE_H - since_onset) / (LATE_H - OPTIMAL_H)
    early = since_onset <= OPTIMAL_H
    over = since_onset > LATE_H
    true_alarm = np.where(early, np.maximum(rising, FALSE_ALARM), BEST_TRUE_ALARM * to_late)
    missed = np.where(early, 0.0, WORST_MISSED_ONSET * (1.0 - to_late))
    return HourlyUtility(
        alarm=np.where(septic, np.where(over, 0.0, true_alarm), FALSE_ALARM),
        silence=np.where(septic & ~over, missed, 0.0),
    )
