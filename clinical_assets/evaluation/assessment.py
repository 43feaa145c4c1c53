"""What a kind of prediction is turned into, and how it is measured: the functions that a protocol names at once.

Belongs here: the shape that all kinds share. Does not belong here: any kind (`binary_risk`, `hourly_alarms`,
`disease_grades`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from clinical_assets.evaluation.sample import FloatArray
from clinical_assets.protocol import Finding, ModelProtocol

Thresholds = Mapping[str, float]
Findings = list[Finding]


@dataclass(frozen=True, slots=True)
class Assessment:
    """How the predictions of one kind of model become columns, alerts, findings and comparisons.

    `tabulate` makes a prediction (rows, or rows x grades) a frame of as many rows; one column is `risk`, the
    probability of an event. `choose_thresholds` finds the operating points on tabulated rows of the calibration split:
    `alert`, and others where the kind has them. `decide` adds `alerted`, and what else follows from the thresholds, to
    tabulated rows. `measure` takes decided rows with their outcomes and the number of bootstrap resamples (0: no
    intervals), and gives every finding overall and by subgroup; `compare` those of a candidate less those of another
    version, named in the third place, on the same rows.
    """

    tabulate: Callable[[FloatArray, ModelProtocol], pl.DataFrame]
    choose_thresholds: Callable[[pl.DataFrame, ModelProtocol], Thresholds]
    decide: Callable[[pl.DataFrame, Thresholds], pl.DataFrame]
    measure: Callable[[pl.DataFrame, ModelProtocol, int], Findings]
    compare: Callable[[pl.DataFrame, pl.DataFrame, str, ModelProtocol], Findings]
