import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.metrics import log_loss, roc_auc_score

from clinical_assets.archives.retinamnist import RETINAMNIST
from clinical_assets.defs.retinopathy.cohort import published_images
from clinical_assets.learning import efficientnet_lite
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.fundus_network import FundusNetwork
from clinical_assets.protocol import ModelProtocol, read_protocol

QUICK = {"networks": 1, "epochs": 3, "training_views": 2, "prediction_views": 1, "components": 8, "input_side_px": 32}


def make_protocol(**settings: Any) -> ModelProtocol:
    """The retinopathy protocol with a small, quick model of `make_images`."""
    changes = {"estimator_settings": QUICK | settings, "not_features": ()}
    return read_protocol("retinopathy").model_copy(update=changes)


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, format=form)
    return packed.getvalue()


def make_images(rows: int = 120, seed: int = 0, side_px: int = 28, form: str = "PNG") -> pl.DataFrame:
    """Noisy discs that are the redder the higher the grade; three of four rows train, one calibrates."""
    random = np.random.default_rng(seed)
    grade = np.arange(rows) % 5
    axis = np.linspace(-1, 1, side_px)
    disc = np.hypot(axis[:, None], axis[None, :]) < 0.94
    colour = np.stack([90 + 30 * grade, np.full(rows, 100), np.full(rows, 60)], axis=1)[:, None, None, :]
    blurred_grade = random.normal(0, 25, (rows, 1, 1, 3)) + random.normal(0, 12, (rows, side_px, side_px, 3))
    pixels = ((colour + blurred_grade) * disc[None, :, :, None]).clip(0, 255).astype(np.uint8)
    split = np.where(random.permutation(rows) % 4 > 0, "train", "calibrate")
    return pl.DataFrame(
        {
            "image_id": [f"{i:032x}" for i in range(rows)],
            "patient_id": [f"{i:032x}" for i in range(rows)],
            "grade": grade.astype(np.int8),
            "split": split.tolist(),
            "image_png": [encode(image, form) for image in pixels],
        }
    )


@pytest.fixture(scope="module")
def training_set() -> pl.DataFrame:
    return make_images()


@pytest.fixture(scope="module")
def fitted(training_set: pl.DataFrame) -> FundusNetwork:
    return FundusNetwork.fit(training_set, make_protocol())


@pytest.fixture
def saved(fitted: FundusNetwork, tmp_path: Path) -> Path:
    fitted.save(tmp_path)
    return tmp_path


def macro_auroc(grade: pl.Series, probability: np.ndarray) -> float:
    return float(np.mean([roc_auc_score(grade == level, probability[:, level]) for level in range(5)]))


def test_the_model_ranks_grades_of_unseen_images(fitted: FundusNetwork) -> None:
    unseen = make_images(seed=1)
    assert macro_auroc(unseen["grade"], fitted.predict(unseen)) > 0.75


def test_a_prediction_is_one_probability_a_grade_that_add_up_to_one(fitted: FundusNetwork) -> None:
    probability = fitted.predict(make_images(rows=10, seed=1))
    assert probability.shape == (10, 5)
    assert probability.dtype == np.float64
    assert probability.sum(axis=1) == pytest.approx(np.ones(10), abs=1e-12)
    assert (probability > 0).all()


@pytest.mark.parametrize("networks", [0, 2])
def test_each_number_of_fine_tuned_networks_is_another_model(
    fitted: FundusNetwork, training_set: pl.DataFrame, networks: int
) -> None:
    other = FundusNetwork.fit(training_set, make_protocol(networks=networks))
    assert len(other.networks) == networks
    assert not np.allclose(other.predict(training_set), fitted.predict(training_set))
    assert macro_auroc(training_set["grade"], other.predict(training_set)) > 0.75


def test_fine_tuning_changes_the_end_of_the_pretrained_network_and_nothing_else(fitted: FundusNetwork) -> None:
    (network,) = fitted.networks
    published = efficientnet_lite.read_pretrained_weights()
    assert all(torch.equal(tensor, published[name]) for name, tensor in fitted.pretrained.items())
    assert not any(torch.equal(tensor, published[name]) for name, tensor in network.items() if name in published)
    assert "block_11.project.weight" not in network


def test_the_temperature_makes_the_calibrate_split_likelier(fitted: FundusNetwork, training_set: pl.DataFrame) -> None:
    calibrate = training_set.filter(split="calibrate")
    as_fitted = replace(fitted, temperature=1.0)
    assert fitted.temperature != 1.0
    assert log_loss(calibrate["grade"], fitted.predict(calibrate)) < log_loss(
        calibrate["grade"], as_fitted.predict(calibrate)
    )


def test_the_same_rows_and_seed_give_the_same_files(
    fitted: FundusNetwork, training_set: pl.DataFrame, tmp_path: Path
) -> None:
    again = FundusNetwork.fit(training_set, make_protocol())
    for name, model in (("one", fitted), ("two", again)):
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
    for file in ("fundus_network.safetensors", "fundus_network.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_seed_changes_what_is_fine_tuned(fitted: FundusNetwork, training_set: pl.DataFrame) -> None:
    other = FundusNetwork.fit(training_set, make_protocol(seed=1))
    assert not torch.equal(other.networks[0]["answer.weight"], fitted.networks[0]["answer.weight"])


def test_the_test_split_is_neither_learnt_from_nor_calibrated_on(
    fitted: FundusNetwork, training_set: pl.DataFrame
) -> None:
    inverted = make_images(seed=3).with_columns(grade=4 - pl.col("grade"), split=pl.lit("test"))
    again = FundusNetwork.fit(pl.concat([training_set, inverted]), make_protocol())
    assert np.array_equal(again.predict(inverted), fitted.predict(inverted))


def test_the_order_of_the_rows_does_not_matter(fitted: FundusNetwork) -> None:
    unseen = make_images(rows=70, seed=1)
    forwards, backwards = fitted.predict(unseen), fitted.predict(unseen.reverse())
    assert backwards[::-1] == pytest.approx(forwards, abs=1e-5)


@pytest.mark.parametrize(("side_px", "form"), [(28, "JPEG"), (200, "PNG")])
def test_images_of_another_size_or_format_are_graded_alike(fitted: FundusNetwork, side_px: int, form: str) -> None:
    other = make_images(rows=60, seed=1, side_px=side_px, form=form)
    assert macro_auroc(other["grade"], fitted.predict(other)) > 0.7


def test_a_representation_is_eight_numbers_a_row_that_a_change_of_light_moves(fitted: FundusNetwork) -> None:
    images = make_images(rows=60, seed=1)
    usual = fitted.represent(images)
    assert usual.schema == pl.Schema({f"representation_{number}": pl.Float32 for number in range(1, 9)})
    assert usual.height == 60
    dark = [encode(np.asarray(Image.open(io.BytesIO(png))) // 3) for png in images["image_png"]]
    shift = (fitted.represent(images.with_columns(image_png=pl.Series(dark))) - usual).to_numpy().mean(axis=0)
    assert np.abs(shift / usual.to_numpy().std(axis=0)).max() > 1


def test_no_rows_have_no_grades_and_no_representation(fitted: FundusNetwork) -> None:
    nobody = make_images(rows=5).clear()
    assert fitted.predict(nobody).shape == (0, 5)
    assert fitted.represent(nobody).shape == (0, 8)


def test_a_missing_image_column_is_named(fitted: FundusNetwork) -> None:
    with pytest.raises(LearningError, match="lack the column image_png"):
        fitted.predict(make_images(rows=5).drop("image_png"))


def test_images_that_are_null_or_broken_are_counted(fitted: FundusNetwork) -> None:
    frame = make_images(rows=5)
    first = pl.int_range(pl.len()) == 0
    with pytest.raises(LearningError, match="1 of 5 images are null"):
        fitted.predict(frame.with_columns(image_png=pl.when(~first).then("image_png")))
    with pytest.raises(LearningError, match="an image of 4 bytes cannot be read"):
        fitted.predict(frame.with_columns(image_png=pl.when(first).then(pl.lit(b"torn")).otherwise("image_png")))


def test_other_features_than_the_image_are_refused(training_set: pl.DataFrame) -> None:
    with pytest.raises(LearningError, match=r"FundusNetwork reads image_png alone: list the others in not_features"):
        FundusNetwork.fit(training_set.with_columns(brightness=0.5), make_protocol())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 3}, r"\['layers'\] are unknown; FundusNetwork knows \['components'"),
        ({"epochs": 2.5}, "epochs is 2.5; give a whole number"),
        ({"networks": True}, "networks is True; give a whole number"),
        ({"ridge": "much"}, "ridge is 'much'; give a number"),
        ({"ridge": float("nan")}, "ridge is nan; give a number from 1e-06"),
        ({"networks": -1}, "networks is -1; give a number from 0 to 20"),
        ({"training_views": 9}, "training_views is 9; give a number from 1 to 8"),
        ({"prediction_views": 3}, "prediction_views is 3 and training_views 2; predict on no more views"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    training_set: pl.DataFrame, settings: dict[str, float | str], message: str
) -> None:
    with pytest.raises(LearningError, match=message):
        FundusNetwork.fit(training_set, make_protocol(**settings))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (~((pl.col("split") == "train") & (pl.col("grade") == 4)), "split train: .* 4: 0}; 5 different grades"),
        ((pl.col("split") == "train") | (pl.col("grade") == 2), "split calibrate: .* 2 different grades are needed"),
        (pl.col("split") == "train", "split calibrate: .* 2 different grades are needed"),
    ],
)
def test_a_split_that_lacks_grades_is_named_with_counts(
    training_set: pl.DataFrame, rows: pl.Expr, message: str
) -> None:
    with pytest.raises(LearningError, match=message):
        FundusNetwork.fit(training_set.filter(rows), make_protocol(networks=0))


def test_grades_out_of_range_and_too_few_rows_are_counted(training_set: pl.DataFrame) -> None:
    ungraded = training_set.with_columns(grade=pl.when(pl.col("grade") < 4).then("grade").otherwise(9))
    with pytest.raises(LearningError, match=r"split train: \d+ of \d+ rows have no grade from 0 to 4"):
        FundusNetwork.fit(ungraded, make_protocol())
    with pytest.raises(LearningError, match=r"split train has \d+ rows for 100 components"):
        FundusNetwork.fit(training_set, make_protocol(components=100))


def test_a_loaded_model_predicts_and_represents_the_same(fitted: FundusNetwork, saved: Path) -> None:
    loaded, frame = FundusNetwork.load(saved), make_images(rows=20, seed=1)
    assert np.array_equal(loaded.predict(frame), fitted.predict(frame))
    assert loaded.represent(frame).equals(fitted.represent(frame))
    assert loaded.feature_names == fitted.feature_names == ("image_png",)


def test_loading_needs_neither_the_pretrained_file_nor_pickle(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load may unpickle"))
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_PACKAGE", "no-such-distribution")
    assert FundusNetwork.load(saved).predict(make_images(rows=5)).shape == (5, 5)


def test_a_saved_model_says_by_which_code_it_was_written(saved: Path) -> None:
    description = json.loads((saved / "fundus_network.json").read_text())
    assert description["written_by"]["torch"] == torch.__version__
    assert {"clinical-assets", "safetensors"} < description["written_by"].keys()
    assert description["pretrained_sha256"] == efficientnet_lite.WEIGHTS_SHA256


@pytest.mark.parametrize("file", ["fundus_network.safetensors", "fundus_network.json"])
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_missing_or_damaged_file_is_no_model(saved: Path, file: str, fault: str) -> None:
    content = (saved / file).read_bytes()
    (saved / file).unlink()
    if fault == "truncated":
        (saved / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(LearningError, match=r"is no saved FundusNetwork .*; restore it or roll back"):
        FundusNetwork.load(saved)


def test_tensors_that_do_not_fit_the_settings_are_refused(saved: Path) -> None:
    path = saved / "fundus_network.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | {"settings": description["settings"] | {"networks": 2}}))
    with pytest.raises(LearningError, match=r"\d+ tensors are missing, .* such as network_1.answer.bias"):
        FundusNetwork.load(saved)


def test_a_model_of_another_layout_is_refused(saved: Path) -> None:
    path = saved / "fundus_network.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 99}))
    with pytest.raises(LearningError, match="has layout 99, and this code reads 1; retrain"):
        FundusNetwork.load(saved)


def test_real_fundus_photographs_are_graded_far_better_than_by_chance(raw_archives: Path) -> None:
    path = RETINAMNIST.find(raw_archives)
    assert path is not None
    archive = RETINAMNIST.open(path)
    columns = ("image_id", "patient_id", "captured_at", "grade", "image_png")
    train, unseen = (published_images(archive, split).select(columns) for split in ("train", "val"))
    split = pl.when(pl.int_range(pl.len()) % 5 > 0).then(pl.lit("train")).otherwise(pl.lit("calibrate"))
    settings = {"networks": 0, "training_views": 1, "components": 60, "input_side_px": 64}
    model = FundusNetwork.fit(train.head(400).with_columns(split=split), make_protocol(**settings))
    assert macro_auroc(unseen["grade"], model.predict(unseen)) > 0.65
