from datetime import date

import numpy as np
import polars as pl
import pytest

from clinical_assets.monitoring.performance import PERFORMANCE_SCHEMA, PerformanceError, measure_performance
from clinical_assets.protocol import ModelProtocol, read_protocol

AS_OF = date(2025, 3, 15)


@pytest.fixture(scope="module")
def protocol() -> ModelProtocol:
    return read_protocol("readmission").model_copy(update={"subgroups": ("sex",), "minimum_n": 50})


@pytest.fixture
def scored() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    rows = 400
    risk = rng.beta(1, 5, rows)
    return pl.DataFrame(
        {
            "patient_id": [f"p{row}" for row in range(rows)],
            "sex": rng.choice(["Female", "Male"], rows),
            "risk": risk,
            "alerted": risk >= 0.3,
            "threshold": 0.3,
            "readmitted_30d": (rng.random(rows) < risk).astype(np.int8),
            "outcome_known_on": [date(2025, 3, 1)] * (rows // 2) + [date(2025, 4, 1)] * (rows // 2),
        }
    )


def value(table: pl.DataFrame, metric: str) -> float:
    return table.filter(metric=metric, subgroup="overall")["value"].item()


def test_an_unripe_outcome_is_never_a_negative(scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    later = pl.col("outcome_known_on") > AS_OF
    unknown_yet = scored.with_columns(readmitted_30d=pl.when(later).then(0).otherwise(pl.col("readmitted_30d")))
    table = measure_performance(unknown_yet, protocol, AS_OF)
    ripe_alone = measure_performance(scored.filter(~later), protocol, AS_OF)
    assert table["status"].unique().to_list() == ["partly_ripe"]
    assert ripe_alone["status"].unique().to_list() == ["ripe"]
    assert table.drop("status").equals(ripe_alone.drop("status"))
    assert table.filter(metric="auroc", subgroup="overall")["n"].item() == 200


def test_an_outcome_that_never_came_in_is_left_out_too(scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    lost = scored.with_columns(readmitted_30d=pl.when(pl.int_range(pl.len()) >= 10).then(pl.col("readmitted_30d")))
    table = measure_performance(lost, protocol, date(2025, 5, 1))
    assert table["status"].unique().to_list() == ["partly_ripe"]
    assert table.filter(metric="auroc", subgroup="overall")["n"].item() == 390


def test_a_month_without_ripe_rows_has_no_value(scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    table = measure_performance(scored, protocol, date(2025, 1, 1))
    assert table.schema == PERFORMANCE_SCHEMA
    assert table.rows() == [("auroc", "overall", None, None, None, 0, "not_ripe")]


def test_every_figure_of_a_ripe_month_has_its_interval(scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    table = measure_performance(scored, protocol, date(2025, 5, 1))
    auroc = table.filter(metric="auroc", subgroup="overall").row(0, named=True)
    assert auroc["low"] < auroc["value"] < auroc["high"]
    assert {"overall", "sex=Female", "sex=Male"} <= set(table["subgroup"])
    assert value(table, "prevalence") == pytest.approx(scored["readmitted_30d"].mean())


def test_what_cannot_be_measured_is_named(scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    with pytest.raises(PerformanceError, match="outcome_known_on"):
        measure_performance(scored.drop("outcome_known_on"), protocol, AS_OF)
    with pytest.raises(PerformanceError, match="no scored rows"):
        measure_performance(scored.clear(), protocol, AS_OF)
    with pytest.raises(PerformanceError, match="400 of 400 ripe rows have no risk"):
        measure_performance(scored.with_columns(risk=pl.lit(None, pl.Float64)), protocol, date(2025, 5, 1))
