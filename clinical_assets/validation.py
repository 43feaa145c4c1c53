"""External validation: one version, scored on any archive in its publisher's layout, with everything measured.

Belongs here: the way from a foreign archive to files a reviewer can read. Does not belong here: any measuring.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from clinical_assets.archives.archive import Archive, ArchiveError, MonthWindow
from clinical_assets.archives.calendar import CALENDAR_NOTE, FIRST_MONTH, LAST_MONTH
from clinical_assets.evaluation import calibration_curve
from clinical_assets.evaluation.assessment import Assessment
from clinical_assets.governance.pseudonyms import load_or_create_key, pseudonymise
from clinical_assets.governance.small_cells import hide_counts_in, shown_count
from clinical_assets.learning.scoring import BOOKKEEPING, score
from clinical_assets.protocol import Finding, ModelProtocol, ModelVersion, load_object, month_after
from clinical_assets.reporting.validation_report import ValidationReport, render
from clinical_assets.resources.home import write_atomically
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry

RESAMPLES = 500
ALL_SPLITS = "all"
FILES = ("predictions.parquet", "evaluation.json", "evaluation.csv", "report.html")


@dataclass(frozen=True, slots=True)
class ExternalValidation:
    """What an external validation found, on which data, and what a reader must know of it."""

    data_origin: str
    findings: list[Finding]
    notes: tuple[str, ...]
    files: tuple[str, ...]


def validate_externally(
    protocol: ModelProtocol,
    lake: Lake,
    registry: Registry,
    version: ModelVersion,
    source: Path,
    out: Path,
    key: Path,
    split: str | None = None,
) -> ExternalValidation:
    """Score every eligible unit of an archive, and measure on the patients that the version never learnt from.

    `predictions.parquet` has a row a unit: pseudonyms, risk, prediction, outcome, `seen_in_training`, and what else the
    model's assessment makes of a prediction. `split` is one that the archive's publisher made, `all` for the whole; by
    default that of the protocol. `evaluation.json` and `.csv` tell small counts too: they are for whoever brought the
    archive, and lie beside its rows; `report.html`, which is passed on, withholds them. Raises ArchiveError,
    LearningError or EvaluationError where the archive cannot be read, scored or measured; then nothing is written.
    """
    if protocol.archive is None:
        raise ArchiveError(f"{protocol.model} reads no archive: its cohort function fetches its rows itself")
    archive = load_object(protocol.archive).open(source)
    rows, taken = read_cohort(protocol, archive, split)
    rows = pseudonymise(rows, (protocol.unit, protocol.patient), load_or_create_key(key))
    rows = rows.with_columns(data_origin=pl.lit(archive.data_origin))
    features = load_object(protocol.features)(rows) if protocol.features else rows
    scores = score(registry.load(version, protocol.estimator), features, version, protocol)
    learnt = pl.col(protocol.patient).is_in(learnt_from(lake, protocol, version))
    # What was computed for the estimator alone can be gigabytes, and nothing below looks at it.
    kept = features.select(name for name in features.columns if name in rows.columns)
    scored = kept.hstack(scores).with_columns(seen_in_training=learnt)
    unseen = scored.filter(~pl.col("seen_in_training"))
    measured = unseen if unseen.height else scored
    assessment: Assessment = load_object(protocol.assessment)
    findings = assessment.measure(measured, protocol, RESAMPLES)
    notes = (*taken, *describe_quarantine(protocol, archive), describe_overlap(scored, unseen, protocol))
    notes = tuple(map(hide_counts_in, notes))
    report = ValidationReport(
        kind="external_validation",
        protocol=protocol,
        version=version,
        findings=findings,
        calibration=calibration_curve(protocol.outcome.is_event(measured), measured["risk"]),
        exhibits=[load_object(exhibit)(measured, protocol, findings) for exhibit in protocol.exhibits],
        cohort=count_cohort(scored, protocol),
        data_origin=archive.data_origin,
        created_at=datetime.now(UTC),
        calendar_note=f"{CALENDAR_NOTE} {'; '.join(notes)}.",
    )
    result = ExternalValidation(archive.data_origin, findings, notes, FILES)
    write(result, protocol, version, scored, scores.columns, render(report), out)
    return result


def read_cohort(protocol: ModelProtocol, archive: Archive, split: str | None) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The rows to validate on, and a note of which of the archive's own splits they are, where it has any."""
    if protocol.published is None:
        if split is not None:
            raise ArchiveError(f"{protocol.model}: its archive has no published splits; leave --split out")
        return load_object(protocol.cohort)(archive, MonthWindow(FIRST_MONTH, month_after(LAST_MONTH))), ()
    rows: pl.DataFrame = load_object(protocol.published.cohort)(archive)
    published = rows[protocol.published.split_column]
    splits = published.drop_nulls().unique().sort().to_list()
    chosen = split or (protocol.published.split if splits else ALL_SPLITS)
    if chosen == ALL_SPLITS:
        return rows, ("the whole archive" if splits else "the whole archive, which has no published splits",)
    if chosen not in splits:
        known = ", ".join(splits) or "none"
        raise ArchiveError(f"{archive.path.name} has no split {chosen!r}; it has: {known}; `--split all` is everything")
    return rows.filter(published == chosen), (f"published split {chosen}",)


def describe_quarantine(protocol: ModelProtocol, archive: Archive) -> tuple[str, ...]:
    """How many records of the archive were left out as broken, and why; the reader's warning names them."""
    if protocol.faults is None:
        return ()
    faults = load_object(protocol.faults)(archive, MonthWindow(FIRST_MONTH, month_after(LAST_MONTH)))
    broken = faults.filter(fault="quarantined")
    if broken.is_empty():
        return ()
    reasons = "; ".join(broken["reason"].unique().sort())
    return (f"{shown_count(broken.height)} broken records left out ({reasons})",)


def count_cohort(scored: pl.DataFrame, protocol: ModelProtocol) -> pl.DataFrame:
    """The rows of patients never seen and, apart, of those the version learnt from."""
    part = pl.when("seen_in_training").then(pl.lit("seen in training")).otherwise(pl.lit("validated"))
    return (
        scored.group_by(part.alias("split"))
        .agg(
            pl.len().alias("rows"),
            pl.col(protocol.patient).n_unique().alias("patients"),
            (pl.col(protocol.outcome.column) >= protocol.outcome.event_from).sum().cast(pl.Int64).alias("events"),
            pl.col("month").min().alias("first_month"),
            pl.col("month").max().alias("last_month"),
        )
        .sort("split", descending=True)
    )


def learnt_from(lake: Lake, protocol: ModelProtocol, version: ModelVersion) -> pl.Series:
    """The pseudonyms of the patients whose rows the version was fitted or calibrated on."""
    rows = lake.read(
        f"{protocol.model}.training_set", snapshot=version.lake_snapshot, columns=[protocol.patient, "split"]
    )
    return rows.filter(pl.col("split") != "test")[protocol.patient].unique()


def describe_overlap(scored: pl.DataFrame, unseen: pl.DataFrame, protocol: ModelProtocol) -> str:
    """On how many patients the figures rest, and whether the version learnt from any of them."""
    patients, strangers = scored[protocol.patient].n_unique(), unseen[protocol.patient].n_unique()
    named = not (scored[protocol.unit] == scored[protocol.patient]).all()
    who = "patients" if named else "units (the archive names no patients)"
    if strangers == patients:
        return f"measured on all {patients:,} {who}, none of which this version learnt from"
    if strangers == 0:
        return f"this version learnt from every one of the {patients:,} {who}: these figures validate nothing"
    return (
        f"measured on the {strangers:,} of {patients:,} {who} that this version did not learn from; "
        "predictions.parquet holds all, marked by seen_in_training"
    )


def write(
    result: ExternalValidation,
    protocol: ModelProtocol,
    version: ModelVersion,
    scored: pl.DataFrame,
    score_columns: list[str],
    report: str,
    out: Path,
) -> None:
    """Write the files of an external validation into `out`, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    further = [name for name in score_columns if name not in ("risk", "alerted", *BOOKKEEPING)]
    predictions = scored.select(
        protocol.unit,
        protocol.patient,
        "risk",
        pl.col("alerted").cast(pl.Int8).alias("prediction"),
        pl.col(protocol.outcome.column).alias("outcome"),
        "seen_in_training",
        *further,
        "data_origin",
    )
    temporary = out / ".predictions.parquet"
    predictions.write_parquet(temporary)
    temporary.replace(out / "predictions.parquet")
    evaluation = {
        "model": protocol.model,
        "version": version.version,
        "data_origin": result.data_origin,
        "protocol": protocol.sha256,
        "notes": list(result.notes),
        "findings": [asdict(finding) for finding in result.findings],
    }
    write_atomically(out / "evaluation.json", json.dumps(evaluation, indent=2) + "\n")
    write_atomically(out / "evaluation.csv", pl.DataFrame(evaluation["findings"]).write_csv())
    write_atomically(out / "report.html", report)
