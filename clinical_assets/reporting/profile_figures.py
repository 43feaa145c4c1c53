"""Figures of a profile page as SVG: drawn by hand, so that the page's colours, light or dark, are theirs.

Belongs here: drawing what is shown of a column. Does not belong here: what is shown, and words of the page. Colours are
classes that `profile_page.html` gives; matplotlib, which draws all other figures, takes 0.1 s for each.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from clinical_assets.reporting.shown_profiles import OTHER, Bins, ShownColumn, ShownPeriod
from clinical_assets.reporting.withheld import WITHHELD

_WIDTH, _LEFT, _RIGHT = 380, 46, 8
_TOP, _BOTTOM = 10, 24
_MOST_LABELS = 6
_MOST_VALUES = 7
_STEPS = (1.0, 2.0, 4.0)


def month_strip(column: ShownColumn) -> Markup:
    """A box a month, darker the further the month lies off; hollow within chance, crossed out where it is withheld."""
    boxes = []
    for place, month in enumerate(column.months):
        if month.moved is None:
            shade, said = "none", WITHHELD
        else:
            shade = str(sum(month.moved > step for step in _STEPS))
            said = f"{month.moved:.1f} times what chance explains"
        title = f"<title>{escape(month.label)}: {said}</title>"
        boxes.append(f'<rect class="s{shade}" x="{place * 15 + 1}" y="1" width="13" height="18" rx="2">{title}</rect>')
    far = column.furthest
    said = f"furthest off in {far.label}, {column.moved:.1f} times what chance explains" if column.moved else WITHHELD
    return _svg(len(column.months) * 15, 20, said, boxes, "strip")


def quantile_bands(column: ShownColumn) -> Markup:
    """The middle half and the middle nine tenths of a number, month by month, beside what they are held against."""
    height = 150
    periods = (column.against, *column.months)
    known = [x for period in periods for x in period.quantiles if x is not None and math.isfinite(x)]
    if not known:
        return Markup()
    up = _scale(min(known), max(known), height - _BOTTOM, _TOP)
    slot = (_WIDTH - _LEFT - _RIGHT) / (len(periods) + 0.5)
    marks = _levels(min(known), max(known), up)
    median = column.against.quantiles[2]
    if median is not None:
        marks.append(_line(_LEFT, up(median), _WIDTH - _RIGHT, up(median), "dash"))
    for place, period in enumerate(periods):
        left = _LEFT + slot * (place if place == 0 else place + 0.5)
        marks += _band(period, left, slot, up, "against" if place == 0 else "own")
    marks += _month_labels([x.label for x in column.months], _LEFT + 1.5 * slot, slot, height)
    marks.append(_text(_LEFT + slot / 2, height - 8, "ref.", "middle"))
    return _svg(_WIDTH, height, f"{column.name}: quantiles by month", marks)


def overlaid_histograms(column: ShownColumn, bins: Bins) -> Markup:
    """How a number is distributed in the months, as a line, over what they are held against, filled."""
    height = 150
    low, high = bins.edges[0], bins.edges[-1]
    across = _scale(low, high, _LEFT, _WIDTH - _RIGHT)
    widths = [right - left for left, right in zip(bins.edges, bins.edges[1:], strict=False)]
    dense = [[share / width for share, width in zip(part, widths, strict=True)] for part in (bins.against, bins.whole)]
    up = _scale(0.0, max(map(max, dense)), height - _BOTTOM, _TOP)
    floor = up(0.0)
    marks = [_line(_LEFT, floor, _WIDTH - _RIGHT, floor, "axis")]
    for heights, style in zip(dense, ("fill", "stroke"), strict=True):
        steps = [f"M{across(low):.1f} {floor:.1f}"]
        for edge, right, value in zip(bins.edges, bins.edges[1:], heights, strict=False):
            steps.append(f"L{across(edge):.1f} {up(value):.1f}L{across(right):.1f} {up(value):.1f}")
        steps.append(f"L{across(high):.1f} {floor:.1f}")
        marks.append(f'<path class="{style}" d="{"".join(steps)}"/>')
    marks.append(_text(_LEFT, height - 8, f"≤ {number(low)}", "start"))
    marks.append(_text(_WIDTH - _RIGHT, height - 8, f"{number(high)} ≤", "end"))
    return _svg(_WIDTH, height, f"{column.name}: distribution, both periods over each other", marks)


def value_rows(column: ShownColumn) -> Markup:
    """The share of each value by month, as a line beside that of what it is held against, the most frequent first."""
    shares = {**dict.fromkeys(column.against.shares, 0.0), **dict.fromkeys(column.whole.shares, 0.0)}
    weight = {x: max(column.against.shares.get(x, 0.0), column.whole.shares.get(x, 0.0)) for x in shares}
    values = sorted((x for x in shares if x != OTHER), key=lambda x: (-weight[x], x))
    drawn, rest = values[:_MOST_VALUES], values[_MOST_VALUES:]
    if not drawn:
        return Markup()
    rows = [(x, [x]) for x in drawn] + ([(OTHER, [OTHER, *rest])] if rest or OTHER in shares else [])
    marks: list[str] = []
    of_one = 38
    left, right = 186, _WIDTH - 92
    for place, (label, members) in enumerate(rows):
        top = place * of_one
        base = sum(column.against.shares.get(x, 0.0) for x in members)
        own = sum(column.whole.shares.get(x, 0.0) for x in members)
        by_month = [sum(m.shares.get(x, 0.0) for x in members) if m.shares else None for m in column.months]
        marks.append(_text(0, top + 13, _shortened(label), "start", "name"))
        marks.append(_bar(top + 18, base * 170, "fill") + _bar(top + 26, own * 170, "bar"))
        reach = max([base, *(x for x in by_month if x is not None)]) or 1.0
        up = _scale(0.0, reach, top + of_one - 6, top + 4)
        marks.append(_line(left, up(base), right, up(base), "dash"))
        marks += _sparkline(by_month, left, right, up)
        marks.append(_text(_WIDTH, top + 23, f"{percent(base)} → {percent(own)}", "end"))
    return _svg(_WIDTH, len(rows) * of_one, f"{column.name}: share of each value, both periods and by month", marks)


def missing_bars(column: ShownColumn) -> Markup:
    """The share of rows without a value, month by month, beside what it is held against (dashed)."""
    rates = [month.missing for month in column.months]
    against = column.against.missing
    height, highest = 76, max([against or 0.0, *(rate or 0.0 for rate in rates)])
    if highest == 0.0:
        return Markup()
    up = _scale(0.0, highest, height - _BOTTOM, _TOP)
    slot = (_WIDTH - _LEFT - _RIGHT) / len(rates)
    marks = [
        _line(_LEFT, up(0), _WIDTH - _RIGHT, up(0), "axis"),
        _text(_LEFT - 6, up(highest) + 4, percent(highest), "end"),
    ]
    for place, rate in enumerate(rates):
        left = _LEFT + place * slot
        if rate is None:
            marks.append(_text(left + slot / 2, up(0) - 3, "–", "middle"))
        else:
            marks.append(
                f'<rect class="bar" x="{left + slot * 0.15:.1f}" y="{up(rate):.1f}" width="{slot * 0.7:.1f}" '
                f'height="{up(0) - up(rate):.1f}"/>'
            )
    if against is not None:
        marks.append(_line(_LEFT, up(against), _WIDTH - _RIGHT, up(against), "dash"))
    marks += _month_labels([month.label for month in column.months], _LEFT, slot, height)
    return _svg(_WIDTH, height, f"{column.name}: missing rate by month", marks)


def number(value: float) -> str:
    """A number with three significant digits, thousands separated."""
    if not math.isfinite(value):
        return "infinite"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    shown = f"{value:.3g}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if "e" in shown and abs(value) >= 1e-4 else shown


def percent(share: float) -> str:
    """A share in percent; what is not nought never reads as nought."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return f"{100 * share:.1f} %" if share < 0.0995 or 0.9 < share < 1 else f"{100 * share:.0f} %"


def _band(period: ShownPeriod, left: float, width: float, up: "_Scale", style: str) -> list[str]:
    """One period's quantiles as two boxes and a line."""
    q05, q25, q50, q75, q95 = period.quantiles
    marks = []
    for low, high, inset, name in ((q05, q95, 0.0, "wide"), (q25, q75, 0.0, "half")):
        if low is not None and high is not None:
            top, bottom = up(high), up(low)
            marks.append(
                f'<rect class="{style} {name}" x="{left + inset:.1f}" y="{top:.1f}" width="{width - 1:.1f}" '
                f'height="{max(bottom - top, 1):.1f}"/>'
            )
    if q50 is not None:
        marks.append(_line(left, up(q50), left + width - 1, up(q50), f"{style} median"))
    if not marks:
        marks.append(_text(left + width / 2, (_TOP + 150 - _BOTTOM) / 2, "–", "middle"))
    return marks


def _sparkline(shares: Sequence[float | None], left: float, right: float, up: "_Scale") -> list[str]:
    slot = (right - left) / len(shares)
    points = [(left + slot * (place + 0.5), up(x)) for place, x in enumerate(shares) if x is not None]
    marks = [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [f'<polyline class="line" points="{line}"/>', *marks]


class _Scale:
    """A linear way from values to places in a figure."""

    def __init__(self, low: float, high: float, at_low: float, at_high: float) -> None:
        self._low, self._at_low = low, at_low
        self._by = (at_high - at_low) / (high - low) if high > low else 0.0
        self._flat = (at_low + at_high) / 2 if high <= low else None

    def __call__(self, value: float) -> float:
        return self._flat if self._flat is not None else self._at_low + (value - self._low) * self._by


def _scale(low: float, high: float, at_low: float, at_high: float) -> _Scale:
    return _Scale(low, high, at_low, at_high)


def _levels(low: float, high: float, up: _Scale) -> list[str]:
    """The least, the middle and the greatest value, named, with a faint line."""
    levels = [low, (low + high) / 2, high] if high > low else [low]
    return [
        mark
        for level in levels
        for mark in (
            _line(_LEFT, up(level), _WIDTH - _RIGHT, up(level), "grid"),
            _text(_LEFT - 6, up(level) + 4, number(level), "end"),
        )
    ]


def _month_labels(labels: Sequence[str], left: float, slot: float, height: float) -> list[str]:
    """The names of some months below a figure, so few that they do not touch."""
    every = math.ceil(len(labels) / _MOST_LABELS)
    shown = [(place, label) for place, label in enumerate(labels) if place % every == 0]
    return [_text(left + slot * (place + 0.5), height - 8, label, "middle") for place, label in shown]


def _shortened(label: str) -> str:
    return label if len(label) <= 28 else f"{label[:27]}…"


def _bar(top: float, width: float, style: str) -> str:
    return f'<rect class="{style}" x="0" y="{top:.0f}" width="{max(width, 0.5):.1f}" height="7"/>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str, style: str = "label") -> str:
    return f'<text class="{style}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(width: float, height: float, said: str, marks: Sequence[str], style: str = "figure") -> Markup:
    return Markup(
        f'<svg class="{style}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(said)}">'
        f"{''.join(marks)}</svg>"
    )
