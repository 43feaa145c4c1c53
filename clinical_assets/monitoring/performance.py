"""How well one month's predictions came true, on the rows whose outcome can be known by now.

Belongs here: which rows may be measured. Does not belong here: the metrics themselves, limits, or what follows.
"""

from datetime import date
from enum import StrEnum

import polars as pl

from clinical_assets.evaluation.assessment import Assessment
from clinical_assets.protocol import Finding, ModelProtocol, load_object

RESAMPLES = 200

RISK = "risk"
KNOWN_ON = "outcome_known_on"

PERFORMANCE_SCHEMA = pl.Schema(
    {
        "metric": pl.String,
        "subgroup": pl.String,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int64,
        "status": pl.String,
    }
)


class PerformanceError(ValueError):
    """Scored rows cannot be measured as they stand; the message names the column and the remedy."""


class Ripeness(StrEnum):
    """Whether the outcomes of a month can all, in part, or not at all be known."""

    RIPE = "ripe"
    PARTLY_RIPE = "partly_ripe"
    NOT_RIPE = "not_ripe"


def measure_performance(scored: pl.DataFrame, protocol: ModelProtocol, as_of: date) -> pl.DataFrame:
    """Every metric of one month overall and by subgroup, over its ripe rows alone: columns of `PERFORMANCE_SCHEMA`.

    A row is ripe when its `outcome_known_on` is no later than `as_of` and its outcome is there; all others are left
    out, never counted as negatives. A month without a ripe row gives one row: the headline metric, no value, n = 0.

    Args:
        scored: One row per prediction unit of one month, with what scoring adds (`risk`, `alerted` and so on),
            `outcome_known_on` (date or time) and the protocol's outcome, patient and subgroup columns.
        protocol: Names the columns, the subgroups, their smallest size, the headline metric and the assessment.
        as_of: The day by which outcomes must be known.

    Raises:
        PerformanceError: If a column is missing, there are no rows, or a ripe row has no risk.
    """
    needed = (RISK, KNOWN_ON, protocol.outcome.column, protocol.patient, *protocol.subgroups)
    if absent := [column for column in needed if column not in scored.columns]:
        raise PerformanceError(
            f"the scored rows lack the columns {absent}; score the month and join its outcomes first"
        )
    if scored.is_empty():
        raise PerformanceError("there are no scored rows; score the month first")
    known = scored.filter(pl.col(KNOWN_ON).cast(pl.Date) <= as_of, pl.col(protocol.outcome.column).is_not_null())
    if known.is_empty():
        unknown = Finding(protocol.monitoring.headline, "overall", None, None, None, 0)
        return _tabulate([unknown], Ripeness.NOT_RIPE)
    if unscored := known[RISK].null_count():
        raise PerformanceError(f"{unscored:,} of {len(known):,} ripe rows have no {RISK}; score the month again")
    assessment: Assessment = load_object(protocol.assessment)
    findings = assessment.measure(known, protocol, RESAMPLES)
    return _tabulate(findings, Ripeness.RIPE if len(known) == len(scored) else Ripeness.PARTLY_RIPE)


def _tabulate(findings: list[Finding], status: Ripeness) -> pl.DataFrame:
    table = pl.DataFrame(findings, schema={name: kind for name, kind in PERFORMANCE_SCHEMA.items() if name != "status"})
    return table.with_columns(status=pl.lit(status.value))
