"""The last link of the chain: what analysts read.

Belongs here: the asset that publishes. Does not belong here: how the file is built and replaced.
"""

import dagster as dg

from clinical_assets.lifecycle.conditions import PUBLISHING
from clinical_assets.protocol import protocol_names
from clinical_assets.resources.analytics import publish_analytics
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import HomeResource


@dg.asset(
    deps=["drift_report", "performance_report", "repair_plan", "validation_report", "release"],
    automation_condition=PUBLISHING,
    kinds={"duckdb"},
)
def analytics(home: HomeResource, lake: LakeResource) -> dg.MaterializeResult:
    """The DuckDB file that analysts open, replaced in one step with all that the lake holds of every model."""
    published = publish_analytics(lake.open(), home.open().analytics, protocol_names())
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(published.path),
            "tables": published.tables,
            "dagster/row_count": published.rows,
            "lake/snapshot": published.snapshot,
        }
    )
