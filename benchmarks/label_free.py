"""How near performance estimated without outcomes comes to what is realised: `python -m benchmarks.label_free`.

Belongs here: models fitted on the real archives, months with known outcomes, and the estimate scored by them. Does not
belong here: the estimate itself. The archives are looked for below --raw, CLINICAL_RAW, or data/raw.

Two kinds of months, both judged by the rows that the lifecycle would judge them by: the calibrate and test rows, to
which the regression is fitted, and those earlier months of the same version whose every outcome is known by the month's
last day. Real months: those after the development year; whatever drifts there drifts, concept included. Resampled ones,
which stand for the first to the twelfth month after a release in turn: from the rows the model did not learn from,
random patients make up the calibrate and test rows, others the matured months, and a month as large as one of the
development year is drawn from the rest, each
patient's stays of a month with a chance that grows with one covariate: a covariate shift that sets in that very month,
and nothing else. The noise is what the realised AUROC itself has: the mean absolute deviation of its bootstrap by
patient. Coverage is that of the 95 % intervals. A figure of few months is itself uncertain: a goal is met or missed
where the interval of the figure lies wholly on one side (of the ratio: a bootstrap over months; of the coverage: Wilson
1927), and else cannot be told.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from clinical_assets.archives.archive import Archive, MonthWindow
from clinical_assets.archives.calendar import FIRST_MONTH, LAST_MONTH
from clinical_assets.evaluation import evaluate
from clinical_assets.evaluation.assessment import Assessment
from clinical_assets.evaluation.bootstrap import draw_patients
from clinical_assets.evaluation.calibration import Z_95
from clinical_assets.evaluation.discrimination import auroc
from clinical_assets.evaluation.sample import FloatArray, Sample, patient_numbers
from clinical_assets.learning.estimator import RiskEstimator
from clinical_assets.learning.splits import (
    BUCKETS,
    FIRST_CALIBRATE_BUCKET,
    FIRST_TEST_BUCKET,
    assign_splits,
)
from clinical_assets.monitoring.estimated_performance import PerformanceReference, score_estimate
from clinical_assets.protocol import ALERT, ModelProtocol, last_day, load_object, month_after, read_protocol

RESAMPLES = 100
TILT_PER_SD = 0.7
MOST_NOISES = 1.2
LEAST_COVERED, MOST_COVERED = 0.93, 0.97
DEVELOPED_BY = 12
CALIBRATE_SHARE = (FIRST_TEST_BUCKET - FIRST_CALIBRATE_BUCKET) / BUCKETS
REPLICATES, QUICK_REPLICATES = 200, 25
DAYS_OF_A_MONTH = 30
LEAST_MONTHS_TO_DRAW_FROM = 3
RATIO_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Case:
    """A model, the covariates its estimates are weighted by, and those that resampled months are tilted by."""

    model: str
    covariates: tuple[str, ...]
    tilts: tuple[str, ...]


CASES = (
    Case(
        "readmission",
        (
            *("age_band", "sex", "ethnicity", "admission_source", "payer_code", "medical_specialty"),
            *("inpatient_visits_past_year", "days_in_hospital", "diagnoses", "medications"),
        ),
        ("age_band", "inpatient_visits_past_year"),
    ),
    Case(
        "sepsis",
        ("age_years", "sex", "site", "icu_unit", "hours_since_hospital_admission", "heart_rate_bpm"),
        ("age_years", "icu_unit", "site"),
    ),
)


@dataclass(frozen=True, slots=True)
class LabelFreeFigure:
    """What estimates of one kind of months reached: AUROC error beside its noise, and the coverage of the intervals.

    `covered` is the share of AUROC intervals that held the realised figure, `covered_all` that over AUROC, sensitivity,
    PPV and O:E. Months whose estimate was `called_invalid` count in no figure. `noises` is the error in units of the
    noise, with a 95 % interval; `followed` the mean of that of the estimates, `estimate_s` the mean time of one.
    """

    model: str
    months: str
    n_months: int
    called_invalid: int
    rows: int
    error: float
    noise: float
    bias: float
    covered: float
    covered_all: float
    followed: float
    estimate_s: float
    noises: float
    noises_low: float
    noises_high: float

    @property
    def near_enough(self) -> bool | None:
        """Whether the error is small enough beside the noise; None where so few months cannot tell."""
        return True if self.noises_high <= MOST_NOISES else False if self.noises_low > MOST_NOISES else None

    @property
    def covers(self) -> bool | None:
        """Whether the coverage is as asked; None where so few months cannot tell."""
        low, high = wilson_interval(round(self.covered * self.n_months), self.n_months)
        if low >= LEAST_COVERED and high <= MOST_COVERED:
            return True
        return False if high < LEAST_COVERED or low > MOST_COVERED else None

    @property
    def met(self) -> bool | None:
        """Whether both are as asked; None where so few months cannot tell, and neither is missed."""
        if False in (both := (self.near_enough, self.covers)):
            return False
        return None if None in both else True

    def line(self) -> str:
        """The row of the table."""
        return (
            f"{self.model:<12}{self.months:<44}{self.n_months:>7}{self.called_invalid:>8}{self.rows:>9,}{self.error:>8.4f}{self.noise:>8.4f}"
            f"{self.noises:>7.2f}{self.bias:>+9.4f}{self.covered:>9.3f}{self.covered_all:>9.3f}{self.followed:>9.2f}"
            f"{self.estimate_s:>7.2f}  [{self.noises_low:.2f}, {self.noises_high:.2f}]"
        )


HEADING = (
    f"{'model':<12}{'months':<44}{'months':>7}{'invalid':>8}{'rows':>9}{'error':>8}{'noise':>8}"
    f"{'ratio':>7}{'bias':>9}{'AUROC in':>9}{'all in':>9}{'followed':>9}{'s':>7}  ratio in"
)


@dataclass(frozen=True, slots=True)
class _Month:
    """The rows of a release and of matured months, and rows that come to be judged by both."""

    at_release: pl.DataFrame
    matured: pl.DataFrame
    rows: pl.DataFrame
    month: date


def measure_label_free(raw: Path, *, quick: bool = False, seed: int = 0) -> list[LabelFreeFigure]:
    """The figures of every model whose archive lies below `raw`, for its real and its resampled months."""
    replicates = QUICK_REPLICATES if quick else REPLICATES
    figures: list[LabelFreeFigure] = []
    for case in CASES:
        protocol = read_protocol(case.model)
        published = load_object(str(protocol.archive))
        path = published.find(raw)
        if path is None:
            print(f"{case.model}: no {published.title} archive below {raw}; its label-free row is left out")
            continue
        share = protocol.replay.share_of_patients if quick else 1.0
        scored, threshold = score_archive(published.open(path), protocol, case, share)
        real = _real_months(scored, protocol)
        figures.append(_measure("real, as they came", real, case, protocol, threshold))
        for column in case.tilts:
            drawn = _resampled_months(scored, column, protocol, replicates, seed)
            words = f"resampled, tilted by {column}"
            figures.append(_measure(words, drawn, case, protocol, threshold))
    return figures


def score_archive(
    archive: Archive, protocol: ModelProtocol, case: Case, share_of_patients: float
) -> tuple[pl.DataFrame, float]:
    """Every row the model did not learn from, scored by a model of the development year, and its alert threshold.

    A share of the patients is taken, and of these all rows.
    Columns: patient, month, `outcome_known_on`, `split` (`calibrate`, `test`, `later`), `event`, `risk`, `alerted`, the
    covariates and what months are tilted by.
    """
    rows = load_object(protocol.cohort)(archive, MonthWindow(FIRST_MONTH, month_after(LAST_MONTH)))
    # The platform splits patients by a hash of their pseudonyms: shares by the same hash would all be training rows.
    patients = rows[protocol.patient].unique().sort()
    taken = patients.sample(fraction=share_of_patients, seed=0).implode()
    rows = rows.filter(pl.col(protocol.patient).is_in(taken))
    rows = load_object(protocol.features)(rows) if protocol.features else rows
    development = rows["month"].unique().sort()[DEVELOPED_BY]
    training_set = assign_splits(rows.filter(pl.col("month") < development), protocol, development)
    estimator: RiskEstimator = load_object(protocol.estimator).fit(training_set, protocol)
    assessment: Assessment = load_object(protocol.assessment)
    later = rows.filter(pl.col("month") >= development).with_columns(split=pl.lit("later"))
    unseen = pl.concat([training_set.filter(pl.col("split") != "train").select(later.columns), later])
    tabulated = unseen.hstack(assessment.tabulate(estimator.predict(unseen), protocol))
    thresholds = assessment.choose_thresholds(tabulated.filter(split="calibrate"), protocol)
    decided = assessment.decide(tabulated, thresholds).with_columns(event=protocol.outcome.is_event(unseen))
    kept = (protocol.patient, protocol.index_time, "month", "outcome_known_on", "split", "event", "risk", "alerted")
    return decided.select(list(dict.fromkeys((*kept, *case.covariates, *case.tilts)))), thresholds[ALERT]


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of k in n (Wilson 1927)."""
    centre, width = (k + Z_95**2 / 2) / (n + Z_95**2), Z_95 / (n + Z_95**2)
    around = width * float(np.sqrt(k * (n - k) / n + Z_95**2 / 4))
    return max(0.0, centre - around), min(1.0, centre + around)


def _real_months(scored: pl.DataFrame, protocol: ModelProtocol) -> Iterator[_Month]:
    """Each later month with the rows that were not learnt from, and the earlier months known whole by its last day."""
    known_on = pl.col("outcome_known_on").cast(pl.Date)
    later = scored.filter(split="later").group_by("month").agg(known_on=known_on.max(), all=pl.col("event").count() > 0)
    known = scored.drop_nulls("event")
    for month in later.filter("all")["month"].sort():
        matured = later.filter(pl.col("month") < month, pl.col("known_on") <= last_day(month))["month"].implode()
        yield _Month(
            known.filter(pl.col("split") != "later"),
            known.filter(pl.col("month").is_in(matured), split="later"),
            known.filter(pl.col("month") == month, split="later"),
            month,
        )


def _resampled_months(
    scored: pl.DataFrame, column: str, protocol: ModelProtocol, replicates: int, seed: int
) -> Iterator[_Month]:
    """A reference of random patients, and a month drawn from the others with a chance that grows with one column."""
    patient = protocol.patient
    set_aside = scored.filter(pl.col("split") != "later")
    pool = scored.filter(pl.col("split") != "calibrate").drop_nulls("event").sort(protocol.index_time)
    rank = pl.col(column).rank("dense").cast(pl.Float64)
    stays = (
        pool.with_columns(tilt=(rank - rank.mean()) / rank.std())
        .group_by(patient, "month", maintain_order=True)
        .agg(pl.col("tilt").first().fill_null(0.0))
    )
    in_reference = set_aside[patient].n_unique()
    in_month = round(
        set_aside.filter(split="calibrate").unique([patient, "month"]).height / DEVELOPED_BY / CALIBRATE_SHARE
    )
    patients = stays[patient].unique(maintain_order=True)
    most_matured = (len(patients) - in_reference) // in_month - LEAST_MONTHS_TO_DRAW_FROM
    for replicate in range(replicates):
        random = np.random.default_rng((seed, replicate))
        matured = replicate % DEVELOPED_BY - protocol.outcome.ripe_after_days // DAYS_OF_A_MONTH
        taken = in_reference + in_month * max(0, min(matured, most_matured))
        order = patients.gather(random.permutation(len(patients))[:taken])
        chosen, of_release = order.implode(), order.head(in_reference).implode()
        others = stays.filter(~pl.col(patient).is_in(chosen))
        # The highest of log weight plus Gumbel noise are a draw without replacement by weight (Efraimidis 2006).
        ranked = np.argsort(-(TILT_PER_SD * others["tilt"].to_numpy() + random.gumbel(size=others.height)))
        drawn = others[ranked[:in_month]].select(patient, "month")
        # Rows of all months are drawn together: in which month they stand for one is their patient's lot.
        lot = pl.DataFrame({patient: order, "month": _months_of_lots(len(order), in_reference, in_month)})
        known = pool.filter(pl.col(patient).is_in(chosen)).drop("month").join(lot, on=patient, maintain_order="left")
        yield _Month(
            known.filter(pl.col(patient).is_in(of_release)),
            known.filter(~pl.col(patient).is_in(of_release)),
            pool.join(drawn, on=[patient, "month"], maintain_order="left"),
            _month_after_first(DEVELOPED_BY + replicate % DEVELOPED_BY),
        )


def _months_of_lots(patients: int, in_reference: int, in_month: int) -> list[date]:
    """The months of patients in the order of their lots: a year of the release's, then month after month of others."""
    of_release = [place * DEVELOPED_BY // in_reference for place in range(min(patients, in_reference))]
    later = [DEVELOPED_BY + place // in_month for place in range(patients - len(of_release))]
    return [_month_after_first(place) for place in (*of_release, *later)]


def _month_after_first(months: int) -> date:
    return date(FIRST_MONTH.year + months // 12, 1 + months % 12, 1)


def _measure(
    words: str, months: Iterator[_Month], case: Case, protocol: ModelProtocol, threshold: float
) -> LabelFreeFigure:
    scores: list[pl.DataFrame] = []
    noises: list[float] = []
    seconds: list[float] = []
    followed: list[float] = []
    called_invalid = 0
    for month in months:
        at_release = PerformanceReference.fit(
            month.at_release,
            outcome_event="event",
            patient=protocol.patient,
            covariates=case.covariates,
            subgroups=(),
            minimum_n=protocol.minimum_n,
            month="month",
        )
        matured = month.matured.with_columns(at_release.expect(month.matured), at_release.unknown_levels(month.matured))
        reference = at_release.with_matured(matured, month="month")
        started = time.perf_counter()
        estimate = reference.estimate(month.rows.drop("event"), month=month.month)
        if estimate.invalid_because is not None:
            called_invalid += 1
            continue
        seconds.append(time.perf_counter() - started)
        followed.append(estimate.followed)
        rows = month.rows
        realised = evaluate(
            rows["event"],
            rows["risk"],
            rows[protocol.patient],
            threshold,
            pl.DataFrame(),
            protocol.minimum_n,
            resamples=0,
        )
        score = score_estimate(estimate.findings, realised).with_columns(rows=pl.lit(rows.height))
        scores.append(score.filter(pl.col("metric") != "alerts_per_100"))
        noises.append(_noise_of_auroc(rows, protocol.patient))
    table = pl.concat(scores)
    ranked = table.filter(metric="auroc")
    error = ranked["estimate_error"].to_numpy()
    low, high = _interval_of_ratio(np.abs(error), np.array(noises))
    return LabelFreeFigure(
        model=protocol.model,
        months=words,
        n_months=len(scores),
        called_invalid=called_invalid,
        rows=round(float(ranked["rows"].to_numpy().mean())),
        error=float(np.abs(error).mean()),
        noise=float(np.mean(noises)),
        bias=float(error.mean()),
        covered=float(ranked["covered"].to_numpy().mean()),
        covered_all=float(table["covered"].to_numpy().mean()),
        followed=float(np.mean(followed)),
        estimate_s=float(np.mean(seconds)),
        noises=float(np.abs(error).mean() / np.mean(noises)),
        noises_low=low,
        noises_high=high,
    )


def _interval_of_ratio(error: FloatArray, noise: FloatArray) -> tuple[float, float]:
    """The 95 % interval of the mean error over the mean noise, by a bootstrap over months."""
    drawn = np.random.default_rng(0).integers(len(error), size=(RATIO_RESAMPLES, len(error)))
    low, high = np.quantile(error[drawn].mean(axis=1) / noise[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _noise_of_auroc(rows: pl.DataFrame, patient: str) -> float:
    """The mean absolute deviation of the realised AUROC over draws of whole patients that hold an event."""
    numbers, patients = patient_numbers(rows[patient], rows.height)
    nobody = np.zeros(rows.height)
    sample = Sample.of(rows["event"].cast(pl.Float64).to_numpy(), rows["risk"].to_numpy(), nobody, numbers)
    realised = auroc(sample, np.ones((1, sample.n)))[0]
    drawn = [auroc(sample, block[:, sample.patient]) for block in draw_patients(patients, sample.n, RESAMPLES, seed=0)]
    return float(np.nanmean(np.abs(np.concatenate(drawn) - realised)))


def print_figures(figures: Sequence[LabelFreeFigure]) -> None:
    """The table, and beside each row whether it reached what was asked."""
    print(f"{HEADING}  error <= {MOST_NOISES} x noise, coverage {LEAST_COVERED:.0%}-{MOST_COVERED:.0%}")
    words = {True: "met", False: "MISSED", None: "CANNOT TELL"}
    for figure in figures:
        print(f"{figure.line()}  {words[figure.near_enough]}, {words[figure.covers]}")


def main() -> None:
    """Print the figures of both models."""
    parser = argparse.ArgumentParser(description="Performance estimated without outcomes, beside what was realised.")
    parser.add_argument("--raw", type=Path, default=Path(os.environ.get("CLINICAL_RAW", "data/raw")))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REPLICATES} resampled months, not {REPLICATES}")
    options = parser.parse_args()
    started = time.perf_counter()
    print_figures(measure_label_free(options.raw, quick=options.quick))
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
