import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinical_assets.monitoring import DriftMonitor
from clinical_assets.monitoring.column_reference import DriftError
from clinical_assets.protocol import Monitoring, Verdict

Encounters = Callable[[int], pl.DataFrame]


def policy(**changes: float | str) -> Monitoring:
    return Monitoring.model_validate({"headline": "auroc", "tolerated_loss": 0.02, **changes})


def evidence(columns: pl.DataFrame, column: str, statistic: str) -> dict[str, float | bool | None]:
    return columns.filter(column=column, statistic=statistic).row(0, named=True)


def test_a_month_like_the_reference_is_stable(encounters: Encounters) -> None:
    report = DriftMonitor.fit(encounters(8000), patient="patient_id").check(encounters(1500))
    assert report.verdict is Verdict.STABLE
    assert report.severity < 1
    assert not report.columns["flagged"].any()
    assert "patient_id" not in report.columns["column"]


def test_streams_without_drift_alarm_no_more_often_than_the_policy_states(encounters: Encounters) -> None:
    stated, streams = 0.2, 200
    strict = policy(false_alarms_per_year=stated, relevant_psi=1e-9, relevant_missing_rate_change=1e-9)
    alarms = 0
    for _ in range(10):
        monitor = DriftMonitor.fit(encounters(2000), strict, patient="patient_id", looks_per_year=1)
        batches = [encounters(300) for _ in range(streams // 10)]
        alarms += sum(bool(monitor.check(batch).columns["flagged"].any()) for batch in batches)
    assert alarms <= stated * streams


def test_repeated_rows_of_one_patient_are_no_extra_evidence(encounters: Encounters) -> None:
    stated, streams = 0.2, 60
    strict = policy(false_alarms_per_year=stated, relevant_psi=1e-9, relevant_missing_rate_change=1e-9)
    alarms = {True: 0, False: 0}
    for _ in range(streams):
        reference, batch = (pl.concat([encounters(rows)] * 12) for rows in (1500, 60))
        for grouped in alarms:
            patient = "patient_id" if grouped else None
            watched = reference.columns[1:]
            monitor = DriftMonitor.fit(reference, strict, columns=watched, patient=patient, looks_per_year=1)
            alarms[grouped] += bool(monitor.check(batch).columns["flagged"].any())
    assert alarms[True] <= stated * streams
    assert alarms[False] > stated * streams


def test_older_patients_are_a_population_shift(encounters: Encounters) -> None:
    batch = encounters(1500).with_columns(pl.col("age") + 8)
    report = DriftMonitor.fit(encounters(8000)).check(batch)
    assert report.verdict is Verdict.POPULATION_SHIFT
    assert report.severity > 1
    assert report.columns.row(0, named=True)["column"] == "age"
    assert "age" in report.reason


def test_what_matters_less_than_the_policy_says_is_no_shift_however_certain(encounters: Encounters) -> None:
    batch = encounters(40_000).with_columns(pl.col("age") + 2)
    report = DriftMonitor.fit(encounters(40_000)).check(batch)
    age = evidence(report.columns, "age", "psi")
    assert age["evidence"] is not None
    assert age["evidence"] > 20
    assert not age["flagged"]
    assert report.verdict is Verdict.STABLE


def test_a_shift_of_the_predicted_risk_alone_suffices(encounters: Encounters) -> None:
    batch = encounters(1500).with_columns((pl.col("predicted_risk") * 2).clip(0, 1))
    monitor = DriftMonitor.fit(encounters(8000), policy(minimum_drifted_columns=3))
    assert monitor.check(batch).verdict is Verdict.POPULATION_SHIFT
    aged = encounters(1500).with_columns(pl.col("age") + 8)
    assert monitor.check(aged).verdict is Verdict.STABLE


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (pl.lit(None).cast(pl.Float64).alias("creatinine"), "creatinine is wholly missing"),
        (pl.when(pl.int_range(pl.len()) % 5 > 0).then(None).otherwise(pl.col("age")).alias("age"), "age is missing in"),
        ((pl.col("creatinine") * 88.4).alias("creatinine"), "another unit"),
        ((pl.col("age") * 2.2).alias("age"), "another unit"),
        (pl.col("sex").replace_strict({"Female": "F", "Male": "M"}).alias("sex"), "sex has categories"),
        (
            pl.when(pl.int_range(pl.len()) % 20 == 0).then(-999).otherwise(pl.col("age")).alias("age"),
            "age lies outside",
        ),
    ],
)
def test_values_that_no_patients_explain_are_a_data_fault(encounters: Encounters, fault: pl.Expr, named: str) -> None:
    report = DriftMonitor.fit(encounters(8000)).check(encounters(1500).with_columns(fault))
    assert report.verdict is Verdict.DATA_FAULT
    assert named in report.reason


def test_an_absent_column_is_wholly_missing(encounters: Encounters) -> None:
    report = DriftMonitor.fit(encounters(8000), columns=["age", "sex"]).check(encounters(1500).drop("sex"))
    assert report.verdict is Verdict.DATA_FAULT
    assert "sex is wholly missing" in report.reason


def test_a_fall_of_missingness_is_a_shift_and_no_fault(encounters: Encounters) -> None:
    reference = encounters(8000).with_columns(specialty=pl.lit(None, dtype=pl.String))
    report = DriftMonitor.fit(reference).check(encounters(1500))
    assert report.verdict is Verdict.POPULATION_SHIFT
    assert evidence(report.columns, "specialty", "missing_rate_change")["flagged"]


def test_too_few_rows_cannot_tell_and_say_how_many_it_takes(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(8000))
    report = monitor.check(encounters(60))
    assert report.verdict is Verdict.CANNOT_TELL
    assert report.n_needed is not None
    assert f"{report.n_needed:,}" in report.reason
    assert monitor.check(encounters(report.n_needed)).verdict is Verdict.STABLE


def test_an_empty_month_cannot_tell(encounters: Encounters) -> None:
    report = DriftMonitor.fit(encounters(2000)).check(encounters(2000).clear())
    assert report.verdict is Verdict.CANNOT_TELL
    assert report.columns.is_empty()


def test_a_reference_too_small_to_show_a_shift_is_named(encounters: Encounters) -> None:
    report = DriftMonitor.fit(encounters(100)).check(encounters(1500))
    assert report.verdict is Verdict.CANNOT_TELL
    assert "reference of 100 rows is too small" in report.reason


def test_a_number_that_became_text_is_named(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(2000))
    with pytest.raises(DriftError, match="'age' was a number in the reference and is String"):
        monitor.check(encounters(500).with_columns(pl.col("age").cast(pl.String)))


def test_a_missing_reference_column_and_an_empty_reference_are_named(encounters: Encounters) -> None:
    with pytest.raises(DriftError, match="weight"):
        DriftMonitor.fit(encounters(100), columns=["age", "weight"])
    with pytest.raises(DriftError, match="no rows"):
        DriftMonitor.fit(encounters(100).clear())
    with pytest.raises(DriftError, match="patient_id"):
        DriftMonitor.fit(encounters(100), patient="patient_id").check(encounters(100).drop("patient_id"))


def test_evidence_is_sorted_and_flags_are_exactly_values_beyond_critical_ones(encounters: Encounters) -> None:
    batch = encounters(1500).with_columns(pl.col("age") + 8, pl.col("prior_stays") + 1)
    columns = DriftMonitor.fit(encounters(8000)).check(batch).columns
    assert columns["evidence"].drop_nulls().is_sorted(descending=True)
    assert columns["flagged"].to_list() == (columns["value"] > columns["critical"]).fill_null(value=False).to_list()


@pytest.fixture
def at_two_devices(encounters: Encounters) -> DriftMonitor:
    reference = encounters(4000).with_columns(device=pl.Series(["tabletop", "portable"] * 2000))
    return DriftMonitor.fit(reference, policy(device="device"), columns=["age", "device"])


@pytest.mark.parametrize(("rows", "of_new"), [(1, 1), (4, 1), (1500, 1), (1500, 1500)])
def test_one_row_of_a_device_never_seen_in_training_is_a_data_fault_at_once(
    encounters: Encounters, at_two_devices: DriftMonitor, rows: int, of_new: int
) -> None:
    devices = ["handheld"] * of_new + ["tabletop", "portable"] * (rows // 2)
    report = at_two_devices.check(encounters(rows).with_columns(device=pl.Series(devices[:rows])))
    assert report.verdict is Verdict.DATA_FAULT
    assert "device: " in report.reason
    assert "of rows come from a device never seen in training" in report.reason
    unseen = evidence(report.columns, "device", "unseen_rate")
    assert unseen["value"] == of_new / rows
    assert unseen["flagged"]
    assert 1 < report.severity < np.inf


@pytest.mark.parametrize("rows", [1, 1500])
def test_devices_seen_in_training_are_no_fault_however_few_rows_there_are(
    encounters: Encounters, at_two_devices: DriftMonitor, rows: int
) -> None:
    devices = pl.Series((["tabletop", "portable"] * rows)[:rows])
    report = at_two_devices.check(encounters(rows).with_columns(device=devices))
    assert report.faults == ()
    assert not evidence(report.columns, "device", "unseen_rate")["flagged"]


def test_a_new_category_of_any_other_column_needs_more_than_one_row(encounters: Encounters) -> None:
    reference = encounters(4000).with_columns(device=pl.Series(["tabletop", "portable"] * 2000))
    monitor = DriftMonitor.fit(reference, policy(), columns=["age", "device"])
    one_new = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("handheld")).otherwise(pl.lit("tabletop"))
    assert "device" not in str(monitor.check(encounters(1500).with_columns(device=one_new)).faults)


def test_a_constant_number_that_starts_to_vary_is_noticed() -> None:
    reference = pl.DataFrame({"flag": np.zeros(3000), "age": np.arange(3000) % 80})
    batch = pl.DataFrame({"flag": (np.arange(1000) % 4 == 0).astype(float), "age": np.arange(1000) % 80})
    assert evidence(DriftMonitor.fit(reference).check(batch).columns, "flag", "psi")["flagged"]


def test_the_second_year_of_the_real_archive_is_a_population_shift_and_no_data_fault(raw_archives: Path) -> None:
    with zipfile.ZipFile(raw_archives / "diabetes130" / "dataset_diabetes.zip") as archive:
        content = archive.read("dataset_diabetes/diabetic_data.csv")
    rows = pl.read_csv(content, null_values="?", infer_schema_length=None).sort("encounter_id")
    rows = rows.with_columns(pl.col("^admission_.*$", "discharge_disposition_id").cast(pl.String))
    month = len(rows) // 24
    watched = [name for name in rows.columns if name not in ("encounter_id", "patient_nbr", "readmitted")]
    monitor = DriftMonitor.fit(rows.head(12 * month), columns=watched, patient="patient_nbr")
    reports = [monitor.check(rows.slice(start * month, month)) for start in (12, 18, 23)]
    assert [report.verdict for report in reports] == [Verdict.POPULATION_SHIFT] * 3
    last = reports[-1].columns
    assert evidence(last, "payer_code", "missing_rate_change")["flagged"]
    assert evidence(last, "medical_specialty", "missing_rate_change")["flagged"]
