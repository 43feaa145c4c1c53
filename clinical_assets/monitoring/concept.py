"""Whether the outcome, given the risk, has moved since release: evidence that may be looked at every month.

Belongs here: concept shift, on ripe outcomes alone. Does not belong here: whether inputs moved (`drift`), how well the
model performs (`performance_watch`), and what is done about it.

The evidence is an e-process. Without a shift beyond the tolerated one its expectation never exceeds 1, however often it
is looked at, so it reaches 1 / level with a probability of at most `level` (Ville 1939, "Etude critique de la notion de
collectif"; Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38).
"""

from collections.abc import Mapping, Sequence
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
    Patients,
    checked_outcome,
    checked_risk,
    patient_numbers,
)
from clinical_assets.monitoring.performance import RISK, PerformanceError
from clinical_assets.monitoring.performance_watch import accumulate_from_any_month
from clinical_assets.protocol import Finding, Monitoring

FEWEST_PATIENTS = 10
"""Fewer reference patients with the event, or without it, give no calibration to compare with."""

REFERENCE_SHARE = 0.5
"""The share of the level spent on the reference being an estimate; the rest is the evidence's."""

SWEEPS = 8
SMALLEST_CURVATURE = 1e-9
LARGEST_LOG_ODDS = 30.0
WIDEST_SHIFT = 5.0

INTERCEPT_SHIFTS = (-1.2, -0.8, -0.5, -0.3, -0.15, 0.15, 0.3, 0.5, 0.8, 1.2)
SLOPE_RATIOS = (0.5, 0.75, 1.3)
INTERCEPT_SHIFTS_WITH_SLOPE = (-0.4, 0.0, 0.4)
ALTERNATIVES = np.array(
    [(shift, 1.0) for shift in INTERCEPT_SHIFTS]
    + [(shift, ratio) for ratio in SLOPE_RATIOS for shift in INTERCEPT_SHIFTS_WITH_SLOPE]
)
"""The movements bet on, each with the same weight: a shift of the log odds at the centre, and a ratio of slopes."""

GROUPS_SCHEMA = pl.Schema(
    {
        "subgroup": pl.String,
        "log10_evidence": pl.Float64,
        "log10_needed": pl.Float64,
        "alarmed_on": pl.Date,
        "began": pl.Date,
        "intercept_shift": pl.Float64,
        "slope_ratio": pl.Float64,
        "observed_expected_ratio": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "events": pl.Int64,
        "n": pl.Int64,
    }
)


@dataclass(frozen=True, slots=True)
class ConceptReference:
    """The champion's own calibration at release, on rows it did not learn from, and how well that is known.

    log odds of the event = `intercept` + `slope` * (logit of the risk - `centre`). The centre makes the two estimates
    uncorrelated under the model. Each patient's month weighs one; standard errors are clustered by patient (Liang and
    Zeger 1986). `lowest_shift` and `highest_shift` are the movements of the intercept at which observed over expected
    leaves what is tolerated.
    """

    intercept: float
    slope: float
    centre: float
    intercept_error: float
    slope_error: float
    lowest_shift: float
    highest_shift: float
    patients_with_event: int

    @classmethod
    def fit(
        cls,
        event: npt.ArrayLike,
        risk: npt.ArrayLike,
        patient: Patients,
        month: pl.Series,
        tolerated_miscalibration: float,
    ) -> Self | None:
        """The logistic recalibration of reference rows; None where too few patients have the event, or have it not.

        `event` (0 or 1), `risk` (probability), `patient` and `month` have one entry a row. Observed over expected may
        lie within 1 / (1 + x) and 1 + x with x the `tolerated_miscalibration`, on the reference's own risks. Raises
        EvaluationError where there are no rows, or an outcome or risk is neither.
        """
        outcome = checked_outcome(event)
        predicted = checked_risk(risk, len(outcome))
        numbers, patients = patient_numbers(patient, len(outcome))
        ever = np.bincount(numbers, outcome, patients) > 0
        if min(ever.sum(), patients - ever.sum()) < FEWEST_PATIENTS:
            return None
        order = np.lexsort((numbers, _numbered(month)))
        rows = _Stream(outcome[order], logit(predicted)[order], numbers[order], _numbered(month)[order])
        level, slope = _recalibrate(rows)
        if not np.isfinite(level + slope):
            return None
        weight, fitted = rows.weight, from_logit(level + slope * rows.log_odds)
        centre = float(np.average(rows.log_odds, weights=weight * fitted * (1 - fitted)))
        rows = rows.centred(centre)
        intercept = level + slope * centre
        errors = _clustered_errors(rows, fitted)
        lowest, highest = _tolerated_shifts(intercept + slope * rows.log_odds, weight, tolerated_miscalibration)
        return cls(
            intercept=intercept,
            slope=slope,
            centre=centre,
            intercept_error=float(errors[0]),
            slope_error=float(errors[1]),
            lowest_shift=lowest,
            highest_shift=highest,
            patients_with_event=int(ever.sum()),
        )

    def tolerated(self, level: float) -> tuple[FloatArray, FloatArray]:
        """Smallest and largest intercept and slope that count as unmoved; the true ones are outside at most so often.

        Student's t with the degrees of freedom of the patients with the event, half the level for each of the two.
        """
        from scipy.stats import t

        width = float(t.isf(level / 4, self.patients_with_event - 2))
        centre = np.array([self.intercept, self.slope])
        around = width * np.array([self.intercept_error, self.slope_error])
        return centre - around + [self.lowest_shift, 0.0], centre + around + [self.highest_shift, 0.0]


@dataclass(frozen=True, slots=True)
class ConceptEvidence:
    """What the ripe outcomes since release say of the outcome given the risk, for the group that says most.

    `moved`: the evidence reached what its level asks for in some month since release, overall or in a subgroup.
    `ruled_out`: it did not, and the interval of observed over expected lies within the tolerance. Neither: it cannot be
    told yet. `log10_evidence` is the largest up to now, None where nothing can be compared. `shift` are the findings
    `intercept_shift`, `slope_ratio` and `observed_expected_ratio` (against the champion's calibration at release) since
    `began`, the likeliest start; without any evidence `began` is None, and they are since release. Their 95 %
    intervals are plain ones: clustered by patient, reference error included, not time-uniform, and blind to the start
    having been chosen. `groups` has one row a group (`GROUPS_SCHEMA`).
    """

    moved: bool
    ruled_out: bool
    subgroup: str
    log10_evidence: float | None
    log10_needed: float
    alarmed_on: date | None
    began: date | None
    shift: tuple[Finding, ...]
    reason: str
    groups: pl.DataFrame


@dataclass(frozen=True, slots=True)
class _Stream:
    """Rows of one group in order of month and patient; `log_odds` are of the risk, less the reference's centre."""

    outcome: FloatArray
    log_odds: FloatArray
    patient: IntArray
    month: IntArray

    @property
    def starts(self) -> IntArray:
        """The first row of each patient in each month."""
        return np.flatnonzero((np.diff(self.patient, prepend=-1) != 0) | (np.diff(self.month, prepend=-1) != 0))

    @property
    def weight(self) -> FloatArray:
        """1 over the patient's rows in the month."""
        rows_of_patient = np.diff(np.r_[self.starts, len(self.patient)])
        return np.repeat(1 / rows_of_patient, rows_of_patient)

    def centred(self, centre: float) -> "_Stream":
        return _Stream(self.outcome, self.log_odds - centre, self.patient, self.month)

    def where(self, rows: npt.NDArray[np.bool_] | slice) -> "_Stream":
        return _Stream(self.outcome[rows], self.log_odds[rows], self.patient[rows], self.month[rows])

    def of_month(self, month: int) -> "_Stream":
        start, stop = np.searchsorted(self.month, [month, month + 1])
        return self.where(slice(start, stop))

    def since(self, month: int) -> "_Stream":
        return self.where(slice(np.searchsorted(self.month, month), None))


@dataclass(frozen=True, slots=True)
class _GroupEvidence:
    subgroup: str
    log10_evidence: float | None
    log10_needed: float
    alarmed_on: date | None
    began: date | None
    shift: tuple[Finding, ...]
    events: int
    n: int


def fit_concept_references(
    rows: pl.DataFrame, tolerated_miscalibration: float, subgroups: Sequence[str] = (), minimum_n: int = 1
) -> dict[str, ConceptReference | None]:
    """The champion's calibration at release by group: `overall`, and `column=level` of every level of the subgroups.

    `rows` are matured ones that the champion did not learn from, scored by it, with `event` (0 or 1), `risk`,
    `patient`, `month` (date) and the subgroups. None stands where rows or patients are too few to tell. Raises
    PerformanceError and EvaluationError as `weigh_concept` does.
    """
    _require(rows, "reference rows", ("event", RISK, "patient", "month", *subgroups))
    references = {OVERALL: _fit_reference(rows, tolerated_miscalibration, minimum_n)}
    for column in subgroups:
        levels = rows[column].cast(pl.String).fill_null(MISSING)
        for level in levels.unique().sort():
            members = rows.filter(levels == level)
            references[f"{column}={level}"] = _fit_reference(members, tolerated_miscalibration, minimum_n)
    return references


def weigh_concept(
    rows: pl.DataFrame,
    references: Mapping[str, ConceptReference | None],
    policy: Monitoring,
    subgroups: Sequence[str] = (),
    minimum_n: int = 1,
) -> ConceptEvidence:
    """Evidence, over all months since release, that the outcome given the risk moved by more than is tolerated.

    Unmoved is every month whose calibration is the champion's own (`ConceptReference`) within its uncertainty and the
    policy's `tolerated_miscalibration`; the tolerated movement may differ from month to month. For each movement bet
    on, a month's evidence is the smallest likelihood ratio over all of these (universal inference: Wasserman, Ramdas
    and Balakrishnan 2020, PNAS 117), so no unmoved stream gains by it. It is found by convexity: a tangent of the log
    ratio lies below it, and its smallest value on the tolerated box is taken, which can only lessen the evidence.
    A patient's rows in one month count as the average of their ratios, whatever their dependence. Therefore each
    patient's month weighs one, in the reference too: where an event brings further rows, such as a readmission, a mere
    average of rows with and without one would not be calibrated (informative cluster size: Williamson, Datta and Satten
    2003). So give whole months: one of which some rows are not ripe yet is another sample. Patients multiply; one who
    comes back in another month counts as a new one. The movement may begin in any month (`accumulate_from_any_month`).
    Half the level is for all rows, half for the subgroups in equal parts.

    Args:
        rows: Scored rows of wholly ripe months since release: `event` (0 or 1), `risk`, `patient`, `month` (date)
            and the subgroups.
        references: The champion's calibration at release (`fit_concept_references`); of a group without one nothing
            can be told.
        policy: The chance of a false alarm a year, and what is tolerated.
        subgroups: Columns, each value of which is a group of its own.
        minimum_n: Subgroups with fewer rows are left out.

    Raises:
        PerformanceError: If a column is missing or a month is null.
        EvaluationError: If there are no rows, an outcome is not 0 or 1, or a risk is no probability.
    """
    _require(rows, "rows", ("event", RISK, "patient", "month", *subgroups))
    outcome, risk = checked_outcome(rows["event"]), checked_risk(rows[RISK], rows.height)
    patient, _ = patient_numbers(rows["patient"], rows.height)
    months = rows["month"].unique().sort()
    month = _numbered(rows["month"])
    order = np.lexsort((patient, month))
    whole = _Stream(outcome[order], logit(risk)[order], patient[order], month[order])
    groups = _groups(rows.select("month", *subgroups)[order], subgroups, minimum_n)
    comparable = sum(references.get(name) is not None for name, _ in groups[1:])
    weights = [0.5 if comparable else 1.0, *[0.5 / max(comparable, 1)] * (len(groups) - 1)]
    weighed = [
        _weigh_group(
            name,
            whole.where(mask),
            references.get(name),
            months.to_list(),
            policy.false_alarms_per_year * weight,
        )
        for (name, mask), weight in zip(groups, weights, strict=True)
    ]
    return _conclude(weighed, policy)


def _require(rows: pl.DataFrame, what: str, needed: Sequence[str]) -> None:
    if absent := [column for column in needed if column not in rows.columns]:
        raise PerformanceError(f"the {what} lack the columns {absent}; score the rows and join their outcomes first")
    if rows["month"].dtype != pl.Date:
        raise PerformanceError(f"month is of type {rows['month'].dtype}; give the first day of the month as a date")
    if missing := rows["month"].null_count():
        raise PerformanceError(f"month: {missing:,} of {rows.height:,} {what} have none; every row needs its month")


def _groups(rows: pl.DataFrame, subgroups: Sequence[str], minimum_n: int) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and rows of everyone, and of each level with enough rows."""
    groups = [(OVERALL, np.ones(rows.height, dtype=bool))]
    for column in subgroups:
        here = rows[column].cast(pl.String).fill_null(MISSING)
        for level in here.unique().sort():
            mask = (here == level).to_numpy()
            if mask.sum() >= minimum_n:
                groups.append((f"{column}={level}", mask))
    return groups


def _fit_reference(rows: pl.DataFrame, tolerated_miscalibration: float, minimum_n: int) -> ConceptReference | None:
    if rows.height < minimum_n:
        return None
    return ConceptReference.fit(rows["event"], rows[RISK], rows["patient"], rows["month"], tolerated_miscalibration)


def _weigh_group(
    name: str,
    stream: _Stream,
    reference: ConceptReference | None,
    months: list[date],
    level: float,
) -> _GroupEvidence:
    events, n = int(stream.outcome.sum()), len(stream.outcome)
    needed = float(-np.log10(level * (1 - REFERENCE_SHARE)))
    if reference is None:
        return _GroupEvidence(name, None, needed, None, None, (), events, n)
    stream = stream.centred(reference.centre)
    low, high = reference.tolerated(level * REFERENCE_SHARE)
    monthly = np.stack(
        [_log_evidence_of_month(stream.of_month(month), reference, low, high) for month in range(len(months))], axis=1
    )
    accumulated = accumulate_from_any_month(monthly)
    so_far = accumulated.log_evidence / np.log(10)
    alarms = np.flatnonzero(so_far >= needed)
    # Without evidence the likeliest start means nothing, and all months are measured.
    began = accumulated.most_likely_start if so_far.max() > 0 else None
    return _GroupEvidence(
        subgroup=name,
        log10_evidence=float(so_far.max()),
        log10_needed=needed,
        alarmed_on=months[alarms[0]] if len(alarms) else None,
        began=months[began] if began is not None else None,
        shift=_estimate_shift(name, stream.since(began or 0), reference),
        events=events,
        n=n,
    )


def _log_evidence_of_month(rows: _Stream, reference: ConceptReference, low: FloatArray, high: FloatArray) -> FloatArray:
    """Natural log of one month's e-value for each of the `ALTERNATIVES`; 0 for a month without rows."""
    if not len(rows.outcome):
        return np.zeros(len(ALTERNATIVES))
    moved = np.array([reference.intercept, 0.0]) + ALTERNATIVES * np.array([1.0, reference.slope])
    fitted = _fit_within(rows, low, high)
    value, gradient = _log_ratio(rows, moved, fitted[None, :])
    bound = value + _lowest_on_tangent(gradient, low - fitted, high - fitted)
    # A tangent where the ratio is least is the tightest; only a bet that has won is worth the search.
    won = value > 0
    if won.any():
        risk = from_logit(fitted[0] + fitted[1] * rows.log_odds)
        spread = rows.weight * risk * (1 - risk)
        curvature = np.array([spread.sum(), spread @ rows.log_odds**2])
        nearer = np.clip(fitted - gradient[won] / np.maximum(curvature, SMALLEST_CURVATURE), low, high)
        value, gradient = _log_ratio(rows, moved[won], nearer)
        bound[won] = np.maximum(bound[won], value + _lowest_on_tangent(gradient, low - nearer, high - nearer))
    return bound


def _log_ratio(rows: _Stream, moved: FloatArray, unmoved: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sum over patients of the log of the mean likelihood ratio of their rows, and its gradient in the unmoved.

    `moved` (bets x 2) and `unmoved` (bets, or 1, x 2) are intercepts and slopes; gives bets and bets x 2.
    """
    starts, sign = rows.starts, 2 * rows.outcome - 1
    before = unmoved[:, :1] + unmoved[:, 1:] * rows.log_odds
    after = moved[:, :1] + moved[:, 1:] * rows.log_odds
    ratio = rows.weight * (1 + np.exp(-_held(sign * before))) / (1 + np.exp(-_held(sign * after)))
    by_patient = np.add.reduceat(ratio, starts, axis=1)
    ratio *= from_logit(before) - rows.outcome
    of_intercept = np.sum(np.add.reduceat(ratio, starts, axis=1) / by_patient, axis=1)
    ratio *= rows.log_odds
    of_slope = np.sum(np.add.reduceat(ratio, starts, axis=1) / by_patient, axis=1)
    return np.log(by_patient).sum(axis=1), np.stack([of_intercept, of_slope], axis=1)


def _lowest_on_tangent(gradient: FloatArray, to_low: FloatArray, to_high: FloatArray) -> FloatArray:
    """How far the tangent falls at most, on the way to any corner of the box."""
    return np.minimum(gradient * to_low, gradient * to_high).sum(axis=1)


def _fit_within(rows: _Stream, low: FloatArray, high: FloatArray) -> FloatArray:
    """The likeliest intercept and slope in a box, by Newton steps on each in turn; where the tangent is taken."""
    weight, fitted = rows.weight, (low + high) / 2
    for _ in range(SWEEPS):
        for position, covariate in enumerate((np.ones_like(rows.log_odds), rows.log_odds)):
            risk = from_logit(fitted[0] + fitted[1] * rows.log_odds)
            gradient = np.sum(weight * covariate * (rows.outcome - risk))
            curvature = np.sum(weight * covariate**2 * risk * (1 - risk))
            step = gradient / max(curvature, SMALLEST_CURVATURE)
            fitted[position] = np.clip(fitted[position] + step, low[position], high[position])
    return fitted


def _estimate_shift(name: str, rows: _Stream, reference: ConceptReference) -> tuple[Finding, ...]:
    """How far intercept, slope and observed over expected lie from the reference, with plain 95 % intervals."""
    n = len(rows.outcome)
    level, slope = _recalibrate(rows) if n else (np.nan, np.nan)
    if not np.isfinite(level + slope):
        unknown = (Finding(metric, name, None, None, None, n) for metric in ("intercept_shift", "slope_ratio"))
        return (*unknown, _over_expected(name, rows, reference))
    errors = _clustered_errors(rows, from_logit(level + slope * rows.log_odds))
    moved, ratio = level - reference.intercept, slope / reference.slope
    of_shift = Z_95 * float(np.hypot(errors[0], reference.intercept_error))
    of_ratio = Z_95 * float(np.hypot(errors[1], ratio * reference.slope_error)) / abs(reference.slope)
    return (
        Finding("intercept_shift", name, moved, moved - of_shift, moved + of_shift, n),
        Finding("slope_ratio", name, ratio, ratio - of_ratio, ratio + of_ratio, n),
        _over_expected(name, rows, reference),
    )


def _over_expected(name: str, rows: _Stream, reference: ConceptReference) -> Finding:
    """Observed over what the reference calibration expects; the interval is symmetric in its logarithm."""
    weight, fitted = rows.weight, from_logit(reference.intercept + reference.slope * rows.log_odds)
    observed, expected = float(weight @ rows.outcome), float(weight @ fitted)
    if observed == 0:
        value = 0.0 if expected > 0 else None
        return Finding("observed_expected_ratio", name, value, None, None, len(rows.outcome))
    value = observed / expected
    by_patient = np.bincount(rows.patient, weight * (rows.outcome - value * fitted))
    spread = weight * fitted * (1 - fitted)
    of_reference = np.array(
        [spread.sum() * reference.intercept_error, (spread @ rows.log_odds) * reference.slope_error]
    )
    error = float(np.hypot(np.linalg.norm(by_patient) / observed, np.linalg.norm(of_reference) / expected))
    factor = float(np.exp(Z_95 * error))
    return Finding("observed_expected_ratio", name, value, value / factor, value * factor, len(rows.outcome))


def _conclude(weighed: list[_GroupEvidence], policy: Monitoring) -> ConceptEvidence:
    comparable = [group for group in weighed if group.log10_evidence is not None]
    strongest = max(comparable, key=lambda g: (g.log10_evidence or 0.0) - g.log10_needed, default=weighed[0])
    # Without an alarm the overall figures are the ones to report: a subgroup's excess is then chance.
    chosen = strongest if strongest.alarmed_on is not None else weighed[0]
    over = chosen.shift[2] if chosen.shift else None
    bound = 1 + policy.tolerated_miscalibration
    within = (
        over is not None and over.low is not None and over.high is not None and 1 / bound < over.low < over.high < bound
    )
    moved = chosen.alarmed_on is not None
    return ConceptEvidence(
        moved=moved,
        ruled_out=not moved and within,
        subgroup=chosen.subgroup,
        log10_evidence=chosen.log10_evidence,
        log10_needed=chosen.log10_needed,
        alarmed_on=chosen.alarmed_on,
        began=chosen.began,
        shift=chosen.shift,
        reason=_in_words(chosen, over, moved, within, bound),
        groups=pl.DataFrame(
            [
                (
                    group.subgroup,
                    group.log10_evidence,
                    group.log10_needed,
                    group.alarmed_on,
                    group.began,
                    *(finding.value for finding in group.shift or (_UNKNOWN,) * 3),
                    group.shift[2].low if group.shift else None,
                    group.shift[2].high if group.shift else None,
                    group.events,
                    group.n,
                )
                for group in weighed
            ],
            schema=GROUPS_SCHEMA,
            orient="row",
        ),
    )


_UNKNOWN = Finding("", "", None, None, None, 0)


def _in_words(group: _GroupEvidence, over: Finding | None, moved: bool, within: bool, bound: float) -> str:
    if group.log10_evidence is None:
        return (
            "Whether the outcome given the risk moved cannot be told: the reference has fewer than "
            f"{FEWEST_PATIENTS} patients with the event, or without it, or no calibration can be fitted to it."
        )
    who = "" if group.subgroup == OVERALL else f" for {group.subgroup}"
    since = f"since {group.began:%Y-%m}" if group.began else "since release"
    seen = f"the events expected {since} cannot be counted{who}"
    if over is not None and over.value is not None:
        interval = "no interval, for there was none"
        if over.low is not None and over.high is not None:
            interval = f"plain 95 % interval {over.low:.2f} to {over.high:.2f}"
        seen = f"{over.value:.2f} of the events expected {since} were observed{who} ({interval})"
    evidence = f"evidence 10^{group.log10_evidence:.1f}, needed 10^{group.log10_needed:.1f}"
    if moved:
        return f"The outcome given the risk has moved{who}: {seen}; {evidence}."
    if within:
        return f"The outcome given the risk has not moved beyond the tolerance: {seen}; {evidence}."
    return (
        f"It cannot be told yet whether the outcome given the risk moved beyond the tolerance of {1 / bound:.2f} to "
        f"{bound:.2f}: {seen}; {evidence}."
    )


def _recalibrate(rows: _Stream) -> tuple[float, float]:
    level, slope = fit_recalibration(rows.outcome, from_logit(rows.log_odds), rows.weight[None, :])
    return float(level[0]), float(slope[0])


def _clustered_errors(rows: _Stream, fitted: FloatArray) -> FloatArray:
    """Standard errors (2) of intercept and slope of a logistic regression, clustered by patient (Liang, Zeger 1986)."""
    weight, design = rows.weight, np.stack([np.ones_like(rows.log_odds), rows.log_odds], axis=1)
    bread = np.linalg.inv(design.T @ (design * (weight * fitted * (1 - fitted))[:, None]))
    patient = np.unique(rows.patient, return_inverse=True)[1]
    residual = weight * (rows.outcome - fitted)
    scores = np.stack([np.bincount(patient, residual * column) for column in design.T], axis=1)
    return np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread) * len(scores) / (len(scores) - 1))


def _tolerated_shifts(log_odds: FloatArray, weight: FloatArray, tolerated_miscalibration: float) -> tuple[float, float]:
    """The shifts of all log odds at which the mean risk is 1 / (1 + x) and 1 + x times what it was, at most 5."""
    from scipy.optimize import root_scalar

    def mean_risk(shift: float) -> float:
        return float(np.average(from_logit(log_odds + shift), weights=weight))

    factor = 1 + tolerated_miscalibration
    least, most = mean_risk(0.0) / factor, mean_risk(0.0) * factor
    lowest = root_scalar(lambda shift: mean_risk(shift) - least, bracket=(-WIDEST_SHIFT, 0.0)).root
    if mean_risk(WIDEST_SHIFT) <= most:
        return lowest, WIDEST_SHIFT
    highest = root_scalar(lambda shift: mean_risk(shift) - most, bracket=(0.0, WIDEST_SHIFT)).root
    return lowest, highest


def _numbered(month: pl.Series) -> IntArray:
    return month.rank("dense").to_numpy().astype(np.int64) - 1


def _held(log_odds: FloatArray) -> FloatArray:
    return np.clip(log_odds, -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)
