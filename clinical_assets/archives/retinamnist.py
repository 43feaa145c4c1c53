"""RetinaMNIST of MedMNIST v2: where it is, how its file is laid out, and its images and grades as checked arrays.

Belongs here: the publisher's own arrays and splits. Does not belong here: the replay calendar, or what the retinopathy
model makes of an image.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.archives.archive import (
    Archive,
    ArchiveError,
    Download,
    KnownDrift,
    PublishedArchive,
    PublishedFile,
    hash_bytes,
)
from clinical_assets.archives.fundus_folder import BLANK, FUNDUS_FOLDER, LISTING, LISTING_SCHEMA, DecodedImage

DATA_FILE = "retinamnist.npz"
DATA_SHA256 = "254915f5f0a2074665c4676356824cf4ef4a3bcab233894b4bafcaf48962bd69"
REMEDY = "restore the publisher's file, or fetch the archive again"

SPLITS = ("train", "val", "test")
SIDE_PX = 28
GRADES = 5
SIMULATED_ARRAY = "simulated"
"""An array that no published file has; a file that has it says of itself that it is simulated."""

ONLY_CAMERA = "unnamed"


@dataclass(frozen=True, slots=True)
class GradedImages:
    """The images (n x 28 x 28 x 3, 0 to 255) of all splits, in the order train, val, test, their grades and splits."""

    pixels: npt.NDArray[np.uint8]
    grade: npt.NDArray[np.int8]
    published_split: npt.NDArray[np.str_]
    simulated: bool


@dataclass(frozen=True)
class RetinaMnist(PublishedArchive):
    """Fundus photographs with five grades of diabetic retinopathy, from DeepDRiD, at 28 x 28 px (Yang et al. 2023)."""

    def find(self, raw: Path) -> Path | None:
        """The file in `raw/retinamnist/` or `raw/`, or None."""
        return next((path for path in (raw / self.name / DATA_FILE, raw / DATA_FILE) if path.is_file()), None)

    def open(self, path: Path) -> Archive:
        """The archive at a file, or at the folder that holds it, with its arrays checked; raises ArchiveError.

        A folder with `images.csv` is opened as a clinic's own (archives/fundus_folder.py), so that what was developed
        on RetinaMNIST can be validated on other photographs. `data_origin` is `real:MedMNIST` when the file has the
        published checksum, `real:MedMNIST:modified` when it has another, and `simulated` when the file says so itself.
        """
        if path.is_dir() and (path / LISTING).is_file():
            return FUNDUS_FOLDER.open(path)
        file = path / DATA_FILE if path.is_dir() else path
        if not file.is_file():
            raise ArchiveError(f"{file} does not exist; fetch the archive, or name {DATA_FILE} or its folder")
        return _open(self, file.resolve(), file.stat().st_mtime_ns, file.stat().st_size)

    def simulate(self, directory: Path, seed: int) -> Path:
        """Write a simulated archive in the publisher's layout into `directory`, and return its path."""
        from clinical_assets.archives.simulated_fundus import write_simulated_archive

        return write_simulated_archive(directory, seed)

    def known_drift(self) -> tuple[KnownDrift, ...]:
        """The changes that the simulated archive makes."""
        from clinical_assets.archives.simulated_fundus import SIMULATED_DRIFT

        return SIMULATED_DRIFT


RETINAMNIST = RetinaMnist(
    name="retinamnist",
    title="RetinaMNIST, 28 px (MedMNIST v2)",
    publisher="MedMNIST",
    licence="CC BY 4.0",
    citation="Yang et al. 2023, Scientific Data, doi 10.1038/s41597-022-01721-8",
    downloads=(
        Download(
            url=f"https://zenodo.org/records/10519652/files/{DATA_FILE}?download=1",
            file_name=DATA_FILE,
            contents=(PublishedFile(DATA_FILE, DATA_SHA256),),
        ),
    ),
)


@lru_cache(maxsize=1)
def read_images(archive: Archive) -> GradedImages:
    """Every image of the archive, with its grade and published split, in the order train, val, test.

    Raises ArchiveError, naming the array, where the file is not as the publisher lays it out or has changed.
    """
    content = archive.path.read_bytes()
    if hash_bytes(content) != archive.sha256:
        raise ArchiveError(f"{archive.path.name} changed since the archive was opened; open it again")
    return _read_arrays(archive.path.name, content)


def list_arrays(archive: Archive) -> pl.DataFrame:
    """Every image in the order train, val, test, with the columns of `LISTING_SCHEMA`.

    An image is known by the sha256 of its pixels. The archive names no patient: the image's own identifier stands for
    one, although its source has several photographs of each patient.
    """
    images = read_images(archive)
    image_id = [hash_bytes(image.tobytes()) for image in images.pixels]
    blank = (images.pixels == images.pixels[:, :1, :1]).all(axis=(1, 2, 3))
    listing = pl.DataFrame(
        {
            "image_id": image_id,
            "patient_id": image_id,
            "grade": images.grade,
            "published_split": images.published_split.tolist(),
            "blank": blank,
        }
    )
    return listing.select(
        pl.int_range(pl.len()).alias("position"),
        pl.format("{} image {}", "published_split", pl.int_range(pl.len()).over("published_split")).alias("place"),
        "image_id",
        "patient_id",
        pl.lit(None, pl.String).alias("eye"),
        pl.lit(ONLY_CAMERA).alias("camera"),
        "grade",
        "published_split",
        pl.when("blank")
        .then(pl.lit(BLANK))
        .when(~pl.col("image_id").is_first_distinct())
        .then(pl.lit("the same image as an earlier one"))
        .alias("fault"),
    ).match_to_schema(LISTING_SCHEMA)


def decode_arrays(archive: Archive, positions: pl.Series) -> list[DecodedImage]:
    """The images at positions of the listing; each of them is whole, since the file is."""
    return [DecodedImage(image, "array", None) for image in read_images(archive).pixels[positions.to_numpy()]]


@lru_cache(maxsize=8)
def _open(published: RetinaMnist, file: Path, modified_ns: int, size: int) -> Archive:
    content = file.read_bytes()
    simulated = _read_arrays(file.name, content).simulated
    sha256 = hash_bytes(content)
    return Archive(file, published.origin(sha256, DATA_SHA256, simulated=simulated), sha256)


def _read_arrays(name: str, content: bytes) -> GradedImages:
    wanted = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            members = {member.removesuffix(".npy") for member in packed.namelist()}
            if missing := [array for array in wanted if array not in members]:
                raise ArchiveError(f"{name} lacks the arrays {', '.join(missing)}; {REMEDY}")
            arrays = {array: _read_array(packed, array) for array in wanted}
    except ArchiveError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise ArchiveError(f"{name}: no .npz of plain arrays, or a damaged one ({error}); {REMEDY}") from error
    for split in SPLITS:
        _check_split(name, split, arrays[f"{split}_images"], arrays[f"{split}_labels"])
    counts = [len(arrays[f"{split}_images"]) for split in SPLITS]
    pixels = np.concatenate([arrays[f"{split}_images"] for split in SPLITS])
    grade = np.concatenate([arrays[f"{split}_labels"][:, 0] for split in SPLITS]).astype(np.int8)
    # Whoever reads the archive next gets the same arrays.
    pixels.flags.writeable = grade.flags.writeable = False
    return GradedImages(
        pixels=pixels,
        grade=grade,
        published_split=np.repeat(np.asarray(SPLITS), counts),
        simulated=SIMULATED_ARRAY in members,
    )


def _read_array(packed: zipfile.ZipFile, array: str) -> np.ndarray:
    with packed.open(f"{array}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_split(name: str, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    expected = (len(images), SIDE_PX, SIDE_PX, 3)
    if not len(images) or images.shape != expected or images.dtype != np.uint8:
        raise ArchiveError(
            f"{name}, array {split}_images: {images.dtype} of shape {images.shape}; expected uint8 of shape "
            f"(images, {SIDE_PX}, {SIDE_PX}, 3), the 28 px edition: {REMEDY}"
        )
    if labels.shape != (len(images), 1) or not np.issubdtype(labels.dtype, np.integer):
        raise ArchiveError(
            f"{name}, array {split}_labels: {labels.dtype} of shape {labels.shape}; expected one integer for each of "
            f"{len(images):,} images: {REMEDY}"
        )
    if wrong := int(np.sum((labels < 0) | (labels >= GRADES))):
        odd = labels[(labels < 0) | (labels >= GRADES)][0]
        raise ArchiveError(
            f"{name}, array {split}_labels: {wrong:,} grades are none of 0 to {GRADES - 1}, such as {odd}; {REMEDY}"
        )
