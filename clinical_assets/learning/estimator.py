"""What every estimator can do, whatever it is made of, and the error of this package.

Belongs here: the interface between the lifecycle and a model. Does not belong here: any model.
"""

from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.protocol import ModelProtocol


class LearningError(ValueError):
    """Something cannot be learnt, applied or loaded as it stands; the message names the fault and the remedy."""


class RiskEstimator(Protocol):
    """A model of one binary outcome that can be fitted, applied, saved and loaded without pickle."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns `predict` reads."""
        ...

    @classmethod
    def fit(cls, training_set: pl.DataFrame, protocol: ModelProtocol) -> Self:
        """Learn from the rows whose `split` is `train`, and calibrate on those whose `split` is `calibrate`.

        Raises LearningError when a setting of the protocol is unknown or a split cannot be learnt from.
        """
        ...

    def predict(self, features: pl.DataFrame) -> npt.NDArray[np.float64]:
        """The risk, between 0 and 1, of every row; raises LearningError naming columns that are missing."""
        ...

    def save(self, directory: Path) -> None:
        """Write everything `load` needs into an existing directory."""
        ...

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The estimator that was saved there; raises LearningError on a file that is none."""
        ...
