from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clinical_assets.archives.handheld_camera import HANDHELD, photograph
from clinical_assets.archives.retinamnist import RETINAMNIST, read_images

FORMER = replace(
    HANDHELD, lamp_k=HANDHELD.former_lamp_k, vignette=0.0, blur_sigma=1e-6, tone_exponent=1.0, jpeg_quality=100
)


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((3, 28, 28, 3), 128, dtype=np.uint8)


@pytest.fixture
def eyes() -> np.ndarray:
    """Four different images, smooth enough for JPEG."""
    ramp = np.linspace(40, 200, 28)
    base = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=-1)
    return np.stack([base + shift for shift in (0, 5, 10, 15)]).astype(np.uint8)


def test_a_photograph_depends_on_the_image_and_the_seed_and_not_on_its_batch(eyes: np.ndarray) -> None:
    together = photograph(eyes)
    apart = np.concatenate([photograph(eyes[3:]), photograph(eyes[:3])])
    assert np.array_equal(together[[3, 0, 1, 2]], apart)
    assert not np.array_equal(photograph(eyes, replace(HANDHELD, seed=1)), together)


def test_without_any_of_its_faults_the_camera_changes_next_to_nothing(eyes: np.ndarray) -> None:
    assert np.abs(photograph(eyes, FORMER).astype(int) - eyes.astype(int)).max() <= 8


def test_a_bluer_lamp_gives_more_blue_and_less_red(grey: np.ndarray) -> None:
    red, green, blue = photograph(grey, replace(FORMER, lamp_k=8000.0)).mean(axis=(0, 1, 2))
    assert red < green - 5 and blue > green + 5


def test_the_vignette_darkens_the_corners_and_not_the_centre(grey: np.ndarray) -> None:
    taken = photograph(grey, replace(FORMER, vignette=0.5)).mean(axis=3)
    assert (taken[:, 14, 14] > 120).all()
    assert (taken[:, 0, 0] < 115).all()


def test_blur_takes_detail_away_and_keeps_the_light() -> None:
    points = np.full((1, 28, 28, 3), 60, dtype=np.uint8)
    points[:, ::4, ::4] = 250
    taken = photograph(points, replace(FORMER, blur_sigma=0.04))
    assert taken.std() < 0.5 * points.std()
    light = [((image / 255.0) ** 2.2).mean() for image in (taken, points)]
    assert light[0] == pytest.approx(light[1], rel=0.05)


def test_a_tone_exponent_below_one_lightens(grey: np.ndarray) -> None:
    assert photograph(grey, replace(FORMER, tone_exponent=0.7)).mean() > grey.mean() + 10


def test_strong_compression_loses_detail() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 3), dtype=np.uint8)
    error = [
        np.abs(photograph(noise, replace(FORMER, jpeg_quality=quality)).astype(int) - noise).mean()
        for quality in (90, 25)
    ]
    assert error[1] > error[0]


def test_it_says_of_itself_that_it_is_simulated_and_how() -> None:
    assert HANDHELD.name == "simulated-handheld"
    assert all(word in HANDHELD.in_words() for word in ("simulated-handheld", "8000 K", "JPEG quality 25", "20250701"))


def test_no_image_is_no_photograph() -> None:
    assert photograph(np.empty((0, 28, 28, 3), dtype=np.uint8)).shape == (0, 28, 28, 3)


def test_real_eyes_stay_eyes_of_another_colour(raw_archives: Path) -> None:
    path = RETINAMNIST.find(raw_archives)
    assert path is not None
    eyes = read_images(RETINAMNIST.open(path)).pixels[:60]
    taken = photograph(eyes)
    assert taken.shape == eyes.shape and taken.dtype == np.uint8
    before, after = (images.mean(axis=(1, 2)) for images in (eyes, taken))
    assert (after[:, 2] / after[:, 0] > before[:, 2] / before[:, 0]).mean() > 0.9
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(eyes, taken, strict=True)]
    assert min(correlation) > 0.8
