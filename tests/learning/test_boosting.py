from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import polars as pl
import pytest
import skops.io
from learning_cohort import FAST, make_features, make_protocol
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import FunctionTransformer

from clinical_assets.learning import boosting
from clinical_assets.learning.boosting import BoostedRisk
from clinical_assets.learning.estimator import LearningError


def test_the_model_ranks_unseen_patients_and_its_risks_add_up(fitted: BoostedRisk) -> None:
    unseen = make_features(seed=6)
    risk = fitted.predict(unseen)
    assert roc_auc_score(unseen["readmitted_30d"], risk) > 0.65
    assert risk.sum() == pytest.approx(unseen["readmitted_30d"].sum(), rel=0.1)


def test_keys_outcome_and_split_are_never_features(fitted: BoostedRisk) -> None:
    assert fitted.feature_names == ("visits", "diagnosis", "insulin")


def test_risks_of_the_calibrate_split_need_no_further_recalibration(
    fitted: BoostedRisk, training_set: pl.DataFrame
) -> None:
    calibrate = training_set.filter(split="calibrate")
    assert fitted.predict(calibrate).sum() == pytest.approx(calibrate["readmitted_30d"].sum(), rel=1e-4)
    assert (fitted.recalibration_intercept, fitted.recalibration_slope) != (0.0, 1.0)


def test_recalibration_mends_a_model_fitted_to_another_event_rate(training_set: pl.DataFrame) -> None:
    rows = pl.int_range(pl.len())
    half_the_events = training_set.filter(
        (pl.col("split") == "calibrate") | (pl.col("readmitted_30d") == 0) | (rows % 2 == 0)
    )
    model = BoostedRisk.fit(half_the_events, make_protocol())
    unseen = make_features(seed=6)
    uncalibrated = replace(model, recalibration_intercept=0.0, recalibration_slope=1.0)
    events = int(unseen["readmitted_30d"].sum())
    assert uncalibrated.predict(unseen).sum() < 0.75 * events
    assert model.predict(unseen).sum() == pytest.approx(events, rel=0.1)


def test_the_test_split_is_neither_learnt_from_nor_calibrated_on(
    fitted: BoostedRisk, training_set: pl.DataFrame
) -> None:
    inverted = make_features(seed=8).with_columns(readmitted_30d=1 - pl.col("readmitted_30d"), split=pl.lit("test"))
    again = BoostedRisk.fit(pl.concat([training_set, inverted], how="diagonal_relaxed"), make_protocol())
    assert np.array_equal(again.predict(inverted), fitted.predict(inverted))


def test_categories_never_seen_have_one_risk_between_those_that_were(fitted: BoostedRisk) -> None:
    row = {"visits": 1.0, "insulin": True}
    names = ("never seen", "nor this", "250", "428", "786", None)
    first, second, *known = fitted.predict(pl.DataFrame([row | {"diagnosis": name} for name in names]))
    assert first == second
    assert min(known) <= first <= max(known)
    assert min(known) < max(known)


def test_columns_may_come_in_any_order_with_others_between_and_wholly_missing(fitted: BoostedRisk) -> None:
    frame = make_features(rows=50, seed=9)
    reordered = frame.select(reversed(frame.columns)).with_columns(unknown=pl.lit("x"))
    assert np.array_equal(fitted.predict(frame), fitted.predict(reordered))
    assert np.isfinite(fitted.predict(frame.with_columns(visits=None, diagnosis=None))).all()


def test_a_number_that_was_never_measured_is_no_part_of_the_model(training_set: pl.DataFrame) -> None:
    measured_later = pl.when(pl.col("split") == "calibrate").then(1.0)
    unmeasured = training_set.with_columns(lactate=measured_later, temperature=pl.lit(None, pl.Float64))
    model = BoostedRisk.fit(unmeasured, make_protocol())
    assert model.feature_names == BoostedRisk.fit(training_set, make_protocol()).feature_names
    assert np.array_equal(model.predict(unmeasured), model.predict(training_set))


def test_no_rows_have_no_risks(fitted: BoostedRisk) -> None:
    assert fitted.predict(make_features(rows=50).clear()).shape == (0,)


def test_a_missing_column_is_named(fitted: BoostedRisk) -> None:
    with pytest.raises(LearningError, match=r"lack the columns \['diagnosis'\]"):
        fitted.predict(make_features(rows=50).drop("diagnosis"))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.lit("1").alias("visits"), r"\['visits'\] are texts here"),
        (pl.lit(428).alias("diagnosis"), r"\['diagnosis'\] are numbers here"),
    ],
)
def test_a_column_of_another_type_than_learnt_is_named(fitted: BoostedRisk, column: pl.Expr, message: str) -> None:
    with pytest.raises(LearningError, match=message):
        fitted.predict(make_features(rows=50).with_columns(column))


def test_a_feature_that_is_neither_number_nor_text_is_named(training_set: pl.DataFrame) -> None:
    with pytest.raises(LearningError, match="feature admitted_on is of type Date"):
        BoostedRisk.fit(training_set.with_columns(admitted_on="month"), make_protocol())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FAST | {"depth": 3}, r"\['depth'\] are unknown; BoostedRisk knows \['feature_fraction'"),
        ({key: FAST[key] for key in FAST if key != "leaves"}, "missing 1 required positional argument: 'leaves'"),
        (FAST | {"iterations": 20.5}, "iterations is 20.5; give a whole number"),
        (FAST | {"l2": "much"}, "l2 is 'much'; give a number"),
        (FAST | {"l2": True}, "l2 is True; give a number"),
        (FAST | {"learning_rate": -0.1}, "learning_rate is -0.1; give a number of 0 or more"),
    ],
)
def test_a_setting_that_is_unknown_missing_or_no_number_is_named(
    training_set: pl.DataFrame, settings: dict[str, float | str], message: str
) -> None:
    with pytest.raises(LearningError, match=message):
        BoostedRisk.fit(training_set, make_protocol(estimator_settings=settings))


@pytest.mark.parametrize("split", ["train", "calibrate"])
def test_a_split_with_one_class_is_named_with_counts(training_set: pl.DataFrame, split: str) -> None:
    eventless = training_set.filter((pl.col("split") != split) | (pl.col("readmitted_30d") == 0))
    with pytest.raises(LearningError, match=rf"split {split}: .* 0 have 1 and [\d,]+ have 0"):
        BoostedRisk.fit(eventless, make_protocol())


def test_risks_that_fall_where_the_outcome_rises_are_refused(training_set: pl.DataFrame) -> None:
    outcome = pl.col("readmitted_30d")
    reversed_in_calibrate = training_set.with_columns(
        readmitted_30d=pl.when(pl.col("split") == "calibrate").then(1 - outcome).otherwise(outcome)
    )
    with pytest.raises(LearningError, match="do not rise with readmitted_30d"):
        BoostedRisk.fit(reversed_in_calibrate, make_protocol())


def test_numbers_alone_and_texts_alone_can_be_learnt(training_set: pl.DataFrame) -> None:
    for dropped in (["diagnosis"], ["visits", "insulin"]):
        model = BoostedRisk.fit(training_set.drop(dropped), make_protocol())
        assert len(np.unique(model.predict(training_set))) > 1


def test_a_loaded_model_predicts_the_same(fitted: BoostedRisk, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    frame = make_features(seed=9)
    loaded = BoostedRisk.load(tmp_path)
    assert np.array_equal(loaded.predict(frame), fitted.predict(frame))
    assert loaded.feature_names == fitted.feature_names


def test_the_same_rows_give_the_same_file(fitted: BoostedRisk, training_set: pl.DataFrame, tmp_path: Path) -> None:
    again = BoostedRisk.fit(training_set, make_protocol())
    for name, model in (("one", fitted), ("two", again)):
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
    one, two = ((tmp_path / name / boosting.MODEL_FILE).read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_file_holds_no_pickle_and_no_row(fitted: BoostedRisk, training_set: pl.DataFrame, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    with ZipFile(tmp_path / boosting.MODEL_FILE) as files:
        assert {Path(name).suffix for name in files.namelist()} == {".json", ".npy"}
        for name in files.namelist():
            with files.open(name) as file:
                if name.endswith(".npy"):
                    assert np.load(file, allow_pickle=False).size < training_set.height / 2


def test_a_type_that_is_not_trusted_is_never_built(tmp_path: Path) -> None:
    skops.io.dump({"scikit_learn": FunctionTransformer(make_features)}, tmp_path / boosting.MODEL_FILE)
    with pytest.raises(LearningError, match=r"is no saved BoostedRisk .*make_features"):
        BoostedRisk.load(tmp_path)


def test_a_model_of_another_scikit_learn_is_refused(
    fitted: BoostedRisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted.save(tmp_path)
    monkeypatch.setattr("sklearn.__version__", "99.0")
    with pytest.raises(LearningError, match=r"and this is 99\.0; install that version or retrain"):
        BoostedRisk.load(tmp_path)


def test_a_file_that_is_missing_or_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LearningError, match="is no saved BoostedRisk"):
        BoostedRisk.load(tmp_path)
    (tmp_path / boosting.MODEL_FILE).write_bytes(b"not a zip")
    with pytest.raises(LearningError, match="is no saved BoostedRisk"):
        BoostedRisk.load(tmp_path)
