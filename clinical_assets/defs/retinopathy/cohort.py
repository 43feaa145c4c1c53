"""Fundus photographs with their grade of diabetic retinopathy, and those that could not be used and why.

Belongs here: the calendar, the camera change of the replay, the row of an image. Does not belong here: file layouts
(archives/retinamnist.py, archives/fundus_folder.py), what the estimator sees, storage.
"""

from datetime import date, timedelta
from functools import lru_cache

import dataframely as dy
import numpy as np
import polars as pl

from clinical_assets.archives.archive import Archive, ArchiveError, MonthWindow, hash_bytes
from clinical_assets.archives.calendar import spread_over_months
from clinical_assets.archives.data_quality import FAULTS_SCHEMA
from clinical_assets.archives.fundus_folder import decode_files, encode_png, list_files
from clinical_assets.archives.handheld_camera import HANDHELD, SIMULATED_PREFIX, HandheldCamera, photograph
from clinical_assets.archives.retinamnist import decode_arrays, list_arrays

GRADING_DAYS = 21
"""From photograph to grade: an assumption, the archive being silent; the time that the NHS Diabetic Eye Screening
Programme allows for the letter with the result."""

HANDHELD_FROM = date(2025, 7, 1)
"""The first month, the 19th of the replay, in which RetinaMNIST's images come through the simulated camera."""


class FundusImage(dy.Schema):
    """One usable fundus photograph with the grade that a person gave it."""

    image_id = dy.String(
        primary_key=True, description="Image: sha256 of what the archive holds; a pseudonym once stored"
    )
    patient_id = dy.String(
        description="Patient, a pseudonym once stored; the image itself where the archive names no patient"
    )
    captured_at = dy.Datetime(
        time_unit="us",
        time_zone="UTC",
        description="Photograph on the replay calendar, UTC; the archive's order, not a date; of an "
        "identified feed moved by the patient's own weeks",
    )
    month = dy.Date(description="First day of the month of the photograph")
    grade = dy.Int8(
        min=0, max=4, description="Diabetic retinopathy: 0 none, 1 mild, 2 moderate, 3 severe, 4 proliferative"
    )
    outcome_known_on = dy.Date(
        description="Day from which the grade can be known: photograph + 21 days; of an identified "
        "feed the last day of its month"
    )

    camera = dy.String(description="Camera; a name that starts with simulated- is of one that does not exist")
    camera_simulated = dy.Bool(description="Whether the camera is simulated")
    simulation = dy.String(nullable=True, description="What the replay's camera did to the image; null if nothing")
    eye = dy.String(nullable=True, description="left or right; null if not recorded")
    published_split = dy.String(nullable=True, description="train, val or test as published; null in a clinic's folder")

    source_format = dy.String(description="What the image was read from: array, PNG, JPEG, DICOM")
    width_px = dy.Int64(min=28, description="Width, px")
    height_px = dy.Int64(min=28, description="Height, px")
    image_png = dy.Binary(description="The image as PNG, red, green, blue, 8 bits each, without metadata")
    sha256 = dy.String(description="sha256 of image_png")


class QuarantinedImage(dy.Schema):
    """One image of the archive that cannot be used, and why."""

    place = dy.String(primary_key=True, description="Line of images.csv, or published split and place in it from 0")
    image_id = dy.String(nullable=True, description="Image, a pseudonym once stored; null where there is no file")
    captured_at = dy.Datetime(time_unit="us", time_zone="UTC", description="Photograph on the replay calendar, UTC")
    month = dy.Date(description="First day of the month of the photograph")
    camera = dy.String(description="Camera that the archive names")
    published_split = dy.String(nullable=True, description="train, val or test as published; null in a clinic's folder")
    fault = dy.String(description="Why the image cannot be used")


def fundus_images(archive: Archive, window: MonthWindow) -> dy.DataFrame[FundusImage]:
    """The usable images of a window, in order of capture, as the replay's camera of the month took them.

    From July 2025 the images of a RetinaMNIST archive, which has one camera, come through `simulated-handheld`; a
    clinic's own images are never touched. Raises ArchiveError for a window without a usable image.
    """
    usable = _read_window(archive, window).filter(pl.col("fault").is_null())
    if usable.is_empty():
        raise ArchiveError(
            f"{archive.path.name} has no usable image from {window.start} to {window.end} (exclusive); "
            "ask for a month of the replay calendar, or look at the images in quarantine"
        )
    return FundusImage.validate(usable.select(FundusImage.column_names()))


def quarantined_images(archive: Archive, window: MonthWindow) -> dy.DataFrame[QuarantinedImage]:
    """The images of a window that cannot be used, in order of capture; with `fundus_images` they are all there are."""
    faulty = _read_window(archive, window).filter(pl.col("fault").is_not_null())
    return QuarantinedImage.validate(faulty.select(QuarantinedImage.column_names()))


def image_faults(archive: Archive, window: MonthWindow) -> pl.DataFrame:
    """The images of a window that cannot be used, one row each, with their place in the archive: `FAULTS_SCHEMA`."""
    faulty = quarantined_images(archive, window)
    listed = _place_in_time(archive).filter((pl.col("month") >= window.start) & (pl.col("month") < window.end)).height
    return faulty.select(
        pl.lit("image_png").alias("column"),
        pl.format("camera={}", "camera").alias("subgroup"),
        pl.lit("quarantined").alias("fault"),
        pl.col("fault").alias("reason"),
        "place",
        pl.lit(1).alias("affected"),
        pl.lit(listed).alias("rows"),
    ).cast(FAULTS_SCHEMA)


def published_images(archive: Archive, published_split: str | None = None) -> dy.DataFrame[FundusImage]:
    """The usable images of one published split, or of all where it is None, just as the archive holds them.

    No image comes through the replay's camera here: figures on them compare with published ones. Raises ArchiveError
    where the archive has no such split or nothing in it is usable.
    """
    placed = _place_in_time(archive)
    if published_split is not None:
        placed = placed.filter(pl.col("published_split") == published_split)
        if placed.is_empty():
            raise ArchiveError(f"{archive.path.name} has no published split {published_split!r}; leave the split out")
    usable = _read_images(archive, placed).filter(pl.col("fault").is_null())
    if usable.is_empty():
        raise ArchiveError(f"{archive.path.name} has no usable image; look at the images in quarantine")
    return FundusImage.validate(usable.select(FundusImage.column_names()))


# Asked for the images of a month and for its quarantine in turn.
@lru_cache(maxsize=1)
def _read_window(archive: Archive, window: MonthWindow) -> pl.DataFrame:
    placed = _place_in_time(archive).filter((pl.col("month") >= window.start) & (pl.col("month") < window.end))
    if archive.path.is_dir():
        return _read_images(archive, placed)
    before = pl.col("month") < HANDHELD_FROM
    return pl.concat(
        [_read_images(archive, placed.filter(before)), _read_images(archive, placed.filter(~before), HANDHELD)]
    )


def _place_in_time(archive: Archive) -> pl.DataFrame:
    """Every image that the archive lists, in its order, with the times of the replay calendar."""
    listing = list_files(archive) if archive.path.is_dir() else list_arrays(archive)
    day = pl.col("captured_at").dt.date()
    return listing.with_columns(spread_over_months(len(listing)).alias("captured_at")).with_columns(
        day.dt.month_start().alias("month"), (day + timedelta(days=GRADING_DAYS)).alias("outcome_known_on")
    )


def _read_images(archive: Archive, placed: pl.DataFrame, camera: HandheldCamera | None = None) -> pl.DataFrame:
    """The placed images with their pixels as PNG, taken by another camera if one is given, or with their fault."""
    listed = placed.filter(pl.col("fault").is_null())["position"]
    images = decode_files(archive, listed) if archive.path.is_dir() else decode_arrays(archive, listed)
    pixels = [image.pixels for image in images]
    if camera is not None:
        pixels = list(photograph(np.array(pixels, dtype=np.uint8), camera))
    packed = [None if image is None else encode_png(image) for image in pixels]
    decoded = pl.DataFrame(
        {
            "position": listed,
            "decoding_fault": pl.Series([image.fault for image in images], dtype=pl.String),
            "source_format": pl.Series([image.source_format for image in images], dtype=pl.String),
            "height_px": pl.Series([None if image is None else image.shape[0] for image in pixels], dtype=pl.Int64),
            "width_px": pl.Series([None if image is None else image.shape[1] for image in pixels], dtype=pl.Int64),
            "image_png": pl.Series(packed, dtype=pl.Binary),
            "sha256": pl.Series([None if png is None else hash_bytes(png) for png in packed], dtype=pl.String),
        }
    )
    taken_by = pl.col("camera") if camera is None else pl.lit(camera.name)
    return (
        placed.join(decoded, on="position", how="left", maintain_order="left")
        .with_columns(
            pl.coalesce("fault", "decoding_fault").alias("fault"),
            taken_by.alias("camera"),
            pl.lit(None if camera is None else camera.in_words(), pl.String).alias("simulation"),
        )
        .with_columns(pl.col("camera").str.starts_with(SIMULATED_PREFIX).alias("camera_simulated"))
    )
