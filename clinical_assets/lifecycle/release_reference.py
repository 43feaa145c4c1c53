"""What a release is monitored against: fitted once for a version and a protocol, when it is released, and kept.

Belongs here: which references there are, and reading and keeping them. Does not belong here: how any is fitted.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from clinical_assets.learning.scoring import REPRESENTATION, watched_outputs
from clinical_assets.lifecycle.scored_training import HELD_OUT, watched_training_rows
from clinical_assets.monitoring.column_reference import CategoryReference, NumberReference, RowTally
from clinical_assets.monitoring.concept import ConceptReference, fit_concept_references
from clinical_assets.monitoring.covariates import CovariateEncoding
from clinical_assets.monitoring.drift import DriftMonitor
from clinical_assets.monitoring.estimated_performance import CannotEstimateError, PerformanceReference, Regression
from clinical_assets.monitoring.event_performance import BASELINE_RESAMPLES, measure_events
from clinical_assets.monitoring.fitted_state import FittedStateError, read_fitted, write_fitted
from clinical_assets.monitoring.joint_evidence import JointReference, Moments, NormalScores
from clinical_assets.monitoring.sequential_evidence import RankReference
from clinical_assets.monitoring.unit_change import ReferenceDensity
from clinical_assets.protocol import Finding, ModelProtocol, ModelVersion, Monitoring
from clinical_assets.resources.column_descriptions import COLUMN_DESCRIPTIONS
from clinical_assets.resources.lake import Lake

MONITORING_REFERENCE = "monitoring_reference"


@dataclass(frozen=True, slots=True)
class ReleaseReference:
    """What a version's months are held against, all of it of the version's own training set.

    `drift` is the monitor before its first look; `performance` that by which months without outcomes are judged, or the
    sentence that says why none could be fitted; `concept` the calibration by group; `baseline` what the version reached
    for the event on its test patients, with intervals.
    """

    drift: DriftMonitor
    performance: PerformanceReference | str
    concept: dict[str, ConceptReference | None]
    baseline: tuple[Finding, ...]

    @property
    def performance_digest(self) -> str | None:
        """What tells the regression by which rows are judged from another; None where none could be fitted."""
        return self.performance.digest if isinstance(self.performance, PerformanceReference) else None


STORED_CLASSES = (
    ReleaseReference,
    *(DriftMonitor, NumberReference, CategoryReference, RowTally, RankReference, ReferenceDensity, Monitoring),
    *(JointReference, NormalScores, Moments),
    *(PerformanceReference, Regression, CovariateEncoding),
    *(ConceptReference, Finding),
)
"""All that a kept reference may be made of."""


def release_reference(lake: Lake, version: ModelVersion, protocol: ModelProtocol, run_id: str) -> ReleaseReference:
    """The reference of a version under the protocol in force: as it was kept, or else fitted now and kept.

    A look fits one only where the protocol was edited since the release, or this code keeps it in another shape.
    """
    table = f"{version.model}.{MONITORING_REFERENCE}"
    kept = {"version": version.version, "protocol_sha256": protocol.sha256}
    if lake.exists(table):
        # One kept by other code, whose parts had other fields, is fitted anew.
        with suppress(FittedStateError):
            for content in lake.read(table, where=kept, columns=["fitted_reference"])["fitted_reference"]:
                return _opened(content)
    fitted = fit_release_reference(lake, version, protocol)
    row = pl.DataFrame(
        {
            **kept,
            "reference": [fitted.drift.digest],
            "fitted_reference": [write_fitted(fitted)],
            "data_origin": [version.data_origin],
        },
        schema_overrides={"version": pl.Int32},
    )
    lake.write_table(
        table,
        row,
        author=run_id,
        message=f"reference of version {version.version}",
        replace_by="version",
        description="What each released version is monitored against, fitted once to its training set.",
        comments={name: COLUMN_DESCRIPTIONS[name] for name in row.columns},
    )
    return fitted


# A month's looks ask for the same reference one after another; what the bytes hold depends on nothing else.
@lru_cache(maxsize=4)
def _opened(content: bytes) -> ReleaseReference:
    return read_fitted(content, STORED_CLASSES)


def fit_release_reference(lake: Lake, version: ModelVersion, protocol: ModelProtocol) -> ReleaseReference:
    """The reference of a version, fitted to its training set as it stood in the lake, and to its scores of it."""
    further = (protocol.outcome.column, *protocol.subgroups)
    scored, watched = watched_training_rows(lake, protocol, version, further)
    held_out = scored.filter(pl.col("split").is_in(HELD_OUT))
    by_patient = held_out.select(
        *("event", "risk", "month", *protocol.subgroups), pl.col(protocol.patient).alias("patient")
    )
    tolerated = protocol.monitoring.tolerated_miscalibration
    return ReleaseReference(
        drift=_fit_drift(scored, watched, protocol),
        performance=_fit_performance(held_out, watched, protocol),
        concept=fit_concept_references(by_patient, tolerated, protocol.subgroups, protocol.minimum_n),
        baseline=tuple(measure_events(scored.filter(split="test"), protocol, BASELINE_RESAMPLES)),
    )


def _fit_drift(scored: pl.DataFrame, watched: list[str], protocol: ModelProtocol) -> DriftMonitor:
    outputs = watched_outputs(scored)
    embedding = [name for name in outputs.columns if name.startswith(REPRESENTATION)]
    return DriftMonitor.fit(
        scored.with_columns(outputs),
        protocol.monitoring,
        [*watched, *(name for name in outputs.columns if name not in embedding)],
        patient=protocol.patient,
        period="month",
        embedding=embedding,
    )


def _fit_performance(held_out: pl.DataFrame, watched: list[str], protocol: ModelProtocol) -> PerformanceReference | str:
    try:
        return PerformanceReference.fit(
            held_out,
            outcome_event="event",
            patient=protocol.patient,
            covariates=list(dict.fromkeys((*watched, *protocol.subgroups))),
            subgroups=protocol.subgroups,
            minimum_n=protocol.minimum_n,
            month="month",
        )
    except CannotEstimateError as error:
        return str(error)
