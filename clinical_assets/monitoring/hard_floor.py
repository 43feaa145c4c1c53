"""Whether a released version has fallen under its protocol's hard floor, by outcomes that are known.

Belongs here: the rule. Does not belong here: the rollback that follows.
"""

import polars as pl

from clinical_assets.monitoring.performance import Ripeness
from clinical_assets.protocol import RollbackGuard


def fallen_below(report: pl.DataFrame, guard: RollbackGuard, version: int) -> str:
    """How the version broke the floor in the newest month that is wholly ripe; empty where it did not.

    `report` has the columns month, model_version, metric, subgroup, value, low, high, n, status. The whole 95 %
    interval must lie under the floor. A month that another version scored says nothing of this one.
    """
    ripe = report.filter(
        pl.col("value").is_not_null(), metric=guard.metric, subgroup="overall", status=Ripeness.RIPE.value
    )
    if ripe.is_empty():
        return ""
    newest = ripe.sort("month").row(-1, named=True)
    if newest["model_version"] != version or newest["high"] is None or newest["high"] >= guard.at_least:
        return ""
    return (
        f"in {newest['month']:%Y-%m} the realised {guard.metric} was {newest['value']:.3f} [{newest['low']:.3f}, "
        f"{newest['high']:.3f}] of {newest['n']:,} rows, wholly under the floor of {guard.at_least:g}"
    )
