from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from clinical_assets.protocol import ModelProtocol, read_protocol

ADMITTED = datetime(2024, 1, 1, tzinfo=UTC)
SMALL_TREES = {"label_trees": 20, "weighted_trees": 20, "regression_trees": 20, "learning_rate": 0.1, "leaves": 4}
SMALL_TREES |= {"minimum_leaf": 20, "l2": 1.0, "feature_fraction": 1.0}
SMALL_NETWORK = {"segments": 4, "embedding": 8, "hidden": 8, "dropout": 0.1, "epochs": 6, "batch_hours": 200}
SMALL_NETWORK |= {"learning_rate": 0.02}


def make_alarm_protocol(**settings: bool | float | str) -> ModelProtocol:
    """The sepsis protocol with the given settings of its estimator."""
    return read_protocol("sepsis").model_copy(update={"estimator_settings": settings})


def make_hours(patients: int = 300, seed: int = 3) -> pl.DataFrame:
    """Stays of 5 to 40 hours, a fifth of them septic, whose heart rate and lactate rise in the 12 h before the label.

    Three quarters of the patients train, the others calibrate.
    """
    random = np.random.default_rng(seed)
    length = random.integers(5, 41, patients)
    start = np.cumsum(length) - length
    patient = np.repeat(np.arange(patients), length)
    hour = np.arange(length.sum()) - start[patient] + 1
    septic = random.random(patients) < 0.2
    first_label = np.where(septic, random.integers(1, length + 1), 1_000)[patient]
    illness = np.clip((hour - first_label + 12) / 12, 0, 1)
    rows = len(hour)
    measured = random.random(rows) < 0.2
    lactate = np.where(measured, 1.5 + 2 * illness + random.normal(0, 0.7, rows), np.nan)
    frame = pl.DataFrame(
        {
            "patient_id": [f"{number:032x}" for number in range(patients)],
            "split": np.where(np.arange(patients) % 4 > 0, "train", "calibrate").tolist(),
        }
    )[patient]
    frame = frame.with_columns(
        hour_id=pl.format("{}:{}", "patient_id", pl.Series(hour)),
        month=pl.lit(date(2024, 1, 1)),
        outcome_known_on=pl.lit(date(2024, 1, 1) + timedelta(days=4)),
        sepsis_6h=pl.Series((hour >= first_label).astype(np.int8)),
        site=pl.lit("A"),
        icu_los_h=pl.Series(hour.astype(np.float32)),
        heart_rate_bpm_last=pl.Series((80 + 20 * illness + random.normal(0, 8, rows)).astype(np.float32)),
        lactate_mmol_l=pl.Series(lactate.astype(np.float32)).fill_nan(None),
    )
    seen = pl.when(pl.col("lactate_mmol_l").is_not_null()).then("icu_los_h")
    return frame.with_columns(
        observed_at=pl.lit(ADMITTED) + pl.duration(hours=pl.col("icu_los_h").cast(pl.Int64)),
        lactate_mmol_l_last=pl.col("lactate_mmol_l").forward_fill().over("patient_id"),
        lactate_mmol_l_hours_since=(pl.col("icu_los_h") - seen.forward_fill()).over("patient_id"),
    )
