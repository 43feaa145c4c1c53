"""A clinic's own folder of fundus photographs: `images.csv` and the JPEG, PNG or DICOM files that it lists.

Belongs here: the layout of the folder, and how a file becomes pixels. Does not belong here: the replay calendar, or
what the retinopathy model makes of an image.
"""

import importlib
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.archives.archive import (
    SIMULATED_MARKER,
    Archive,
    ArchiveError,
    KnownDrift,
    PublishedArchive,
    hash_bytes,
    lines_of,
)

Pixels = npt.NDArray[np.uint8]

LISTING = "images.csv"
COLUMNS = ("file", "grade", "camera", "patient", "eye")
GRADES = ("0", "1", "2", "3", "4")
EYES = ("left", "right")
REMEDY = f"correct {LISTING}"

LEAST_SIDE_PX = 28
MOST_SIDE_PX = 8192
BLANK = "blank: every pixel has the same value"
DICOM_PREAMBLE_BYTES = 128
DICOM_EXTRA = "clinical-assets[dicom]"

LISTING_SCHEMA = pl.Schema(
    {
        "position": pl.Int64,
        "place": pl.String,
        "image_id": pl.String,
        "patient_id": pl.String,
        "eye": pl.String,
        "camera": pl.String,
        "grade": pl.Int8,
        "published_split": pl.String,
        "fault": pl.String,
    }
)
"""What is known of every image of an archive before it is decoded.

`position` counts from 0 in the archive's order, `place` says the same to a reader, and `fault` why an image cannot be
used, or null.
"""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image's pixels (height x width x 3, red, green, blue, 0 to 255) and format, or the fault that hides them."""

    pixels: Pixels | None
    source_format: str | None
    fault: str | None


@dataclass(frozen=True)
class FundusFolder(PublishedArchive):
    """A folder with `images.csv` (file, grade 0 to 4, camera, patient, eye) and the photographs beside or below it."""

    def find(self, raw: Path) -> Path | None:
        """The folder `raw/fundus_folder/`, or `raw` itself, where it holds `images.csv`, or None."""
        return next((folder for folder in (raw / self.name, raw) if (folder / LISTING).is_file()), None)

    def open(self, path: Path) -> Archive:
        """The archive at a folder, with every line of `images.csv` checked and every file hashed; raises ArchiveError.

        A file that is missing, or is no image, is no error here: it is a fault of that image. The hash covers the
        listing and all files.
        """
        folder = path.resolve()
        simulated = (folder / SIMULATED_MARKER).is_file()
        return Archive(folder, "simulated" if simulated else f"real:{self.publisher}", _hash_folder(folder))

    def simulate(self, directory: Path, seed: int) -> Path:
        """Write a simulated folder into `directory`, and return its path."""
        from clinical_assets.archives.simulated_fundus import write_simulated_folder

        return write_simulated_folder(directory, seed)

    def known_drift(self) -> tuple[KnownDrift, ...]:
        """None: a folder holds what a clinic has put there, and the simulated one is stationary."""
        return ()


FUNDUS_FOLDER = FundusFolder(
    name="fundus_folder",
    title="A clinic's own fundus photographs",
    publisher="clinic",
    licence="the clinic's own",
    citation="",
    downloads=(),
)


def list_files(archive: Archive) -> pl.DataFrame:
    """Every image of the folder in the order of `images.csv`, with the columns of `LISTING_SCHEMA`, not yet decoded.

    An image is known by the sha256 of its file; one that has the content of an earlier line is a fault of the later.
    Raises ArchiveError when the listing or a file changed since the archive was opened.
    """
    if _hash_folder(archive.path) != archive.sha256:
        raise ArchiveError(f"{archive.path.name}: an image or {LISTING} changed since it was opened; open it again")
    listing = _read_listing(archive.path)
    image_id = pl.Series("image_id", _hash_files(archive.path, listing), dtype=pl.String)
    return (
        listing.with_columns(image_id)
        .select(
            pl.int_range(pl.len()).alias("position"),
            pl.format("line {}", pl.int_range(2, pl.len() + 2)).alias("place"),
            "image_id",
            pl.col("patient").alias("patient_id"),
            "eye",
            "camera",
            pl.col("grade").cast(pl.Int8),
            pl.lit(None, pl.String).alias("published_split"),
            pl.when(pl.col("image_id").is_null())
            .then(pl.lit("the file is missing"))
            .when(~pl.col("image_id").is_first_distinct())
            .then(pl.lit("the same image as on an earlier line"))
            .alias("fault"),
        )
        .match_to_schema(LISTING_SCHEMA)
    )


def decode_files(archive: Archive, positions: pl.Series) -> list[DecodedImage]:
    """The images at positions of the listing, decoded; raises ArchiveError for DICOM when pydicom is not installed.

    Only the pixels are taken: what a file says of a patient (EXIF, DICOM header) stays behind.
    """
    files = _read_listing(archive.path)["file"].gather(positions)
    return [decode((archive.path / file).read_bytes()) for file in files]


def decode(content: bytes) -> DecodedImage:
    """The image that a JPEG, PNG or DICOM file holds, upright, or the fault for which it cannot be used.

    Raises ArchiveError for a DICOM file when pydicom is not installed.
    """
    if content[DICOM_PREAMBLE_BYTES : DICOM_PREAMBLE_BYTES + 4] == b"DICM":
        return _decode_dicom(content)
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            source_format = str(image.format)
            if fault := _fault_of_size(image.width, image.height):
                return DecodedImage(None, source_format, fault)
            if image.mode not in ("RGB", "RGBA", "P"):
                return DecodedImage(None, source_format, f"not a colour image of 8 bits a channel ({image.mode})")
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return DecodedImage(None, None, "no readable JPEG, PNG or DICOM file")
    return _unless_blank(pixels, source_format)


def encode_png(pixels: Pixels) -> bytes:
    """Pixels (height x width x 3, 0 to 255) as a PNG file: without loss, and without any metadata."""
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, format="PNG")
    return packed.getvalue()


def _decode_dicom(content: bytes) -> DecodedImage:
    try:
        # Not by an import statement, which would be an error to a type checker wherever the extra is not installed.
        pydicom, pixels_of = importlib.import_module("pydicom"), importlib.import_module("pydicom.pixels")
    except ModuleNotFoundError as error:
        raise ArchiveError(f"a DICOM image needs pydicom, which is not installed; install {DICOM_EXTRA}") from error
    try:
        header = pydicom.dcmread(io.BytesIO(content))
        if fault := _fault_of_size(int(header.Columns), int(header.Rows)):
            return DecodedImage(None, "DICOM", fault)
        # YBR is converted to RGB by pydicom unless it is asked for raw values.
        pixels = np.asarray(pixels_of.pixel_array(header))
    except (AttributeError, RuntimeError, ValueError, OSError, EOFError, pydicom.errors.InvalidDicomError):
        return DecodedImage(None, "DICOM", "no readable DICOM image")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        return DecodedImage(None, "DICOM", "not one colour image of 8 bits a channel")
    return _unless_blank(pixels, "DICOM")


def _fault_of_size(width_px: int, height_px: int) -> str | None:
    if all(LEAST_SIDE_PX <= side_px <= MOST_SIDE_PX for side_px in (width_px, height_px)):
        return None
    return f"{width_px} x {height_px} px; each side must have {LEAST_SIDE_PX} to {MOST_SIDE_PX:,} px"


def _unless_blank(pixels: Pixels, source_format: str) -> DecodedImage:
    if (pixels == pixels[0, 0]).all():
        return DecodedImage(None, source_format, BLANK)
    return DecodedImage(pixels, source_format, None)


def _read_listing(folder: Path) -> pl.DataFrame:
    """The listing as text, checked line by line; an empty eye is null."""
    path = folder / LISTING
    if not path.is_file():
        raise ArchiveError(f"{folder} has no {LISTING}; list every image there, with the columns {', '.join(COLUMNS)}")
    try:
        rows = pl.read_csv(path.read_bytes(), infer_schema=False)
    except (pl.exceptions.ComputeError, pl.exceptions.NoDataError):
        # The cause is not chained: its text may hold a row.
        raise ArchiveError(f"{LISTING}: no comma-separated table in UTF-8, one header line first; {REMEDY}") from None
    if missing := [name for name in COLUMNS if name not in rows.columns]:
        raise ArchiveError(f"{LISTING} lacks the columns {', '.join(missing)}; {REMEDY}")
    if rows.is_empty():
        raise ArchiveError(f"{LISTING} lists no image; {REMEDY}")
    rows = rows.select(pl.col(COLUMNS).str.strip_chars().replace("", None))
    for name in ("file", "camera", "patient", "grade"):
        if rows[name].null_count():
            raise ArchiveError(f"{LISTING}, {lines_of(rows[name].is_null())}, column {name}: empty; {REMEDY}")
    _refuse_unknown(rows["grade"], GRADES)
    _refuse_unknown(rows["eye"], EYES)
    if (repeated := rows["file"].is_duplicated()).any():
        raise ArchiveError(f"{LISTING}, {lines_of(repeated)}: one file on several lines; {REMEDY}")
    inside = [(folder / file).resolve().is_relative_to(folder) for file in rows["file"]]
    if not all(inside):
        raise ArchiveError(
            f"{LISTING}, {lines_of(~pl.Series(inside))}, column file: lies outside the folder; name files in it"
        )
    return rows


def _refuse_unknown(values: pl.Series, known: tuple[str, ...]) -> None:
    wrong = ~values.is_in(known) & values.is_not_null()
    if wrong.any():
        raise ArchiveError(
            f"{LISTING}, {lines_of(wrong)}, column {values.name}, value {values.filter(wrong)[0][:40]!r}: "
            f"known are {', '.join(known)}; {REMEDY}"
        )


def _hash_folder(folder: Path) -> str:
    hashes = _hash_files(folder, _read_listing(folder))
    return hash_bytes((folder / LISTING).read_bytes() + "".join(sha256 or "-" for sha256 in hashes).encode())


def _hash_files(folder: Path, listing: pl.DataFrame) -> list[str | None]:
    """The sha256 of every listed file, None where there is none."""
    files = [folder / file for file in listing["file"]]
    return [
        _hash_file(file, file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None for file in files
    ]


@lru_cache(maxsize=1 << 17)
def _hash_file(file: Path, modified_ns: int, size: int) -> str:
    return hash_bytes(file.read_bytes())
