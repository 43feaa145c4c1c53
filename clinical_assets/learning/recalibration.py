"""A model whose risks are mended without refitting it: a line on the log odds, laid over the model as it stands.

Belongs here: the line, how it is fitted, and the model with it. Does not belong here: whether a model should be
recalibrated (`monitoring.repair_plan`), and the recalibration that an estimator does in its own `fit`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.calibration import calibration_intercept, fit_recalibration, from_logit, logit
from clinical_assets.evaluation.sample import FloatArray, Sample, checked_outcome, checked_risk
from clinical_assets.learning.estimator import FittedEstimator, LearningError, RiskEstimator

RECALIBRATION_FILE = "recalibration.json"
BASE_FOLDER = "base"


@dataclass(frozen=True, slots=True)
class Recalibration:
    """Log odds become `intercept` + `slope` x log odds (Cox 1958); the slope is above 0, so that ranks stay."""

    intercept: float
    slope: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.intercept) and np.isfinite(self.slope) and self.slope > 0):
            raise LearningError(
                f"recalibration: intercept {self.intercept:g} and slope {self.slope:g} must be finite and the slope "
                "above 0, or the ranks of the risks are lost; retrain instead"
            )

    def apply(self, prediction: FloatArray) -> FloatArray:
        """The recalibrated prediction, of the same shape: risks (rows), or probabilities of grades (rows x grades).

        Of grades, every cumulative probability P(grade >= k) is recalibrated alike, as in a proportional odds model
        (McCullagh 1980): the result is a distribution again.
        """
        if prediction.ndim == 1:
            return self._recalibrate(prediction)
        exceedance = np.cumsum(prediction[:, :0:-1], axis=1)[:, ::-1]
        ends = np.ones((len(prediction), 1)), np.zeros((len(prediction), 1))
        reached = np.hstack([ends[0], self._recalibrate(exceedance), ends[1]])
        # Rounding may turn two nearly equal probabilities around.
        return (reached[:, :-1] - reached[:, 1:]).clip(0.0)

    def after(self, earlier: Recalibration) -> Recalibration:
        """The one recalibration that does what `earlier` and then this one do."""
        return Recalibration(self.intercept + self.slope * earlier.intercept, self.slope * earlier.slope)

    def _recalibrate(self, probability: FloatArray) -> FloatArray:
        return from_logit(self.intercept + self.slope * logit(probability))


def fit_recalibration_intercept(
    event: npt.ArrayLike, risk: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> Recalibration:
    """The recalibration of slope 1 that makes the mean risk right (calibration in the large; Van Calster 2019).

    `event` (0 or 1), `risk` and `weight` (1 where not given) have one entry a row. Raises LearningError where no
    maximum of the likelihood exists, and EvaluationError on an event other than 0 and 1 or a risk that is none.
    """
    sample, weights = _weighted_sample(event, risk, weight)
    (intercept,) = calibration_intercept(sample, weights)
    return _defined(float(intercept), 1.0, sample)


def fit_recalibration_slope(
    event: npt.ArrayLike, risk: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> Recalibration:
    """The recalibration of intercept and slope at once: logistic recalibration (Cox 1958; Steyerberg 2004).

    Arguments and errors are those of `fit_recalibration_intercept`; a slope of 0 or less is refused too.
    """
    sample, weights = _weighted_sample(event, risk, weight)
    (intercept,), (slope,) = fit_recalibration(sample.outcome, sample.risk, weights)
    return _defined(float(intercept), float(slope), sample)


def _weighted_sample(
    event: npt.ArrayLike, risk: npt.ArrayLike, weight: npt.ArrayLike | None
) -> tuple[Sample, FloatArray]:
    """The rows in ascending order of risk, and their weights (1 x rows) in that order."""
    outcome = checked_outcome(event)
    n = len(outcome)
    predicted = checked_risk(risk, n)
    weights = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)
    if weights.shape != (n,):
        raise LearningError(f"weight has shape {weights.shape} and event {n:,} rows; give one weight a row")
    if wrong := int(np.sum(~(np.isfinite(weights) & (weights >= 0)))):
        raise LearningError(f"weight: {wrong:,} of {n:,} rows have none of 0 or more; give every row a weight")
    order = np.argsort(predicted, kind="stable")
    nobody = np.zeros(n)
    return Sample.of(outcome[order], predicted[order], nobody, nobody.astype(np.int64)), weights[None, order]


def _defined(intercept: float, slope: float, sample: Sample) -> Recalibration:
    if np.isfinite(intercept) and np.isfinite(slope):
        return Recalibration(intercept, slope)
    raise LearningError(
        f"no recalibration fits {sample.n:,} rows with {int(sample.outcome.sum()):,} events: one of the two outcomes "
        "is missing, all risks are one, or a risk parts the outcomes perfectly; wait for more outcomes"
    )


@dataclass(frozen=True, slots=True)
class RecalibratedEstimator:
    """A fitted model with a recalibration over it; made by `recalibrate`, which never lays one over another."""

    base: FittedEstimator
    recalibration: Recalibration

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions without which the saved files cannot be read: those of the model itself."""
        return self.base.packages

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns `predict` reads."""
        return self.base.feature_names

    def predict(self, features: pl.DataFrame) -> FloatArray:
        """The recalibrated risk of every row, or its probability of every grade (rows x grades)."""
        return self.recalibration.apply(self.base.predict(features))

    def represent(self, features: pl.DataFrame) -> pl.DataFrame:
        """What the model itself has made of every row; recalibration changes nothing in it."""
        return self.base.represent(features)

    def save(self, directory: Path) -> None:
        """Write `recalibration.json` into an existing directory, and the model's own files into its folder `base`."""
        (directory / RECALIBRATION_FILE).write_text(json.dumps(asdict(self.recalibration), indent=1) + "\n")
        (directory / BASE_FOLDER).mkdir()
        self.base.save(directory / BASE_FOLDER)

    @classmethod
    def load(cls, directory: Path, base: type[RiskEstimator]) -> Self:
        """The recalibrated model saved there, whose own files are read by the class `base` and no other.

        Raises LearningError when `recalibration.json` is missing or damaged, and whatever `base` raises.
        """
        path = directory / RECALIBRATION_FILE
        try:
            recalibration = Recalibration(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise LearningError(f"{path} is no saved recalibration ({error}); restore it or roll back") from error
        return cls(base.load(directory / BASE_FOLDER), recalibration)


def recalibrate(model: FittedEstimator, recalibration: Recalibration) -> RecalibratedEstimator:
    """The model with a recalibration over it; over one that is recalibrated already, the two become one."""
    if isinstance(model, RecalibratedEstimator):
        return RecalibratedEstimator(model.base, recalibration.after(model.recalibration))
    return RecalibratedEstimator(model, recalibration)
