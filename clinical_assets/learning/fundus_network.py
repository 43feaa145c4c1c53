"""Grades of diabetic retinopathy from fundus photographs, by a pretrained network: the estimator of images.

Belongs here: how such a model is fitted, applied, and written without pickle. Does not belong here: the layers of the
pretrained network, how files become pixels, and how grades are counted out of answers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.learning import efficientnet_lite as lite0
from clinical_assets.learning import ordinal
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.image_input import VIEWS, read_squares, turn
from clinical_assets.protocol import ModelProtocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Weights = dict[str, Tensor]

FloatArray = npt.NDArray[np.float64]

IMAGE = "image_png"
GRADES = 5  # none, mild, moderate, severe, proliferative (Wilkinson 2003)

WEIGHTS_FILE = "fundus_network.safetensors"
DESCRIPTION_FILE = "fundus_network.json"
LAYOUT = 1

TUNED_FROM = 12
"""The first block that is fine-tuned; what the blocks before it see in an image is computed once for each view."""
TUNED = (*(f"block_{number}" for number in range(TUNED_FROM, len(lite0.BLOCKS))), "head")
DESCRIBED = (2, 4, 7, 10, 15)
"""The blocks whose feature maps, with the head's, describe an image: the last of each resolution, and the last."""

IMAGES_AT_ONCE = 16  # what these take of memory stays in reach of the processor: 64 take twice as long
BATCH = 32
WARM_UP_SHARE = 0.2
WEIGHT_DECAY = 0.05
DROPPED_SHARE = 0.2
READOUT_SPEED = 5.0
READOUT_STEPS = 60
REPRESENTED = 8


@dataclass(frozen=True, slots=True)
class FundusSettings:
    """The `estimator_settings` of a protocol; each has a default.

    An image is seen at `input_side_px`. `networks` copies of the last blocks are fine-tuned for `epochs` passes, with
    `learning_rate` at the peak of its rise and fall, each time on one of the first `training_views` of the eight
    views of an image; 0 leaves the pretrained network as it is. Beside them stands a regression on `components`
    principal components of what the pretrained network sees, with a penalty of `ridge`. Predictions are means over the
    first `prediction_views` views.
    """

    networks: int = 1
    epochs: int = 6
    learning_rate: float = 2e-4
    training_views: int = 4
    prediction_views: int = 2
    components: int = 80
    ridge: float = 0.3
    input_side_px: int = 112
    seed: int = 0

    @classmethod
    def of(cls, protocol: ModelProtocol) -> Self:
        """The settings a protocol gives; raises LearningError naming one that is unknown or out of its range."""
        given: dict[str, Any] = dict(protocol.estimator_settings)
        known = {field.name: field.type for field in fields(cls)}
        if unknown := sorted(given.keys() - known.keys()):
            raise LearningError(f"estimator_settings: {unknown} are unknown; FundusNetwork knows {sorted(known)}")
        for name, value in given.items():
            whole = known[name] == "int"
            low, high = RANGES[name]
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise LearningError(f"estimator_settings: {name} is {value!r}; give a {'whole ' * whole}number")
            if not low <= value <= high:
                raise LearningError(f"estimator_settings: {name} is {value}; give a number from {low:g} to {high:g}")
        settings = cls(**given)
        if settings.prediction_views > settings.training_views:
            raise LearningError(
                f"estimator_settings: prediction_views is {settings.prediction_views} and training_views "
                f"{settings.training_views}; predict on no more views than are trained on"
            )
        return settings


RANGES: dict[str, tuple[float, float]] = {
    "networks": (0, 20),
    "epochs": (1, 1000),
    "learning_rate": (1e-7, 1.0),
    "training_views": (1, VIEWS),
    "prediction_views": (1, VIEWS),
    "components": (REPRESENTED, 1000),
    "ridge": (1e-6, 1e6),
    "input_side_px": (32, 1024),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True, slots=True)
class Readout:
    """A cumulative logistic regression on principal components of image descriptions; arrays are float64.

    `centre` and `spread` standardise the p descriptors, `directions` (p x components) projects them, `slope`
    (components x 4) and `intercept` (4) give the log odds of grade 1 or more to 4.
    """

    centre: FloatArray
    spread: FloatArray
    directions: FloatArray
    slope: FloatArray
    intercept: FloatArray

    def project(self, description: FloatArray) -> FloatArray:
        """The principal components of descriptions (images x p), in units of the total standard deviation."""
        return (description - self.centre) / self.spread @ self.directions / np.sqrt(len(self.centre))

    def exceedance(self, description: FloatArray) -> FloatArray:
        """The probability of grade 1 or more to 4, images x 4."""
        return 1 / (1 + np.exp(-(self.project(description) @ self.slope + self.intercept)))


@dataclass(frozen=True, slots=True)
class FundusNetwork:
    """EfficientNet-Lite0 (Tan & Le 2019) with ordinal heads: as pretrained on ImageNet, and with its end fine-tuned.

    Every head answers "is it at least grade 1, 2, 3, 4?" and is fitted by the sum of the four logistic losses (Frank &
    Hall 2001; Niu 2016). The fine-tuned networks and a regression on the pretrained network's feature maps are pooled
    geometrically, each with the same weight, and a temperature fitted on the calibrate split makes the probabilities
    right (Guo 2017). The same rows in the same order give the same model on a CPU with the same number of threads; with
    CUDA, a GPU is used and may differ in the last digits.
    """

    settings: FundusSettings
    pretrained: Weights
    networks: tuple[Weights, ...]
    readout: Readout
    temperature: float = 1.0

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions without which the saved files cannot be read."""
        return ("torch", "safetensors", "pillow")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The one column `predict` reads: the image, as a PNG or JPEG file of any size."""
        return (IMAGE,)

    @classmethod
    def fit(cls, training_set: pl.DataFrame, protocol: ModelProtocol) -> Self:
        """Learn from the rows whose `split` is `train`, and calibrate on those whose `split` is `calibrate`.

        Raises LearningError on an unknown setting, on other features than `image_png`, on an image that cannot be read,
        on a train split without one of the grades or with fewer rows than components, and on a calibrate split with
        fewer than two grades.
        """
        settings = FundusSettings.of(protocol)
        if (names := protocol.feature_columns(training_set.columns)) != [IMAGE]:
            raise LearningError(
                f"the features are {names}; FundusNetwork reads {IMAGE} alone: list the others in not_features"
            )
        train, grade = _split(training_set, protocol, "train", grades=GRADES)
        if train.height <= settings.components:
            raise LearningError(
                f"split train has {train.height:,} rows for {settings.components} components; use more months, or "
                "fewer components"
            )
        pretrained = lite0.read_pretrained_weights()
        described, seen = _see(pretrained, train, settings, settings.training_views)
        readout = _fit_readout(described.mean(axis=0), grade, settings)
        networks = tuple(
            _fine_tune(pretrained, seen, grade, settings, settings.seed + number) for number in range(settings.networks)
        )
        uncalibrated = cls(settings, pretrained, networks, readout)
        calibrate, grade = _split(training_set, protocol, "calibrate", grades=2)
        return replace(uncalibrated, temperature=ordinal.fit_temperature(uncalibrated.predict(calibrate), grade))

    def predict(self, features: pl.DataFrame) -> FloatArray:
        """The probability of grade 0 to 4 (rows x 5); raises LearningError without `image_png`, or naming its fault."""
        if not features.height:
            return np.empty((0, GRADES))
        described, seen = _see(self.pretrained, features, self.settings, self.settings.prediction_views)
        pooled = [ordinal.grade_probability(self.readout.exceedance(described.mean(axis=0)))]
        for network in self.networks:
            answers = np.mean([_answer(network, view) for view in seen], axis=0)
            pooled.append(ordinal.grade_probability(answers))
        return ordinal.apply_temperature(ordinal.pool_geometrically(pooled), self.temperature)

    def represent(self, features: pl.DataFrame) -> pl.DataFrame:
        """`representation_1` to `representation_8`: the first principal components of what the network sees.

        Float32, in units of the total standard deviation of the train split; one view of each image is enough here.
        Raises LearningError as `predict` does.
        """
        names = [f"representation_{number}" for number in range(1, REPRESENTED + 1)]
        if not features.height:
            return pl.DataFrame(schema=dict.fromkeys(names, pl.Float32))
        described, _ = _see(self.pretrained, features, self.settings, views=1)
        components = self.readout.project(described[0])[:, :REPRESENTED]
        return pl.DataFrame(components.astype(np.float32), schema=names)

    def save(self, directory: Path) -> None:
        """Write the tensors as safetensors and the rest as JSON; equal models, equal bytes."""
        from importlib.metadata import version

        import torch
        from safetensors.torch import save_file

        tensors = {f"pretrained.{name}": tensor for name, tensor in self.pretrained.items()}
        for number, network in enumerate(self.networks):
            tensors |= {f"network_{number}.{name}": tensor for name, tensor in network.items()}
        for field in fields(Readout):
            tensors[f"readout.{field.name}"] = torch.from_numpy(getattr(self.readout, field.name))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS_FILE)
        description = {
            "layout": LAYOUT,
            "written_by": {name: version(name) for name in ("clinical-assets", "torch", "safetensors")},
            "pretrained_sha256": lite0.WEIGHTS_SHA256,
            "settings": asdict(self.settings),
            "temperature": self.temperature,
        }
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The model saved in a directory; the file of the pretrained weights is not needed any more.

        Raises LearningError when a file is missing or damaged, or holds other tensors than such a model has.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = directory / WEIGHTS_FILE
        try:
            description = json.loads((directory / DESCRIPTION_FILE).read_text())
            if description["layout"] != LAYOUT:
                raise LearningError(f"{path} has layout {description['layout']}, and this code reads {LAYOUT}; retrain")
            settings = FundusSettings(**description["settings"])
            temperature = float(description["temperature"])
            tensors = load_file(path)
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise LearningError(f"{path} is no saved FundusNetwork ({error}); restore it or roll back") from error
        expected = _tensor_shapes(settings)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
            raise LearningError(
                f"{path} is no saved FundusNetwork: {len(wrong)} tensors are missing, unknown or of another shape, "
                f"such as {wrong[0]}; restore it or roll back"
            )

        def part(name: str) -> Weights:
            return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

        networks = tuple(part(f"network_{number}") for number in range(settings.networks))
        readout = Readout(**{name: tensor.numpy() for name, tensor in part("readout").items()})
        return cls(settings, part("pretrained"), networks, readout, temperature)


def _tensor_shapes(settings: FundusSettings) -> dict[str, tuple[int, ...]]:
    """The tensors that a saved model has, and their shapes."""
    pretrained = lite0.weight_shapes(lite0.PARTS)
    network = lite0.weight_shapes(TUNED) | {
        "answer.weight": (GRADES - 1, lite0.HEAD_CHANNELS),
        "answer.bias": (GRADES - 1,),
    }
    p = 2 * (sum(lite0.BLOCKS[number].channels_out for number in DESCRIBED) + lite0.HEAD_CHANNELS)
    shapes = {f"pretrained.{name}": shape for name, shape in pretrained.items()}
    for number in range(settings.networks):
        shapes |= {f"network_{number}.{name}": shape for name, shape in network.items()}
    return shapes | {
        "readout.centre": (p,),
        "readout.spread": (p,),
        "readout.directions": (p, settings.components),
        "readout.slope": (settings.components, GRADES - 1),
        "readout.intercept": (GRADES - 1,),
    }


def _split(
    training_set: pl.DataFrame, protocol: ModelProtocol, split: str, grades: int
) -> tuple[pl.DataFrame, npt.NDArray[np.int64]]:
    """The rows of a split and their grades, of which so many different ones are needed."""
    rows = training_set.filter(pl.col("split") == split)
    grade = rows[protocol.outcome.column]
    wrong = rows.height - int(grade.is_in(range(GRADES)).sum())
    if wrong:
        raise LearningError(f"split {split}: {wrong:,} of {rows.height:,} rows have no {grade.name} from 0 to 4")
    if grade.n_unique() < grades:
        counts = {level: int((grade == level).sum()) for level in range(GRADES)}
        raise LearningError(
            f"split {split}: rows by {grade.name} are {counts}; {grades} different grades are needed, so use "
            "more months"
        )
    return rows, grade.cast(pl.Int64).to_numpy()


def _see(
    pretrained: Weights, rows: pl.DataFrame, settings: FundusSettings, views: int
) -> tuple[FloatArray, list[Tensor]]:
    """What the pretrained network sees in the images of rows, in their first views.

    Gives the descriptions (prediction views or fewer x images x p: the mean and the standard deviation of every feature
    map) and, for each view, what enters the first block that is fine-tuned (images x channels x side x side).
    """
    import torch

    if IMAGE not in rows.columns:
        raise LearningError(f"the features lack the column {IMAGE}, from which the model reads grades")
    device = _device()
    weights = _placed(pretrained, device)
    pixels = torch.from_numpy(read_squares(rows[IMAGE], settings.input_side_px))
    described: list[list[Tensor]] = [[] for _ in range(min(views, settings.prediction_views))]
    seen: list[list[Tensor]] = [[] for _ in range(views)]
    with torch.no_grad():
        for batch in pixels.split(IMAGES_AT_ONCE):
            upright = batch.to(device).permute(0, 3, 1, 2).float()
            for view in range(views):
                x = lite0.enter(weights, turn(upright, view).contiguous(memory_format=torch.channels_last))
                maps: list[Tensor] = []
                for number in range(TUNED_FROM):
                    x = lite0.pass_block(weights, number, x)
                    maps += [x] * (number in DESCRIBED)
                seen[view].append(x)
                if view >= len(described):
                    continue
                for number in range(TUNED_FROM, len(lite0.BLOCKS)):
                    x = lite0.pass_block(weights, number, x)
                    maps += [x] * (number in DESCRIBED)
                maps.append(lite0.pass_head(weights, x))
                moments = [f(each) for each in maps for f in (_mean, _standard_deviation)]
                described[view].append(torch.cat(moments, dim=1).cpu())
    descriptions = np.stack([torch.cat(view).double().numpy() for view in described])
    return descriptions, [torch.cat(view) for view in seen]


def _mean(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3))


def _standard_deviation(maps: Tensor) -> Tensor:
    return maps.std(dim=(2, 3), correction=0)


def _fit_readout(description: FloatArray, grade: npt.NDArray[np.int64], settings: FundusSettings) -> Readout:
    """Principal components of standardised descriptions, then a ridge-penalised cumulative logistic regression."""
    import torch

    centre, spread = description.mean(axis=0), description.std(axis=0)
    spread = np.where(spread > np.finfo(np.float32).eps, spread, 1.0)
    standardised = (description - centre) / spread
    variance, basis = np.linalg.eigh(standardised @ standardised.T)
    leading = slice(None, -settings.components - 1, -1)
    directions = standardised.T @ basis[:, leading] / np.sqrt(variance[leading])
    # An eigenvector has no sign of its own: the largest entry is made positive, so that equal rows give equal models.
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(settings.components)])
    unfitted = Readout(centre, spread, directions, np.empty(0), np.empty(0))

    components = torch.from_numpy(unfitted.project(description))
    target = torch.from_numpy(ordinal.exceedance_targets(grade, GRADES))
    slope = torch.zeros(components.shape[1], target.shape[1], dtype=torch.float64, requires_grad=True)
    intercept = torch.logit(target.mean(dim=0)).requires_grad_()
    optimiser = torch.optim.LBFGS([slope, intercept], max_iter=READOUT_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        answers = components @ slope + intercept
        value = torch.nn.functional.binary_cross_entropy_with_logits(answers, target, reduction="sum")
        value = value + settings.ridge / 2 * slope.square().sum()
        value.backward()
        return value

    optimiser.step(loss)  # pyright: ignore[reportArgumentType]
    return replace(unfitted, slope=slope.detach().numpy(), intercept=intercept.detach().numpy())


def _fine_tune(
    pretrained: Weights, seen: list[Tensor], grade: npt.NDArray[np.int64], settings: FundusSettings, seed: int
) -> Weights:
    """The end of the pretrained network and an ordinal head, trained together on random views of the images.

    AdamW (Loshchilov & Hutter 2019) with one rise and fall of the learning rate (Smith 2019) and dropout before the
    head, which learns faster than what was pretrained.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    device = seen[0].device
    views = torch.stack(seen)
    target = torch.from_numpy(ordinal.exceedance_targets(grade, GRADES)).float().to(device)
    tuned = _placed({name: pretrained[name].clone() for name in lite0.weight_shapes(TUNED)}, device)
    share = target.mean(dim=0)
    head = {
        "answer.weight": torch.zeros(GRADES - 1, lite0.HEAD_CHANNELS, device=device),
        "answer.bias": torch.logit(share),
    }
    network = {name: tensor.requires_grad_() for name, tensor in (tuned | head).items()}
    optimiser = torch.optim.AdamW(
        [{"params": [network[name] for name in tuned]}, {"params": [network[name] for name in head]}],
        lr=settings.learning_rate,
        weight_decay=WEIGHT_DECAY,
    )
    batches = len(grade) // BATCH + (len(grade) % BATCH > 0)
    pace = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[settings.learning_rate, READOUT_SPEED * settings.learning_rate],
        total_steps=settings.epochs * batches,
        pct_start=WARM_UP_SHARE,
    )
    for _ in range(settings.epochs):
        for images in torch.randperm(len(grade), generator=generator).split(BATCH):
            view = torch.randint(len(views), (len(images),), generator=generator)
            kept = torch.rand(len(images), lite0.HEAD_CHANNELS, generator=generator) >= DROPPED_SHARE
            batch = views[view.to(device), images.to(device)]
            features = _end(network, batch) * kept.to(device) / (1 - DROPPED_SHARE)
            answers = features @ network["answer.weight"].T + network["answer.bias"]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(answers, target[images.to(device)])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            pace.step()
    return {name: tensor.detach().cpu() for name, tensor in network.items()}


def _answer(network: Weights, view: Tensor) -> FloatArray:
    """The probability of grade 1 or more to 4 that a fine-tuned network gives to one view of images, images x 4."""
    import torch

    weights = _placed(network, view.device)
    with torch.no_grad():
        features = torch.cat([_end(weights, batch) for batch in view.split(IMAGES_AT_ONCE)])
        answers = features @ weights["answer.weight"].T + weights["answer.bias"]
        return torch.sigmoid(answers.double()).cpu().numpy()


def _end(network: Weights, x: Tensor) -> Tensor:
    """The penultimate features (images x 1,280) of what enters the first fine-tuned block."""
    import torch

    x = x.contiguous(memory_format=torch.channels_last)
    for number in range(TUNED_FROM, len(lite0.BLOCKS)):
        x = lite0.pass_block(network, number, x)
    return _mean(lite0.pass_head(network, x))


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _placed(weights: Weights, device: torch.device) -> Weights:
    """The weights on a device, in the order of memory in which its convolutions are fastest."""
    import torch

    return {
        name: tensor.to(device, memory_format=torch.channels_last) if tensor.ndim == 4 else tensor.to(device)
        for name, tensor in weights.items()
    }
