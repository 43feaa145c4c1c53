"""Covariates as a matrix, and the logistic regression on it.

Belongs here: how columns of numbers and levels become columns of numbers, and the fit. Does not belong here: what is
estimated with them, and whether a batch has drifted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from clinical_assets.evaluation.calibration import from_logit
from clinical_assets.evaluation.findings import MISSING
from clinical_assets.evaluation.sample import FloatArray

MOST_LEVELS = 25
LEAST_LEVEL_ROWS = 20
LEAST_LEVEL_SHARE = 0.01
LEAST_DEVIATION = 0.1
MOST_DEVIATIONS = 4.0

NEWTON_STEPS = 100
LARGEST_NEWTON_STEP = 2.0
LARGEST_LOG_ODDS = 30.0
CONVERGED = 1e-6
# A step above this part of the one before asks for the curvature anew; a column of zeros would make it singular.
CURVATURE_SERVES = 0.25
LEAST_PENALTY = 1e-9


@dataclass(frozen=True, slots=True)
class CovariateEncoding:
    """How covariates become a matrix: numbers standardised, with squares and gaps; frequent levels as 0 and 1.

    `numbers` are (column, mean, standard deviation) and `levels` (column, level, share), all of the reference;
    `known` has every level of every column of levels.
    """

    numbers: tuple[tuple[str, float, float], ...]
    levels: tuple[tuple[str, str, float], ...]
    known: tuple[tuple[str, pl.Series], ...]
    columns: tuple[str, ...]

    @classmethod
    def fit(cls, rows: pl.DataFrame, covariates: Sequence[str]) -> Self:
        """The encoding of these columns, whose scales and levels are those of the reference rows."""
        numbers: list[tuple[str, float, float]] = []
        levels: list[tuple[str, str, float]] = []
        known: list[tuple[str, pl.Series]] = []
        for column in dict.fromkeys(covariates):
            if rows[column].dtype.is_numeric():
                present = _number(rows[column]).drop_nulls().to_numpy()
                if len(present):
                    numbers.append((column, float(present.mean()), float(present.std()) or 1.0))
                continue
            counts = level_names(rows[column]).alias("level").value_counts(sort=True)
            enough = max(LEAST_LEVEL_ROWS, LEAST_LEVEL_SHARE * rows.height)
            frequent = counts.filter(pl.col("count") >= enough).head(MOST_LEVELS)
            levels += [(column, level, count / rows.height) for level, count in frequent.iter_rows()]
            known.append((column, counts["level"]))
        return cls(tuple(numbers), tuple(levels), tuple(known), tuple(covariates))

    def apply(self, rows: pl.DataFrame) -> FloatArray:
        """The covariates of rows as rows x columns, in standard deviations of the reference."""
        encoded: list[FloatArray] = []
        for column, mean, deviation in self.numbers:
            number = _number(rows[column])
            standardised = ((number - mean) / deviation).fill_null(0.0).to_numpy()
            held = standardised.clip(-MOST_DEVIATIONS, MOST_DEVIATIONS)
            encoded += [held, held**2, number.is_null().cast(pl.Float64).to_numpy()]
        names = {column: level_names(rows[column]) for column, _ in self.known}
        for column, level, share in self.levels:
            deviation = max(float(np.sqrt(share * (1 - share))), LEAST_DEVIATION)
            encoded.append(((names[column] == level).cast(pl.Float64).to_numpy() - share) / deviation)
        return np.column_stack(encoded) if encoded else np.empty((rows.height, 0))

    def count_unknown(self, rows: pl.DataFrame) -> dict[str, int]:
        """How many rows have a level that the reference does not hold, by column; columns without any are left out."""
        counts = {column: int((~level_names(rows[column]).is_in(seen.implode())).sum()) for column, seen in self.known}
        return {column: count for column, count in counts.items() if count}


def level_names(column: pl.Series) -> pl.Series:
    """The levels of a column as text, `missing` where there is none."""
    return column.cast(pl.String).fill_null(MISSING)


def _number(column: pl.Series) -> pl.Series:
    return column.cast(pl.Float64).fill_nan(None)


def fit_logistic(
    matrix: FloatArray, label: FloatArray, weight: FloatArray, penalty: FloatArray, centre: FloatArray
) -> FloatArray:
    """Coefficients of a weighted logistic regression, each drawn to its centre by its own penalty; Newton's method.

    `matrix` is rows x columns, `label` 0 or 1 and `weight` one entry a row, `penalty` and `centre` one a column.
    """
    coefficients, step_before, curvature = centre.copy(), np.inf, np.empty((0, 0))
    for _ in range(NEWTON_STEPS):
        probability = from_logit(matrix @ coefficients)
        gradient = matrix.T @ (weight * (label - probability)) - penalty * (coefficients - centre)
        if not curvature.size:
            # The product of a matrix with its own transpose takes half the time of one with another.
            scaled = matrix * np.sqrt(weight * probability * (1 - probability))[:, None]
            curvature = scaled.T @ scaled + np.diag(penalty + LEAST_PENALTY)
        step = np.linalg.solve(curvature, gradient)
        longest = float(np.abs(step).max())
        coefficients = coefficients + step * min(1.0, LARGEST_NEWTON_STEP / max(longest, CONVERGED))
        if longest < CONVERGED:
            break
        # The curvature, which takes nearly all the time, is kept as long as it serves.
        if longest > step_before * CURVATURE_SERVES:
            curvature = np.empty((0, 0))
        step_before = longest
    return coefficients
