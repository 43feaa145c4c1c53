from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from clinical_assets.archives.calendar import spread_over_months
from clinical_assets.archives.diabetes130 import COLUMNS, DIABETES130, read_encounters
from clinical_assets.archives.simulated_diabetes import (
    ENCOUNTERS_BEFORE_SHIFT,
    SIMULATED_DRIFT,
    draw_encounters,
    readmission_log_odds,
    write_simulated_archive,
)


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return draw_encounters(seed=3)


@pytest.fixture(scope="module")
def monthly(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(month=spread_over_months(len(rows)).dt.month_start().dt.date())


def stability_index(reference: pl.Series, batch: pl.Series) -> float:
    """Population stability index over the tenths of the reference."""
    edges = np.unique(np.quantile(reference, np.linspace(0.1, 0.9, 9)))
    shares = [
        np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) + 0.5 for values in (reference, batch)
    ]
    expected, actual = (share / share.sum() for share in shares)
    return float(((actual - expected) * np.log(actual / expected)).sum())


def test_equal_seeds_give_equal_archives_and_others_do_not(tmp_path: Path) -> None:
    first, again, other = (
        write_simulated_archive(tmp_path / name, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_the_archive_says_of_itself_that_it_is_simulated(simulated_zip: Path) -> None:
    assert DIABETES130.open(simulated_zip).data_origin == "simulated"


def test_the_reader_accepts_every_row(simulated_zip: Path) -> None:
    assert len(read_encounters(DIABETES130.open(simulated_zip))) == 60_000


def test_nothing_but_the_archive_is_left_behind(tmp_path: Path) -> None:
    write_simulated_archive(tmp_path, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_diabetes.zip"]


def test_the_layout_is_the_publishers(rows: pl.DataFrame) -> None:
    assert rows.columns == list(COLUMNS)


def test_the_marginals_are_those_of_the_published_archive(rows: pl.DataFrame) -> None:
    before = rows.head(ENCOUNTERS_BEFORE_SHIFT)
    assert (before["readmitted"] == "<30").mean() == pytest.approx(0.11, abs=0.01)
    assert (before["A1Cresult"] != "None").mean() == pytest.approx(0.176, abs=0.01)
    assert (before["race"] == "Caucasian").mean() == pytest.approx(0.748, abs=0.01)
    assert (before["gender"] == "Female").mean() == pytest.approx(0.538, abs=0.01)
    assert before["time_in_hospital"].mean() == pytest.approx(4.4, abs=0.5)
    assert (before["weight"] == "?").mean() == pytest.approx(0.968, abs=0.01)


def test_patients_return_with_one_more_inpatient_visit(rows: pl.DataFrame) -> None:
    visits = rows.with_columns(added=pl.col("number_inpatient").diff().over("patient_nbr")).drop_nulls("added")
    assert len(visits) > 5_000
    assert visits.filter(pl.col("number_inpatient") < 20)["added"].unique().to_list() == [1]


def test_outcomes_follow_the_stated_model(rows: pl.DataFrame) -> None:
    scored = rows.select(
        risk=1 / (1 + (-readmission_log_odds()).exp()), early=(pl.col("readmitted") == "<30").cast(pl.Int8)
    )
    tenths = scored.sort("risk").group_by(pl.int_range(pl.len()) * 10 // pl.len()).mean()
    assert len(tenths) == 10
    assert ((tenths["risk"] - tenths["early"]).abs() < 0.025).all()
    assert scored.filter(pl.col("risk") == 0)["early"].sum() == 0


def test_the_true_risk_discriminates_about_as_well_as_models_of_the_real_archive(rows: pl.DataFrame) -> None:
    log_odds = readmission_log_odds()
    scored = rows.head(ENCOUNTERS_BEFORE_SHIFT).select(
        log_odds=log_odds, early=(pl.col("readmitted") == "<30").cast(pl.Int8)
    )
    alive = scored.filter(pl.col("log_odds").is_finite())
    assert 0.68 < roc_auc_score(alive["early"].to_numpy(), alive["log_odds"].to_numpy()) < 0.72


@pytest.mark.parametrize("column", ["age", "number_inpatient", "admission_source_id", "number_emergency", "log_odds"])
def test_the_known_drift_starts_in_its_month_and_not_before(monthly: pl.DataFrame, column: str) -> None:
    (drift,) = SIMULATED_DRIFT
    scored = monthly.with_columns(
        log_odds=readmission_log_odds(), age=pl.col("age").str.extract(r"(\d+)").cast(pl.Int64)
    ).filter(pl.col("log_odds").is_finite())
    reference = scored.filter(pl.col("month").dt.year() == 2024)[column]
    batches = scored.filter(pl.col("month").dt.year() == 2025).partition_by("month", as_dict=True, maintain_order=True)
    index = {month: stability_index(reference, batch[column]) for (month,), batch in batches.items()}
    assert all((value > 0.10) == (month >= drift.month) for month, value in index.items()), index
    assert max(value for month, value in index.items() if month < drift.month) < 0.02
