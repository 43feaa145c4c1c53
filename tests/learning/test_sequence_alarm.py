import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from alarm_cohort import SMALL_NETWORK, make_alarm_protocol, make_hours
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from clinical_assets.learning import sequence_alarm
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.sequence_alarm import ReadColumns, SequenceAlarm
from clinical_assets.learning.sequence_settings import SequenceAlarmSettings


@pytest.fixture(scope="module")
def hours() -> pl.DataFrame:
    return make_hours()


@pytest.fixture(scope="module")
def sequence(hours: pl.DataFrame) -> SequenceAlarm:
    return SequenceAlarm.fit(hours, make_alarm_protocol(**SMALL_NETWORK))


def test_unseen_patients_are_ranked(sequence: SequenceAlarm) -> None:
    unseen = make_hours(seed=4)
    assert roc_auc_score(unseen["sepsis_6h"], sequence.predict(unseen)) > 0.7


def test_risks_of_the_calibrate_split_add_up_to_its_outcomes(sequence: SequenceAlarm, hours: pl.DataFrame) -> None:
    calibrate = hours.filter(split="calibrate")
    assert sequence.predict(calibrate).sum() == pytest.approx(calibrate["sepsis_6h"].sum(), rel=1e-3)


def test_changing_a_later_hour_changes_no_earlier_risk(sequence: SequenceAlarm, hours: pl.DataFrame) -> None:
    later = pl.col("icu_los_h") > 6
    changed = hours.with_columns(
        heart_rate_bpm_last=pl.when(later).then(150.0).otherwise("heart_rate_bpm_last"),
        lactate_mmol_l_last=pl.when(later).then(None).otherwise("lactate_mmol_l_last"),
    )
    before, after = sequence.predict(hours), sequence.predict(changed)
    is_later = hours.select(later).to_series().to_numpy()
    assert np.array_equal(before[~is_later], after[~is_later])
    assert np.abs(before[is_later] - after[is_later]).max() > 0.01


def test_hours_that_have_not_come_yet_change_no_risk(sequence: SequenceAlarm, hours: pl.DataFrame) -> None:
    early = hours["icu_los_h"].to_numpy() <= 6
    assert sequence.predict(hours.filter(early)) == pytest.approx(sequence.predict(hours)[early], abs=1e-5)


def test_an_earlier_hour_is_remembered(sequence: SequenceAlarm, hours: pl.DataFrame) -> None:
    first = pl.col("icu_los_h") == 1
    changed = hours.with_columns(heart_rate_bpm_last=pl.when(first).then(150.0).otherwise("heart_rate_bpm_last"))
    second = hours["icu_los_h"].to_numpy() == 2
    assert np.all(sequence.predict(hours)[second] != sequence.predict(changed)[second])


def test_no_other_patient_changes_a_risk(sequence: SequenceAlarm, hours: pl.DataFrame) -> None:
    together = sequence.predict(hours)
    for patient in hours["patient_id"].unique(maintain_order=True)[:3]:
        own = (hours["patient_id"] == patient).to_numpy()
        assert sequence.predict(hours.filter(own)) == pytest.approx(together[own], abs=1e-5)


def test_the_order_of_rows_changes_no_risk(sequence: SequenceAlarm, hours: pl.DataFrame) -> None:
    shuffled = hours.with_row_index("place").sample(fraction=1.0, shuffle=True, seed=1)
    assert np.array_equal(sequence.predict(shuffled), sequence.predict(hours)[shuffled["place"].to_numpy()])


def test_what_was_never_measured_in_training_says_nothing_later(hours: pl.DataFrame) -> None:
    unmeasured = hours.with_columns(troponin_i_ng_ml_last=pl.lit(None, pl.Float32))
    model = SequenceAlarm.fit(unmeasured, make_alarm_protocol(**SMALL_NETWORK | {"epochs": 1}))
    measured = unmeasured.with_columns(troponin_i_ng_ml_last=pl.lit(5.0, pl.Float32))
    assert np.array_equal(model.predict(measured), model.predict(unmeasured))


def test_what_predict_reads_is_named_and_enough(sequence: SequenceAlarm, hours: pl.DataFrame) -> None:
    read = hours.select(sequence.feature_names)
    assert np.array_equal(sequence.predict(read), sequence.predict(hours))
    assert "lactate_mmol_l" not in sequence.feature_names


def test_no_row_of_the_test_or_calibrate_split_changes_the_network(
    sequence: SequenceAlarm, hours: pl.DataFrame
) -> None:
    train = hours.filter(split="train")
    others = hours.filter(split="calibrate")[::2]
    tested = make_hours(patients=40, seed=9).with_columns(
        pl.format("test-{}", "patient_id").alias("patient_id"), split=pl.lit("test")
    )
    again = SequenceAlarm.fit(pl.concat([tested, others, train]), make_alarm_protocol(**SMALL_NETWORK))
    for name, weight in sequence.network.state_dict().items():
        assert np.array_equal(weight, again.network.state_dict()[name])


def test_the_same_rows_and_seed_give_the_same_files(
    sequence: SequenceAlarm, hours: pl.DataFrame, tmp_path: Path
) -> None:
    again = SequenceAlarm.fit(hours, make_alarm_protocol(**SMALL_NETWORK))
    other = SequenceAlarm.fit(hours, make_alarm_protocol(**SMALL_NETWORK | {"seed": 1}))
    written = []
    for name, model in (("one", sequence), ("two", again), ("three", other)):
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_fitting_leaves_the_random_numbers_of_others_alone(hours: pl.DataFrame) -> None:
    import torch

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    SequenceAlarm.fit(hours, make_alarm_protocol(**SMALL_NETWORK | {"epochs": 1}))
    assert torch.equal(torch.rand(1), expected)


def test_a_loaded_model_predicts_the_same_and_its_files_hold_no_pickle(
    sequence: SequenceAlarm, hours: pl.DataFrame, tmp_path: Path
) -> None:
    sequence.save(tmp_path)
    loaded = SequenceAlarm.load(tmp_path)
    assert np.array_equal(loaded.predict(hours), sequence.predict(hours))
    assert loaded.feature_names == sequence.feature_names
    assert {path.name for path in tmp_path.iterdir()} == {"sequence_alarm.json", "sequence_alarm.safetensors"}
    assert load_file(tmp_path / sequence_alarm.WEIGHTS_FILE)["out.weight"].shape == (2, 8)


def test_files_that_are_missing_damaged_or_of_another_network_are_refused(
    sequence: SequenceAlarm, tmp_path: Path
) -> None:
    with pytest.raises(LearningError, match="is no saved SequenceAlarm"):
        SequenceAlarm.load(tmp_path)
    sequence.save(tmp_path)
    description = tmp_path / sequence_alarm.DESCRIPTION_FILE
    whole = json.loads(description.read_text())
    description.write_text(json.dumps(whole | {"settings": whole["settings"] | {"hidden": 16}}))
    with pytest.raises(LearningError, match=r"is no saved SequenceAlarm (?s:.*)size mismatch"):
        SequenceAlarm.load(tmp_path)
    description.write_text(json.dumps(whole))
    (tmp_path / sequence_alarm.WEIGHTS_FILE).write_bytes(b"no weights")
    with pytest.raises(LearningError, match="is no saved SequenceAlarm"):
        SequenceAlarm.load(tmp_path)


def test_every_setting_has_a_default_and_a_wrong_one_is_named() -> None:
    assert SequenceAlarmSettings.of(make_alarm_protocol()) == SequenceAlarmSettings()
    with pytest.raises(LearningError, match=r"\['layers'\] are unknown; SequenceAlarmSettings has \['batch_hours'"):
        SequenceAlarmSettings.of(make_alarm_protocol(layers=2))
    with pytest.raises(LearningError, match=r"dropout is 1\.0; give a number from 0 to 0\.9"):
        SequenceAlarmSettings.of(make_alarm_protocol(dropout=1.0))


def test_features_the_network_does_not_read_are_refused() -> None:
    with pytest.raises(LearningError, match="none of the 1 features is one that SequenceAlarm reads"):
        ReadColumns.choose(["heart_rate_bpm"])


def test_columns_that_are_missing_or_texts_are_named(sequence: SequenceAlarm, hours: pl.DataFrame) -> None:
    with pytest.raises(LearningError, match=r"lack the columns \['patient_id'\]"):
        sequence.predict(hours.drop("patient_id"))
    with pytest.raises(LearningError, match=r"\['icu_los_h'\] are of type \['String'\]"):
        sequence.predict(hours.with_columns(icu_los_h=pl.lit("3")))


def test_no_rows_have_no_risks_and_nothing_is_represented(sequence: SequenceAlarm, hours: pl.DataFrame) -> None:
    assert sequence.predict(hours.clear()).shape == (0,)
    assert sequence.represent(hours).columns == []
