"""The evidence of drift that one look hands to the next, in the lake, so that whoever makes it goes on from there.

Belongs here: keeping it, taking it up, and refusing looks out of order. Does not belong here: what it consists of.
"""

import io
from collections.abc import Sequence
from datetime import date

import polars as pl

from clinical_assets.lifecycle.scored_history import rows_beside
from clinical_assets.monitoring.drift import STATE_SCHEMA, DriftMonitor
from clinical_assets.monitoring.units import DriftError
from clinical_assets.protocol import ModelVersion
from clinical_assets.resources.column_descriptions import COLUMN_DESCRIPTIONS
from clinical_assets.resources.lake import Lake, Write

EVIDENCE = "drift_evidence"


def take_up_evidence(
    lake: Lake, model: str, monitor: DriftMonitor, month: date, scored: Sequence[date]
) -> DriftMonitor:
    """The monitor with the evidence of its looks before a month; the month's own, were it looked at, is not in it.

    `scored` are the months before it that this reference is to be compared with. Raises DriftError where one of them
    was not, or was compared after a later month: looks are taken in order, for each goes on from the one before.
    """
    resumed = monitor.resume(_evidence_before(lake, model, monitor.digest, month))
    looks = resumed.state.filter(kind="look")["period"].to_list()
    expected = [str(each) for each in scored][-monitor.looks_per_year :]
    if missing := next((each for each in expected if each not in looks), None):
        after = next((each for each in looks if each > missing), f"{month}")
        raise DriftError(
            f"{model}: the evidence before {month:%Y-%m} lacks {missing[:7]}, which was scored: materialise "
            f"drift_report of {missing[:7]} and of the months from {after[:7]} on again, in order"
        )
    return resumed


def evidence_write(lake: Lake, monitor: DriftMonitor, version: ModelVersion, month: date) -> Write:
    """What the monitor knows after a month, beside what others know of it, to be written with the report on it."""
    table, row = f"{version.model}.{EVIDENCE}", evidence_row(monitor, version, month)
    others = rows_beside(lake, table, month, "reference", monitor.digest)
    return Write(
        table,
        pl.concat([others, row]) if others is not None else row,
        months=[month],
        description="What the drift monitor carries from one look to the next: counts and sums, and no row.",
        comments={name: COLUMN_DESCRIPTIONS[name] for name in row.columns},
    )


def evidence_row(monitor: DriftMonitor, version: ModelVersion, month: date) -> pl.DataFrame:
    """What the monitor knows after a month, as one row."""
    written = io.BytesIO()
    monitor.state.write_parquet(written)
    return pl.DataFrame(
        {
            "month": [month],
            "champion_version": pl.Series([version.version], dtype=pl.Int32),
            "reference": [monitor.digest],
            "evidence_state": [written.getvalue()],
        }
    )


def _evidence_before(lake: Lake, model: str, reference: str, month: date) -> pl.DataFrame:
    """What was gathered against a reference before a month; against other training data it says nothing."""
    table = f"{model}.{EVIDENCE}"
    if not lake.exists(table):
        return STATE_SCHEMA.to_frame()
    months = lake.read(table, where={"reference": reference}, columns=["month"])["month"]
    last = months.filter(months < month).max()
    if not isinstance(last, date):
        return STATE_SCHEMA.to_frame()
    [content] = lake.read(table, where={"reference": reference, "month": last})["evidence_state"]
    return pl.read_parquet(io.BytesIO(content))
