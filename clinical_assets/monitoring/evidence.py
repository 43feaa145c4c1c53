"""How far one look is from the reference, and how far chance alone would carry it: two-sample statistics on counts.

Belongs here: effect sizes and their critical values in one look. Does not belong here: frames, columns, evidence over
several looks (`sequential_evidence`), what a movement means.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]

UNEXPLAINED_LOOKS = 0.01
"""A critical value is the largest movement that chance explains in all but this share of looks."""

PERMUTATIONS = 199
"""With 199 draws, two in two hundred looks exceed the third largest value or tie with it: one in a hundred, exactly."""

MOST_NOVELTY_UNITS = 2000
"""More units in the batch are weighed as so many: the critical value of a rate is then wider than it need be."""

LARGEST_EVIDENCE = 300.0
"""Smaller probabilities than 1e-300 are not told apart."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A distance from the reference, the largest chance explains, and -log10 of its p-value; `None` if untestable."""

    value: float | None
    chance: float | None
    evidence: float | None


UNTESTABLE = Evidence(None, None, None)


@dataclass(frozen=True, slots=True)
class MovementLimits:
    """The largest movements of a distribution that chance explains in 99 of 100 looks."""

    population_stability_index: float
    jensen_shannon_distance: float
    mean_difference_sd: float


def population_stability_index(reference: Counts, batch: Counts) -> float:
    """The sum over bins of (q - p) ln(q / p), with half a row added to each bin so that an empty one stays finite.

    Args:
        reference: Rows in each bin, shape (bins,) or, for many at once, (draws, bins).
        batch: Rows in each bin, shape (bins,).
    """
    return float(_stability_indices(reference, batch))


def jensen_shannon_distance(reference: Counts, batch: Counts) -> float:
    """The square root of the Jensen-Shannon divergence in bits, from 0 to 1 (Endres and Schindelin 2003).

    Args:
        reference: Rows in each bin, shape (bins,).
        batch: Rows in each bin, shape (bins,).
    """
    return float(_jensen_shannon_distances(reference, batch))


def limit_movement(
    reference: Counts, batch: Counts, generator: np.random.Generator, positions_sd: Counts | None = None
) -> MovementLimits | None:
    """What chance explains in 99 of 100 looks, by permutation of units between batch and reference.

    Exact at any size: the counts of a random part of the pooled units are multivariate hypergeometric. `None` where
    either side has no units.

    Args:
        reference: Units in each bin, shape (bins,).
        batch: Units in each bin, shape (bins,).
        generator: Draws the permutations.
        positions_sd: The mean of each bin, in standard deviations of the reference; 0 for categories.
    """
    n, m = reference.sum(), batch.sum()
    if min(n, m) == 0:
        return None
    pooled = (reference + batch).astype(np.int64)
    drawn = generator.multivariate_hypergeometric(pooled, int(m), size=PERMUTATIONS, method="marginals")
    drawn = drawn.astype(np.float64)
    rest = pooled - drawn
    third = PERMUTATIONS - 2
    limits = [_stability_indices(rest, drawn), _jensen_shannon_distances(rest, drawn)]
    if positions_sd is not None:
        limits.append(np.abs(drawn @ positions_sd / m - rest @ positions_sd / n))
    largest = [float(np.sort(values)[third]) for values in limits]
    return MovementLimits(largest[0], largest[1], largest[2] if positions_sd is not None else 0.0)


def weigh_rate_change(
    reference_rate: float, batch_rate: float, n_reference: float, n_batch: float, alpha: float
) -> Evidence:
    """The absolute change of a rate and the largest chance explains, by Fisher's exact test (two-sided, doubled tail).

    Args:
        reference_rate: Share of the reference's rows, from 0 to 1.
        batch_rate: Share of the batch's rows, from 0 to 1.
        n_reference: Independent units among the reference's rows; rounded to whole ones.
        n_batch: Independent units among the batch's rows; rounded to whole ones.
        alpha: The false-alarm probability of this one comparison.
    """
    n, m = round(n_reference), round(n_batch)
    if min(n, m) == 0:
        return UNTESTABLE
    change = batch_rate - reference_rate
    in_batch = round(m * batch_rate)
    total = round(n * reference_rate) + in_batch
    if total in (0, n + m):
        return Evidence(value=abs(change), chance=0.5 / m, evidence=0.0)
    from scipy.stats import hypergeom

    under_chance = hypergeom(n + m, total, m)
    if change >= 0:
        limit = int(under_chance.isf(alpha / 2))
        tail = float(under_chance.sf(in_batch - 1))
    else:
        limit = int(under_chance.ppf(alpha / 2))
        tail = float(under_chance.cdf(in_batch))
    return Evidence(
        value=abs(change),
        chance=abs(limit / m - (total - limit) / n),
        evidence=_minus_log10(2 * tail),
    )


def weigh_novelty(
    novel_rate: float, novel_in_reference: float, n_reference: float, n_batch: float, alpha: float
) -> Evidence:
    """The share of rows the reference never saw the like of, and the largest one chance explains.

    For a number, the units beyond the reference's smallest and largest fall into two of its n + 1 gaps, so their count
    is beta-binomial, exactly. For a category the unseen mass to expect is read from those seen once (Good 1953, "The
    population frequencies of species").

    Args:
        novel_rate: Share of the batch's rows, from 0 to 1.
        novel_in_reference: How many of the reference's own units were the only ones of their kind.
        n_reference: Independent units in the reference.
        n_batch: Independent units in the batch; rounded to whole ones.
        alpha: The false-alarm probability of this one comparison.
    """
    m = min(round(n_batch), MOST_NOVELTY_UNITS)
    if m == 0 or n_reference <= novel_in_reference:
        return UNTESTABLE
    tail = _novelty_tail(m, novel_in_reference, n_reference)
    return Evidence(
        value=novel_rate,
        chance=float(np.searchsorted(-tail, -alpha) - 1) / m,
        evidence=_minus_log10(float(tail[round(m * novel_rate)])),
    )


@lru_cache(maxsize=256)
def _novelty_tail(m: int, novel_in_reference: float, n_reference: float) -> Counts:
    from scipy.stats import betabinom

    mass = betabinom.pmf(np.arange(m + 1), m, novel_in_reference + 1, n_reference - novel_in_reference)
    return np.cumsum(mass[::-1])[::-1]


def _stability_indices(reference: Counts, batch: Counts) -> Counts:
    p = (reference + 0.5) / (reference.sum(axis=-1, keepdims=True) + 0.5 * reference.shape[-1])
    q = (batch + 0.5) / (batch.sum(axis=-1, keepdims=True) + 0.5 * batch.shape[-1])
    return np.sum((q - p) * np.log(q / p), axis=-1)


def _jensen_shannon_distances(reference: Counts, batch: Counts) -> Counts:
    p, q = (x / x.sum(axis=-1, keepdims=True) for x in (reference, batch))
    middle = np.maximum((p + q) / 2, np.finfo(np.float64).tiny)
    bits = [np.sum(x * np.log2(np.maximum(x, 1e-300) / middle), axis=-1) for x in (p, q)]
    return np.sqrt(np.maximum((bits[0] + bits[1]) / 2, 0.0))


def _minus_log10(probability: float) -> float:
    if probability <= 10**-LARGEST_EVIDENCE:
        return LARGEST_EVIDENCE
    return max(0.0, -math.log10(probability))
