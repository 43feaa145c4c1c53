import zipfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.archives.archive import Archive, ArchiveError, MonthWindow, contract_of, describe_columns
from clinical_assets.archives.diabetes130 import CODES_FILE, DATA_FILE, DIABETES130
from clinical_assets.defs.readmission.cohort import (
    Encounter,
    all_encounters,
    encounter_features,
    encounters,
    group_icd9,
)
from clinical_assets.governance.pseudonyms import pseudonymise
from clinical_assets.protocol import read_protocol

HISTORY = [
    "earlier_encounters_90d",
    "earlier_readmissions_90d",
    "earlier_days_in_hospital_90d",
    "last_readmitted_30d",
    "last_days_in_hospital",
    "days_since_last_discharge",
]
REPLAY = MonthWindow(date(2024, 1, 1), date(2026, 1, 1))

Publish = Callable[[pl.DataFrame], Archive]


@pytest.fixture(scope="module")
def simulated_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DIABETES130.simulate(tmp_path_factory.mktemp("simulated"), seed=2)


@pytest.fixture(scope="module")
def simulated(simulated_zip: Path) -> Archive:
    return DIABETES130.open(simulated_zip)


@pytest.fixture
def one_a_month(simulated_zip: Path) -> pl.DataFrame:
    """24 encounters of 24 patients, all discharged home and not readmitted: the replay puts one into each month."""
    with zipfile.ZipFile(simulated_zip) as packed:
        rows = pl.read_csv(packed.read(f"dataset_diabetes/{DATA_FILE}"), infer_schema=False).head(24)
    return rows.with_columns(
        pl.Series("encounter_id", range(1, 25)),
        pl.Series("patient_nbr", range(101, 125)),
        pl.Series("time_in_hospital", range(1, 25)) % 14 + 1,
        discharge_disposition_id=pl.lit(1),
        readmitted=pl.lit("NO"),
    )


@pytest.fixture
def publish(tmp_path: Path, simulated_zip: Path) -> Publish:
    def write(rows: pl.DataFrame) -> Archive:
        rows.write_csv(tmp_path / DATA_FILE)
        with zipfile.ZipFile(simulated_zip) as packed:
            (tmp_path / CODES_FILE).write_bytes(packed.read(f"dataset_diabetes/{CODES_FILE}"))
        return DIABETES130.open(tmp_path)

    return write


def in_row(row: int, value: object, otherwise: str) -> pl.Expr:
    """A column that has a value in one row, counted from 0, and is as before elsewhere."""
    return pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(pl.col(otherwise)).alias(otherwise)


def test_each_month_holds_its_own_encounters_and_together_they_are_all(simulated: Archive) -> None:
    months = [date(2024 + month // 12, month % 12 + 1, 1) for month in range(24)]
    parts = [encounters(simulated, MonthWindow.of_month(month)) for month in months]
    assert all(part["month"].unique().to_list() == [month] for part, month in zip(parts, months, strict=True))
    assert pl.concat(parts).equals(encounters(simulated, REPLAY))


def test_deaths_and_hospice_are_left_out_but_do_not_move_the_others(
    one_a_month: pl.DataFrame, publish: Publish
) -> None:
    before = encounters(publish(one_a_month), REPLAY)
    after = encounters(publish(one_a_month.with_columns(in_row(3, 11, "discharge_disposition_id"))), REPLAY)
    assert after["encounter_id"].to_list() == [str(n) for n in range(1, 25) if n != 4]
    assert after.equals(before.filter(pl.col("encounter_id") != "4"))


@pytest.mark.parametrize("disposition", [11, 13, 14])
def test_a_month_of_deaths_alone_is_an_error_that_names_it(
    one_a_month: pl.DataFrame, publish: Publish, disposition: int
) -> None:
    archive = publish(one_a_month.with_columns(in_row(3, disposition, "discharge_disposition_id")))
    with pytest.raises(ArchiveError, match="2024-04-01 to 2024-05-01"):
        encounters(archive, MonthWindow.of_month(date(2024, 4, 1)))


def test_a_month_outside_the_calendar_is_an_error_that_names_it(simulated: Archive) -> None:
    with pytest.raises(ArchiveError, match="2026-01-01"):
        encounters(simulated, MonthWindow.of_month(date(2026, 1, 1)))


def test_the_outcome_is_early_readmission_and_known_after_30_days(one_a_month: pl.DataFrame, publish: Publish) -> None:
    spoilt = one_a_month.with_columns(in_row(0, "<30", "readmitted")).with_columns(in_row(1, ">30", "readmitted"))
    rows = encounters(publish(spoilt), REPLAY)
    assert rows["readmitted_30d"].to_list() == [1] + [0] * 23
    assert (rows["outcome_known_on"] - rows["discharged_at"].dt.date()).unique().to_list() == [timedelta(days=30)]


def test_a_patient_seen_for_the_first_time_has_no_history(one_a_month: pl.DataFrame, publish: Publish) -> None:
    rows = encounters(publish(one_a_month), REPLAY)
    assert rows.select(HISTORY).unique().rows() == [(0, 0, 0, None, None, None)]


def test_an_encounter_of_the_month_before_is_history(one_a_month: pl.DataFrame, publish: Publish) -> None:
    returning = one_a_month.with_columns(in_row(1, 101, "patient_nbr")).with_columns(in_row(0, "<30", "readmitted"))
    second = encounters(publish(returning), REPLAY).row(1, named=True)
    assert [second[name] for name in HISTORY[:5]] == [1, 1, 2, 1, 2]
    assert second["days_since_last_discharge"] == pytest.approx(30.0, abs=1.0)


def test_a_hospice_stay_counts_as_history(one_a_month: pl.DataFrame, publish: Publish) -> None:
    spoilt = one_a_month.with_columns(in_row(0, 13, "discharge_disposition_id"))
    rows = encounters(publish(spoilt.with_columns(in_row(1, 101, "patient_nbr"))), REPLAY)
    assert rows.row(0, named=True)["encounter_id"] == "2"
    assert rows.row(0, named=True)["earlier_encounters_90d"] == 1


def test_an_encounter_more_than_90_days_ago_is_no_history(one_a_month: pl.DataFrame, publish: Publish) -> None:
    rows = encounters(publish(one_a_month.with_columns(in_row(4, 101, "patient_nbr"))), REPLAY)
    assert rows.row(4, named=True)["earlier_encounters_90d"] == 0
    assert rows.row(4, named=True)["days_since_last_discharge"] is None


def test_history_is_that_of_the_same_patient(simulated: Archive) -> None:
    rows = all_encounters(simulated).select(
        "patient_id", "discharged_at", "readmitted_30d", "days_in_hospital", *HISTORY
    )
    patients = rows.filter(pl.col("earlier_encounters_90d") > 1)["patient_id"].unique().head(200)
    rows = rows.filter(pl.col("patient_id").is_in(patients))
    pairs = rows.join(rows.select("patient_id", past=pl.col("discharged_at"), early="readmitted_30d"), on="patient_id")
    age = pl.col("discharged_at") - pl.col("past")
    counted = (
        pairs.filter((age > timedelta(0)) & (age <= timedelta(days=90)))
        .group_by("patient_id", "discharged_at")
        .agg(n=pl.len().cast(pl.Int64), early=pl.col("early").sum().cast(pl.Int64))
    )
    both = rows.join(counted, on=["patient_id", "discharged_at"], how="left").with_columns(
        pl.col("n", "early").fill_null(0)
    )
    assert len(both) > 400
    assert both["n"].equals(both["earlier_encounters_90d"], check_names=False)
    assert both["early"].equals(both["earlier_readmissions_90d"], check_names=False)


def test_nothing_of_the_future_is_in_the_features(one_a_month: pl.DataFrame, publish: Publish) -> None:
    """Whatever happens from the 13th month on, the first twelve months' features stay as they were."""
    one_patient = one_a_month.with_columns(patient_nbr=pl.lit(101))
    later = pl.int_range(pl.len()) >= 12
    otherwise = one_patient.with_columns(
        pl.when(later).then(pl.lit("<30")).otherwise("readmitted").alias("readmitted"),
        pl.when(later).then(14).otherwise("time_in_hospital").alias("time_in_hospital"),
    )
    first, second = (encounter_features(encounters(publish(rows), REPLAY)) for rows in (one_patient, otherwise))
    assert first.head(12).equals(second.head(12))
    assert not first.tail(12).equals(second.tail(12))


def test_a_row_s_own_outcome_is_not_in_its_features(one_a_month: pl.DataFrame, publish: Publish) -> None:
    first = encounter_features(encounters(publish(one_a_month), REPLAY))
    second = encounter_features(encounters(publish(one_a_month.with_columns(readmitted=pl.lit("<30"))), REPLAY))
    assert first.drop("readmitted_30d").equals(second.drop("readmitted_30d"))
    assert second["readmitted_30d"].sum() == 24


def test_not_measured_unknown_and_not_recorded_are_kept_apart(one_a_month: pl.DataFrame, publish: Publish) -> None:
    spoilt = one_a_month.with_columns(
        gender=pl.lit("Unknown/Invalid"), race=pl.lit("?"), A1Cresult=pl.lit("None"), max_glu_serum=pl.lit("Norm")
    )
    rows = encounters(publish(spoilt), REPLAY)
    assert rows.select("sex", "ethnicity", "a1c_result", "max_glucose_serum").unique().rows() == [
        ("unknown", None, "not measured", "normal")
    ]


@pytest.mark.parametrize(
    ("code", "group"), [(7, "emergency room"), (1, "referral"), (2, "referral"), (5, "transfer"), (17, "unknown")]
)
def test_admission_sources_are_grouped(one_a_month: pl.DataFrame, publish: Publish, code: int, group: str) -> None:
    rows = encounters(publish(one_a_month.with_columns(admission_source_id=pl.lit(code))), REPLAY)
    assert rows["admission_source"].unique().to_list() == [group]


@pytest.mark.parametrize(
    ("code", "group"),
    [
        ("8", "infectious disease"),
        ("250.83", "diabetes"),
        ("251.3", "endocrine, other"),
        ("402", "hypertension or rheumatic heart disease"),
        ("403.91", "hypertensive kidney disease"),
        ("414", "chronic ischaemic heart disease"),
        ("428", "heart failure"),
        ("429.9", "heart disease, other"),
        ("486", "acute respiratory infection or pneumonia"),
        ("496", "chronic obstructive pulmonary disease or asthma"),
        ("999", "complication of care"),
        ("V57", "supplementary factor (V code)"),
        ("E909", "external cause (E code)"),
        (None, None),
    ],
)
def test_icd9_codes_fall_into_their_clinical_group(code: str | None, group: str | None) -> None:
    frame = pl.DataFrame({"code": [code]}, schema={"code": pl.String})
    assert frame.select(group_icd9(pl.col("code"))).item() == group


def test_features_are_text_or_float32_in_the_order_of_the_rows(simulated: Archive) -> None:
    dataset = encounters(simulated, MonthWindow.of_month(date(2024, 6, 1))).with_columns(
        data_origin=pl.lit("simulated")
    )
    features = encounter_features(dataset)
    protocol = read_protocol("readmission")
    for column in protocol.feature_columns(features.columns):
        assert features[column].dtype in (pl.String, pl.Float32), column
    keys = [column for column in protocol.key_columns if column != "split"]
    assert features.select(keys, *protocol.subgroups).equals(dataset.select(keys, *protocol.subgroups))


def test_the_contract_says_what_every_column_means(simulated: Archive) -> None:
    assert contract_of(encounters) is Encounter
    rows = encounters(simulated, MonthWindow.of_month(date(2024, 6, 1)))
    assert list(describe_columns(Encounter)) == rows.columns


def test_pseudonymised_rows_still_fulfil_the_contract(simulated: Archive) -> None:
    rows = encounters(simulated, MonthWindow.of_month(date(2024, 6, 1)))
    hidden = pseudonymise(rows, ["encounter_id", "patient_id"], bytes(32))
    assert Encounter.is_valid(hidden)
    assert hidden["patient_id"].n_unique() == rows["patient_id"].n_unique()


def test_the_real_archive_gives_the_published_rate_of_readmission(raw_archives: Path) -> None:
    path = DIABETES130.find(raw_archives)
    assert path is not None
    rows = all_encounters(DIABETES130.open(path))
    eligible = rows.filter(~pl.col("death_or_hospice"))
    assert rows.filter(pl.col("death_or_hospice"))["readmitted_30d"].mean() == pytest.approx(0.0, abs=0.02)
    assert eligible["readmitted_30d"].mean() == pytest.approx(0.114, abs=0.005)
    assert eligible["diagnosis_1_group"].null_count() == eligible["diagnosis_1"].null_count()
    assert eligible["diagnosis_3_group"].null_count() == eligible["diagnosis_3"].null_count()
    assert set(
        rows.filter(pl.col("death_or_hospice"))["discharge_disposition"].str.contains("(?i)expired|hospice")
    ) == {True}
