from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from small_platform import (
    MODEL,
    MONTHS,
    BuildArchive,
    Developed,
    SmallPlatform,
    small_protocol,
    write_archive,
)

from clinical_assets.archives.archive import ArchiveError, MonthWindow
from clinical_assets.defs.readmission.cohort import Encounter
from clinical_assets.governance import safe_harbor
from clinical_assets.governance.small_cells import FEWER
from clinical_assets.learning.splits import take_patients
from clinical_assets.lifecycle import data
from clinical_assets.lifecycle.checks import breaches_of
from clinical_assets.lifecycle.data import features
from clinical_assets.resources.home import Home

MARCH, APRIL = date(2024, 3, 1), date(2024, 4, 1)
DATASET, FEATURES = f"{MODEL}.dataset", f"{MODEL}.features"


@pytest.fixture
def one_a_month(encounters: pl.DataFrame) -> pl.DataFrame:
    """48 encounters of 48 patients, two a month, each discharged home."""
    return encounters.head(48).with_columns(
        pl.Series("encounter_id", [str(1000 + row) for row in range(48)]),
        pl.Series("patient_nbr", [str(100 + row) for row in range(48)]),
        discharge_disposition_id=pl.lit("1"),
    )


@pytest.fixture
def take_in(tmp_path: Path, build_archive: BuildArchive) -> Callable[[pl.DataFrame], SmallPlatform]:
    """A platform that is fed from these rows; called again, its archive has been replaced."""

    def platform(rows: pl.DataFrame) -> SmallPlatform:
        return SmallPlatform.on(tmp_path / "home", build_archive(rows), small_protocol())

    return platform


TakeIn = Callable[[pl.DataFrame], SmallPlatform]


def in_row(row: int, column: str, value: str) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(column).alias(column)


def error_of(platform: SmallPlatform, month: date) -> tuple[str, str]:
    """The step that fails when a month is taken in, and why."""
    result = platform.run("intake", month, raise_on_error=False)
    assert not result.success
    [event] = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    while error is not None and error.cause is not None and not error.message.startswith("clinical_assets."):
        error = error.cause
    assert error is not None
    return event.step_key or "", error.message


def test_a_month_materialised_twice_is_one_month(take_in: TakeIn, one_a_month: pl.DataFrame) -> None:
    platform = take_in(one_a_month)
    platform.run("intake", MARCH)
    first = platform.lake.read(FEATURES)
    platform.run("intake", MARCH)
    assert platform.lake.read(FEATURES).equals(first)
    assert platform.lake.read(DATASET).height == 2


def test_of_a_month_of_two_patients_dagster_gets_no_count(take_in: TakeIn, one_a_month: pl.DataFrame) -> None:
    platform = take_in(one_a_month)
    result = platform.run("intake", MARCH)
    made = [
        event.step_materialization_data.materialization for event in result.all_events if event.is_step_materialization
    ]
    assert {made_of.asset_key.path[-1] for made_of in made} >= {"dataset", "data_quality", "features"}
    counts = {
        (made_of.asset_key.path[-1], name)
        for made_of in made
        for name, value in made_of.metadata.items()
        if isinstance(value, dg.IntMetadataValue) and value.value == 2 and name != "lake/snapshot"
    }
    assert counts == set()
    [dataset] = [made_of for made_of in made if made_of.asset_key.path[-1] == "dataset"]
    assert dataset.metadata["patients"].value == FEWER


def test_months_stand_beside_each_other_in_any_order(take_in: TakeIn, one_a_month: pl.DataFrame) -> None:
    platform = take_in(one_a_month)
    platform.run("intake", APRIL)
    platform.run("intake", MARCH)
    assert platform.lake.months(DATASET) == [MARCH, APRIL]
    assert platform.lake.read(DATASET, month=MARCH)["month"].unique().to_list() == [MARCH]


def test_no_identifier_of_the_archive_reaches_the_lake(take_in: TakeIn, one_a_month: pl.DataFrame) -> None:
    platform = take_in(one_a_month.with_columns(pl.col("encounter_id", "patient_nbr") + pl.lit("77331")))
    platform.run("intake", MARCH)
    for table in (DATASET, FEATURES):
        rows = platform.lake.read(table)
        assert not any(rows[column].cast(pl.String).str.contains("77331").any() for column in rows.columns), table
    for file in platform.home.lake_catalogue.parent.rglob("*"):
        assert not file.is_file() or b"77331" not in file.read_bytes(), file


def test_of_a_share_of_the_patients_each_month_has_the_same_ones(
    encounters: pl.DataFrame, build_archive: BuildArchive, tmp_path: Path
) -> None:
    """Each of 24 patients comes in two months, a year apart."""
    patients = [str(100 + row % 24) for row in range(48)]
    kept = take_patients(pl.DataFrame({"patient": patients[:24]}), "patient", 0.5)["patient"]
    first = int(kept[0]) - 100
    month = MonthWindow.of_month(date(2024, 1 + first // 2, 1)).start
    rows = encounters.head(48).with_columns(
        pl.Series("encounter_id", [str(1000 + row) for row in range(48)]),
        pl.Series("patient_nbr", patients),
        discharge_disposition_id=pl.lit("1"),
    )
    home = Home(tmp_path / "home", tmp_path)
    home.prepare()
    platform = SmallPlatform.at(home, build_archive(rows), small_protocol(), share_of_patients=0.5)
    results = [platform.run("intake", x) for x in (month, month.replace(year=2025))]
    dataset = platform.lake.read(DATASET)
    of_months = [set(dataset.filter(pl.col("month").dt.year() == year)["patient_id"]) for year in (2024, 2025)]
    of_pair = {str(100 + first // 2 * 2), str(101 + first // 2 * 2)}
    assert of_months[0] == of_months[1]
    assert len(of_months[0]) == len(of_pair & set(kept))
    (event,) = results[0].asset_materializations_for_node("dataset")
    assert event.metadata["share_of_patients"].value == 0.5


def test_a_month_says_where_its_rows_come_from(take_in: TakeIn, one_a_month: pl.DataFrame) -> None:
    result = take_in(one_a_month).run("intake", MARCH)
    [event] = result.asset_materializations_for_node("dataset")
    assert event.metadata["data_origin"].value == "simulated"
    assert event.metadata["patients"].value == FEWER


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda rows: rows.with_columns(discharge_disposition_id=pl.lit("11")),
            "has no eligible encounter from 2024-03",
        ),
        (lambda rows: rows.with_columns(in_row(5, "encounter_id", "1004")), "encounter_id"),
        (lambda rows: rows.with_columns(in_row(5, "age", "[70-75)")), "[70-75)"),
        (lambda rows: rows.with_columns(in_row(5, "race", "Martian")), "Martian"),
        (lambda rows: rows.with_columns(in_row(5, "insulin", "3")), "insulin"),
        (lambda rows: rows.with_columns(in_row(5, "time_in_hospital", "many")), "time_in_hospital"),
        (lambda rows: rows.rename({"insulin": "Insulin2"}), "insulin"),
        (lambda rows: rows.drop("readmitted"), "readmitted"),
    ],
    ids=[
        "empty month",
        "repeated id",
        "unknown band",
        "unknown category",
        "number as category",
        "word",
        "renamed",
        "absent",
    ],
)
def test_a_spoilt_archive_fails_the_run_with_one_clear_error_and_leaves_no_month(
    take_in: TakeIn, one_a_month: pl.DataFrame, spoil: Callable[[pl.DataFrame], pl.DataFrame], words: str
) -> None:
    """The archive is whole as a month is taken in, and spoilt when the next one arrives."""
    platform = take_in(one_a_month)
    platform.run("intake", APRIL)
    before = platform.lake.latest_snapshot()
    take_in(spoil(one_a_month))
    step, message = error_of(platform, MARCH)
    assert step == "identified_feed"
    assert message.startswith("clinical_assets.archives.archive.ArchiveError: ")
    assert words in message
    assert platform.lake.latest_snapshot() == before
    assert platform.lake.months(DATASET) == platform.lake.months(FEATURES) == [APRIL]


def test_a_missing_archive_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", tmp_path / "empty")
    home.prepare()
    _, message = error_of(SmallPlatform(home, small_protocol()), MARCH)
    assert "clinical fetch readmission" in message
    assert not SmallPlatform(home, small_protocol()).lake.exists(DATASET)


def test_a_home_fed_from_one_archive_refuses_another(
    take_in: TakeIn, one_a_month: pl.DataFrame, tmp_path: Path, published: tuple[pl.DataFrame, bytes]
) -> None:
    take_in(one_a_month)
    other = write_archive(tmp_path / "other" / "dataset_diabetes", one_a_month, published[1])
    with pytest.raises(ArchiveError, match=f"already holds {MODEL} data from"):
        SmallPlatform.on(tmp_path / "home", other, small_protocol())


def breach(rows: pl.DataFrame) -> pl.DataFrame:
    """A month whose stays are negative: no archive reader lets that through, a cohort function with a bug might."""
    return rows.with_columns(days_in_hospital=pl.lit(-1, pl.Int64))


def test_a_breach_of_the_contract_stops_the_run_before_features(
    take_in: TakeIn, one_a_month: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = take_in(one_a_month)
    de_identify = data.de_identified_rows
    monkeypatch.setattr(data, "de_identified_rows", lambda *given: breach(de_identify(*given)))
    result = platform.run("intake", MARCH, raise_on_error=False)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["every_value_keeps_the_contract"].passed
    assert checks["patients_are_pseudonyms"].passed
    assert not platform.lake.exists(FEATURES)


def test_a_name_that_is_no_pseudonym_stops_the_run_before_features(
    take_in: TakeIn, one_a_month: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = take_in(one_a_month)
    monkeypatch.setattr(safe_harbor, "pseudonymise", lambda rows, *_: rows)
    monkeypatch.setattr(safe_harbor, "shift_weeks", lambda patients, _: pl.zeros(len(patients), pl.Int64, eager=True))
    result = platform.run("intake", MARCH, raise_on_error=False)
    [failed] = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed.check_name == "patients_are_pseudonyms"
    assert failed.metadata["rows_with_other_names"].value == FEWER
    assert not platform.lake.exists(FEATURES)


def test_a_repeated_unit_stops_the_run_before_the_next_asset(
    take_in: TakeIn, one_a_month: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = take_in(one_a_month)
    make = data.load_object
    doubled: dict[str, Any] = {
        small_protocol().features or "": lambda rows: pl.concat([make(small_protocol().features or "")(rows)] * 2)
    }
    monkeypatch.setattr(data, "load_object", lambda path: doubled.get(path) or make(path))
    result = platform.run("month", MARCH, raise_on_error=False)
    [failed] = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert (failed.check_name, failed.metadata["repeated_rows"].value) == ("one_row_a_unit", FEWER)
    started = {event.step_key for event in result.all_events if event.is_step_start}
    assert "features" in started
    assert "predictions" not in started


def test_a_contract_s_breaches_are_counted_by_rule_and_missing_columns_named(
    take_in: TakeIn, one_a_month: pl.DataFrame
) -> None:
    platform = take_in(one_a_month)
    platform.run("intake", MARCH)
    rows = platform.lake.read(DATASET)
    assert breaches_of(Encounter, rows).passed
    broken = breaches_of(Encounter, breach(rows))
    assert not broken.passed
    assert broken.metadata["rows_breaking"].value == {"days_in_hospital|min": 2}
    absent = breaches_of(Encounter, rows.drop("days_in_hospital"))
    assert not absent.passed
    assert "days_in_hospital" in str(absent.metadata["breach"].value)


def test_features_of_four_rows_are_four_rows(take_in: TakeIn, one_a_month: pl.DataFrame) -> None:
    """The asset is an ordinary function of its inputs."""
    platform = take_in(one_a_month)
    for month in (MARCH, APRIL):
        platform.run("intake", month)
    four = platform.lake.read(DATASET)
    result = features(protocol=small_protocol(), dataset=four)
    assert isinstance(result, dg.MaterializeResult)
    assert result.value["encounter_id"].to_list() == four["encounter_id"].to_list()
    assert (result.metadata or {})["features"] == len(small_protocol().feature_columns(result.value.columns))


@pytest.mark.parametrize("asset", ["dataset", "features", "data_quality"])
def test_rows_of_months_made_together_are_reported_month_by_month(developed: Developed, asset: str) -> None:
    for month in MONTHS[:4]:
        made_of = dg.AssetRecordsFilter(dg.AssetKey([MODEL, asset]), asset_partitions=[f"{month:%Y-%m}"])
        [record] = developed.instance.fetch_materializations(made_of, limit=5).records
        assert record.asset_materialization is not None
        told = record.asset_materialization.metadata["dagster/row_count"].value
        assert told == developed.platform.lake.read(f"{MODEL}.{asset}", month=month).height
