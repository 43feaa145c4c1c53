from typing import Any

import numpy as np
import polars as pl
import pytest

from clinical_assets.learning.boosting import BoostedRisk
from clinical_assets.learning.estimator import LearningError
from clinical_assets.protocol import ModelProtocol, read_protocol

FAST = {"learning_rate": 0.1, "iterations": 20, "leaves": 4, "minimum_leaf": 10, "l2": 1.0, "feature_fraction": 1.0}
CALIBRATED = 40


@pytest.fixture
def protocol() -> ModelProtocol:
    small: dict[str, Any] = {"estimator_settings": FAST, "not_features": ()}
    return read_protocol("readmission").model_copy(update=small)


def rows_parted_by_a_threshold(outcome_of_calibrated: pl.Expr) -> pl.DataFrame:
    """A number that parts the outcomes of 400 rows perfectly; 40 of them calibrate."""
    position = pl.int_range(pl.len())
    return (
        pl.DataFrame({"marker": np.linspace(-1.0, 1.0, 400)})
        .with_columns(
            patient_id=pl.format("{}", position),
            split=pl.when(position % 10 == 0).then(pl.lit("calibrate")).otherwise(pl.lit("train")),
        )
        .with_columns(
            readmitted_30d=pl.when(pl.col("split") == "train")
            .then(pl.col("marker") > 0)
            .otherwise(outcome_of_calibrated)
            .cast(pl.Int8)
        )
    )


def test_outcomes_that_the_risks_part_perfectly_are_calibrated_to_their_rate_without_certainty(
    protocol: ModelProtocol,
) -> None:
    rows = rows_parted_by_a_threshold(pl.col("marker") > 0)
    model = BoostedRisk.fit(rows, protocol)
    calibrate = rows.filter(split="calibrate")
    assert calibrate.height == CALIBRATED
    risk, outcome = model.predict(calibrate), calibrate["readmitted_30d"].to_numpy()
    assert risk[outcome == 1].min() > 0.5 > risk[outcome == 0].max()
    assert risk.sum() == pytest.approx(outcome.sum(), abs=0.01)
    # Platt's outcome of an event among 20 is 21 / 22, and that of no event 1 / 22.
    assert risk[outcome == 1].mean() == pytest.approx(21 / 22, abs=0.01)


def test_risks_that_part_the_outcomes_the_wrong_way_round_are_refused(protocol: ModelProtocol) -> None:
    with pytest.raises(LearningError, match="do not rise with readmitted_30d"):
        BoostedRisk.fit(rows_parted_by_a_threshold(pl.col("marker") < 0), protocol)
