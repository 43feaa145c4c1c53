"""What monitoring needs of the version that scored a month: what it was trained and tested on, and what became ripe.

Belongs here: fetching and assembling; no asset stands here. Does not belong here: any statistic.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import polars as pl

from clinical_assets.governance.ledger import version_before
from clinical_assets.learning.scoring import REPRESENTATION, score, watched_outputs
from clinical_assets.lifecycle.candidate import read_training_rows
from clinical_assets.monitoring.concept import ConceptEvidence, weigh_concept
from clinical_assets.monitoring.drift import STATE_SCHEMA, DriftMonitor
from clinical_assets.monitoring.estimated_performance import (
    EstimatedLoss,
    EstimatedPerformance,
    PerformanceReference,
    TooFewPatientsError,
    estimate_loss,
)
from clinical_assets.monitoring.event_performance import BASELINE_RESAMPLES, measure_events
from clinical_assets.protocol import Finding, ModelProtocol, ModelVersion, last_day
from clinical_assets.resources.column_descriptions import COLUMN_DESCRIPTIONS
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.registry import Registry

EVIDENCE = "drift_evidence"

EVENTS_WANTED = 100
"""Patients with the event, the least that the rows for a repair hold where there are as many."""

UNLEARNT = ("calibrate", "test")
"""The splits on which no version was fitted; on the first it was calibrated, and its thresholds were chosen."""


def drift_monitor(
    lake: Lake, registry: Registry, version: ModelVersion, protocol: ModelProtocol, month: date
) -> DriftMonitor:
    """The monitor fitted on the version's own training data, with the evidence of its months before this one."""
    monitor = _fitted_monitor(lake, registry, version, protocol.model_dump_json())
    return monitor.resume(_evidence_before(lake, version.model, monitor.digest, month))


def keep_evidence(lake: Lake, monitor: DriftMonitor, version: ModelVersion, month: date, run_id: str) -> None:
    """Store what the monitor knows after a month, so that its next look goes on from there, whoever makes it."""
    written = io.BytesIO()
    monitor.state.write_parquet(written)
    row = pl.DataFrame(
        {
            "month": [month],
            "champion_version": pl.Series([version.version], dtype=pl.Int32),
            "reference": [monitor.digest],
            "evidence_state": [written.getvalue()],
        }
    )
    lake.write_month(
        f"{version.model}.{EVIDENCE}",
        month,
        row,
        author=run_id,
        message=f"evidence after {month:%Y-%m}",
        description="What the drift monitor carries from one look to the next: counts and sums, and no row.",
        comments={name: COLUMN_DESCRIPTIONS[name] for name in row.columns},
    )


def _evidence_before(lake: Lake, model: str, reference: str, month: date) -> pl.DataFrame:
    table = f"{model}.{EVIDENCE}"
    months = [x for x in lake.months(table) if x < month] if lake.exists(table) else []
    if not months:
        return STATE_SCHEMA.to_frame()
    # What was gathered against other training data says nothing.
    row = lake.read(table, month=months[-1], where={"reference": reference})
    return pl.read_parquet(io.BytesIO(row["evidence_state"][0])) if row.height else STATE_SCHEMA.to_frame()


# A replay asks for the same monitor every month; it depends on nothing but its arguments.
@lru_cache(maxsize=4)
def _fitted_monitor(lake: Lake, registry: Registry, version: ModelVersion, protocol_json: str) -> DriftMonitor:
    protocol = ModelProtocol.model_validate_json(protocol_json)
    training = scored_training(lake, registry, version, protocol)
    outputs = watched_outputs(training.rows)
    embedding = [name for name in outputs.columns if name.startswith(REPRESENTATION)]
    return DriftMonitor.fit(
        training.rows.with_columns(outputs),
        protocol.monitoring,
        [*training.watched, *(name for name in outputs.columns if name not in embedding)],
        patient=protocol.patient,
        period="month",
        embedding=embedding,
    )


@dataclass(frozen=True, slots=True)
class ScoredTraining:
    """A version's training set as it stood in the lake, beside what the version says of each row.

    Of the features those that are watched, named in `watched`, and the subgroups; `event` is the outcome as 0 or 1.
    """

    rows: pl.DataFrame
    watched: tuple[str, ...]

    @property
    def unlearnt(self) -> pl.DataFrame:
        """The rows of calibration and test patients, on which the estimator was not fitted."""
        return self.rows.filter(pl.col("split").is_in(UNLEARNT))


def scored_training(lake: Lake, registry: Registry, version: ModelVersion, protocol: ModelProtocol) -> ScoredTraining:
    """The training set of a version with its scores."""
    return _scored_training(lake, registry, version, protocol.model_dump_json())


@lru_cache(maxsize=2)
def _scored_training(lake: Lake, registry: Registry, version: ModelVersion, protocol_json: str) -> ScoredTraining:
    protocol = ModelProtocol.model_validate_json(protocol_json)
    rows = read_training_rows(lake, protocol, version.lake_snapshot)
    scores = score(registry.load(version, protocol.estimator), rows, version, protocol)
    watched = tuple(protocol.watched_columns(rows.columns))
    kept = dict.fromkeys((*protocol.key_columns, *protocol.subgroups, *watched))
    events = protocol.outcome.is_event(rows)
    return ScoredTraining(rows.select(name for name in kept if name in rows.columns).hstack([*scores, events]), watched)


def ripe_rows(
    lake: Lake, protocol: ModelProtocol, version: int, known_by: date, also: Sequence[str] = ()
) -> pl.DataFrame:
    """The rows that a version has scored so far and whose outcomes are known by a day, with their events.

    Keys, subgroups, the features in `also`, `event`, `risk`, `alerted`, `threshold` and `month`; months in order of
    time. Empty where nothing is ripe.
    """
    scored = lake.months(f"{protocol.model}.predictions")
    # Of a month that has not begun no outcome is known: its rows are all left out below.
    months = [month for month in scored if month <= known_by] or scored[:1]
    keys = list(dict.fromkeys((protocol.unit, protocol.patient, protocol.outcome.column, *protocol.subgroups, *also)))
    outputs = [protocol.unit, "risk", "alerted", "threshold", "model_version"]
    features = lake.read(f"{protocol.model}.features", months=months, columns=[*keys, "month", "outcome_known_on"])
    scores = lake.read(f"{protocol.model}.predictions", months=months, columns=outputs).filter(model_version=version)
    rows = features.join(scores, on=protocol.unit, how="inner", maintain_order="left").filter(
        pl.col("outcome_known_on").cast(pl.Date) <= known_by, pl.col(protocol.outcome.column).is_not_null()
    )
    return rows.with_columns(protocol.outcome.is_event(rows)).sort("month", maintain_order=True)


def wholly_ripe(ripe: pl.DataFrame, lake: Lake, protocol: ModelProtocol) -> pl.DataFrame:
    """The rows of those months alone of which every outcome is known: a part of a month is another sample."""
    if ripe.is_empty():
        return ripe
    months = ripe["month"].unique().sort().to_list()
    scored = lake.read(f"{protocol.model}.predictions", months=months, columns=["month"])
    counts = ripe.group_by("month").agg(known=pl.len()).join(scored.group_by("month").agg(all=pl.len()), on="month")
    whole = counts.filter(pl.col("known") == pl.col("all"))
    return ripe.join(whole.select("month"), on="month", how="semi", maintain_order="left")


def concept_evidence(
    lake: Lake, registry: Registry, version: ModelVersion, protocol: ModelProtocol, month: date
) -> ConceptEvidence | None:
    """What outcomes that are ripe by the end of a month say of the outcome given the risk; None where none is ripe."""
    ripe = wholly_ripe(ripe_rows(lake, protocol, version.version, last_day(month)), lake, protocol)
    if ripe.is_empty():
        return None
    return weigh_concept(
        ripe.rename({protocol.patient: "patient"}),
        scored_training(lake, registry, version, protocol).unlearnt.rename({protocol.patient: "patient"}),
        protocol.monitoring,
        protocol.subgroups,
        protocol.minimum_n,
    )


def latest_ripe(ripe: pl.DataFrame, protocol: ModelProtocol, since: date | None) -> pl.DataFrame:
    """The rows that a repair is fitted on: since the outcome given risk moved, else the fewest latest months.

    So many months that enough patients had the event, where there are as many.
    """
    if since is not None:
        return ripe.filter(pl.col("month") >= since)
    events = (
        ripe.filter(event=1)
        .group_by("month")
        .agg(patients=pl.col(protocol.patient).n_unique())
        .sort("month", descending=True)
        .with_columns(before=pl.col("patients").cum_sum() - pl.col("patients"))
    )
    first = events.filter(pl.col("before") < EVENTS_WANTED)["month"].min()
    return ripe.filter(pl.col("month") >= first) if first is not None else ripe


def estimate_performance(
    scored: pl.DataFrame, lake: Lake, registry: Registry, version: ModelVersion, protocol: ModelProtocol, month: date
) -> tuple[EstimatedPerformance, EstimatedLoss] | str:
    """How a month's scored rows are likely to come true, and the loss against the version's own unlearnt rows.

    Outcomes that are ripe by the end of the month, of earlier months, make the estimate better; the loss is measured
    against the rows of the training set alone, so that what it is compared with does not move. Where too few patients
    had the event to estimate anything, the sentence that says so.
    """
    training = scored_training(lake, registry, version, protocol)
    ripe = ripe_rows(lake, protocol, version.version, last_day(month), training.watched)
    earlier = wholly_ripe(ripe.filter(pl.col("month") < month), lake, protocol)
    try:
        against = known = _reference_at_release(lake, registry, version, protocol.model_dump_json())
        if earlier.height:
            rows = pl.concat([training.unlearnt, earlier], how="diagonal_relaxed")
            known = _performance_reference(rows, training, protocol)
    except TooFewPatientsError as error:
        return str(error)
    estimate = known.estimate(scored)
    return estimate, estimate_loss(against, estimate, "auroc")


@lru_cache(maxsize=2)
def _reference_at_release(
    lake: Lake, registry: Registry, version: ModelVersion, protocol_json: str
) -> PerformanceReference:
    protocol = ModelProtocol.model_validate_json(protocol_json)
    training = scored_training(lake, registry, version, protocol)
    return _performance_reference(training.unlearnt, training, protocol)


def _performance_reference(
    rows: pl.DataFrame, training: ScoredTraining, protocol: ModelProtocol
) -> PerformanceReference:
    return PerformanceReference.fit(
        rows,
        outcome_event="event",
        patient=protocol.patient,
        covariates=list(dict.fromkeys((*training.watched, *protocol.subgroups))),
        subgroups=protocol.subgroups,
        minimum_n=protocol.minimum_n,
    )


def baseline_of(lake: Lake, registry: Registry, version: ModelVersion, protocol: ModelProtocol) -> list[Finding]:
    """What the version reached for the event on its test patients at its release, with intervals."""
    return _baseline(lake, registry, version, protocol.model_dump_json())


@lru_cache(maxsize=4)
def _baseline(lake: Lake, registry: Registry, version: ModelVersion, protocol_json: str) -> list[Finding]:
    protocol = ModelProtocol.model_validate_json(protocol_json)
    test = scored_training(lake, registry, version, protocol).rows.filter(split="test")
    return measure_events(test, protocol, BASELINE_RESAMPLES)


def with_previous_release(
    ripe: pl.DataFrame, lake: Lake, registry: Registry, version: ModelVersion, protocol: ModelProtocol
) -> pl.DataFrame:
    """The rows with the risk that the version released before this one gives them, where there is one."""
    previous = version_before(read_ledger(lake, protocol.model), version.version)
    if previous is None or ripe.is_empty():
        return ripe
    earlier = registry.version(protocol.model, previous)
    features = lake.read(f"{protocol.model}.features", months=ripe["month"].unique().sort().to_list())
    rows = features.join(ripe.select(protocol.unit), on=protocol.unit, how="semi", maintain_order="left")
    risk = score(registry.load(earlier, protocol.estimator), rows, earlier, protocol).select(
        pl.col("risk").alias("previous_release_risk")
    )
    return ripe.join(rows.select(protocol.unit).hstack(risk), on=protocol.unit, how="left", maintain_order="left")
