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

The regression is that of the release and stays: what it expects of a row is written down once, when the row is scored,
and later looks need of the row no covariate. So an estimate does not depend on the order of looks, and costs the same
in every month. What a reference patient is expected to add is said by the regression without this patient's fold (one
Newton step from the whole fit: Rad and Maleki 2020, JRSS B 82), for it was fitted to the patient.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
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
from clinical_assets.monitoring.covariates import (
    CovariateEncoding,
    NotConvergedError,
    curvature_of,
    fit_logistic,
    level_names,
)
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
from clinical_assets.monitoring.moving_level import forecast_level
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
# Parts of the patients, of each of which the regression of the others says what to expect.
FOLDS = 5

EVENT, EXPECTED = "event", "expected_event"
"""Whether a known row had the event, and the probability that the regression of the release gives it."""

EXPECTED_WITHOUT = "expected_without_its_fold"
"""That probability by the regression without the row's patient."""

UNKNOWN_LEVELS = "unknown_levels"
"""The levels of a row's covariates that the release did not know."""

PERIOD = "period"
"""The month of a known row, as months since the year 0; null where no row's is known."""

MOVED_BY_LEVEL = np.array([name in ("ppv", "observed_expected_ratio") for name in OUTCOME_METRICS])
"""The figures that move with the level of the outcome; ranks do not."""

BoolArray = npt.NDArray[np.bool_]


class EstimationError(ValueError):
    """Performance cannot be estimated from these rows; the message names the column, the fault and the remedy."""


class CannotEstimateError(EstimationError):
    """Nothing can be estimated by this reference: too few patients, or a regression that found no maximum."""


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
class Regression:
    """Coefficients of the outcome on risk and covariates, and their covariance with whole patients as the units.

    `centre` and `spread` are those of the log odds of the reference's risks, by which they are standardised.
    """

    coefficients: FloatArray
    covariance: FloatArray
    centre: float
    spread: float

    def expect(self, rows: "_Rows") -> FloatArray:
        """The probability of the event of each row."""
        return _expect(self.coefficients, rows)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scored rows as arrays with one entry a row; patients are numbers from 0."""

    risk: FloatArray
    alerted: FloatArray
    patient: IntArray


@dataclass(frozen=True, slots=True)
class _Rows:
    """Scored rows with their covariates; `basis` holds what the risk says."""

    scored: _Scored
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
        scored = _Scored(self.scored.risk[chosen], self.scored.alerted[chosen], self.scored.patient[chosen])
        return _Rows(scored, self.basis[chosen], self.covariates[chosen])


@dataclass(frozen=True, slots=True)
class _Judged:
    """A group of known rows: what they realised and were expected to, and what each patient adds, on the scale.

    `patients` are those with events, or those with others, whichever are fewer; the arrays are patients x metrics.
    """

    patients: int
    realised: ExpectedFigures
    expected: ExpectedFigures
    realised_by_patient: FloatArray
    expected_by_patient: FloatArray

    @classmethod
    def of(cls, rows: _Scored, event: FloatArray, expected: FloatArray, expected_without: FloatArray) -> Self:
        realised = ExpectedFigures.of(rows.risk, rows.alerted, event)
        figures = ExpectedFigures.of(rows.risk, rows.alerted, expected)
        without = ExpectedFigures.of(rows.risk, rows.alerted, expected_without)
        scaled = per_unit_of_scale(figures.values)
        return cls(
            _patients_of_each_kind(event, rows.patient),
            realised,
            figures,
            sum_columns_by_patient(realised.of_unit * scaled, rows.patient),
            sum_columns_by_patient(without.of_unit * scaled, rows.patient),
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


@dataclass(frozen=True)
class PerformanceReference:
    """Scored rows with outcomes that the model did not learn from, by which rows without outcomes are judged.

    `known` has one row a unit and few columns: the patient, `risk`, `alerted` and subgroups under the names that
    `fit` was given, `event`, `expected_event`, `expected_without_its_fold` and `period`. `slopes` says, for each group
    at the release, by how much each figure moves with each coefficient (coefficients x metrics). `matured_levels` are
    those, as `column=level`, that only matured rows have.
    """

    known: pl.DataFrame
    regression: Regression
    slopes: dict[str, FloatArray]
    encoding: CovariateEncoding
    columns: tuple[str, str, str]
    subgroups: tuple[str, ...]
    minimum_n: int
    matured_levels: frozenset[str] = frozenset()

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
        month: str | None = None,
        seed: int = 0,
    ) -> Self:
        """Keep what estimates need of rows with outcomes, such as the champion's `calibrate` and `test` rows.

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
            month: The column of the month (date), by which the level of the outcome is followed; by default it stands.
            seed: Of the rows that are drawn for the regression, where there are more than it takes, and of the folds.

        Raises:
            CannotEstimateError: If fewer than ten patients have the event, or have none, or the regression finds no
                maximum.
            EstimationError: If a column is missing, a risk is no probability, or an outcome is missing.
        """
        columns = (risk, alerted, patient)
        named = dict.fromkeys((*columns, *covariates, *subgroups))
        _check_columns(rows, [*named, *([outcome_event] if isinstance(outcome_event, str) else [])], "reference")
        outcome = rows[outcome_event] if isinstance(outcome_event, str) else outcome_event
        if unknown := outcome.null_count():
            raise EstimationError(
                f"{unknown:,} of {len(outcome):,} reference rows have no outcome; give matured rows only"
            )
        try:
            event = checked_outcome(outcome)
            log_odds = logit(checked_risk(rows[risk], len(event), risk))
        except EvaluationError as error:
            raise EstimationError(f"reference: {error}") from error
        encoding = CovariateEncoding.fit(rows, covariates)
        centre, spread = float(log_odds.mean()), float(log_odds.std()) or 1.0
        arrays = _with_covariates(rows, columns, centre, spread, encoding, "reference")
        if (fewest := _patients_of_each_kind(event, arrays.scored.patient)) < LEAST_PATIENTS:
            raise CannotEstimateError(
                f"of one kind, with the event or without, the reference has {fewest} patients, and "
                f"{LEAST_PATIENTS} are needed; give more months"
            )
        try:
            regression, expected_without = _regress(arrays, event, centre, spread, seed)
        except NotConvergedError as error:
            raise CannotEstimateError(f"performance without outcomes cannot be told: {error}") from error
        groups = {OVERALL: np.ones(len(event), dtype=np.bool_)} | dict(_subgroup_rows(rows, subgroups, minimum_n))
        known = rows.select(
            *dict.fromkeys((*columns, *subgroups)),
            pl.Series(EVENT, event),
            pl.Series(EXPECTED, regression.expect(arrays)),
            pl.Series(EXPECTED_WITHOUT, expected_without),
            _period_of(month),
        )
        return cls(
            known=known,
            regression=regression,
            slopes={name: _slopes_of(arrays.take(chosen), regression) for name, chosen in groups.items()},
            encoding=encoding,
            columns=columns,
            subgroups=tuple(subgroups),
            minimum_n=minimum_n,
        )

    @property
    def digest(self) -> str:
        """What tells one regression from another: what a row was expected by one says nothing under another."""
        return hashlib.sha256(self.regression.coefficients.tobytes()).hexdigest()[:16]

    @cached_property
    def overall(self) -> _Judged:
        """All known rows together."""
        return self._judge(np.ones(self.known.height, dtype=np.bool_))

    @cached_property
    def _scored(self) -> _Scored:
        return _scored_arrays(self.known, self.columns, "reference")

    @cached_property
    def _groups(self) -> dict[str, BoolArray]:
        return dict(_subgroup_rows(self.known, self.subgroups, self.minimum_n))

    def _judge(self, chosen: BoolArray) -> _Judged:
        scored = self._scored
        _, patient = np.unique(scored.patient[chosen], return_inverse=True)
        event, expected, without = (self.known[name].to_numpy()[chosen] for name in (EVENT, EXPECTED, EXPECTED_WITHOUT))
        return _Judged.of(_Scored(scored.risk[chosen], scored.alerted[chosen], patient), event, expected, without)

    def expect(self, rows: pl.DataFrame) -> pl.Series:
        """The probability of the event of each row by the regression: `expected_event`, to be kept with the row.

        Raises EstimationError as `estimate` does; of no rows it is empty.
        """
        if rows.is_empty():
            return pl.Series(EXPECTED, [], dtype=pl.Float64)
        _check_columns(rows, list(dict.fromkeys((*self.columns, *self.encoding.columns))), "batch")
        return pl.Series(EXPECTED, self.regression.expect(self._arrays_of(rows)), dtype=pl.Float64)

    def unknown_levels(self, rows: pl.DataFrame) -> pl.Series:
        """The levels of each row, as `column=level`, that the release did not know, to be kept with the row."""
        return self.encoding.unknown_levels(rows).alias(UNKNOWN_LEVELS)

    def with_matured(self, rows: pl.DataFrame, month: str | None = None) -> "PerformanceReference":
        """This reference with further rows whose outcomes are known by now; the regression stays as it is.

        Args:
            rows: Scored rows with the names that `fit` was given for risk, alert, patient and subgroups, their `event`
                (0 or 1), their `expected_event` and, where they are known, their `unknown_levels`. May be empty.
            month: The column of their month (date), where `fit` was given one.

        Raises:
            EstimationError: If a column is missing, or an outcome or expectation is.
        """
        if rows.is_empty():
            return self
        kept = [name for name in self.known.columns if name not in (EXPECTED_WITHOUT, PERIOD)]
        _check_columns(rows, kept, "matured rows")
        if unknown := rows.select(pl.any_horizontal(pl.col(EVENT, EXPECTED).is_null()).sum()).item():
            raise EstimationError(f"{unknown:,} of {rows.height:,} matured rows have no outcome, or no expectation")
        # The regression never saw them: what it expects of them is what it expects without them.
        further = rows.select(*kept, pl.col(EXPECTED).alias(EXPECTED_WITHOUT), _period_of(month))
        levels = (
            rows[UNKNOWN_LEVELS].explode(empty_as_null=False).drop_nulls() if UNKNOWN_LEVELS in rows.columns else ()
        )
        return replace(
            self,
            known=pl.concat([self.known, further.cast(pl.Schema(self.known.schema))]),
            matured_levels=self.matured_levels | frozenset(levels),
        )

    def _arrays_of(self, rows: pl.DataFrame) -> "_Rows":
        centre, spread = self.regression.centre, self.regression.spread
        return _with_covariates(rows, self.columns, centre, spread, self.encoding, "batch")

    def estimate(
        self, batch: pl.DataFrame, *, month: date | None = None, invalid_because: str | None = None
    ) -> EstimatedPerformance:
        """What these rows are expected to realise, overall and for each subgroup large enough here and there.

        The 95 % interval is meant to cover the figure that outcomes show once they are ripe. It holds the noise of the
        outcomes of the batch and of the reference, by whole patients so that the rows of one patient stay together, and
        the uncertainty of the regression as far as the batch differs from the rows of the release: where matured months
        lie between the two, their share makes it smaller than is said, never larger. A subgroup is drawn to what
        the regression says of it, as far as its own figure is uncertain (Gelman et al. 2013, chapter 5); one too small
        in the reference has no value.

        Args:
            batch: Scored rows, with the columns that `fit` was given but for the outcome.
            month: That of the batch, where `fit` was given months: O:E and positive predictive value are then those of
                the level of the outcome as it is likely to stand by then (`moving_level`), with that uncertainty.
            invalid_because: Why outcome given risk may have moved, such as a concept shift found on ripe months. An
                estimate is called invalid, too, where many rows have levels that the reference does not know.

        Raises:
            EstimationError: If a column is missing, there is no row, or a risk is no probability.
        """
        named = (*self.columns, *self.encoding.columns, *self.subgroups)
        _check_columns(batch, list(dict.fromkeys(named)), "batch")
        here = self._arrays_of(batch)
        followed = self.overall.share_followed
        moved, uncertain = self._level_in(month, followed)
        findings = self._estimate_rows(OVERALL, here, self.overall, followed, moved, uncertain)
        sensitivity, _, ratio = (findings[OUTCOME_METRICS.index(name)].value for name in OUTCOME_METRICS[1:])
        events = float(here.scored.risk.sum()) * (ratio or 0.0)
        for name, chosen in _subgroup_rows(batch, self.subgroups, self.minimum_n):
            there = self._judge(self._groups[name]) if name in self._groups else None
            if there is None or there.patients < LEAST_PATIENTS:
                n = int(chosen.sum())
                findings += [Finding(metric, name, None, None, None, n) for metric in ESTIMATED_METRICS]
                continue
            findings += self._estimate_rows(name, here.take(chosen), there, followed, moved, uncertain)
        return EstimatedPerformance(
            findings=tuple(findings),
            missed_per_1000=PER_1000 * events * (1 - (sensitivity or 0.0)) / batch.height,
            alerts_per_1000=PER_1000 * float(here.scored.alerted.mean()),
            followed=float(followed[0]),
            note=f"of a change of the AUROC that risks and covariates lead to expect, {followed[0]:.0%} is believed: "
            f"so much came true from patient to patient of {int(self._scored.patient.max()) + 1:,} with outcomes",
            invalid_because=invalid_because or self._without_support(batch),
        )

    def _level_in(self, month: date | None, followed: FloatArray) -> tuple[FloatArray, FloatArray]:
        """By how much each figure's gap will differ by a month from that of all known rows, and what variance it adds.

        A period that has too few patients of either kind is counted with the next.
        """
        moved, added = np.zeros(len(OUTCOME_METRICS)), np.zeros(len(OUTCOME_METRICS))
        if month is None or self.known[PERIOD].null_count():
            return moved, added
        period, error = self.known[PERIOD].to_numpy(), self._error_of(self.overall, followed)
        numbers, judged, pending = [], [], np.zeros(self.known.height, dtype=np.bool_)
        for number in np.unique(period):
            pending |= period == number
            patient, event = self._scored.patient[pending], self.known[EVENT].to_numpy()[pending]
            if len(np.unique(event)) == 2 and _patients_of_each_kind(event, patient) >= LEAST_PATIENTS:
                numbers.append(int(number))
                judged.append(self._judge(pending))
                pending = np.zeros(self.known.height, dtype=np.bool_)
        for place in np.flatnonzero(MOVED_BY_LEVEL):
            whole = self.overall.expected.denominators[place]
            variance = np.array([error[place] * whole / each.expected.denominators[place] for each in judged])
            found = forecast_level(numbers, np.array([each.gap[place] for each in judged]), variance, _number(month))
            if found is not None:
                moved[place] = found.mean - self.overall.gap[place]
                added[place] = max(found.variance - error[place], 0.0)
        return moved, added

    def _error_of(self, there: _Judged, followed: FloatArray) -> FloatArray:
        apart = there.realised_by_patient - followed * there.expected_by_patient
        return _stretch(there) * np.sum(apart**2, axis=0)

    def _estimate_rows(
        self,
        name: str,
        here: "_Rows",
        there: _Judged,
        followed: FloatArray,
        level: FloatArray,
        uncertain: FloatArray,
    ) -> list[Finding]:
        """The findings of one group of the batch, by the same group of the reference."""
        probability = self.regression.expect(here)
        expected = ExpectedFigures.of(here.scored.risk, here.scored.alerted, probability)
        error = self._error_of(there, followed)
        own = GROUP_SPREAD**2 / (GROUP_SPREAD**2 + error)
        before, now = to_scale(there.expected.values), to_scale(expected.values)
        centre = before + own * there.gap + level + followed * (now - before)
        # A group that the release hardly knew is compared with all rows of the release.
        moved = _slopes(expected, here, probability) - self.slopes.get(name, self.slopes[OVERALL])
        learnt = followed**2 * np.einsum("cm,cm->m", moved, self.regression.covariance @ moved)
        with np.errstate(divide="ignore", invalid="ignore"):
            sampled = error * there.expected.denominators / expected.denominators
        half = Z_95 * np.sqrt(own * error + sampled + learnt + uncertain)
        # A reference of which all are alerted, or none, has no scale on which its sensitivity could move.
        centre = np.where(there.expected.certain, np.nan, centre)
        ends = (from_scale(end) for end in (centre, centre - half, centre + half))
        values, low, high = (np.where(expected.certain, np.round(expected.values), end) for end in ends)
        alerts = 100 * expected.alerts / expected.n
        return [
            *map(_finding, OUTCOME_METRICS, [name] * len(values), values, low, high, [expected.n] * len(values)),
            Finding("alerts_per_100", name, alerts, alerts, alerts, expected.n),
        ]

    def _without_support(self, batch: pl.DataFrame) -> str | None:
        unknown = self.encoding.count_unknown(batch, self.matured_levels)
        column = max(unknown, key=lambda name: unknown[name], default=None)
        if column is None or unknown[column] <= MOST_UNKNOWN_ROWS * batch.height:
            return None
        share = unknown[column] / batch.height
        return f"{share:.0%} of the rows have a {column} that the reference does not know"


def _period_of(month: str | None) -> pl.Expr:
    of_row = pl.col(month) if month is not None else pl.lit(None, pl.Date)
    return (12 * of_row.dt.year() + of_row.dt.month()).cast(pl.Int32).alias(PERIOD)


def _number(month: date) -> int:
    return 12 * month.year + month.month


def _expect(coefficients: FloatArray, rows: _Rows) -> FloatArray:
    basis, covariates = rows.basis.shape[1], rows.covariates.shape[1]
    parts = np.split(coefficients, [basis, basis + covariates])
    return from_logit(rows.basis @ parts[0] + rows.covariates @ parts[1] + rows.log_odds * (rows.covariates @ parts[2]))


def _slopes(figures: ExpectedFigures, rows: _Rows, probability: FloatArray) -> FloatArray:
    """By how much each figure moves, on the scale, with each coefficient: coefficients x metrics."""
    per_row = figures.of_outcome * (probability * (1 - probability))[:, None] * per_unit_of_scale(figures.values)
    by_slope = rows.covariates.T @ (rows.log_odds[:, None] * per_row)
    return np.vstack([rows.basis.T @ per_row, rows.covariates.T @ per_row, by_slope])


def _slopes_of(rows: _Rows, regression: Regression) -> FloatArray:
    probability = regression.expect(rows)
    return _slopes(ExpectedFigures.of(rows.scored.risk, rows.scored.alerted, probability), rows, probability)


def _regress(rows: _Rows, event: FloatArray, centre: float, spread: float, seed: int) -> tuple[Regression, FloatArray]:
    """The penalised logistic regression of the outcome, and what it expects of each row without the row's fold.

    Its covariance is by patient (Huber 1967; White 1982). Raises NotConvergedError where it finds no maximum.
    """
    generator, chosen = np.random.default_rng(seed), np.arange(len(event))
    if len(event) > MOST_ROWS:
        chosen = generator.choice(chosen, MOST_ROWS, replace=False)
    drawn, outcome = rows.take(chosen), event[chosen]
    _, patient = np.unique(drawn.scored.patient, return_inverse=True)
    patients = int(patient.max()) + 1
    mass, design = patients / len(chosen), drawn.design
    weight, basis = np.full(len(chosen), mass), drawn.basis.shape[1]
    penalty = np.r_[0.0, 0.0, [CURVATURE_PENALTY] * (basis - 2), [COVARIATE_PENALTY] * (design.shape[1] - basis)]
    to = np.r_[logit(float(event.mean())), np.zeros(len(penalty) - 1)]
    # What the risk says alone is found at once, and is near the whole.
    start = to.copy()
    start[:basis] = fit_logistic(drawn.basis, outcome, weight, penalty[:basis], to[:basis])
    fitted = fit_logistic(design, outcome, weight, penalty, to, start)
    probability = from_logit(design @ fitted)
    fold_of_patient = generator.permutation(int(rows.scored.patient.max()) + 1) % FOLDS
    fold = fold_of_patient[drawn.scored.patient]
    variance, none = mass * probability * (1 - probability), np.zeros(len(penalty))
    curvatures = [curvature_of(design[fold == k], variance[fold == k], none) for k in range(FOLDS)]
    information = np.sum(curvatures, axis=0) + np.diag(penalty)
    residual = mass * (outcome - probability)
    without = np.empty(len(event))
    for k, curvature in enumerate(curvatures):
        # At the maximum the gradient of the others is that of the fold, less its sign.
        step = np.linalg.solve(information - curvature, design[fold == k].T @ residual[fold == k])
        members = fold_of_patient[rows.scored.patient] == k
        without[members] = _expect(fitted - step, rows.take(members))
    scores = _sum_by_patient(design, residual, patient)
    inverse = np.linalg.inv(information)
    covariance = inverse @ (scores.T @ scores).astype(np.float64) @ inverse
    return Regression(fitted, covariance, centre, spread), without


def _sum_by_patient(design: FloatArray, residual: FloatArray, patient: IntArray) -> npt.NDArray[np.float32]:
    """The sum of design times residual over each patient's rows, in single precision: patients x coefficients."""
    order = np.argsort(patient, kind="stable")
    starts = np.flatnonzero(np.diff(patient[order], prepend=-1))
    return np.add.reduceat((design[order] * residual[order, None]).astype(np.float32), starts, axis=0)


def _stretch(there: _Judged) -> float:
    """By how much squares of residuals are too small, since figures were fitted to them (MacKinnon 1985).

    What counts is not the rows but the patients of the rarer kind.
    """
    return there.patients / (there.patients - len(OUTCOME_METRICS))


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


def _scored_arrays(rows: pl.DataFrame, columns: tuple[str, str, str], which: str) -> _Scored:
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
    return _Scored(risk, rows[alerted_column].cast(pl.Float64).to_numpy(), patient)


def _with_covariates(
    rows: pl.DataFrame,
    columns: tuple[str, str, str],
    centre: float,
    spread: float,
    encoding: CovariateEncoding,
    which: str,
) -> _Rows:
    scored = _scored_arrays(rows, columns, which)
    log_odds = (logit(scored.risk) - centre) / spread
    basis = np.column_stack([np.ones(len(log_odds)), log_odds, log_odds**2, scored.alerted])
    return _Rows(scored, basis, encoding.apply(rows))


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
