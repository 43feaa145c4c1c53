"""What should be done about a model, in view of a month: the smallest repair that is shown to help on held-out rows.

Belongs here: the ladder of repairs, what each would gain on ripe rows, and the choice. Does not belong here: how drift
or loss is found, when a repair is started (`repair_request`), and the making of a candidate.

After Davis et al. 2019 (JAMIA 26:1448) and Vergouwe et al. 2017 (Stat Med 36:4529): updates are nested, each is fitted
on some patients and scored on others, and the simplest is taken that no larger one significantly betters. A repair must
help significantly (its interval lies above 0) and relevantly (it mends more than the protocol tolerates).
Errors are those of sums over patients (Liang & Zeger 1986), so that the hours of one patient count as one witness.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, hypot, log, log1p, sqrt
from statistics import NormalDist

import numpy as np
import polars as pl

from clinical_assets.evaluation.calibration import (
    LOGIT_FLOOR,
    Z_95,
    calibration_intercept,
    fit_recalibration,
    from_logit,
    logit,
)
from clinical_assets.evaluation.operating_point import choose_threshold
from clinical_assets.evaluation.sample import (
    EvaluationError,
    FloatArray,
    IntArray,
    Sample,
    checked_outcome,
    checked_risk,
    patient_numbers,
)
from clinical_assets.protocol import Finding, Monitoring, OperatingPoint, Repair, Verdict

FOLDS = 10
FAMILIES = 4
"""What may each help by chance: a recalibration, a threshold, a retraining, an earlier release."""

LEAST_PATIENTS = 20
"""Patients with an event, and patients without: ten for each of the two numbers fitted (Peduzzi et al. 1996)."""

RIPE_COLUMNS = ("patient", "event", "risk")
EARLIER_RELEASES = {"previous_release_risk": "the previous release", "first_release_risk": "the first release"}

MISPLACED = "events per 1,000 rows no longer misplaced"
AUROC = "AUROC"

OPTIONS_SCHEMA = pl.Schema(
    {
        "rung": pl.String,
        "benefit": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "unit": pl.String,
        "n": pl.Int64,
        "chosen": pl.Boolean,
        "reason": pl.String,
    }
)


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """The repair, why in a sentence, and every rung with its expected benefit: columns of `OPTIONS_SCHEMA`.

    A recalibration has `intercept` and `slope` of the new log odds; it and a moved threshold have the `threshold` on
    the risks of the candidate. All three are fitted on every ripe row. `roll_back_to` names the column of the earlier
    release's risks.
    """

    repair: Repair
    reason: str
    options: pl.DataFrame
    intercept: float | None = None
    slope: float | None = None
    threshold: float | None = None
    roll_back_to: str | None = None


@dataclass(frozen=True, slots=True)
class _Rung:
    """One repair: its expected benefit with its interval, whether that is real and relevant, and what comes with it."""

    repair: Repair
    reason: str
    benefit: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str | None = None
    n: int = 0
    helps: bool = False
    intercept: float | None = None
    slope: float | None = None
    threshold: float | None = None
    release: str | None = None


@dataclass(frozen=True, slots=True)
class _Widths:
    """Half widths of intervals, in standard errors, at which no rung helps by chance in more than `error_rate` plans.

    The rate is shared out over the families (Bonferroni); a recalibration is a line found in two dimensions, whose
    every direction its interval covers (Scheffé 1953).
    """

    of_number: float
    of_line: float

    @classmethod
    def at(cls, error_rate: float) -> "_Widths":
        share = error_rate / FAMILIES
        return cls(of_number=NormalDist().inv_cdf(1 - share / 2), of_line=sqrt(-2 * log(share)))


@dataclass(frozen=True, slots=True)
class _RipeRows:
    """Ripe rows in ascending order of the champion's risk, the same rows by the risks of earlier releases."""

    champion: Sample
    earlier: dict[str, Sample]
    patients: int
    fold_of_patient: IntArray

    @classmethod
    def read(cls, ripe: pl.DataFrame, seed: int) -> "_RipeRows":
        """The rows, checked; raises EvaluationError as `plan_repair` does."""
        event = checked_outcome(ripe["event"])
        n = len(event)
        patient, patients = patient_numbers(ripe["patient"], n)

        def sample(column: str) -> Sample:
            risk = checked_risk(ripe[column], n, column).clip(LOGIT_FLOOR, 1 - LOGIT_FLOOR)
            return Sample.of(event, risk, np.zeros(n), patient)

        return cls(
            champion=sample("risk"),
            earlier={column: sample(column) for column in EARLIER_RELEASES if column in ripe.columns},
            patients=patients,
            fold_of_patient=np.random.default_rng(seed).permutation(patients) % FOLDS,
        )

    @property
    def n(self) -> int:
        return self.champion.n

    @property
    def fold(self) -> IntArray:
        """The fold of every row: that of its patient."""
        return self.fold_of_patient[self.champion.patient]


def plan_repair(
    ripe: pl.DataFrame,
    verdict: Verdict,
    faults: Sequence[str],
    threshold: float,
    policy: Monitoring,
    operating_point: OperatingPoint,
    baseline_auroc: Finding | None = None,
    estimated_loss: Finding | None = None,
    error_rate: float = 0.05,
    seed: int = 0,
) -> RepairPlan:
    """The smallest repair whose benefit is real and relevant on ripe rows that the champion did not learn from.

    A data fault is mended in the data, and nothing is learnt from it. Ranks that were lost are not brought back by
    recalibration: then the model is retrained, or an earlier release that ranks better on the same rows is restored.
    Else the simplest recalibration that is not significantly worse than the best; else a moved threshold; else none.

    Args:
        ripe: One row a unit of the latest ripe months: `patient`, `event` (0 or 1), `risk` of the champion, and, where
            there are such releases, `previous_release_risk` and `first_release_risk`. May be empty.
        verdict: That of the month's drift report.
        faults: Its faults, as sentences.
        threshold: The champion's threshold on `risk`, from which a unit is alerted.
        policy: The tolerated loss, here of AUROC, and the tolerated miscalibration, which also bounds how far the
            share alerted may miss its budget.
        operating_point: The share of units, or of patients, that may be alerted.
        baseline_auroc: The champion's AUROC of the event on its test rows at its release, with a 95 % interval.
        estimated_loss: The label-free loss of the month in the headline metric, with a 95 % interval; it counts where
            the population has shifted and ripe rows, all from before, show no loss.
        error_rate: The chance that any repair of a model without fault is called for by its ripe rows; the intervals
            of the options are as wide as that takes.
        seed: Of the parting of patients into folds.

    Raises:
        EvaluationError: If a column is missing, an event is not 0 or 1, or a risk is no probability.
    """
    if verdict is Verdict.DATA_FAULT:
        return _plan_alone(_fix_data(faults), "the data of the month are at fault: nothing is learnt from them")
    if missing := [name for name in RIPE_COLUMNS if name not in ripe.columns]:
        raise EvaluationError(f"the ripe rows lack the columns {missing}; join scores and outcomes first")
    estimated = _weigh_estimate(verdict, estimated_loss, policy)
    if ripe.is_empty():
        blind = _Rung(Repair.NONE, f"cannot tell: no outcome is ripe; {estimated.reason}")
        return _plan_alone(estimated if estimated.helps else blind, "no outcome is ripe")
    rows, widths = _RipeRows.read(ripe, seed), _Widths.at(error_rate)
    if too_few := _too_few(rows, policy):
        return _plan_alone(estimated if estimated.helps else too_few, "too few patients have the event, or not", rows.n)
    by_intercept, by_slope, recalibration = _weigh_recalibrations(rows, policy, widths)
    by_threshold = _weigh_threshold(rows, threshold, policy, operating_point, widths)
    by_training = _weigh_retraining(rows, baseline_auroc, policy, widths)
    if estimated.helps and not by_training.helps:
        by_training = estimated
    by_rolling_back = _weigh_roll_back(rows, policy, widths)
    # What is measured of an earlier release goes before what is hoped of a retraining.
    ladder = (by_rolling_back, by_training, recalibration, by_threshold)
    none = _judge_calm(rows, by_training, policy, widths)
    chosen = next((rung for rung in ladder if rung.helps), none)
    if chosen is not none:
        none = _Rung(Repair.NONE, f"something helps: {chosen.repair.value}", n=rows.n)
    kept = by_threshold.threshold if by_threshold.helps and by_threshold.threshold is not None else threshold
    rungs = [none, _NO_FAULT, by_intercept, by_slope, by_threshold, by_training, by_rolling_back]
    return _plan(chosen, rungs, _candidate_threshold(chosen, kept))


def expected_by_month(ripe: pl.DataFrame) -> pl.DataFrame:
    """Events observed and expected, month by month, of ripe rows with `month`, `event` and `risk`; `n` counts rows."""
    observed, expected = pl.col("event").sum().cast(pl.Int64), pl.col("risk").sum()
    return ripe.group_by("month").agg(observed=observed, expected=expected, n=pl.len().cast(pl.Int64)).sort("month")


_NO_FAULT = _Rung(Repair.FIX_DATA, "the month has no data fault")


def _fix_data(faults: Sequence[str]) -> _Rung:
    named = "; ".join(faults) or "the drift report names it"
    return _Rung(Repair.FIX_DATA, f"data fault, to be mended at its source: {named}", helps=True)


def _weigh_estimate(verdict: Verdict, loss: Finding | None, policy: Monitoring) -> _Rung:
    """Retraining by the estimated loss of a month of which no outcome is known yet."""
    if loss is None or loss.value is None or loss.low is None or loss.high is None:
        return _Rung(Repair.RETRAIN, "no loss is estimated")
    shifted = verdict is Verdict.POPULATION_SHIFT
    estimate = f"the estimated loss of {policy.headline} is {_words(loss.value, loss.low, loss.high)}"
    return _Rung(
        Repair.RETRAIN,
        f"{estimate}, and {policy.tolerated_loss:g} is tolerated"
        + ("" if shifted else "; it counts only where the population has shifted"),
        *(loss.value, loss.low, loss.high),
        unit=policy.headline,
        n=loss.n,
        helps=shifted and loss.low > 0 and loss.value > policy.tolerated_loss,
    )


def _too_few(rows: _RipeRows, policy: Monitoring) -> _Rung | None:
    """That nothing can be fitted, with the rows it would take; None where enough patients have the event."""
    with_event = int(np.count_nonzero(np.bincount(rows.champion.patient, rows.champion.outcome)))
    if min(with_event, rows.patients - with_event) >= LEAST_PATIENTS:
        return None
    rate = float(rows.champion.risk.mean())
    needed = ceil((Z_95 / log1p(policy.tolerated_miscalibration)) ** 2 / rate)
    return _Rung(
        Repair.NONE,
        f"cannot tell: {with_event:,} of {rows.patients:,} patients have the event, and {LEAST_PATIENTS} with and "
        f"{LEAST_PATIENTS} without it are the least; O:E is known within {_percent(policy.tolerated_miscalibration)} "
        f"from about {needed:,} rows on, at a mean risk of {rate:.3g}, or more where a patient has several",
        n=rows.n,
    )


def _weigh_recalibrations(rows: _RipeRows, policy: Monitoring, widths: _Widths) -> tuple[_Rung, _Rung, _Rung]:
    """The two recalibrations, and the smaller that suffices: the intercept, unless what it leaves is not tolerated."""
    sample = rows.champion
    # One row a fold, which leaves that fold out, and a last one with every patient.
    fitted_on = (rows.fold != np.arange(FOLDS + 1)[:, None]).astype(np.float64)
    shift, level = calibration_intercept(sample, fitted_on), np.ones(FOLDS + 1)
    intercept, slope = fit_recalibration(sample.outcome, sample.risk, fitted_on)
    by_intercept = _weigh_recalibration(Repair.RECALIBRATE_INTERCEPT, rows, shift, level, policy, widths)
    by_slope = _weigh_recalibration(Repair.RECALIBRATE_SLOPE, rows, intercept, slope, policy, widths)
    if not (by_intercept.helps and by_slope.helps):
        return by_intercept, by_slope, by_slope if by_slope.helps else by_intercept
    mended = _held_out(rows, shift, level)
    left = _misplaced(sample.outcome, mended, _held_out(rows, intercept, slope))
    tolerated = 1000 * policy.tolerated_miscalibration * mended.mean()
    suffices = left.mean() <= max(tolerated, Z_95 * _error_of_ratio(left, np.ones(rows.n), sample.patient))
    return by_intercept, by_slope, by_intercept if suffices else by_slope


def _weigh_recalibration(
    repair: Repair, rows: _RipeRows, intercept: FloatArray, slope: FloatArray, policy: Monitoring, widths: _Widths
) -> _Rung:
    """One recalibration; `intercept` and `slope` have one value a fold, fitted without it, and a last one of all.

    Its benefit are the events that the risks now misplace. It is relevant where these are more than is tolerated of the
    smaller of the mean risks before and after: where all risks move one way, where O:E is outside 1 / (1 + x) to 1 + x.
    """
    if not (np.isfinite(intercept).all() and (slope > 0).all()):
        return _Rung(repair, "no line fits: the risks do not rise with the event, or part it perfectly", n=rows.n)
    sample, held_out = rows.champion, _held_out(rows, intercept, slope)
    misplaced = _misplaced(sample.outcome, sample.risk, held_out)
    gain = 1000 * float(np.mean(_log_score(sample.outcome, held_out) - _log_score(sample.outcome, sample.risk)))
    value, low, high = _interval(
        float(misplaced.mean()), widths.of_line * _error_of_ratio(misplaced, np.ones(rows.n), sample.patient)
    )
    mended = from_logit(intercept[-1] + slope[-1] * logit(sample.risk))
    share = value / 1000 / min(mended.mean(), sample.risk.mean())
    return _Rung(
        repair,
        f"log odds become {intercept[-1]:.2f} + {slope[-1]:.2f} x log odds: of patients it was not fitted to, "
        f"{_words(value, low, high)} events per 1,000 rows are misplaced now, {_percent(share)} of the mean risk, and "
        f"{_percent(policy.tolerated_miscalibration)} is tolerated; the log score per 1,000 rows gains {gain:.3g}",
        *(value, low, high),
        unit=MISPLACED,
        n=rows.n,
        helps=low > 0 and gain > 0 and share > policy.tolerated_miscalibration,
        intercept=float(intercept[-1]),
        slope=float(slope[-1]),
    )


def _held_out(rows: _RipeRows, intercept: FloatArray, slope: FloatArray) -> FloatArray:
    """The recalibrated risk of every row, by the line that was fitted without its patient's fold."""
    return from_logit(intercept[rows.fold] + slope[rows.fold] * logit(rows.champion.risk))


def _misplaced(outcome: FloatArray, risk: FloatArray, better: FloatArray) -> FloatArray:
    """Events per 1,000 rows above the risk where a better one is higher, and below it where it is lower, by row.

    The mean is the mean absolute error of the risk as a probability as far as the better one, fitted on other patients,
    knows its direction; compare the integrated calibration index (Austin & Steyerberg 2019).
    """
    return 1000 * np.sign(better - risk) * (outcome - risk)


def _weigh_threshold(
    rows: _RipeRows, threshold: float, policy: Monitoring, point: OperatingPoint, widths: _Widths
) -> _Rung:
    """A moved threshold: how much nearer the budget the alerts come on patients it was not chosen on."""
    risk, event, patient = _alertable(rows, point)
    fold, budget, of = rows.fold_of_patient[patient], point.alerted_fraction, point.of
    try:
        chosen = np.array([choose_threshold(risk[fold != left_out], budget, of) for left_out in range(FOLDS)])
        moved = choose_threshold(risk, budget, of)
    except EvaluationError as error:
        return _Rung(Repair.MOVE_THRESHOLD, f"not applicable: {error}", n=len(risk))
    now, then = (risk >= threshold).astype(np.float64), (risk >= chosen[fold]).astype(np.float64)
    nearer = abs(now.mean() - budget) - abs(then.mean() - budget)
    error = _error_of_ratio(now, np.ones(len(now)), patient)
    value, low, high = _interval(100 * float(nearer), 100 * widths.of_number * error)
    tolerated = 1 + policy.tolerated_miscalibration
    return _Rung(
        Repair.MOVE_THRESHOLD,
        f"{100 * now.mean():.3g} of 100 {of} are alerted, and {100 * budget:g} may be; from {moved:.3g} on instead of "
        f"{threshold:.3g}, {100 * then.mean():.3g} are, and {_percent(then @ event / event.sum())} of the {of} with "
        f"the event instead of {_percent(now @ event / event.sum())}",
        *(value, low, high),
        unit=f"alerts per 100 {of} nearer the budget",
        n=len(risk),
        helps=low > 0 and not 1 / tolerated <= now.mean() / budget <= tolerated,
        threshold=moved,
    )


def _alertable(rows: _RipeRows, point: OperatingPoint) -> tuple[FloatArray, FloatArray, IntArray]:
    """Risk, event and patient of what the budget counts: units, or patients at their highest risk."""
    sample = rows.champion
    if point.of == "units":
        return sample.risk, sample.outcome, sample.patient
    highest, event = np.zeros(rows.patients), np.zeros(rows.patients)
    np.maximum.at(highest, sample.patient, sample.risk)
    np.maximum.at(event, sample.patient, sample.outcome)
    return highest, event, np.arange(rows.patients)


def _weigh_retraining(rows: _RipeRows, baseline: Finding | None, policy: Monitoring, widths: _Widths) -> _Rung:
    """Retraining: the AUROC lost since the release, as far as risks that are spread less do not explain it.

    Risks that are right rank only as well as their spread allows (model-based concordance, van Klaveren et al. 2016,
    Stat Med 35:4136). What is lost beyond that is the model's fault; what is not may be that patients are more alike,
    or that the features say less, which cannot be told from risks. The benefit is the smaller of the loss and the
    distance to what the spread allows, in value and lower bound; the upper bound is that of the loss.
    """
    if baseline is None or baseline.value is None or baseline.low is None or baseline.high is None:
        return _Rung(Repair.RETRAIN, "not applicable: the release has no AUROC with an interval to compare", n=rows.n)
    realised, influence = _auroc_with_influence(rows.champion, rows.patients)
    possible, _ = _auroc_with_influence(replace(rows.champion, outcome=rows.champion.risk), rows.patients)
    error, error_of_baseline = float(np.linalg.norm(influence)), (baseline.high - baseline.low) / (2 * Z_95)
    lost = _interval(baseline.value - realised, widths.of_number * hypot(error, error_of_baseline))
    short = _interval(possible - realised, widths.of_number * error)
    value, low, high = min(lost[0], short[0]), min(lost[1], short[1]), lost[2]
    return _Rung(
        Repair.RETRAIN,
        f"AUROC is {realised:.3f}, was {baseline.value:.3f} at the release, and would be {possible:.3f} here were the "
        f"risks right: {_words(value, low, high)} can be won back, and {policy.tolerated_loss:g} is tolerated",
        *(value, low, high),
        unit=AUROC,
        n=rows.n,
        helps=low > 0 and value > policy.tolerated_loss,
    )


def _weigh_roll_back(rows: _RipeRows, policy: Monitoring, widths: _Widths) -> _Rung:
    """Going back to the earlier release that ranks best on the same rows, if it is calibrated as it stands."""
    weighed = [_weigh_release(rows, column, policy, widths) for column in rows.earlier]
    if not weighed:
        return _Rung(Repair.ROLL_BACK, "not applicable: there is no earlier release to compare", n=rows.n)
    return max(weighed, key=lambda rung: (rung.helps, rung.benefit))


def _weigh_release(rows: _RipeRows, column: str, policy: Monitoring, widths: _Widths) -> _Rung:
    sample = rows.earlier[column]
    realised, influence = _auroc_with_influence(rows.champion, rows.patients)
    earlier, earlier_influence = _auroc_with_influence(sample, rows.patients)
    error = float(np.linalg.norm(earlier_influence - influence))
    value, low, high = _interval(earlier - realised, widths.of_number * error)
    observed_expected = float(sample.outcome.sum() / sample.risk.sum())
    tolerated = 1 + policy.tolerated_miscalibration
    calibrated = 1 / tolerated <= observed_expected <= tolerated
    return _Rung(
        Repair.ROLL_BACK,
        f"the AUROC of {EARLIER_RELEASES[column]} is better by {_words(value, low, high)} on the same rows, and "
        f"{policy.tolerated_loss:g} matters; its O:E is {observed_expected:.2f}",
        *(value, low, high),
        unit=AUROC,
        n=rows.n,
        helps=low > 0 and value > policy.tolerated_loss and calibrated,
        release=column,
    )


def _judge_calm(rows: _RipeRows, by_training: _Rung, policy: Monitoring, widths: _Widths) -> _Rung:
    """No repair: that all is within what is tolerated, or that it cannot be told, with the rows it would take."""
    sample, tolerated = rows.champion, log1p(policy.tolerated_miscalibration)
    ratio = float(sample.outcome.sum() / sample.risk.sum())
    half = widths.of_number * _error_of_ratio(sample.outcome, sample.risk, sample.patient) / ratio
    words = _words(ratio, ratio * exp(-half), ratio * exp(half))
    said = [f"O:E is {words}, and {exp(-tolerated):.2f} to {exp(tolerated):.2f} is tolerated"]
    calibrated = abs(log(ratio)) + half <= tolerated
    if not calibrated:
        needed = ceil(rows.n * (half / tolerated) ** 2)
        said.append(f"some {needed:,} rows would tell" if needed > rows.n else "it lies at the limit")
    ranked = by_training.high is not None and by_training.high <= policy.tolerated_loss
    said.append(by_training.reason)
    return _Rung(
        Repair.NONE,
        ("nothing to repair: " if calibrated and ranked else "cannot tell: ") + "; ".join(said),
        n=rows.n,
    )


def _candidate_threshold(chosen: _Rung, kept: float) -> float | None:
    """The threshold that comes with a repair: a recalibration takes the one that is kept along to the new risks."""
    if chosen.intercept is None or chosen.slope is None:
        return chosen.threshold
    return float(from_logit(chosen.intercept + chosen.slope * logit(kept)))


def _plan_alone(chosen: _Rung, why_no_other: str, n: int = 0) -> RepairPlan:
    """The plan that names a repair where no other could be weighed."""
    return _plan(chosen, [chosen if repair is chosen.repair else _Rung(repair, why_no_other, n=n) for repair in Repair])


def _plan(chosen: _Rung, rungs: Sequence[_Rung], threshold: float | None = None) -> RepairPlan:
    options = [
        (rung.repair.value, rung.benefit, rung.low, rung.high, rung.unit, rung.n, rung is chosen, rung.reason)
        for rung in rungs
    ]
    return RepairPlan(
        repair=chosen.repair,
        reason=chosen.reason,
        options=pl.DataFrame(options, schema=OPTIONS_SCHEMA, orient="row"),
        intercept=chosen.intercept,
        slope=chosen.slope,
        threshold=threshold,
        roll_back_to=chosen.release,
    )


def _log_score(outcome: FloatArray, risk: FloatArray) -> FloatArray:
    """The logarithm of the probability given to what happened (Good 1952); 0 is best."""
    return outcome * np.log(risk) + (1 - outcome) * np.log1p(-risk)


def _error_of_ratio(numerator: FloatArray, denominator: FloatArray, patient: IntArray) -> float:
    """The standard error of a ratio of two sums over rows, whose patients are the independent units (Cochran 1977)."""
    patients = int(patient.max()) + 1
    above, below = np.bincount(patient, numerator, patients), np.bincount(patient, denominator, patients)
    return float(np.linalg.norm(above - above.sum() / below.sum() * below) / below.sum())


def _auroc_with_influence(sample: Sample, patients: int) -> tuple[float, FloatArray]:
    """The AUROC, ties counting half, and what each patient adds to it, the squares of which sum to its variance.

    DeLong et al. 1988 for rows, Obuchowski 1997 (Biometrics 53:567) for patients with several. An outcome between 0 and
    1 counts as that share of an event.
    """
    runs = np.diff(np.r_[sample.tie_starts, sample.n])
    with_event = np.add.reduceat(sample.outcome, sample.tie_starts)
    without = runs - with_event
    events, others = with_event.sum(), without.sum()
    above = np.repeat((np.cumsum(without) - without / 2) / others, runs)
    below = np.repeat((events - np.cumsum(with_event) + with_event / 2) / events, runs)
    value = float(sample.outcome @ above / events)
    influence = sample.outcome * (above - value) / events + (1 - sample.outcome) * (below - value) / others
    return value, np.bincount(sample.patient, influence, patients).astype(np.float64)


def _interval(value: float, half: float) -> tuple[float, float, float]:
    return value, value - half, value + half


def _words(value: float, low: float, high: float) -> str:
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
