"""Alarms against real harm: months of a model under known changes, and what is decided in each month.

Belongs here: the months, and this package's decision with the outcomes that are ripe by then. Does not belong here:
what the harm is (`drift_streams.harm_of`), other monitors, or a figure.

The outcomes of a month are known one month later. The decision of a month is the repair that is planned on the last
three ripe months, or an estimated loss of AUROC beyond what is tolerated in the month itself.
"""

from collections.abc import Sequence
from datetime import date

import polars as pl

from benchmarks.drift_streams import (
    GLUCOSE,
    IDLE,
    Change,
    Scenario,
    Stream,
    harm_of,
    watched_columns,
)
from benchmarks.drift_watch import OURS, POLICY, Watched, moved_columns, watch_by_us
from clinical_assets.evaluation.findings import evaluate
from clinical_assets.monitoring.concept import fit_concept_references, weigh_concept
from clinical_assets.monitoring.drift import DriftReport
from clinical_assets.monitoring.estimated_performance import EstimatedLoss, PerformanceReference, estimate_loss
from clinical_assets.monitoring.repair_plan import plan_repair
from clinical_assets.protocol import Finding, OperatingPoint, Repair, Verdict, month_after

ROWS_A_MONTH = 3_000
REFERENCE_ROWS = 30_000
MONTHS = 12
CHANGES_AT = 4
RIPE_MONTHS = 3
ALERTED_FRACTION = 0.2
COVARIATES = (GLUCOSE, "number_03", "number_10")

CHANGES = (
    Change(),
    Change("mean", IDLE, 0.5),
    Change("mean", GLUCOSE, 0.3),
    Change("mean", GLUCOSE, 1.0),
    Change("variance", "number_06", 0.5),
    Change("variance", "number_03", -0.4),
    Change("correlation", "number_07", 0.5),
    Change("missingness", IDLE, 0.1),
    Change("missingness", "number_03", 0.3),
    Change("lost", "number_03", 0.6),
    Change("unit", GLUCOSE, 1.0, factor=18.0),
    Change("unit", GLUCOSE, 0.3, factor=18.0),
    Change("category", "category_2", 0.1),
    Change("subgroup", GLUCOSE, 0.5),
    Change("label", strength=0.15),
    Change("label", strength=0.4),
    Change("label", strength=-0.4),
    Change("concept", strength=0.1),
    Change("concept", strength=0.3),
)
"""Harmless and harmful ones, some of each in the columns the model reads; which is which is computed."""


def scenarios(gradual: Sequence[str]) -> list[Scenario]:
    """A year of months for each change: sudden, and, where its kind is named and may creep in, over five months."""
    months = {"n": ROWS_A_MONTH, "looks": MONTHS, "starts_at": CHANGES_AT, "n_reference": REFERENCE_ROWS}
    sudden = [Scenario(change, **months) for change in CHANGES]
    crept = [
        Scenario(change, gradual_over=5, **months)
        for change in CHANGES
        if change.kind in gradual and change.kind in ("mean", "label", "concept")
    ]
    return sudden + crept


def harmed(scenario: Scenario) -> list[bool]:
    """Whether the model does real harm in each month."""
    return [harm_of(scenario.change_at(look)).real for look in range(scenario.looks)]


def with_alerts(stream: Stream) -> Stream:
    """The stream with `alerted`, at the risk above which a fifth of the reference lies, and `month`."""
    alerted = (pl.col("risk") >= threshold_of(stream)).alias("alerted")
    months = [date(2025, 1, 1)]
    for _ in stream.batches[1:]:
        months.append(month_after(months[-1]))
    month_of_reference = pl.date(2024, 1 + pl.int_range(pl.len()) * 12 // pl.len(), 1)
    return Stream(
        stream.reference.with_columns(alerted, month=month_of_reference),
        [batch.with_columns(alerted, month=pl.lit(month)) for batch, month in zip(stream.batches, months, strict=True)],
    )


def threshold_of(stream: Stream) -> float:
    """The risk above which a fifth of the reference lies."""
    quantile = stream.reference["risk"].quantile(1 - ALERTED_FRACTION)
    if quantile is None:
        raise ValueError("the reference has no risk")
    return quantile


def decide_by_us(stream: Stream, seed: int) -> list[Watched]:
    """Our decision in each month of a stream that `with_alerts` has made."""
    reference = PerformanceReference.fit(
        stream.reference,
        outcome_event="event",
        patient="patient",
        covariates=COVARIATES,
        subgroups=(),
        minimum_n=50,
        seed=seed,
    )
    baseline = _baseline_auroc(stream)
    reports = watch_by_us(stream, watched_columns(), POLICY, None)
    return [_decide(stream, month, report, reference, baseline, seed) for month, report in enumerate(reports)]


def _decide(
    stream: Stream, month: int, report: DriftReport, reference: PerformanceReference, baseline: Finding, seed: int
) -> Watched:
    ripe = stream.batches[max(0, month - RIPE_MONTHS) : month]
    verdict = report.verdict
    if verdict is not Verdict.DATA_FAULT and month and _concept_moved(stream, month):
        verdict = Verdict.CONCEPT_SHIFT
    invalid = "outcome given risk has moved" if verdict is Verdict.CONCEPT_SHIFT else None
    estimate = reference.estimate(stream.batches[month], invalid_because=invalid)
    loss = estimate_loss(reference, estimate, "auroc")
    plan = plan_repair(
        pl.concat(ripe) if ripe else stream.batches[month].clear(),
        verdict,
        report.faults,
        threshold_of(stream),
        POLICY,
        OperatingPoint(alerted_fraction=ALERTED_FRACTION),
        baseline_auroc=baseline,
        estimated_loss=_as_finding(loss, len(stream.batches[month])),
        seed=seed,
    )
    lost = loss.loss is not None and loss.loss > POLICY.tolerated_loss and invalid is None
    return Watched(
        tool=OURS,
        look=month,
        alarm=plan.repair is not Repair.NONE or lost,
        flagged=moved_columns(report),
        verdict=verdict.value,
        said=f"{plan.repair.value}: {plan.reason}" + (f"; estimated loss {loss.loss:.3f}" if lost else ""),
    )


def _concept_moved(stream: Stream, month: int) -> bool:
    references = fit_concept_references(stream.reference, POLICY.tolerated_miscalibration)
    return weigh_concept(pl.concat(stream.batches[:month]), references, POLICY).moved


def _baseline_auroc(stream: Stream) -> Finding:
    rows = stream.reference
    findings = evaluate(
        rows["event"], rows["risk"], rows["patient"], threshold_of(stream), rows.select([]), 50, resamples=200
    )
    return next(one for one in findings if one.metric == "auroc")


def _as_finding(loss: EstimatedLoss, n: int) -> Finding | None:
    if loss.invalid_because is not None:
        return None
    return Finding("auroc", "overall", loss.loss, loss.low, loss.high, n)


def matthews(alarm: Sequence[bool], harm: Sequence[bool]) -> float | None:
    """Matthews' correlation of alarm and harm over months; None where either never changes."""
    both = pl.DataFrame({"alarm": list(alarm), "harm": list(harm)}).cast(pl.Float64)
    if both["alarm"].n_unique() < 2 or both["harm"].n_unique() < 2:
        return None
    return both.select(pl.corr("alarm", "harm")).item()
