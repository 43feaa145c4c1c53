"""The counts in a report's tables and figures, with small ones withheld.

Belongs here: what becomes of the cohort, of bins, and of a table of two gradings. Does not belong here: the rule itself
(`governance.small_cells`), and drawing.
"""

from collections.abc import Sequence

import polars as pl

from clinical_assets.evaluation.calibration import Z_95
from clinical_assets.governance.small_cells import hidden_parts, is_small, shown_count
from clinical_assets.reporting.withheld import WITHHELD


def show_cohort(cohort: pl.DataFrame) -> list[dict[str, object]]:
    """The rows of a report's cohort in words, without the counts that are small or tell a small one.

    `cohort` has the columns split, rows, patients, events, first_month and last_month.
    """
    return [
        {
            **row,
            "rows": shown_count(row["rows"]),
            "patients": shown_count(row["patients"]),
            "events": WITHHELD
            if is_small(row["events"]) or is_small(row["rows"] - row["events"])
            else f"{row['events']:,} ({100 * row['events'] / row['rows']:.1f} %)"
            if row["rows"]
            else "0",
        }
        for row in cohort.iter_rows(named=True)
    ]


def pool_bins(outcomes: pl.DataFrame) -> list[int]:
    """To which pooled bin each bin belongs, neighbours being pooled until none tells a small count.

    `outcomes` has `n` and `events`, a row a bin, in order; a pooled bin has no event, no row without one, or eleven or
    more of each. The last ones are pooled with those before them, until that holds or one is left.
    """
    pools: list[tuple[int, int, int]] = []
    bins, n, events = 0, 0, 0
    for row_n, row_events in outcomes.select("n", "events").iter_rows():
        bins, n, events = bins + 1, n + row_n, events + row_events
        if not _tells_few(n, events):
            pools.append((bins, n, events))
            bins, n, events = 0, 0, 0
    while bins and pools and _tells_few(n, events):
        before = pools.pop()
        bins, n, events = bins + before[0], n + before[1], events + before[2]
    sizes = [size for size, *_ in pools] + ([bins] if bins else [])
    return [place for place, size in enumerate(sizes) for _ in range(size)]


def _tells_few(n: int, events: int) -> bool:
    return is_small(n) or is_small(events) or is_small(n - events)


def pool_calibration(curve: pl.DataFrame) -> pl.DataFrame:
    """A calibration curve whose points rest on no small count; without any point where even all together would.

    `curve` is that of `evaluation.calibration_curve`; pooled points have Wilson's 95 % interval (1927) again.
    """
    bins = curve.with_columns(events=(pl.col("observed_rate") * pl.col("n")).round().cast(pl.Int64))
    n, z = pl.col("n"), Z_95
    places = pool_bins(bins)
    pooled = (
        bins.with_columns(place=pl.Series(places, dtype=pl.Int64))
        .group_by("place", maintain_order=True)
        .agg(
            ((pl.col("mean_risk") * n).sum() / n.sum()).alias("mean_risk"),
            pl.col("events").sum(),
            n.sum().alias("n"),
        )
        .with_columns(observed_rate=pl.col("events") / n)
    )
    rate = pl.col("observed_rate")
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * (rate * (1 - rate) / n + z**2 / (4 * n**2)).sqrt()
    if len(pooled) == 1 and _tells_few(*pooled.select("n", "events").row(0)):
        return curve.clear()
    if len(pooled) == len(curve):
        return curve
    return pooled.select(
        "mean_risk",
        "observed_rate",
        (centre - half_width).clip(0, 1).alias("low"),
        (centre + half_width).clip(0, 1).alias("high"),
        "n",
    )


def hidden_cells(counts: Sequence[Sequence[int]]) -> tuple[list[list[bool]], list[bool]]:
    """Which cells of a square table are hidden, and which totals of its rows, where all rows' totals are known.

    The sum of the diagonal is known too, that of all agreement. Within a row, and on the diagonal, no hidden cell is
    alone, and the hidden ones hold enough together; where that cannot be had, all is hidden.
    """
    totals = [sum(row) for row in counts]
    hidden_totals = hidden_parts(totals, sum(totals))
    cells = [
        [count > 0 for count in row] if is_hidden else hidden_parts(row, total)
        for row, total, is_hidden in zip(counts, totals, hidden_totals, strict=True)
    ]
    diagonal = [row[place] for place, row in enumerate(counts)]
    while True:
        before = [list(row) for row in cells]
        on_diagonal = hidden_parts(diagonal, sum(diagonal), [row[place] for place, row in enumerate(cells)])
        for place, is_hidden in enumerate(on_diagonal):
            cells[place][place] = is_hidden
            if not hidden_totals[place]:
                cells[place] = hidden_parts(counts[place], totals[place], cells[place])
        if cells == before:
            break
    known_sums = [row for row, is_hidden in zip(cells, hidden_totals, strict=True) if not is_hidden]
    if any(sum(row) == 1 for row in [*known_sums, on_diagonal]):
        # A cell is hidden alone beside noughts, and its sum tells it: nothing of such a table can be shown.
        return [[True] * len(row) for row in cells], [True] * len(cells)
    return cells, hidden_totals
