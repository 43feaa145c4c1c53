"""How well a model is likely to do on rows whose outcomes nobody knows yet, and what a loss means on the ward.

Belongs here: performance estimated from risks alone, its interval, the harm it stands for, and how it is scored once
outcomes are ripe. Does not belong here: realised performance, drift, and what is done about a loss.

The method is confidence-based estimation (Guillory et al. 2021, ICCV; Bialek et al. 2024, arXiv 2401.08348): outcomes
of reference rows, from which the model did not learn, say what a risk means for whom, and the confusion that these
probabilities lead to expect is summed over the batch. A covariate shift is followed by a regression of the outcome on
risk and covariates, not by importance weights: on the archives of `benchmarks.label_free` these made the error larger.
What is expected of the batch beyond what is expected of the reference is added to what the reference realised, as far
as it came true from patient to patient: the regression estimator of survey sampling (Cochran 1977, chapter 7; Saerndal,
Swensson and Wretman 1992). It holds while the outcome given risk and covariates has not moved; where that is in doubt
the caller says so, and the estimate carries it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.calibration import Z_95, from_logit, logit
from clinical_assets.evaluation.findings import OVERALL
from clinical_assets.evaluation.sample import (
    EvaluationError,
    FloatArray,
    IntArray,
    checked_outcome,
    checked_risk,
    patient_numbers,
)
from clinical_assets.monitoring.covariates import CovariateEncoding, fit_logistic, level_names
from clinical_assets.monitoring.expected_figures import (
    ESTIMATED_METRICS,
    OUTCOME_METRICS,
    PER_1000,
    ExpectedFigures,
    from_scale,
    per_unit_of_scale,
    sum_columns_by_patient,
    to_scale,
)
from clinical_assets.protocol import Finding

HIGHER_IS_BETTER = ("auroc", "sensitivity", "ppv")

# Rows that the regression learns from, and how it is held: level and slope are free, the curvature and the step at the
# alert threshold near 0, and each covariate, and its part in the slope, within some 0.1 log odds a standard deviation,
# since the champion has seen them too. A patient counts once.
MOST_ROWS = 20_000
CURVATURE_PENALTY = 1.0
COVARIATE_PENALTY = 100.0
# How far, in log odds, the figure of a group is expected to lie from what the regression says of it.
GROUP_SPREAD = 0.3
# Patients with events, and patients without, that any estimate needs.
LEAST_PATIENTS = 10
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
    `alerts_per_1000` those alerted, of 1,000 units. `followed` is the share of a change in the expected AUROC that is
    believed, since so much came true from patient to patient of the reference; `note` says it in a sentence.
    `invalid_because` is None where nothing speaks against the estimate.
    """

    findings: tuple[Finding, ...]
    missed_per_1000: float
    alerts_per_1000: float
    followed: float
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
class _Regression:
    """Coefficients of the outcome on risk and covariates, and their covariance with whole patients as the units."""

    coefficients: FloatArray
    covariance: FloatArray

    def probability(self, rows: "_Rows") -> FloatArray:
        basis, covariates = rows.basis.shape[1], rows.covariates.shape[1]
        parts = np.split(self.coefficients, [basis, basis + covariates])
        return from_logit(
            rows.basis @ parts[0] + rows.covariates @ parts[1] + rows.log_odds * (rows.covariates @ parts[2])
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Scored rows as arrays with one entry a row; patients are numbers from 0; `basis` holds what the risk says."""

    risk: FloatArray
    alerted: FloatArray
    patient: IntArray
    basis: FloatArray
    covariates: FloatArray

    @property
    def log_odds(self) -> FloatArray:
        """The standardised log odds of the risk."""
        return self.basis[:, 1]

    @property
    def design(self) -> FloatArray:
        """Rows x coefficients: what the risk says, the covariates, and their part in the slope."""
        return np.hstack([self.basis, self.covariates, self.log_odds[:, None] * self.covariates])

    def take(self, chosen: npt.NDArray[np.bool_] | IntArray) -> "_Rows":
        """Some of the rows."""
        return _Rows(
            *(self.risk[chosen], self.alerted[chosen], self.patient[chosen]),
            *(self.basis[chosen], self.covariates[chosen]),
        )


@dataclass(frozen=True, slots=True)
class _Judged:
    """A group of reference rows: what they realised and were expected to, and what each patient adds, on the scale.

    `patients` are those with events, or those with others, whichever are fewer; the arrays are patients x metrics.
    """

    rows: _Rows
    patients: int
    realised: ExpectedFigures
    expected: ExpectedFigures
    realised_by_patient: FloatArray
    expected_by_patient: FloatArray

    @classmethod
    def of(cls, rows: _Rows, event: FloatArray, probability: FloatArray) -> Self:
        realised = ExpectedFigures.of(rows.risk, rows.alerted, event)
        expected = ExpectedFigures.of(rows.risk, rows.alerted, probability)
        scaled = per_unit_of_scale(expected.values)
        return cls(
            rows,
            _patients_of_each_kind(event, rows.patient),
            realised,
            expected,
            sum_columns_by_patient(realised.of_unit * scaled, rows.patient),
            sum_columns_by_patient(expected.of_unit * scaled, rows.patient),
        )

    @property
    def gap(self) -> FloatArray:
        """Realised less expected on the scale, of one step (so that a figure of 0 or 1 has one too)."""
        return (self.realised.values - self.expected.values) * per_unit_of_scale(self.expected.values)

    @property
    def share_followed(self) -> FloatArray:
        """Of what a patient is expected to add to each figure, the share that comes true: 1 if patients are alike.

        The slope of a regression over patients, held between 0 and 1.
        """
        expected = self.expected_by_patient
        slope = np.sum(expected * self.realised_by_patient, axis=0) / np.sum(expected**2, axis=0)
        return np.clip(np.nan_to_num(slope, nan=1.0), 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class PerformanceReference:
    """Scored rows with outcomes that the model did not learn from, by which rows without outcomes are judged."""

    rows: _Rows
    event: FloatArray
    regression: _Regression
    overall: _Judged
    groups: dict[str, BoolArray]
    encoding: CovariateEncoding
    centre: float
    spread: float
    columns: tuple[str, str, str]
    subgroups: tuple[str, ...]
    minimum_n: int

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
            covariates: Columns of numbers or levels by whose shift the estimate may move: those that the risk does not
                tell all about, such as age, ward, site.
            subgroups: Columns of levels, for each of which performance is estimated on its own.
            minimum_n: The smallest number of rows of a subgroup, in the reference and in the batch.
            risk: The column of the risk.
            alerted: The column of the alert.
            seed: Of the rows that are drawn for the regression, where there are more than it takes.

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
        if (fewest := _patients_of_each_kind(event, arrays.patient)) < LEAST_PATIENTS:
            raise TooFewPatientsError(
                f"of one kind, with the event or without, the reference has {fewest} patients, and "
                f"{LEAST_PATIENTS} are needed; give more months"
            )
        regression = _regress(arrays, event, seed)
        return cls(
            rows=arrays,
            event=event,
            regression=regression,
            overall=_Judged.of(arrays, event, regression.probability(arrays)),
            groups=dict(_subgroup_rows(rows, subgroups, minimum_n)),
            encoding=encoding,
            centre=centre,
            spread=spread,
            columns=columns,
            subgroups=tuple(subgroups),
            minimum_n=minimum_n,
        )

    def estimate(self, batch: pl.DataFrame, *, invalid_because: str | None = None) -> EstimatedPerformance:
        """What these rows are expected to realise, overall and for each subgroup large enough here and there.

        The 95 % interval is meant to cover the figure that outcomes show once they are ripe. It holds the noise of the
        outcomes of the batch and of the reference, by whole patients so that the rows of one patient stay together, and
        the uncertainty of the regression as far as the batch differs from the reference. A subgroup is drawn to what
        the regression says of it, as far as its own figure is uncertain (Gelman et al. 2013, chapter 5); one too small
        in the reference has no value.

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
        followed = self.overall.share_followed
        findings = self._estimate_rows(OVERALL, here, self.overall, followed)
        sensitivity, _, ratio = (findings[OUTCOME_METRICS.index(name)].value for name in OUTCOME_METRICS[1:])
        events = float(here.risk.sum()) * (ratio or 0.0)
        for name, chosen in _subgroup_rows(batch, self.subgroups, self.minimum_n):
            there = self.groups.get(name)
            if there is None or _patients_of_each_kind(self.event[there], self.rows.patient[there]) < LEAST_PATIENTS:
                n = int(chosen.sum())
                findings += [Finding(metric, name, None, None, None, n) for metric in ESTIMATED_METRICS]
                continue
            rows = self.rows.take(there)
            judged = _Judged.of(rows, self.event[there], self.regression.probability(rows))
            findings += self._estimate_rows(name, here.take(chosen), judged, followed)
        return EstimatedPerformance(
            findings=tuple(findings),
            missed_per_1000=PER_1000 * events * (1 - (sensitivity or 0.0)) / batch.height,
            alerts_per_1000=PER_1000 * float(here.alerted.mean()),
            followed=float(followed[0]),
            note=f"of a change of the AUROC that risks and covariates lead to expect, {followed[0]:.0%} is believed: "
            f"so much came true from patient to patient of {int(self.rows.patient.max()) + 1:,} with outcomes",
            invalid_because=invalid_because or self._without_support(batch),
        )

    def _estimate_rows(self, name: str, here: _Rows, there: _Judged, followed: FloatArray) -> list[Finding]:
        """The findings of one group of the batch, by the same group of the reference."""
        probability = self.regression.probability(here)
        expected = ExpectedFigures.of(here.risk, here.alerted, probability)
        apart = there.realised_by_patient - followed * there.expected_by_patient
        error = _stretch(there) * np.sum(apart**2, axis=0)
        own = GROUP_SPREAD**2 / (GROUP_SPREAD**2 + error)
        before, now = to_scale(there.expected.values), to_scale(expected.values)
        centre = before + own * there.gap + followed * (now - before)
        moved = self._slopes(expected, here) - self._slopes(there.expected, there.rows)
        learnt = followed**2 * np.einsum("cm,cd,dm->m", moved, self.regression.covariance, moved)
        with np.errstate(divide="ignore", invalid="ignore"):
            sampled = error * there.expected.denominators / expected.denominators
        half = Z_95 * np.sqrt(own * error + sampled + learnt)
        # A reference of which all are alerted, or none, has no scale on which its sensitivity could move.
        centre = np.where(there.expected.certain, np.nan, centre)
        ends = (from_scale(end) for end in (centre, centre - half, centre + half))
        values, low, high = (np.where(expected.certain, np.round(expected.values), end) for end in ends)
        alerts = 100 * expected.alerts / expected.n
        return [
            *map(_finding, OUTCOME_METRICS, [name] * len(values), values, low, high, [expected.n] * len(values)),
            Finding("alerts_per_100", name, alerts, alerts, alerts, expected.n),
        ]

    def _slopes(self, figures: ExpectedFigures, rows: _Rows) -> FloatArray:
        """By how much each figure moves, on the scale, with each coefficient: coefficients x metrics."""
        probability = self.regression.probability(rows)
        per_row = figures.of_outcome * (probability * (1 - probability))[:, None] * per_unit_of_scale(figures.values)
        by_slope = rows.covariates.T @ (rows.log_odds[:, None] * per_row)
        return np.vstack([rows.basis.T @ per_row, rows.covariates.T @ per_row, by_slope])

    def _without_support(self, batch: pl.DataFrame) -> str | None:
        unknown = self.encoding.count_unknown(batch)
        column = max(unknown, key=lambda name: unknown[name], default=None)
        if column is None or unknown[column] <= MOST_UNKNOWN_ROWS * batch.height:
            return None
        share = unknown[column] / batch.height
        return f"{share:.0%} of the rows have a {column} that the reference does not know"


def _regress(rows: _Rows, event: FloatArray, seed: int) -> _Regression:
    """The penalised logistic regression of the outcome, and its covariance by patient (Huber 1967; White 1982)."""
    chosen = np.arange(len(event))
    if len(event) > MOST_ROWS:
        chosen = np.random.default_rng(seed).choice(chosen, MOST_ROWS, replace=False)
    drawn, outcome = rows.take(chosen), event[chosen]
    patients = len(np.unique(drawn.patient))
    mass, design = patients / len(chosen), drawn.design
    wide = design.shape[1] - drawn.basis.shape[1]
    held = [0.0, 0.0, *[CURVATURE_PENALTY] * (drawn.basis.shape[1] - 2)]
    penalty = np.r_[held, np.full(wide, COVARIATE_PENALTY)]
    centre = np.r_[logit(float(event.mean())), np.zeros(len(penalty) - 1)]
    fitted = fit_logistic(design, outcome, np.full(len(chosen), mass), penalty, centre)
    probability = from_logit(design @ fitted)
    scaled = design * np.sqrt(mass * probability * (1 - probability))[:, None]
    information = scaled.T @ scaled + np.diag(penalty)
    scores = sum_columns_by_patient(design * (mass * (outcome - probability))[:, None], drawn.patient)
    inverse = np.linalg.pinv(information, hermitian=True)
    return _Regression(fitted, inverse @ (scores.T @ scores) @ inverse)


def _stretch(there: _Judged) -> float:
    """By how much squares of residuals are too small, since the regression was fitted to them (MacKinnon 1985).

    What counts is not the rows but the patients of the rarer kind.
    """
    return there.patients / (there.patients - there.rows.basis.shape[1])


def _patients_of_each_kind(event: FloatArray, patient: IntArray) -> int:
    """The number of patients with events, or of those with other rows, whichever is smaller."""
    return min(len(np.unique(patient[event == kind])) for kind in (0, 1))


def _finding(metric: str, subgroup: str, value: float, low: float, high: float, n: int) -> Finding:
    if not np.isfinite([value, low, high]).all():
        return Finding(metric, subgroup, None, None, None, n)
    return Finding(metric, subgroup, float(value), float(low), float(high), n)


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
    return _Rows(risk, alerted, patient, basis, encoding.apply(rows))


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
    reached = reference.overall.realised
    baseline, found = float(reached.values[OUTCOME_METRICS.index(metric)]), estimate.find(metric)
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
