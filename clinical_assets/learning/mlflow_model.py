"""How MLflow serves an estimator: this file itself is what MLflow stores and runs, so that no pickle is needed.

Belongs here: the translation between MLflow's call and an estimator's. Nothing else: the file is stored with each
version.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from clinical_assets.learning.storage import load_estimator


class ServedEstimator(PythonModel):
    """An estimator behind MLflow's pyfunc interface: a pandas frame of features in, risks out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the estimator from the version's files, once their hash has proved right."""
        config = context.model_config
        self.estimator = load_estimator(
            Path(context.artifacts["estimator"]), config["artefact_sha256"], config["estimator"]
        )

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """The risk of every row."""
        return self.estimator.predict(pl.from_pandas(model_input))


set_model(ServedEstimator())
