import json
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
from alarm_cohort import ADMITTED, make_alarm_protocol

from clinical_assets.evaluation.utility import value_hours
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.hourly_alarm import AlarmHours, ScoreCalibration, number_matrix


def test_gains_are_those_of_the_utility_in_the_order_of_patient_and_time() -> None:
    rows = pl.DataFrame(
        {
            "patient_id": ["b", "a", "a", "b", "a"],
            "hour": [2, 2, 1, 1, 3],
            "sepsis_6h": [0, 1, 0, 0, 1],
            "split": ["train"] * 5,
        }
    ).with_columns(observed_at=pl.lit(ADMITTED) + pl.duration(hours="hour"))
    hours = AlarmHours.of(rows, make_alarm_protocol(), "train")
    assert hours.row.tolist() == [2, 1, 4, 3, 0]
    assert hours.patient.tolist() == [0, 0, 0, 1, 1]
    assert hours.outcome.tolist() == [0, 1, 1, 0, 0]
    assert hours.septic.tolist() == [True, True, True, False, False]
    assert hours.gain.tolist() == value_hours([0, 1, 1, 0, 0], np.array(["a", "a", "a", "b", "b"])).gain.tolist()
    assert hours.where(hours.outcome == 1).row.tolist() == [1, 4]


def test_members_are_weighed_in_standard_deviations_whatever_their_scale() -> None:
    random = np.random.default_rng(1)
    outcome = (random.random(2_000) < 0.1).astype(float)
    scores = outcome + random.normal(0, 1, (2, 2_000))
    calibration = ScoreCalibration.fit(outcome, scores, (0.7, 0.3))
    rescaled = np.stack([scores[0] * 1_000 - 5, scores[1]])
    again = ScoreCalibration.fit(outcome, rescaled, (0.7, 0.3))
    assert again.risk(rescaled) == pytest.approx(calibration.risk(scores), rel=1e-6)
    assert calibration.risk(scores).sum() == pytest.approx(outcome.sum(), rel=1e-4)
    assert ScoreCalibration.read(json.loads(json.dumps(asdict(calibration)))) == calibration


def test_scores_without_spread_or_against_the_outcome_are_refused() -> None:
    outcome = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    rising = np.array([1.0, 2.0, 3.0, 4.0, 2.0, 2.5])
    with pytest.raises(LearningError, match="1 of 2 members score all 6 hours of split calibrate alike"):
        ScoreCalibration.fit(outcome, np.stack([rising, np.ones(6)]), (0.5, 0.5))
    with pytest.raises(LearningError, match="do not rise with the outcome in the 6 hours"):
        ScoreCalibration.fit(outcome, -rising[None], (1.0,))


def test_numbers_of_any_type_become_float32_and_null_becomes_nan() -> None:
    rows = pl.DataFrame({"a": [1, None, 3], "b": [True, False, None], "c": [0.5, None, 2.5]})
    matrix = number_matrix(rows, ("c", "a", "b"), np.array([2, 1]))
    assert matrix.dtype == np.float32
    assert np.array_equal(matrix, [[2.5, 3.0, np.nan], [np.nan, np.nan, 0.0]], equal_nan=True)
