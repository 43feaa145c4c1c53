"""What analysts read, of all models together: the asset, its job and the sensor that asks for it.

Belongs here: which models are shown, and how long publications are apart. Does not belong here: how one is done.
"""

import os

import dagster as dg

from clinical_assets.lifecycle.publication import analytics_of, publication_job, publish_when_lake_changed
from clinical_assets.protocol import ProtocolError, protocol_names

PAUSE = "CLINICAL_PUBLISH_SECONDS"
PAUSE_SECONDS = 60.0


@dg.definitions
def publication() -> dg.Definitions:
    """The asset `analytics` of the home, the job `publication`, and the sensor `publish_when_lake_changed`."""
    return dg.Definitions(
        assets=[analytics_of(protocol_names())],
        jobs=[publication_job()],
        sensors=[publish_when_lake_changed(pause_seconds())],
    )


def pause_seconds() -> float:
    """The least time between two publications that nobody asked for; CLINICAL_PUBLISH_SECONDS, else a minute."""
    said = os.environ.get(PAUSE) or str(PAUSE_SECONDS)
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ProtocolError(f"{PAUSE} is {said!r}; give a number of seconds from 0 on")
    return seconds
