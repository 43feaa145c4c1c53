"""Has the champion fallen under its protocol's hard floor? Then the guard rolls it back, in a run.

Belongs here: the question. Does not belong here: the rule (monitoring/hard_floor.py), and the rollback.
"""

from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.lifecycle.questions.answer import Answer, Request
from clinical_assets.lifecycle.questions.facts import ModelFacts


def floor_broken(facts: ModelFacts) -> Answer:
    """A rollback by the guard, or why there is none."""
    if (guard := facts.protocol.rollback_guard) is None:
        return Answer(f"the protocol of {facts.model} has no floor")
    if not facts.fallen:
        return Answer(f"the newest ripe month of {facts.model} is not wholly under {guard.at_least:g}")
    request = Request(
        job=f"{facts.model}_champion_upkeep",
        key=f"{facts.model}|guard|{facts.fallen_by}",
        tags={TRIGGER: "guard"},
    )
    return Answer(facts.fallen, request)
