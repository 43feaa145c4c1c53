"""How often what watches looks, in one place: the setting `CLINICAL_SENSOR_SECONDS`, read when definitions are built.

Belongs here: intervals. Does not belong here: what is looked at.
"""

import os

SETTING = "CLINICAL_SENSOR_SECONDS"
USUAL_SECONDS = 15
SECONDS_BETWEEN_COMPARISONS = 60
"""Ledger and registry are compared at most so often, whatever the interval of the looks."""
LONGEST_PAUSE_SECONDS = 300
"""After so long a look is thorough though nothing seems new: for what leaves no event, and no new time on a file."""


def sensor_seconds() -> int:
    """The seconds between two looks of a sensor; raises ValueError where the setting is no whole number above 0."""
    written = os.environ.get(SETTING) or str(USUAL_SECONDS)
    if not written.isdecimal() or int(written) < 1:
        raise ValueError(f"{SETTING} is {written!r}; it must be a whole number of seconds above 0, or unset")
    return int(written)
