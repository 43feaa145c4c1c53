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
# The gradient at a maximum, a unit of weight; and how much of the rise that its gradient promises a step must bring.
LARGEST_GRADIENT = 1e-7
LEAST_RISE = 1e-4
MOST_HALVINGS = 30
ROUNDING = 1e-12
# A gradient above this part of the one before asks for the curvature anew; a column of zeros would make it singular.
CURVATURE_SERVES = 0.25
LEAST_PENALTY = 1e-9


class NotConvergedError(ValueError):
    """A regression has not found its maximum; no figure may rest on where it stopped."""


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

    def unknown_levels(self, rows: pl.DataFrame) -> pl.Series:
        """The levels of each row, as `column=level`, that the reference does not hold: a list a row, mostly empty."""
        if not self.known:
            return pl.Series([[]] * rows.height, dtype=pl.List(pl.String))
        unknown = [
            pl.when(~pl.col(column).is_in(seen.implode())).then(pl.format(f"{column}={{}}", column))
            for column, seen in self.known
        ]
        levels = pl.DataFrame([level_names(rows[column]) for column, _ in self.known])
        return levels.select(pl.concat_list(unknown).list.drop_nulls()).to_series()

    def count_unknown(self, rows: pl.DataFrame, besides: frozenset[str] = frozenset()) -> dict[str, int]:
        """How many rows have a level that the reference does not hold, by column; columns without any are left out.

        Of the levels in `besides`, as `column=level`, something is known all the same.
        """
        levels = self.unknown_levels(rows).explode(empty_as_null=False).drop_nulls().value_counts()
        counts: dict[str, int] = {}
        for level, count in levels.iter_rows():
            if level not in besides:
                column = level.partition("=")[0]
                counts[column] = counts.get(column, 0) + count
        return counts


def level_names(column: pl.Series) -> pl.Series:
    """The levels of a column as text, `missing` where there is none."""
    return column.cast(pl.String).fill_null(MISSING)


def _number(column: pl.Series) -> pl.Series:
    return column.cast(pl.Float64).fill_nan(None)


def fit_logistic(
    matrix: FloatArray,
    label: FloatArray,
    weight: FloatArray,
    penalty: FloatArray,
    centre: FloatArray,
    start: FloatArray | None = None,
) -> FloatArray:
    """Coefficients of a weighted logistic regression, each drawn to its centre by its own penalty.

    Newton's method; a step is halved until the penalised log likelihood rises by a part of what its gradient promises
    (Armijo 1966), so that the curvature may be kept, and of single precision. The maximum does not depend on the start.

    `matrix` is rows x columns, `label` 0 or 1 and `weight` one entry a row, `penalty`, `centre` and `start` (the centre
    where none is given) one a column. Raises NotConvergedError where the gradient is not near 0 after all steps.
    """
    coefficients = (centre if start is None else start).copy()
    log_odds = matrix @ coefficients
    worth = _penalised_log_likelihood(coefficients, log_odds, label, weight, penalty, centre)
    curvature, before, total = np.empty((0, 0)), np.inf, max(float(weight.sum()), LEAST_PENALTY)
    steepest, halves = np.inf, False
    for _ in range(NEWTON_STEPS):
        probability = from_logit(log_odds)
        gradient = matrix.T @ (weight * (label - probability)) - penalty * (coefficients - centre)
        steepest = float(np.abs(gradient).max()) / total
        if steepest <= LARGEST_GRADIENT:
            return coefficients
        # The curvature, which takes nearly all the time, is kept as long as it serves.
        if not curvature.size or halves or steepest > before * CURVATURE_SERVES:
            curvature = curvature_of(matrix, weight * probability * (1 - probability), penalty)
        before = steepest
        step = np.linalg.solve(curvature, gradient)
        along, promised, size = matrix @ step, float(gradient @ step), 1.0
        for _ in range(MOST_HALVINGS):
            reached = coefficients + size * step
            risen = _penalised_log_likelihood(reached, log_odds + size * along, label, weight, penalty, centre)
            if risen >= worth + LEAST_RISE * size * promised - ROUNDING * abs(worth):
                break
            size /= 2
        else:
            break
        halves = size < 1.0
        coefficients, log_odds, worth = reached, log_odds + size * along, risen
    raise NotConvergedError(
        f"the regression of the outcome on {len(centre)} columns of {len(label):,} rows has not found its maximum: its "
        f"gradient is still {steepest:.1e} a unit of weight"
    )


def curvature_of(matrix: FloatArray, spread: FloatArray, penalty: FloatArray) -> FloatArray:
    """The matrix of second derivatives, less its sign: columns x columns, from one variance a row; single precision."""
    # The product of a matrix with its own transpose takes half the time of one with another.
    scaled = matrix.astype(np.float32) * np.sqrt(spread).astype(np.float32)[:, None]
    return (scaled.T @ scaled).astype(np.float64) + np.diag(penalty + LEAST_PENALTY)


def _penalised_log_likelihood(
    coefficients: FloatArray,
    log_odds: FloatArray,
    label: FloatArray,
    weight: FloatArray,
    penalty: FloatArray,
    centre: FloatArray,
) -> float:
    likelihood = float(weight @ (label * log_odds - np.logaddexp(0.0, log_odds)))
    return likelihood - float(penalty @ (coefficients - centre) ** 2) / 2
