import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from alarm_cohort import SMALL_TREES, make_alarm_protocol, make_hours
from sklearn.metrics import roc_auc_score

from clinical_assets.learning import boosted_alarm
from clinical_assets.learning.boosted_alarm import BoostedAlarm, BoostedAlarmSettings
from clinical_assets.learning.estimator import LearningError


@pytest.fixture(scope="module")
def hours() -> pl.DataFrame:
    return make_hours()


@pytest.fixture(scope="module")
def boosted(hours: pl.DataFrame) -> BoostedAlarm:
    return BoostedAlarm.fit(hours, make_alarm_protocol(**SMALL_TREES, members="label,weighted,regression"))


def test_unseen_patients_are_ranked_and_their_risks_add_up(boosted: BoostedAlarm) -> None:
    unseen = make_hours(seed=4)
    risk = boosted.predict(unseen)
    assert roc_auc_score(unseen["sepsis_6h"], risk) > 0.8
    assert risk.sum() == pytest.approx(unseen["sepsis_6h"].sum(), rel=0.25)


@pytest.mark.parametrize("member", ["label", "weighted", "regression"])
def test_each_member_learns_alone(hours: pl.DataFrame, member: str) -> None:
    alone = BoostedAlarm.fit(hours, make_alarm_protocol(**SMALL_TREES, members=member))
    unseen = make_hours(seed=4)
    assert alone.members == (member,)
    assert roc_auc_score(unseen["sepsis_6h"], alone.predict(unseen)) > 0.8


def test_members_differ_in_what_they_learn(boosted: BoostedAlarm) -> None:
    assert len({booster.model_to_string() for booster in boosted.boosters}) == 3


def test_risks_of_the_calibrate_split_add_up_to_its_outcomes(boosted: BoostedAlarm, hours: pl.DataFrame) -> None:
    calibrate = hours.filter(split="calibrate")
    assert boosted.predict(calibrate).sum() == pytest.approx(calibrate["sepsis_6h"].sum(), rel=1e-3)


def test_keys_outcome_split_and_what_the_protocol_excludes_are_never_features(boosted: BoostedAlarm) -> None:
    assert set(boosted.feature_names) == {
        "icu_los_h",
        "heart_rate_bpm_last",
        "lactate_mmol_l",
        "lactate_mmol_l_last",
        "lactate_mmol_l_hours_since",
    }


def test_the_order_of_rows_and_columns_changes_no_risk(boosted: BoostedAlarm, hours: pl.DataFrame) -> None:
    shuffled = hours.with_row_index("place").sample(fraction=1.0, shuffle=True, seed=1).select(reversed(hours.columns))
    place = hours.with_row_index("place").sample(fraction=1.0, shuffle=True, seed=1)["place"].to_numpy()
    assert np.array_equal(boosted.predict(shuffled), boosted.predict(hours)[place])


def test_a_training_set_in_any_order_of_time_has_the_same_gains(hours: pl.DataFrame) -> None:
    ordered = boosted_alarm.AlarmHours.of(hours, make_alarm_protocol(), "train")
    mixed = hours.sample(fraction=1.0, shuffle=True, seed=2)
    found = boosted_alarm.AlarmHours.of(mixed, make_alarm_protocol(), "train")
    assert np.array_equal(found.gain, ordered.gain)
    assert np.array_equal(mixed["hour_id"].to_numpy()[found.row], hours["hour_id"].to_numpy()[ordered.row])


def test_the_same_rows_and_seed_give_the_same_files(boosted: BoostedAlarm, hours: pl.DataFrame, tmp_path: Path) -> None:
    again = BoostedAlarm.fit(hours, make_alarm_protocol(**SMALL_TREES, members="label,weighted,regression"))
    other = BoostedAlarm.fit(hours, make_alarm_protocol(**SMALL_TREES, members="label,weighted,regression", seed=1))
    written = []
    for name, model in (("one", boosted), ("two", again), ("three", other)):
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_a_loaded_model_predicts_the_same(boosted: BoostedAlarm, hours: pl.DataFrame, tmp_path: Path) -> None:
    boosted.save(tmp_path)
    loaded = BoostedAlarm.load(tmp_path)
    assert np.array_equal(loaded.predict(hours), boosted.predict(hours))
    assert loaded.feature_names == boosted.feature_names
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".txt"}


def test_patients_without_the_outcome_weigh_as_much_when_fewer_of_them_are_seen(hours: pl.DataFrame) -> None:
    risk = [
        BoostedAlarm.fit(hours, make_alarm_protocol(**SMALL_TREES, other_share=share)).predict(hours).mean()
        for share in (0.3, 1.0)
    ]
    assert risk[0] == pytest.approx(risk[1], rel=0.1)


def test_hours_may_be_weighed_and_the_weight_is_no_feature(hours: pl.DataFrame) -> None:
    early = pl.col("icu_los_h") <= 10
    weighed = hours.with_columns(trust=pl.when(early).then(1e-6).otherwise(1.0))
    protocol = make_alarm_protocol(**SMALL_TREES, weight_column="trust", other_share=1.0)
    model = BoostedAlarm.fit(weighed, protocol)
    assert "trust" not in model.feature_names
    scrambled = weighed.with_columns(heart_rate_bpm_last=pl.when(early).then(0.0).otherwise("heart_rate_bpm_last"))
    again = BoostedAlarm.fit(scrambled, protocol)
    late = hours.filter(~early)
    assert np.corrcoef(model.predict(late), again.predict(late))[0, 1] > 0.9
    with pytest.raises(LearningError, match=r"trust: [\d,]+ of [\d,]+ hours of split train have no weight above 0"):
        BoostedAlarm.fit(weighed.with_columns(trust=0.0), protocol)


def test_every_setting_has_a_default() -> None:
    assert BoostedAlarmSettings.of(make_alarm_protocol()) == BoostedAlarmSettings()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 3}, r"\['depth'\] are unknown; BoostedAlarmSettings has \['bins'"),
        ({"leaves": 4.5}, "leaves is 4.5; give a whole number"),
        ({"l2": "much"}, "l2 is 'much'; give a number"),
        ({"seed": True}, "seed is True; give a whole number"),
        ({"other_share": 2.0}, "other_share is 2.0; give a number from 0.01 to 1"),
        ({"members": "label,oracle"}, r"members has \['oracle'\]; name some of \['label', 'regression', 'weighted'\]"),
        ({"members": "label,label"}, "name each once"),
        ({"members": 3}, "members is 3; give a text"),
    ],
)
def test_a_setting_that_is_unknown_or_wrong_is_named(settings: dict[str, float | str], message: str) -> None:
    with pytest.raises(LearningError, match=message):
        BoostedAlarmSettings.of(make_alarm_protocol(**settings))


@pytest.mark.parametrize("split", ["train", "calibrate"])
def test_a_split_without_sepsis_is_named_with_counts(hours: pl.DataFrame, split: str) -> None:
    without = hours.filter((pl.col("split") != split) | (pl.col("sepsis_6h") == 0))
    with pytest.raises(LearningError, match=rf"split {split}: .* 0 have 1 and [\d,]+ have 0"):
        BoostedAlarm.fit(without, make_alarm_protocol(**SMALL_TREES))


def test_hours_without_patient_or_time_are_counted(hours: pl.DataFrame) -> None:
    nobody = hours.with_columns(patient_id=pl.when(pl.col("icu_los_h") > 2).then("patient_id"))
    with pytest.raises(LearningError, match=r"split train: patient_id is missing in [\d,]+ rows"):
        BoostedAlarm.fit(nobody, make_alarm_protocol(**SMALL_TREES))


def test_leaves_too_large_to_learn_anything_are_refused(hours: pl.DataFrame) -> None:
    with pytest.raises(LearningError, match=r"score all .* alike: they learnt nothing"):
        BoostedAlarm.fit(hours, make_alarm_protocol(**SMALL_TREES | {"minimum_leaf": 100_000}))


def test_scores_that_fall_where_sepsis_comes_are_refused(hours: pl.DataFrame) -> None:
    calm = pl.when(pl.col("split") == "calibrate").then(-pl.col(pl.Float32)).otherwise(pl.col(pl.Float32))
    with pytest.raises(LearningError, match="do not rise with the outcome"):
        BoostedAlarm.fit(hours.with_columns(calm), make_alarm_protocol(**SMALL_TREES))


def test_columns_that_are_missing_or_texts_are_named(boosted: BoostedAlarm, hours: pl.DataFrame) -> None:
    with pytest.raises(LearningError, match=r"lack the columns \['icu_los_h'\]"):
        boosted.predict(hours.drop("icu_los_h"))
    with pytest.raises(LearningError, match=r"\['icu_los_h'\] are of type \['String'\]"):
        boosted.predict(hours.with_columns(icu_los_h=pl.lit("3")))
    with pytest.raises(LearningError, match=r"\['note'\] are of type \['String'\].*not_features"):
        BoostedAlarm.fit(hours.with_columns(note=pl.lit("3")), make_alarm_protocol(**SMALL_TREES))


def test_no_rows_have_no_risks_and_nothing_is_represented(boosted: BoostedAlarm, hours: pl.DataFrame) -> None:
    assert boosted.predict(hours.clear()).shape == (0,)
    assert boosted.represent(hours).columns == []


def test_files_that_are_missing_damaged_or_of_another_version_are_refused(
    boosted: BoostedAlarm, tmp_path: Path
) -> None:
    with pytest.raises(LearningError, match="is no saved BoostedAlarm"):
        BoostedAlarm.load(tmp_path)
    boosted.save(tmp_path)
    description = tmp_path / boosted_alarm.DESCRIPTION_FILE
    whole = description.read_text()
    description.write_text(json.dumps(json.loads(whole) | {"lightgbm": "99.0"}))
    with pytest.raises(LearningError, match=r"under LightGBM 99\.0, and this is .*; install that version or retrain"):
        BoostedAlarm.load(tmp_path)
    description.write_text(whole)
    (tmp_path / "label.lightgbm.txt").write_text("no trees")
    with pytest.raises(LearningError, match="is no saved BoostedAlarm"):
        BoostedAlarm.load(tmp_path)
