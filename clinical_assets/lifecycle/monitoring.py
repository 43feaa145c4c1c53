"""What is seen of every month: profile, estimate, drift, performance once outcomes are known, and the repair planned.

Belongs here: the assets of monitoring. Does not belong here: what a look is made of, any statistic, and what is done
about a plan.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl

from clinical_assets.lifecycle import month_look
from clinical_assets.lifecycle.catalogue import markdown_table
from clinical_assets.lifecycle.conditions import FLOW, RIPENING_TICK
from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.lifecycle.month_look import MonthLook, look_at_month
from clinical_assets.lifecycle.month_report import performance_table
from clinical_assets.lifecycle.release_reference import release_reference
from clinical_assets.lifecycle.scored_history import scored_through
from clinical_assets.monitoring.event_performance import EVENT
from clinical_assets.protocol import ModelProtocol, last_day
from clinical_assets.resources.lake_io_manager import Batch, LakeResource
from clinical_assets.resources.outward_gate import reporting
from clinical_assets.resources.platform import RegistryResource

_SCORED_ROWS = ("protocol", "features", "predictions")
_SEEN_FROM = {
    "profile": _SCORED_ROWS,
    "scored_history": _SCORED_ROWS,
    "estimated_performance": (*_SCORED_ROWS, "scored_history"),
    "drift_report": (*_SCORED_ROWS, "scored_history", "estimated_performance", "profile"),
    "repair_plan": ("protocol", "scored_history", "drift_report", "estimated_performance"),
}
"""The tables of a look, each with what it is made from."""


def _output(table: str, *kinds: str) -> dg.AssetOut:
    """One table of a look: described as the function is that sees it."""
    described = getattr(month_look, f"see_{table}").__doc__
    return dg.AssetOut(description=described, automation_condition=FLOW, kinds=set(kinds))


@dg.multi_asset(
    outs={
        "profile": _output("profile", "whylogs"),
        "scored_history": _output("scored_history", "polars", "duckdb"),
        "estimated_performance": _output("estimated_performance", "python"),
        "drift_report": _output("drift_report", "python"),
        "repair_plan": _output("repair_plan", "python"),
    },
    internal_asset_deps={table: {dg.AssetKey(name) for name in made_from} for table, made_from in _SEEN_FROM.items()},
    partitions_def=MONTHS,
)
@reporting
def look_at_scored_month(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    features: pl.DataFrame,
    predictions: pl.DataFrame,
    lake: LakeResource,
    registry: RegistryResource,
) -> Iterator[dg.Output[Any]]:
    """Everything that is seen of a month once it is scored, written as one commit: all of it, or nothing."""
    run_id = context.op_execution_context.run_id
    look = MonthLook.of(protocol, features, predictions, lake.open(), registry.open(), run_id)
    seen = look_at_month(look)
    batch = Batch(
        {f"{protocol.model}.{table}": of.frame for table, of in seen.items()},
        {f"{protocol.model}.{table}": of.descriptions for table, of in seen.items()},
        beside=tuple(write for of in seen.values() for write in of.beside),
    )
    for table, of in seen.items():
        yield dg.Output(batch, output_name=table, metadata=dict(of.metadata))


@dg.asset(deps=["scored_history"], partitions_def=MONTHS, automation_condition=RIPENING_TICK, kinds={"python"})
@reporting
def performance_report(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    estimated_performance: pl.DataFrame,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """What the champion achieved in the month, on known outcomes only, beside what was estimated and since release."""
    month, known_by = estimated_performance["month"][0], last_day(max(lake.open().months(f"{protocol.model}.features")))
    version = registry.open().version(protocol.model, estimated_performance["model_version"][0])
    reference = release_reference(lake.open(), version, protocol, context.op_execution_context.run_id)
    history = scored_through(lake.open(), protocol, version.version, month)
    table = performance_table(history, estimated_performance, reference.baseline, protocol, month, known_by)
    overall = table.filter(subgroup="overall").drop_nulls("value")
    alarmed = table.filter("alarmed")["subgroup"].to_list()
    estimated = table.filter(subgroup="overall").filter(pl.col("metric").str.starts_with(EVENT))
    return dg.MaterializeResult(
        value=table,
        metadata={
            "status": table["status"][0],
            "outcomes_known_by": known_by.isoformat(),
            "sensitivity_has_fallen_in": ", ".join(alarmed) or "no group",
            **dict(overall.select("metric", "value").iter_rows()),
            "overall": markdown_table(overall.select("metric", "value", "low", "high", "n")),
            "estimated": markdown_table(estimated.select("metric", "estimated", "value", "estimate_error", "baseline")),
        },
    )
