"""The runbook of incidents, and what watches the home; they are of all models together.

Belongs here: which assets and job the runbook has, and the home's sensor. Does not belong here: what a step is.
"""

import dagster as dg

from clinical_assets.lifecycle import runbook as steps
from clinical_assets.lifecycle.home_watch import home_watch


@dg.definitions
def runbook() -> dg.Definitions:
    """The steps of the runbook under one key prefix, the job that records them, and the home's sensor."""
    job = dg.define_asset_job(
        steps.GROUP,
        dg.AssetSelection.groups(steps.GROUP),
        description="The steps of an incident's runbook that have happened",
        executor_def=dg.in_process_executor,
    )
    return dg.Definitions(
        assets=dg.load_assets_from_modules([steps], group_name=steps.GROUP, key_prefix=steps.GROUP),
        jobs=[job],
        sensors=[home_watch],
    )
