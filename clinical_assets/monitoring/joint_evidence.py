"""Evidence that the columns moved together, which no column shows alone: a correlation, a camera, an embedding.

Belongs here: the distance of a unit from the reference, the domain classifier, and which columns they point at.
Does not belong here: the evidence of single columns, missing values as such, verdicts.

The reference's units are split by chance into halves A and B. All that is learned is learned of A, and new units are
ranked in B, with which they are exchangeable as long as nothing moved (`sequential_evidence`). There are three scores:

- the Mahalanobis distance, with the covariance of Ledoit and Wolf (2004): at once, and with few units;
- a linear domain classifier (Fisher's discriminant): many columns that moved a little;
- a quadratic one, which adds the products of columns and drops what chance explains (soft thresholds: Tibshirani et al.
  2003; Bickel and Levina 2008): few columns that moved, or a correlation that did, at unchanged marginals.

A classifier learns from A against the earlier looks and one half of a look, and ranks the other half (cross-fitting,
Chernozhukov et al. 2018): a movement is seen at its first look, if it can be. Others are settled after the first looks
of a year and rank all later ones: a smaller movement adds up. All are in closed form. A dependence that changes no mean
and no product of two columns is not seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinical_assets.monitoring.column_reference import DriftError
from clinical_assets.monitoring.sequential_evidence import RankReference

Floats = NDArray[np.float64]

FEWEST_REFERENCE_UNITS = 100
"""Below this many units a half has fewer than fifty, among which no rank is rare."""

MOST_UNITS = 20_000
"""Of more units, in a half of the reference or in a look, a sample by chance is taken."""

FEWEST_CLASSIFIED_UNITS = 10
"""A look of fewer is weighed by its distances alone, and leaves no sums behind, in which a patient could be read."""

LEAST_PRESENT_SHARE = 0.05
"""A column with fewer values present is left to the process of its missingness."""

MOST_KNOTS = 512
"""As many values of a column are kept, by rank, to turn others into normal scores."""

SETTLED_AFTER = (1, 2, 4, 8)
"""After so many looks of a year a classifier is settled: it learns no more, and ranks the later looks."""

CLASSIFIERS = 2
"""Linear and quadratic."""

SHARE_OF_DISTANCE, SHARE_OF_CROSS_FITTED, SHARE_OF_SETTLED = 0.5, 0.25, 0.25
"""How the alarm level is spread over the processes."""

EXPLAINED_BY_CHANCE = 2.5
"""Standard errors by which a mean or a product must have moved before the quadratic classifier uses it."""

CHANCE_OF_NAMING_A_COLUMN = 0.01
"""The chance that any column is said to have moved where none did; it names columns, it raises no alarm."""

COLUMN_MOVEMENTS_SCHEMA = pl.Schema(
    {
        "column": pl.String,
        "movement": pl.String,
        "other_column": pl.String,
        "z": pl.Float64,
        "beyond_chance": pl.Boolean,
    }
)

STATE_SCHEMA = pl.Schema(
    {
        "distance_counts": pl.List(pl.Float64),
        "cross_fitted_log_evidence": pl.List(pl.Float64),
        "settled_counts": pl.List(pl.Float64),
        "units": pl.List(pl.Int64),
        "sums": pl.List(pl.Float64),
        "products": pl.List(pl.Float64),
    }
)


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over units of each column's score, shape (columns,), and of their products, shape (columns, columns)."""

    units: int
    sums: Floats
    products: Floats

    @classmethod
    def of(cls, scores: Floats) -> Self:
        """The sums over scores of shape (units, columns)."""
        return cls(len(scores), scores.sum(axis=0), scores.T @ scores)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.units + other.units, self.sums + other.sums, self.products + other.products)

    @property
    def mean(self) -> Floats:
        """The mean of each column, shape (columns,)."""
        return self.sums / self.units

    @property
    def mean_product(self) -> Floats:
        """The mean product of each two columns, shape (columns, columns)."""
        return self.products / self.units


@dataclass(frozen=True, slots=True)
class SettledClassifiers:
    """What the linear and the quadratic classifier learned from, and how many later units fell into each bin of ranks.

    `counts` has shape (classifiers, bins).
    """

    moments: Moments
    counts: Floats


@dataclass(frozen=True, slots=True)
class JointState:
    """What is kept of a year's looks: counts of ranks, one e-value a look, sums over units; no unit's values.

    `distance_counts` has shape (looks, bins), `cross_fitted_log_evidence` (looks,).
    """

    distance_counts: Floats
    cross_fitted_log_evidence: Floats
    settled: tuple[SettledClassifiers, ...]
    moments: Moments

    @property
    def looks(self) -> int:
        """How many looks of this year were taken."""
        return len(self.cross_fitted_log_evidence)

    def to_frame(self) -> pl.DataFrame:
        """One row of `STATE_SCHEMA`, matrices flattened by row; the sums over all units come before settled ones."""
        moments = [self.moments, *(settled.moments for settled in self.settled)]
        return pl.DataFrame(
            {
                "distance_counts": [self.distance_counts.ravel()],
                "cross_fitted_log_evidence": [self.cross_fitted_log_evidence],
                "settled_counts": [np.concatenate([[], *(settled.counts.ravel() for settled in self.settled)])],
                "units": [[each.units for each in moments]],
                "sums": [np.concatenate([each.sums for each in moments])],
                "products": [np.concatenate([each.products.ravel() for each in moments])],
            },
            schema=STATE_SCHEMA,
        )

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> Self:
        """The state that `to_frame` wrote; DriftError where the frame is none."""
        if frame.schema != STATE_SCHEMA or len(frame) != 1:
            raise DriftError(
                f"a joint state is one row of the columns {list(STATE_SCHEMA)}, got {len(frame)} rows of "
                f"{frame.columns}; start a new year instead, with no state"
            )
        distance, evidence, counts, units, sums, products = (
            frame[column].explode(empty_as_null=False).to_numpy() for column in STATE_SCHEMA
        )
        columns = len(sums) // len(units)
        moments, *settled = (
            Moments(int(n), *parts)
            for n, *parts in zip(
                units,
                sums.reshape(len(units), columns),
                products.reshape(len(units), columns, columns),
                strict=True,
            )
        )
        bins = len(distance) // len(evidence)
        return cls(
            distance_counts=distance.reshape(-1, bins),
            cross_fitted_log_evidence=evidence,
            settled=tuple(map(SettledClassifiers, settled, counts.reshape(-1, CLASSIFIERS, bins))),
            moments=moments,
        )


@dataclass(frozen=True, slots=True)
class JointEvidence:
    """What the looks of a year so far say of all columns together.

    `log_evidence` is the natural logarithm of the e-value: the strongest process, weighted by its share of the level.
    `columns` follows `COLUMN_MOVEMENTS_SCHEMA`, the furthest first: how far the mean, the spread or the most changed
    correlation of each column has moved, in standard errors; empty as long as too few units were seen.
    """

    log_evidence: float
    distance_log_evidence: float
    cross_fitted_log_evidence: float
    settled_log_evidence: float
    columns: pl.DataFrame

    @property
    def moved(self) -> tuple[str, ...]:
        """The columns that moved by more than chance explains, the furthest first."""
        return tuple(self.columns.filter("beyond_chance")["column"])


@dataclass(frozen=True, slots=True)
class NormalScores:
    """One column as normal scores: the quantile of the standard normal at a value's rank in the reference.

    Between the knots scores are interpolated, beyond them held; a missing value has the score 0, the median's.
    """

    column: str
    knots: Floats
    scores: Floats
    mean: float
    standard_deviation: float

    @classmethod
    def learn(cls, column: str, values: Floats) -> Self | None:
        """The scores of a column, NaN where missing; `None` if it hardly has values, or but one."""
        from scipy.special import ndtri

        present = np.sort(values[~np.isnan(values)])
        if present.size < LEAST_PRESENT_SHARE * values.size or not present.size or present[0] == present[-1]:
            return None
        ranks = np.linspace(0, present.size - 1, min(MOST_KNOTS, present.size)).astype(np.intp)
        distinct = np.unique(present)
        knots = distinct if distinct.size <= MOST_KNOTS else np.unique(present[ranks])
        middle = np.searchsorted(present, knots, side="left") + np.searchsorted(present, knots, side="right")
        scores = np.asarray(ndtri((middle + 1) / (2 * present.size + 2)), dtype=np.float64)
        raw = np.where(np.isnan(values), 0.0, np.interp(values, knots, scores))
        return cls(column, knots, scores, mean=float(raw.mean()), standard_deviation=float(raw.std()))

    def of(self, values: Floats) -> Floats:
        """The scores of values, in standard deviations from the reference's mean, shape (units,)."""
        raw = np.where(np.isnan(values), 0.0, np.interp(values, self.knots, self.scores))
        return (raw - self.mean) / self.standard_deviation


@dataclass(frozen=True, slots=True)
class DomainClassifier:
    """The weights of columns, shape (columns,), and of their products, shape (columns, columns)."""

    linear: Floats
    quadratic: Floats


@dataclass(frozen=True, slots=True)
class JointReference:
    """What is kept of the reference: how columns become scores, the moments of half A, the scores of half B.

    `precision` is the inverse covariance of A, `product_variance` the variance of each two columns' product, both of
    shape (columns, columns); `ranked_scores` is half B, shape (units, columns).
    """

    normal_scores: tuple[NormalScores, ...]
    moments: Moments
    product_variance: Floats
    precision: Floats
    ranked_scores: Floats
    distances: RankReference
    seed: int
    looks_per_year: int

    @classmethod
    def fit(cls, units: pl.DataFrame, columns: Sequence[str], seed: int, looks_per_year: int = 12) -> Self | None:
        """What the columns of a reference look like together; `None` if fewer than two, or too few units, can be used.

        Args:
            units: One row a unit; null and NaN are missing.
            columns: Those to weigh; of these the numbers and booleans are used that have values and vary.
            seed: Splits the reference and the looks, and breaks ties.
            looks_per_year: Over how many looks the error rate is to hold.

        Raises:
            DriftError: If the reference lacks a column.
        """
        if absent := sorted(set(columns) - set(units.columns)):
            raise DriftError(f"the reference lacks the columns {absent}; leave them out, or add them to the reference")
        if len(units) < FEWEST_REFERENCE_UNITS:
            return None
        generator = np.random.default_rng([seed, 0, 1])
        order = generator.permutation(len(units))
        learned, ranked = (units[half[:MOST_UNITS]] for half in np.array_split(order, 2))
        found = [
            NormalScores.learn(column, _as_floats(learned[column])) for column in columns if _is_number(units[column])
        ]
        normal_scores = tuple(scores for scores in found if scores is not None)
        if len(normal_scores) < 2:
            return None
        learned_scores, ranked_scores = _score(normal_scores, learned), _score(normal_scores, ranked)
        moments, squares = Moments.of(learned_scores), learned_scores**2
        precision = _precision(learned_scores)
        return cls(
            normal_scores=normal_scores,
            moments=moments,
            product_variance=squares.T @ squares / len(learned) - moments.mean_product**2,
            precision=precision,
            ranked_scores=ranked_scores,
            distances=RankReference.learn(_distance(ranked_scores, precision), generator),
            seed=seed,
            looks_per_year=looks_per_year,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are weighed together."""
        return tuple(scores.column for scores in self.normal_scores)

    def look(self, units: pl.DataFrame, state: JointState | None = None) -> tuple[JointState, JointEvidence]:
        """One look at new units; the state after it, and the evidence of the year's looks so far.

        The chance that the e-value reaches 1 / alpha at any look of a year is at most alpha if nothing moved. For the
        distances and each settled classifier this is Ville's inequality. The cross-fitted e-values of the looks share
        B, and so depend on each other; their weighted sum only grows, and its mean at the end of the year is at most
        one: Markov's inequality is enough. The shares of the level are added (their average would be no martingale, as
        each process has its own past). After a full year the next look begins a new one.

        Args:
            units: One row a unit. A look with a data fault is better left out: it would count as a movement.
            state: That of the last look; `None` before the first.

        Raises:
            DriftError: If a column is absent or no longer a number, or the state is another reference's.
        """
        before = self._empty() if state is None or state.looks >= self.looks_per_year else state
        if before.moments.sums.shape != self.moments.sums.shape:
            raise DriftError(
                f"the state has {before.moments.sums.size} columns and the reference {len(self.columns)}; "
                "a state belongs to the reference it was made with: start again without one"
            )
        generator = np.random.default_rng([self.seed, 1, 1 + before.looks])
        sample = units[generator.permutation(len(units))[:MOST_UNITS]]
        scores = _score(self.normal_scores, sample)
        counts = self.distances.count(_distance(scores, self.precision), generator)
        enough = len(scores) >= FEWEST_CLASSIFIED_UNITS
        cross_fitted = self._cross_fit(scores, before.moments, generator) if enough else 0.0
        moments = before.moments + Moments.of(scores) if enough else before.moments
        settled = [self._judge(each, scores, generator) for each in before.settled]
        if 1 + before.looks in SETTLED_AFTER and moments.units:
            settled.append(SettledClassifiers(moments, np.zeros((CLASSIFIERS, self.distances.gaps.size))))
        after = JointState(
            distance_counts=np.vstack([before.distance_counts, counts]),
            cross_fitted_log_evidence=np.append(before.cross_fitted_log_evidence, cross_fitted),
            settled=tuple(settled),
            moments=moments,
        )
        return after, self.weigh(after)

    def weigh(self, state: JointState) -> JointEvidence:
        """The evidence of the looks in a state: what stands when a look has to be left out."""
        distance = self.distances.log_evidence(state.distance_counts, self.looks_per_year)
        cross_fitted = _log_sum_exp(state.cross_fitted_log_evidence) - math.log(self.looks_per_year)
        # The bins are those of fixed ranks in B, whatever is ranked, so that one urn serves all scores.
        later = [self.distances.log_evidence(one[None, :], 1) for each in state.settled for one in each.counts]
        settled = max(later, default=0.0) - math.log(CLASSIFIERS * len(SETTLED_AFTER))
        return JointEvidence(
            log_evidence=max(
                distance + math.log(SHARE_OF_DISTANCE),
                cross_fitted + math.log(SHARE_OF_CROSS_FITTED),
                settled + math.log(SHARE_OF_SETTLED),
            ),
            distance_log_evidence=distance,
            cross_fitted_log_evidence=cross_fitted,
            settled_log_evidence=settled,
            columns=self._rank_columns(state.moments),
        )

    def _empty(self) -> JointState:
        columns = len(self.columns)
        none = Moments(0, np.zeros(columns), np.zeros((columns, columns)))
        return JointState(np.zeros((0, self.distances.gaps.size)), np.zeros(0), (), none)

    def _judge(self, settled: SettledClassifiers, scores: Floats, generator: np.random.Generator) -> SettledClassifiers:
        """The counts with those of a later look; ties within B are broken as at every look."""
        counts = [
            RankReference.learn(
                _classify(classifier, self.ranked_scores), np.random.default_rng([self.seed, 2, settled.moments.units])
            ).count(_classify(classifier, scores), generator)
            for classifier in self._learn(settled.moments)
        ]
        return SettledClassifiers(settled.moments, settled.counts + counts)

    def _cross_fit(self, scores: Floats, earlier: Moments, generator: np.random.Generator) -> float:
        """The log of the mean e-value over the two folds and the two classifiers; rows come in an order by chance."""
        half = len(scores) // 2
        folds = (scores[:half], scores[half:])
        ratios: list[float] = []
        for taught, judged in (folds, folds[::-1]):
            for classifier in self._learn(earlier + Moments.of(taught)):
                urn = RankReference.learn(_classify(classifier, self.ranked_scores), generator)
                counts = urn.count(_classify(classifier, judged), generator)
                ratios.append(urn.log_evidence(counts[None, :], looks_per_year=1))
        return _log_sum_exp(np.array(ratios)) - math.log(len(ratios))

    def _learn(self, new: Moments) -> tuple[DomainClassifier, DomainClassifier]:
        """The linear and the quadratic classifier of the reference against new units."""
        per_unit = 1 / new.units + 1 / self.moments.units
        product_sd = np.sqrt(np.maximum(self.product_variance, np.finfo(np.float64).eps))
        mean_z = new.mean / math.sqrt(per_unit)
        product_z = (new.mean_product - self.moments.mean_product) / (product_sd * math.sqrt(per_unit))
        return (
            DomainClassifier(self.precision @ new.mean, np.zeros_like(self.precision)),
            DomainClassifier(_soften(mean_z), np.triu(_soften(product_z) / product_sd)),
        )

    def _rank_columns(self, new: Moments) -> pl.DataFrame:
        """How far each column's mean, spread and strongest correlation lie from the reference, in standard errors."""
        if new.units < FEWEST_CLASSIFIED_UNITS:
            return pl.DataFrame(schema=COLUMN_MOVEMENTS_SCHEMA)
        from scipy.special import ndtri

        names = np.array(self.columns)
        error = math.sqrt(1 / new.units + 1 / self.moments.units)
        variance = np.diag(new.mean_product) - new.mean**2
        spread_sd = np.sqrt(np.maximum(np.diag(self.product_variance), np.finfo(np.float64).eps))
        turned = (_fisher_z(new) - _fisher_z(self.moments)) / error
        partner = np.abs(turned).argmax(axis=1)
        z = np.column_stack(
            [new.mean / error, (variance - 1) / (spread_sd * error), turned[np.arange(len(names)), partner]]
        )
        furthest = np.abs(z).argmax(axis=1)
        furthest_z = z[np.arange(len(names)), furthest]
        comparisons = 2 * len(names) + len(names) * (len(names) - 1) / 2
        return (
            pl.DataFrame(
                {
                    "column": names,
                    "movement": np.array(["mean", "spread", "correlation"])[furthest],
                    "other_column": names[partner],
                    "z": furthest_z,
                    "beyond_chance": np.abs(furthest_z) > -ndtri(CHANCE_OF_NAMING_A_COLUMN / 2 / comparisons),
                },
                schema=COLUMN_MOVEMENTS_SCHEMA,
            )
            .select(
                "column",
                "movement",
                pl.when(pl.col("movement") == "correlation").then("other_column").alias("other_column"),
                "z",
                "beyond_chance",
            )
            .sort(pl.col("z").abs(), "column", descending=[True, False])
        )


def _is_number(series: pl.Series) -> bool:
    return series.dtype.is_numeric() or series.dtype == pl.Boolean


def _as_floats(series: pl.Series) -> Floats:
    """The values of a number or boolean, NaN where missing."""
    return series.cast(pl.Float64).to_numpy()


def _score(normal_scores: tuple[NormalScores, ...], units: pl.DataFrame) -> Floats:
    """Units as normal scores, shape (units, columns)."""
    names = [scores.column for scores in normal_scores]
    if absent := sorted(set(names) - set(units.columns)):
        raise DriftError(
            f"the look lacks the columns {absent}; it has a data fault: leave it out of the joint evidence"
        )
    if other := {name: str(units[name].dtype) for name in names if not _is_number(units[name])}:
        raise DriftError(f"columns were numbers in the reference and are not in the look: {other}; restore their types")
    return np.column_stack([scores.of(_as_floats(units[scores.column])) for scores in normal_scores])


def _precision(scores: Floats) -> Floats:
    from sklearn.covariance import ledoit_wolf

    return np.asarray(np.linalg.inv(ledoit_wolf(scores)[0]), dtype=np.float64)


def _distance(scores: Floats, precision: Floats) -> Floats:
    """The squared Mahalanobis distance of each unit, shape (units,)."""
    return np.asarray(np.einsum("ij,ij->i", scores @ precision, scores), dtype=np.float64)


def _classify(classifier: DomainClassifier, scores: Floats) -> Floats:
    """How much more each unit is like the new ones than like the reference, shape (units,); the scale is arbitrary."""
    return scores @ classifier.linear + np.einsum("ij,ij->i", scores @ classifier.quadratic, scores)


def _soften(z: Floats) -> Floats:
    return np.sign(z) * np.maximum(np.abs(z) - EXPLAINED_BY_CHANCE, 0.0)


def _fisher_z(moments: Moments) -> Floats:
    """Fisher's transform of each two columns' correlation, shape (columns, columns), 0 of a column with itself."""
    covariance = moments.mean_product - np.outer(moments.mean, moments.mean)
    spread = np.sqrt(np.maximum(np.diag(covariance), np.finfo(np.float64).eps))
    correlation = covariance / np.outer(spread, spread)
    np.fill_diagonal(correlation, 0.0)
    return np.arctanh(correlation.clip(-0.999, 0.999))


def _log_sum_exp(terms: Floats) -> float:
    largest = float(terms.max())
    return largest + math.log(float(np.exp(terms - largest).sum()))
