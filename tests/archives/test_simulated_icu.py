from datetime import date
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.archives.physionet2019 import COLUMNS, PHYSIONET2019, read_records
from clinical_assets.archives.simulated_icu import (
    GUIDELINE_CHANGE,
    PATIENTS,
    SIMULATED_DRIFT,
    UNIT_CHANGE,
    draw_hours,
    write_simulated_archive,
)
from clinical_assets.protocol import Verdict


@pytest.fixture(scope="module")
def hours() -> pl.DataFrame:
    return draw_hours(seed=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return PHYSIONET2019.simulate(tmp_path_factory.mktemp("simulated"), seed=3)


def before_and_after(hours: pl.DataFrame, month: date) -> tuple[pl.DataFrame, pl.DataFrame]:
    return hours.filter(pl.col("month") < month), hours.filter(pl.col("month") >= month)


def odds_ratio(hours: pl.DataFrame, column: str) -> float:
    """How much more often a column is measured in hours labelled septic than in others, as a ratio of odds."""
    measured = hours.group_by("SepsisLabel").agg(pl.col(column).count() / pl.len()).sort("SepsisLabel")[column]
    others, septic = measured / (1 - measured)
    return septic / others


def test_equal_seeds_give_equal_archives_and_others_do_not(tmp_path: Path, written: Path) -> None:
    again, other = (write_simulated_archive(tmp_path / name, seed) for name, seed in (("a", 3), ("b", 4)))
    for zipped in ("training_setA.zip", "training_setB.zip"):
        assert (again / zipped).read_bytes() == (written / zipped).read_bytes()
        assert (other / zipped).read_bytes() != (written / zipped).read_bytes()


def test_nothing_but_the_archive_is_left_behind(written: Path) -> None:
    assert written.name == "physionet2019"
    assert sorted(path.name for path in written.iterdir()) == ["training_setA.zip", "training_setB.zip"]


@pytest.mark.parametrize("part", ["", "training_setA.zip", "training_setB.zip"])
def test_the_archive_and_each_zip_say_that_they_are_simulated(written: Path, part: str) -> None:
    assert PHYSIONET2019.open(written / part).data_origin == "simulated"


def test_the_reader_takes_every_patient_and_finds_the_hours_as_they_were_drawn(
    written: Path, hours: pl.DataFrame
) -> None:
    records = read_records(PHYSIONET2019.open(written))
    assert records.quarantined.is_empty()
    drawn = hours.sort("site", "patient", "ICULOS").select("site", "patient", pl.col(COLUMNS).cast(pl.Float32))
    assert records.hours.equals(drawn)
    assert dict(records.hours.group_by("site").agg(pl.col("patient").n_unique()).iter_rows()) == PATIENTS


def test_the_label_turns_on_once_and_stays(hours: pl.DataFrame) -> None:
    turns = hours.select(pl.col("SepsisLabel").diff().over("patient")).to_series()
    assert turns.min() == 0
    septic = hours.group_by("patient").agg(pl.col("SepsisLabel").max())["SepsisLabel"].mean()
    assert septic == pytest.approx(0.12, abs=0.02)


@pytest.mark.parametrize(("column", "change"), [("HR", 1), ("Resp", 1), ("SBP", -1), ("WBC", 1), ("Lactate", 1)])
def test_sepsis_shows_in_the_values(hours: pl.DataFrame, column: str, change: int) -> None:
    others, septic = (hours.filter(pl.col("SepsisLabel") == label)[column].mean() for label in (0, 1))
    assert isinstance(septic, float)
    assert isinstance(others, float)
    assert (septic - others) * change > 0


def test_the_known_drift_is_of_three_kinds_and_in_order() -> None:
    assert [drift.verdict for drift in SIMULATED_DRIFT] == [
        Verdict.POPULATION_SHIFT,
        Verdict.DATA_FAULT,
        Verdict.CONCEPT_SHIFT,
    ]
    assert [drift.month for drift in SIMULATED_DRIFT] == [date(2025, 5, 1), date(2025, 8, 1), date(2025, 10, 1)]


def test_hospital_b_joins_in_its_month_with_other_measurements(hours: pl.DataFrame) -> None:
    before, after = before_and_after(hours, SIMULATED_DRIFT[0].month)
    assert before["site"].unique().to_list() == ["A"]
    assert before["EtCO2"].count() == 0
    assert set(after["site"].unique()) == {"A", "B"}
    b = after.filter(pl.col("site") == "B")
    assert b["EtCO2"].count() > 1_000
    assert b["FiO2"].min() == -50
    assert b["FiO2"].max() == 4_000
    assert b["Temp"].max() == 50


def test_the_unit_of_urea_nitrogen_changes_in_its_month_and_in_hospital_a_alone(hours: pl.DataFrame) -> None:
    before, after = before_and_after(hours, UNIT_CHANGE)
    medians = {
        (site, name): part.filter(pl.col("site") == site)["BUN"].median()
        for site in "AB"
        for name, part in (("before", before), ("after", after))
    }
    assert medians["A", "before"] == pytest.approx(18, abs=3)
    assert medians["A", "after"] == pytest.approx(18 * 0.357, abs=1)
    assert medians["B", "after"] == pytest.approx(18, abs=3)


def test_from_the_guideline_on_a_measured_lactate_tells_nothing(hours: pl.DataFrame) -> None:
    before, after = before_and_after(hours, GUIDELINE_CHANGE)
    assert odds_ratio(before, "Lactate") > 3
    assert odds_ratio(after, "Lactate") == pytest.approx(1, abs=0.2)
    assert odds_ratio(after, "BUN") > 1.3
