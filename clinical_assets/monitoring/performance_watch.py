"""Realised performance since release, month by month, with bounds that hold at every look, and alarms by subgroup.

Belongs here: what ripe outcomes say of the months together. Does not belong here: one month alone (`performance`),
months whose outcomes are not ripe (`estimated_performance`), and whether outcome given risk moved (`concept`).

A bound is time-uniform: over all looks together it misses the truth with a probability of at most 5 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.calibration import Z_95, fit_recalibration, from_logit, logit
from clinical_assets.evaluation.findings import MISSING, OVERALL
from clinical_assets.evaluation.sample import (
    FloatArray,
    IntArray,
    checked_outcome,
    checked_risk,
    patient_numbers,
    tie_starts,
)
from clinical_assets.monitoring.performance import RISK, PerformanceError
from clinical_assets.protocol import Finding

ALERTED = "alerted"
FOUND = "found"

AUROC, OVER_EXPECTED, SLOPE = "auroc", "observed_expected_ratio", "calibration_slope"
SENSITIVITY, PPV = "sensitivity", "ppv"
WATCHED = (AUROC, OVER_EXPECTED, SLOPE, SENSITIVITY, PPV)

LEVEL = 0.05
MONTHS_A_YEAR = 12
FEWEST_PATIENTS = 10
"""With fewer patients with the event, or without it, an asymptotic bound is not given."""

SHARPEST_AFTER_MONTHS = 3
SMALLEST_SHARE = 1e-3

FALLS = -np.array([0.25, 0.5, 1.0, 1.5, 2.0, 3.0])
"""The falls of a sensitivity bet on, in log odds against what is tolerated, each with the same weight."""

SHARES = np.linspace(0.0025, 0.9975, 399)
"""The values of a share that are tried for its bounds; these are rounded outwards to the next."""

DISTANCES_FROM_SHARE = np.outer([-1.0, 1.0], [0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.6, 2.5]).ravel()
"""What is bet against each share tried: other shares, so far from it in log odds, each with the same weight."""

BASELINE_STANDARD_ERRORS = np.linspace(-6.0, 6.0, 61)
BASELINE_PRIOR_VARIANCE = 4.0
"""How widely the baseline's mixture bets around each value tried, in squared standard errors."""

WATCH_SCHEMA = pl.Schema(
    {
        "metric": pl.String,
        "subgroup": pl.String,
        "month": pl.Date,
        "value": pl.Float64,
        "value_so_far": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "baseline": pl.Float64,
        "below_baseline": pl.Boolean,
        "above_baseline": pl.Boolean,
        "n": pl.Int64,
    }
)
ALARM_SCHEMA = pl.Schema(
    {
        "subgroup": pl.String,
        "month": pl.Date,
        "value": pl.Float64,
        "baseline": pl.Float64,
        "log10_evidence": pl.Float64,
        "log10_needed": pl.Float64,
        "alarmed": pl.Boolean,
        "began": pl.Date,
        "events": pl.Int64,
    }
)


@dataclass(frozen=True, slots=True)
class AccumulatedEvidence:
    """Natural log of the evidence up to each month since release, and the position of the likeliest first month."""

    log_evidence: FloatArray
    most_likely_start: int


def accumulate_from_any_month(monthly: FloatArray) -> AccumulatedEvidence:
    """Evidence of a change that began in any one month: products from each start on, averaged over the starts.

    `monthly` (alternatives x months) are natural logs of e-values, one a month and alternative, each valid given the
    months before; the alternatives are averaged. Months are taken in years since release: each of a year's twelve
    starts weighs 1/12, and those yet to come count 1, so a year's average is an e-process and exceeds 1 / level with a
    probability of at most `level` (Ville 1939; Shin, Ramdas and Rinaldo 2023, "E-detectors"). What is returned at each
    month is the largest of the years' evidence up to it: the false alarms of each further year add one more `level`.
    """
    months = monthly.shape[1]
    total = np.cumsum(monthly, axis=1)
    before = np.concatenate([np.zeros((len(monthly), 1)), total[:, :-1]], axis=1)
    # From start s (rows) to month t (columns), averaged over alternatives.
    paths = np.logaddexp.reduce(total[:, None, :] - before[:, :, None], axis=0) - np.log(len(monthly))
    started = np.arange(months)[:, None] <= np.arange(months)
    paths = np.where(started, paths, -np.inf)
    years = np.full((-(-months // MONTHS_A_YEAR), months), -np.inf)
    for year, of_year in enumerate(years):
        starts = paths[year * MONTHS_A_YEAR : (year + 1) * MONTHS_A_YEAR]
        yet_to_come = MONTHS_A_YEAR - np.isfinite(starts).sum(axis=0)
        waiting = np.log(yet_to_come, out=np.full(months, -np.inf), where=yet_to_come > 0)
        of_year[:] = np.logaddexp(np.logaddexp.reduce(starts, axis=0), waiting) - np.log(MONTHS_A_YEAR)
    return AccumulatedEvidence(years.max(axis=0), int(np.argmax(paths[:, -1])))


def watch_performance(
    rows: pl.DataFrame,
    baseline: Sequence[Finding],
    subgroups: Sequence[str] = (),
    metrics: Sequence[str] = WATCHED,
    minimum_n: int = 1,
    latest_only: bool = False,
) -> pl.DataFrame:
    """Each metric in every month and over all months so far, with 95 % time-uniform bounds: columns of `WATCH_SCHEMA`.

    Overall all `metrics`; by subgroup the sensitivity. `value` is the month's, `value_so_far`, `low` and `high` those
    of all months up to it, None where undefined. Bounds hold for each metric and group by itself, not for all at once.

    - `sensitivity` (of the rows with the event, the share alerted) and `ppv` (of the rows alerted, the share with the
      event): confidence sequence by betting (Waudby-Smith and Ramdas 2024, JRSS B 86), for any number of patients.
      The bet is on a patient's month: 1 + the sum over its rows of (likelihood ratio - 1) / most, which is fair however
      the rows depend on each other and on their number. `most` is the largest number of such rows of a patient in the
      first month that has any; a month of more is scaled down to it. A patient of two months counts as two.
    - `auroc`, `observed_expected_ratio` and `calibration_slope`: the asymptotic confidence sequence (Waudby-Smith et
      al. 2024, Annals of Statistics 52) on influence values summed by patient over all months; for the AUROC these are
      the placement values (DeLong 1988; Obuchowski 1997). None with fewer than `FEWEST_PATIENTS` of either kind.

    `baseline` is the finding at release. It is an estimate itself: `below_baseline` is true only where `high` lies
    below the lower limit of the baseline's own 95 % interval (`above_baseline` likewise): it errs towards silence;
    both are None where either interval is unknown.

    Args:
        rows: Ripe, scored rows since release: `event` (0 or 1), `risk`, `alerted`, `patient`, `month` (date) and the
            subgroups. `found` (0 or 1), where there, says which events were alerted in time, as of hourly alarms, whose
            sensitivity is watched on one row a stay. `risk` is needed for the first three metrics only.
        baseline: The findings of the champion's evaluation at release.
        subgroups: Columns, each value of which is a group of its own.
        metrics: Which of `WATCHED`.
        minimum_n: Subgroups with fewer rows are left out.
        latest_only: Leave out the first three metrics of all months but the latest, which take nearly all the time.

    Raises:
        PerformanceError: If a column is missing, a month is null, or a metric is not one of `WATCHED`.
        EvaluationError: If there are no rows, an outcome is not 0 or 1, or a risk is no probability.
    """
    if unknown := [metric for metric in metrics if metric not in WATCHED]:
        raise PerformanceError(f"metrics {unknown} cannot be watched; choose from {list(WATCHED)}")
    ranked = [metric for metric in metrics if metric in (AUROC, OVER_EXPECTED, SLOPE)]
    _require(rows, ("event", *([RISK] if ranked else []), ALERTED, "patient", "month", *subgroups))
    at_release = {(finding.metric, finding.subgroup): finding for finding in baseline}
    months = rows["month"].unique().sort().to_list()
    shown = months[-1:] if latest_only else months
    tables = [_watch_asymptotically(rows, metric, shown, at_release.get((metric, OVERALL))) for metric in ranked]
    for metric in metrics:
        if metric in (SENSITIVITY, PPV):
            counts = _ShareCounts.of(rows, metric, months)
            tables.append(_watch_share(counts, metric, OVERALL, months, at_release.get((metric, OVERALL))))
    if SENSITIVITY in metrics:
        for group, members in _subgroups(rows, subgroups, minimum_n):
            counts = _ShareCounts.of(members, SENSITIVITY, months)
            tables.append(_watch_share(counts, SENSITIVITY, group, months, at_release.get((SENSITIVITY, group))))
    return pl.concat(tables) if tables else pl.DataFrame(schema=WATCH_SCHEMA)


def subgroup_alarms(
    rows: pl.DataFrame,
    baseline: Sequence[Finding],
    subgroups: Sequence[str],
    tolerated_fall: float = 0.05,
    level: float = LEVEL,
    minimum_n: int = 1,
) -> pl.DataFrame:
    """Whether the sensitivity, overall or in a subgroup, has fallen by more than is tolerated: `ALARM_SCHEMA`.

    One row a group and month, with the largest evidence since release up to it; `alarmed` once it reaches 1 over the
    group's equal part of `level` (Bonferroni over the groups with a baseline, everyone being one of them). The evidence
    bets, as in `watch_performance`, on falls (`FALLS`) against every sensitivity of the baseline less `tolerated_fall`
    or more (Waudby-Smith and Ramdas 2024, JRSS B 86); the fall may begin in any month.

    The baseline is an estimate: for every value it may truly have, the months' evidence is multiplied by the evidence
    of the release findings against that value (a normal mixture on the log odds, its standard error read from the
    95 % interval; Robbins 1970), and the smallest product counts. A value far below the baseline found thus does not
    excuse the months, and a small test split delays the alarm. `log10_evidence` is None for a group without a baseline
    interval of positive width: of it nothing can be told.

    Args:
        rows: As for `watch_performance`, without `risk`.
        baseline: The findings of the champion's evaluation at release; those of `sensitivity` are read.
        subgroups: Columns, each value of which is a group of its own.
        tolerated_fall: How far the sensitivity may lie below the baseline.
        level: The chance of any false alarm in a year.
        minimum_n: Subgroups with fewer rows are left out.

    Raises:
        PerformanceError: If a column is missing or a month is null.
        EvaluationError: If there are no rows, or an outcome is not 0 or 1.
    """
    _require(rows, ("event", ALERTED, "patient", "month", *subgroups))
    months = rows["month"].unique().sort().to_list()
    at_release = {finding.subgroup: finding for finding in baseline if finding.metric == SENSITIVITY}
    groups = [(OVERALL, rows), *_subgroups(rows, subgroups, minimum_n)]
    comparable = sum(_standard_error(at_release.get(group)) is not None for group, _ in groups)
    needed = float(np.log10(max(comparable, 1) / level))
    tables = [
        _watch_fall(
            _ShareCounts.of(members, SENSITIVITY, months), group, months, at_release.get(group), tolerated_fall, needed
        )
        for group, members in groups
    ]
    return pl.concat(tables)


def _require(rows: pl.DataFrame, needed: Sequence[str]) -> None:
    if absent := [column for column in needed if column not in rows.columns]:
        raise PerformanceError(f"the rows lack the columns {absent}; score them and join their outcomes first")
    checked_outcome(rows["event"])
    if rows["month"].dtype != pl.Date:
        raise PerformanceError(f"month is of type {rows['month'].dtype}; give the first day of the month as a date")
    for column in ("month", "patient", ALERTED):
        if missing := rows[column].null_count():
            raise PerformanceError(f"{column}: {missing:,} of {rows.height:,} rows have none; every row needs one")


def _subgroups(rows: pl.DataFrame, subgroups: Sequence[str], minimum_n: int) -> list[tuple[str, pl.DataFrame]]:
    groups = []
    for column in subgroups:
        levels = rows.with_columns(pl.col(column).cast(pl.String).fill_null(MISSING))
        parts = levels.partition_by(column, as_dict=True)
        groups += [
            (f"{column}={level}", parts[(level,)]) for (level,) in sorted(parts) if parts[(level,)].height >= minimum_n
        ]
    return groups


@dataclass(frozen=True, slots=True)
class _ShareCounts:
    """How many patients' months there are of each kind: so many rows that count for a share, so many of them hits.

    `rows` and `hits` have one entry a kind, `patients` is months x kinds; `most` is the rows that a bet is sized for.
    """

    rows: FloatArray
    hits: FloatArray
    patients: FloatArray
    most: float

    @classmethod
    def of(cls, rows: pl.DataFrame, metric: str, months: list[date]) -> Self:
        """The counts for sensitivity (rows with the event that are hits when alerted) or PPV (the reverse)."""
        event, alerted = pl.col("event") == 1, pl.col(ALERTED).cast(pl.Boolean)
        in_time = pl.col(FOUND).cast(pl.Boolean) if FOUND in rows.columns else alerted
        counted, hit = (event, in_time) if metric == SENSITIVITY else (alerted, event)
        kinds = (
            rows.filter(counted)
            .group_by("month", "patient")
            .agg(rows=pl.len(), hits=hit.sum())
            .group_by("month", "rows", "hits")
            .agg(patients=pl.len())
            .pivot("month", index=["rows", "hits"], values="patients")
        )
        by_month = [
            kinds[str(month)].fill_null(0).to_numpy().astype(np.float64)
            if str(month) in kinds.columns
            else np.zeros(kinds.height)
            for month in months
        ]
        in_kind, patients = kinds["rows"].to_numpy().astype(np.float64), np.stack(by_month)
        first = patients[np.argmax(patients.sum(axis=1) > 0)]
        most = in_kind[first > 0].max(initial=1.0)
        return cls(in_kind, kinds["hits"].to_numpy().astype(np.float64), patients, float(most))

    @property
    def rows_by_month(self) -> FloatArray:
        """Rows that count, in each month."""
        return self.patients @ self.rows

    @property
    def hits_by_month(self) -> FloatArray:
        """Hits, in each month."""
        return self.patients @ self.hits

    def log_evidence(self, share: FloatArray, distances: FloatArray) -> FloatArray:
        """Natural log of each month's e-value against each share, for bets on others: shares x distances x months.

        `distances` are in log odds. A bet on a lower share is fair against every share from the one given upwards.
        """
        other = from_logit(logit(share)[:, None] + distances)[:, :, None]
        of_hit, of_miss = other / share[:, None, None], (1 - other) / (1 - share[:, None, None])
        scale = np.minimum(1 / self.rows, 1 / self.most)
        gain = 1 + scale * (self.hits * of_hit + (self.rows - self.hits) * of_miss - self.rows)
        return np.log(gain) @ self.patients.T


def _watch_share(
    counts: _ShareCounts, metric: str, group: str, months: list[date], finding: Finding | None
) -> pl.DataFrame:
    rows, hits = counts.rows_by_month, counts.hits_by_month
    total = np.cumsum(rows)
    low, high = _betting_bounds(counts)
    return _tabulate(
        metric,
        group,
        months,
        _quotients(hits, rows),
        _quotients(np.cumsum(hits), total),
        [bound if n else None for bound, n in zip(low, total, strict=True)],
        [bound if n else None for bound, n in zip(high, total, strict=True)],
        finding,
        total.astype(np.int64),
    )


def _betting_bounds(counts: _ShareCounts) -> tuple[FloatArray, FloatArray]:
    """Time-uniform 95 % bounds of a share after each month, by a mixture of bets against each of `SHARES`."""
    so_far = np.cumsum(counts.log_evidence(SHARES, DISTANCES_FROM_SHARE), axis=2)
    against = np.logaddexp.reduce(so_far, axis=1) - np.log(len(DISTANCES_FROM_SHARE))
    kept = against < -np.log(LEVEL)
    grid = np.r_[0.0, SHARES, 1.0]
    lowest, highest = np.argmax(kept, axis=0), len(SHARES) - 1 - np.argmax(kept[::-1], axis=0)
    return grid[lowest], grid[highest + 2]


@dataclass(frozen=True, slots=True)
class _Estimate:
    value: float | None
    influence: FloatArray | None
    """One entry a row; their sum by patient estimates how far the value would move without that patient."""


def _watch_asymptotically(rows: pl.DataFrame, metric: str, shown: list[date], finding: Finding | None) -> pl.DataFrame:
    """The last months of the rows, as many as are to be shown."""
    outcome, risk = checked_outcome(rows["event"]), checked_risk(rows[RISK], rows.height)
    patient, _ = patient_numbers(rows["patient"], rows.height)
    month = rows["month"].rank("dense").to_numpy().astype(np.int64) - 1
    months = int(month.max()) + 1
    order = np.argsort(risk, kind="stable")
    outcome, risk, patient, month = outcome[order], risk[order], patient[order], month[order]
    estimate = {AUROC: _estimate_auroc, OVER_EXPECTED: _estimate_over_expected, SLOPE: _estimate_slope}[metric]
    value: list[float | None] = []
    so_far: list[float | None] = []
    low: list[float | None] = []
    high: list[float | None] = []
    sharpest_at = SHARPEST_AFTER_MONTHS * len(np.unique(patient[month == 0]))
    for position in range(months - len(shown), months):
        here, until = month == position, month <= position
        value.append(estimate(outcome[here], risk[here]).value)
        measured = estimate(outcome[until], risk[until])
        half_width = _half_width(measured, outcome[until], patient[until], sharpest_at)
        so_far.append(measured.value)
        centre = measured.value if half_width is not None else None
        low.append(None if centre is None or half_width is None else centre - half_width)
        high.append(None if centre is None or half_width is None else centre + half_width)
    n = np.cumsum(np.bincount(month, minlength=months))[-len(shown) :]
    return _tabulate(metric, OVERALL, shown, value, so_far, low, high, finding, n)


def _estimate_auroc(outcome: FloatArray, risk: FloatArray) -> _Estimate:
    """AUROC of rows in ascending order of risk, and each row's placement value less it, over the rows of its kind."""
    events, others = outcome.sum(), len(outcome) - outcome.sum()
    if not events or not others:
        return _Estimate(None, None)
    starts = tie_starts(risk)
    run = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(risk)]))
    with_event, without = np.add.reduceat(outcome, starts), np.add.reduceat(1 - outcome, starts)
    others_below = (np.cumsum(without) - without / 2)[run] / others
    events_above = (events - np.cumsum(with_event) + with_event / 2)[run] / events
    area = float(np.sum(outcome * others_below) / events)
    placed = np.where(outcome == 1, (others_below - area) / events, (events_above - area) / others)
    return _Estimate(area, placed)


def _estimate_over_expected(outcome: FloatArray, risk: FloatArray) -> _Estimate:
    expected = risk.sum()
    if expected <= 0:
        return _Estimate(None, None)
    value = float(outcome.sum() / expected)
    return _Estimate(value, (outcome - value * risk) / expected)


def _estimate_slope(outcome: FloatArray, risk: FloatArray) -> _Estimate:
    level, slope = (float(fitted[0]) for fitted in fit_recalibration(outcome, risk, np.ones((1, len(outcome)))))
    if not np.isfinite(slope):
        return _Estimate(None, None)
    log_odds = logit(risk)
    fitted = from_logit(level + slope * log_odds)
    spread = fitted * (1 - fitted)
    centred = log_odds - np.average(log_odds, weights=spread)
    return _Estimate(slope, (outcome - fitted) * centred / np.sum(spread * centred**2))


def _half_width(estimate: _Estimate, outcome: FloatArray, patient: IntArray, sharpest_at: int) -> float | None:
    """Half the width of the asymptotic 95 % confidence sequence (Waudby-Smith et al. 2024, theorem 2.2).

    Narrowest at `sharpest_at` patients, by their equation for the mixture's variance.
    """
    if estimate.influence is None:
        return None
    rows_of_patient = np.bincount(patient)
    seen = rows_of_patient > 0
    ever = np.bincount(patient, outcome)[seen] > 0
    never_only = np.bincount(patient, 1 - outcome)[seen] > 0
    if min(ever.sum(), never_only.sum()) < FEWEST_PATIENTS:
        return None
    error = float(np.sqrt(np.sum(np.bincount(patient, estimate.influence) ** 2)))
    patients = int(seen.sum())
    mixture = (-2 * np.log(LEVEL) + np.log(-2 * np.log(LEVEL)) + 1) / sharpest_at
    scaled = patients * mixture
    return error * float(np.sqrt((scaled + 1) / scaled * 2 * np.log(np.sqrt(scaled + 1) / LEVEL)))


def _watch_fall(
    counts: _ShareCounts,
    group: str,
    months: list[date],
    finding: Finding | None,
    tolerated_fall: float,
    needed: float,
) -> pl.DataFrame:
    rows, hits = counts.rows_by_month, counts.hits_by_month
    evidence, began = _weigh_fall(counts, finding, tolerated_fall)
    return pl.DataFrame(
        {
            "subgroup": group,
            "month": months,
            "value": _quotients(hits, rows),
            "baseline": finding.value if finding is not None else None,
            "log10_evidence": evidence,
            "log10_needed": needed,
            "alarmed": None if evidence is None else evidence >= needed,
            "began": months[began] if began is not None else None,
            "events": rows.astype(np.int64),
        },
        schema=ALARM_SCHEMA,
    )


def _weigh_fall(
    counts: _ShareCounts, finding: Finding | None, tolerated_fall: float
) -> tuple[FloatArray | None, int | None]:
    """log10 of the largest evidence up to each month, and the position of the likeliest first month of the fall."""
    error = _standard_error(finding)
    if finding is None or finding.value is None or error is None:
        return None, None
    of_release = (
        BASELINE_STANDARD_ERRORS**2 * BASELINE_PRIOR_VARIANCE / (1 + BASELINE_PRIOR_VARIANCE)
        - np.log1p(BASELINE_PRIOR_VARIANCE)
    ) / 2
    released = from_logit(float(logit(finding.value)) + error * BASELINE_STANDARD_ERRORS)
    least = np.maximum(released - tolerated_fall, SMALLEST_SHARE)
    accumulated = [accumulate_from_any_month(monthly) for monthly in counts.log_evidence(least, FALLS)]
    paths = np.stack([path.log_evidence for path in accumulated]) + of_release[:, None]
    evidence = np.maximum.accumulate(paths.min(axis=0)) / np.log(10)
    began = accumulated[int(np.argmin(paths[:, -1]))].most_likely_start
    return evidence, began if evidence[-1] > 0 else None


def _standard_error(finding: Finding | None) -> float | None:
    """Of the log odds of a share, read from its 95 % interval; None where that is unknown or has no width."""
    if finding is None or finding.value is None or finding.low is None or finding.high is None:
        return None
    width = float(logit(min(finding.high, 1.0)) - logit(max(finding.low, 0.0)))
    return width / (2 * Z_95) if width > 0 else None


def _quotients(numerator: FloatArray, denominator: FloatArray) -> list[float | None]:
    return (
        pl.select(pl.when(pl.Series(denominator) > 0).then(pl.Series(numerator) / pl.Series(denominator)))
        .to_series()
        .to_list()
    )


def _tabulate(
    metric: str,
    group: str,
    months: list[date],
    value: list[float | None],
    so_far: list[float | None],
    low: list[float | None],
    high: list[float | None],
    finding: Finding | None,
    n: npt.NDArray[np.int64],
) -> pl.DataFrame:
    lower = pl.lit(finding.low if finding is not None else None, pl.Float64)
    upper = pl.lit(finding.high if finding is not None else None, pl.Float64)
    return pl.DataFrame(
        {"month": months, "value": value, "value_so_far": so_far, "low": low, "high": high, "n": n},
        schema_overrides=dict.fromkeys(("value", "value_so_far", "low", "high"), pl.Float64),
    ).select(
        pl.lit(metric).alias("metric"),
        pl.lit(group).alias("subgroup"),
        "month",
        "value",
        "value_so_far",
        "low",
        "high",
        pl.lit(finding.value if finding is not None else None, pl.Float64).alias("baseline"),
        (pl.col("high") < lower).alias("below_baseline"),
        (pl.col("low") > upper).alias("above_baseline"),
        "n",
    )
