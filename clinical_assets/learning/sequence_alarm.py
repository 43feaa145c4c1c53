"""A recurrent network that raises hourly alarms: it reads a stay hour by hour and never looks ahead.

Belongs here: which columns the network reads, how it is fitted, applied, and written without pickle. Does not belong
here: the features, the network itself, the threshold of an alarm, trees.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.hourly_alarm import (
    AlarmHours,
    FloatArray,
    IntArray,
    ScoreCalibration,
    check_columns,
    check_numeric,
    number_matrix,
)
from clinical_assets.learning.hourly_features import MEASUREMENTS, describe_hourly_features
from clinical_assets.learning.sequence_settings import SequenceAlarmSettings
from clinical_assets.protocol import ModelProtocol

if TYPE_CHECKING:
    from clinical_assets.learning.stay_network import StayNetwork

DESCRIPTION_FILE = "sequence_alarm.json"
WEIGHTS_FILE = "sequence_alarm.safetensors"
RECENCY_H = 12.0


@dataclass(frozen=True, slots=True)
class ReadColumns:
    """What the network reads of an hour: numbers, and hours since a measurement, read as exp(-hours / 12)."""

    numbers: tuple[str, ...]
    hours_since: tuple[str, ...]

    @classmethod
    def choose(cls, names: list[str]) -> Self:
        """Last values, hours since each, age and time in the ICU, and what is derived of several measurements.

        Raises LearningError where there are none of these.
        """
        measured = tuple(f"{name}_" for name in MEASUREMENTS)
        derived = {name for name in describe_hourly_features() if not name.startswith(measured)}
        numbers = {*(f"{name}_last" for name in MEASUREMENTS), "age_years", "icu_los_h", *derived}
        since = {f"{name}_hours_since" for name in MEASUREMENTS}
        chosen = cls(tuple(name for name in names if name in numbers), tuple(name for name in names if name in since))
        if not chosen.numbers:
            raise LearningError(
                f"none of the {len(names):,} features is one that SequenceAlarm reads; name "
                "clinical_assets.learning.hourly_features.hourly_features as the protocol's features"
            )
        return chosen

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, numbers first."""
        return (*self.numbers, *self.hours_since)

    def read(self, frame: pl.DataFrame, row: IntArray) -> npt.NDArray[np.float32]:
        """The values at some positions, hours x columns, as `StayNetwork` reads them."""
        recency = np.exp(-number_matrix(frame, self.hours_since, row) / RECENCY_H)
        return np.hstack([number_matrix(frame, self.numbers, row), np.nan_to_num(recency, nan=0.0)])


@dataclass(frozen=True, slots=True)
class SequenceAlarm:
    """A gated recurrent network (Cho 2014) over the hours of a stay, recalibrated.

    Two heads learn the label and whether an alarm gains, weighted by how much in the Challenge's utility; their mean in
    standard deviations is recalibrated to the outcome (Platt 1999). The weights are a moving average over the steps of
    training. The same rows give the same model on a CPU with the same number of threads; with CUDA, a GPU is used and
    may differ in the last digits.
    """

    settings: SequenceAlarmSettings
    columns: ReadColumns
    patient: str
    index_time: str
    network: StayNetwork
    calibration: ScoreCalibration

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions without which the saved files cannot be read."""
        return ("torch", "safetensors")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns `predict` reads: the patient and time that put hours in order, and those of the network."""
        return (self.patient, self.index_time, *self.columns.names)

    @classmethod
    def fit(cls, training_set: pl.DataFrame, protocol: ModelProtocol) -> Self:
        """Learn from the hours whose `split` is `train`, and recalibrate on those whose `split` is `calibrate`.

        Raises LearningError on an unknown setting, features none of which it reads or that are no numbers, a split with
        one class, and scores that do not rise with the outcome in the calibrate split.
        """
        from clinical_assets.learning.stay_network import Stays, score_stays, train_network

        settings = SequenceAlarmSettings.of(protocol)
        columns = ReadColumns.choose(protocol.feature_columns(training_set.columns))
        check_numeric(training_set, columns.names)
        hours = AlarmHours.of(training_set, protocol, "train")
        stays = Stays.of(hours.patient, columns.read(training_set, hours.row))
        network = train_network(stays, hours, len(columns.numbers), settings)
        hours = AlarmHours.of(training_set, protocol, "calibrate")
        scores = score_stays(network, Stays.of(hours.patient, columns.read(training_set, hours.row)))
        calibration = ScoreCalibration.fit(hours.outcome, scores, (1 / len(scores),) * len(scores))
        return cls(settings, columns, protocol.patient, protocol.index_time, network, calibration)

    def predict(self, features: pl.DataFrame) -> FloatArray:
        """The risk of every hour, given its patient's earlier hours among the rows, whatever their order.

        Raises LearningError naming columns that are missing or no numbers.
        """
        from clinical_assets.learning.stay_network import Stays, score_stays

        check_columns(features, self.feature_names)
        check_numeric(features, self.columns.names)
        if not features.height:
            return np.empty(0)
        order = features.select(pl.arg_sort_by(self.patient, self.index_time)).to_series().to_numpy().astype(np.int64)
        patient = features[self.patient].gather(order).rle_id().to_numpy().astype(np.int64)
        risk = np.empty(features.height)
        stays = Stays.of(patient, self.columns.read(features, order))
        risk[order] = self.calibration.risk(score_stays(self.network, stays))
        return risk

    def represent(self, features: pl.DataFrame) -> pl.DataFrame:
        """No columns: what the network remembers has no meaning that monitoring could name."""
        return pl.DataFrame()

    def save(self, directory: Path) -> None:
        """Write the network's weights and quantiles as safetensors, and the rest as JSON."""
        from safetensors.torch import save_file

        description = {
            "settings": asdict(self.settings),
            "columns": asdict(self.columns),
            "patient": self.patient,
            "index_time": self.index_time,
            "calibration": asdict(self.calibration),
        }
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")
        weights = {name: weight.cpu().contiguous() for name, weight in self.network.state_dict().items()}
        save_file(weights, directory / WEIGHTS_FILE)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The model saved in a directory; raises LearningError when a file is missing, damaged or another network's."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from clinical_assets.learning.stay_network import StayNetwork

        path = directory / DESCRIPTION_FILE
        try:
            description: dict[str, Any] = json.loads(path.read_text())
            settings = SequenceAlarmSettings(**description["settings"])
            columns = ReadColumns(*(tuple(description["columns"][name]) for name in ("numbers", "hours_since")))
            network = StayNetwork(len(columns.numbers), len(columns.hours_since), settings)
            network.load_state_dict(load_file(directory / WEIGHTS_FILE))
            calibration = ScoreCalibration.read(description["calibration"])
            patient, index_time = description["patient"], description["index_time"]
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise LearningError(f"{path} is no saved SequenceAlarm ({error}); restore it or roll back") from error
        return cls(settings, columns, patient, index_time, network.eval(), calibration)
