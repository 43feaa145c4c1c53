"""How far a batch is from a reference, and how far chance alone would carry it: two-sample statistics on counts.

Belongs here: statistics on counts of independent units. Does not belong here: frames, columns, what a movement means.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]

SMALLEST_EXPECTED_COUNT = 5.0
"""Bins in which fewer units are expected are merged with their neighbour (Cochran 1954)."""

LARGEST_EVIDENCE = 300.0
"""Smaller probabilities than 1e-300 are not told apart."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A distance from the reference, the largest chance explains, and -log10 of its p-value; `None` if untestable."""

    value: float | None
    chance: float | None
    evidence: float | None


UNTESTABLE = Evidence(None, None, None)


def effective_size(rows_per_patient: NDArray[np.integer]) -> float:
    """How many independent rows the given ones are worth if a patient's rows all say the same: (sum k)^2 / sum k^2.

    Kish 1965, "Survey Sampling": the design effect at an intraclass correlation of one, the most careful value.
    """
    squares = float(np.sum(rows_per_patient.astype(np.float64) ** 2))
    return float(np.sum(rows_per_patient)) ** 2 / squares if squares else 0.0


def population_stability_index(reference: Counts, batch: Counts) -> float:
    """The sum over bins of (q - p) ln(q / p), with half a row added to each bin so that an empty one stays finite.

    Args:
        reference: Rows in each bin, shape (bins,).
        batch: Rows in each bin, shape (bins,).
    """
    p = (reference + 0.5) / (reference.sum() + 0.5 * reference.size)
    q = (batch + 0.5) / (batch.sum() + 0.5 * batch.size)
    return float(np.sum((q - p) * np.log(q / p)))


def weigh_distribution(reference: Counts, batch: Counts, n_reference: float, n_batch: float, alpha: float) -> Evidence:
    """The population stability index of two binned samples and the largest value chance explains.

    Without drift, PSI * n m / (n + m) is asymptotically chi-squared with (bins - 1) degrees of freedom (Yurdakul and
    Naranjo 2020, "Statistical properties of the population stability index"). In small samples an emptied bin carries
    PSI further than that, so the limit is raised by its ratio to the likelihood-ratio statistic, whose tail holds.

    Args:
        reference: Rows in each bin, shape (bins,).
        batch: Rows in each bin, shape (bins,).
        n_reference: Independent units among the reference's rows.
        n_batch: Independent units among the batch's rows.
        alpha: The false-alarm probability of this one comparison.
    """
    if min(n_reference, n_batch) <= 0:
        return UNTESTABLE
    p, q = reference / reference.sum(), batch / batch.sum()
    pooled = (n_reference * p + n_batch * q) / (n_reference + n_batch)
    groups = _merge_sparse_bins(pooled * min(n_reference, n_batch))
    if groups.size < 2:
        return UNTESTABLE
    from scipy.stats import chi2

    merged_reference, merged_batch = np.add.reduceat(reference, groups), np.add.reduceat(batch, groups)
    psi = population_stability_index(merged_reference, merged_batch)
    harmonic = n_reference * n_batch / (n_reference + n_batch)
    ratio_statistic = 2 * (
        n_reference * _divergence(np.add.reduceat(p, groups), np.add.reduceat(pooled, groups))
        + n_batch * _divergence(np.add.reduceat(q, groups), np.add.reduceat(pooled, groups))
    )
    statistic = min(psi * harmonic, ratio_statistic)
    inflation = psi * harmonic / statistic if statistic > 0 else 1.0
    degrees = groups.size - 1
    return Evidence(
        value=psi,
        chance=float(chi2.isf(alpha, degrees)) * inflation / harmonic,
        evidence=_minus_log10(float(chi2.sf(statistic, degrees))),
    )


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

    How much unseen mass to expect is read from the reference itself: the categories it saw once (Good 1953, "The
    population frequencies of species"), or, for a number, the two gaps beyond its smallest and largest value. The
    batch's count is then beta-binomial.

    Args:
        novel_rate: Share of the batch's rows, from 0 to 1.
        novel_in_reference: How many of the reference's own units were the only ones of their kind.
        n_reference: Independent units in the reference.
        n_batch: Independent units in the batch; rounded to whole ones.
        alpha: The false-alarm probability of this one comparison.
    """
    m = round(n_batch)
    if m == 0 or n_reference <= novel_in_reference:
        return UNTESTABLE
    from scipy.stats import betabinom

    under_chance = betabinom.pmf(np.arange(m + 1), m, novel_in_reference + 1, n_reference - novel_in_reference)
    at_least = np.cumsum(under_chance[::-1])[::-1]
    return Evidence(
        value=novel_rate,
        chance=float(np.searchsorted(-at_least, -alpha) - 1) / m,
        evidence=_minus_log10(float(at_least[round(m * novel_rate)])),
    )


def size_needed(relevant_psi: float, bins: int, n_reference: float, alpha: float) -> int | None:
    """How many independent units a batch needs for a PSI of `relevant_psi` to exceed chance; `None` if no number does.

    Args:
        relevant_psi: The smallest movement that matters.
        bins: The number of bins compared.
        n_reference: Independent units in the reference.
        alpha: The false-alarm probability of one comparison.
    """
    if bins < 2:
        return 1
    from scipy.stats import chi2

    limit = float(chi2.isf(alpha, bins - 1))
    if n_reference * relevant_psi <= limit:
        return None
    return math.ceil(limit / (relevant_psi - limit / n_reference))


def _merge_sparse_bins(expected: Counts) -> NDArray[np.intp]:
    """Where each merged bin starts, so that each expects at least five units; neighbours are merged from the left."""
    starts: list[int] = []
    held = SMALLEST_EXPECTED_COUNT
    for position, count in enumerate(expected):
        if held >= SMALLEST_EXPECTED_COUNT:
            starts.append(position)
            held = 0.0
        held += float(count)
    if held < SMALLEST_EXPECTED_COUNT and len(starts) > 1:
        starts.pop()
    return np.array(starts, dtype=np.intp)


def _divergence(p: Counts, pooled: Counts) -> float:
    present = p > 0
    return float(np.sum(p[present] * np.log(p[present] / pooled[present])))


def _minus_log10(probability: float) -> float:
    if probability <= 10**-LARGEST_EVIDENCE:
        return LARGEST_EVIDENCE
    return max(0.0, -math.log10(probability))
