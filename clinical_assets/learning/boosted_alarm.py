"""Gradient-boosted trees that raise hourly alarms: a blend of models that learn the label and what an alarm is worth.

Belongs here: how such a blend is fitted, applied, and written without pickle. Does not belong here: the features, the
threshold of an alarm, networks.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.hourly_alarm import (
    AlarmHours,
    FloatArray,
    ScoreCalibration,
    check_columns,
    check_numeric,
    number_matrix,
    read_settings,
)
from clinical_assets.protocol import ModelProtocol

if TYPE_CHECKING:
    import lightgbm

DESCRIPTION_FILE = "boosted_alarm.json"
OBJECTIVES = {"label": "binary", "weighted": "binary", "regression": "regression"}

RANGES: dict[str, tuple[float, float]] = {
    "label_trees": (1, 100_000),
    "weighted_trees": (1, 100_000),
    "regression_trees": (1, 100_000),
    "learning_rate": (1e-4, 1.0),
    "leaves": (2, 4096),
    "minimum_leaf": (1, 10_000_000),
    "l2": (0.0, 1e6),
    "feature_fraction": (0.01, 1.0),
    "bins": (2, 255),
    "other_share": (0.01, 1.0),
    "threads": (1, 256),
    "seed": (0, 2**31 - 1000),
}


@dataclass(frozen=True, slots=True)
class BoostedAlarmSettings:
    """The `estimator_settings` of a protocol; each has a default.

    `members` names the blended models, parted by commas: `label` learns the outcome, `weighted` whether an alarm
    gains, weighted by how much, with extremely randomised splits, `regression` how much it gains. Each has its number
    of trees; `leaves` of a tree have at least `minimum_leaf` hours and the penalty `l2`, a tree chooses from
    `feature_fraction` of the columns in `bins` bins. Each member sees all hours of patients with the outcome and its
    own random `other_share` of the others, weighted up. `weight_column` may name a column of the training set that
    weighs its hours.
    """

    members: str = "label,weighted"
    label_trees: int = 320
    weighted_trees: int = 350
    regression_trees: int = 350
    learning_rate: float = 0.03
    leaves: int = 31
    minimum_leaf: int = 2000
    l2: float = 100.0
    feature_fraction: float = 0.1
    bins: int = 63
    other_share: float = 0.5
    weight_column: str = ""
    threads: int = 1
    seed: int = 0

    @classmethod
    def of(cls, protocol: ModelProtocol) -> Self:
        """The settings a protocol gives; raises LearningError naming one that is unknown or out of its range."""
        settings = read_settings(cls, protocol.estimator_settings, RANGES)
        names = settings.member_names
        if unknown := sorted(set(names) - set(OBJECTIVES)):
            raise LearningError(f"estimator_settings: members has {unknown}; name some of {sorted(OBJECTIVES)}")
        if len(set(names)) < len(names):
            raise LearningError(f"estimator_settings: members is {settings.members!r}; name each once")
        return settings

    @property
    def member_names(self) -> tuple[str, ...]:
        """The members, in their order."""
        return tuple(name.strip() for name in self.members.split(","))

    def trees(self, member: str) -> int:
        """How many trees a member has."""
        return {
            "label": self.label_trees,
            "weighted": self.weighted_trees,
            "regression": self.regression_trees,
        }[member]


@dataclass(frozen=True, slots=True)
class BoostedAlarm:
    """LightGBM models (Ke 2017) of the label and of the Challenge's utility, blended and recalibrated.

    The members' raw scores are averaged in standard deviations and recalibrated to the outcome (Platt 1999). Randomised
    splits: Geurts 2006. The same rows in the same order give the same model.
    """

    feature_names: tuple[str, ...]
    members: tuple[str, ...]
    boosters: tuple[lightgbm.Booster, ...]
    calibration: ScoreCalibration

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions without which the saved files cannot be read."""
        return ("lightgbm",)

    @classmethod
    def fit(cls, training_set: pl.DataFrame, protocol: ModelProtocol) -> Self:
        """Learn from the hours whose `split` is `train`, and recalibrate on those whose `split` is `calibrate`.

        Raises LearningError on an unknown setting, a feature that is no number, a split with one class, members that
        learn nothing, and scores that do not rise with the outcome in the calibrate split.
        """
        settings = BoostedAlarmSettings.of(protocol)
        names = tuple(name for name in protocol.feature_columns(training_set.columns) if name != settings.weight_column)
        check_numeric(training_set, names)
        hours = AlarmHours.of(training_set, protocol, "train")
        weight = _weights(training_set, hours, settings)
        boosters = tuple(
            _fit_member(training_set, names, hours, weight, member, settings, settings.seed + place)
            for place, member in enumerate(settings.member_names)
        )
        calibrate = AlarmHours.of(training_set, protocol, "calibrate")
        scores = _score(boosters, number_matrix(training_set, names, calibrate.row))
        equal = (1 / len(boosters),) * len(boosters)
        calibration = ScoreCalibration.fit(calibrate.outcome, scores, equal)
        return cls(names, settings.member_names, boosters, calibration)

    def predict(self, features: pl.DataFrame) -> FloatArray:
        """The risk of every hour; raises LearningError naming columns that are missing or no numbers."""
        check_columns(features, self.feature_names)
        check_numeric(features, self.feature_names)
        if not features.height:
            return np.empty(0)
        return self.calibration.risk(_score(self.boosters, number_matrix(features, self.feature_names)))

    def represent(self, features: pl.DataFrame) -> pl.DataFrame:
        """No columns: trees make nothing of an hour that its features and its risk do not say."""
        return pl.DataFrame()

    def save(self, directory: Path) -> None:
        """Write each member in LightGBM's text format, and the blend as JSON."""
        from lightgbm import __version__ as version

        description = {
            "lightgbm": version,
            "feature_names": self.feature_names,
            "members": self.members,
            "calibration": asdict(self.calibration),
        }
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")
        for member, booster in zip(self.members, self.boosters, strict=True):
            (directory / _trees_file(member)).write_text(booster.model_to_string())

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The model saved in a directory.

        Raises LearningError when a file is missing or damaged, or was written under another version of LightGBM, whose
        trees may predict differently.
        """
        import lightgbm

        path = directory / DESCRIPTION_FILE
        try:
            description: dict[str, Any] = json.loads(path.read_text())
            saved_under, members = description["lightgbm"], tuple(description["members"])
            boosters = tuple(
                lightgbm.Booster(model_str=(directory / _trees_file(member)).read_text()) for member in members
            )
            calibration = ScoreCalibration.read(description["calibration"])
            model = cls(tuple(description["feature_names"]), members, boosters, calibration)
        except (OSError, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
            raise LearningError(f"{path} is no saved BoostedAlarm ({error}); restore it or roll back") from error
        if saved_under != lightgbm.__version__:
            raise LearningError(
                f"{path} was written under LightGBM {saved_under}, and this is {lightgbm.__version__}; install that "
                "version or retrain"
            )
        return model


def _trees_file(member: str) -> str:
    return f"{member}.lightgbm.txt"


def _weights(training_set: pl.DataFrame, hours: AlarmHours, settings: BoostedAlarmSettings) -> FloatArray:
    """The weight of every hour that the training set itself gives; 1 where it gives none."""
    if not settings.weight_column:
        return np.ones(len(hours.row))
    check_columns(training_set, (settings.weight_column,))
    weight = training_set[settings.weight_column].cast(pl.Float64).fill_null(np.nan).to_numpy()[hours.row]
    if wrong := int(np.sum(~(weight > 0))):
        raise LearningError(
            f"{settings.weight_column}: {wrong:,} of {len(weight):,} hours of split train have no weight above 0"
        )
    return weight


def _fit_member(
    training_set: pl.DataFrame,
    names: tuple[str, ...],
    hours: AlarmHours,
    weight: FloatArray,
    member: str,
    settings: BoostedAlarmSettings,
    seed: int,
) -> lightgbm.Booster:
    import lightgbm

    chosen = hours.septic | (np.random.default_rng(seed).random(len(hours.row)) < settings.other_share)
    seen = hours.where(chosen)
    weight = weight[chosen] * np.where(seen.septic, 1.0, 1 / settings.other_share)
    target = {"label": seen.outcome, "weighted": (seen.gain > 0).astype(np.float64), "regression": seen.gain}[member]
    if member == "weighted":
        weight = weight * np.abs(seen.gain)
    parameters = {
        "objective": OBJECTIVES[member],
        "extra_trees": member == "weighted",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.minimum_leaf,
        "lambda_l2": settings.l2,
        "feature_fraction": settings.feature_fraction,
        "max_bin": settings.bins,
        "num_threads": settings.threads,
        "seed": seed,
        "deterministic": True,
        # Trees that see a tenth of the columns are fitted twice as fast by column as by row.
        "force_col_wise": True,
        "use_quantized_grad": True,
        "num_grad_quant_bins": 16,
        "quant_train_renew_leaf": True,
        "verbosity": -1,
    }
    rows = lightgbm.Dataset(
        number_matrix(training_set, names, seen.row),
        label=target,
        weight=weight / weight.mean(),
        feature_name=[f"f{place}" for place in range(len(names))],
        params=parameters,
    )
    booster = lightgbm.train(parameters, rows, num_boost_round=settings.trees(member))
    return booster.free_dataset()


def _score(boosters: tuple[lightgbm.Booster, ...], matrix: npt.NDArray[Any]) -> FloatArray:
    """The raw scores, members x hours."""
    return np.array([booster.predict(matrix, raw_score=True) for booster in boosters])
