"""The assessment of models that give the risk of an event hour by hour, such as sepsis: alarms, and when they come.

Belongs here: what alarms in successive hours of a patient achieve, at two operating points, with intervals. Does not
belong here: metrics of single rows (`discrimination`, `calibration`), and what an alarm is worth (`utility`).

A patient is septic when any hour is labelled 1; onset is six hours after the first of these, by the clock. An alert
begins where an alarmed hour follows a silent one, and with an alarm in the first hour. Every metric of patients takes
`AlarmedStays` of n patients and `weight` (resamples x n), and gives one value a resample, NaN where it is undefined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import polars as pl

from clinical_assets.evaluation.assessment import Assessment, Findings, Thresholds
from clinical_assets.evaluation.bootstrap import centred_interval, draw_patients, percentile_interval
from clinical_assets.evaluation.findings import DISTANCES, METRICS, MISSING, OVERALL, SENSITIVITY_GAP
from clinical_assets.evaluation.net_benefit import exchange_rate
from clinical_assets.evaluation.operating_point import choose_alert_threshold
from clinical_assets.evaluation.sample import (
    EvaluationError,
    FloatArray,
    IntArray,
    Sample,
    checked_outcome,
    checked_risk,
    patient_numbers,
    ratio,
    tie_starts,
)
from clinical_assets.evaluation.utility import OPTIMAL_H, value_hours
from clinical_assets.protocol import ALERT, Finding, ModelProtocol

UTILITY = "utility"
FROM_LABEL_TO_ONSET_H = -OPTIMAL_H
HOURS_A_DAY, SECONDS_AN_HOUR = 24, 3_600
NET_BENEFIT_PERCENT = (1, 2, 5, 10)
COMPARED = ("normalized_utility", "auroc", "average_precision", "sensitivity")
SEED = 0

# In the draws, hours of nearly equal risk count as tied: bins of equally many hours, a multiple of the ten bins of the
# calibration error, are cut further where events are, so that up to so many events are ranked exactly.
BINS_OF_HOURS = 500
BINS_OF_EVENTS = 1_000


@dataclass(frozen=True, slots=True)
class PatientHours:
    """Hours in the order of patient and time, and where in the frame they stand; `starts` are the patients' first ones.

    `outcome` (0 or 1), `risk`, `patient` (0 to patients - 1), `clock_s` (seconds), `gain`, what an alarm adds to
    silence in utility, and `best_gain`, what the best decision adds, have one entry an hour.
    """

    order: IntArray
    outcome: FloatArray
    risk: FloatArray
    patient: IntArray
    clock_s: FloatArray
    gain: FloatArray
    best_gain: FloatArray
    starts: IntArray

    @classmethod
    def of(cls, rows: pl.DataFrame, protocol: ModelProtocol) -> Self:
        """The hours of tabulated rows with their outcomes, in any order; raises EvaluationError on what is no hour."""
        outcome = checked_outcome(protocol.outcome.is_event(rows))
        risk = checked_risk(rows["risk"], len(outcome))
        patient, _ = patient_numbers(rows[protocol.patient], len(outcome))
        index_time = rows[protocol.index_time]
        if not isinstance(index_time.dtype, pl.Datetime):
            raise EvaluationError(
                f"{protocol.index_time} is of type {index_time.dtype}; hourly alarms need a date and time"
            )
        if missing := index_time.null_count():
            raise EvaluationError(
                f"{protocol.index_time}: {missing:,} of {len(outcome):,} rows have none; an alarm needs its hour"
            )
        clock_s = index_time.dt.epoch("s").to_numpy().astype(np.float64)
        order = np.lexsort((clock_s, patient))
        if twice := int(np.sum((np.diff(patient[order]) == 0) & (np.diff(clock_s[order]) == 0))):
            raise EvaluationError(
                f"{protocol.index_time}: {twice:,} of {len(outcome):,} rows repeat an hour of their patient; "
                "give one row an hour"
            )
        worth = value_hours(outcome[order], patient[order])
        return cls(
            order,
            outcome[order],
            risk[order],
            patient[order],
            clock_s[order],
            worth.gain,
            worth.best_gain,
            np.flatnonzero(np.diff(patient[order], prepend=-1)),
        )

    def sum_by_patient(self, values: FloatArray) -> FloatArray:
        """The sum over each patient of values of one entry an hour."""
        return np.add.reduceat(values, self.starts)

    def first_by_patient(self, hours: FloatArray) -> FloatArray:
        """The clock at the first hour of each patient that is 1, not 0; infinite where none is."""
        return np.fmin.reduceat(np.where(hours == 1, self.clock_s, np.inf), self.starts)


@dataclass(frozen=True, slots=True)
class AlarmedStays:
    """What the alarms of one operating point did for each patient, in arrays of one entry a patient.

    `septic`, `alerted` (ever) and `found` (septic, and alerted at or before onset) are 0 or 1; `hours` and `alerts` are
    counts; `gain` is what the alarms add to silence in utility, `best_gain` what the best ones add; `lead_time_h` is
    onset less the first alarm, NaN for patients not found.
    """

    septic: FloatArray
    alerted: FloatArray
    found: FloatArray
    hours: FloatArray
    alerts: FloatArray
    gain: FloatArray
    best_gain: FloatArray
    lead_time_h: FloatArray

    @classmethod
    def of(cls, hours: PatientHours, alarmed: pl.Series) -> Self:
        """The stays of hours; `alarmed` is true or false for each row of the frame that the hours are of."""
        alarm = alarmed.to_numpy()[hours.order].astype(np.float64)
        first_hour = np.zeros(len(alarm), dtype=bool)
        first_hour[hours.starts] = True
        begins = alarm * (first_hour | (np.r_[0.0, alarm[:-1]] == 0))
        onset_s = hours.first_by_patient(hours.outcome) + FROM_LABEL_TO_ONSET_H * SECONDS_AN_HOUR
        first_alarm_s = hours.first_by_patient(alarm)
        septic, alerted = np.isfinite(onset_s), np.isfinite(first_alarm_s)
        found = septic & (first_alarm_s <= onset_s)
        lead_time_h = np.full(len(found), np.nan)
        lead_time_h[found] = (onset_s[found] - first_alarm_s[found]) / SECONDS_AN_HOUR
        return cls(
            septic.astype(np.float64),
            alerted.astype(np.float64),
            found.astype(np.float64),
            hours.sum_by_patient(np.ones(len(alarm))),
            hours.sum_by_patient(begins),
            hours.sum_by_patient(hours.gain * alarm),
            hours.sum_by_patient(hours.best_gain),
            lead_time_h,
        )

    def where(self, patients: IntArray) -> "AlarmedStays":
        """The stays of some of the patients."""
        return AlarmedStays(
            self.septic[patients],
            self.alerted[patients],
            self.found[patients],
            self.hours[patients],
            self.alerts[patients],
            self.gain[patients],
            self.best_gain[patients],
            self.lead_time_h[patients],
        )


def sensitivity_by_onset(stays: AlarmedStays, weight: FloatArray) -> FloatArray:
    """Share of the septic patients whose first alarm comes at or before onset; later ones are not found."""
    return ratio(weight @ stays.found, weight @ stays.septic)


def ppv_of_patients(stays: AlarmedStays, weight: FloatArray) -> FloatArray:
    """Share of the patients ever alerted who are or become septic."""
    return ratio(weight @ (stays.septic * stays.alerted), weight @ stays.alerted)


def patients_alerted_per_100(stays: AlarmedStays, weight: FloatArray) -> FloatArray:
    """Patients alerted at least once, of every 100."""
    return 100 * ratio(weight @ stays.alerted, weight.sum(axis=1))


def alerts_per_100_patient_days(stays: AlarmedStays, weight: FloatArray) -> FloatArray:
    """Alerts that begin in 100 days of 24 scored hours."""
    return 100 * HOURS_A_DAY * ratio(weight @ stays.alerts, weight @ stays.hours)


def lead_time_quantile_h(stays: AlarmedStays, weight: FloatArray, share: float) -> FloatArray:
    """A quantile of the hours from first alarm to onset, of the septic patients found; linear between two patients.

    A patient drawn k times counts k times (Hyndman and Fan 1996, The American Statistician 50(4), definition 7).
    """
    found = np.flatnonzero(stays.found)
    if not len(found):
        return np.full(len(weight), np.nan)
    found = found[np.argsort(stays.lead_time_h[found], kind="stable")]
    lead_time_h = stays.lead_time_h[found]
    starts = tie_starts(lead_time_h)
    patients_up_to = np.cumsum(np.add.reduceat(weight[:, found], starts, axis=1), axis=1)
    patients = patients_up_to[:, -1]
    position = share * (patients - 1)

    def lead_time_at(rank: FloatArray) -> FloatArray:
        return lead_time_h[starts][np.sum(patients_up_to <= rank[:, None], axis=1)]

    below = lead_time_at(np.floor(position))
    above = lead_time_at(np.minimum(np.floor(position) + 1, patients - 1))
    return np.where(patients > 0, below + (position - np.floor(position)) * (above - below), np.nan)


def utility_of_alarms(stays: AlarmedStays, weight: FloatArray) -> FloatArray:
    """The Challenge's normalized utility, from sums by patient (Reyna et al. 2020; see `utility`)."""
    return ratio(weight @ stays.gain, weight @ stays.best_gain)


Metric = Callable[[AlarmedStays, FloatArray], FloatArray]

OF_HOURS = (
    "auroc",
    "average_precision",
    "brier",
    "observed_expected_ratio",
    "calibration_slope",
    "calibration_intercept",
    "expected_calibration_error",
    "prevalence",
)
AT_ALERT: dict[str, Metric] = {
    "sensitivity": sensitivity_by_onset,
    "ppv": ppv_of_patients,
    "patients_alerted_per_100": patients_alerted_per_100,
    "alerts_per_100_patient_days": alerts_per_100_patient_days,
    "lead_time_h_quartile_1": partial(lead_time_quantile_h, share=0.25),
    "lead_time_h_median": partial(lead_time_quantile_h, share=0.5),
    "lead_time_h_quartile_3": partial(lead_time_quantile_h, share=0.75),
    "normalized_utility_at_alert": utility_of_alarms,
}
AT_UTILITY: dict[str, Metric] = {
    "normalized_utility": utility_of_alarms,
    "sensitivity_at_utility": sensitivity_by_onset,
    "ppv_at_utility": ppv_of_patients,
    "patients_alerted_per_100_at_utility": patients_alerted_per_100,
    "alerts_per_100_patient_days_at_utility": alerts_per_100_patient_days,
    "lead_time_h_median_at_utility": partial(lead_time_quantile_h, share=0.5),
}
FIGURES = (*OF_HOURS, *AT_ALERT, *AT_UTILITY)


@dataclass(frozen=True, slots=True)
class _TiedHours:
    """A sample whose units are the hours of one outcome and of nearly equal risk, weighed by how many are drawn.

    `patient` is that of every hour in the order of the units, of which each begins at `starts`.
    """

    sample: Sample
    patient: IntArray
    starts: IntArray

    @classmethod
    def of(cls, exact: Sample) -> Self:
        first = exact.tie_starts
        if len(first) > BINS_OF_HOURS + BINS_OF_EVENTS:
            events = np.add.reduceat(exact.outcome, first)
            per_event = BINS_OF_EVENTS / max(events.sum(), BINS_OF_EVENTS)
            by_hours = first * BINS_OF_HOURS // exact.n
            up_to, before = np.floor(np.cumsum(events) * per_event), np.floor((np.cumsum(events) - events) * per_event)
            first = first[np.r_[True, (np.diff(by_hours) > 0) | (np.diff(up_to) > 0) | (np.diff(before) > 0)]]
        hours = np.diff(np.r_[first, exact.n])
        tie_of_hour = np.repeat(np.arange(len(first)), hours)
        unit_of_hour = 2 * tie_of_hour + exact.outcome.astype(np.int64)
        order = np.argsort(unit_of_hour, kind="stable")
        starts = np.flatnonzero(np.diff(unit_of_hour[order], prepend=-1))
        tie, outcome = np.divmod(unit_of_hour[order][starts], 2)
        nobody = np.zeros(len(tie))
        units = Sample(
            outcome.astype(np.float64),
            (np.add.reduceat(exact.risk, first) / hours)[tie],
            nobody,
            nobody.astype(np.int64),
            np.flatnonzero(np.diff(tie, prepend=-1)),
            np.searchsorted(tie, tie_of_hour[exact.bin_starts]),
        )
        return cls(units, exact.patient[order], starts)

    def weight(self, drawn: FloatArray) -> FloatArray:
        """How many hours of each unit are drawn (resamples x units)."""
        return np.add.reduceat(drawn[:, self.patient], self.starts, axis=1)


@dataclass(frozen=True, slots=True)
class _Group:
    """A group of patients with all their hours, as it was and as it is drawn."""

    exact: Sample
    tied: _TiedHours
    patients: IntArray
    at_alert: AlarmedStays
    at_utility: AlarmedStays

    @classmethod
    def everyone(cls, hours: PatientHours, rows: pl.DataFrame) -> Self:
        """All patients of decided rows; the rows are those that the hours are of."""
        nobody = np.zeros(len(hours.risk))
        exact = Sample.of(hours.outcome, hours.risk, nobody, hours.patient)
        at_alert = AlarmedStays.of(hours, rows["alerted"])
        at_utility = AlarmedStays.of(hours, rows["alerted_at_utility"])
        return cls(exact, _TiedHours.of(exact), np.arange(len(hours.starts)), at_alert, at_utility)

    def where(self, patients: IntArray) -> "_Group":
        """Some of all patients; they keep their numbers."""
        member = np.zeros(len(self.patients), dtype=bool)
        member[patients] = True
        exact = self.exact.where(member[self.exact.patient])
        at_alert, at_utility = self.at_alert.where(patients), self.at_utility.where(patients)
        return _Group(exact, _TiedHours.of(exact), patients, at_alert, at_utility)

    def measure(self, figures: Sequence[str]) -> FloatArray:
        """The figures of the group as it was (figures x 1)."""
        hours, stays = np.ones((1, self.exact.n)), np.ones((1, len(self.patients)))
        return np.array([self._figure(name, self.exact, hours, stays) for name in figures])

    def measure_drawn(self, figures: Sequence[str], drawn: FloatArray) -> FloatArray:
        """The figures of each draw (figures x resamples), hours of nearly equal risk being tied."""
        hours, stays = self.tied.weight(drawn), drawn[:, self.patients]
        return np.array([self._figure(name, self.tied.sample, hours, stays) for name in figures])

    def _figure(self, name: str, sample: Sample, hours: FloatArray, stays: FloatArray) -> FloatArray:
        if name in OF_HOURS:
            return METRICS[name](sample, hours)
        if name in AT_ALERT:
            return AT_ALERT[name](self.at_alert, stays)
        return AT_UTILITY[name](self.at_utility, stays)


def choose_utility_threshold(calibrate: pl.DataFrame, protocol: ModelProtocol) -> float:
    """The threshold on `risk` whose alarms have the highest normalized utility on tabulated calibration rows.

    All risks are tried; of equally good ones the highest is taken. Where every alarm costs more than it gains, it lies
    just above the highest risk: silence is best. Raises EvaluationError when no patient is septic.
    """
    hours = PatientHours.of(calibrate, protocol)
    if not hours.best_gain.any():
        raise EvaluationError(
            f"no threshold can be chosen for utility: of {len(hours.starts):,} patients of the calibration split none "
            "is septic, so that no alarm gains anything; use more calibration months"
        )
    order = np.argsort(hours.risk, kind="stable")
    risk, gain = hours.risk[order], hours.gain[order]
    starts = tie_starts(risk)
    gain_from = np.cumsum(np.add.reduceat(gain, starts)[::-1])
    best = int(np.argmax(gain_from))
    if gain_from[best] <= 0:
        return float(np.nextafter(risk[-1], np.inf))
    return float(risk[starts[::-1][best]])


def measure_hourly_alarms(scored: pl.DataFrame, protocol: ModelProtocol, resamples: int) -> Findings:
    """Every figure of decided rows, overall and in each large enough subgroup, with 95 % intervals drawn by patient.

    A patient belongs, with all hours, to the level of the first hour; a level with at least `minimum_n` hours is the
    subgroup `column=level`, nulls being `column=missing`. `n` is the number of hours. A value or interval is None where
    it is undefined. `sensitivity_gap` is the largest sensitivity by onset less the smallest among the subgroups of one
    column, where that is widest. Net benefit is for each hour. Raises EvaluationError as `PatientHours.of` does.

    Values are exact. The intervals of `auroc` and the other metrics of hours are, where there are more than 1,500
    risks, of risks rounded to some 2,500 (up to 1,000 events keep their rank), moved by what rounding changes in the
    value; all other intervals are of the risks themselves.
    """
    hours = PatientHours.of(scored, protocol)
    everyone = _Group.everyone(hours, scored)
    subgroups = _subgroups(everyone, scored[hours.order[hours.starts]], protocol)
    groups = {OVERALL: everyone} | {group: one for column in subgroups for group, one in column.items()}
    value, drawn = _measure(groups, FIGURES, resamples)
    columns = [list(column) for column in subgroups]
    gap = _as_finding(
        SENSITIVITY_GAP, OVERALL, _widest_gap(value, columns)[0], _widest_gap(drawn, columns), everyone.exact.n
    )
    measured = [
        _as_finding(name, group, value[group][i, 0], drawn[group][i], one.exact.n)
        for group, one in groups.items()
        for i, name in enumerate(FIGURES)
    ]
    return [*measured, gap, *_measure_net_benefit(hours, resamples)]


def compare_hourly_alarms(
    scored: pl.DataFrame, reference: pl.DataFrame, name: str, protocol: ModelProtocol, resamples: int = 500
) -> Findings:
    """Figures of a candidate less those of a reference on the same rows, with paired 95 % intervals drawn by patient.

    `normalized_utility_minus_<name>` is at each one's utility threshold, `sensitivity_minus_<name>` at each one's alert
    threshold, `auroc_minus_<name>` and `average_precision_minus_<name>` are of the risks. Of `reference` the risk and
    the decisions are read. Raises EvaluationError when the two have not equally many rows.
    """
    if len(scored) != len(reference):
        raise EvaluationError(
            f"the candidate has {len(scored):,} rows and the {name} {len(reference):,}; score both on the same rows"
        )
    other = scored.with_columns(reference.select("risk", "alerted", "alerted_at_utility"))
    versions = {
        version: _Group.everyone(PatientHours.of(rows, protocol), rows)
        for version, rows in (("candidate", scored), (name, other))
    }
    value, drawn = _measure(versions, COMPARED, resamples)
    difference, drawn_difference = value["candidate"] - value[name], drawn["candidate"] - drawn[name]
    return [
        _as_finding(f"{metric}_minus_{name}", OVERALL, difference[i, 0], drawn_difference[i], len(scored))
        for i, metric in enumerate(COMPARED)
    ]


def _subgroups(everyone: _Group, first_hours: pl.DataFrame, protocol: ModelProtocol) -> list[dict[str, _Group]]:
    """The large enough subgroups by name, column by column."""
    subgroups = []
    for name in protocol.subgroups:
        levels = first_hours[name].cast(pl.String).fill_null(MISSING)
        members = {f"{name}={level}": np.flatnonzero((levels == level).to_numpy()) for level in levels.unique().sort()}
        subgroups.append(
            {
                group: everyone.where(patients)
                for group, patients in members.items()
                if everyone.at_alert.hours[patients].sum() >= protocol.minimum_n
            }
        )
    return subgroups


def _measure(
    groups: Mapping[str, _Group], figures: Sequence[str], resamples: int
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """For each group, the figures (figures x 1) and those of the draws (figures x resamples), the same for all groups.

    The first group is everyone.
    """
    everyone = next(iter(groups.values()))
    patients = len(everyone.patients)
    value = {name: group.measure(figures) for name, group in groups.items()}
    once = np.ones((1, patients))
    tying = {name: value[name] - group.measure_drawn(figures, once) for name, group in groups.items()}
    blocks = {name: [np.empty((len(figures), 0))] for name in groups}
    for drawn in draw_patients(patients, everyone.exact.n, resamples, SEED):
        for name, group in groups.items():
            blocks[name].append(group.measure_drawn(figures, drawn) + tying[name])
    return value, {name: np.concatenate(parts, axis=1) for name, parts in blocks.items()}


def _measure_net_benefit(hours: PatientHours, resamples: int) -> Findings:
    """Net benefit for each hour of alarms at fixed risks, and of an alarm in every hour."""
    names, worth = [], []
    for percent in NET_BENEFIT_PERCENT:
        of_an_alarm = hours.outcome - exchange_rate(percent / 100) * (1 - hours.outcome)
        names += [f"net_benefit_at_{percent}_percent", f"net_benefit_of_all_at_{percent}_percent"]
        worth += [hours.sum_by_patient(of_an_alarm * (hours.risk >= percent / 100)), hours.sum_by_patient(of_an_alarm)]
    by_patient, hours_of_patient = np.array(worth), hours.sum_by_patient(np.ones(len(hours.risk)))
    patients, n = len(hours_of_patient), len(hours.risk)
    value = by_patient.sum(axis=1) / n
    drawn = [by_patient @ block.T / (block @ hours_of_patient) for block in draw_patients(patients, n, resamples, SEED)]
    draws = np.concatenate([np.empty((len(names), 0)), *drawn], axis=1)
    return [_as_finding(name, OVERALL, value[i], draws[i], n) for i, name in enumerate(names)]


def _widest_gap(values: Mapping[str, FloatArray], columns: Sequence[Sequence[str]]) -> FloatArray:
    """Largest minus smallest subgroup sensitivity, for the column where that is widest; NaN where none has two."""
    sensitivity = FIGURES.index("sensitivity")
    widest = np.full(values[OVERALL].shape[1], np.nan)
    for groups in columns:
        if len(groups) > 1:
            found = np.array([values[group][sensitivity] for group in groups])
            gap = np.fmax.reduce(found) - np.fmin.reduce(found)
            widest = np.fmax(widest, np.where(np.isfinite(found).sum(axis=0) > 1, gap, np.nan))
    return widest


def _as_finding(metric: str, subgroup: str, value: float, draws: FloatArray, n: int) -> Finding:
    if not np.isfinite(value):
        return Finding(metric, subgroup, None, None, None, n)
    interval = centred_interval(draws, float(value)) if metric in DISTANCES else percentile_interval(draws)
    low, high = interval if interval is not None else (None, None)
    return Finding(metric, subgroup, float(value), low, high, n)


def _tabulate(prediction: FloatArray, protocol: ModelProtocol) -> pl.DataFrame:
    return pl.DataFrame({"risk": pl.Series(prediction, dtype=pl.Float64)})


def _choose_thresholds(calibrate: pl.DataFrame, protocol: ModelProtocol) -> Thresholds:
    return {
        ALERT: choose_alert_threshold(calibrate, protocol),
        UTILITY: choose_utility_threshold(calibrate, protocol),
    }


def _decide(tabulated: pl.DataFrame, thresholds: Thresholds) -> pl.DataFrame:
    return tabulated.with_columns(
        alerted=pl.col("risk") >= thresholds[ALERT],
        threshold=pl.lit(thresholds[ALERT]),
        alerted_at_utility=pl.col("risk") >= thresholds[UTILITY],
        utility_threshold=pl.lit(thresholds[UTILITY]),
    )


HOURLY_ALARMS = Assessment(_tabulate, _choose_thresholds, _decide, measure_hourly_alarms, compare_hourly_alarms)
"""A risk an hour; alarms from two thresholds on, that of the alert budget and that of the highest utility."""
