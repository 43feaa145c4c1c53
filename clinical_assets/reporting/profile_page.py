"""The page of a model's profiles: what moved, by how much and when, the furthest first, each column drawn.

Belongs here: choosing and wording what stands on the page. Does not belong here: what may be shown of a column
(shown_profiles.py), drawing (profile_figures.py), and fetching.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from markupsafe import Markup

from clinical_assets.governance.small_cells import SMALLEST_SHOWN
from clinical_assets.protocol import ModelProtocol, month_after
from clinical_assets.reporting.pages import page_environment
from clinical_assets.reporting.profile_figures import (
    missing_bars,
    month_strip,
    number,
    overlaid_histograms,
    percent,
    quantile_bands,
    value_rows,
)
from clinical_assets.reporting.shown_profiles import (
    CHANCE_PER_PAGE,
    SHARES,
    Compared,
    Kind,
    ShownColumn,
    ShownPeriod,
    show_columns,
)
from clinical_assets.reporting.withheld import WITHHELD

_NAMED_FIRST = 3
_QUANTILE_NAMES = ("5th percentile", "lower quartile", "median", "upper quartile", "95th percentile")


@dataclass(frozen=True, slots=True)
class ProfilePage:
    """What a page says beside the profiles.

    `alarmed` are the months in which a column raised the alarm of drift or had a fault, by column.
    """

    protocol: ModelProtocol
    compared: Compared
    data_origin: str
    calendar_note: str
    alarmed: Mapping[str, Sequence[date]]


@dataclass(frozen=True, slots=True)
class MovedColumn:
    """A column in short: how far its furthest month lies off, when that is, and what it is in words."""

    column: str
    moved: float
    month: str
    words: str


@dataclass(frozen=True, slots=True)
class _Card:
    """One column as the page shows it."""

    name: str
    moved: ShownColumn
    words: str
    far: str
    alarmed: str
    strip: Markup
    figures: tuple[tuple[str, Markup], ...]
    rows: tuple[tuple[str, ...], ...]
    heading: tuple[str, ...]


def moved_columns(columns: Sequence[ShownColumn]) -> list[MovedColumn]:
    """The columns of which a month lies further off than chance explains, the furthest first."""
    return [
        MovedColumn(column.name, column.moved, column.furthest.label, movement_in_words(column))
        for column in columns
        if column.moved > 1
    ]


def render_profile_page(page: ProfilePage, columns: Sequence[ShownColumn] | None = None) -> str:
    """The page as one self-contained HTML document: styles inside, no script, nothing fetched."""
    shown = show_columns(page.compared) if columns is None else columns
    cards = [_card(column, page) for column in shown]
    moved = [card for card in cards if card.moved.moved > 1]
    compared = page.compared
    return (
        page_environment()
        .get_template("profile_page.html")
        .render(
            page=page,
            months=compared.months,
            whole=compared.whole,
            against=compared.against,
            against_words="all these months together" if compared.is_against_itself else compared.against.label,
            rows=[_rows_of(period) for period in (compared.whole, compared.against)],
            moved=moved,
            still=cards[len(moved) :],
            said=_said(moved, len(cards)),
            smallest=SMALLEST_SHOWN,
            chance=f"{100 * CHANCE_PER_PAGE:.0f}",
        )
    )


def movement_in_words(column: ShownColumn) -> str:
    """What is different in the month that lies furthest off, from what it is held against to it."""
    far, base = column.furthest, column.against
    if far.by == "missing" and far.missing is not None and base.missing is not None:
        return f"missing {percent(base.missing)} → {percent(far.missing)}"
    if column.kind is Kind.VALUES and far.by:
        return f"“{far.by}” {percent(base.shares.get(far.by, 0.0))} → {percent(far.shares.get(far.by, 0.0))}"
    differences = [
        (abs(two - one), place)
        for place, (one, two) in enumerate(zip(base.quantiles, far.quantiles, strict=True))
        if one is not None and two is not None
    ]
    by, place = max(differences, default=(0.0, 0))
    one, two = base.quantiles[place], far.quantiles[place]
    if column.kind is Kind.NUMBERS and by > 0 and one is not None and two is not None:
        middle = differences[len(differences) // 2]
        place = 2 if middle[1] == 2 and middle[0] >= by / 2 else place
        one, two = base.quantiles[place] or 0.0, far.quantiles[place] or 0.0
        return f"{_QUANTILE_NAMES[place]} {number(one)} → {number(two)}"
    return "more or fewer of its values, at the same quantiles" if far.moved else WITHHELD


def stretches_in_words(months: Sequence[date]) -> str:
    """Months in order, those that follow each other as one stretch: `2025-01, 2025-04..2025-06`."""
    stretches: list[list[date]] = []
    for month in months:
        if stretches and month_after(stretches[-1][-1]) == month:
            stretches[-1].append(month)
        else:
            stretches.append([month])
    return ", ".join(
        f"{first:%Y-%m}" if first == last else f"{first:%Y-%m}..{last:%Y-%m}"
        for first, last in ((stretch[0], stretch[-1]) for stretch in stretches)
    )


def _said(moved: Sequence[_Card], columns: int) -> str:
    if not moved:
        return f"None of {columns} columns moved further than chance explains."
    names = ", ".join(card.name for card in moved[:_NAMED_FIRST])
    more = f" and {len(moved) - _NAMED_FIRST} more" if len(moved) > _NAMED_FIRST else ""
    return f"{len(moved)} of {columns} columns moved further than chance explains: {names}{more}."


def _rows_of(period: object) -> str:
    columns = getattr(period, "columns", {})
    n = max((column.n for column in columns.values()), default=0)
    return f"{n:,}" if n >= SMALLEST_SHOWN else WITHHELD


def _card(column: ShownColumn, page: ProfilePage) -> _Card:
    figures: list[tuple[str, Markup]] = []
    if column.kind is Kind.NUMBERS:
        figures.append(("Middle half and middle nine tenths, by month", quantile_bands(column)))
        if column.bins is not None:
            figures.append(("Distribution", overlaid_histograms(column, column.bins)))
    elif column.kind is Kind.VALUES:
        figures.append(("Share of each value, and by month", value_rows(column)))
    figures.append(("Missing, by month", missing_bars(column)))
    heading, rows = _table(column)
    return _Card(
        name=column.name,
        moved=column,
        words=movement_in_words(column),
        far=f"{column.moved:.1f}",
        alarmed=stretches_in_words(page.alarmed.get(column.name, ())),
        strip=month_strip(column),
        figures=tuple((caption, figure) for caption, figure in figures if figure),
        rows=rows,
        heading=heading,
    )


def _table(column: ShownColumn) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The figures of a column as numbers, for those who do not see them."""
    named = list(column.against.shares)[:8] if column.kind is Kind.VALUES else []
    quantiles = [f"{share:.0%}".replace("%", " %") for share in SHARES] if column.kind is Kind.NUMBERS else []
    heading = ("", "missing", *quantiles, *named, "× chance")
    return heading, tuple(_row(period, column.kind, named) for period in (column.against, *column.months))


def _row(period: ShownPeriod, kind: Kind, named: Sequence[str]) -> tuple[str, ...]:
    missing = "–" if period.missing is None else percent(period.missing)
    quantiles = ["–" if x is None else number(x) for x in period.quantiles] if kind is Kind.NUMBERS else []
    shares = [percent(period.shares[value]) if value in period.shares else "–" for value in named]
    return (period.label, missing, *quantiles, *shares, "" if period.moved is None else f"{period.moved:.1f}")
