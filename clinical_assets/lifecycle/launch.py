"""Who launched a run: a person at a terminal or in the UI, or the platform by itself.

Belongs here: how a run's tags tell. Does not belong here: what follows from it.
"""

from collections.abc import Mapping

from clinical_assets.governance.audit_trail import person_at_terminal
from clinical_assets.protocol import AUTOMATION

PERSON, TRIGGER = "clinical/person", "clinical/trigger"
DEMONSTRATION = "demo"
_BY_ITSELF = ("dagster/sensor_name", "dagster/schedule_name", "dagster/auto_materialize", "dagster/backfill")


def who_launched(tags: Mapping[str, str]) -> str:
    """The signer that a run's tag `clinical/person` names, `automation`, or `user:<account of the process>`.

    Dagster's own UI knows no log-in: a run launched there is the account's that serves it, unless the launchpad's tags
    name the person. The replay of the demonstration is automation.
    """
    if person := tags.get(PERSON):
        return person
    if any(tag in tags for tag in _BY_ITSELF) or tags.get(TRIGGER) == DEMONSTRATION:
        return AUTOMATION
    return person_at_terminal()
