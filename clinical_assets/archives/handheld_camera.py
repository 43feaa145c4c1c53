"""A second fundus camera, simulated: what `simulated-handheld` does to a photograph that another camera took.

Belongs here: the optics, the electronics and their settings. Does not belong here: from when on the camera is in use.
"""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

SIMULATED_PREFIX = "simulated-"
"""Every camera that does not exist is named with it."""

DISPLAY_GAMMA = 2.2
SECOND_RADIATION_CONSTANT_M_K = 0.014387769
CHANNEL_WAVELENGTH_NM = (600.0, 540.0, 450.0)  # red, green, blue
KERNEL_RADIUS_SIGMAS = 3.0
JITTERED = 6  # lamp, vignette, blur, tone, and the optical centre (twice)


@dataclass(frozen=True, slots=True)
class HandheldCamera:
    """The settings of a simulated camera; each photograph departs from them by up to `jitter` of their value.

    `vignette` is the share of light lost in the corners, `blur_sigma` a share of the image's width, `tone_exponent` the
    power put on the displayed intensity: below 1 lightens the shadows.
    """

    name: str
    seed: int
    lamp_k: float
    former_lamp_k: float
    vignette: float
    off_centre: float
    blur_sigma: float
    tone_exponent: float
    jpeg_quality: int
    jitter: float

    def in_words(self) -> str:
        """What this camera does, as it is kept beside every image it made."""
        return (
            f"{self.name}: lamp {self.lamp_k:g} K instead of {self.former_lamp_k:g} K, vignette {self.vignette:g}, "
            f"blur {self.blur_sigma:g} of the width, tone exponent {self.tone_exponent:g}, JPEG quality "
            f"{self.jpeg_quality}, each within {self.jitter:.0%}; seed {self.seed}"
        )


HANDHELD = HandheldCamera(
    name=SIMULATED_PREFIX + "handheld",
    seed=20250701,
    lamp_k=8000.0,
    former_lamp_k=4500.0,
    vignette=0.4,
    off_centre=0.1,
    blur_sigma=0.03,
    tone_exponent=0.75,
    jpeg_quality=25,
    jitter=0.25,
)


def photograph(pixels: Pixels, camera: HandheldCamera = HANDHELD) -> Pixels:
    """The same eyes as the camera would have taken them.

    In linear light: the lamp's colour (Planck's law at 600, 540 and 450 nm, green held), vignetting that grows with the
    square of the distance from an optical centre that is never quite the image's, and a Gaussian blur; then the tone
    curve and JPEG. Chance is drawn from the image and the seed alone, so a photograph does not depend on its batch.

    Args:
        pixels: images x height x width x 3, red, green, blue, 0 to 255.
        camera: the settings.

    Returns:
        as many images of the same size.
    """
    if not len(pixels):
        return pixels.copy()
    chance = _chance_of_each(pixels, camera.seed)
    scale = 1 + camera.jitter * chance
    light = (pixels / 255.0) ** DISPLAY_GAMMA
    light *= _lamp_gains(camera.former_lamp_k + (camera.lamp_k - camera.former_lamp_k) * scale[:, 0], camera)
    light *= _vignette(pixels.shape[1:3], camera.vignette * scale[:, 1], camera.off_centre * chance[:, 4:6])
    light = _blur(light, camera.blur_sigma * pixels.shape[2] * scale[:, 2])
    tone = 1 + (camera.tone_exponent - 1) * scale[:, 3]
    shown = np.rint(255 * light.clip(0.0, 1.0) ** (tone / DISPLAY_GAMMA)[:, None, None, None]).astype(np.uint8)
    return np.stack([_compress(image, camera.jpeg_quality) for image in shown])


def _chance_of_each(pixels: Pixels, seed: int) -> FloatArray:
    """Numbers between -1 and 1, images x JITTERED, that follow from the image's bytes and the seed."""
    digests = b"".join(hashlib.sha256(seed.to_bytes(8, "big") + image.tobytes()).digest() for image in pixels)
    return np.frombuffer(digests, dtype=">u4").reshape(len(pixels), -1)[:, :JITTERED] / 2**31 - 1


def _lamp_gains(lamp_k: FloatArray, camera: HandheldCamera) -> FloatArray:
    wavelength_m = np.asarray(CHANNEL_WAVELENGTH_NM) * 1e-9

    def radiance(temperature_k: FloatArray) -> FloatArray:
        return 1 / np.expm1(SECOND_RADIATION_CONSTANT_M_K / (wavelength_m * temperature_k[:, None]))

    gains = radiance(lamp_k) / radiance(np.array([camera.former_lamp_k]))
    return (gains / gains[:, 1:2])[:, None, None, :]


def _vignette(size: tuple[int, ...], corner_loss: FloatArray, centre: FloatArray) -> FloatArray:
    y, x = (np.linspace(-1.0, 1.0, side) for side in size)
    square = (y[None, :, None] - centre[:, :1, None]) ** 2 + (x[None, None, :] - centre[:, 1:, None]) ** 2
    return (1 - corner_loss[:, None, None] * square / 2).clip(0.0, 1.0)[..., None]


def _blur(light: FloatArray, sigma_px: FloatArray) -> FloatArray:
    """Separable Gaussian blur, one width an image, edges repeated."""
    radius = int(np.ceil(KERNEL_RADIUS_SIGMAS * sigma_px.max()))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px[:, None]) ** 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    for axis in (1, 2):
        margins = [(radius, radius) if along == axis else (0, 0) for along in range(light.ndim)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(light, margins, mode="edge"), 2 * radius + 1, axis)
        light = np.einsum("nyxck,nk->nyxc", windows, kernel)
    return light


def _compress(image: Pixels, quality: int) -> Pixels:
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(image).save(packed, format="JPEG", quality=quality)
    return np.asarray(Image.open(packed))
