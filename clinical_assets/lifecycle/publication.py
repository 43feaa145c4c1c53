"""The last link of the chain: what analysts read.

Belongs here: the asset that publishes, the one way to publish, and what stops it. Does not belong here: how the file is
built and replaced, and how identifiers are searched.
"""

import dagster as dg

from clinical_assets.governance.audit_trail import AuditTrail, run_actor
from clinical_assets.governance.incidents import PLATFORM, Breach, Cause
from clinical_assets.lifecycle.conditions import PUBLISHING
from clinical_assets.lifecycle.incidents import open_incident
from clinical_assets.protocol import protocol_names
from clinical_assets.resources.analytics import Published, publish_analytics, working_copy
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.leak_search import (
    LAKE_SINKS,
    LeakError,
    LeakReport,
    only_search,
    search_home,
    trust,
)
from clinical_assets.resources.platform import HomeResource


@dg.asset(
    deps=["drift_report", "performance_report", "repair_plan", "validation_report", "release"],
    automation_condition=PUBLISHING,
    kinds={"duckdb"},
)
def analytics(context: dg.AssetExecutionContext, home: HomeResource, lake: LakeResource) -> dg.MaterializeResult:
    """The DuckDB file that analysts open, replaced in one step with all that the lake holds of every model."""
    published = publish(lake.open(), home.open(), actor=run_actor(context.op_execution_context.run_id))
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(published.path),
            "tables": published.tables,
            "dagster/row_count": published.rows,
            "lake/snapshot": published.snapshot,
        }
    )


def publish(lake: Lake, home: Home, *, actor: str) -> Published:
    """Replace the analysts' file of a home, and record in the audit trail who did; every publication is this one.

    Before, every sink is searched for identifiers, and once more the lake's rows that came meanwhile. Raises LeakError,
    and leaves the file as it was, where one is found or a sink cannot be read.
    """

    def search_what_is_shown(snapshot: int) -> None:
        refuse_leaks(lake, home, search_home(lake, home, snapshot=snapshot, sinks=LAKE_SINKS), actor=actor)

    with only_search(home):
        refuse_leaks(lake, home, search_home(lake, home), actor=actor)
        published = publish_analytics(lake, home.analytics, protocol_names(), search_what_is_shown)
        trust(home, (published.path, working_copy(published.path)))
    AuditTrail(home.audit).record(
        "publish",
        actor=actor,
        target=home.analytics.name,
        snapshot=published.snapshot,
        details={"tables": published.tables, "rows": published.rows},
    )
    return published


def refuse_leaks(lake: Lake, home: Home, report: LeakReport, *, actor: str) -> None:
    """Stop a publication where identifiers were found or a sink could not be read: audited, and an incident opened."""
    if report.is_clean:
        return
    AuditTrail(home.audit).record(
        "publish_refused",
        actor=actor,
        target=home.analytics.name,
        outcome="failure",
        reason=report.describe(),
        snapshot=report.snapshot,
        details={"leaks": len(report.leaks), "unreadable": len(report.unreadable)},
    )
    open_leak_incident(lake, home, report, actor=actor)
    raise LeakError(
        f"{report.describe()}: nothing was published, and an incident is open; `clinical phi-scan` lists every place; "
        "remove what leaked at its source, materialise anew, and remove it from the lake's history and catalogue too"
    )


def open_leak_incident(lake: Lake, home: Home, report: LeakReport, *, actor: str) -> None:
    """Open the incident of a search that was not clean; the same kinds in the same sinks are one cause."""
    run_id = actor.removeprefix("run:") if actor.startswith("run:") else ""
    sinks = ",".join(sink.sink for sink in report.sinks if sink.leaks or sink.unreadable)
    kinds = ",".join(sorted({leak.identifier_class.value for leak in report.leaks}))
    breach = Breach(PLATFORM, Cause.PHI_LEAK, f"{sinks}|{kinds}", f"{report.describe()}; sinks: {sinks}", run_id=run_id)
    open_incident(lake, home, breach, actor=actor)
