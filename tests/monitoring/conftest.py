"""Small streams of encounters that do not drift, from which tests make ones that do."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest


def draw_encounters(rng: np.random.Generator, rows: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "patient_id": [f"p{number}" for number in rng.integers(0, 10 * rows, rows)],
            "age": rng.normal(62, 15, rows).round().clip(18, 100),
            "creatinine": np.where(rng.random(rows) < 0.3, np.nan, rng.lognormal(0, 0.5, rows)),
            "prior_stays": rng.poisson(0.4, rows),
            "specialty": np.minimum(rng.zipf(1.6, rows), 300).astype(str),
            "sex": np.where(rng.random(rows) < 0.45, "Female", "Male"),
            "insulin": np.where(rng.random(rows) < 0.004, "Up", "No"),
            "predicted_risk": rng.beta(2, 15, rows),
        }
    )


@pytest.fixture
def encounters() -> Callable[[int], pl.DataFrame]:
    rng = np.random.default_rng(20)
    return lambda rows: draw_encounters(rng, rows)
