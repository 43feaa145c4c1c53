from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.archives.archive import Archive, ArchiveError, MonthWindow, contract_of, describe_columns
from clinical_assets.archives.data_quality import FAULTS_SCHEMA
from clinical_assets.archives.physionet2019 import (
    COLUMNS,
    LABORATORY,
    PHYSIONET2019,
    VITAL_SIGNS,
    admission_times,
    read_records,
)
from clinical_assets.defs.sepsis.cohort import (
    MEASUREMENTS,
    IcuHour,
    count_plausible,
    icu_faults,
    icu_hours,
    quarantined_files,
)
from clinical_assets.governance.pseudonyms import pseudonymise
from clinical_assets.learning import hourly_features

REPLAY = MonthWindow(date(2024, 1, 1), date(2026, 1, 1))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return PHYSIONET2019.open(PHYSIONET2019.simulate(tmp_path_factory.mktemp("simulated"), seed=2))


def publish(folder: Path, **changed: list[float | None]) -> Archive:
    """Four hours of one patient of hospital B, with some of the publisher's columns replaced."""
    columns: dict[str, list[float | None]] = {name: [None] * 4 for name in COLUMNS}
    columns |= {"Age": [70.5] * 4, "Gender": [1] * 4, "HospAdmTime": [-4.5] * 4, "SepsisLabel": [0] * 4}
    columns |= {"ICULOS": [1, 2, 3, 4]}
    columns |= changed
    path = folder / "training_setB" / "p100001.psv"
    path.parent.mkdir()
    rows = pl.DataFrame(columns, schema=dict.fromkeys(COLUMNS, pl.Float64))
    rows.write_csv(path, separator="|", null_value="NaN")
    return PHYSIONET2019.open(path.parent)


def test_each_month_holds_its_own_patients_and_together_they_are_all(simulated: Archive) -> None:
    months = [date(2024 + month // 12, month % 12 + 1, 1) for month in range(24)]
    parts = [icu_hours(simulated, MonthWindow.of_month(month)) for month in months]
    assert all(part["month"].unique().to_list() == [month] for part, month in zip(parts, months, strict=True))
    together = icu_hours(simulated, REPLAY)
    assert sum(len(part) for part in parts) == len(together)
    assert sum(part["patient_id"].n_unique() for part in parts) == together["patient_id"].n_unique() == 6_000


def test_a_stay_is_in_the_month_of_its_admission_as_a_whole(simulated: Archive) -> None:
    rows = icu_hours(simulated, REPLAY)
    crossing = rows.filter(pl.col("observed_at").dt.date().dt.month_start() != pl.col("month"))
    assert len(crossing) > 100
    assert rows.group_by("patient_id").agg(pl.col("month").n_unique())["month"].max() == 1


def test_hours_follow_admission_and_the_outcome_is_known_two_days_later(tmp_path: Path) -> None:
    archive = publish(tmp_path, ICULOS=[2, 3, 5, 6], SepsisLabel=[0, 0, 1, 1])
    rows = icu_hours(archive, REPLAY)
    (admitted,) = admission_times(pl.Series(["p100001"]), pl.Series(["B"]))
    assert rows["observed_at"].to_list() == [admitted + timedelta(hours=hour) for hour in (1, 2, 4, 5)]
    assert rows["sepsis_6h"].to_list() == [0, 0, 1, 1]
    assert (rows["outcome_known_on"] - rows["observed_at"].dt.date()).unique().to_list() == [timedelta(days=2)]
    assert rows["hours_since_hospital_admission"].to_list() == [6.5, 7.5, 9.5, 10.5]
    assert rows["hour_id"].to_list() == ["p100001:2", "p100001:3", "p100001:5", "p100001:6"]


def test_hospital_b_joins_in_the_17th_month(simulated: Archive) -> None:
    rows = icu_hours(simulated, REPLAY)
    first = dict(rows.group_by("site").agg(pl.col("observed_at").min()).iter_rows())
    assert first["A"] < datetime(2024, 1, 8, tzinfo=UTC)
    assert datetime(2025, 5, 1, tzinfo=UTC) <= first["B"] < datetime(2025, 5, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("column", "values", "kept"),
    [
        ("FiO2", [-50, 4000, 0.4, 1.0], [None, None, pytest.approx(0.4), 1.0]),
        ("Temp", [50, 36.5, None, 14.2], [None, 36.5, None, pytest.approx(14.2)]),
        ("Calcium", [1.15, 8.5, 2.5, 31], [None, 8.5, 2.5, None]),
        ("HR", [0, 390, 391, -1], [0, 390, None, None]),
    ],
)
def test_a_value_no_patient_can_have_is_missing_and_counted(
    tmp_path: Path, column: str, values: list[float | None], kept: list[float | None]
) -> None:
    archive = publish(tmp_path, **{column: values})
    name = MEASUREMENTS[column]
    assert icu_hours(archive, REPLAY)[name].to_list() == kept
    (row,) = count_plausible(archive, REPLAY).filter(pl.col("column") == name).rows(named=True)
    measured = sum(value is not None for value in values)
    assert (row["site"], row["hours"], row["measured"]) == ("B", 4, measured)
    assert row["implausible"] == measured - sum(value is not None for value in kept)


def test_a_column_that_a_hospital_never_measures_is_counted_as_such(simulated: Archive) -> None:
    table = count_plausible(simulated, REPLAY)
    assert len(table) == (24 + 8) * len(MEASUREMENTS)
    assert table.columns == ["month", "site", "column", "hours", "measured", "implausible"]
    carbon_dioxide = table.filter(pl.col("column") == "end_tidal_co2_mmhg")
    assert carbon_dioxide.filter(pl.col("site") == "A")["measured"].unique().to_list() == [0]
    assert (carbon_dioxide.filter(pl.col("site") == "B")["measured"] > 0).all()


def test_the_counts_are_those_of_the_rows(simulated: Archive) -> None:
    month = date(2025, 7, 1)
    rows = icu_hours(simulated, MonthWindow.of_month(month))
    counted = count_plausible(simulated, REPLAY).filter(pl.col("month") == month)
    for name in ("calcium_mg_dl", "heart_rate_bpm"):
        table = counted.filter(pl.col("column") == name)
        assert (table["measured"] - table["implausible"]).sum() == rows[name].count()
    assert counted["hours"].max() == rows["site"].value_counts()["count"].max()


@pytest.mark.parametrize(
    ("age", "years", "band"),
    [(18.1, 18.1, "<45"), (45, 45, "[45-65)"), (74.9, 74.9, "[65-75)"), (88.9, 88.9, ">=85"), (100, 89, ">=85")],
)
def test_ages_above_89_are_one(tmp_path: Path, age: float, years: float, band: str) -> None:
    rows = icu_hours(publish(tmp_path, Age=[age] * 4), REPLAY)
    assert rows["age_years"].unique().to_list() == [pytest.approx(years)]
    assert rows["age_band"].unique().to_list() == [band]


@pytest.mark.parametrize(
    ("columns", "sex", "unit"),
    [
        ({"Gender": 1, "Unit1": 1, "Unit2": 0}, "male", "medical"),
        ({"Gender": 0, "Unit1": 0, "Unit2": 1}, "female", "surgical"),
        ({"Gender": None, "Unit1": None, "Unit2": None}, "unknown", "not recorded"),
    ],
)
def test_codes_are_put_into_words(tmp_path: Path, columns: dict[str, float | None], sex: str, unit: str) -> None:
    rows = icu_hours(publish(tmp_path, **{name: [value] * 4 for name, value in columns.items()}), REPLAY)
    assert rows.select("sex", "icu_unit", "site").unique().rows() == [(sex, unit, "B")]


def test_a_window_without_patients_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"2024-03-01 to 2024-04-01 \(exclusive\)"):
        icu_hours(publish(tmp_path), MonthWindow.of_month(date(2024, 3, 1)))


def test_a_broken_file_is_in_the_quarantine_and_not_in_the_cohort(tmp_path: Path) -> None:
    archive = publish(tmp_path)
    (archive.path / "p100002.psv").write_text("HR|O2Sat\n80|97\n")
    archive = PHYSIONET2019.open(archive.path)
    assert icu_hours(archive, REPLAY)["patient_id"].unique().to_list() == ["p100001"]
    assert quarantined_files(archive, REPLAY)["file"].to_list() == ["p100002.psv"]


def test_the_contract_says_what_every_column_means_and_has_a_range_for_every_measurement(simulated: Archive) -> None:
    assert contract_of(icu_hours) is IcuHour
    rows = icu_hours(simulated, MonthWindow.of_month(date(2024, 6, 1)))
    assert list(describe_columns(IcuHour)) == rows.columns
    assert list(MEASUREMENTS) == [*VITAL_SIGNS, *LABORATORY]


def test_the_features_know_the_measurements_by_the_cohort_s_names() -> None:
    assert list(MEASUREMENTS.values()) == list(hourly_features.MEASUREMENTS)
    assert {*hourly_features.KEYS, *hourly_features.CONTEXT} <= set(IcuHour.column_names())


def test_pseudonymised_rows_still_fulfil_the_contract(simulated: Archive) -> None:
    rows = icu_hours(simulated, MonthWindow.of_month(date(2024, 6, 1)))
    hidden = pseudonymise(rows, ["hour_id", "patient_id"], bytes(32))
    assert IcuHour.is_valid(hidden)
    assert hidden["hour_id"].n_unique() == len(rows)


def test_the_real_archive_has_the_faults_that_its_readers_report(raw_archives: Path) -> None:
    path = PHYSIONET2019.find(raw_archives)
    assert path is not None
    archive = PHYSIONET2019.open(path)
    rows = icu_hours(archive, MonthWindow.of_month(date(2025, 5, 1)))
    assert rows.group_by("site").agg(pl.col("patient_id").n_unique()).sort("site")["patient_id"].to_list() == (
        pytest.approx([720, 2_120], rel=0.2)
    )
    faults = count_plausible(archive, REPLAY).group_by("site", "column").agg(pl.col("measured", "implausible").sum())
    counts = {(site, column): (measured, wrong) for site, column, measured, wrong in faults.iter_rows()}
    assert counts["A", "end_tidal_co2_mmhg"] == (0, 0)
    assert counts["B", "fio2_fraction"][1] > 30
    assert counts["B", "temperature_c"][1] > 0
    assert counts["B", "calcium_mg_dl"][1] > 0.15 * counts["B", "calcium_mg_dl"][0]
    assert counts["A", "calcium_mg_dl"][1] < 10


def month_of(patient: str) -> MonthWindow:
    (admitted,) = admission_times(pl.Series([patient]), pl.Series(["B"]))
    return MonthWindow.of_month(admitted.date())


def test_the_faults_of_a_window_are_counted_by_hospital(tmp_path: Path) -> None:
    archive = publish(tmp_path, FiO2=[-50, 4000, 0.4, None], HR=[80, 81, 82, 83])
    faults = icu_faults(archive, month_of("p100001"))
    assert faults.schema == FAULTS_SCHEMA
    assert faults["subgroup"].unique().to_list() == ["site=B"]
    counts = {row[0]: row[1:] for row in faults.select("column", "fault", "affected", "rows").iter_rows()}
    assert counts["fio2_fraction"] == ("implausible", 2, 3)
    assert counts["heart_rate_bpm"] == ("implausible", 0, 4)
    assert counts["arterial_ph"] == ("missing", 4, 4)
    assert set(counts) == set(MEASUREMENTS.values())
    assert icu_faults(archive, MonthWindow.of_month(date(2024, 1, 1))).is_empty()


@pytest.mark.parametrize("source", ["the folder of a hospital", "the folder of all hospitals"])
def test_a_broken_file_is_a_fault_of_the_month_in_which_its_patient_would_have_come(
    tmp_path: Path, source: str
) -> None:
    archive = publish(tmp_path)
    (archive.path / "p100002.psv").write_text("no header\n")
    archive = PHYSIONET2019.open(archive.path if "a hospital" in source else tmp_path)
    (broken,) = icu_faults(archive, month_of("p100002")).filter(fault="quarantined").to_dicts()
    assert (broken["place"], broken["subgroup"], broken["column"]) == ("p100002", "site=B", None)
    assert (broken["affected"], broken["rows"]) == (1, 1)
    assert icu_faults(archive, REPLAY).filter(fault="quarantined").height == 1


def test_the_hours_of_a_month_are_read_from_its_own_patients_files_alone(tmp_path: Path) -> None:
    archive = PHYSIONET2019.open(PHYSIONET2019.simulate(tmp_path, seed=4))
    month = MonthWindow.of_month(date(2024, 6, 1))
    expected = icu_hours(archive, month)
    admitted = read_records(archive, (month.start, month.end)).hours
    everybody = read_records(archive).hours
    assert set(admitted["patient"]) == set(expected["patient_id"])
    assert 0 < admitted["patient"].n_unique() < everybody["patient"].n_unique() / 10
    assert everybody.join(admitted.select("site", "patient").unique(), on=["site", "patient"], how="semi").equals(
        admitted
    )
