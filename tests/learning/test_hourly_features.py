from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinical_assets.archives.archive import MonthWindow
from clinical_assets.archives.physionet2019 import PHYSIONET2019
from clinical_assets.defs.sepsis.cohort import icu_hours
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.hourly_features import (
    MEASUREMENTS,
    describe_hourly_features,
    hourly_features,
)

HEART = "heart_rate_bpm"
LACTATE = "lactate_mmol_l"


def stay(patient: str, hours: list[int], **measured: Sequence[float | None]) -> pl.DataFrame:
    """A patient's hours in which nothing was measured but what is given."""
    n = len(hours)
    return pl.DataFrame({"patient_id": [patient] * n, "icu_los_h": hours}).with_columns(
        *(pl.Series(name, measured.get(name, [None] * n), dtype=pl.Float32) for name in MEASUREMENTS),
        age_years=pl.lit(60.0),
        hours_since_hospital_admission=pl.col("icu_los_h") + 10.0,
        sex=pl.lit("male"),
        icu_unit=pl.lit("surgical"),
    )


@pytest.fixture(scope="module")
def random_hours() -> pl.DataFrame:
    """Five patients with 30 hours each, a third of them absent, and every value measured in four of ten."""
    rng = np.random.default_rng(5)
    patients: list[pl.DataFrame] = []
    for patient in "abcde":
        hours = np.sort(rng.choice(np.arange(1, 46), 30, replace=False))
        values = {name: np.where(rng.uniform(size=30) < 0.4, rng.gamma(8, 10, 30), np.nan) for name in MEASUREMENTS}
        filled = stay(patient, hours.tolist()).with_columns(
            pl.Series(name, value, dtype=pl.Float32).fill_nan(None) for name, value in values.items()
        )
        patients.append(filled)
    return pl.concat(patients)


def test_every_feature_is_described_and_a_float32(random_hours: pl.DataFrame) -> None:
    features = hourly_features(random_hours)
    added = [name for name in features.columns if name not in random_hours.columns]
    assert added == list(describe_hourly_features())
    assert 320 <= len(added) <= 380
    assert all(features.schema[name] == pl.Float32 for name in (*added, *MEASUREMENTS))
    assert all(describe_hourly_features().values())


@pytest.mark.parametrize("cut", [1, 7, 15, 29])
def test_changing_any_future_hour_changes_no_earlier_row(random_hours: pl.DataFrame, cut: int) -> None:
    future = pl.int_range(pl.len()).over("patient_id") >= cut
    rng = np.random.default_rng(cut)
    otherwise = random_hours.with_columns(
        *(
            pl.when(future)
            .then(pl.Series(rng.uniform(1, 500, len(random_hours)), dtype=pl.Float32))
            .otherwise(name)
            .alias(name)
            for name in MEASUREMENTS
        ),
        pl.when(future).then(pl.col("icu_los_h") + 7).otherwise("icu_los_h").alias("icu_los_h"),
    )
    first, second = hourly_features(random_hours), hourly_features(otherwise)
    assert first.filter(~future).equals(second.filter(~future))
    assert not first.filter(future).equals(second.filter(future))


@pytest.mark.parametrize("row", [3, 12, 28])
def test_without_the_later_hours_the_earlier_rows_are_the_same(random_hours: pl.DataFrame, row: int) -> None:
    known = pl.int_range(pl.len()).over("patient_id") <= row
    assert hourly_features(random_hours).filter(known).equals(hourly_features(random_hours.filter(known)))


def test_a_patient_s_rows_depend_on_no_other_patient(random_hours: pl.DataFrame) -> None:
    together = hourly_features(random_hours)
    for patient in "abcde":
        alone = hourly_features(random_hours.filter(patient_id=patient))
        assert alone.equals(together.filter(patient_id=patient))


def test_rows_come_by_patient_and_hour_and_other_columns_are_kept(random_hours: pl.DataFrame) -> None:
    labelled = random_hours.with_columns(label=pl.int_range(pl.len()))
    features = hourly_features(labelled.sample(fraction=1.0, shuffle=True, seed=1))
    assert features["label"].to_list() == list(range(len(labelled)))
    assert features.equals(hourly_features(labelled))


def test_what_is_known_of_a_value_is_its_last_measurement_and_when_it_was() -> None:
    rows = stay("a", [1, 2, 4, 5, 9], **{LACTATE: [None, 2.0, None, 3.5, None]})
    features = hourly_features(rows)
    assert features[f"{LACTATE}_last"].to_list() == [None, 2.0, 2.0, 3.5, 3.5]
    assert features[f"{LACTATE}_hours_since"].to_list() == [None, 0, 2, 0, 4]
    assert features[f"{LACTATE}_count"].to_list() == [0, 1, 1, 2, 2]
    assert features[f"{LACTATE}_change"].to_list() == [None, None, None, 1.5, 1.5]
    assert features[f"{LACTATE}_min"].to_list() == [None, 2, 2, 2, 2]
    assert features[f"{LACTATE}_max"].to_list() == [None, 2, 2, 3.5, 3.5]
    assert features["laboratory_hours_since"].to_list() == [None, 0, 2, 0, 4]


def test_nothing_is_carried_from_one_patient_to_the_next() -> None:
    rows = pl.concat([stay("a", [1], **{HEART: [90.0]}), stay("b", [2, 3], **{HEART: [None, 70.0]})])
    features = hourly_features(rows).filter(patient_id="b")
    assert features[f"{HEART}_last"].to_list() == [None, 70]
    assert features[f"{HEART}_mean_12h"].to_list() == [None, 70]
    assert features[f"{HEART}_count"].to_list() == [0, 1]


def test_windows_are_of_hours_and_not_of_rows(random_hours: pl.DataFrame) -> None:
    features = hourly_features(random_hours)
    checked = 0
    for (_,), part in random_hours.group_by("patient_id", maintain_order=True):
        hour, value = part["icu_los_h"].to_numpy(), part[HEART].cast(pl.Float64).to_numpy()
        found = features.filter(patient_id=part["patient_id"][0])
        for row in range(len(part)):
            for window in (6, 12):
                within = (hour <= hour[row]) & (hour > hour[row] - window) & ~np.isnan(value)
                names = [f"{HEART}_{what}_{window}h" for what in ("mean", "min", "max", "std")]
                if not within.any():
                    assert found.select(names).row(row) == (None,) * 4
                    continue
                seen = value[within]
                assert found.select(names[:3]).row(row) == pytest.approx((seen.mean(), seen.min(), seen.max()))
                if len(seen) > 1:
                    assert found[names[3]][row] == pytest.approx(seen.std(ddof=1), rel=1e-4)
            if within.sum() >= 3:
                slope = np.polyfit(hour[within], value[within], 1)[0]
                assert found[f"{HEART}_slope_12h"][row] == pytest.approx(slope, rel=1e-3, abs=1e-4)
                checked += 1
            else:
                assert found[f"{HEART}_slope_12h"][row] is None
    assert checked > 50


def test_tests_of_the_past_day_are_counted() -> None:
    rows = stay(
        "a", [1, 2, 25, 26, 60], **{LACTATE: [1.0, 1.0, 1.0, None, None], "ptt_s": [None, 30.0, None, None, None]}
    )
    features = hourly_features(rows)
    assert features[f"{LACTATE}_count_24h"].to_list() == [1, 2, 2, 1, 0]
    assert features["laboratory_measured_24h"].to_list() == [1, 3, 3, 1, 0]
    assert features["laboratory_measured"].to_list() == [1, 2, 1, 0, 0]
    assert features["ever_measured"].to_list() == [1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("values", "organ", "points"),
    [
        ({"platelets_per_nl": 150}, "coagulation", 0),
        ({"platelets_per_nl": 149}, "coagulation", 1),
        ({"platelets_per_nl": 19}, "coagulation", 4),
        ({"bilirubin_total_mg_dl": 1.1}, "liver", 0),
        ({"bilirubin_total_mg_dl": 2.0}, "liver", 2),
        ({"bilirubin_total_mg_dl": 12.0}, "liver", 4),
        ({"mean_arterial_pressure_mmhg": 70}, "circulation", 0),
        ({"mean_arterial_pressure_mmhg": 69}, "circulation", 1),
        ({"creatinine_mg_dl": 1.2}, "kidney", 1),
        ({"creatinine_mg_dl": 3.5}, "kidney", 3),
        ({"spo2_percent": 98, "fio2_fraction": 0.2}, "breathing", 1),
        ({"spo2_percent": 90, "fio2_fraction": 0.5}, "breathing", 3),
        ({"spo2_percent": 88, "fio2_fraction": 1.0}, "breathing", 4),
        ({"spo2_percent": 90}, "breathing", None),
        ({}, "kidney", None),
    ],
)
def test_sofa_points_are_those_of_the_published_table(values: dict[str, float], organ: str, points: int | None) -> None:
    (row,) = hourly_features(stay("a", [1], **{name: [value] for name, value in values.items()})).rows(named=True)
    assert row[f"sofa_{organ}"] == points
    assert row["sofa_partial"] == (points or 0)


def test_a_rise_of_sofa_is_counted_from_its_lowest_of_a_day() -> None:
    rows = stay("a", [1, 2, 10, 26, 40], creatinine_mg_dl=[5.0, 1.0, 2.0, 2.0, 3.6])
    assert hourly_features(rows)["sofa_rise_24h"].to_list() == [0, 0, 2, 0, 1]


def test_shock_signs_are_combined_from_last_values() -> None:
    rows = stay(
        "a",
        [1, 2],
        **{HEART: [120.0, None], "systolic_bp_mmhg": [None, 80.0], "respiratory_rate_per_min": [24.0, None]},
    )
    features = hourly_features(rows)
    assert features["shock_index"].to_list() == [None, 1.5]
    assert features["age_shock_index"].to_list() == [None, 90]
    assert features["qsofa_partial"].to_list() == [1, 2]
    assert features["sirs_criteria"].to_list() == [2, 2]


def test_a_pressure_of_zero_gives_no_shock_index() -> None:
    features = hourly_features(stay("a", [1], **{HEART: [120.0], "systolic_bp_mmhg": [0.0]}))
    assert features["shock_index"].to_list() == [None]


def test_who_the_patient_is_becomes_numbers() -> None:
    rows = pl.concat(
        [
            stay("a", [1]),
            stay("b", [3]).with_columns(sex=pl.lit("female"), icu_unit=pl.lit("medical")),
            stay("c", [5]).with_columns(sex=pl.lit("unknown"), icu_unit=pl.lit("not recorded")),
        ]
    )
    features = hourly_features(rows)
    assert features["male"].to_list() == [1, 0, None]
    assert features["medical_unit"].to_list() == [0, 1, None]
    assert features["hours_from_hospital_to_icu"].to_list() == [10, 10, 10]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (stay("a", [1]).drop(LACTATE, "sex"), r"lacks the columns \['lactate_mmol_l', 'sex'\]"),
        (stay("a", [1, 2, 2]), "1 of 3 rows repeat an hour of their patient"),
        (stay("a", [1, 2]).with_columns(icu_los_h=pl.Series([1.0, 1.5])), "1 no whole hour"),
        (stay("a", [1, 2]).with_columns(patient_id=pl.Series(["a", None])), "1 have no patient_id"),
    ],
)
def test_rows_that_are_no_hours_of_patients_are_refused(rows: pl.DataFrame, message: str) -> None:
    with pytest.raises(LearningError, match=message):
        hourly_features(rows)


def test_no_rows_have_the_same_columns(random_hours: pl.DataFrame) -> None:
    features = hourly_features(random_hours)
    assert hourly_features(random_hours.clear()).schema == features.schema


def test_a_real_month_has_finite_features_and_none_of_the_future(raw_archives: Path) -> None:
    path = PHYSIONET2019.find(raw_archives)
    assert path is not None
    rows = icu_hours(PHYSIONET2019.open(path), MonthWindow.of_month(date(2024, 3, 1)))
    features = hourly_features(rows)
    assert features.select(pl.col(pl.Float32).is_finite().all()).row(0) == (True,) * len(
        [name for name, dtype in features.schema.items() if dtype == pl.Float32]
    )
    early = pl.col("icu_los_h") <= 12
    assert hourly_features(rows.filter(early)).equals(features.filter(early))
    assert (
        features.select("hour_id", "sepsis_6h")
        .sort("hour_id")
        .equals(rows.select("hour_id", "sepsis_6h").sort("hour_id"))
    )
