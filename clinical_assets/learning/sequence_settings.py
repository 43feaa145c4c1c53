"""The settings of a recurrent network over the hours of a stay, as a protocol gives them.

Belongs here: their names, defaults and ranges. Does not belong here: torch, so that a protocol is checked without it.
"""

from dataclasses import dataclass
from typing import Self

from clinical_assets.learning.hourly_alarm import read_settings
from clinical_assets.protocol import ModelProtocol

RANGES: dict[str, tuple[float, float]] = {
    "segments": (1, 64),
    "embedding": (1, 4096),
    "hidden": (1, 4096),
    "dropout": (0.0, 0.9),
    "epochs": (1, 1000),
    "patience": (1, 1000),
    "batch_hours": (10, 1_000_000),
    "learning_rate": (1e-6, 1.0),
    "weight_decay": (0.0, 10.0),
    "other_share": (0.01, 1.0),
    "stopping_share": (0.01, 0.5),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True, slots=True)
class SequenceAlarmSettings:
    """The `estimator_settings` of a protocol; each has a default.

    A number is read in `segments` pieces between its quantiles, mapped to `embedding` units, and remembered in `hidden`
    units; `dropout` is the share of units left out in training. An epoch sees every patient with the outcome and a new
    random `other_share` of the others, weighted up, in batches of about `batch_hours` hours; after `patience` epochs
    without a gain on the `stopping_share` of training patients set aside, training stops.
    """

    segments: int = 8
    embedding: int = 64
    hidden: int = 64
    dropout: float = 0.4
    epochs: int = 8
    patience: int = 4
    batch_hours: int = 2000
    learning_rate: float = 0.002
    weight_decay: float = 0.01
    other_share: float = 0.5
    stopping_share: float = 0.1
    seed: int = 0

    @classmethod
    def of(cls, protocol: ModelProtocol) -> Self:
        """The settings a protocol gives; raises LearningError naming one that is unknown or out of its range."""
        return read_settings(cls, protocol.estimator_settings, RANGES)
