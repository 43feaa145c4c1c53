import polars as pl
import pytest
from learning_cohort import make_features, make_protocol

from clinical_assets.learning.boosting import BoostedRisk
from clinical_assets.protocol import ModelProtocol


@pytest.fixture
def protocol() -> ModelProtocol:
    return make_protocol()


@pytest.fixture(scope="session")
def training_set() -> pl.DataFrame:
    """A training set, split by row alone, since what is fitted to it is not evaluated."""
    split = pl.when(pl.int_range(pl.len()) % 4 > 0).then(pl.lit("train")).otherwise(pl.lit("calibrate"))
    return make_features().with_columns(split=split)


@pytest.fixture(scope="session")
def fitted(training_set: pl.DataFrame) -> BoostedRisk:
    return BoostedRisk.fit(training_set, make_protocol())
