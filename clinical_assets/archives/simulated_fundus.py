"""Simulated fundus photographs whose lesions grow in number with the grade, for machines without the real archive.

Belongs here: how the photographs are drawn, and what is true of them. Does not belong here: reading them
(retinamnist.py, fundus_folder.py), or the simulated second camera (handheld_camera.py), which the replay adds to any
RetinaMNIST archive. A figure reached on these images says that the machinery works, and nothing about eyes.
"""

import io
import os
import shutil
import tempfile
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.archives.archive import SIMULATED_MARKER, KnownDrift
from clinical_assets.archives.fundus_folder import COLUMNS, LISTING, encode_png
from clinical_assets.archives.handheld_camera import SIMULATED_PREFIX
from clinical_assets.archives.retinamnist import DATA_FILE, SIDE_PX, SIMULATED_ARRAY
from clinical_assets.protocol import Verdict

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

SPLIT_SIZES = {"train": 1_620, "val": 180, "test": 600}  # the published shares; the test split starts in month 19
IMAGES_BEFORE_SHIFT = 1_500  # months 1 to 15 of the 24 that the replay calendar spreads all images over

SIMULATED_DRIFT = (
    KnownDrift(
        month=date(2025, 4, 1),
        verdict=Verdict.POPULATION_SHIFT,
        what="patients are older: lenses are yellow and hazy, and retinopathy is further advanced; how many lesions "
        "belong to a grade does not change",
    ),
    KnownDrift(
        month=date(2025, 7, 1),
        verdict=Verdict.DATA_FAULT,
        what="every photograph comes from the camera simulated-handheld, a device never seen in training, which the "
        "replay puts in place of the former one; eyes and grades do not change",
    ),
)
"""Apart from these changes, what is drawn is stationary; the second is made by the cohort function, not in the file."""

GRADE_SHARE = (0.45, 0.12, 0.19, 0.18, 0.06)  # RetinaMNIST, train and val, rounded
GRADE_TILT_AFTER_SHIFT = 0.35  # log of the weight that each grade gains
LENS_OPACITY = 0.15  # mean, a share of 1
LENS_OPACITY_AFTER_SHIFT = 0.45
HAEMORRHAGES = (0.3, 2.5, 7.0, 15.0, 22.0)  # expected number by grade
EXUDATES = (0.0, 0.3, 3.0, 7.0, 13.0)
MOST_LESIONS = 48
LESION_SIGMA_PX = (0.5, 1.0)  # at 28 px
LESION_DEPTH = (0.15, 0.45)  # share of the light that a lesion takes away or adds
DISC_RADIUS = 0.94  # of half the width
NOISE = 0.012

FUNDUS_COLOUR = (0.62, 0.36, 0.20)
HAEMORRHAGE_COLOUR = (-0.6, -0.9, -0.5)
EXUDATE_COLOUR = (0.5, 0.8, 0.3)
OPTIC_DISC_COLOUR = (0.30, 0.35, 0.25)
MACULA_COLOUR = (-0.14, -0.12, -0.06)
YELLOW_LENS = (0.92, 0.88, 0.45)  # light that a fully opaque lens lets through
HAZE_COLOUR = (0.20, 0.19, 0.13)

FOLDER_PATIENTS = 60
FOLDER_SIDE_PX = 64
FOLDER_CAMERAS = (SIMULATED_PREFIX + "tabletop", SIMULATED_PREFIX + "portable")


def write_simulated_archive(directory: Path, seed: int) -> Path:
    """Write a simulated archive of 2,400 images into `directory`; returns the file, whole or not there at all.

    Equal seeds give equal bytes. The file has the publisher's arrays, in time order, and one more that says that it is
    simulated.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / DATA_FILE
    grade, pixels = draw_images(seed)
    arrays = {SIMULATED_ARRAY: np.array([seed])}
    ends = np.cumsum(list(SPLIT_SIZES.values()))
    for split, end in zip(SPLIT_SIZES, ends, strict=True):
        rows = slice(end - SPLIT_SIZES[split], end)
        arrays |= {f"{split}_images": pixels[rows], f"{split}_labels": grade[rows, None].astype(np.uint8)}
    descriptor, draft = tempfile.mkstemp(dir=directory, prefix=f".{DATA_FILE}.")
    try:
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as packed:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, array, allow_pickle=False)
                # A fixed date, so that the file depends on the seed alone.
                entry = zipfile.ZipInfo(f"{name}.npy", date_time=(2021, 10, 27, 0, 0, 0))
                packed.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=4)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
    return path


def write_simulated_folder(directory: Path, seed: int) -> Path:
    """Write a simulated clinic's folder of 120 PNG files into `directory`: both eyes of 60 patients, two cameras.

    Returns the folder, whole or not there at all; one that is there already is replaced.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "fundus_folder"
    rng = np.random.default_rng(seed)
    n = 2 * FOLDER_PATIENTS
    grade = _draw_grades(rng, np.zeros(n, dtype=bool))
    pixels = _draw_photographs(rng, grade, np.full(n, LENS_OPACITY), FOLDER_SIDE_PX)
    image = pl.int_range(n, eager=True)
    listing = pl.DataFrame(
        {
            "file": pl.select(pl.format("photographs/{}.png", image)).to_series(),
            "grade": grade,
            "camera": np.asarray(FOLDER_CAMERAS)[rng.integers(len(FOLDER_CAMERAS), size=n)],
            "patient": pl.select(pl.format("simulated patient {}", image // 2)).to_series(),
            "eye": np.where(np.arange(n) % 2 == 0, "left", "right"),
        }
    ).select(COLUMNS)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fundus_folder.") as draft_folder:
        draft = Path(draft_folder) / path.name
        (draft / "photographs").mkdir(parents=True)
        for file, photograph in zip(listing["file"], pixels, strict=True):
            (draft / file).write_bytes(encode_png(photograph))
        listing.write_csv(draft / LISTING)
        (draft / SIMULATED_MARKER).write_text(
            f"Simulated photographs, seed {seed}. No patient is behind any of them.\n"
        )
        if path.exists():
            shutil.rmtree(path)
        draft.replace(path)
    return path


def draw_images(seed: int) -> tuple[IntArray, Pixels]:
    """2,400 simulated grades and photographs (28 x 28 x 3, 0 to 255), in time order, with the shift at image 1,500."""
    rng = np.random.default_rng(seed)
    shifted = np.arange(sum(SPLIT_SIZES.values())) >= IMAGES_BEFORE_SHIFT
    grade = _draw_grades(rng, shifted)
    opacity = np.where(shifted, LENS_OPACITY_AFTER_SHIFT, LENS_OPACITY)
    return grade, _draw_photographs(rng, grade, opacity, SIDE_PX)


def _draw_grades(rng: np.random.Generator, shifted: npt.NDArray[np.bool_]) -> IntArray:
    share = np.asarray(GRADE_SHARE)
    tilted = share * np.exp(GRADE_TILT_AFTER_SHIFT * np.arange(len(share)))
    cumulative = np.where(shifted[:, None], tilted / tilted.sum(), share / share.sum()).cumsum(axis=1)
    return (rng.uniform(size=(len(shifted), 1)) > cumulative[:, :-1]).sum(axis=1)


def _draw_photographs(rng: np.random.Generator, grade: IntArray, mean_opacity: FloatArray, side_px: int) -> Pixels:
    """Photographs of eyes with these grades, through lenses of these mean opacities."""
    n = len(grade)
    axis = np.linspace(-1.0, 1.0, side_px)
    radius = np.hypot(axis[:, None], axis[None, :])
    pigment = rng.normal(1.0, 0.12, (n, 1, 1, 1)).clip(0.6, 1.4)
    light = np.asarray(FUNDUS_COLOUR) * pigment * (1 - 0.35 * radius**2)[None, :, :, None]

    side = rng.choice([-1.0, 1.0], n)
    height = rng.normal(0.0, 0.06, n)
    disc = _blobs(axis, 0.50 * side[:, None], height[:, None], np.full((n, 1), 0.13), np.ones((n, 1)))
    macula = _blobs(axis, -0.12 * side[:, None], height[:, None] + 0.05, np.full((n, 1), 0.17), np.ones((n, 1)))
    light = light + disc[..., None] * np.asarray(OPTIC_DISC_COLOUR) + macula[..., None] * np.asarray(MACULA_COLOUR)

    for expected, colour in ((HAEMORRHAGES, HAEMORRHAGE_COLOUR), (EXUDATES, EXUDATE_COLOUR)):
        lesions = _draw_lesions(rng, rng.poisson(np.asarray(expected)[grade]), axis)
        light = light + lesions[..., None] * np.asarray(colour) * FUNDUS_COLOUR

    opacity = (mean_opacity + rng.normal(0.0, 0.08, n)).clip(0.0, 0.8)[:, None, None, None]
    light = light * (1 - opacity * (1 - np.asarray(YELLOW_LENS))) * (1 - 0.4 * opacity)
    light = light + opacity * np.asarray(HAZE_COLOUR)
    light = (light + rng.normal(0.0, NOISE, light.shape)) * (radius <= DISC_RADIUS)[None, :, :, None]
    return np.rint(255 * light.clip(0.0, 1.0)).astype(np.uint8)


def _draw_lesions(rng: np.random.Generator, count: IntArray, axis: FloatArray) -> FloatArray:
    """What so many lesions change at each pixel, images x height x width, in shares of the light."""
    shape = (len(count), MOST_LESIONS)
    distance, angle = 0.85 * np.sqrt(rng.uniform(size=shape)), rng.uniform(0.0, 2 * np.pi, shape)
    sigma = rng.uniform(*LESION_SIGMA_PX, shape) * 2 / SIDE_PX
    depth = rng.uniform(*LESION_DEPTH, shape) * (np.arange(MOST_LESIONS) < count[:, None])
    return _blobs(axis, distance * np.cos(angle), distance * np.sin(angle), sigma, depth)


def _blobs(axis: FloatArray, x: FloatArray, y: FloatArray, sigma: FloatArray, height: FloatArray) -> FloatArray:
    """The sum of Gaussian spots (images x spots) at each pixel; lengths in half widths of the image."""
    along_y, along_x = (np.exp(-0.5 * ((axis - centre[..., None]) / sigma[..., None]) ** 2) for centre in (y, x))
    return np.einsum("nk,nky,nkx->nyx", height, along_y, along_x, optimize=True)
