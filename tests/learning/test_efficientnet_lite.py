from pathlib import Path

import pytest
import torch
from torch import Tensor

from clinical_assets.learning import efficientnet_lite as lite0
from clinical_assets.learning.estimator import LearningError

PUBLISHED_PARAMETERS = 4_652_008
CLASSIFIER_PARAMETERS = 1_280 * 1_000 + 1_000


@pytest.fixture(scope="module")
def pretrained() -> dict[str, Tensor]:
    return lite0.read_pretrained_weights()


def make_published(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of the published file, one 3 x 3 or 5 x 5 kernel a layer."""
    generator = torch.Generator().manual_seed(seed)
    published: dict[str, Tensor] = {}
    for each in lite0.convolutions():
        published[f"{each.published}.weight"] = torch.randn(each.shape, generator=generator) * 0.1
        for part in ("weight", "bias", "running_mean", "running_var"):
            name = f"{each.published_normalisation}.{part}"
            published[name] = torch.rand(each.shape[0], generator=generator) + 0.5
    return published


def test_the_published_file_has_exactly_the_layers_of_lite0(pretrained: dict[str, Tensor]) -> None:
    assert {name: tuple(tensor.shape) for name, tensor in pretrained.items()} == lite0.weight_shapes(lite0.PARTS)
    # Folding leaves one number of the two that normalisation learns for a channel.
    learnt = sum(tensor.numel() * (2 if name.endswith(".bias") else 1) for name, tensor in pretrained.items())
    assert learnt + CLASSIFIER_PARAMETERS == PUBLISHED_PARAMETERS


def test_a_folded_convolution_is_the_convolution_followed_by_its_normalisation() -> None:
    published = make_published()
    folded = lite0.fold_normalisation(published)
    pixels = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(1)) * 255
    normalise = torch.nn.BatchNorm2d(lite0.STEM_CHANNELS, eps=1e-3).eval()
    normalise.load_state_dict(
        {part: published[f"_bn0.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}, strict=False
    )
    padded = torch.nn.functional.pad((pixels - 127) / 128, (0, 1, 0, 1))
    with torch.no_grad():
        apart = normalise(torch.nn.functional.conv2d(padded, published["_conv_stem.weight"], stride=2)).clamp(0, 6)
    assert torch.allclose(lite0.enter(folded, pixels), apart, atol=1e-4)


@pytest.mark.parametrize(("side", "expected"), [(32, 1), (112, 4), (45, 2)])
def test_any_side_is_halved_five_times_rounding_up(pretrained: dict[str, Tensor], side: int, expected: int) -> None:
    with torch.no_grad():
        x = lite0.enter(pretrained, torch.full((1, 3, side, side), 127.0))
        for number in range(len(lite0.BLOCKS)):
            x = lite0.pass_block(pretrained, number, x)
        head = lite0.pass_head(pretrained, x)
    assert head.shape == (1, 1_280, expected, expected)
    assert head.min() >= 0
    assert head.max() <= 6


def test_nine_blocks_add_their_input_to_their_output() -> None:
    assert sum(block.has_shortcut for block in lite0.BLOCKS) == 9


@pytest.mark.parametrize("change", ["missing", "unknown", "another shape"])
def test_weights_of_another_network_are_refused(change: str) -> None:
    published = make_published()
    if change == "missing":
        del published["_blocks.3._project_conv.weight"]
    elif change == "unknown":
        published["_blocks.16._project_conv.weight"] = torch.zeros(1)
    else:
        published["_conv_head.weight"] = torch.zeros(1280, 320, 3, 3)
    with pytest.raises(
        LearningError, match=r"not those of EfficientNet-Lite0: 1 tensors .* such as _(blocks|conv_head)"
    ):
        lite0.fold_normalisation(published)


def test_the_classifier_of_imagenet_is_left_out() -> None:
    with_classifier = make_published() | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    assert lite0.fold_normalisation(with_classifier).keys() == lite0.fold_normalisation(make_published()).keys()


def test_a_weights_file_that_is_not_the_known_one_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "changed.pth"
    changed.write_bytes(b"anything")
    monkeypatch.setattr(lite0, "WEIGHTS_FILE", str(changed))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(LearningError, match="is known to this code; install the package again"):
        lite0.read_pretrained_weights()


def test_weights_that_are_not_installed_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "WEIGHTS_PACKAGE", "no-such-distribution")
    with pytest.raises(LearningError, match="install no-such-distribution"):
        lite0.read_pretrained_weights()
