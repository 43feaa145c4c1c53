"""Who is learnt from, who calibrates and who tests: by patient for ever, and by time.

Belongs here: which row plays which part. Does not belong here: what is learnt.
"""

from datetime import date

import duckdb
import polars as pl

from clinical_assets.learning.estimator import LearningError
from clinical_assets.protocol import ModelProtocol

FIRST_CALIBRATE_BUCKET = 65
FIRST_TEST_BUCKET = 80
BUCKETS = 100
BUCKET = "bucket"
SPLITS = ("train", "calibrate", "test")


def assign_splits(
    features: pl.DataFrame, protocol: ModelProtocol, as_of: date, kept: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The training set: rows of the last ripe months with their part, `split` = `train`, `calibrate` or `test`.

    A month is ripe when every outcome in it is known on `as_of`; the last `development_months` ripe months are used,
    and rows whose outcome is missing are left out. Each patient belongs to one split in every version (65, 15 and 20
    of a hundred), so that any two versions can be compared on the same test rows. `kept` gives the `bucket` of patients
    whose pseudonym was renewed, and who would have another by it. Test rows come from the last
    `evaluation_months` of these months; earlier rows of test patients are left out. Rows are ordered by index time.
    Raises LearningError naming the months and counts when a column or a ripe month is missing, or when a split is
    empty or has one class only.
    """
    outcome = protocol.outcome.column
    needed = (protocol.unit, protocol.patient, protocol.index_time, outcome, "outcome_known_on", "month")
    if missing := [column for column in needed if column not in features.columns]:
        raise LearningError(f"features lack the columns {missing}; the cohort must give them")
    for column in (protocol.patient, "outcome_known_on", "month"):
        if nulls := features[column].null_count():
            raise LearningError(f"features: {column} is missing in {nulls:,} rows; every row needs one")
    months = ripe_months(features, as_of)[-protocol.development_months :]
    if not months:
        raise LearningError(
            f"no month is ripe on {as_of}: an outcome is known {protocol.outcome.ripe_after_days} days after the index "
            f"time, and {features['month'].n_unique()} months were given; wait, or give earlier months"
        )
    first_test_month = months[-protocol.evaluation_months :][0]
    chosen = features.filter(pl.col("month").is_in(months) & pl.col(outcome).is_not_null())
    bucket = patient_buckets(chosen[protocol.patient])
    if kept is not None:
        bucket = chosen.join(kept, on=protocol.patient, how="left", maintain_order="left")[BUCKET].fill_null(bucket)
    split = (
        pl.when(bucket < FIRST_CALIBRATE_BUCKET)
        .then(pl.lit("train"))
        .when(bucket < FIRST_TEST_BUCKET)
        .then(pl.lit("calibrate"))
        .when(pl.col("month") >= first_test_month)
        .then(pl.lit("test"))
    )
    training_set = (
        chosen.with_columns(split=split)
        .drop_nulls("split")
        .sort(protocol.index_time, protocol.unit, maintain_order=True)
    )
    for name in SPLITS:
        rows = training_set.filter(pl.col("split") == name)
        events = int(protocol.outcome.is_event(rows).sum())
        if events in (0, rows.height):
            first = first_test_month if name == "test" else months[0]
            raise LearningError(
                f"split {name}, months {first:%Y-%m} to {months[-1]:%Y-%m}: {events:,} of {rows.height:,} rows have "
                f"{outcome} of {protocol.outcome.event_from} or more; rows of both kinds are needed, so use more months"
            )
    return training_set


def ripe_months(features: pl.DataFrame, as_of: date) -> list[date]:
    """The months, in order, all of whose outcomes are known on `as_of`."""
    last_known = features.group_by("month").agg(pl.col("outcome_known_on").max()).sort("month")
    return last_known.filter(pl.col("outcome_known_on") <= as_of)["month"].to_list()


def patient_buckets(patient: pl.Series) -> pl.Series:
    """The patient's number for ever, 0 to 99: the first 32 bits of the identifier's SHA-256, modulo 100."""
    identifiers = pl.DataFrame({"patient": patient.cast(pl.String)})
    with duckdb.connect() as connection:
        connection.register("identifiers", identifiers)
        return connection.sql(
            f"SELECT (('0x' || left(sha256(patient), 8))::BIGINT % {BUCKETS})::TINYINT AS bucket FROM identifiers"
        ).pl()["bucket"]


def kept_split(model: str) -> str:
    """The table with the `bucket` that patients of a model had before their pseudonyms were renewed."""
    return f"{model}.kept_split"


def take_patients(rows: pl.DataFrame, patient: str, share: float) -> pl.DataFrame:
    """The rows of a share of the patients, the same ones at every call; `patient` is the column that names them."""
    return rows if share == 1.0 else rows.filter(patient_buckets(rows[patient]) < round(BUCKETS * share))


def check_one_patient_one_split(training_set: pl.DataFrame, protocol: ModelProtocol) -> int:
    """How many patients are in more than one split; anything but 0 is a leak."""
    splits = training_set.group_by(protocol.patient).agg(pl.col("split").n_unique())
    return splits.filter(pl.col("split") > 1).height
