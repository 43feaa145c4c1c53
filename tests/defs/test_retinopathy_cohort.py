import io
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from clinical_assets.archives.archive import (
    Archive,
    ArchiveError,
    MonthWindow,
    contract_of,
    describe_columns,
    hash_bytes,
)
from clinical_assets.archives.data_quality import FAULTS_SCHEMA
from clinical_assets.archives.fundus_folder import FUNDUS_FOLDER, encode_png
from clinical_assets.archives.handheld_camera import HANDHELD, photograph
from clinical_assets.archives.retinamnist import RETINAMNIST, read_images
from clinical_assets.defs.retinopathy.cohort import (
    HANDHELD_FROM,
    FundusImage,
    QuarantinedImage,
    fundus_images,
    image_faults,
    published_images,
    quarantined_images,
)

REPLAY = MonthWindow(date(2024, 1, 1), date(2026, 1, 1))
JULY = MonthWindow.of_month(HANDHELD_FROM)

Clinic = Callable[[list[bytes]], Archive]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return RETINAMNIST.open(RETINAMNIST.simulate(tmp_path_factory.mktemp("simulated"), seed=2))


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    """A folder of these files, of one patient and one camera: with 24 of them, the replay puts one into each month."""

    def write(contents: list[bytes]) -> Archive:
        for place, content in enumerate(contents):
            (tmp_path / f"{place}.png").write_bytes(content)
        lines = [f"{place}.png,{place % 5},Topcon,patient,left" for place in range(len(contents))]
        (tmp_path / "images.csv").write_text("\n".join(["file,grade,camera,patient,eye", *lines]))
        return FUNDUS_FOLDER.open(tmp_path)

    return write


def some_png(seed: int, side: int = 30) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (side, side + 2, 3), dtype=np.uint8))


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_each_month_holds_its_own_images_and_together_they_are_all(simulated: Archive) -> None:
    months = [date(2024 + month // 12, month % 12 + 1, 1) for month in range(24)]
    parts = [fundus_images(simulated, MonthWindow.of_month(month)) for month in months]
    assert all(part["month"].unique().to_list() == [month] for part, month in zip(parts, months, strict=True))
    assert pl.concat(parts).equals(fundus_images(simulated, REPLAY))


def test_a_png_holds_the_archives_pixels_and_its_own_hash(simulated: Archive) -> None:
    images = fundus_images(simulated, MonthWindow.of_month(date(2024, 1, 1)))
    for position in (0, 50):
        png = images["image_png"][position]
        assert np.array_equal(pixels_of(png), read_images(simulated).pixels[position])
        assert hash_bytes(png) == images["sha256"][position]
        assert hash_bytes(pixels_of(png).tobytes()) == images["image_id"][position]


def test_from_the_nineteenth_month_every_image_is_the_new_cameras_and_marked_simulated(simulated: Archive) -> None:
    images = fundus_images(simulated, REPLAY)
    new = images["month"] >= HANDHELD_FROM
    assert images.filter(new)["camera"].unique().to_list() == ["simulated-handheld"]
    assert images.filter(new)["simulation"].unique().to_list() == [HANDHELD.in_words()]
    assert images.filter(~new)["camera"].unique().to_list() == ["unnamed"]
    assert images.filter(~new)["simulation"].null_count() == (~new).sum()
    assert images["camera_simulated"].equals(new.alias("camera_simulated"))


def test_the_new_camera_changes_the_pixels_and_not_whose_image_it_is(simulated: Archive) -> None:
    original = read_images(simulated).pixels[1800:1801]
    first = fundus_images(simulated, JULY).head(1)
    assert first["image_id"][0] == hash_bytes(original.tobytes())
    assert np.array_equal(pixels_of(first["image_png"][0]), photograph(original)[0])


def test_published_images_never_come_through_the_replays_camera(simulated: Archive) -> None:
    test = published_images(simulated, "test")
    assert len(test) == 600
    assert test["published_split"].unique().to_list() == ["test"]
    assert test["camera"].unique().to_list() == ["unnamed"]
    assert np.array_equal(pixels_of(test["image_png"][0]), read_images(simulated).pixels[1800])
    assert test["image_id"][0] == fundus_images(simulated, JULY)["image_id"][0]
    assert len(published_images(simulated, None)) == 2_400


def test_a_split_that_was_never_published_is_refused(simulated: Archive, clinic: Clinic) -> None:
    with pytest.raises(ArchiveError, match="no published split 'holdout'"):
        published_images(simulated, "holdout")
    with pytest.raises(ArchiveError, match="no published split 'test'"):
        published_images(clinic([some_png(1)]), "test")


def test_where_the_archive_names_no_patient_the_image_stands_for_one(simulated: Archive) -> None:
    images = fundus_images(simulated, JULY)
    assert images["patient_id"].equals(images["image_id"].alias("patient_id"))


def test_a_grade_is_known_three_weeks_after_the_photograph(simulated: Archive) -> None:
    images = fundus_images(simulated, JULY)
    assert (images["outcome_known_on"] - images["captured_at"].dt.date() == timedelta(days=21)).all()


def test_a_clinics_own_images_keep_their_camera_patient_and_size(clinic: Clinic) -> None:
    images = fundus_images(clinic([some_png(seed) for seed in range(24)]), REPLAY)
    assert images["month"].n_unique() == 24
    assert images.select(
        "camera", "camera_simulated", "patient_id", "eye", "height_px", "width_px"
    ).unique().rows() == [("Topcon", False, "patient", "left", 30, 32)]
    assert images["grade"].to_list()[:6] == [0, 1, 2, 3, 4, 0]
    assert np.array_equal(pixels_of(images["image_png"][20]), pixels_of(some_png(20)))


def test_images_that_cannot_be_used_are_set_apart_with_the_reason_and_none_vanishes(clinic: Clinic) -> None:
    archive = clinic([some_png(0), b"no image", some_png(2, side=20), some_png(0), some_png(4)])
    usable, faulty = fundus_images(archive, REPLAY), quarantined_images(archive, REPLAY)
    assert len(usable) + len(faulty) == 5
    assert usable["grade"].to_list() == [0, 4]
    assert faulty.select("place", "fault").rows() == [
        ("line 3", "no readable JPEG, PNG or DICOM file"),
        ("line 4", "22 x 20 px; each side must have 28 to 8,192 px"),
        ("line 5", "the same image as on an earlier line"),
    ]
    assert faulty["captured_at"].is_sorted()


def test_the_faults_of_a_window_are_its_images_in_quarantine_by_place_and_camera(clinic: Clinic) -> None:
    """Of three images, the calendar puts the second into the ninth month."""
    archive = clinic([some_png(0), b"no image", some_png(2)])
    faults = image_faults(archive, MonthWindow.of_month(date(2024, 9, 1)))
    assert faults.schema == FAULTS_SCHEMA
    assert faults.rows(named=True) == [
        {
            **{"column": "image_png", "subgroup": "camera=Topcon", "fault": "quarantined", "place": "line 3"},
            **{"reason": "no readable JPEG, PNG or DICOM file", "affected": 1, "rows": 1},
        }
    ]
    assert image_faults(archive, REPLAY)["rows"].to_list() == [3]
    assert image_faults(archive, JULY).is_empty()


def test_an_image_without_a_file_is_in_quarantine_too(clinic: Clinic) -> None:
    archive = clinic([some_png(0), some_png(1)])
    (archive.path / "1.png").unlink()
    (missing,) = quarantined_images(FUNDUS_FOLDER.open(archive.path), REPLAY).rows(named=True)
    assert (missing["place"], missing["image_id"], missing["fault"]) == ("line 3", None, "the file is missing")


def test_a_window_without_a_usable_image_is_refused(simulated: Archive, clinic: Clinic) -> None:
    with pytest.raises(ArchiveError, match="no usable image from 2026-01-01 to 2026-02-01"):
        fundus_images(simulated, MonthWindow.of_month(date(2026, 1, 1)))
    with pytest.raises(ArchiveError, match="look at the images in quarantine"):
        fundus_images(clinic([b"no image"]), REPLAY)
    with pytest.raises(ArchiveError, match="look at the images in quarantine"):
        published_images(clinic([b"no image"]), None)


def test_every_column_says_what_it_means() -> None:
    assert contract_of(fundus_images) is FundusImage
    assert contract_of(quarantined_images) is QuarantinedImage
    assert describe_columns(FundusImage)["sha256"] == "sha256 of image_png"
    assert len(describe_columns(QuarantinedImage)) == 7


def test_the_real_archive_is_replayed_whole_and_in_its_published_order(raw_archives: Path) -> None:
    path = RETINAMNIST.find(raw_archives)
    assert path is not None
    archive = RETINAMNIST.open(path)
    images = fundus_images(archive, REPLAY)
    assert len(images) == len(read_images(archive).grade)
    assert images["published_split"].rle().struct.field("value").to_list() == ["train", "val", "test"]
    assert quarantined_images(archive, REPLAY).is_empty()
    assert images["width_px"].unique().to_list() == [28]
    assert (images["month"].value_counts()["count"].is_between(58, 67)).all()
