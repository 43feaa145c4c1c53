"""What the estimators of hourly alarms share: the hours they learn from, what an alarm is worth, scores made risks.

Belongs here: the utility of the hours of a split, settings of a protocol, the calibration of scores. Does not belong
here: any model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.calibration import fit_recalibration, from_logit
from clinical_assets.evaluation.sample import patient_numbers
from clinical_assets.evaluation.utility import value_hours
from clinical_assets.learning.estimator import LearningError
from clinical_assets.protocol import ModelProtocol

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class AlarmHours:
    """The hours of one split, and what an alarm in each is worth; all arrays have one value an hour.

    `row` is the position in the training set, `patient` a number from 0, `outcome` 0 or 1, `gain` what an alarm adds to
    silence in the Challenge's utility, `septic` whether the patient has the outcome in any hour. Hours are in the order
    of patient and time.
    """

    row: IntArray
    patient: IntArray
    outcome: FloatArray
    gain: FloatArray
    septic: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, training_set: pl.DataFrame, protocol: ModelProtocol, split: str) -> Self:
        """The hours of a split; raises LearningError where one outcome is absent or an hour has no patient or time."""
        keys = [protocol.patient, protocol.index_time]
        hours = (
            training_set.select(*keys, "split", protocol.outcome.column)
            .with_row_index("row")
            .filter(pl.col("split") == split)
            .sort(keys, maintain_order=True)
        )
        outcome = protocol.outcome.is_event(hours).cast(pl.Float64).to_numpy()
        if set(np.unique(outcome)) != {0.0, 1.0}:
            raise LearningError(
                f"split {split}: {protocol.outcome.column} must be 0 in some rows and 1 in others; of {len(outcome):,} "
                f"rows, {int(np.sum(outcome == 1)):,} have 1 and {int(np.sum(outcome == 0)):,} have 0"
            )
        for key in keys:
            if nulls := hours[key].null_count():
                raise LearningError(f"split {split}: {key} is missing in {nulls:,} rows; every hour needs one")
        patient, patients = patient_numbers(hours[protocol.patient], len(outcome))
        septic = np.zeros(patients, dtype=bool)
        septic[patient[outcome == 1]] = True
        gain = value_hours(outcome, hours[protocol.patient]).gain
        return cls(hours["row"].to_numpy().astype(np.int64), patient, outcome, gain, septic[patient])

    def where(self, chosen: npt.NDArray[np.bool_]) -> Self:
        """The hours that a mask selects; patients keep their numbers."""
        return type(self)(
            self.row[chosen], self.patient[chosen], self.outcome[chosen], self.gain[chosen], self.septic[chosen]
        )


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """How the scores of members become one risk: their weighted mean in standard deviations, then intercept and slope.

    `centre` and `spread` (mean and standard deviation in the calibrate split) and `weight` (they add up to 1) have one
    value a member.
    """

    centre: tuple[float, ...]
    spread: tuple[float, ...]
    weight: tuple[float, ...]
    intercept: float
    slope: float

    @classmethod
    def fit(cls, outcome: FloatArray, scores: FloatArray, weight: tuple[float, ...]) -> Self:
        """Standardise scores (members x hours), take their weighted mean as log odds and fit intercept and slope.

        Logistic recalibration: Cox 1958; Platt 1999. Raises LearningError where a member scores all hours alike, and
        where the mean does not rise with the outcome.
        """
        centre, spread = scores.mean(axis=1), scores.std(axis=1)
        if flat := int(np.sum(spread < 1e-9)):
            raise LearningError(
                f"{flat} of {len(scores)} members score all {len(outcome):,} hours of split calibrate alike: they "
                "learnt nothing; use more patients, or smaller leaves"
            )
        mean = np.asarray(weight) @ ((scores - centre[:, None]) / spread[:, None])
        (intercept,), (slope,) = fit_recalibration(outcome, from_logit(mean), np.ones((1, len(outcome))))
        if not slope > 0:
            raise LearningError(
                f"the scores do not rise with the outcome in the {len(outcome):,} hours of split calibrate (slope "
                f"{slope:.3g}); the features say nothing about it, or the split is too small"
            )
        return cls(tuple(centre.tolist()), tuple(spread.tolist()), weight, float(intercept), float(slope))

    def risk(self, scores: FloatArray) -> FloatArray:
        """The risk of each hour, of scores (members x hours)."""
        standardised = (scores - np.array(self.centre)[:, None]) / np.array(self.spread)[:, None]
        return from_logit(self.intercept + self.slope * (np.array(self.weight) @ standardised))

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Self:
        """The calibration of what `dataclasses.asdict` made of one; raises KeyError or TypeError on anything else."""
        many = (tuple(float(value) for value in written[name]) for name in ("centre", "spread", "weight"))
        return cls(*many, intercept=float(written["intercept"]), slope=float(written["slope"]))


def read_settings(
    kind: type[Settings], given: Mapping[str, bool | int | float | str], ranges: Mapping[str, tuple[float, float]]
) -> Settings:
    """The settings a protocol gives, as a dataclass of numbers and texts with defaults.

    Raises LearningError naming a setting that is unknown, of another type than its default, or out of its range.
    """
    known = {field.name: field.default for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(given.keys() - known.keys()):
        raise LearningError(f"estimator_settings: {unknown} are unknown; {kind.__name__} has {sorted(known)}")
    for name, value in given.items():
        default = known[name]
        expected = (int, float) if isinstance(default, float) else type(default)
        if isinstance(value, bool) or not isinstance(value, expected):
            words = {int: "whole number", float: "number", str: "text"}[type(default)]
            raise LearningError(f"estimator_settings: {name} is {value!r}; give a {words}")
        if name in ranges and not ranges[name][0] <= value <= ranges[name][1]:  # pyright: ignore[reportOperatorIssue]
            low, high = ranges[name]
            raise LearningError(f"estimator_settings: {name} is {value}; give a number from {low:g} to {high:g}")
    return kind(**given)


def check_columns(features: pl.DataFrame, names: tuple[str, ...]) -> None:
    """Raise LearningError naming the columns that are missing."""
    if missing := [name for name in names if name not in features.columns]:
        raise LearningError(f"the features lack the columns {missing}, which the model was trained on")


def check_numeric(features: pl.DataFrame, names: tuple[str, ...]) -> None:
    """Raise LearningError naming the columns that are no numbers, and their types."""
    schema = features.schema
    if others := [name for name in names if not (schema[name].is_numeric() or schema[name] == pl.Boolean)]:
        raise LearningError(
            f"the features {others} are of type {sorted({str(schema[name]) for name in others})}; make them numbers, "
            "or list them in not_features"
        )


def number_matrix(features: pl.DataFrame, names: tuple[str, ...], rows: IntArray | None = None) -> npt.NDArray[Any]:
    """The columns, of all rows or of those at some positions, as one float32 matrix in column order; null is NaN."""
    height = features.height if rows is None else len(rows)
    matrix = np.empty((height, len(names)), dtype=np.float32, order="F")
    # Column by column: a frame of a million hours is then copied once, not twice.
    for place, name in enumerate(names):
        column = features[name] if rows is None else features[name].gather(rows)
        matrix[:, place] = column.cast(pl.Float32).fill_null(np.nan).to_numpy()
    return matrix
