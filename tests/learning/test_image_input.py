import io

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.image_input import VIEWS, read_squares, turn


def picture(width: int, height: int, form: str = "PNG") -> bytes:
    """Red in the left half, blue in the right."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 2] = 200
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, format=form)
    return packed.getvalue()


def test_images_of_any_size_and_format_become_squares_of_one_size() -> None:
    images = pl.Series("image_png", [picture(28, 28), picture(90, 40), picture(31, 200, "JPEG")])
    squares = read_squares(images, 16)
    assert squares.shape == (3, 16, 16, 3)
    assert squares.dtype == np.uint8
    red, blue = squares[:, :, 1, 0], squares[:, :, -2, 2]
    assert (np.abs(red.astype(int) - 200) < 20).all()
    assert (np.abs(blue.astype(int) - 200) < 20).all()


def test_of_a_wide_image_the_middle_is_kept() -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255
    packed = io.BytesIO()
    Image.fromarray(wide).save(packed, format="PNG")
    assert (read_squares(pl.Series("image_png", [packed.getvalue()]), 20) == 255).all()


def test_no_images_are_no_squares() -> None:
    assert read_squares(pl.Series("image_png", [], dtype=pl.Binary), 16).shape == (0, 16, 16, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pl.Series("image_png", [picture(28, 28), None]), "image_png: 1 of 2 images are null"),
        (pl.Series("image_png", [picture(28, 28), b"no image"]), "image_png: an image of 8 bytes cannot be read"),
        (pl.Series("image_png", [picture(28, 28)[:60]]), "image_png: an image of 60 bytes cannot be read"),
        (pl.Series("image_png", ["path.png"]), "image_png is of type String"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_by_column_and_fault(images: pl.Series, message: str) -> None:
    with pytest.raises(LearningError, match=message):
        read_squares(images, 16)


def test_the_eight_views_are_all_different_and_the_first_is_the_image_itself() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    views = [turn(image, view) for view in range(VIEWS)]
    assert torch.equal(views[0], image)
    assert torch.equal(views[1], image.flip(3))
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
