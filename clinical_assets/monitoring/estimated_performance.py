"""How well a model is likely to do on rows whose outcomes nobody knows yet, and what a loss means on the ward.

Belongs here: performance estimated from risks alone, its interval, the harm it stands for, and how it is scored once
outcomes are ripe. Does not belong here: realised performance, drift, and what is done about a loss.

The method is confidence-based estimation with importance weighting (Bialek et al. 2024, "Estimating Model Performance
Under Covariate Shift Without Labels", arXiv 2401.08348; Guillory et al. 2021, ICCV): reference rows with outcomes, from
which the model did not learn, are weighted to look like the batch, the risk is recalibrated on them, and the confusion
that the recalibrated risks lead to expect is summed over the batch. It holds while the outcome given risk and
covariates has not moved; where that is in doubt the caller says so, and the estimate carries it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.bootstrap import percentile_interval
from clinical_assets.evaluation.calibration import from_logit, logit
from clinical_assets.evaluation.findings import OVERALL
from clinical_assets.evaluation.sample import (
    EvaluationError,
    FloatArray,
    IntArray,
    checked_outcome,
    checked_risk,
    patient_numbers,
)
from clinical_assets.monitoring.expected_counts import ESTIMATED_METRICS, PER_1000, ExpectedCounts
from clinical_assets.monitoring.importance_weights import (
    CovariateEncoding,
    effective_number,
    fit_logistic,
    level_names,
    sum_by_patient,
    weigh_reference,
)
from clinical_assets.protocol import Finding

HIGHER_IS_BETTER = ("auroc", "sensitivity", "ppv")

DRAWS = 500
# A sum over more patients is as good as normal: so many are drawn, and the sum is stretched.
MOST_DRAWN_PATIENTS = 2_000
# Places in the urn from which patients are drawn, each patient holding as many as its weight.
URN = 2**16

# Of the recalibration, level and slope are free; curvature and the step at the alert threshold are held near 0.
CURVATURE_PENALTY = 1.0
# How far, in standard deviations of log odds, a subgroup's recalibration is expected to lie from that of all rows.
SUBGROUP_SPREAD = 0.3
# Patients with events, and patients without: what weights must leave of them, and what any estimate needs.
LEAST_WEIGHTED_PATIENTS = 20.0
LEAST_PATIENTS = 10.0
MOST_UNKNOWN_ROWS = 0.05

BoolArray = npt.NDArray[np.bool_]


class EstimationError(ValueError):
    """Performance cannot be estimated from these rows; the message names the column, the fault and the remedy."""


class TooFewPatientsError(EstimationError):
    """Too few patients of the reference have the event, or have none, to estimate anything by."""


@dataclass(frozen=True, slots=True)
class EstimatedPerformance:
    """What a batch is expected to realise, and how far the estimate may be trusted.

    `findings` are overall and by subgroup. `missed_per_1000` are units with the event that are not alerted and
    `alerts_per_1000` those alerted, of 1,000 units. `weighted` says whether the reference was weighted to look like the
    batch, `effective_patients` how many equally weighted reference patients it is then worth, and `note` why, in a
    sentence. `invalid_because` is None where nothing speaks against the estimate.
    """

    findings: tuple[Finding, ...]
    missed_per_1000: float
    alerts_per_1000: float
    weighted: bool
    effective_patients: float
    note: str
    invalid_because: str | None = None

    def find(self, metric: str, subgroup: str = OVERALL) -> Finding | None:
        """The finding of one metric and subgroup; None where the batch has too few rows of the subgroup."""
        return next((x for x in self.findings if x.metric == metric and x.subgroup == subgroup), None)


@dataclass(frozen=True, slots=True)
class EstimatedLoss:
    """What a batch is expected to lose in one metric against the reference, and what it means per 1,000 units.

    `loss` is above 0 where the batch does worse; it and its bounds are None where the metric is undefined.
    `missed_per_1000` are units with the event that are not alerted, `extra_alerts_per_1000` alerted units, both beyond
    what they were in the reference.
    """

    metric: str
    loss: float | None
    low: float | None
    high: float | None
    missed_per_1000: float
    extra_alerts_per_1000: float
    invalid_because: str | None = None


@dataclass(frozen=True, slots=True)
class _Recalibration:
    """Coefficients of a recalibration, and their covariance with whole patients as the units."""

    coefficients: FloatArray
    covariance: FloatArray

    def probability(self, basis: FloatArray) -> FloatArray:
        return from_logit(basis @ self.coefficients)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Scored rows as arrays with one entry a row; patients are numbers from 0, and `basis` is what is recalibrated."""

    risk: FloatArray
    alerted: FloatArray
    patient: IntArray
    basis: FloatArray
    covariates: FloatArray


@dataclass(frozen=True, slots=True)
class PerformanceReference:
    """Scored rows with outcomes that the model did not learn from, by which rows without outcomes are judged."""

    rows: _Rows
    event: FloatArray
    groups: dict[str, BoolArray]
    encoding: CovariateEncoding
    centre: float
    spread: float
    columns: tuple[str, str, str]
    subgroups: tuple[str, ...]
    minimum_n: int
    seed: int

    @classmethod
    def fit(
        cls,
        rows: pl.DataFrame,
        *,
        outcome_event: pl.Series | str,
        patient: str,
        covariates: Sequence[str],
        subgroups: Sequence[str],
        minimum_n: int,
        risk: str = "risk",
        alerted: str = "alerted",
        seed: int = 0,
    ) -> Self:
        """Keep what estimates need of rows with outcomes: the champion's `calibrate` and `test` rows, and ripe months.

        Args:
            rows: One scored row a unit: `risk` (probability of the event), `alerted` (boolean), the patient, covariates
                and subgroups.
            outcome_event: 1 where the unit had the event and 0 where not, or the column that says so.
            patient: The column of the patient, whose rows are not independent.
            covariates: Columns of numbers or levels by which the reference is weighted to look like a batch: those that
                the risk does not tell all about, such as age, ward, site.
            subgroups: Columns of levels, for each of which performance is estimated on its own.
            minimum_n: The smallest number of rows of a subgroup, in the reference and in the batch.
            risk: The column of the risk.
            alerted: The column of the alert.
            seed: Of the draws behind weights and intervals.

        Raises:
            EstimationError: If a column is missing, a risk is no probability, an outcome is missing, or fewer than ten
                patients have the event, or have none.
        """
        columns = (risk, alerted, patient)
        named = dict.fromkeys((*columns, *covariates, *subgroups))
        _check_columns(rows, [*named, *([outcome_event] if isinstance(outcome_event, str) else [])], "reference")
        outcome = rows[outcome_event] if isinstance(outcome_event, str) else outcome_event
        if unknown := outcome.null_count():
            raise EstimationError(
                f"{unknown:,} of {len(outcome):,} reference rows have no outcome; give ripe rows only"
            )
        try:
            event = checked_outcome(outcome)
            log_odds = logit(checked_risk(rows[risk], len(event), risk))
        except EvaluationError as error:
            raise EstimationError(f"reference: {error}") from error
        encoding = CovariateEncoding.fit(rows, covariates)
        centre, spread = float(log_odds.mean()), float(log_odds.std()) or 1.0
        arrays = _arrays(rows, columns, centre, spread, encoding, "reference")
        if (fewest := _patients_of_each_kind(event, np.ones(len(event)), arrays.patient)) < LEAST_PATIENTS:
            raise TooFewPatientsError(
                f"of one kind, with the event or without, the reference has {fewest:.0f} patients, and "
                f"{LEAST_PATIENTS:.0f} are needed; give more months"
            )
        return cls(
            rows=arrays,
            event=event,
            groups=dict(_subgroup_rows(rows, subgroups, minimum_n)),
            encoding=encoding,
            centre=centre,
            spread=spread,
            columns=columns,
            subgroups=tuple(subgroups),
            minimum_n=minimum_n,
            seed=seed,
        )

    def estimate(self, batch: pl.DataFrame, *, invalid_because: str | None = None) -> EstimatedPerformance:
        """What these rows are expected to realise, overall and for each subgroup large enough here and there.

        The 95 % interval is meant to cover the figure that outcomes show once they are ripe. It holds the noise of the
        outcomes given the risks, drawn as residuals of whole reference patients so that the rows of one patient stay
        together, and the uncertainty of the recalibration. A subgroup too small in the reference has no value.

        Args:
            batch: Scored rows, with the columns that `fit` was given but for the outcome.
            invalid_because: Why outcome given risk may have moved, such as a concept shift found on ripe months. An
                estimate is called invalid, too, where many rows have levels that the reference does not know.

        Raises:
            EstimationError: If a column is missing, there is no row, or a risk is no probability.
        """
        named = (*self.columns, *self.encoding.columns, *self.subgroups)
        _check_columns(batch, list(dict.fromkeys(named)), "batch")
        here = _arrays(batch, self.columns, self.centre, self.spread, self.encoding, "batch")
        weight, note = self._weigh(here)
        random = np.random.default_rng(self.seed)
        everywhere = np.ones(len(self.event), dtype=bool)
        overall = self._recalibrate(everywhere, weight)
        findings, counts = self._estimate_rows(OVERALL, here, overall, everywhere, weight, random)
        for name, chosen in _subgroup_rows(batch, self.subgroups, self.minimum_n):
            there = self.groups.get(name)
            if there is None or self._effective_patients(there, weight) < LEAST_PATIENTS:
                n = int(chosen.sum())
                findings += [Finding(metric, name, None, None, None, n) for metric in ESTIMATED_METRICS]
                continue
            members = _take(here, chosen)
            own = self._recalibrate(there, weight, overall)
            findings += self._estimate_rows(name, members, own, there, weight, random)[0]
        return EstimatedPerformance(
            findings=tuple(findings),
            missed_per_1000=counts.missed_per_1000,
            alerts_per_1000=PER_1000 * counts.alerts / counts.n,
            weighted=bool(weight.min() < weight.max()),
            effective_patients=effective_number(sum_by_patient(weight, self.rows.patient)),
            note=note,
            invalid_because=invalid_because or self._without_support(batch),
        )

    def _weigh(self, here: _Rows) -> tuple[FloatArray, str]:
        """The weight of each reference row, with mean 1, and a sentence on it."""
        there, even = self.rows, np.ones(len(self.event))
        weight = weigh_reference(there.covariates, here.covariates, there.patient, here.patient, self.seed)
        if weight is None:
            return even, "unweighted: a domain classifier does not tell the batch from the reference"
        fewest = _patients_of_each_kind(self.event, weight, there.patient)
        if fewest < LEAST_WEIGHTED_PATIENTS:
            return even, (
                "unweighted, so the estimate does not follow the shift: weighted to look like the batch, the reference "
                f"has {fewest:.0f} patients with the event, or without, and {LEAST_WEIGHTED_PATIENTS:.0f} are needed"
            )
        patients = effective_number(sum_by_patient(weight, there.patient))
        return (
            weight,
            f"weighted: the reference is worth {patients:,.0f} of its {int(there.patient.max()) + 1:,} patients",
        )

    def _effective_patients(self, chosen: BoolArray, weight: FloatArray) -> float:
        return _patients_of_each_kind(self.event[chosen], weight[chosen], self.rows.patient[chosen])

    def _stretch(self, chosen: BoolArray, weight: FloatArray, coefficients: int) -> float:
        """By how much squares of residuals are too small, since the recalibration was fitted to them (MacKinnon 1985).

        What counts is not the rows but the patients of the rarer kind.
        """
        patients = self._effective_patients(chosen, weight)
        return patients / (patients - coefficients)

    def _recalibrate(
        self, chosen: BoolArray, weight: FloatArray, prior: _Recalibration | None = None
    ) -> _Recalibration:
        """The logistic recalibration on some reference rows, and its covariance by patient (Huber 1967; White 1982).

        Drawn to a prior, that of all rows, as far as it is uncertain itself: the normal hierarchical mean, with
        `SUBGROUP_SPREAD` between subgroups (Gelman et al. 2013, chapter 5).
        """
        basis, event, mass = self.rows.basis[chosen], self.event[chosen], weight[chosen]
        width = basis.shape[1]
        if prior is None:
            level = float(logit(np.average(event, weights=mass)))
            centre, penalty = np.r_[level, np.zeros(width - 1)], np.r_[0.0, 0.0, np.full(width - 2, CURVATURE_PENALTY)]
        else:
            centre, penalty = prior.coefficients, np.full(width, CURVATURE_PENALTY)
        fitted = fit_logistic(basis, event, mass, penalty, centre)
        probability = from_logit(basis @ fitted)
        information = (basis * (mass * probability * (1 - probability))[:, None]).T @ basis + np.diag(penalty)
        patient = self.rows.patient[chosen]
        residual = mass * (event - probability)
        scores = np.column_stack([sum_by_patient(residual * column, patient) for column in basis.T])
        inverse = np.linalg.pinv(information)
        covariance = inverse @ (scores.T @ scores) @ inverse * self._stretch(chosen, weight, width)
        if prior is None:
            return _Recalibration(fitted, covariance)
        between = np.eye(width) * SUBGROUP_SPREAD**2
        trust = between @ np.linalg.inv(between + covariance)
        return _Recalibration(prior.coefficients + trust @ (fitted - prior.coefficients), between - trust @ between)

    def _estimate_rows(
        self,
        name: str,
        here: _Rows,
        recalibration: _Recalibration,
        there: BoolArray,
        weight: FloatArray,
        random: np.random.Generator,
    ) -> tuple[list[Finding], ExpectedCounts]:
        probability = recalibration.probability(here.basis)
        counts = ExpectedCounts.of(here.risk, here.alerted, probability)
        moved = self._draw_outcomes(counts, recalibration, there, weight, random)
        moved += _draw_recalibrations(counts, here, probability, recalibration, random)
        drawn = counts.moved_values(moved)
        findings = [_finding(metric, name, value, drawn[metric], counts.n) for metric, value in counts.values().items()]
        return findings, counts

    def _draw_outcomes(
        self,
        counts: ExpectedCounts,
        recalibration: _Recalibration,
        there: BoolArray,
        weight: FloatArray,
        random: np.random.Generator,
    ) -> FloatArray:
        """By how much outcomes may miss what is expected, draws x 3, as the residuals of whole reference patients.

        So many patients are drawn, by their weight, as have the batch's number of rows.
        """
        rows = _take(self.rows, there)
        residual = self.event[there] - recalibration.probability(rows.basis)
        number = np.unique(rows.patient, return_inverse=True)[1]
        moves = counts.move(rows.risk, rows.alerted, residual)
        sums = np.column_stack([sum_by_patient(column, number) for column in moves.T])
        size = np.bincount(number)
        chance = sum_by_patient(weight[there], number) / size
        chance /= chance.sum()
        patients = max(1, round(counts.n / float(chance @ size)))
        drawn = min(patients, MOST_DRAWN_PATIENTS)
        urn = np.searchsorted(np.cumsum(chance)[:-1], (np.arange(URN) + 0.5) / URN)
        place = random.integers(URN, size=(DRAWS, drawn))
        stretch = np.sqrt(patients / drawn * self._stretch(there, weight, rows.basis.shape[1]))
        return np.column_stack([column[urn][place].sum(axis=1) for column in (sums - chance @ sums).T]) * stretch

    def _without_support(self, batch: pl.DataFrame) -> str | None:
        unknown = self.encoding.count_unknown(batch)
        column = max(unknown, key=lambda name: unknown[name], default=None)
        if column is None or unknown[column] <= MOST_UNKNOWN_ROWS * batch.height:
            return None
        share = unknown[column] / batch.height
        return f"{share:.0%} of the rows have a {column} that the reference does not know"


def _patients_of_each_kind(event: FloatArray, weight: FloatArray, patient: IntArray) -> float:
    """The effective number of patients with events, or of those with other rows, whichever is smaller."""
    kinds = (sum_by_patient(weight * kind, patient) for kind in (event, 1 - event))
    return min(effective_number(kind) for kind in kinds)


def _draw_recalibrations(
    counts: ExpectedCounts,
    here: _Rows,
    probability: FloatArray,
    recalibration: _Recalibration,
    random: np.random.Generator,
) -> FloatArray:
    """By how much expectations move, draws x 3, where the recalibration is drawn from its own uncertainty."""
    slope = counts.move(here.risk, here.alerted, probability * (1 - probability))
    off = random.multivariate_normal(np.zeros(len(recalibration.coefficients)), recalibration.covariance, DRAWS)
    return off @ (here.basis.T @ slope)


def _finding(metric: str, subgroup: str, value: float, draws: FloatArray, n: int) -> Finding:
    interval = percentile_interval(draws)
    if not np.isfinite(value) or interval is None:
        return Finding(metric, subgroup, None, None, None, n)
    return Finding(metric, subgroup, value, *interval, n)


def _check_columns(rows: pl.DataFrame, needed: Sequence[str], which: str) -> None:
    if absent := [column for column in needed if column not in rows.columns]:
        raise EstimationError(f"the {which} lacks the columns {absent}; score the rows and join their features first")
    if rows.is_empty():
        raise EstimationError(f"the {which} has no rows; score the month first")


def _arrays(
    rows: pl.DataFrame,
    columns: tuple[str, str, str],
    centre: float,
    spread: float,
    encoding: CovariateEncoding,
    which: str,
) -> _Rows:
    risk_column, alerted_column, patient_column = columns
    if unknown := rows[alerted_column].null_count():
        raise EstimationError(
            f"{which}: {alerted_column} is missing in {unknown:,} of {rows.height:,} rows; score again"
        )
    try:
        risk = checked_risk(rows[risk_column], rows.height, risk_column)
        patient, _ = patient_numbers(rows[patient_column], rows.height)
    except EvaluationError as error:
        raise EstimationError(f"{which}: {error}") from error
    alerted = rows[alerted_column].cast(pl.Float64).to_numpy()
    log_odds = (logit(risk) - centre) / spread
    basis = np.column_stack([np.ones(len(risk)), log_odds, log_odds**2, alerted])
    covariates = np.column_stack([log_odds, log_odds**2, encoding.apply(rows)])
    return _Rows(risk, alerted, patient, basis, covariates)


def _take(rows: _Rows, chosen: BoolArray) -> _Rows:
    return _Rows(
        rows.risk[chosen], rows.alerted[chosen], rows.patient[chosen], rows.basis[chosen], rows.covariates[chosen]
    )


def _subgroup_rows(rows: pl.DataFrame, subgroups: Sequence[str], minimum_n: int) -> list[tuple[str, BoolArray]]:
    """Every subgroup `column=level` with enough rows, and which rows are of it."""
    found: list[tuple[str, BoolArray]] = []
    for column in subgroups:
        levels = level_names(rows[column])
        for level in levels.unique().sort():
            chosen = (levels == level).to_numpy()
            if chosen.sum() >= minimum_n:
                found.append((f"{column}={level}", chosen))
    return found


def estimate_loss(reference: PerformanceReference, estimate: EstimatedPerformance, metric: str) -> EstimatedLoss:
    """What is expected to be lost in one metric against what the reference rows reached, and what it means in patients.

    The reference may be the rows at release alone, though the estimate rests on ripe months too. The bounds are those
    of the figure that will be realised; the reference's own figure is taken as it is. Raises EstimationError for a
    metric that is not estimated, or has no better end.
    """
    if metric not in HIGHER_IS_BETTER:
        raise EstimationError(
            f"the loss in {metric} cannot be estimated without outcomes; choose one of {', '.join(HIGHER_IS_BETTER)}"
        )
    reached = ExpectedCounts.of(reference.rows.risk, reference.rows.alerted, reference.event)
    baseline, found = reached.values()[metric], estimate.find(metric)
    known = found is not None and np.isfinite(baseline)

    def below(value: float | None) -> float | None:
        return baseline - value if known and value is not None else None

    return EstimatedLoss(
        metric=metric,
        loss=below(found.value if found else None),
        low=below(found.high if found else None),
        high=below(found.low if found else None),
        missed_per_1000=estimate.missed_per_1000 - reached.missed_per_1000,
        extra_alerts_per_1000=estimate.alerts_per_1000 - PER_1000 * reached.alerts / reached.n,
        invalid_because=estimate.invalid_because,
    )


def score_estimate(estimated: Sequence[Finding], realised: Sequence[Finding]) -> pl.DataFrame:
    """An estimate beside what came true: one row for each metric and subgroup that both have a value for.

    Columns `metric`, `subgroup`, `estimated`, `low`, `high`, `realised`, `estimate_error` (estimated less realised),
    `covered` (whether the interval holds the realised figure) and `n` of the estimate.
    """
    both = _table(estimated).join(
        _table(realised).select("metric", "subgroup", realised="value"),
        on=["metric", "subgroup"],
        maintain_order="left",
    )
    return both.select(
        "metric",
        "subgroup",
        pl.col("value").alias("estimated"),
        "low",
        "high",
        "realised",
        (pl.col("value") - pl.col("realised")).alias("estimate_error"),
        pl.col("realised").is_between("low", "high").alias("covered"),
        "n",
    )


def _table(findings: Sequence[Finding]) -> pl.DataFrame:
    numbers = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64}
    return pl.DataFrame(findings, schema={"metric": pl.String, "subgroup": pl.String, **numbers}).drop_nulls("value")
