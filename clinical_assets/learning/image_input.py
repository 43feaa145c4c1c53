"""How image files of any size become the squares of pixels that a network sees, and how a square is turned about.

Belongs here: reading, cropping, resizing, mirroring. Does not belong here: which images are fit for use (the archive's
quarantine says so), and what a network makes of them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.learning.estimator import LearningError

if TYPE_CHECKING:
    from torch import Tensor

VIEWS = 8


def read_squares(images: pl.Series, side_px: int) -> npt.NDArray[np.uint8]:
    """The middle square of every PNG or JPEG file of a Binary series, resized: images x side x side x 3, 0 to 255.

    Raises LearningError, with counts and the first fault, where a file is null or no image.
    """
    if images.dtype != pl.Binary:
        raise LearningError(f"column {images.name} is of type {images.dtype}; give image files as Binary")
    if missing := images.null_count():
        raise LearningError(
            f"column {images.name}: {missing:,} of {len(images):,} images are null; leave out what is in quarantine"
        )
    squares = [_read_square(content, side_px, images.name) for content in images]
    return np.array(squares, dtype=np.uint8).reshape(-1, side_px, side_px, 3)


def turn(pixels: Tensor, view: int) -> Tensor:
    """One of the eight ways to mirror and turn squares (images x 3 x side x side) about; 0 changes nothing.

    1 mirrors left and right, 2 top and bottom, 4 rows and columns; the other numbers are sums of these.
    """
    if view & 1:
        pixels = pixels.flip(3)
    if view & 2:
        pixels = pixels.flip(2)
    return pixels.transpose(2, 3) if view & 4 else pixels


def _read_square(content: bytes, side_px: int, column: str) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            return np.asarray(ImageOps.fit(image.convert("RGB"), (side_px, side_px), Image.Resampling.BICUBIC))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise LearningError(
            f"column {column}: an image of {len(content):,} bytes cannot be read ({error}); put it in quarantine"
        ) from error
