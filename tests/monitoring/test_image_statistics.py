import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from clinical_assets.archives.handheld_camera import photograph
from clinical_assets.archives.retinamnist import RETINAMNIST, read_images
from clinical_assets.monitoring.image_statistics import STATISTICS, ImageError, measure_images, measure_pngs

MEASURES = [*STATISTICS]


def plain(red: int, green: int, blue: int) -> np.ndarray:
    return np.broadcast_to(np.array([red, green, blue], dtype=np.uint8), (1, 28, 28, 3)).copy()


def png(pixels: np.ndarray) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, format="PNG")
    return packed.getvalue()


def test_a_plain_image_has_its_own_brightness_and_colour_and_no_contrast() -> None:
    (found,) = measure_images(plain(200, 100, 50)).rows(named=True)
    assert found["brightness"] == pytest.approx((0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255)
    assert (found["red_share"], found["blue_share"]) == pytest.approx((200 / 350, 50 / 350))
    assert (found["contrast"], found["sharpness"]) == pytest.approx((0, 0), abs=1e-12)
    assert found["field_of_view_share"] == 1.0


def test_contrast_is_the_standard_deviation_of_luma() -> None:
    image = plain(100, 100, 100)
    image[:, :14] = 200
    assert measure_images(image)["contrast"][0] == pytest.approx(50 / 255)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = plain(100, 100, 100)
    image[0, 14, 14] = 150
    step = 50 / 255
    values = np.zeros(26 * 26)
    values[:5] = [-4 * step, step, step, step, step]
    assert measure_images(image)["sharpness"][0] == pytest.approx(values.var())


def test_the_black_surround_and_its_edge_count_for_the_field_of_view_alone() -> None:
    retina = plain(180, 90, 60)
    retina[:, :, 14:] = 0
    (found,) = measure_images(retina).rows(named=True)
    whole = measure_images(plain(180, 90, 60)).row(0, named=True)
    assert found["field_of_view_share"] == 0.5
    for name in ("brightness", "contrast", "sharpness", "red_share", "blue_share"):
        assert found[name] == pytest.approx(whole[name], abs=1e-12)


def test_what_a_black_image_cannot_show_is_null_and_never_a_number() -> None:
    (found,) = measure_images(plain(0, 0, 0)).rows(named=True)
    assert found.pop("field_of_view_share") == 0.0
    assert set(found.values()) == {None}


def test_a_batch_is_measured_as_its_images_are_alone() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), dtype=np.uint8)
    alone = pl.concat([measure_images(batch[place : place + 1]) for place in range(5)])
    assert np.allclose(measure_images(batch).to_numpy(), alone.to_numpy(), atol=1e-12)


def test_a_large_batch_is_measured_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), dtype=np.uint8)
    whole = measure_images(batch)
    monkeypatch.setattr("clinical_assets.monitoring.image_statistics.MOST_PIXELS_AT_ONCE", 2 * 30 * 40)
    assert np.allclose(measure_images(batch).to_numpy(), whole.to_numpy(), atol=1e-12)


def test_no_image_gives_no_row() -> None:
    empty = measure_images(np.empty((0, 28, 28, 3), dtype=np.uint8))
    assert empty.shape == (0, len(MEASURES)) and empty.columns == MEASURES
    assert measure_pngs(pl.Series([], dtype=pl.Binary)).shape == (0, len(MEASURES))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((28, 28, 3), np.uint8),
        np.zeros((1, 28, 28, 4), np.uint8),
        np.zeros((1, 28, 2, 3), np.uint8),
        np.zeros((1, 28, 28, 3)),
    ],
)
def test_what_is_no_batch_of_images_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="no batch of images; give uint8"):
        measure_images(pixels)


def test_files_of_one_size_are_measured_as_their_pixels_and_larger_ones_are_resized() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    assert measure_pngs(pl.Series([png(image) for image in batch])).equals(measure_images(batch))
    large = np.broadcast_to(np.array([200, 100, 50], np.uint8), (300, 450, 3)).copy()
    large[:, :75] = large[:, 375:] = 0  # beside the square that is kept
    (found,) = measure_pngs(pl.Series([png(large)])).rows(named=True)
    assert found["field_of_view_share"] == pytest.approx(1.0, abs=0.08)
    assert found["red_share"] == pytest.approx(200 / 350, abs=0.01)


def test_a_file_that_is_none_or_no_image_is_refused() -> None:
    with pytest.raises(ImageError, match="1 of 2 images are null"):
        measure_pngs(pl.Series([png(plain(1, 2, 3)[0]), None]))
    with pytest.raises(ImageError, match="8 bytes cannot be read"):
        measure_pngs(pl.Series([b"no image"]))


def test_the_simulated_camera_is_seen_in_the_statistics_of_real_eyes(raw_archives: Path) -> None:
    path = RETINAMNIST.find(raw_archives)
    assert path is not None
    eyes = read_images(RETINAMNIST.open(path)).pixels[:200]
    former, handheld = measure_images(eyes), measure_images(photograph(eyes))
    assert former.null_count().sum_horizontal().item() == 0
    assert (handheld["sharpness"] < former["sharpness"]).sum() > 180
    assert (handheld["blue_share"] > former["blue_share"]).sum() > 180
    assert former["field_of_view_share"].is_between(0.3, 1.0).all()
