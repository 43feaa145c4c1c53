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


class FittedEstimator(Protocol):
    """A model of one outcome as it is used: applied, watched and saved without pickle."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions without which the saved files cannot be read."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns `predict` reads."""
        ...

    def predict(self, features: pl.DataFrame) -> npt.NDArray[np.float64]:
        """The risk of every row, or its probability of every grade (rows x grades), whatever the order of the rows.

        Raises LearningError naming columns that are missing.
        """
        ...

    def represent(self, features: pl.DataFrame) -> pl.DataFrame:
        """What the model has made of every row, in a few numbers that monitoring can watch: `representation_1` and on.

        A frame without columns where a model has nothing that would say more than its inputs and its risks.
        """
        ...

    def save(self, directory: Path) -> None:
        """Write everything that is needed to load it into an existing directory."""
        ...


class RiskEstimator(FittedEstimator, Protocol):
    """A model that can be fitted and loaded: the class that a protocol names."""

    @classmethod
    def fit(cls, training_set: pl.DataFrame, protocol: ModelProtocol) -> Self:
        """Learn from the rows whose `split` is `train`, and calibrate on those whose `split` is `calibrate`.

        Raises LearningError when a setting of the protocol is unknown or a split cannot be learnt from.
        """
        ...

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The estimator that was saved there; raises LearningError on a file that is none."""
        ...
