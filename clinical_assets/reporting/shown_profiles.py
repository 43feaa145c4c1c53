"""What of a column's profiles may be shown, and how far each period lies from what it is held against.

Belongs here: which quantiles, shares and bins rest on rows enough, and distances of what is shown. Does not belong
here: the rule on small counts (`governance.small_cells`), what a sketch says, and drawing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from clinical_assets.governance.small_cells import SMALLEST_SHOWN, hidden_parts, is_small
from clinical_assets.monitoring.profile_comparison import (
    furthest_share,
    rank_distance,
    rank_distance_by_chance,
    share_distance_by_chance,
)
from clinical_assets.monitoring.profiles import ColumnDistribution

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The quantiles that are drawn."""
OTHER = "all other values"
MOST_VALUES_OF_INTEGERS = 12
"""An integer of more values than this is drawn as a number."""
CHANCE_PER_PAGE = 0.05
"""In how many pages of profiles that did not move any period of any column lies further than chance explains."""

_BINS = 24
_TAIL = 0.01


class Kind(StrEnum):
    """How a column is compared and drawn."""

    NUMBERS = "numbers"
    VALUES = "values"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class ProfiledPeriod:
    """The exact profile of a period: how its columns are distributed, and of how many patients its rows are."""

    label: str
    patients: int
    columns: Mapping[str, ColumnDistribution] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Compared:
    """What a page is made of: the months, all of them merged, and what they are held against with its parts.

    Where nothing else is named to hold them against, `against` is `whole`, and `parts` are the months.
    """

    months: tuple[ProfiledPeriod, ...]
    whole: ProfiledPeriod
    against: ProfiledPeriod
    parts: tuple[ProfiledPeriod, ...]

    @property
    def is_against_itself(self) -> bool:
        """Whether each month is held against all of them."""
        return self.against is self.whole


@dataclass(frozen=True, slots=True)
class ShownPeriod:
    """What is shown of one column in one period; None where it is withheld.

    `quantiles` are those of SHARES, `shares` those of the rows with a value, by value. `moved` says how far it lies
    from what it is held against, as a multiple of what chance explains, and `by` in what.
    """

    label: str
    n: int | None
    missing: float | None
    quantiles: tuple[float | None, ...]
    shares: Mapping[str, float]
    moved: float | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class Bins:
    """Shares of the rows between edges in two periods, eleven rows or more or none; the outermost bins are open."""

    edges: tuple[float, ...]
    whole: tuple[float, ...]
    against: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ShownColumn:
    """One column of a page."""

    name: str
    kind: Kind
    months: tuple[ShownPeriod, ...]
    whole: ShownPeriod
    against: ShownPeriod
    bins: Bins | None

    @property
    def furthest(self) -> ShownPeriod:
        """The month that lies furthest off, the first of several."""
        return max(self.months, key=lambda month: month.moved or 0.0)

    @property
    def moved(self) -> float:
        """How far the furthest month lies off, as a multiple of what chance explains."""
        return self.furthest.moved or 0.0


def show_columns(compared: Compared) -> list[ShownColumn]:
    """Every column that the months and what they are held against have, those that moved furthest first."""
    names = set(compared.against.columns).intersection(*(month.columns for month in compared.months))
    chance = CHANCE_PER_PAGE / max(1, 2 * len(names) * len(compared.months))
    shown = [_show_column(name, compared, chance) for name in sorted(names)]
    return sorted(shown, key=lambda column: (-column.moved, column.name))


def _show_column(name: str, compared: Compared, chance: float) -> ShownColumn:
    cells = [period.columns[name] for period in (*compared.months, *compared.parts) if name in period.columns]
    kind = _kind_of(cells)
    hidden = _hidden_values(cells) if kind is Kind.VALUES else frozenset()
    whole = _show_period(compared.whole, name, kind, hidden, compared.months)
    against = (
        whole if compared.is_against_itself else _show_period(compared.against, name, kind, hidden, compared.parts)
    )
    months = tuple(
        _hold_against(month, _show_period(month, name, kind, hidden, (month,)), compared.against, against, name, chance)
        for month in compared.months
    )
    bins = _bins(compared, name) if kind is Kind.NUMBERS else None
    return ShownColumn(name, kind, months, whole, against, bins)


def _kind_of(cells: Sequence[ColumnDistribution]) -> Kind:
    held = [cell for cell in cells if cell.n_values]
    has_numbers = bool(held) and all(cell.numbers is not None for cell in held)
    has_counts = bool(held) and all(cell.counts for cell in held)
    values = {value for cell in held for value in cell.counts}
    if has_counts and (not has_numbers or len(values) <= MOST_VALUES_OF_INTEGERS):
        return Kind.VALUES
    return Kind.NUMBERS if has_numbers else Kind.NEITHER


def _hidden_values(cells: Sequence[ColumnDistribution]) -> frozenset[str]:
    """The values that are not shown by name in any period: in one of them their count is small or gives one away.

    Hidden everywhere, so that no sum over periods tells what one of them hides.
    """
    values = sorted({value for cell in cells for value in cell.counts})
    hidden = [False] * len(values)
    before: list[bool] | None = None
    while hidden != before:
        before = hidden
        for cell in cells:
            counts = [_sure_count(cell, value) for value in values]
            hidden = hidden_parts(counts, cell.n_values, hidden)
    return frozenset(value for value, is_hidden in zip(values, hidden, strict=True) if is_hidden)


def _sure_count(cell: ColumnDistribution, value: str) -> int:
    """The rows that surely hold a value; where the sketch cannot tell whether any does, one, which is not shown."""
    if not cell.count_error or not cell.n_values:
        return cell.counts.get(value, 0)
    return max(1, cell.counts.get(value, 0) - cell.count_error)


def _show_period(
    period: ProfiledPeriod, name: str, kind: Kind, hidden: frozenset[str], parts: Sequence[ProfiledPeriod]
) -> ShownPeriod:
    """A period of which no figure tells a small count, of its own or of one of the parts that it is the sum of."""
    cell = period.columns[name]
    of_parts = [cell, *(part.columns[name] for part in parts if name in part.columns)]
    n = None if any(is_small(part.n) for part in of_parts) else cell.n
    tells_few = any(is_small(part.n_null) or is_small(part.n_values) for part in of_parts)
    missing = None if tells_few or not n else cell.n_null / cell.n
    quantiles: tuple[float | None, ...] = (None,) * len(SHARES)
    if kind is Kind.NUMBERS and cell.n_values >= SMALLEST_SHOWN:
        found = cell.quantiles(SHARES)
        beyond = [cell.n_values * min(share, 1 - share) for share in SHARES]
        quantiles = tuple(x if rows >= SMALLEST_SHOWN else None for x, rows in zip(found, beyond, strict=True))
    shares: dict[str, float] = {}
    if kind is Kind.VALUES and cell.n_values >= SMALLEST_SHOWN:
        shares = {value: n / cell.n_values for value, n in sorted(cell.counts.items()) if value not in hidden}
        if (rest := cell.n_values - round(sum(shares.values()) * cell.n_values)) > 0:
            shares[OTHER] = rest / cell.n_values
    return ShownPeriod(period.label, n, missing, quantiles, shares)


def _hold_against(
    month: ProfiledPeriod, shown: ShownPeriod, against: ProfiledPeriod, other: ShownPeriod, name: str, chance: float
) -> ShownPeriod:
    """A month beside how far it lies off, by what is shown of it and by its ranks."""
    one, two = month.columns[name], against.columns[name]
    found: list[tuple[float, str]] = []
    if shown.missing is not None and other.missing is not None:
        n, m = min(one.n, month.patients), min(two.n, against.patients)
        bound = share_distance_by_chance(shown.missing, n, other.missing, m, chance)
        found.append((abs(shown.missing - other.missing) / bound, "missing"))
    n, m = min(one.n_values, month.patients), min(two.n_values, against.patients)
    if shown.shares and other.shares:
        value = furthest_share(shown.shares, other.shares, OTHER)
        p, q = shown.shares.get(value, 0.0), other.shares.get(value, 0.0)
        each = chance / len({*shown.shares, *other.shares})
        found.append((abs(p - q) / share_distance_by_chance(p, n, q, m, each), value))
    elif shown.quantiles[2] is not None and other.quantiles[2] is not None:
        bound = rank_distance_by_chance(n, m, one.rank_error + two.rank_error, chance)
        found.append((rank_distance(one, two) / bound, "ranks"))
    moved, by = max(found, default=(None, ""))
    return ShownPeriod(shown.label, shown.n, shown.missing, shown.quantiles, shown.shares, moved, by)


def _bins(compared: Compared, name: str) -> Bins | None:
    """Both periods' values in bins of equal width, neighbours pooled until each holds eleven rows or none of either."""
    whole, against = compared.whole.columns[name], compared.against.columns[name]
    fewest = min(whole.n_values, against.n_values)
    if fewest < 2 * SMALLEST_SHOWN:
        return None
    tail = max(_TAIL, SMALLEST_SHOWN / fewest)
    ends = [*whole.quantiles([tail, 1 - tail]), *against.quantiles([tail, 1 - tail])]
    low, high = min(ends), max(ends)
    if not low < high:
        return None
    inner = [low + (high - low) * place / _BINS for place in range(1, _BINS)]
    of_both = [[*cell.share_below(inner), 1.0] for cell in (whole, against)]
    edges: list[float] = []
    pooled: list[tuple[float, float]] = []
    last = (0.0, 0.0)
    for place in range(_BINS):
        reached = (of_both[0][place], of_both[1][place])
        share = (reached[0] - last[0], reached[1] - last[1])
        rest = (1 - reached[0], 1 - reached[1])
        if _tells_no_few(share, whole, against) and _tells_no_few(rest, whole, against):
            pooled.append(share)
            edges.append(inner[place] if place < len(inner) else high)
            last = reached
    return Bins((low, *edges[:-1], high), *zip(*pooled, strict=True)) if len(pooled) > 1 else None


def _tells_no_few(shares: tuple[float, float], whole: ColumnDistribution, against: ColumnDistribution) -> bool:
    """Whether a bin holds eleven rows or more, or none, of either, and is not empty of both."""
    counts = [round(share * cell.n_values) for share, cell in zip(shares, (whole, against), strict=True)]
    return not any(map(is_small, counts))
