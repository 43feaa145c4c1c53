"""What a version says of its own training set: scored once, when the version is made, and kept beside it in the lake.

Belongs here: writing these scores and joining them to their rows. Does not belong here: how rows are scored, and what
is measured of them.
"""

from collections.abc import Iterator, Sequence

import polars as pl

from clinical_assets.archives.archive import contract_of, describe_columns
from clinical_assets.learning.estimator import FittedEstimator
from clinical_assets.learning.scoring import BOOKKEEPING, score
from clinical_assets.lifecycle.candidate import read_training_rows
from clinical_assets.protocol import ModelProtocol, ModelVersion, ProtocolError, load_object
from clinical_assets.resources.column_descriptions import describe_column
from clinical_assets.resources.lake import Lake

SCORED_TRAINING = "scored_training"

MOST_ROWS_AT_ONCE = 50_000

HELD_OUT = ("calibrate", "test")
"""The splits on which no version was fitted; on the first it was calibrated, and its thresholds were chosen."""


def keep_training_scores(
    lake: Lake,
    protocol: ModelProtocol,
    version: ModelVersion,
    estimator: FittedEstimator,
    rows: pl.DataFrame,
    run_id: str,
) -> None:
    """Score the rows of the training set with the version's estimator, and write the scores beside its number."""
    table = pl.concat(_score_part(part, protocol, version, estimator) for part in _parts_of_patients(rows, protocol))
    descriptions = describe_columns(contract_of(load_object(protocol.cohort)))
    lake.write_table(
        f"{version.model}.{SCORED_TRAINING}",
        table,
        author=run_id,
        message=f"training set as version {version.version} scores it",
        replace_by="version",
        description="What each version says of every row of its own training set, scored once when it was made.",
        comments={name: text for name in table.columns if (text := descriptions.get(name) or describe_column(name))},
    )


def _parts_of_patients(rows: pl.DataFrame, protocol: ModelProtocol) -> Iterator[pl.DataFrame]:
    """The rows in parts, each patient whole in one: an estimator makes a copy of all that it is given at once."""
    parts = -(-rows.height // MOST_ROWS_AT_ONCE)
    place = rows[protocol.patient].rank("dense").cast(pl.Int64) - 1
    part = place * parts // max(rows[protocol.patient].n_unique(), 1)
    for number in range(parts):
        yield rows.filter(part == number)


def _score_part(
    rows: pl.DataFrame, protocol: ModelProtocol, version: ModelVersion, estimator: FittedEstimator
) -> pl.DataFrame:
    scores = score(estimator, rows, version, protocol)
    keys = rows.select(protocol.unit, protocol.patient, "month", "split")
    made_by = scores["model_version"].alias("version")
    said = scores.drop(BOOKKEEPING)
    return made_by.to_frame().hstack([*keys, protocol.outcome.is_event(rows), *said, rows["data_origin"]])


def with_training_scores(
    rows: pl.DataFrame, lake: Lake, protocol: ModelProtocol, version: ModelVersion
) -> pl.DataFrame:
    """Rows of a version's training set beside its scores and their `event`, in the order of the rows.

    Raises ProtocolError where the version has not scored one of them.
    """
    kept = lake.read(f"{version.model}.{SCORED_TRAINING}", where={"version": version.version})
    scores = kept.drop("version", protocol.patient, "month", "split", "data_origin")
    scored = rows.join(scores, on=protocol.unit, how="left", maintain_order="left")
    if unscored := scored["risk"].null_count():
        raise ProtocolError(
            f"{version.model} version {version.version} has no scores of {unscored:,} of {rows.height:,} rows of its "
            "training set; train a new candidate"
        )
    return scored


def watched_training_rows(
    lake: Lake, protocol: ModelProtocol, version: ModelVersion, further: Sequence[str] = ()
) -> tuple[pl.DataFrame, list[str]]:
    """The rows of a version's training set beside its scores, and which of their columns are watched.

    Of the features what is watched, the patient and `further` columns alone, where the protocol says what is watched.
    """
    watched = protocol.watched_columns([]) if protocol.monitoring.watched else None
    columns = None if watched is None else list(dict.fromkeys((protocol.patient, *further, *watched)))
    rows = read_training_rows(lake, protocol, version.lake_snapshot, columns)
    return with_training_scores(rows, lake, protocol, version), protocol.watched_columns(rows.columns)


def outputs_of(scored: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The scores alone of scored rows: the columns that the rows did not have, but for the event."""
    return scored.select(name for name in scored.columns if name not in rows.columns and name != "event")
