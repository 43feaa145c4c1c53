from pathlib import Path

import numpy as np
import polars as pl
import pytest
from alarm_cohort import SMALL_NETWORK, SMALL_TREES, make_alarm_protocol, make_hours
from sklearn.metrics import roc_auc_score

from clinical_assets.learning import blended_alarm
from clinical_assets.learning.blended_alarm import BlendedAlarm
from clinical_assets.learning.boosted_alarm import BoostedAlarm
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.sequence_alarm import SequenceAlarm

SETTINGS = {f"boosted_{name}": value for name, value in SMALL_TREES.items()}
SETTINGS |= {f"sequence_{name}": value for name, value in SMALL_NETWORK.items()} | {"sequence_weight": 0.4}


@pytest.fixture(scope="module")
def hours() -> pl.DataFrame:
    return make_hours()


@pytest.fixture(scope="module")
def blended(hours: pl.DataFrame) -> BlendedAlarm:
    return BlendedAlarm.fit(hours, make_alarm_protocol(**SETTINGS))


def test_unseen_patients_are_ranked_and_the_calibrate_split_adds_up(blended: BlendedAlarm, hours: pl.DataFrame) -> None:
    unseen, calibrate = make_hours(seed=4), hours.filter(split="calibrate")
    assert roc_auc_score(unseen["sepsis_6h"], blended.predict(unseen)) > 0.8
    assert blended.predict(calibrate).sum() == pytest.approx(calibrate["sepsis_6h"].sum(), rel=1e-3)


def test_its_members_are_those_that_are_fitted_alone(blended: BlendedAlarm, hours: pl.DataFrame) -> None:
    boosted = BoostedAlarm.fit(hours, make_alarm_protocol(**SMALL_TREES))
    sequence = SequenceAlarm.fit(hours, make_alarm_protocol(**SMALL_NETWORK))
    assert np.array_equal(blended.boosted.predict(hours), boosted.predict(hours))
    assert np.array_equal(blended.sequence.predict(hours), sequence.predict(hours))
    assert blended.calibration.weight == (0.6, 0.4)


def test_a_small_weight_follows_the_trees_and_a_large_one_the_network(
    blended: BlendedAlarm, hours: pl.DataFrame
) -> None:
    protocol = make_alarm_protocol()
    for weight, member in ((0.001, blended.boosted), (0.999, blended.sequence)):
        almost = BlendedAlarm.of(blended.boosted, blended.sequence, hours, protocol, weight)
        calibrate = hours.filter(split="calibrate")
        assert np.corrcoef(almost.predict(calibrate), member.predict(calibrate))[0, 1] > 0.999


def test_the_order_of_rows_changes_no_risk_and_the_named_columns_are_enough(
    blended: BlendedAlarm, hours: pl.DataFrame
) -> None:
    shuffled = hours.with_row_index("place").sample(fraction=1.0, shuffle=True, seed=1)
    risk = blended.predict(shuffled.select(blended.feature_names))
    assert np.array_equal(risk, blended.predict(hours)[shuffled["place"].to_numpy()])
    assert len(set(blended.feature_names)) == len(blended.feature_names)


def test_a_loaded_model_predicts_the_same(blended: BlendedAlarm, hours: pl.DataFrame, tmp_path: Path) -> None:
    blended.save(tmp_path)
    assert np.array_equal(BlendedAlarm.load(tmp_path).predict(hours), blended.predict(hours))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".txt", ".safetensors"}
    (tmp_path / blended_alarm.DESCRIPTION_FILE).unlink()
    with pytest.raises(LearningError, match="is no saved BlendedAlarm"):
        BlendedAlarm.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"leaves": 4}, r"\['leaves'\] are unknown; BlendedAlarm has sequence_weight"),
        ({"boosted_depth": 4}, r"\['depth'\] are unknown; BoostedAlarmSettings"),
        ({"sequence_weight": 1.5}, r"sequence_weight is 1\.5; give a number between 0 and 1"),
        ({"sequence_weight": "half"}, "sequence_weight is 'half'"),
    ],
)
def test_a_setting_that_is_unknown_or_wrong_is_named(
    hours: pl.DataFrame, settings: dict[str, float | str], message: str
) -> None:
    with pytest.raises(LearningError, match=message):
        BlendedAlarm.fit(hours, make_alarm_protocol(**settings))


def test_no_rows_have_no_risks_and_nothing_is_represented(blended: BlendedAlarm, hours: pl.DataFrame) -> None:
    assert blended.predict(hours.clear()).shape == (0,)
    assert blended.represent(hours).columns == []
