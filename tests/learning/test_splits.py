import hashlib
from datetime import date, timedelta

import polars as pl
import pytest
from learning_cohort import make_features, make_protocol

from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.splits import (
    SPLITS,
    assign_splits,
    check_one_patient_one_split,
    patient_buckets,
    ripe_months,
    take_patients,
)
from clinical_assets.protocol import ModelProtocol, Outcome

LONG_AFTER = date(2030, 1, 1)
FEBRUARY_2025 = date(2025, 2, 1)


def test_an_unripe_outcome_is_never_a_negative(protocol: ModelProtocol) -> None:
    as_of = date(2025, 1, 10)
    chosen = assign_splits(make_features(), protocol, as_of)
    assert chosen["outcome_known_on"].max() <= as_of  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
    assert chosen["month"].max() == date(2024, 11, 1)


def test_a_month_is_ripe_only_when_its_last_outcome_is_known() -> None:
    features = pl.DataFrame({"month": [date(2024, 1, 1)] * 2, "outcome_known_on": [date(2024, 2, 1), date(2024, 3, 1)]})
    assert ripe_months(features, date(2024, 2, 29)) == []
    assert ripe_months(features, date(2024, 3, 1)) == [date(2024, 1, 1)]


def test_a_missing_outcome_is_never_a_negative(protocol: ModelProtocol) -> None:
    features = make_features()
    unknown = features["encounter_id"].gather_every(10)
    with_unknown = features.with_columns(
        pl.when(~pl.col("encounter_id").is_in(unknown.implode())).then("readmitted_30d").alias("readmitted_30d")
    )
    chosen = assign_splits(with_unknown, protocol, LONG_AFTER)
    assert chosen["readmitted_30d"].null_count() == 0
    assert set(chosen["encounter_id"]).isdisjoint(unknown)


def test_only_the_development_months_are_used_and_only_the_evaluation_months_test() -> None:
    chosen = assign_splits(make_features(), make_protocol(development_months=10, evaluation_months=4), LONG_AFTER)
    months = {split: chosen.filter(split=split)["month"].unique().sort().to_list() for split in SPLITS}
    assert months["train"] == months["calibrate"]
    assert (months["train"][0], months["train"][-1], len(months["train"])) == (date(2024, 5, 1), FEBRUARY_2025, 10)
    assert months["test"] == [date(2024, 11, 1), date(2024, 12, 1), date(2025, 1, 1), FEBRUARY_2025]


def test_no_patient_is_in_two_splits(protocol: ModelProtocol) -> None:
    chosen = assign_splits(make_features(), protocol, LONG_AFTER)
    assert chosen["patient_id"].n_unique() < chosen.height
    assert check_one_patient_one_split(chosen, protocol) == 0


def test_a_patient_in_two_splits_is_counted(protocol: ModelProtocol) -> None:
    leaking = pl.DataFrame({"patient_id": ["a", "a", "a", "b"], "split": ["train", "test", "test", "train"]})
    assert check_one_patient_one_split(leaking, protocol) == 1


def test_a_test_patient_is_a_training_patient_of_no_other_version(protocol: ModelProtocol) -> None:
    features = make_features()
    earlier = assign_splits(features, protocol, date(2024, 12, 15))
    later = assign_splits(features.sample(fraction=1.0, shuffle=True, seed=1), protocol, LONG_AFTER)
    assert earlier["month"].max() != later["month"].max()
    assert check_one_patient_one_split(pl.concat([earlier, later]), protocol) == 0


def test_the_order_of_the_rows_given_does_not_matter(protocol: ModelProtocol) -> None:
    features = make_features()
    shuffled = features.sample(fraction=1.0, shuffle=True, seed=1)
    chosen = assign_splits(features, protocol, LONG_AFTER)
    assert chosen.equals(assign_splits(shuffled, protocol, LONG_AFTER))
    assert chosen["discharged_at"].is_sorted()


def test_a_graded_outcome_needs_events_and_others_in_every_split_from_the_protocol_s_grade_on() -> None:
    graded = Outcome(column="readmitted_30d", kind="graded", event_from=2, ripe_after_days=30)
    protocol = make_protocol(outcome=graded)
    grades = make_features().with_columns(readmitted_30d=(pl.int_range(pl.len()) % 5).cast(pl.Int8))
    assert set(assign_splits(grades, protocol, LONG_AFTER)["readmitted_30d"]) == {0, 1, 2, 3, 4}
    mild = grades.with_columns(pl.col("readmitted_30d").clip(upper_bound=1))
    with pytest.raises(LearningError, match=r"0 of [\d,]+ rows have readmitted_30d of 2 or more"):
        assign_splits(mild, protocol, LONG_AFTER)


def test_a_share_of_the_patients_is_the_same_at_every_call_and_in_every_month() -> None:
    features = make_features()
    taken = take_patients(features, "patient_id", 0.25)
    assert taken.equals(take_patients(features, "patient_id", 0.25))
    kept = set(taken["patient_id"])
    assert 0.2 < len(kept) / features["patient_id"].n_unique() < 0.3
    for (month,), rows in features.group_by("month"):
        of_month = take_patients(rows, "patient_id", 0.25)
        assert set(of_month["patient_id"]) == kept & set(rows["patient_id"]), month
    assert taken.equals(features.filter(pl.col("patient_id").is_in(kept)))


def test_a_smaller_share_lies_within_a_larger_one_and_the_whole_is_untouched() -> None:
    features = make_features()
    shares = [set(take_patients(features, "patient_id", share)["patient_id"]) for share in (0.1, 0.25, 0.5)]
    assert shares[0] < shares[1] < shares[2]
    assert take_patients(features, "patient_id", 1.0) is features


def test_about_65_15_and_20_of_a_hundred_patients_train_calibrate_and_test() -> None:
    buckets = patient_buckets(pl.Series([f"{i:032x}" for i in range(20_000)]))
    assert buckets.min() == 0
    assert buckets.max() == 99
    assert (buckets < 65).mean() == pytest.approx(0.65, abs=0.01)
    assert (buckets >= 80).mean() == pytest.approx(0.20, abs=0.01)


def test_a_bucket_is_that_of_the_published_hash_for_texts_and_numbers_alike() -> None:
    expected = [int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 100 for name in ("17", "18", "19")]
    assert patient_buckets(pl.Series(["17", "18", "19"])).to_list() == expected
    assert patient_buckets(pl.Series([17, 18, 19])).to_list() == expected


def test_without_a_ripe_month_the_date_is_named(protocol: ModelProtocol) -> None:
    with pytest.raises(LearningError, match="no month is ripe on 2024-01-15: an outcome is known 30 days after"):
        assign_splits(make_features(), protocol, date(2024, 1, 15))


def test_a_split_with_one_class_is_refused_with_months_and_counts(protocol: ModelProtocol) -> None:
    features = make_features().with_columns(readmitted_30d=pl.lit(0, pl.Int8))
    with pytest.raises(LearningError, match=r"split train, months 2024-03 to 2025-02: 0 of [\d,]+ rows"):
        assign_splits(features, protocol, LONG_AFTER)


def test_an_empty_split_is_refused(protocol: ModelProtocol) -> None:
    features = make_features()
    no_test_patient = features.filter(patient_buckets(features["patient_id"]) < 80)
    with pytest.raises(LearningError, match="split test, months 2024-09 to 2025-02: 0 of 0 rows"):
        assign_splits(no_test_patient, protocol, LONG_AFTER)


@pytest.mark.parametrize("column", ["patient_id", "outcome_known_on", "month", "readmitted_30d"])
def test_a_missing_column_is_named(protocol: ModelProtocol, column: str) -> None:
    with pytest.raises(LearningError, match=rf"lack the columns \['{column}'\]"):
        assign_splits(make_features().drop(column), protocol, LONG_AFTER)


def test_a_row_without_a_patient_is_refused_and_counted(protocol: ModelProtocol) -> None:
    first_day = date(2024, 1, 1) + timedelta(days=27)
    anonymous = make_features().with_columns(
        patient_id=pl.when(pl.col("discharged_at").dt.date() > first_day).then("patient_id")
    )
    with pytest.raises(LearningError, match=f"patient_id is missing in {anonymous['patient_id'].null_count()} rows"):
        assign_splits(anonymous, protocol, LONG_AFTER)
