"""Whether a number came in another unit: the factor by which a batch, or part of it, is like the reference again.

Belongs here: the changes of unit that laboratories and wards know, and how one is told from a change of patients.
Does not belong here: whether a column moved at all, and what a fault leads to.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clinical_assets.monitoring.evidence import population_stability_index

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class UnitMap:
    """A new value is `factor` times the old one plus `offset`."""

    factor: float
    offset: float = 0.0

    def in_words(self) -> str:
        """The map as a reader of a report sees it."""
        if self == FAHRENHEIT_FOR_CELSIUS:
            return "degrees Fahrenheit where the reference has Celsius"
        if self == CELSIUS_FOR_FAHRENHEIT:
            return "degrees Celsius where the reference has Fahrenheit"
        return f"{self.factor:.3g} times the reference's"


FAHRENHEIT_FOR_CELSIUS = UnitMap(1.8, 32.0)
CELSIUS_FOR_FAHRENHEIT = UnitMap(1 / 1.8, -32 / 1.8)

FACTORS = (18.0, 10.0, 1000.0, 88.4, 38.67, 2.8, 7.50062, 2.20462, 2.54)
"""Glucose; decimal slips, g/dL and g/L, mg and g; creatinine; cholesterol; urea; kPa and mmHg; kg and lb; inch, cm."""

BODY_CELSIUS, BODY_FAHRENHEIT = (30.0, 43.0), (86.0, 109.4)
"""Between which a reference's quartiles lie that is a body temperature."""

WIDEST_BODY_CELSIUS = 4.0
"""The largest distance of the quartiles of a body temperature; in Fahrenheit 1.8 times as much."""

TAIL_LEVELS, FEWEST_IN_TAIL = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02), 5
"""Where a long tail's density is learnt as well, if so many values lie beyond: a uniform one is too thin close by."""

FEWEST_REFERENCE_VALUES = 500
"""Of fewer values the density is too rough to tell a unit by."""

FEWEST_CHANGED = 10
"""Fewer values that look changed are outliers, and name no unit."""

FEWEST_VALUES = 20
"""Of fewer values no change of unit is suspected."""

SLIGHT_FACTOR, MOST_OF_BATCH = 5.0, 0.9
"""A factor below 5 is not told from a change of patients unless it holds for nearly the whole batch."""

MOST_RESTORED_PSI = 0.2
"""How far from the reference a batch may be, beyond chance, once its unit is turned back."""

CHANCE_OF_NINE_CUTS = 21.7
"""The 99th percentile of chi-squared with 9 degrees of freedom: the index of n values without drift, times n."""

NEARBY_FACTORS = (0.65, 0.75, 0.85, 1.18, 1.33, 1.54)
"""Multiples of a suspected factor that must not explain the batch better: then it is patients who changed."""

NATS_FOR_MOVING = 6.0
"""What a movement by free numbers costs beyond their count: they come from a wide prior, a unit from a short list."""

SMALLEST_UNKNOWN_FACTOR = 2.0
"""A ratio of medians that is no known factor is taken for a unit only from here on, and below its inverse."""

SMALLEST_SHARE = 0.05
"""A smaller part of the batch in another unit is not looked for: a few outliers fit any factor."""

MOST_VALUES = 2000
"""So many of the batch's values, evenly taken, are compared: a factor needs no more."""

MOST_REFERENCE_VALUES = 20_000
"""So many of the reference's values, evenly taken, make its density."""


@dataclass(frozen=True, slots=True)
class UnitChange:
    """A suspected change of unit, the share of the batch it holds for, and its log likelihood ratio to no change."""

    map: UnitMap
    share: float
    log_likelihood_ratio: float

    def in_words(self) -> str:
        """The suspicion as a reader of a report sees it."""
        part = "its values are" if self.share > 0.95 else f"{100 * self.share:.0f} % of its values are"
        return f"{part} {self.map.in_words()}: another unit?"


@dataclass(frozen=True, slots=True)
class ReferenceDensity:
    """The reference's density: equal mass between quantiles, and tails that fall as the square of the distance."""

    quantiles: Floats
    mass: Floats
    tail_mass: float

    @classmethod
    def of(cls, values: Floats, generator: np.random.Generator) -> Self | None:
        """The density of finite values, one a unit; `None` where there are fewer than 500 or all are the same.

        Rounded values are spread over the width they were rounded to, so that equal ones have a density.
        """
        if values.size < FEWEST_REFERENCE_VALUES or values.min() == values.max():
            return None
        values = values[:: math.ceil(values.size / MOST_REFERENCE_VALUES)]
        distinct = np.unique(values)
        if distinct.size < values.size / 2:
            width = float(np.diff(distinct).min())
            values = values + generator.uniform(-width / 2, width / 2, values.size)
        body = np.linspace(0, 1, min(30, values.size // 20) + 1)
        fine = np.array([level for level in TAIL_LEVELS if level * values.size >= FEWEST_IN_TAIL])
        levels = np.unique(np.concatenate([body, fine, 1 - fine]))
        quantiles = np.unique(np.quantile(values, levels))
        inside = np.histogram(values, quantiles)[0] / values.size
        return cls(quantiles, inside, tail_mass=1 / math.sqrt(values.size))

    def log_density(self, values: Floats) -> Floats:
        """The natural logarithm of the density at each value; the shape is that of `values`."""
        low, high = self.quantiles[0], self.quantiles[-1]
        width = high - low
        heights = np.log(np.maximum(self.mass, 1e-12) * (1 - self.tail_mass) / np.diff(self.quantiles))
        inside = np.clip(np.searchsorted(self.quantiles, values, side="right") - 1, 0, heights.size - 1)
        beyond = np.maximum(low - values, values - high) / width
        tails = math.log(self.tail_mass / 2 / width) - 2 * np.log1p(np.maximum(beyond, 0.0))
        return np.where(beyond > 0, tails, heights[inside])


def suspect_unit_change(reference: ReferenceDensity, values: Floats, level: float) -> UnitChange | None:
    """The change of unit that explains how the batch differs from the reference; `None` where none does.

    The batch is a mixture of the reference and of the reference in another unit, its share fitted by expectation
    maximisation (Dempster, Laird and Rubin 1977). The best map is named only if its likelihood ratio to no change is
    beyond 1 / level after one parameter and all candidates are paid for (Schwarz 1978), and if neither a movement and
    stretching of the whole batch nor a factor beside the known one explains it better, free numbers paid for alike.

    Args:
        reference: The density of the reference's units.
        values: One finite number a unit of the batch, shape (units,).
        level: The chance of naming a unit where none changed.
    """
    values = values[:: math.ceil(values.size / MOST_VALUES)] if values.size > MOST_VALUES else values
    if values.size < FEWEST_VALUES:
        return None
    unchanged = reference.log_density(values)
    known = _plausible_maps(reference)
    price = math.log(values.size)
    fitted = [_fit_share(reference, values, unchanged, candidate) for candidate in known]
    best = max(fitted, key=lambda change: change.log_likelihood_ratio)
    for candidate in _ratio_of_medians(reference, values):
        unknown = _fit_share(reference, values, unchanged, candidate)
        if unknown.log_likelihood_ratio - price - NATS_FOR_MOVING > best.log_likelihood_ratio:
            best = unknown
    if best.share < SMALLEST_SHARE or best.log_likelihood_ratio < math.log((len(known) + 1) / level) + price / 2:
        return None
    slight = 1 / SLIGHT_FACTOR < best.map.factor < SLIGHT_FACTOR and best.map.offset == 0
    if (slight and best.share < MOST_OF_BATCH) or not _is_restored(reference, values, unchanged, best):
        return None
    nearby = [UnitMap(best.map.factor * stretch, best.map.offset) for stretch in NEARBY_FACTORS]
    near = [_fit_share(reference, values, unchanged, candidate).log_likelihood_ratio for candidate in nearby]
    moved = max(*near, _log_likelihood_of_moving(reference, values) - float(unchanged.sum()))
    return best if best.log_likelihood_ratio > moved - price - NATS_FOR_MOVING else None


def _plausible_maps(reference: ReferenceDensity) -> list[UnitMap]:
    """The known maps; those of a fraction and a temperature only where the reference may be one."""
    lower, upper = np.quantile(reference.quantiles, [0.25, 0.75])
    low, high = reference.quantiles[[0, -1]]
    maps = [UnitMap(factor) for known in FACTORS for factor in (known, 1 / known)]
    if low >= -0.01 and high <= 1.01:
        maps.append(UnitMap(100.0))
    elif low >= -1 and high <= 101:
        maps.append(UnitMap(0.01))
    if BODY_CELSIUS[0] < lower < upper < min(BODY_CELSIUS[1], lower + WIDEST_BODY_CELSIUS):
        maps.append(FAHRENHEIT_FOR_CELSIUS)
    if BODY_FAHRENHEIT[0] < lower < upper < min(BODY_FAHRENHEIT[1], lower + 1.8 * WIDEST_BODY_CELSIUS):
        maps.append(CELSIUS_FOR_FAHRENHEIT)
    return maps


def _fit_share(reference: ReferenceDensity, values: Floats, unchanged: Floats, candidate: UnitMap) -> UnitChange:
    changed = reference.log_density((values - candidate.offset) / candidate.factor) - math.log(candidate.factor)
    # Zero is zero in every unit that differs by a factor, so it speaks for none.
    tells = np.ones(values.size) if candidate.offset else (values != 0).astype(np.float64)
    ratio = np.exp(np.clip(changed - unchanged, -500, 500) * tells)
    share = 0.5
    for _ in range(40):
        share = float(np.mean(share * ratio / (1 - share + share * ratio)))
    return UnitChange(candidate, share, float(np.log(1 - share + share * ratio).sum()))


def _is_restored(reference: ReferenceDensity, values: Floats, unchanged: Floats, change: UnitChange) -> bool:
    """Whether the batch, and the changed part by itself, is like the reference once the changed values are turned back.

    By the stability index of tenths; a part that only looks like a heap at zero does not spread out when turned back.
    """
    turned = (values - change.map.offset) / change.map.factor
    changed = reference.log_density(turned) - math.log(change.map.factor)
    odds = math.log(max(change.share, 1e-9)) - math.log(max(1 - change.share, 1e-9))
    is_changed = changed - unchanged + odds > 0
    if np.count_nonzero(is_changed) < FEWEST_CHANGED:
        return False
    cuts = np.interp(np.arange(1, 10) / 10, np.concatenate([[0.0], np.cumsum(reference.mass)]), reference.quantiles)
    for part in (np.where(is_changed, turned, values), turned[is_changed]):
        counts = np.bincount(np.searchsorted(cuts, part), minlength=10).astype(np.float64)
        index = population_stability_index(np.full(10, 1000.0), counts)
        if index > MOST_RESTORED_PSI + CHANCE_OF_NINE_CUTS / part.size:
            return False
    return True


def _ratio_of_medians(reference: ReferenceDensity, values: Floats) -> list[UnitMap]:
    old, new = float(np.median(reference.quantiles)), float(np.median(values))
    if old <= 0 or new <= 0 or 1 / SMALLEST_UNKNOWN_FACTOR < new / old < SMALLEST_UNKNOWN_FACTOR:
        return []
    return [UnitMap(new / old)]


def _log_likelihood_of_moving(reference: ReferenceDensity, values: Floats) -> float:
    """The log likelihood of the batch as the reference moved to its median and stretched to its quartiles."""
    old = np.quantile(reference.quantiles, [0.25, 0.5, 0.75])
    new = np.quantile(values, [0.25, 0.5, 0.75])
    if new[2] == new[0] or old[2] == old[0]:
        return -math.inf
    stretch = float((new[2] - new[0]) / (old[2] - old[0]))
    return float(reference.log_density((values - new[1]) / stretch + old[1]).sum()) - values.size * math.log(stretch)
