"""Seeded streams of patients in which it is known what changed, from when on, and what harm that does to a model.

Belongs here: the simulated population, its model, and each change. Does not belong here: any monitor, or a figure.

Forty columns: 30 numbers in blocks of five with correlation 0.3 (plain, skewed, counts with ties, and some with 10 % or
60 % missing), ten categories, one of them the device. The model knows the outcome's true dependence on six of them, so
it is calibrated until something changes, and what a change costs is computed, not supposed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

FloatArray = npt.NDArray[np.float64]

NUMBERS = 30
CATEGORIES = 10
COLUMNS = NUMBERS + CATEGORIES
BLOCK = 5
BLOCK_CORRELATION = 0.3
SEEN_DEVICES = 3

GLUCOSE, GLUCOSE_MG_DL, TEMPERATURE_F = "glucose_mmol_l", "glucose_mg_dl", "temperature_f"
IDLE = "number_05"
DEVICE = "device"
NAMES = (GLUCOSE, GLUCOSE_MG_DL, TEMPERATURE_F, *(f"number_{place:02d}" for place in range(3, NUMBERS)))
CATEGORY_NAMES = (DEVICE, *(f"category_{place}" for place in range(1, CATEGORIES)))

INTERCEPT = -2.6
WEIGHTS = {GLUCOSE: 0.8, "number_03": 0.8, "number_10": 0.6, "number_15": 0.5, "number_20": 0.5, "number_26": 0.5}
"""The log odds of the outcome: by how much a column moves them for each reference standard deviation."""

FARTHEST_SD = 3.0
"""The model reads no value as further out than this, as trees do."""

HARMFUL_AUROC_LOSS = 0.02
HARMFUL_OBSERVED_EXPECTED = (0.9, 1.1)
TRUTH_ROWS = 200_000
TRUTH_SEED = 90_210

ChangeKind = Literal[
    "none",
    "mean",
    "variance",
    "correlation",
    "missingness",
    "lost",
    "unit",
    "category",
    "device",
    "label",
    "concept",
    "subgroup",
]


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of the patients or of their data, in one column, and how strongly.

    `mean` in standard deviations, `variance` as the ratio of standard deviations less 1, `correlation` between the
    column and `number_06`, `missingness` and `lost` as a share of rows (decided by the clinician, or by the interface),
    `unit` as a share of rows converted, `category` as a share of rows moved to the rarest value, `device` as a share of
    rows from a new one, `label` as a shift of the log odds, `concept` as the share by which the outcome loses its
    dependence on the model's columns, `subgroup` as a mean shift in one of eight groups.
    """

    kind: ChangeKind = "none"
    column: str = ""
    strength: float = 0.0
    factor: float = 1.0
    offset: float = 0.0

    def scaled(self, share: float) -> "Change":
        """The same change at a share of its strength; none at 0."""
        return replace(self, strength=self.strength * share) if share > 0 else Change()

    def in_words(self) -> str:
        """The change as a table names it."""
        if self.kind == "none":
            return "none"
        if self.kind == "unit":
            law = f"x{self.factor:.3g}" + (f" {self.offset:+.3g}" if self.offset else "")
            return f"unit {law}, {self.strength:.0%} of {self.column}"
        return f"{self.kind} {self.strength:g}" + (f", {self.column}" if self.column else "")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A year of looks at `n` rows each, with a change from look `starts_at` on (0: the first), sudden or over looks."""

    change: Change
    n: int
    looks: int = 12
    starts_at: int = 0
    gradual_over: int = 1
    n_reference: int = 10_000

    @property
    def title(self) -> str:
        """The scenario as a table names it."""
        return self.change.in_words() + (f", over {self.gradual_over} looks" if self.gradual_over > 1 else "")

    def change_at(self, look: int) -> Change:
        """The change as it stands at a look, the first being 0."""
        return self.change.scaled(min(1.0, max(0, look - self.starts_at + 1) / self.gradual_over))

    def draw(self, seed: int) -> "Stream":
        """One seeded stream: a reference of its own, and its looks."""
        random = np.random.default_rng([seed, self.n])
        reference = draw_rows(random, self.n_reference)
        return Stream(reference, [draw_rows(random, self.n, self.change_at(look)) for look in range(self.looks)])


@dataclass(frozen=True, slots=True)
class Stream:
    """A reference and the batches after it; columns: the forty, and `event`, `risk`, `patient`."""

    reference: pl.DataFrame
    batches: Sequence[pl.DataFrame]


@dataclass(frozen=True)
class Harm:
    """What a change does to the model, on many patients."""

    auroc: float
    auroc_before: float
    observed_expected: float

    @cached_property
    def real(self) -> bool:
        """Whether more than 0.02 of AUROC is lost, or observed over expected lies outside 0.9 to 1.1."""
        low, high = HARMFUL_OBSERVED_EXPECTED
        return self.auroc_before - self.auroc > HARMFUL_AUROC_LOSS or not low <= self.observed_expected <= high


def watched_columns() -> list[str]:
    """The forty columns a monitor watches."""
    return [*NAMES, *CATEGORY_NAMES]


def draw_rows(random: np.random.Generator, n: int, change: Change | None = None) -> pl.DataFrame:
    """`n` patients under a change: the forty columns, `event`, `risk` (the model's) and `patient`."""
    change = change or Change()
    latent = _draw_latent(random, n, change)
    group = random.integers(8, size=n)
    if change.kind == "subgroup":
        latent[group == 0, NAMES.index(change.column)] += change.strength
    rows = _as_columns(random, latent, group, change)
    log_odds = _log_odds(rows)
    if change.kind == "concept":
        log_odds = log_odds * (1 - change.strength) + change.strength * log_odds.mean()
    if change.kind == "label":
        log_odds = log_odds + change.strength
    event = (random.random(n) < _expit(log_odds)).astype(np.int8)
    rows = _measure(random, rows, change)
    return rows.with_columns(
        event=pl.Series(event),
        risk=pl.Series(_expit(_log_odds(rows))),
        patient=pl.Series(np.arange(n)) + int(random.integers(1 << 40)),
    )


def harm_of(change: Change) -> Harm:
    """What a change costs the model, computed on 200,000 patients with and without it."""
    before, _ = _performance(Change())
    after, observed_expected = _performance(change)
    return Harm(after, before, observed_expected)


@lru_cache(maxsize=256)
def _performance(change: Change) -> tuple[float, float]:
    """The model's AUROC and observed over expected under a change."""
    rows = draw_rows(np.random.default_rng(TRUTH_SEED), TRUTH_ROWS, change)
    event, risk = rows["event"].to_numpy().astype(np.float64), rows["risk"].to_numpy()
    return rank_auroc(event, risk), float(event.sum() / risk.sum())


def _draw_latent(random: np.random.Generator, n: int, change: Change) -> FloatArray:
    own = random.standard_normal((n, NUMBERS))
    shared = random.standard_normal((n, NUMBERS // BLOCK)).repeat(BLOCK, axis=1)
    latent = np.sqrt(BLOCK_CORRELATION) * shared + np.sqrt(1 - BLOCK_CORRELATION) * own
    if change.kind == "none" or change.column not in NAMES:
        return latent
    place = NAMES.index(change.column)
    if change.kind == "mean":
        latent[:, place] += change.strength
    if change.kind == "variance":
        latent[:, place] *= 1 + change.strength
    if change.kind == "correlation":
        partner = NAMES.index("number_06")
        rest = np.sqrt(1 - change.strength**2)
        latent[:, place] = change.strength * latent[:, partner] + rest * random.standard_normal(n)
    return latent


def _as_columns(
    random: np.random.Generator, latent: FloatArray, group: npt.NDArray[np.int64], change: Change
) -> pl.DataFrame:
    """The forty columns of the patients as they are, with what was never measured missing."""
    n = len(latent)
    columns: dict[str, pl.Series] = {}
    for place, name in enumerate(NAMES):
        z = latent[:, place]
        values = _SHAPES[name](z) if name in _SHAPES else _shape(place, z)
        missing = 0.1 if 20 <= place < 25 else 0.6 if place >= 28 else 0.0
        if change.kind == "missingness" and change.column == name:
            missing += change.strength
        absent = random.random(n) < missing
        columns[name] = pl.Series(name, np.where(absent, np.nan, values)).fill_nan(None)
    for place, name in enumerate(CATEGORY_NAMES):
        levels = SEEN_DEVICES if name == DEVICE else 2 + place % 5
        share = 0.6 ** np.arange(levels)
        level = group if place == CATEGORIES - 1 else random.choice(levels, n, p=share / share.sum())
        if change.kind == "category" and change.column == name:
            level = np.where(random.random(n) < change.strength, levels - 1, level)
        columns[name] = pl.Series(name, np.array([f"{name} {one}" for one in range(8)])[level])
    return pl.DataFrame(columns)


_SHAPES = {
    GLUCOSE: lambda z: np.round(np.exp(1.8 + 0.3 * z), 1),
    GLUCOSE_MG_DL: lambda z: np.round(18 * np.exp(1.8 + 0.3 * z)),
    TEMPERATURE_F: lambda z: np.round(98.6 + 1.2 * z, 1),
}


def _shape(place: int, z: FloatArray) -> FloatArray:
    """A number's marginal: lognormal, a count with many ties, or normal."""
    if 10 <= place < 15:
        return np.exp(0.5 * z)
    if 15 <= place < 20:
        return np.floor(np.exp(0.6 + 0.7 * z))
    return z


@lru_cache(maxsize=1)
def _scales() -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the model's columns in the population."""
    random = np.random.default_rng(TRUTH_SEED)
    latent = _draw_latent(random, TRUTH_ROWS, Change())
    rows = _as_columns(random, latent, np.zeros(TRUTH_ROWS, dtype=np.int64), Change())
    described = rows.select(
        *(pl.col(name).mean().alias(f"{name} mean") for name in WEIGHTS),
        *(pl.col(name).std().alias(f"{name} sd") for name in WEIGHTS),
    )
    return {name: (described[f"{name} mean"].item(), described[f"{name} sd"].item()) for name in WEIGHTS}


def _log_odds(rows: pl.DataFrame) -> FloatArray:
    """The log odds of the outcome by the six columns; what is missing counts as the mean."""
    terms = [
        weight * ((pl.col(name) - mean) / sd).clip(-FARTHEST_SD, FARTHEST_SD).fill_null(0.0)
        for (name, weight), (mean, sd) in zip(WEIGHTS.items(), _scales().values(), strict=True)
    ]
    return rows.select((INTERCEPT + pl.sum_horizontal(terms)).alias("log_odds"))["log_odds"].to_numpy()


def _measure(random: np.random.Generator, rows: pl.DataFrame, change: Change) -> pl.DataFrame:
    """The rows as the interface delivers them: converted, lost, or from another device."""
    if change.kind not in ("lost", "unit", "device"):
        return rows
    affected = pl.lit(pl.Series(random.random(len(rows)) < change.strength))
    column = pl.col(change.column)
    altered = {
        "lost": pl.lit(None),
        "unit": column * change.factor + change.offset,
        "device": pl.lit(f"{DEVICE} new"),
    }[change.kind]
    return rows.with_columns(pl.when(affected).then(altered).otherwise(column).alias(change.column))


def _expit(log_odds: FloatArray) -> FloatArray:
    return 1 / (1 + np.exp(-log_odds))


def rank_auroc(event: FloatArray, risk: FloatArray) -> float:
    """The area under the ROC curve by ranks (Mann-Whitney), ties counted half."""
    ranks = pl.Series(risk).rank().to_numpy()
    events = event.sum()
    return float((ranks[event > 0].sum() - events * (events + 1) / 2) / (events * (len(event) - events)))
