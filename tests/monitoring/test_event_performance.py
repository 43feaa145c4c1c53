from datetime import date

import numpy as np
import polars as pl
import pytest

from clinical_assets.monitoring.event_performance import EVENT_SCHEMA, measure_events, report_events
from clinical_assets.protocol import Finding, ModelProtocol, read_protocol

JANUARY, FEBRUARY = date(2025, 1, 1), date(2025, 2, 1)


@pytest.fixture(scope="module")
def protocol() -> ModelProtocol:
    return read_protocol("readmission").model_copy(update={"subgroups": ("sex",), "minimum_n": 50})


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(4)
    n = 3_000
    risk = rng.beta(1, 5, n)
    return pl.DataFrame(
        {
            "patient_id": [f"p{row}" for row in range(n)],
            "sex": rng.choice(["Female", "Male"], n),
            "month": [JANUARY] * (n // 2) + [FEBRUARY] * (n // 2),
            "risk": risk,
            "alerted": risk >= 0.3,
            "threshold": 0.3,
            "event": (rng.random(n) < risk).astype(np.int8),
        }
    )


@pytest.fixture(scope="module")
def estimated(rows: pl.DataFrame) -> list[Finding]:
    return [Finding("auroc", "overall", 0.70, 0.65, 0.99, 1_500), Finding("sensitivity", "overall", 0.9, 0.85, 0.95, 9)]


def cell(table: pl.DataFrame, metric: str, column: str, subgroup: str = "overall") -> object:
    return table.filter(metric=metric, subgroup=subgroup)[column].item()


def test_an_estimate_is_scored_against_what_came_true(
    rows: pl.DataFrame, estimated: list[Finding], protocol: ModelProtocol
) -> None:
    table = report_events(rows, estimated, measure_events(rows, protocol, resamples=20), protocol)
    assert table.schema == EVENT_SCHEMA
    realised = cell(table, "event_auroc", "value")
    assert isinstance(realised, float)
    assert cell(table, "event_auroc", "estimate_error") == pytest.approx(0.70 - realised)
    assert cell(table, "event_auroc", "estimate_covered") is True
    assert cell(table, "event_sensitivity", "estimate_covered") is False


def test_the_month_is_the_newest_alone_and_the_bounds_are_of_all_since_release(
    rows: pl.DataFrame, estimated: list[Finding], protocol: ModelProtocol
) -> None:
    table = report_events(rows, estimated, measure_events(rows, protocol, resamples=20), protocol)
    assert cell(table, "event_ppv", "n") == 1_500
    alerted = rows.filter("alerted")
    assert cell(table, "event_ppv", "value") == pytest.approx(alerted.filter(month=FEBRUARY)["event"].mean())
    assert cell(table, "event_ppv", "value_so_far") == pytest.approx(alerted["event"].mean())


def test_what_is_not_ripe_has_its_estimate_and_no_value(
    rows: pl.DataFrame, estimated: list[Finding], protocol: ModelProtocol
) -> None:
    table = report_events(rows.clear(), estimated, [], protocol)
    assert table["metric"].to_list() == ["event_auroc", "event_sensitivity"]
    assert table["estimated"].to_list() == [0.70, 0.9]
    assert table["value"].null_count() == table.height == table["estimate_covered"].null_count()


def test_a_group_whose_sensitivity_fell_is_alarmed_and_nobody_else(
    rows: pl.DataFrame, estimated: list[Finding], protocol: ModelProtocol
) -> None:
    baseline = measure_events(
        rows.sample(60_000, with_replacement=True, seed=1).with_columns(
            patient_id=pl.int_range(pl.len()).cast(pl.String)
        ),
        protocol,
        resamples=20,
    )
    many = pl.concat([rows.with_columns(patient_id=pl.col("patient_id") + f"-{copy}") for copy in range(4)])
    lost = many.with_columns(alerted=pl.col("alerted") & ~((pl.col("sex") == "Female") & (pl.col("risk") < 0.45)))
    table = report_events(lost, estimated, baseline, protocol)
    assert cell(table, "event_sensitivity", "alarmed", "sex=Female") is True
    assert cell(table, "event_sensitivity", "alarmed", "sex=Male") is False
