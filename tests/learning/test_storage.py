from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from learning_cohort import make_features

from clinical_assets.learning.boosting import BoostedRisk
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.recalibration import Recalibration, recalibrate
from clinical_assets.learning.storage import load_estimator, save_estimator

BOOSTED_RISK = "clinical_assets.learning.boosting.BoostedRisk"


def truncate(directory: Path) -> None:
    file = directory / "boosting.skops"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(directory: Path) -> None:
    file = directory / "boosting.skops"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def delete_a_file(directory: Path) -> None:
    (directory / "boosting.skops").unlink()


def add_a_file(directory: Path) -> None:
    (directory / "extra.txt").write_text("")


def rename_a_file(directory: Path) -> None:
    (directory / "boosting.skops").rename(directory / "cboosting.skops")


def swap_the_names_of_two_files(directory: Path) -> None:
    (directory / "boosting.skops").rename(directory / "kept")
    (directory / "model.json").rename(directory / "boosting.skops")
    (directory / "kept").rename(directory / "model.json")


def edit_the_description(directory: Path) -> None:
    file = directory / "model.json"
    file.write_text(file.read_text().replace("BoostedRisk", "OtherRisk"))


def test_a_saved_model_is_loaded_by_its_hash(fitted: BoostedRisk, tmp_path: Path) -> None:
    sha256 = save_estimator(fitted, tmp_path / "model")
    loaded = load_estimator(tmp_path / "model", sha256, BOOSTED_RISK)
    frame = make_features(rows=100, seed=9)
    assert np.array_equal(loaded.predict(frame), fitted.predict(frame))
    assert save_estimator(loaded, tmp_path / "copy") == sha256


@pytest.mark.parametrize(
    "damage",
    [truncate, flip_a_bit, delete_a_file, add_a_file, rename_a_file, swap_the_names_of_two_files, edit_the_description],
)
def test_a_model_that_was_changed_in_any_way_is_not_opened(
    fitted: BoostedRisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    def refuse_to_open(directory: Path) -> BoostedRisk:
        raise AssertionError("the files were opened before their hash was checked")

    sha256 = save_estimator(fitted, tmp_path / "model")
    monkeypatch.setattr(BoostedRisk, "load", refuse_to_open)
    damage(tmp_path / "model")
    with pytest.raises(LearningError, match=r"was changed or damaged: .*; restore it or roll back"):
        load_estimator(tmp_path / "model", sha256, BOOSTED_RISK)


def test_a_model_that_is_gone_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(LearningError, match="was changed or damaged"):
        load_estimator(tmp_path / "nowhere", "0" * 64, BOOSTED_RISK)


def test_only_the_class_the_protocol_names_is_loaded(fitted: BoostedRisk, tmp_path: Path) -> None:
    sha256 = save_estimator(fitted, tmp_path / "model")
    with pytest.raises(LearningError, match=r"the protocol names clinical_assets\.learning\.other\.OtherRisk"):
        load_estimator(tmp_path / "model", sha256, "clinical_assets.learning.other.OtherRisk")


def test_a_saved_model_is_never_written_over(fitted: BoostedRisk, tmp_path: Path) -> None:
    save_estimator(fitted, tmp_path / "model")
    with pytest.raises(LearningError, match="already holds files"):
        save_estimator(fitted, tmp_path / "model")


def test_a_recalibrated_model_is_loaded_as_the_class_the_protocol_names(fitted: BoostedRisk, tmp_path: Path) -> None:
    model = recalibrate(fitted, Recalibration(0.4, 0.7))
    sha256 = save_estimator(model, tmp_path / "model")
    loaded = load_estimator(tmp_path / "model", sha256, BOOSTED_RISK)
    frame = make_features(rows=100, seed=9)
    assert np.array_equal(loaded.predict(frame), model.predict(frame))
    assert not np.array_equal(loaded.predict(frame), fitted.predict(frame))
    assert save_estimator(loaded, tmp_path / "copy") == sha256


def test_recalibration_lets_no_other_class_in(
    fitted: BoostedRisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = save_estimator(recalibrate(fitted, Recalibration(0.4, 0.7)), tmp_path / "model")
    monkeypatch.setattr(BoostedRisk, "load", lambda directory: pytest.fail("the files of another class were opened"))
    for other in (
        "clinical_assets.learning.other.OtherRisk",
        "clinical_assets.learning.recalibration.RecalibratedEstimator",
    ):
        with pytest.raises(LearningError, match="the protocol names"):
            load_estimator(tmp_path / "model", sha256, other)


@pytest.mark.parametrize("file", ["recalibration.json", "base/boosting.skops", "model.json"])
def test_the_hash_covers_every_file_of_a_recalibrated_model(fitted: BoostedRisk, tmp_path: Path, file: str) -> None:
    sha256 = save_estimator(recalibrate(fitted, Recalibration(0.4, 0.7)), tmp_path / "model")
    with (tmp_path / "model" / file).open("ab") as opened:
        opened.write(b" ")
    with pytest.raises(LearningError, match="was changed or damaged"):
        load_estimator(tmp_path / "model", sha256, BOOSTED_RISK)


def test_recalibration_changes_nothing_in_the_files_of_other_models(fitted: BoostedRisk, tmp_path: Path) -> None:
    save_estimator(fitted, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["boosting.skops", "model.json"]
    assert "recalibrated" not in (tmp_path / "model" / "model.json").read_text()
