import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_fundus import IMAGES, SCREENING, NewCamera
from small_icu import ICU, SilentMonth
from small_platform import MODEL, Developed, SmallPlatform

from clinical_assets import validation
from clinical_assets.archives.archive import ArchiveError
from clinical_assets.archives.simulated_fundus import FOLDER_PATIENTS, write_simulated_folder
from clinical_assets.protocol import ModelVersion
from clinical_assets.validation import ExternalValidation, read_cohort, validate_externally


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "RESAMPLES", 20)


def validate(
    platform: SmallPlatform, version: ModelVersion, source: Path, out: Path, split: str | None = None
) -> ExternalValidation:
    return validate_externally(
        platform.protocol, platform.lake, platform.registry, version, source, out, platform.home.pseudonym_key, split
    )


def test_a_split_of_an_archive_that_has_none_is_refused_and_nothing_is_written(
    developed: Developed, tmp_path: Path
) -> None:
    platform, out = developed.platform, tmp_path / "out"
    with pytest.raises(ArchiveError, match=f"{MODEL}: its archive has no published splits; leave --split out"):
        validate(platform, developed.champion, platform.home.archive_path(platform.protocol), out, "test")
    assert not out.exists()


def test_a_split_that_was_never_published_is_refused_and_nothing_is_written(
    new_camera: NewCamera, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match="has no split 'dev'; it has: test, train, val; `--split all` is everything"):
        validate(new_camera.platform, new_camera.version, new_camera.archive, tmp_path / "out", "dev")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("split", "images", "note"),
    [
        (None, IMAGES["test"], "published split test"),
        ("val", IMAGES["val"], "published split val"),
        ("all", sum(IMAGES.values()), "the whole archive"),
    ],
)
def test_published_images_are_those_of_the_test_split_unless_another_is_asked_for(
    new_camera: NewCamera, split: str | None, images: int, note: str
) -> None:
    protocol = new_camera.platform.protocol
    rows, told = read_cohort(protocol, new_camera.platform.home.open_archive(protocol), split)
    assert rows.height == rows["image_id"].n_unique() == images
    assert told == (note,)


def test_a_validation_says_which_split_it_scored_and_leaves_out_whom_the_version_learnt_from(
    new_camera: NewCamera, tmp_path: Path
) -> None:
    result = validate(new_camera.platform, new_camera.version, new_camera.archive, tmp_path)
    predictions = pl.read_parquet(tmp_path / "predictions.parquet")
    assert predictions.height == IMAGES["test"]
    assert "published split test" in json.loads((tmp_path / "evaluation.json").read_text())["notes"]
    (accuracy,) = [x for x in result.findings if (x.metric, x.subgroup) == ("accuracy", "overall")]
    assert accuracy.n == predictions.filter(~pl.col("seen_in_training")).height


def test_a_clinic_s_own_folder_which_has_no_splits_is_scored_whole(new_camera: NewCamera, tmp_path: Path) -> None:
    folder = write_simulated_folder(tmp_path / "clinic", seed=2)
    result = validate(new_camera.platform, new_camera.version, folder, tmp_path / "out")
    predictions = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert predictions.height == 2 * FOLDER_PATIENTS
    assert predictions["patient_id"].n_unique() == FOLDER_PATIENTS
    assert "the whole archive, which has no published splits" in result.notes
    with pytest.raises(ArchiveError, match="has no split 'test'; it has: none"):
        validate(new_camera.platform, new_camera.version, folder, tmp_path / "other", "test")


def test_each_image_has_the_probability_of_every_grade_and_the_grade_that_follows(
    new_camera: NewCamera, tmp_path: Path
) -> None:
    validate(new_camera.platform, new_camera.version, new_camera.archive, tmp_path, "val")
    predictions = pl.read_parquet(tmp_path / "predictions.parquet")
    grades = predictions.select(f"probability_{grade}" for grade in range(5)).to_numpy()
    assert np.allclose(grades.sum(axis=1), 1.0)
    assert np.allclose(grades[:, 2:].sum(axis=1), predictions["risk"])
    expected = grades @ np.arange(5)
    cuts = [new_camera.version.thresholds[f"grade_from_{grade}"] for grade in range(1, 5)]
    assert predictions["predicted_grade"].to_list() == (expected[:, None] >= cuts).sum(axis=1).tolist()
    assert set(predictions["outcome"]) <= set(range(5))
    assert {SCREENING} == {json.loads((tmp_path / "evaluation.json").read_text())["model"]}


def unpacked(archive: Path, folder: Path) -> Path:
    for name in ("training_setA", "training_setB"):
        with zipfile.ZipFile(archive / f"{name}.zip") as packed:
            packed.extractall(folder)
    return folder


Sources = dict[str, Callable[[Path, Path], Path]]
SOURCES: Sources = {
    "a folder of both zips": lambda archive, _: archive,
    "both extracted folders": unpacked,
    "one zip": lambda archive, _: archive / "training_setB.zip",
    "one extracted folder": lambda archive, folder: unpacked(archive, folder) / "training_setB",
}


@pytest.mark.parametrize("layout", SOURCES)
def test_hours_are_validated_however_their_files_are_packed(
    silent_month: SilentMonth, tmp_path: Path, layout: str
) -> None:
    platform = silent_month.platform
    archive = platform.home.archive_path(platform.protocol)
    source = SOURCES[layout](archive, tmp_path / "source")
    result = validate(platform, silent_month.version, source, tmp_path / "out")
    predictions = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
    sites = {x.subgroup for x in result.findings if x.subgroup.startswith("site=")}
    assert sites == ({"site=A", "site=B"} if "both" in layout else {"site=B"})
    assert {x.metric for x in result.findings} >= {"normalized_utility", "auroc", "sensitivity"}
    assert result.data_origin == "simulated"
    assert any(note.startswith("fewer than 11 broken records left out") for note in result.notes)
    taken_in = platform.lake.read(f"{ICU}.features", columns=["hour_id", "site"])
    expected = taken_in if "both" in layout else taken_in.filter(site="B")
    assert set(predictions["hour_id"]) == set(expected["hour_id"])
