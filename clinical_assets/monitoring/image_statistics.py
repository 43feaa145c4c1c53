"""What a batch of fundus photographs looks like in numbers: light, contrast, sharpness, colour, field of view.

Belongs here: statistics of pixels that a change of camera, lens or operator moves. Does not belong here: what a network
sees in an image, or the comparison of batches.
"""

import io

import numpy as np
import numpy.typing as npt
import polars as pl

Pixels = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
DARK_LUMA = 15 / 255
"""At or below this luma a pixel lies outside the field of view, the black surround of the retina."""

STATISTICS = {
    "brightness": "Mean luma in the field of view, 0 to 1",
    "contrast": "Standard deviation of luma in the field of view (RMS contrast), 0 to 0.5",
    "sharpness": "Variance of the Laplacian of luma in the field of view",
    "red_share": "Red of the sum of red, green and blue in the field of view, 0 to 1",
    "blue_share": "Blue of the sum of red, green and blue in the field of view, 0 to 1",
    "field_of_view_share": "Pixels in the field of view, of all pixels, 0 to 1",
}
"""The statistics of an image, and what each means."""

MOST_PIXELS_AT_ONCE = 4_000_000
MEASURED_SIDE_PX = 28


class ImageError(ValueError):
    """Images cannot be measured as they stand; the message names the fault, how many have it and the remedy."""


def measure_images(pixels: Pixels) -> pl.DataFrame:
    """The columns of `STATISTICS` for each image of one size; null where an image has no field of view to measure.

    Luma is that of ITU-R BT.601, contrast that of Peli (1990), sharpness that of Pech-Pacheco et al. (2000), taken
    where the four neighbours are in the field of view, so that the edge of the retina does not count as detail.

    Args:
        pixels: images x height x width x 3, red, green, blue, 0 to 255, each side at least 3 px.

    Raises:
        ImageError: If the array has another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or min(pixels.shape[1:3]) < 3:
        raise ImageError(
            f"{pixels.dtype} of shape {pixels.shape} is no batch of images; "
            "give uint8 of shape (images, height, width, 3), each side at least 3 px"
        )
    at_once = max(1, MOST_PIXELS_AT_ONCE // (pixels.shape[1] * pixels.shape[2]))
    blocks = [_measure(pixels[first : first + at_once]) for first in range(0, len(pixels), at_once)]
    values = np.concatenate([np.empty((0, len(STATISTICS))), *blocks])
    return pl.DataFrame(values, schema=dict.fromkeys(STATISTICS, pl.Float64)).fill_nan(None)


def add_image_statistics(dataset: pl.DataFrame) -> pl.DataFrame:
    """The rows with the columns of `STATISTICS`, measured of their `image_png`; as many rows, in the same order."""
    return dataset.hstack(measure_pngs(dataset["image_png"]))


def describe_image_statistics() -> dict[str, str]:
    """What each column means that `add_image_statistics` adds."""
    return STATISTICS


def measure_pngs(images: pl.Series, side_px: int = MEASURED_SIDE_PX) -> pl.DataFrame:
    """The columns of `STATISTICS` for each PNG or JPEG file of a Binary series, cropped to a square and resized.

    One size for all makes cameras of different resolution comparable: sharpness is that at `side_px`. Raises ImageError
    where a file is null or no image.
    """
    if missing := images.null_count():
        raise ImageError(f"{missing:,} of {len(images):,} images are null; leave out what is in quarantine")
    squares = [_read_square(content, side_px) for content in images]
    return measure_images(np.array(squares, dtype=np.uint8).reshape(-1, side_px, side_px, 3))


def _measure(pixels: Pixels) -> FloatArray:
    """Images x statistics, NaN where undefined."""
    colour = pixels / 255.0
    luma = colour @ np.asarray(LUMA_WEIGHTS)
    seen = luma > DARK_LUMA
    mean, spread = _moments(luma, seen)
    inner = luma[:, 1:-1, 1:-1]
    laplacian = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:] - 4 * inner
    surrounded = seen[:, :-2, 1:-1] & seen[:, 2:, 1:-1] & seen[:, 1:-1, :-2] & seen[:, 1:-1, 2:] & seen[:, 1:-1, 1:-1]
    _, detail = _moments(laplacian, surrounded)
    channels = (colour * seen[..., None]).sum(axis=(1, 2))
    shares = _divide(channels, channels.sum(axis=1, keepdims=True))
    return np.column_stack([mean, spread, detail**2, shares[:, 0], shares[:, 2], seen.mean(axis=(1, 2))])


def _moments(values: FloatArray, where: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each image over the pixels of a mask, NaN where it is empty."""
    count = where.sum(axis=(1, 2)).astype(np.float64)
    mean = _divide((values * where).sum(axis=(1, 2)), count)
    centred = np.where(where, values - mean[:, None, None], 0.0)
    return mean, np.sqrt(_divide((centred**2).sum(axis=(1, 2)), count))


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)


def _read_square(content: bytes, side_px: int) -> Pixels:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            return np.asarray(ImageOps.fit(image.convert("RGB"), (side_px, side_px)))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(
            f"an image of {len(content):,} bytes cannot be read ({error}); put it in quarantine"
        ) from error
