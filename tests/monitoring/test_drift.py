import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinical_assets.monitoring import DriftMonitor, DriftReport
from clinical_assets.monitoring.column_reference import DriftError
from clinical_assets.monitoring.drift import JOINTLY
from clinical_assets.protocol import Monitoring, Verdict

Encounters = Callable[[int], pl.DataFrame]


def policy(**changes: float | str) -> Monitoring:
    return Monitoring.model_validate({"headline": "auroc", "tolerated_loss": 0.02, **changes})


def found(report: DriftReport, column: str, statistic: str) -> dict[str, float | bool | None]:
    return report.columns.filter(column=column, statistic=statistic).row(0, named=True)


def stored(state: pl.DataFrame) -> pl.DataFrame:
    content = io.BytesIO()
    state.write_parquet(content)
    content.seek(0)
    return pl.read_parquet(content)


def same(one: DriftReport, other: DriftReport) -> bool:
    return one.columns.equals(other.columns) and (one.verdict, one.reason, one.moved, one.faults) == (
        other.verdict,
        other.reason,
        other.moved,
        other.faults,
    )


def test_a_month_like_the_reference_is_stable(encounters: Encounters) -> None:
    report = DriftMonitor.fit(encounters(8000), patient="patient_id").check(encounters(1500))
    assert report.verdict is Verdict.STABLE
    assert report.severity is None
    assert report.moved == ()
    assert not report.columns["flagged"].any()
    assert "patient_id" not in report.columns["column"]


def test_a_year_of_looks_without_drift_alarms_no_more_often_than_the_policy_states(encounters: Encounters) -> None:
    stated, years = 0.2, 12
    alarms = 0
    for seed in range(years):
        monitor = DriftMonitor.fit(encounters(600), policy(false_alarms_per_year=stated), seed=seed)
        verdicts = {monitor.check(encounters(80)).verdict for _ in range(6)}
        alarms += bool(verdicts & {Verdict.POPULATION_SHIFT, Verdict.DATA_FAULT})
    assert alarms <= stated * years


def test_hours_of_one_patient_are_no_further_evidence() -> None:
    """Twenty patients with other levels are twenty units, however many hours each of them has."""
    rng = np.random.default_rng(1)

    def hours(patients: int, name: str) -> pl.DataFrame:
        level = np.repeat(rng.normal(size=patients), 48)
        ids = np.repeat([f"{name}{number}" for number in range(patients)], 48)
        return pl.DataFrame({"patient": ids, "pulse": level + 0.1 * rng.normal(size=level.size)})

    reference = hours(300, "r")
    batches = [hours(20, f"b{look}-") for look in range(8)]
    by_patient = DriftMonitor.fit(reference, patient="patient")
    by_row = DriftMonitor.fit(reference, columns=["pulse"])
    assert not any(by_patient.check(batch).moved for batch in batches)
    assert any(by_row.check(batch).moved for batch in batches)
    assert by_patient.check(hours(20, "c")).n_units == 20


def test_older_patients_are_a_population_shift(encounters: Encounters) -> None:
    report = DriftMonitor.fit(encounters(8000)).check(encounters(1500).with_columns(pl.col("age") + 8))
    assert report.verdict is Verdict.POPULATION_SHIFT
    assert report.moved[0] == "age"
    assert report.columns.row(0, named=True)["column"] == "age"
    assert "age (mean +0.5" in report.reason
    shift = found(report, "age", "standardised_mean_difference")
    assert shift["value"] == pytest.approx(8 / 15, abs=0.1)
    assert shift["flagged"]


def test_evidence_gathers_over_looks_none_of_which_would_do_alone(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(8000), looks_per_year=24)
    fresh = monitor.state
    batches = [encounters(150).with_columns(pl.col("age") + 1.8) for _ in range(24)]
    alone = [monitor.resume(fresh).check(batch) for batch in batches]
    together = [monitor.check(batch) for batch in batches]
    assert [report.verdict for report in alone] == [Verdict.CANNOT_TELL] * 24
    assert together[0].verdict is Verdict.CANNOT_TELL
    assert together[-1].verdict is Verdict.POPULATION_SHIFT
    assert together[-1].moved == ("age",)


def test_a_new_year_begins_without_the_evidence_of_the_last(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(8000), looks_per_year=2)
    for _ in range(2):
        assert monitor.check(encounters(800).with_columns(pl.col("age") + 8)).moved == ("age",)
    report = monitor.check(encounters(800))
    assert report.moved == ()
    assert report.n_units_this_year == 800


def test_a_restart_between_looks_changes_nothing(encounters: Encounters) -> None:
    reference = encounters(3000)
    batches = [encounters(300).with_columns(pl.col("age") + 4 * look) for look in range(3)]
    unbroken = DriftMonitor.fit(reference, patient="patient_id")
    reports = [unbroken.check(batch) for batch in batches]
    state = DriftMonitor.fit(reference, patient="patient_id").state
    for batch, report in zip(batches, reports, strict=True):
        restarted = DriftMonitor.fit(reference, patient="patient_id").resume(stored(state))
        assert same(restarted.check(batch), report)
        state = restarted.state
    assert stored(state).equals(unbroken.state)


def test_a_look_repeated_at_the_same_state_gives_the_same_report(encounters: Encounters) -> None:
    monitor, batch = DriftMonitor.fit(encounters(2000)), encounters(200)
    before = monitor.state
    assert same(monitor.check(batch), monitor.resume(before).check(batch))


def test_evidence_of_another_reference_is_refused(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(1000))
    monitor.check(encounters(100))
    with pytest.raises(DriftError, match="another reference"):
        DriftMonitor.fit(encounters(1000)).resume(monitor.state)
    with pytest.raises(DriftError, match="lacks the columns"):
        monitor.resume(pl.DataFrame({"look": [1]}))


def test_the_state_holds_counts_and_no_patient(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(1000), patient="patient_id")
    batch = encounters(300)
    monitor.check(batch)
    texts = monitor.state.select(pl.col(pl.String)).unpivot()["value"].drop_nulls()
    assert not set(texts) & set(batch["patient_id"])
    values = monitor.state.filter(kind="values")["counts"].list.sum()
    assert values.max() == batch["patient_id"].n_unique()


@pytest.mark.parametrize(
    ("fault", "column", "named"),
    [
        (pl.lit(None).cast(pl.Float64).alias("creatinine"), "creatinine", "creatinine is wholly missing"),
        (
            pl.when(pl.int_range(pl.len()) % 5 > 0).then(None).otherwise(pl.col("age")).alias("age"),
            "age",
            "age is missing in 80.0 % of rows",
        ),
        ((pl.col("creatinine") * 88.4).alias("creatinine"), "creatinine", "its values are 88.4 times the reference's"),
        (
            pl.when(pl.int_range(pl.len()) % 3 == 0)
            .then(pl.col("creatinine") * 88.4)
            .otherwise("creatinine")
            .alias("creatinine"),
            "creatinine",
            "% of its values are 88.4 times the reference's",
        ),
        ((pl.col("age") * 2.20462).alias("age"), "age", "its values are 2.2 times the reference's: another unit?"),
        (pl.col("sex").replace_strict({"Female": "F", "Male": "M"}).alias("sex"), "sex", "sex has categories"),
        (
            pl.when(pl.int_range(pl.len()) % 20 == 0).then(-999).otherwise(pl.col("age")).alias("age"),
            "age",
            "age lies outside",
        ),
    ],
)
def test_values_that_no_patients_explain_are_a_data_fault_at_the_first_look(
    encounters: Encounters, fault: pl.Expr, column: str, named: str
) -> None:
    report = DriftMonitor.fit(encounters(8000)).check(encounters(1500).with_columns(fault))
    assert report.verdict is Verdict.DATA_FAULT
    assert named in report.reason
    assert report.moved[0] == column
    assert set(report.columns.filter("flagged")["column"]) == {column}


def test_a_faulty_column_leaves_no_evidence_behind(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(4000))
    monitor.check(encounters(600).with_columns(pl.col("creatinine") * 88.4))
    report = monitor.check(encounters(600))
    assert report.faults == ()
    assert report.moved == ()


def test_an_absent_column_is_wholly_missing(encounters: Encounters) -> None:
    report = DriftMonitor.fit(encounters(8000), columns=["age", "sex"]).check(encounters(1500).drop("sex"))
    assert report.verdict is Verdict.DATA_FAULT
    assert "sex is wholly missing" in report.reason


def test_a_column_the_reference_never_had_is_a_shift_and_no_fault(encounters: Encounters) -> None:
    reference = encounters(8000).with_columns(specialty=pl.lit(None, dtype=pl.String))
    report = DriftMonitor.fit(reference).check(encounters(1500))
    assert report.verdict is Verdict.POPULATION_SHIFT
    assert found(report, "specialty", "missing_rate_change")["flagged"]
    assert "specialty missing in 0.0 % of rows, was 100.0 %" in report.reason


def test_a_batch_sent_twice_is_a_duplicate_in_whatever_order_and_no_evidence(encounters: Encounters) -> None:
    monitor, batch = DriftMonitor.fit(encounters(2000)), encounters(200)
    assert monitor.check(batch).faults == ()
    again = monitor.check(batch.sample(fraction=1.0, shuffle=True, seed=1))
    assert again.verdict is Verdict.DATA_FAULT
    assert "that of look 1 again" in again.reason
    assert again.n_units_this_year == 200


def test_rows_of_another_month_than_stated_are_late(encounters: Encounters) -> None:
    reference = encounters(2000).with_columns(month=pl.Series(["2025-01", "2025-02"] * 1000))
    monitor = DriftMonitor.fit(reference, patient="patient_id", period="month")
    batch = encounters(200).with_columns(month=pl.Series(["2025-03"] * 190 + ["2025-02"] * 10))
    report = monitor.check(batch, period="2025-03")
    assert report.verdict is Verdict.DATA_FAULT
    assert "10 rows are of another month than 2025-03" in report.reason
    assert "month" not in report.columns["column"]


def test_two_columns_that_move_together_are_seen_though_neither_moved() -> None:
    rng = np.random.default_rng(9)

    def pairs(rows: int, correlation: float) -> pl.DataFrame:
        drawn = rng.normal(size=(rows, 6))
        drawn[:, 1] = correlation * drawn[:, 0] + np.sqrt(1 - correlation**2) * drawn[:, 1]
        return pl.DataFrame(drawn, schema=[f"x{number}" for number in range(6)])

    report = DriftMonitor.fit(pairs(4000, 0.0)).check(pairs(1500, 0.6))
    assert report.verdict is Verdict.POPULATION_SHIFT
    assert report.columns.filter("flagged")["column"].to_list() == [JOINTLY]
    assert set(report.moved) == {"x0", "x1"}


def test_an_embedding_is_weighed_jointly_and_not_column_by_column() -> None:
    rng = np.random.default_rng(10)

    def images(rows: int, shift: float) -> pl.DataFrame:
        columns = {f"e{number}": rng.normal(shift, 1, rows) for number in range(8)}
        return pl.DataFrame({"sharpness": rng.normal(size=rows), **columns})

    monitor = DriftMonitor.fit(images(600, 0.0), embedding=[f"e{number}" for number in range(8)])
    report = monitor.check(images(60, 1.5))
    assert set(report.columns["column"]) == {"sharpness", JOINTLY}
    assert report.verdict is Verdict.POPULATION_SHIFT


def test_too_few_units_cannot_tell_and_say_how_many_it_takes(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(8000))
    report = monitor.check(encounters(60))
    assert report.verdict is Verdict.CANNOT_TELL
    assert report.n_needed is not None
    assert f"{report.n_needed:,} units" in report.reason
    assert monitor.check(encounters(report.n_needed)).verdict is Verdict.STABLE


def test_small_looks_become_stable_together(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(8000), policy(smallest_shift_sd=0.5))
    assert monitor.n_needed is not None
    looks = -(-monitor.n_needed // 50)
    verdicts = [monitor.check(encounters(50)).verdict for _ in range(looks)]
    assert verdicts == [Verdict.CANNOT_TELL] * (looks - 1) + [Verdict.STABLE]


def test_an_empty_month_cannot_tell_and_is_no_look(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(2000))
    before = monitor.state
    report = monitor.check(encounters(2000).clear())
    assert report.verdict is Verdict.CANNOT_TELL
    assert report.columns.is_empty()
    assert monitor.state.equals(before)


def test_a_reference_too_small_to_show_a_shift_is_named(encounters: Encounters) -> None:
    report = DriftMonitor.fit(encounters(100)).check(encounters(1500))
    assert report.verdict is Verdict.CANNOT_TELL
    assert report.n_needed is None
    assert "reference of 100 units is too small" in report.reason


def test_unusable_columns_are_named_and_patients_are_not(encounters: Encounters) -> None:
    monitor = DriftMonitor.fit(encounters(2000), patient="patient_id")
    with pytest.raises(DriftError, match="'age' was a number in the reference and is String"):
        monitor.check(encounters(500).with_columns(pl.col("age").cast(pl.String)))
    with pytest.raises(DriftError, match="1 rows have no 'patient_id'"):
        monitor.check(pl.concat([encounters(20), encounters(1).with_columns(patient_id=pl.lit(None, pl.String))]))
    with pytest.raises(DriftError, match="patient_id"):
        monitor.check(encounters(100).drop("patient_id"))
    with pytest.raises(DriftError, match="weight"):
        DriftMonitor.fit(encounters(100), columns=["age", "weight"])
    with pytest.raises(DriftError, match="no rows"):
        DriftMonitor.fit(encounters(100).clear())


def test_a_lazy_frame_gives_the_report_of_its_rows(encounters: Encounters, tmp_path: Path) -> None:
    reference, batch = encounters(2000), encounters(300).with_columns(pl.col("age") + 6)
    reference.write_parquet(tmp_path / "reference.parquet")
    batch.write_parquet(tmp_path / "batch.parquet")
    lazy = DriftMonitor.fit(pl.scan_parquet(tmp_path / "reference.parquet"), patient="patient_id")
    report = lazy.check(pl.scan_parquet(tmp_path / "batch.parquet"))
    assert same(report, DriftMonitor.fit(reference, patient="patient_id").check(batch))


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
    assert "of rows come from a device never seen in training" in report.reason
    unseen = found(report, "device", "unseen_rate")
    assert unseen["value"] == of_new / rows
    assert unseen["flagged"]
    assert report.moved == ("device",)


@pytest.mark.parametrize("rows", [1, 1500])
def test_devices_seen_in_training_are_no_fault_however_few_rows_there_are(
    encounters: Encounters, at_two_devices: DriftMonitor, rows: int
) -> None:
    devices = pl.Series((["tabletop", "portable"] * rows)[:rows])
    report = at_two_devices.check(encounters(rows).with_columns(device=devices))
    assert report.faults == ()
    assert not found(report, "device", "unseen_rate")["flagged"]


def test_a_new_category_of_any_other_column_needs_more_than_one_row(encounters: Encounters) -> None:
    reference = encounters(4000).with_columns(device=pl.Series(["tabletop", "portable"] * 2000))
    monitor = DriftMonitor.fit(reference, policy(), columns=["age", "device"])
    one_new = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("handheld")).otherwise(pl.lit("tabletop"))
    assert "device" not in str(monitor.check(encounters(1500).with_columns(device=one_new)).faults)


def test_a_constant_number_that_starts_to_vary_is_noticed() -> None:
    reference = pl.DataFrame({"flag": np.zeros(3000), "age": np.arange(3000) % 80})
    batch = pl.DataFrame({"flag": (np.arange(1000) % 4 == 0).astype(float), "age": np.arange(1000) % 80})
    assert found(DriftMonitor.fit(reference).check(batch), "flag", "psi")["flagged"]


def test_infinite_numbers_count_as_missing(encounters: Encounters) -> None:
    batch = encounters(1500).with_columns(pl.lit(np.inf).alias("age"))
    report = DriftMonitor.fit(encounters(8000)).check(batch)
    assert "age is wholly missing" in report.reason


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
    assert found(reports[-1], "payer_code", "missing_rate_change")["flagged"]
    assert found(reports[-1], "medical_specialty", "missing_rate_change")["flagged"]
