"""What the documents of an evidence pack are written from, and the phrases that they share.

Belongs here: the facts of a version and their plain wording. Does not belong here: any document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import polars as pl

from clinical_assets.governance.small_cells import is_small, shown_count
from clinical_assets.learning.recipe import Environment
from clinical_assets.learning.splits import BUCKETS, FIRST_CALIBRATE_BUCKET, FIRST_TEST_BUCKET
from clinical_assets.protocol import (
    ArchivePin,
    Finding,
    JudgedLimit,
    Judgement,
    ModelProtocol,
    ModelVersion,
    Repair,
    load_object,
)
from clinical_assets.reporting.metric_words import MINUS, NET_BENEFIT, SILENT, TRANSPORTED, describe_metric, plural_unit
from clinical_assets.reporting.shown_findings import suppress_findings
from clinical_assets.reporting.withheld import WithheldFinding


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """One version: its protocol, what was measured, and its training set.

    `cohort` has one row a split: split, rows, patients, events, first_month, last_month. Where `protocol_kept` is false
    the version's own protocol is gone, and `protocol` is the one now in force.
    """

    protocol: ModelProtocol
    version: ModelVersion
    findings: Sequence[Finding]
    cohort: pl.DataFrame
    protocol_kept: bool = True

    def finding(self, metric: str, subgroup: str = "overall") -> Finding | None:
        """What was measured under this name, if anything."""
        return next((x for x in self.findings if (x.metric, x.subgroup) == (metric, subgroup)), None)

    @property
    def on_test_rows(self) -> list[Finding]:
        """What was measured of this version on its test rows, without differences and net benefit."""
        elsewhere = (SILENT, TRANSPORTED)
        return [
            x
            for x in self.findings
            if MINUS not in x.metric and not NET_BENEFIT.fullmatch(x.metric) and not x.metric.startswith(elsewhere)
        ]

    def starting(self, prefix: str) -> list[Finding]:
        """The silent or transported figures."""
        return [x for x in self.findings if x.metric.startswith(prefix) and x.metric != f"{prefix}months"]

    def hides(self, finding: Finding) -> bool:
        """Whether a figure would tell a small count, by itself or beside the others: what the report withholds too."""
        return (finding.metric, finding.subgroup) in _withheld(tuple(self.findings))

    def figure(self, finding: Finding) -> str:
        """A finding in a phrase: its name, subgroup, value, 95 % interval and n; not the value of a small group."""
        words = describe_metric(finding.metric, self.protocol)
        place = "" if finding.subgroup == "overall" else f", {finding.subgroup.replace('=', ' ')}"
        if self.hides(finding):
            return f"{words.name}{place} not shown, to protect a small group"
        interval = words.write_interval(finding)
        told = f"95 % interval {interval}, n {finding.n:,}" if interval else f"n {finding.n:,}"
        return f"{words.name}{place} {words.write(finding.value)} ({told})"

    def in_words(self, findings: Sequence[Finding]) -> str:
        """Figures in a sentence, each with its interval and n."""
        return "; ".join(map(self.figure, findings))

    @property
    def cohort_in_words(self) -> str:
        """The splits of the training set with their rows, patients, events and months."""
        unit = plural_unit(self.protocol)
        return "; ".join(
            f"{row['split']}: {shown_count(row['rows'])} {unit} of {shown_count(row['patients'])} patients, "
            f"{events_in_words(row)} with the outcome, {row['first_month']:%b %Y} to {row['last_month']:%b %Y}"
            for row in self.cohort.iter_rows(named=True)
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """A candidate with all that its documents say of it.

    `inputs` are the columns the estimator reads, with their meaning; `previous` the version released when it was
    measured, None where there was none; `made_by` how it was made; `environment` what is installed; `archive_pin` the
    archive's in the hospital's own Git when the version was trained, None where there was none.
    """

    candidate: VersionFacts
    judged: Sequence[JudgedLimit]
    inputs: Mapping[str, str]
    made_by: Repair
    environment: Environment
    created_at: datetime
    previous: VersionFacts | None = None
    archive_pin: ArchivePin | None = None

    @property
    def protocol(self) -> ModelProtocol:
        """The protocol of the candidate."""
        return self.candidate.protocol

    @property
    def version(self) -> ModelVersion:
        """The candidate's registered version."""
        return self.candidate.version

    @property
    def caution(self) -> str:
        """What must stand before any figure: simulated or modified data, a demonstration; empty where nothing must."""
        origin, cautions = self.version.data_origin, []
        if origin.startswith("simulated"):
            cautions.append(
                "SIMULATED DATA: every figure was measured on simulated patients; none speaks of real ones."
            )
        elif origin.endswith(":modified"):
            cautions.append(f"MODIFIED ARCHIVE: figures were measured on {origin}, not on the archive as published.")
        if self.protocol.environment == "demo":
            cautions.append("DEMONSTRATION: not for clinical use.")
        if self.protocol.model_card.demonstration:
            cautions.append("The developer, contact and the like named here are examples of a demonstration.")
        return " ".join(cautions)

    @property
    def archive_in_words(self) -> str:
        """The source of the data, with its publisher, licence and citation."""
        if self.protocol.archive is None:
            return f"Rows fetched by the hospital's own cohort function; data origin {self.version.data_origin}"
        archive = load_object(self.protocol.archive)
        cited = f", {archive.citation}" if archive.citation else ""
        pinned = f"; when it was trained {self.archive_pin.in_words()}" if self.archive_pin else ""
        return (
            f"{archive.title} ({archive.publisher}, {archive.licence}{cited}); data origin {self.version.data_origin}"
            f"{pinned}"
        )

    @property
    def subgroup_findings(self) -> list[Finding]:
        """The headline and the sensitivity in every subgroup, and the largest gap."""
        wanted = {self.protocol.monitoring.headline, "sensitivity"}
        inside = [x for x in self.candidate.on_test_rows if x.subgroup != "overall" and x.metric in wanted]
        return [*inside, *(x for x in self.candidate.on_test_rows if x.metric == "sensitivity_gap")]

    @property
    def limits_in_words(self) -> str:
        """How many of the protocol's limits are met, and each that is not."""
        counted = [x for x in self.judged if x.judgement is not Judgement.NOT_APPLICABLE]
        short = [x for x in counted if x.judgement is not Judgement.PASS]
        words = f"{len(counted) - len(short)} of {len(counted)} limits met"
        return words + "".join(f"; {x.limit.metric} ({x.subgroup}) {x.limit.in_words()}: {x.reason}" for x in short)


def events_in_words(row: Mapping[str, Any]) -> str:
    """How many rows of a split have the outcome; not written out where these, or the others, are few."""
    few = is_small(row["events"]) or is_small(row["rows"] - row["events"])
    return "a number not shown" if few else f"{row['events']:,}"


def split_in_words() -> str:
    """How patients are parted, the same for every model."""
    calibrate, test = FIRST_TEST_BUCKET - FIRST_CALIBRATE_BUCKET, BUCKETS - FIRST_TEST_BUCKET
    return f"by patient, for ever: {FIRST_CALIBRATE_BUCKET} % train, {calibrate} % calibrate, {test} % test"


def ladder_in_words(protocol: ModelProtocol) -> str:
    """The repairs that a protocol allows without a new protocol, the smallest first."""
    return (
        "the smallest that is shown to help on held-out rows of known outcome: recalibrate the intercept, recalibrate "
        "intercept and slope, move the threshold, retrain, roll back to an earlier release; a fault in the data is "
        f"mended in the data. No two retrainings for drift within {protocol.retraining.cool_down_days} days"
    )


def monitoring_in_words(protocol: ModelProtocol) -> str:
    """What is watched every month, and when it alarms."""
    watched = protocol.monitoring
    return (
        f"Every month: inputs and outputs against the training data ({watched.false_alarms_per_year:g} false alarms a "
        f"year), performance estimated without outcomes and, {protocol.outcome.ripe_after_days} days after the last "
        f"case, measured with them. Tolerated: a loss of {watched.tolerated_loss:g} AUROC, and observed over expected "
        f"between {1 / (1 + watched.tolerated_miscalibration):.2f} and {1 + watched.tolerated_miscalibration:.2f}"
    )


def operating_point_in_words(protocol: ModelProtocol, version: ModelVersion) -> str:
    """How the threshold was chosen, and where it stands."""
    point = protocol.operating_point
    return (
        f"alerted from a risk of {version.threshold:.4g} on, chosen on the calibration rows alone so that "
        f"{point.alerted_fraction:.0%} of {point.of} are alerted"
    )


def sign_off_in_words(protocol: ModelProtocol) -> str:
    """Who must sign."""
    roles = ", ".join(role.replace("_", " ") for role in protocol.sign_off.roles)
    days = protocol.sign_off.valid_days
    return f"signed by {roles}, each another person and none who trained it; a signature holds {days} days"


@lru_cache(maxsize=8)
def _withheld(findings: tuple[Finding, ...]) -> frozenset[tuple[str, str]]:
    """Metric and subgroup of the figures that the report withholds too."""
    shown = suppress_findings(findings)
    return frozenset((x.metric, x.subgroup) for x in shown if isinstance(x, WithheldFinding))
