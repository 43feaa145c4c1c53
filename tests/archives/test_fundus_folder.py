import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from clinical_assets.archives.archive import ArchiveError, hash_bytes
from clinical_assets.archives.fundus_folder import FUNDUS_FOLDER, decode, decode_files, encode_png, list_files
from clinical_assets.archives.retinamnist import RETINAMNIST

HEADER = "file,grade,camera,patient,eye"
SECRET = "Erika Mustermann"

List = Callable[..., Path]


def photograph(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_file(image: Image.Image, **settings: Any) -> bytes:
    packed = io.BytesIO()
    image.save(packed, **settings)
    return packed.getvalue()


@pytest.fixture
def clinic(tmp_path: Path) -> List:
    """A folder with two photographs of one patient, and a listing of these or of other lines."""

    def write(*lines: str, header: str = HEADER) -> Path:
        (tmp_path / "left.png").write_bytes(encode_png(photograph(1)))
        (tmp_path / "right.jpg").write_bytes(as_file(Image.fromarray(photograph(2)), format="JPEG"))
        lines = lines or (f"left.png,0,Topcon,{SECRET},left", f"right.jpg,3,Canon,{SECRET},")
        (tmp_path / "images.csv").write_text("\n".join([header, *lines]) + "\n")
        return tmp_path

    return write


def refusal(folder: Path) -> str:
    """The one message with which a folder is refused."""
    with pytest.raises(ArchiveError) as refused:
        FUNDUS_FOLDER.open(folder)
    assert SECRET not in str(refused.value)
    return str(refused.value)


def test_every_listed_file_is_an_image_with_its_grade_camera_and_eye(clinic: List) -> None:
    archive = FUNDUS_FOLDER.open(clinic())
    listing = list_files(archive)
    assert listing.select("place", "grade", "camera", "eye", "fault").rows() == [
        ("line 2", 0, "Topcon", "left", None),
        ("line 3", 3, "Canon", None, None),
    ]
    assert listing["image_id"][0] == hash_bytes((archive.path / "left.png").read_bytes())
    png, jpeg = decode_files(archive, listing["position"])
    assert (png.source_format, jpeg.source_format) == ("PNG", "JPEG")
    assert png.pixels is not None and np.array_equal(png.pixels, photograph(1))
    assert jpeg.pixels is not None and jpeg.pixels.shape == (40, 60, 3)


def test_positions_are_decoded_in_the_order_asked_for(clinic: List) -> None:
    archive = FUNDUS_FOLDER.open(clinic())
    images = decode_files(archive, list_files(archive)["position"].gather([1, 0]))
    assert [image.source_format for image in images] == ["JPEG", "PNG"]


def test_a_clinics_folder_can_be_opened_where_the_published_archive_is_expected(clinic: List) -> None:
    archive = RETINAMNIST.open(clinic())
    assert archive == FUNDUS_FOLDER.open(archive.path)
    assert archive.data_origin == "real:clinic"


def test_a_missing_and_a_repeated_file_are_faults_of_the_image(clinic: List) -> None:
    folder = clinic("left.png,0,A,1,left", "gone.png,1,A,1,right", "copy.png,0,A,2,left")
    shutil.copy(folder / "left.png", folder / "copy.png")
    listing = list_files(FUNDUS_FOLDER.open(folder))
    assert listing["fault"].to_list() == [None, "the file is missing", "the same image as on an earlier line"]
    assert listing["image_id"].is_null().to_list() == [False, True, False]


def test_two_missing_files_are_not_taken_for_the_same_image(clinic: List) -> None:
    listing = list_files(FUNDUS_FOLDER.open(clinic("a.png,0,A,1,left", "b.png,1,A,1,right")))
    assert listing["fault"].to_list() == ["the file is missing"] * 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"left.png,5,A,{SECRET},left", ["line 3", "column grade", "'5'", "0, 1, 2, 3, 4"]),
        (f"left.png,,A,{SECRET},left", ["line 3", "column grade", "empty"]),
        (f"left.png,2.0,A,{SECRET},left", ["line 3", "column grade", "'2.0'"]),
        (f"left.png,0, ,{SECRET},left", ["line 3", "column camera", "empty"]),
        ("left.png,0,A,,left", ["line 3", "column patient", "empty"]),
        (f"left.png,0,A,{SECRET},both", ["line 3", "column eye", "'both'", "left, right"]),
        (f"right.jpg,0,A,{SECRET},left", ["lines 2, 3", "one file on several lines"]),
        (f"../{SECRET}.png,0,A,1,left", ["line 3", "column file", "outside the folder"]),
        (f"/etc/{SECRET},0,A,1,left", ["line 3", "column file", "outside the folder"]),
        (f"left.png,0,A,{SECRET},left,more", ["no comma-separated table"]),
    ],
)
def test_a_wrong_line_is_refused_by_its_number_and_without_naming_anybody(
    clinic: List, line: str, words: list[str]
) -> None:
    message = refusal(clinic("right.jpg,0,A,1,right", line))
    assert all(word in message for word in ["images.csv", *words]), message


def test_a_listing_of_other_columns_or_none_is_refused(clinic: List) -> None:
    assert "lacks the columns grade" in refusal(clinic("left.png", header="file,camera,patient,eye"))
    folder = clinic()
    (folder / "images.csv").write_text(HEADER + "\n")
    assert "lists no image" in refusal(folder)
    (folder / "images.csv").write_bytes(b"")
    assert "no comma-separated table" in refusal(folder)
    (folder / "images.csv").unlink()
    assert "has no images.csv" in refusal(folder)


def test_a_folder_is_known_by_all_it_holds_and_not_read_once_it_changed(clinic: List) -> None:
    archive = FUNDUS_FOLDER.open(clinic())
    (archive.path / "unlisted.txt").write_text("of no interest")
    assert FUNDUS_FOLDER.open(archive.path) == archive
    (archive.path / "left.png").write_bytes(encode_png(photograph(3)))
    assert FUNDUS_FOLDER.open(archive.path).sha256 != archive.sha256
    with pytest.raises(ArchiveError, match="changed since it was opened"):
        list_files(archive)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "no readable JPEG, PNG or DICOM file"),
        (b"GIF89a and more", "no readable JPEG, PNG or DICOM file"),
        (encode_png(photograph(1))[:900], "no readable JPEG, PNG or DICOM file"),
        (as_file(Image.fromarray(photograph(1)), format="JPEG")[:900], "no readable JPEG, PNG or DICOM file"),
        (encode_png(photograph(1, 27, 40)), "40 x 27 px; each side must have 28 to 8,192 px"),
        (encode_png(photograph(1, 28, 8193)), "8193 x 28 px; each side must have 28 to 8,192 px"),
        (encode_png(np.full((40, 40, 3), 9, np.uint8)), "blank: every pixel has the same value"),
        (as_file(Image.fromarray(photograph(1)[..., 0]), format="PNG"), "not a colour image of 8 bits a channel (L)"),
    ],
)
def test_what_is_no_usable_photograph_is_a_fault_in_words(content: bytes, fault: str) -> None:
    image = decode(content)
    assert (image.pixels, image.fault) == (None, fault)


def test_a_photograph_is_turned_upright_and_loses_all_that_is_written_in_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = SECRET
    content = as_file(Image.fromarray(photograph(4)), format="JPEG", exif=exif)
    assert SECRET.encode() in content
    pixels = decode(content).pixels
    assert pixels is not None and pixels.shape == (60, 40, 3)
    assert SECRET.encode() not in encode_png(pixels)


def test_png_keeps_every_pixel() -> None:
    decoded = decode(encode_png(photograph(5))).pixels
    assert decoded is not None and np.array_equal(decoded, photograph(5))


def test_dicom_without_pydicom_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ArchiveError, match=r"needs pydicom, .* install clinical-assets\[dicom\]"):
        decode(bytes(128) + b"DICM" + bytes(100))


def test_with_pydicom_a_dicom_photograph_is_read_and_a_broken_one_is_a_fault() -> None:
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"  # ophthalmic photography, 8 bit
    header.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1", "1.2.3"
    header.PatientName = SECRET
    header.set_pixel_data(photograph(6), "RGB", 8)
    packed = io.BytesIO()
    header.save_as(packed, enforce_file_format=True)
    image = decode(packed.getvalue())
    assert image.source_format == "DICOM" and image.fault is None
    assert image.pixels is not None and np.array_equal(image.pixels, photograph(6))
    assert decode(packed.getvalue()[:400]).fault == "no readable DICOM image"
    assert decode(bytes(128) + b"DICM" + bytes(100)).fault == "no readable DICOM image"
    header.set_pixel_data(photograph(6)[..., 0], "MONOCHROME2", 8)
    packed = io.BytesIO()
    header.save_as(packed, enforce_file_format=True)
    assert decode(packed.getvalue()).fault == "not one colour image of 8 bits a channel"


def test_a_simulated_folder_says_so_and_has_both_eyes_of_each_patient(tmp_path: Path) -> None:
    path = FUNDUS_FOLDER.simulate(tmp_path, seed=3)
    assert FUNDUS_FOLDER.find(tmp_path) == path
    archive = FUNDUS_FOLDER.open(path)
    assert archive.data_origin == "simulated"
    listing = list_files(archive)
    assert listing["fault"].null_count() == len(listing) == 120
    assert (listing.group_by("patient_id").agg(pl.col("eye").n_unique())["eye"] == 2).all()
    assert listing["camera"].n_unique() == 2
    assert FUNDUS_FOLDER.simulate(tmp_path, seed=3) == path
    assert FUNDUS_FOLDER.open(path) == archive
    FUNDUS_FOLDER.simulate(tmp_path, seed=4)
    assert FUNDUS_FOLDER.open(path).sha256 != archive.sha256
    assert [child.name for child in tmp_path.iterdir()] == ["fundus_folder"]
