"""Gradient-boosted trees on target-encoded categories, recalibrated: the estimator of tabular models.

Belongs here: how such a model is fitted, applied, and written without pickle. Does not belong here: which rows it sees,
and where its files go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.calibration import fit_recalibration, from_logit, logit
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.skops_import import import_skops
from clinical_assets.protocol import ModelProtocol

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.preprocessing import TargetEncoder

MODEL_FILE = "boosting.skops"
ENCODING_FOLDS = 5

# Beside its own defaults (numbers, texts, arrays, scikit-learn estimators) skops may build this one type, and no other.
TRUSTED_TYPES = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]


@dataclass(frozen=True, slots=True)
class BoostingSettings:
    """The `estimator_settings` of a protocol.

    `iterations` trees of at most `leaves` leaves with at least `minimum_leaf` rows each; `l2` is the penalty on leaf
    values, `feature_fraction` the share of columns each split may choose from, and `smoothing` the number of rows at
    which a category's own event rate weighs as much as that of all rows.
    """

    learning_rate: float
    iterations: int
    leaves: int
    minimum_leaf: int
    l2: float
    feature_fraction: float
    smoothing: float = 200.0
    seed: int = 0

    @classmethod
    def of(cls, protocol: ModelProtocol) -> Self:
        """The settings a protocol gives; raises LearningError naming one that is unknown, missing or no number."""
        given: dict[str, Any] = dict(protocol.estimator_settings)
        known = {field.name: field.type for field in fields(cls)}
        if unknown := sorted(given.keys() - known.keys()):
            raise LearningError(f"estimator_settings: {unknown} are unknown; BoostedRisk knows {sorted(known)}")
        for name, value in given.items():
            number = int if known[name] == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, number) or value < 0:
                kind = "whole number" if known[name] == "int" else "number"
                raise LearningError(f"estimator_settings: {name} is {value!r}; give a {kind} of 0 or more")
        try:
            return cls(**given)
        except TypeError as error:
            raise LearningError(f"estimator_settings: {error}") from error


@dataclass(frozen=True, slots=True)
class BoostedRisk:
    """Histogram gradient boosting on numbers and target-encoded categories, then logistic recalibration.

    Trees: Friedman 2001; Ke 2017. A text column becomes the smoothed event rate of its category (Micci-Barreca 2001),
    cross-fitted over groups of patients; a null is a category, and a category never seen has the rate of all rows.
    Recalibration: intercept and slope on the logit of the risk (Cox 1958); where the risks part the outcomes perfectly,
    as in a small split they may, on outcomes drawn in from 0 and 1 (Platt 1999). The same rows in the same order give
    the same model.
    """

    feature_names: tuple[str, ...]
    categories: tuple[str, ...]
    encoder: TargetEncoder | None
    trees: HistGradientBoostingClassifier
    recalibration_intercept: float = 0.0
    recalibration_slope: float = 1.0

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions without which the saved files cannot be read."""
        return ("scikit-learn", "skops")

    @classmethod
    def fit(cls, training_set: pl.DataFrame, protocol: ModelProtocol) -> Self:
        """Learn from the rows whose `split` is `train`, and recalibrate on those whose `split` is `calibrate`.

        A feature without a value in any row of `train` is no part of the model. Raises LearningError on an unknown
        setting, a feature that is neither number nor text, a split with one class, and risks that do not rise with the
        outcome in the calibrate split.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        settings = BoostingSettings.of(protocol)
        given = protocol.feature_columns(training_set.columns)
        texts = [name for name in given if _is_text(name, training_set.schema[name])]
        train, outcome = _split(training_set, protocol, "train")
        # scikit-learn finds no bins for a number that was never measured, and there is nothing to learn from it.
        names = tuple(name for name in given if train[name].count())
        categories = tuple(name for name in names if name in texts)
        encoder = _new_encoder(train, protocol, settings) if categories else None
        encoded = [] if encoder is None else [encoder.fit_transform(_texts(train, categories), outcome)]
        if encoder is not None:
            # The row numbers of the folds are no part of the model.
            encoder.set_params(cv=ENCODING_FOLDS)
        trees = HistGradientBoostingClassifier(
            learning_rate=settings.learning_rate,
            max_iter=settings.iterations,
            max_leaf_nodes=settings.leaves,
            min_samples_leaf=settings.minimum_leaf,
            l2_regularization=settings.l2,
            max_features=settings.feature_fraction,
            early_stopping=False,  # pyright: ignore[reportArgumentType]
            random_state=settings.seed,
        )
        trees.fit(np.hstack([*encoded, _numbers(train, names, categories)]), outcome)

        uncalibrated = cls(names, categories, encoder, trees)
        calibrate, outcome = _split(training_set, protocol, "calibrate")
        risk, once_each = uncalibrated.predict(calibrate), np.ones((1, len(outcome)))
        (intercept,), (slope,) = fit_recalibration(outcome, risk, once_each)
        if np.isnan(slope):
            # A threshold parts so few rows perfectly, and the likelihood has no maximum.
            (intercept,), (slope,) = fit_recalibration(_smoothed(outcome), risk, once_each)
        if not slope > 0:
            raise LearningError(
                f"the risks do not rise with {protocol.outcome.column} in the {len(outcome):,} rows of split calibrate "
                f"(slope {slope:.3g}); the features say nothing about the outcome, or the split is too small"
            )
        return replace(uncalibrated, recalibration_intercept=float(intercept), recalibration_slope=float(slope))

    def predict(self, features: pl.DataFrame) -> npt.NDArray[np.float64]:
        """The risk of every row; raises LearningError naming columns that are missing or not of the type learnt."""
        if missing := [name for name in self.feature_names if name not in features.columns]:
            raise LearningError(f"the features lack the columns {missing}, which the model was trained on")
        if not features.height:
            return np.empty(0)
        encoded = [] if self.encoder is None else [self.encoder.transform(_texts(features, self.categories))]
        columns = np.hstack([*encoded, _numbers(features, self.feature_names, self.categories)])
        log_odds = logit(self.trees.predict_proba(columns)[:, 1])
        return from_logit(self.recalibration_intercept + self.recalibration_slope * log_odds)

    def represent(self, features: pl.DataFrame) -> pl.DataFrame:
        """Nothing: the inputs and the risk say all there is to watch."""
        return pl.DataFrame()

    def save(self, directory: Path) -> None:
        """Write the model into one skops file, which holds arrays and texts and no code; equal models, equal bytes."""
        from sklearn import __version__ as scikit_learn

        skops_io = import_skops()
        parts = {"scikit_learn": scikit_learn} | {field.name: getattr(self, field.name) for field in fields(self)}
        (directory / MODEL_FILE).write_bytes(_without_addresses(skops_io.dumps(parts)))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The model saved in a directory, building no type but the trusted ones.

        Raises LearningError when the file is missing, damaged, holds another type, or was written under another version
        of scikit-learn, whose trees may predict differently.
        """
        from sklearn import __version__ as scikit_learn

        skops_io = import_skops()
        from skops.io.exceptions import UntrustedTypesFoundException

        path = directory / MODEL_FILE
        try:
            parts = skops_io.load(path, trusted=TRUSTED_TYPES)
            saved_under = parts.pop("scikit_learn")
            model = cls(**parts)
        except (OSError, BadZipFile, UntrustedTypesFoundException, KeyError, TypeError) as error:
            raise LearningError(f"{path} is no saved BoostedRisk ({error}); restore it or roll back") from error
        if saved_under != scikit_learn:
            raise LearningError(
                f"{path} was written under scikit-learn {saved_under}, and this is {scikit_learn}; install that "
                "version or retrain"
            )
        return model


def _without_addresses(skops_file: bytes) -> bytes:
    """The same skops file with its objects numbered in order, where skops has memory addresses and the time of day."""
    numbers: dict[str, str] = {}

    def renumber(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers)))

    target = BytesIO()
    with ZipFile(BytesIO(skops_file)) as source, ZipFile(target, "w", ZIP_DEFLATED) as rewritten:
        schema = re.sub(r'("__id__": |"file": ")(\d+)', renumber, source.read("schema.json").decode())
        contents = {
            f"{numbers[name.removesuffix('.npy')]}.npy": name for name in source.namelist() if name != "schema.json"
        }
        for number in sorted(contents):
            rewritten.writestr(ZipInfo(number), source.read(contents[number]), ZIP_DEFLATED)
        rewritten.writestr(ZipInfo("schema.json"), schema, ZIP_DEFLATED)
    return target.getvalue()


def _split(
    training_set: pl.DataFrame, protocol: ModelProtocol, split: str
) -> tuple[pl.DataFrame, npt.NDArray[np.float64]]:
    rows = training_set.filter(pl.col("split") == split)
    outcome = rows[protocol.outcome.column].cast(pl.Float64).to_numpy()
    if set(np.unique(outcome)) != {0.0, 1.0}:
        raise LearningError(
            f"split {split}: {protocol.outcome.column} must be 0 in some rows and 1 in others; of {len(outcome):,} "
            f"rows, {int(np.sum(outcome == 1)):,} have 1 and {int(np.sum(outcome == 0)):,} have 0"
        )
    return rows, outcome


def _smoothed(outcome: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Outcomes of 0 and 1 drawn in by one unseen row of each kind (Platt 1999, section 2.2)."""
    events = outcome.sum()
    return np.where(outcome == 1, (events + 1) / (events + 2), 1 / (len(outcome) - events + 2))


def _new_encoder(train: pl.DataFrame, protocol: ModelProtocol, settings: BoostingSettings) -> TargetEncoder:
    """An encoder whose cross-fitting keeps a patient in one fold, so that no row is encoded by its own patient."""
    from sklearn.preprocessing import TargetEncoder

    patient = train[protocol.patient].rank("dense").to_numpy().astype(np.int64) - 1
    fold = np.random.default_rng(settings.seed).permutation(patient.max() + 1)[patient] % ENCODING_FOLDS
    parts = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(ENCODING_FOLDS)]
    return TargetEncoder(
        target_type="binary",
        smooth=settings.smoothing,  # pyright: ignore[reportArgumentType]
        cv=parts,  # pyright: ignore[reportArgumentType]
    )


def _is_text(name: str, dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return True
    if dtype.is_numeric() or dtype == pl.Boolean:
        return False
    raise LearningError(f"feature {name} is of type {dtype}; make it a number or a text, or list it in not_features")


def _texts(frame: pl.DataFrame, columns: tuple[str, ...]) -> npt.NDArray[np.object_]:
    if numbers := [name for name in columns if frame.schema[name].is_numeric()]:
        raise LearningError(f"the columns {numbers} are numbers here and were texts when the model was trained")
    return frame.select(pl.col(columns).cast(pl.String)).to_numpy()


def _numbers(frame: pl.DataFrame, names: tuple[str, ...], categories: tuple[str, ...]) -> npt.NDArray[np.float64]:
    columns = [name for name in names if name not in categories]
    if texts := [name for name in columns if frame.schema[name] == pl.String]:
        raise LearningError(f"the columns {texts} are texts here and were numbers when the model was trained")
    if not columns:
        return np.empty((frame.height, 0))
    return frame.select(pl.col(columns).cast(pl.Float64).fill_null(np.nan)).to_numpy()
