"""Figures of reports and of asset metadata, drawn from findings and evidence tables.

Belongs here: drawing. Does not belong here: computing what is drawn. Only matplotlib's object interface is used, so
that two runs in one process share no state.
"""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from clinical_assets.protocol import Finding
from clinical_assets.reporting.withheld import WITHHELD, WithheldFinding, shown_n

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK = "#1d2b33"
MUTED = "#5b6b74"
RULE = "#d5dde1"
ACCENT = "#1f5f7a"
ALARM = "#b23a1e"

WIDTH_INCHES = 4.9
"""Narrow, so that the text stays legible on a telephone."""

MOST_BARS = 15

STATISTIC_WORDS = {
    "psi": "PSI",
    "missing_rate_change": "missing rate",
    "unseen_rate": "unseen values",
    "out_of_range_rate": "out of range",
    "standardised_mean_difference": "mean, in SD",
    "jensen_shannon": "Jensen-Shannon",
    "joint": "distance",
}


def calibration_figure(calibration: pl.DataFrame) -> "Figure":
    """Observed rates with 95 % intervals against mean predicted risks, beside the line of perfect calibration.

    Args:
        calibration: One row per risk bin: `mean_risk`, `observed_rate`, `low`, `high` (0 to 1) and `n`.
    """
    bins = calibration.drop_nulls(["mean_risk", "observed_rate"])
    figure, axes = _figure(height=4.4)
    highest = bins.select(pl.max_horizontal("mean_risk", "observed_rate", "high").max()).item()
    reach = min(1.0, 1.08 * highest) if highest else 1.0
    axes.plot([0, reach], [0, reach], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(0.97 * reach, 0.05 * reach, "dashed: observed = predicted", ha="right", color=MUTED)
    measured = bins.drop_nulls(["low", "high"])
    axes.vlines(measured["mean_risk"], measured["low"], measured["high"], color=ACCENT, linewidth=1.6)
    axes.plot(bins["mean_risk"], bins["observed_rate"], color=ACCENT, linewidth=0.8, alpha=0.6)
    axes.plot(bins["mean_risk"], bins["observed_rate"], "o", color=ACCENT, markersize=5.5, markeredgecolor="white")
    axes.set(xlim=(0, reach), ylim=(0, reach), xlabel="Mean predicted risk", ylabel="Observed rate (95 % interval)")
    _show_percent(axes.xaxis)
    _show_percent(axes.yaxis)
    axes.grid(color=RULE, linewidth=0.5)
    return figure


def subgroup_forest(findings: Sequence[Finding], metric: str) -> "Figure":
    """One metric overall and in every subgroup, with 95 % intervals and n; the overall value runs through as a line.

    Subgroups in which the metric is undefined or withheld are listed as such. A metric without any finding gives an
    empty figure.
    """
    rows = sorted(
        (finding for finding in findings if finding.metric == metric),
        key=lambda finding: (finding.subgroup != "overall", finding.subgroup),
    )
    figure, axes = _figure(height=0.75 + 0.25 * max(len(rows), 2))
    edges = [edge for row in rows for edge in (row.value, row.low, row.high) if edge is not None]
    if not edges:
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"{metric} was not measured", ha="center", color=MUTED, transform=axes.transAxes)
        return figure
    margin = 0.06 * (max(edges) - min(edges) or 1.0)
    axes.set(xlim=(min(edges) - margin, max(edges) + margin), ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), [row.subgroup.replace("=", ": ") for row in rows], parse_math=False)
    for position, row in enumerate(rows):
        place = {"va": "center", "fontsize": 8.5, "transform": axes.get_yaxis_transform()}
        axes.text(1.42, position, shown_n(row), ha="right", color=MUTED, **place)
        colour = INK if row.subgroup == "overall" else ACCENT
        if row.value is None:
            why = WITHHELD if isinstance(row, WithheldFinding) else "undefined"
            axes.text(1.03, position, why, color=MUTED, **place)
            continue
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [position, position], color=colour, linewidth=1.5, solid_capstyle="butt")
        marker = "D" if row.subgroup == "overall" else "o"
        axes.plot(row.value, position, marker, color=colour, markersize=5.5, markeredgecolor="white")
        axes.text(1.03, position, f"{row.value:.3f}", color=colour, **place)
    heading = {"va": "bottom", "fontsize": 8.5, "color": MUTED, "transform": axes.transAxes}
    axes.text(1.03, 1.0, "value", **heading)
    axes.text(1.42, 1.0, "n", ha="right", **heading)
    if rows[0].subgroup == "overall" and rows[0].value is not None:
        axes.axvline(rows[0].value, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=RULE, linewidth=0.5)
    return figure


def drift_bars(columns: pl.DataFrame) -> "Figure":
    """The comparisons nearest to or beyond their alarm, each value as a share of its critical value, at most fifteen.

    Args:
        columns: The table of a drift report: `column`, `statistic`, `value`, `critical`, `flagged`.
    """
    table = (
        columns.drop_nulls(["value", "critical"])
        .with_columns(share=pl.col("value") / pl.col("critical"))
        .sort("share", "column", descending=[True, False])
        .head(MOST_BARS)
    )
    figure, axes = _figure(height=0.9 + 0.27 * max(len(table), 2))
    # Saving makes room for the names, of which no layout knows how long they are; all of it fits a dialogue in the UI.
    figure.set_layout_engine("none")
    axes.set_position((0.0, 0.0, 0.6, 1.0))
    if table.is_empty():
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no column could be compared", ha="center", color=MUTED, transform=axes.transAxes)
        return figure
    colours = [ALARM if flagged else ACCENT for flagged in table["flagged"]]
    axes.barh(range(len(table)), table["share"], height=0.62, color=colours)
    axes.set_yticks(
        range(len(table)),
        [
            f"{'▲ ' if flagged else ''}{column}, {STATISTIC_WORDS.get(statistic, statistic)}"
            for column, statistic, flagged in table.select("column", "statistic", "flagged").iter_rows()
        ],
        parse_math=False,
    )
    for position, (value, critical) in enumerate(table.select("value", "critical").iter_rows()):
        written = f"{value:.2f} / {critical:.2f}"
        axes.text(1.03, position, written, va="center", fontsize=9, color=INK, transform=axes.get_yaxis_transform())
    axes.axvline(1.0, color=INK, linewidth=1.1)
    axes.set(ylim=(len(table) - 0.4, -0.6), xlim=(0, max(1.15, 1.05 * float(table["share"].to_numpy().max()))))
    axes.set_xlabel("Value as a multiple of its critical value (line); ▲ flagged")
    axes.tick_params(axis="y", length=0)
    return figure


def observed_expected_figure(months: pl.DataFrame, tolerated_miscalibration: float) -> "Figure":
    """Observed over expected outcomes, month by month, with the band that the protocol tolerates.

    Args:
        months: `month` (date), `observed` and `expected` (counts), in order of time; `n` rows.
        tolerated_miscalibration: The band reaches from 1 / (1 + x) to 1 + x.
    """
    figure, axes = _figure(height=2.9)
    table = months.filter(pl.col("expected") > 0).with_columns(ratio=pl.col("observed") / pl.col("expected"))
    if table.is_empty():
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no outcome is ripe yet", ha="center", color=MUTED, transform=axes.transAxes)
        return figure
    low, high = 1 / (1 + tolerated_miscalibration), 1 + tolerated_miscalibration
    axes.axhspan(low, high, color=RULE, alpha=0.6, linewidth=0)
    axes.axhline(1.0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    places = range(len(table))
    colours = [ACCENT if low <= ratio <= high else ALARM for ratio in table["ratio"]]
    axes.plot(places, table["ratio"], color=MUTED, linewidth=0.8)
    axes.scatter(places, table["ratio"], color=colours, zorder=3, s=34)
    for place, ratio, n in zip(places, table["ratio"], table["n"], strict=True):
        axes.annotate(
            f"{ratio:.2f}\n{n:,} rows", (place, ratio), (0, 8), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xticks(list(places), [f"{month:%Y-%m}" for month in table["month"]])
    axes.margins(x=0.15, y=0.45)
    axes.set_ylabel("Observed / expected")
    axes.set_xlabel("Months with ripe outcomes; the band is tolerated")
    return figure


def decision_curve_figure(curve: pl.DataFrame, threshold: float) -> "Figure":
    """Net benefit by threshold probability of the model, of alerting all and of alerting none; the threshold is marked.

    Args:
        curve: `threshold_probability` (0 to 1), and the net benefit of `model` and `all` for each unit.
        threshold: The alert threshold of the model.
    """
    figure, axes = _figure(height=3.6)
    at = curve["threshold_probability"].to_numpy()
    model, everyone = (100 * curve[name].to_numpy() for name in ("model", "all"))
    top = 1.12 * max(float(model.max()), float(everyone.max()), 1e-6)
    axes.set(xlim=(0, at[-1]), ylim=(-0.3 * top, top))
    axes.plot(at, everyone, color=MUTED, linewidth=1.4, linestyle=(0, (5, 3)), label="alert all")
    axes.axhline(0, color=INK, linewidth=1.1, linestyle=(0, (1, 2)), label="alert none")
    axes.plot(at, model, color=ACCENT, linewidth=2.2, label="model")
    axes.axvline(threshold, color=ALARM, linewidth=1, label=f"alert threshold, {100 * threshold:.1f} %")
    axes.set(xlabel="Threshold probability", ylabel="Net benefit per 100")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    _show_percent(axes.xaxis, decimals=0 if at[-1] > 0.1 else 1)
    axes.grid(color=RULE, linewidth=0.5)
    return figure


def lead_time_figure(bins: pl.DataFrame, width_h: int) -> "Figure":
    """How many patients were first alerted how long before onset, the longest first.

    Args:
        bins: `first_h`, where a bin begins (hours before onset), and `patients`; the last bin has no end.
        width_h: How many hours wide a bin is.
    """
    figure, axes = _figure(height=3.2)
    table = bins.sort("first_h", descending=True)
    places = range(len(table))
    axes.bar(places, table["patients"], width=0.82, color=ACCENT)
    for place, patients in zip(places, table["patients"], strict=True):
        axes.text(place, patients, f"{patients:,}", ha="center", va="bottom", fontsize=8.5, color=INK)
    starts = table["first_h"].to_list()
    names = [f"{starts[0]}+", *(f"{start}–{start + width_h}" for start in starts[1:])]
    axes.set_xticks(list(places), names)
    axes.tick_params(axis="x", length=0, labelsize=8.5)
    axes.margins(y=0.12)
    axes.set(xlabel="Hours from first alert to onset", ylabel="Patients")
    return figure


def to_svg(figure: "Figure") -> str:
    """The figure as an SVG element for an HTML page; its text stays text and takes the page's typeface."""
    import matplotlib as mpl

    drawing = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "clinical-assets"}):
        figure.savefig(drawing, format="svg", bbox_inches="tight", metadata={"Date": None})
    markup = drawing.getvalue()
    return markup[markup.index("<svg") :]


def to_png_data_uri(figure: "Figure") -> str:
    """The figure as a `data:` address, to stand in markdown without a file."""
    drawing = io.BytesIO()
    figure.savefig(drawing, format="png", dpi=100, bbox_inches="tight")
    return f"data:image/png;base64,{base64.b64encode(drawing.getvalue()).decode()}"


def _figure(height: float) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set(color=INK, fontsize=9.5)
    axes.yaxis.label.set(color=INK, fontsize=9.5)
    return figure, axes


def _show_percent(axis: "Axis", decimals: int = 0) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=decimals, symbol=" %"))
