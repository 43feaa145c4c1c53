import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation import EvaluationError, normalized_utility
from clinical_assets.evaluation.utility import value_hours

HOURS = 40
ONSET = 20
LABEL = [int(hour >= ONSET - 6) for hour in range(HOURS)]
WELL = [0] * HOURS
ONE = pl.Series(["a"] * HOURS)
TWO = pl.Series(["a"] * HOURS + ["b"] * HOURS)


def alarm_at(*hours: int) -> list[int]:
    return [int(hour in hours) for hour in range(HOURS)]


@pytest.fixture(scope="module")
def cases(raw_archives: Path) -> pl.DataFrame:
    return pl.read_csv(raw_archives / "physionet2019" / "utility_cases.csv")


@pytest.mark.parametrize("case", ["noisy", "never", "always", "early6", "late9"])
def test_the_utility_is_that_of_the_official_scorer(cases: pl.DataFrame, raw_archives: Path, case: str) -> None:
    expected = json.loads((raw_archives / "physionet2019" / "utility_expected.json").read_text())
    (official,) = (one["normalized_utility"] for one in expected if one["case"] == case)
    rows = cases.filter(pl.col("case") == case).sort("patient", "hour")
    assert normalized_utility(rows["label"], rows["prediction"], rows["patient"]) == pytest.approx(official, abs=1e-9)


def test_patients_may_come_in_any_order_and_mixed(cases: pl.DataFrame) -> None:
    rows = cases.filter(pl.col("case") == "noisy").sort("patient", "hour")
    mixed = rows.sort("hour", "patient", descending=[False, True])
    first, second = (normalized_utility(part["label"], part["prediction"], part["patient"]) for part in (rows, mixed))
    assert first == pytest.approx(second, abs=1e-12)


@pytest.mark.parametrize(
    ("since_onset", "alarm", "silence"),
    [
        *[(-20, -0.05, 0), (-13, -0.05, 0), (-12, 0, 0), (-9, 0.5, 0), (-6, 1, 0), (-3, 2 / 3, -2 / 3)],
        *[(0, 1 / 3, -4 / 3), (3, 0, -2), (4, 0, 0), (19, 0, 0)],
    ],
)
def test_alarm_and_silence_are_worth_what_the_challenge_says(since_onset: int, alarm: float, silence: float) -> None:
    utility = value_hours(LABEL, ONE)
    assert utility.alarm[ONSET + since_onset] == pytest.approx(alarm, abs=1e-12)
    assert utility.silence[ONSET + since_onset] == pytest.approx(silence, abs=1e-12)


def test_without_sepsis_an_alarm_costs_a_twentieth_and_silence_nothing() -> None:
    utility = value_hours(WELL, ONE)
    assert np.unique(utility.alarm).tolist() == [-0.05]
    assert np.unique(utility.silence).tolist() == [0.0]


def test_silence_is_0_and_the_best_alarms_are_1() -> None:
    label = LABEL + WELL
    best = alarm_at(*range(ONSET - 12, ONSET + 4)) + WELL
    assert normalized_utility(label, [0] * 80, TWO) == 0.0
    assert normalized_utility(label, best, TWO) == pytest.approx(1.0)


def test_alarms_in_patients_without_sepsis_alone_are_worse_than_silence() -> None:
    label = LABEL + WELL
    assert normalized_utility(label, WELL + [1] * HOURS, TWO) < 0


def test_utilities_are_summed_over_patients_before_they_are_normalised() -> None:
    late = [int(hour >= HOURS - 1) for hour in range(HOURS)]
    label = LABEL + late
    found_first = normalized_utility(label, alarm_at(*range(ONSET - 12, ONSET + 4)) + WELL, TWO)
    alone = [value_hours(part, ONE).best_gain.sum() for part in (LABEL, late)]
    assert found_first == pytest.approx(alone[0] / sum(alone))
    assert found_first != pytest.approx(0.5)


def test_one_who_is_septic_from_the_first_hour_counts_from_then_on() -> None:
    utility = value_hours([1] * 12, ONE.head(12))
    assert utility.alarm[0] == pytest.approx(1.0)
    assert utility.silence[9] == pytest.approx(-2.0)
    assert utility.best_gain[10:].tolist() == [0.0, 0.0]


def test_without_a_septic_patient_the_utility_is_undefined() -> None:
    assert math.isnan(normalized_utility(WELL, alarm_at(3), ONE))


@pytest.mark.parametrize(
    ("label", "prediction", "patient", "message"),
    [
        ([], [], [], "no row"),
        ([0, 2], [0, 0], ["a", "a"], "1 of 2 rows are neither 0 nor 1"),
        ([0, 1], [0, 0.7], ["a", "a"], "prediction: 1 of 2 rows are neither 0 nor 1; apply a threshold"),
        ([0, 1], [0, float("nan")], ["a", "a"], "prediction: 1 of 2 rows"),
        ([0, 1], [0], ["a", "a"], "prediction has 1 rows and label has 2"),
        ([0, 1], [0, 0], ["a"], "patient has 1 rows"),
        ([0, 1], [0, 0], ["a", None], "patient: 1 of 2 rows have none"),
    ],
)
def test_what_is_no_alarm_is_refused(
    label: list[int], prediction: list[float], patient: list[str], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        normalized_utility(label, prediction, pl.Series(patient, dtype=pl.String))
