from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
import pytest

from clinical_assets.lifecycle.release_reference import STORED_CLASSES
from clinical_assets.monitoring.drift import DriftMonitor, DriftReport
from clinical_assets.monitoring.estimated_performance import PerformanceReference
from clinical_assets.monitoring.fitted_state import FittedStateError, read_fitted, write_fitted
from clinical_assets.protocol import Finding


def draw_stays(seed: int, n: int = 3_000) -> pl.DataFrame:
    """Numbers with gaps, levels, and a column that two patients in three share, scored and with outcomes."""
    rng = np.random.default_rng(seed)
    risk = rng.beta(2.0, 8.0, n)
    return pl.DataFrame(
        {
            "patient": rng.integers(0, 2 * n // 3, n).astype(str),
            "month": [date(2024, 1 + late, 1) for late in rng.integers(0, 2, n).tolist()],
            "ward": rng.choice(["medical", "surgical", "intensive"], n),
            "creatinine_mg_dl": np.where(rng.random(n) < 0.3, np.nan, rng.lognormal(0.0, 0.4, n)),
            "age_years": rng.integers(18, 90, n),
            "predicted_risk": risk,
            "risk": risk,
            "alerted": risk > 0.3,
            "event": (rng.random(n) < risk).astype(np.int8),
        }
    ).with_columns(pl.col("creatinine_mg_dl").fill_nan(None))


def fit_monitor() -> DriftMonitor:
    return DriftMonitor.fit(
        draw_stays(1),
        columns=["ward", "creatinine_mg_dl", "age_years", "predicted_risk"],
        patient="patient",
        period="month",
    )


def fit_performance() -> PerformanceReference:
    return PerformanceReference.fit(
        draw_stays(1),
        outcome_event="event",
        patient="patient",
        covariates=("ward", "creatinine_mg_dl", "age_years"),
        subgroups=("ward",),
        minimum_n=100,
    )


def look(monitor: DriftMonitor, seed: int) -> DriftReport:
    month = date(2024, 2 + seed, 1)
    return monitor.check(draw_stays(seed, 800).with_columns(month=pl.lit(month)), period=month)


def test_a_kept_monitor_reports_what_the_fitted_one_does_to_the_last_bit() -> None:
    fitted = fit_monitor()
    kept = read_fitted(write_fitted(fitted), STORED_CLASSES)
    assert kept.digest == fitted.digest
    for seed in (1, 2, 3):
        one, other = look(fitted, seed), look(kept, seed)
        assert one.columns.equals(other.columns, null_equal=True)
        assert (one.verdict, one.reason, one.moved) == (other.verdict, other.reason, other.moved)
    assert kept.state.equals(fitted.state)


def test_a_kept_reference_estimates_what_the_fitted_one_does_to_the_last_bit() -> None:
    fitted = fit_performance()
    kept = read_fitted(write_fitted(fitted), STORED_CLASSES)
    batch = draw_stays(2, 1_000)
    assert kept.digest == fitted.digest
    assert kept.estimate(batch) == fitted.estimate(batch)
    matured = draw_stays(3, 1_000)
    both = [each.with_matured(matured.with_columns(each.expect(matured))) for each in (fitted, kept)]
    assert both[0].estimate(batch) == both[1].estimate(batch)


def test_equal_references_are_kept_as_equal_bytes() -> None:
    assert write_fitted(fit_monitor()) == write_fitted(fit_monitor())


def test_only_classes_that_are_named_are_made_again() -> None:
    @dataclass
    class Stranger:
        n: int

    with pytest.raises(FittedStateError, match="holds a Stranger, which is none of"):
        read_fitted(write_fitted(Stranger(1)), STORED_CLASSES)


def test_a_reference_kept_by_code_whose_parts_had_other_fields_is_refused() -> None:
    @dataclass
    class Finding:
        metric: str

    with pytest.raises(FittedStateError, match="has other fields now"):
        read_fitted(write_fitted(Finding("auroc")), STORED_CLASSES)


def test_bytes_that_are_no_fitted_state_are_refused() -> None:
    content = write_fitted((Finding("auroc", "overall", 0.7, None, None, 10), np.arange(3.0)))
    assert read_fitted(content, STORED_CLASSES)[1].tolist() == [0.0, 1.0, 2.0]
    for spoilt in (b"", content[:-40], b"PK" + bytes(200)):
        with pytest.raises(FittedStateError, match="does not open"):
            read_fitted(spoilt, STORED_CLASSES)


def test_what_would_need_pickle_is_not_written() -> None:
    with pytest.raises(FittedStateError, match="an array of object cannot be written"):
        write_fitted(np.array([object()]))
    with pytest.raises(FittedStateError, match="a function cannot be written"):
        write_fitted((fit_monitor,))
