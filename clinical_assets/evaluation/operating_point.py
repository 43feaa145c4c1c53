"""Where the alert begins: the threshold that keeps to the share of units a ward can look after.

Belongs here: the choice of a threshold. Does not belong here: what alerting there achieves.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.evaluation.sample import EvaluationError
from clinical_assets.protocol import ModelProtocol


def choose_alert_threshold(calibrate: pl.DataFrame, protocol: ModelProtocol) -> float:
    """The threshold on `risk` that keeps to the protocol's operating point, of units or of patients ever alerted.

    `calibrate` are tabulated rows of the calibration split. Raises EvaluationError as `choose_threshold` does.
    """
    point = protocol.operating_point
    if point.of == "units":
        return choose_threshold(calibrate["risk"].to_numpy(), point.alerted_fraction)
    highest = calibrate.group_by(protocol.patient).agg(pl.col("risk").max())["risk"]
    return choose_threshold(highest.to_numpy(), point.alerted_fraction, "patients")


def choose_threshold(risk: npt.NDArray[np.float64], alerted_fraction: float, of: str = "units") -> float:
    """The lowest risk at which no more than `alerted_fraction` of the units are at or above it.

    `risk` is that of the calibration split, never of the test split. Raises EvaluationError when not one unit may be
    alerted, because there are too few or too many share the highest risk.
    """
    allowed = int(np.floor(alerted_fraction * len(risk) + 1e-9))
    values, counts = np.unique(risk, return_counts=True)
    alerted = np.cumsum(counts[::-1])[::-1]
    within = np.flatnonzero(alerted <= allowed)
    if not len(within):
        shared = f", and {counts[-1]:,} share the highest risk" if len(risk) else ""
        raise EvaluationError(
            f"no threshold alerts at most {alerted_fraction:g} of {len(risk):,} {of}: that is {allowed:,} {of}"
            f"{shared}; use more calibration months or a larger alerted_fraction"
        )
    return float(values[within[0]])
