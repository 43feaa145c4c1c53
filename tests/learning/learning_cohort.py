from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl

from clinical_assets.protocol import ModelProtocol, month_after, read_protocol

FAST = {"learning_rate": 0.1, "iterations": 20, "leaves": 4, "minimum_leaf": 10, "l2": 1.0, "feature_fraction": 1.0}


def make_protocol(**changes: Any) -> ModelProtocol:
    """The readmission protocol with few and small trees, which refer to the frame of `make_features`."""
    small = {"estimator_settings": FAST, "not_features": (), "development_months": 12, "evaluation_months": 6}
    return read_protocol("readmission").model_copy(update=small | changes)


def make_features(rows: int = 3000, months: int = 14, seed: int = 5) -> pl.DataFrame:
    """A readmission-like frame, equally many rows a month from January 2024, with a signal in a number and a text."""
    random = np.random.default_rng(seed)
    starts = [date(2024, 1, 1)]
    while len(starts) < months:
        starts.append(month_after(starts[-1]))
    month = np.sort(np.arange(rows) % months)
    first_day = np.array(starts, dtype="datetime64[D]")[month]
    discharged = pl.Series(first_day + random.integers(0, 28, rows).astype("timedelta64[D]"))
    visits = random.poisson(1.0, rows).astype(float)
    diagnosis = random.choice(["428", "250", "786"], rows)
    log_odds = -2.0 + 0.6 * visits + np.where(diagnosis == "428", 1.0, 0.0)
    frame = pl.DataFrame(
        {
            "encounter_id": [f"{i:032x}" for i in range(rows)],
            "patient_id": [f"{i:032x}" for i in random.integers(0, rows * 3 // 5, rows)],
            "discharged_at": discharged.cast(pl.Datetime("us", "UTC")),
            "month": pl.Series(first_day),
            "readmitted_30d": (random.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(np.int8),
            "visits": np.where(random.random(rows) < 0.1, np.nan, visits),
            "diagnosis": diagnosis.tolist(),
            "insulin": (random.random(rows) < 0.5),
        }
    )
    return frame.with_columns(
        pl.col("visits").fill_nan(None),
        outcome_known_on=pl.col("discharged_at").dt.date() + timedelta(days=30),
        diagnosis=pl.when(pl.int_range(pl.len()) % 20 > 0).then("diagnosis"),
    )
