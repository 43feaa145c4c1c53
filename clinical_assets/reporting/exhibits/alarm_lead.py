"""The exhibit of how long before onset the patients with the outcome were first alerted.

Belongs here: what is shown of the lead time of hourly alarms. Does not belong here: its findings, and the drawing.
"""

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from clinical_assets.evaluation.utility import OPTIMAL_H
from clinical_assets.governance.small_cells import FEWER, hidden_parts, is_small, shown_count
from clinical_assets.protocol import Finding, ModelProtocol
from clinical_assets.reporting.exhibits.exhibit import Cell, Exhibit, Table, require_columns
from clinical_assets.reporting.figures import lead_time_figure, to_svg
from clinical_assets.reporting.withheld import SMALL_COUNT, WITHHELD

BIN_H = 6
LAST_BIN_H = 48
FROM_LABEL_TO_ONSET = timedelta(hours=-OPTIMAL_H)


def lead_time(scored: pl.DataFrame, protocol: ModelProtocol, findings: Sequence[Finding]) -> Exhibit:
    """Hours from the first alarm to onset of the patients alerted by onset, and how many were alerted later or never.

    Onset is six hours after a patient's first hour labelled 1. Alarms are those at the alert threshold. Raises
    ExhibitError on rows without `alerted`.
    """
    require_columns(scored, ["alerted", protocol.patient, protocol.index_time], "lead_time")
    lead = measure_lead_time_h(scored, protocol)
    by_onset = lead.filter(lead >= 0)
    counts = {
        "alerted by onset": len(by_onset),
        "first alerted after onset": int((lead < 0).sum()),
        "never alerted": lead.null_count(),
    }
    hidden = hidden_parts(list(counts.values()), len(lead))
    rows = tuple(
        (Cell(name), Cell(WITHHELD), Cell(SMALL_COUNT))
        if is_hidden or is_small(len(lead))
        else (Cell(name), Cell(f"{patients:,}"), Cell(f"{100 * patients / len(lead):.1f} %" if len(lead) else "–"))
        for (name, patients), is_hidden in zip(counts.items(), hidden, strict=True)
    )
    heading = (Cell(f"Of {shown_count(len(lead))} patients with the outcome"), Cell("Patients"), Cell("Share"))
    bars = None if hidden[0] else shown_bars(by_onset)
    return Exhibit(
        title="Lead time of the alerts",
        reading=(
            "Each bar counts the patients whose first alert came so many hours before onset, which is six hours after "
            "their first labelled hour. A first alert days ahead may have been for another reason than the outcome."
        )
        if bars
        else f"No bars are drawn: some would be of {FEWER} patients.",
        svg=to_svg(lead_time_figure(*bars)) if bars else None,
        tables=(Table("At the alert threshold.", heading, rows),),
    )


def shown_bars(lead_time_h: pl.Series) -> tuple[pl.DataFrame, int] | None:
    """The bars of the figure and their width in hours, the narrowest at which none tells a small count, if any does."""
    for width_h in range(BIN_H, LAST_BIN_H, BIN_H):
        last_h = LAST_BIN_H // width_h * width_h
        first_h = (lead_time_h // width_h * width_h).clip(upper_bound=last_h).alias("first_h")
        bars = pl.DataFrame({"first_h": range(0, last_h + 1, width_h)}).join(
            first_h.cast(pl.Int64).value_counts(name="patients"), on="first_h", how="left", maintain_order="left"
        )
        bars = bars.with_columns(pl.col("patients").fill_null(0))
        if len(lead_time_h) and not any(map(is_small, bars["patients"])):
            return bars, width_h
    return None


def measure_lead_time_h(scored: pl.DataFrame, protocol: ModelProtocol) -> pl.Series:
    """Onset minus first alarm, h, of each patient with the outcome; negative after onset, null without any alarm."""
    time = pl.col(protocol.index_time)
    return (
        scored.with_columns(protocol.outcome.is_event(scored))
        .group_by(protocol.patient)
        .agg(
            onset=time.filter(pl.col("event") == 1).min() + FROM_LABEL_TO_ONSET,
            first_alarm=time.filter("alerted").min(),
        )
        .filter(pl.col("onset").is_not_null())
        .select(lead_time_h=(pl.col("onset") - pl.col("first_alarm")).dt.total_seconds() / 3600)
        .to_series()
    )
