"""Trees and a network that raise hourly alarms together: their risks averaged and recalibrated.

Belongs here: how the two are fitted side by side and blended. Does not belong here: either of them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from clinical_assets.evaluation.calibration import logit
from clinical_assets.learning.boosted_alarm import BoostedAlarm
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.hourly_alarm import AlarmHours, FloatArray, ScoreCalibration
from clinical_assets.learning.sequence_alarm import SequenceAlarm
from clinical_assets.protocol import ModelProtocol

DESCRIPTION_FILE = "blended_alarm.json"
BOOSTED, SEQUENCE = "boosted_", "sequence_"
SEQUENCE_WEIGHT = "sequence_weight"
DEFAULT_SEQUENCE_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class BlendedAlarm:
    """A BoostedAlarm and a SequenceAlarm, their log odds averaged in standard deviations and recalibrated (Platt 1999).

    The `estimator_settings` of a protocol are those of the two, as `boosted_leaves` or `sequence_epochs`, and
    `sequence_weight`, the network's share of the average.
    """

    boosted: BoostedAlarm
    sequence: SequenceAlarm
    calibration: ScoreCalibration

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions without which the saved files cannot be read."""
        return (*self.boosted.packages, *self.sequence.packages)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns `predict` reads: those of the trees, and what the network reads beside them."""
        others = (name for name in self.sequence.feature_names if name not in self.boosted.feature_names)
        return (*self.boosted.feature_names, *others)

    @classmethod
    def fit(cls, training_set: pl.DataFrame, protocol: ModelProtocol) -> Self:
        """Learn both from the hours whose `split` is `train`, and blend and recalibrate on the `calibrate` ones.

        Raises LearningError on an unknown setting, and on what either of the two raises.
        """
        weight = _sequence_weight(protocol)
        boosted = BoostedAlarm.fit(training_set, _protocol_of(protocol, BOOSTED))
        sequence = SequenceAlarm.fit(training_set, _protocol_of(protocol, SEQUENCE))
        return cls.of(boosted, sequence, training_set, protocol, weight)

    @classmethod
    def of(
        cls,
        boosted: BoostedAlarm,
        sequence: SequenceAlarm,
        training_set: pl.DataFrame,
        protocol: ModelProtocol,
        sequence_weight: float = DEFAULT_SEQUENCE_WEIGHT,
    ) -> Self:
        """The blend of two models that are already fitted, recalibrated on the hours whose `split` is `calibrate`."""
        hours = AlarmHours.of(training_set, protocol, "calibrate")
        scores = _score(boosted, sequence, training_set[hours.row])
        weights = (1 - sequence_weight, sequence_weight)
        return cls(boosted, sequence, ScoreCalibration.fit(hours.outcome, scores, weights))

    def predict(self, features: pl.DataFrame) -> FloatArray:
        """The risk of every hour, given its patient's earlier hours among the rows, whatever their order.

        Raises LearningError naming columns that are missing or no numbers.
        """
        return self.calibration.risk(_score(self.boosted, self.sequence, features))

    def represent(self, features: pl.DataFrame) -> pl.DataFrame:
        """No columns, as neither member has any."""
        return pl.DataFrame()

    def save(self, directory: Path) -> None:
        """Write the files of both, and the blend as JSON."""
        self.boosted.save(directory)
        self.sequence.save(directory)
        (directory / DESCRIPTION_FILE).write_text(json.dumps(asdict(self.calibration), indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The model saved in a directory; raises LearningError when a file is missing or damaged."""
        path = directory / DESCRIPTION_FILE
        try:
            calibration = ScoreCalibration.read(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LearningError(f"{path} is no saved BlendedAlarm ({error}); restore it or roll back") from error
        return cls(BoostedAlarm.load(directory), SequenceAlarm.load(directory), calibration)


def _score(boosted: BoostedAlarm, sequence: SequenceAlarm, features: pl.DataFrame) -> FloatArray:
    """The log odds of both, 2 x hours."""
    return np.stack([logit(boosted.predict(features)), logit(sequence.predict(features))])


def _sequence_weight(protocol: ModelProtocol) -> float:
    given = protocol.estimator_settings
    if unknown := sorted(name for name in given if not name.startswith((BOOSTED, SEQUENCE))):
        raise LearningError(
            f"estimator_settings: {unknown} are unknown; BlendedAlarm has {SEQUENCE_WEIGHT}, and the settings of its "
            f"members behind {BOOSTED} and {SEQUENCE}"
        )
    weight = given.get(SEQUENCE_WEIGHT, DEFAULT_SEQUENCE_WEIGHT)
    if isinstance(weight, bool | str) or not 0 < weight < 1:
        raise LearningError(f"estimator_settings: {SEQUENCE_WEIGHT} is {weight!r}; give a number between 0 and 1")
    return weight


def _protocol_of(protocol: ModelProtocol, member: str) -> ModelProtocol:
    """The protocol with the settings of one member alone."""
    settings = {
        name.removeprefix(member): value
        for name, value in protocol.estimator_settings.items()
        if name.startswith(member) and name != SEQUENCE_WEIGHT
    }
    return protocol.model_copy(update={"estimator_settings": settings})
