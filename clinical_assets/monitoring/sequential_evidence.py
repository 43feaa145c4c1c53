"""Evidence that units stopped being exchangeable with a reference, valid however often one looks.

Belongs here: ranks of units in a reference, and the likelihood-ratio martingale on the counts of those ranks.
Does not belong here: frames, columns, alarms over several columns, what a movement means.

The idea. Ties broken by chance, the next of exchangeable units falls into each of the n + 1 gaps between n earlier ones
with equal probability, and splits that gap (Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World",
theorem 8.1: conformal p-values are independent and uniform). Gaps gathered into bins of fixed ranks therefore form a
Polya urn: the counts of any number of new units are Dirichlet-multinomial, with the gaps as parameters, whatever the
distribution of the values and however small the reference. The ratio of any other distribution of counts to that one
is a non-negative martingale of mean one, and Ville's inequality bounds the chance that it ever reaches 1 / alpha by
alpha (Vovk 2021, "Testing randomness online"). The others are Dirichlet-multinomial too, so all of it is closed form.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clinical_assets.monitoring.evidence import Counts

Floats = NDArray[np.float64]

TAIL_RANKS = (0.002, 0.005, 0.01, 0.025, 0.05)
"""Relative ranks of the bins' edges in the lower tail, mirrored in the upper one; a single gap lies beyond each."""

BODY_RANKS = tuple(step / 20 for step in range(2, 19))
"""Relative ranks of the bins' edges between the tails."""

LOCATION_TILTS = (-2.0, -1.2, -0.75, -0.45, -0.28, -0.17, -0.1, 0.1, 0.17, 0.28, 0.45, 0.75, 1.2, 2.0)
"""Shifts of the normal scores, in standard deviations."""

SCALE_TILTS = (-1.6, -0.8, -0.4, -0.2, 0.1, 0.2, 0.35)
"""Weights of half the squared normal score: narrower below zero, wider above."""

CELL_CONCENTRATIONS = (3.0, 10.0, 100.0, 1000.0)
"""How tightly the shares of the cells are expected to hold to those of the reference, in units."""

SHARE_OF_LOCATION, SHARE_OF_SCALE, SHARE_OF_CELLS, SHARE_OF_CUTS = 0.5, 0.1, 0.2, 0.2
"""How the prior weight is spread over the kinds of movement."""


@dataclass(frozen=True, slots=True)
class RankReference:
    """The reference's units as an urn of gaps, and the movements that are looked for.

    `edges` are order statistics of fixed rank, as keys in which ties carry the chance that breaks them; `gaps` counts
    the gaps of each bin, shape (bins,), their sum one more than the reference's units. `cell` numbers, for each bin,
    the cell it belongs to: a tenth of the reference, or the category that most of its units have.
    """

    tied_values: Floats
    edges: Floats
    gaps: Counts
    scores: Floats
    cell: NDArray[np.intp]

    @classmethod
    def learn(cls, values: Floats, generator: np.random.Generator, by_category: bool = False) -> Self:
        """The urn of a reference.

        Args:
            values: One finite number a unit, shape (units,); a category is its position in an order fixed beforehand.
            generator: Breaks ties.
            by_category: Whether equal values, and not tenths of the reference, are what may become more or less common.
        """
        size = values.size + 1
        relative = np.array([*TAIL_RANKS, *BODY_RANKS, *(1 - rank for rank in reversed(TAIL_RANKS))])
        ranks = np.unique(np.concatenate([[1], np.round(relative * size).astype(np.intp), [size - 1]]))
        ranks = ranks[(ranks > 0) & (ranks < size)]
        bounds = np.concatenate([[0], ranks, [size]])
        middle = (bounds[:-1] + bounds[1:]) / 2
        inner = np.minimum(middle, max(values.size - 1, 0)).astype(np.intp)
        ordered = np.partition(values, np.union1d(ranks - 1, inner)) if values.size else values
        tied_values, position = np.unique(ordered[ranks - 1], return_inverse=True)
        tenth = np.minimum(10 * middle / size, 9).astype(np.intp)
        cell = np.unique(ordered[inner] if by_category and values.size else tenth, return_inverse=True)[1]
        return cls(
            tied_values=tied_values,
            edges=2 * position + 1 + _break_ties(values, tied_values, position, ranks, generator),
            gaps=np.diff(bounds).astype(np.float64),
            scores=_normal_quantile(middle / size),
            cell=cell,
        )

    @property
    def n(self) -> int:
        """How many units the reference has."""
        return int(self.gaps.sum()) - 1

    def count(self, values: Floats, generator: np.random.Generator) -> Counts:
        """How many new units fall into each bin, shape (bins,); `generator` breaks ties with the edges."""
        if not self.edges.size:
            return np.array([float(values.size)])
        below = np.searchsorted(self.tied_values, values, side="left")
        tied = self.tied_values[np.minimum(below, self.tied_values.size - 1)] == values
        keys = 2.0 * below + np.where(tied, 1 + generator.random(values.size), 0.0)
        return np.bincount(np.searchsorted(self.edges, keys, side="right"), minlength=self.gaps.size).astype(np.float64)

    def log_evidence(self, looks: Counts, looks_per_year: int) -> float:
        """The natural logarithm of the e-value that the looks so far have gathered; 0 before the first.

        The movement may begin at any look of the year: the mixture over the looks of the year, with equal weights, in
        which the weight of looks still to come stands as 1, so that the whole is a martingale from look to look.

        Args:
            looks: Units in each bin at each look of this year, shape (looks, bins).
            looks_per_year: How many looks a year has; at least as many as were taken.
        """
        if not looks.size or self.gaps.size == 1:
            return 0.0
        earlier = np.vstack([np.zeros(self.gaps.size), np.cumsum(looks, axis=0)[:-1]])
        since = looks.sum(axis=0) - earlier
        ratios = self._log_bayes_factors(self.gaps + earlier, since)
        unspent = looks_per_year - len(looks)
        terms = np.append(ratios, math.log(unspent) if unspent else -math.inf)
        return _log_sum_exp(terms) - math.log(looks_per_year)

    def _log_bayes_factors(self, urn: Counts, counts: Counts) -> Floats:
        """Movement against no movement for each start, shape (starts,); `urn` and `counts` are (starts, bins)."""
        total = urn.sum(axis=1, keepdims=True)
        null = _log_dirichlet_multinomial(urn, counts)
        location = np.outer(LOCATION_TILTS, self.scores)
        scale = np.outer(SCALE_TILTS, (self.scores**2 - 1) / 2)
        tilted = urn[:, None, :] * np.exp(np.vstack([location, scale]))
        tilted *= total[:, :, None] / tilted.sum(axis=2, keepdims=True)
        tilts = _log_dirichlet_multinomial(tilted, counts[:, None, :]) - null[:, None]
        cells = np.eye(int(self.cell.max()) + 1)[self.cell]
        cell_urn, cell_counts = urn @ cells, counts @ cells
        concentrations = np.array(CELL_CONCENTRATIONS)[None, :, None]
        moved_cells = _log_dirichlet_multinomial(
            cell_urn[:, None, :] * np.minimum(concentrations / total[:, :, None], 1.0), cell_counts[:, None, :]
        )
        in_cells = moved_cells - _log_dirichlet_multinomial(cell_urn, cell_counts)[:, None]
        beyond = self._tails()
        cut_urn, cut_counts = (np.stack([x @ beyond, x @ (1 - beyond)], axis=-1) for x in (urn, counts))
        in_tails = _log_dirichlet_multinomial(np.full_like(cut_urn, 0.5), cut_counts) - _log_dirichlet_multinomial(
            cut_urn, cut_counts
        )
        weights = np.concatenate(
            [
                np.full(len(LOCATION_TILTS), SHARE_OF_LOCATION / len(LOCATION_TILTS)),
                np.full(len(SCALE_TILTS), SHARE_OF_SCALE / len(SCALE_TILTS)),
                np.full(len(CELL_CONCENTRATIONS), SHARE_OF_CELLS / len(CELL_CONCENTRATIONS)),
                np.full(beyond.shape[1], SHARE_OF_CUTS / beyond.shape[1]),
            ]
        )
        ratios = np.hstack([tilts, in_cells, in_tails]) + np.log(weights)
        largest = ratios.max(axis=1, keepdims=True)
        return (largest + np.log(np.exp(ratios - largest).sum(axis=1, keepdims=True)))[:, 0]

    def _tails(self) -> Floats:
        """Which bins lie beyond each of four cuts: below and above the whole reference, and its outer hundredths."""
        relative = np.cumsum(self.gaps) / self.gaps.sum()
        first, last = np.zeros(self.gaps.size), np.zeros(self.gaps.size)
        first[0] = last[-1] = 1
        lower = np.maximum(first, relative <= 0.011)
        upper = np.maximum(last, relative - self.gaps / self.gaps.sum() >= 0.989)
        return np.column_stack([first, last, lower, upper]).astype(np.float64)


def units_needed(shift_sd: float, n_reference: int, weight: float, alpha: float, looks_per_year: int) -> int | None:
    """How many new units it takes to see a shift of the location four times in five; `None` if no number suffices.

    The log likelihood ratio of a shift of d standard deviations has mean mu = d^2 / 2 * n N / (n + N) and variance
    2 mu. It must exceed the logarithms of the level and of the prior weights of the look and of the movement.

    Args:
        shift_sd: The shift, in standard deviations of the reference.
        n_reference: Units in the reference, N.
        weight: The share of the alarm level that this process has, up to 1.
        alpha: The yearly level of the alarm.
        looks_per_year: Over how many possible starts the evidence is spread.
    """
    prior = weight * SHARE_OF_LOCATION / len(LOCATION_TILTS) / looks_per_year
    log_needed = -math.log(alpha * prior)
    quantile = 0.8416 * math.sqrt(2)
    mean = ((quantile + math.sqrt(quantile**2 + 4 * log_needed)) / 2) ** 2
    harmonic = 2 * mean / shift_sd**2
    return math.ceil(harmonic * n_reference / (n_reference - harmonic)) if n_reference > harmonic else None


def _log_dirichlet_multinomial(parameters: Floats, counts: Floats) -> Floats:
    """The log probability of a sequence with these counts; the last axis is that of the bins."""
    from scipy.special import gammaln

    total, n = parameters.sum(axis=-1), counts.sum(axis=-1)
    bins = gammaln(parameters + counts) - gammaln(parameters)
    return gammaln(total) - gammaln(total + n) + bins.sum(axis=-1)


def _break_ties(
    values: Floats,
    tied_values: Floats,
    position: NDArray[np.intp],
    ranks: NDArray[np.intp],
    generator: np.random.Generator,
) -> Floats:
    """The chance that each edge has among its equals: an order statistic of as many uniform numbers, drawn directly."""
    chance = np.empty(ranks.size)
    for place, value in enumerate(tied_values):
        edges = np.flatnonzero(position == place)
        below, equal = int(np.count_nonzero(values < value)), int(np.count_nonzero(values == value))
        within = ranks[edges] - below
        spacings = generator.standard_gamma(np.diff(np.concatenate([[0], within, [equal + 1]])))
        chance[edges] = np.cumsum(spacings)[:-1] / spacings.sum()
    return chance


def _normal_quantile(probability: Floats) -> Floats:
    from scipy.special import ndtri

    return np.asarray(ndtri(probability), dtype=np.float64)


def _log_sum_exp(terms: Floats) -> float:
    largest = float(terms.max())
    return largest + math.log(float(np.exp(terms - largest).sum()))
