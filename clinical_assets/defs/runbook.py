"""The runbook of incidents and what tells people of them; they are of all models together.

Belongs here: which assets, job and sensors the runbook has. Does not belong here: what a step is.
"""

import dagster as dg

from clinical_assets.lifecycle import runbook as steps


@dg.definitions
def runbook() -> dg.Definitions:
    """The steps of the runbook under one key prefix, the job that records them, and the two sensors."""
    job = dg.define_asset_job(
        steps.GROUP,
        dg.AssetSelection.groups(steps.GROUP),
        description="The steps of an incident's runbook that have happened",
        executor_def=dg.in_process_executor,
    )
    return dg.Definitions(
        assets=dg.load_assets_from_modules([steps], group_name=steps.GROUP, key_prefix=steps.GROUP),
        jobs=[job],
        sensors=[steps.runbook_when_incident_changed, steps.notices_are_delivered],
    )
