"""The rows that monitoring looks at in one month, and the rows it writes; no asset stands here.

Belongs here: choosing the rows of a look and assembling tables from what was found, and back. Does not belong here: any
statistic, and fetching.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import polars as pl

from clinical_assets.learning.scoring import watched_outputs
from clinical_assets.lifecycle.candidate import FINDING_SCHEMA
from clinical_assets.lifecycle.release_reference import ReleaseReference
from clinical_assets.lifecycle.scored_history import wholly_matured
from clinical_assets.monitoring.concept import ConceptEvidence, weigh_concept
from clinical_assets.monitoring.drift import DriftReport
from clinical_assets.monitoring.estimated_performance import EstimatedLoss, EstimatedPerformance, estimate_loss
from clinical_assets.monitoring.event_performance import report_events
from clinical_assets.monitoring.performance import measure_performance
from clinical_assets.protocol import Finding, ModelProtocol, ModelVersion, Verdict, last_day

LOSS_OF_AUROC = "loss_of_auroc"
MISSED, EXTRA_ALERTS = "missed_per_1000_beyond_reference", "alerts_per_1000_beyond_reference"
HARM = (LOSS_OF_AUROC, MISSED, EXTRA_ALERTS)
OVERALL = "overall"


def scored_rows(protocol: ModelProtocol, features: pl.DataFrame, predictions: pl.DataFrame) -> pl.DataFrame:
    """A month's rows with what the champion said of each."""
    return features.join(
        predictions.drop(protocol.patient, "month", protocol.index_time, "data_origin"), on=protocol.unit
    )


def watched_rows(protocol: ModelProtocol, features: pl.DataFrame, predictions: pl.DataFrame) -> pl.DataFrame:
    """A month's rows with those outputs of the champion that are watched for drift."""
    outputs = predictions.select(protocol.unit).hstack(watched_outputs(predictions))
    return features.join(outputs, on=protocol.unit)


def estimate_performance(
    scored: pl.DataFrame, history: pl.DataFrame, reference: ReleaseReference, month: date
) -> tuple[EstimatedPerformance, EstimatedLoss] | str:
    """How a month's scored rows are likely to come true, and the loss against the version's own held-out rows.

    Outcomes of earlier months that are wholly known by the end of the month make the estimate better; the loss is
    measured against the rows of the release alone, so that what it is compared with does not move. Where nothing can be
    estimated, the sentence that says why.
    """
    at_release = reference.performance
    if isinstance(at_release, str):
        return at_release
    earlier = wholly_matured(history.filter(pl.col("month") < month), last_day(month))
    # What another regression expected of a row says nothing beside what this one does.
    known = at_release.with_matured(earlier.filter(performance_reference=at_release.digest), month="month")
    estimate = known.estimate(scored, month=month)
    return estimate, estimate_loss(at_release, estimate, "auroc")


def weigh_matured(
    history: pl.DataFrame, reference: ReleaseReference, protocol: ModelProtocol, month: date
) -> ConceptEvidence | None:
    """What months wholly known by the end of a month say of the outcome given the risk; None where none is."""
    rows = wholly_matured(history, last_day(month))
    if rows.is_empty():
        return None
    by_patient = rows.rename({protocol.patient: "patient"})
    return weigh_concept(by_patient, reference.concept, protocol.monitoring, protocol.subgroups, protocol.minimum_n)


def performance_table(
    history: pl.DataFrame,
    estimated: pl.DataFrame,
    baseline: Sequence[Finding],
    protocol: ModelProtocol,
    month: date,
    known_by: date,
) -> pl.DataFrame:
    """One row a metric and group: what a month achieved by the outcomes known by a day, and since the release.

    `history` are the version's rows of months up to this one, `estimated` the rows of `estimate_table`.
    """
    of_month = history.filter(month=month)
    whole = wholly_matured(history, known_by)
    since_release = whole if month in whole["month"] else whole.clear()
    measured = measure_performance(of_month, protocol, known_by)
    events = report_events(since_release, estimates_of(estimated), baseline, protocol)
    return pl.concat([measured, events.with_columns(status=pl.lit(measured["status"][0]))], how="diagonal").select(
        pl.lit(month).alias("month"),
        pl.lit(of_month["model_version"][0], pl.Int32).alias("model_version"),
        pl.all(),
        pl.lit(of_month["data_origin"][0]).alias("data_origin"),
    )


def estimate_table(estimated: tuple[EstimatedPerformance, EstimatedLoss] | str, n: int) -> pl.DataFrame:
    """One row an estimated metric and group of n rows, and what the loss means in patients; or why there is none."""
    if isinstance(estimated, str):
        findings, invalid = [Finding(metric, OVERALL, None, None, None, n) for metric in HARM], estimated
    else:
        estimate, loss = estimated
        invalid = estimate.invalid_because
        findings = [
            *estimate.findings,
            Finding(LOSS_OF_AUROC, OVERALL, loss.loss, loss.low, loss.high, n),
            Finding(MISSED, OVERALL, loss.missed_per_1000, None, None, n),
            Finding(EXTRA_ALERTS, OVERALL, loss.extra_alerts_per_1000, None, None, n),
        ]
    rows = [(x.metric, x.subgroup, x.value, x.low, x.high, x.n) for x in findings]
    table = pl.DataFrame(rows, schema=FINDING_SCHEMA, orient="row")
    return table.with_columns(invalid_because=pl.lit(invalid, pl.String))


def estimates_of(table: pl.DataFrame) -> list[Finding]:
    """The findings that `estimate_table` made rows of, without the harm."""
    rows = table.filter(~pl.col("metric").is_in(HARM))
    return [Finding(**row) for row in rows.select(list(FINDING_SCHEMA)).to_dicts()]


def loss_of(table: pl.DataFrame) -> Finding | None:
    """The estimated loss of AUROC, None where the estimate does not hold."""
    [row] = table.filter(metric=LOSS_OF_AUROC).to_dicts()
    return (
        None
        if row["invalid_because"] or row["value"] is None
        else Finding(**{name: row[name] for name in FINDING_SCHEMA})
    )


def baseline_auroc(baseline: Sequence[Finding]) -> Finding | None:
    """How well the version ranked the event at its release."""
    return next((x for x in baseline if x.metric == "auroc" and x.subgroup == OVERALL), None)


def judge_month(report: DriftReport, concept: ConceptEvidence | None, estimated: pl.DataFrame) -> DriftReport:
    """The report with the verdict that ripe outcomes call for, and the severity that was estimated.

    Faulty data are not judged further. A concept shift says more than a population shift, and makes the estimate
    invalid, which presumes that the outcome given risk stands.
    """
    moved = concept is not None and concept.moved and report.verdict is not Verdict.DATA_FAULT
    if concept is not None and moved:
        return replace(report, verdict=Verdict.CONCEPT_SHIFT, reason=concept.reason, severity=None)
    loss = loss_of(estimated)
    return replace(report, severity=loss.value if loss else None)


def drift_table(
    report: DriftReport, concept: ConceptEvidence | None, version: ModelVersion, month: date, origin: str
) -> pl.DataFrame:
    """One row a comparison of a column, each with the verdict on the month and what the drift is estimated to cost."""
    moved = concept is not None and concept.moved
    faulty = [fault.split()[0].rstrip(":") for fault in report.faults]
    return report.columns.select(
        pl.lit(month).alias("month"),
        pl.lit(version.version, pl.Int32).alias("champion_version"),
        pl.all(),
        pl.col("column").is_in(faulty).alias("faulty"),
        pl.lit(report.verdict.value).alias("verdict"),
        pl.lit(report.severity, pl.Float64).alias("severity"),
        pl.lit(concept.began if concept and moved else None, pl.Date).alias("since"),
        pl.lit(report.reason).alias("reason"),
        pl.lit("; ".join(report.faults) or None, pl.String).alias("fault"),
        pl.lit(origin).alias("data_origin"),
    )
