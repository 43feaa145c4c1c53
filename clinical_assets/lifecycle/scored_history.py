"""The scored history: a row a unit and version with the few columns that later looks need, appended month by month.

Belongs here: what a row holds, reading it, and which rows are matured. Does not belong here: any statistic; and looks
read nothing else of earlier months.
"""

from collections.abc import Sequence
from datetime import date

import polars as pl

from clinical_assets.governance.ledger import version_before
from clinical_assets.learning.scoring import BOOKKEEPING, REPRESENTATION, score
from clinical_assets.lifecycle.release_reference import ReleaseReference
from clinical_assets.monitoring.estimated_performance import EXPECTED, UNKNOWN_LEVELS, PerformanceReference
from clinical_assets.protocol import ModelProtocol, ModelVersion
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.registry import Registry

SCORED_HISTORY = "scored_history"
PREVIOUS_RISK = "previous_release_risk"

EVENTS_WANTED = 100
"""Patients with the event, the least that the rows for a repair hold where there are as many."""


def history_rows(
    protocol: ModelProtocol,
    features: pl.DataFrame,
    predictions: pl.DataFrame,
    reference: ReleaseReference,
    previous: tuple[int, pl.Series] | None,
) -> pl.DataFrame:
    """A month's rows as later looks need them, one row a unit, in the order of the features.

    Keys, subgroups, the outcome, its `event` and when it is known; all that the version said of the unit but for its
    representation; `expected_event` by the regression of the release; and the risk by the `previous` release (its
    version, and its risk of each row of the features), where there is one.
    """
    keys = (protocol.unit, protocol.patient, "month", protocol.index_time, protocol.outcome.column, "outcome_known_on")
    said = predictions.select(
        protocol.unit, pl.exclude(protocol.unit, *keys, "data_origin", BOOKKEEPING[1], f"^{REPRESENTATION}.*$")
    )
    before, risk = previous or (None, pl.lit(None, pl.Float64))
    rows = features.with_columns(pl.Series(protocol.outcome.is_event(features)), risk.alias(PREVIOUS_RISK)).join(
        said, on=protocol.unit, how="inner", maintain_order="left"
    )
    known = reference.performance
    if isinstance(known, PerformanceReference):
        expected, unknown = known.expect(rows), known.unknown_levels(rows)
    else:
        expected, unknown = pl.lit(None, pl.Float64), pl.lit([], pl.List(pl.String))
    outputs = [name for name in said.columns if name != protocol.unit]
    columns = dict.fromkeys((*keys, *protocol.subgroups, *outputs, "event"))
    return rows.select(
        *columns,
        expected.alias(EXPECTED),
        unknown.alias(UNKNOWN_LEVELS),
        PREVIOUS_RISK,
        pl.lit(before, pl.Int32).alias("previous_release"),
        pl.lit(reference.drift.digest).alias("drift_reference"),
        pl.lit(reference.performance_digest, pl.String).alias("performance_reference"),
        "data_origin",
    )


def previous_risk(
    lake: Lake, registry: Registry, protocol: ModelProtocol, version: ModelVersion, features: pl.DataFrame
) -> tuple[int, pl.Series] | None:
    """The version released before this one, and its risk of every row of the features; None where there is none."""
    before = version_before(read_ledger(lake, protocol.model), version.version)
    if before is None:
        return None
    earlier = registry.version(protocol.model, before)
    return before, score(registry.load(earlier, protocol.estimator), features, earlier, protocol)["risk"]


def rows_beside(lake: Lake, table: str, month: date, column: str, value: int | str) -> pl.DataFrame | None:
    """The rows of a month that have another value in a column, to be written with those that replace the others."""
    if not lake.exists(table):
        return None
    rows = lake.read(table, where={"month": month}).filter(pl.col(column) != value)
    return rows if rows.height else None


def scored_through(lake: Lake, protocol: ModelProtocol, version: int, month: date) -> pl.DataFrame:
    """All rows that a version has scored in months up to one, months in order of time."""
    rows = lake.read(f"{protocol.model}.{SCORED_HISTORY}", where={"model_version": version})
    return rows.filter(pl.col("month") <= month).sort("month", maintain_order=True)


def matured(history: pl.DataFrame, known_by: date) -> pl.DataFrame:
    """The rows whose outcomes are known by a day."""
    return history.filter(pl.col("outcome_known_on").cast(pl.Date) <= known_by, pl.col("event").is_not_null())


def wholly_matured(history: pl.DataFrame, known_by: date) -> pl.DataFrame:
    """The rows of those months alone of which every outcome is known by a day: a part of a month is another sample."""
    is_known = (pl.col("outcome_known_on").cast(pl.Date) <= known_by) & pl.col("event").is_not_null()
    return history.filter(is_known.fill_null(value=False).all().over("month"))


def latest_matured(rows: pl.DataFrame, protocol: ModelProtocol, since: date | None) -> pl.DataFrame:
    """The rows that a repair is fitted on: since the outcome given risk moved, else the fewest latest months.

    So many months that enough patients had the event, where there are as many.
    """
    if since is not None:
        return rows.filter(pl.col("month") >= since)
    events = (
        rows.filter(event=1)
        .group_by("month")
        .agg(patients=pl.col(protocol.patient).n_unique())
        .sort("month", descending=True)
        .with_columns(before=pl.col("patients").cum_sum() - pl.col("patients"))
    )
    first = events.filter(pl.col("before") < EVENTS_WANTED)["month"].min()
    return rows.filter(pl.col("month") >= first) if first is not None else rows


def with_previous_release(rows: pl.DataFrame, lake: Lake, protocol: ModelProtocol, version: int) -> pl.DataFrame:
    """The rows with the risk that the version released before theirs gives them; without that column where none does.

    It was written down when the row was scored; a row for which another release was the one before tells nothing.
    """
    before = version_before(read_ledger(lake, protocol.model), version)
    told = before is not None and rows.height and rows["previous_release"].eq_missing(before).all()
    return rows if told else rows.drop(PREVIOUS_RISK)


def months_scored(history: pl.DataFrame, digest: str, before: date) -> Sequence[date]:
    """The months before one that are to be compared with a drift reference, in order of time."""
    rows = history.filter(pl.col("month") < before, drift_reference=digest)
    return rows["month"].unique().sort().to_list()
