"""Is a rejection to be recorded? The signatures on a rejected candidate are kept, since no release will keep them.

Belongs here: the question. Does not belong here: what a rejection means for repairs (facts.py).
"""

from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.lifecycle.questions.answer import Answer, Request
from clinical_assets.lifecycle.questions.facts import ModelFacts


def rejection_to_record(facts: ModelFacts) -> Answer:
    """A record of the signatures where somebody rejected; raises SignatureError for a damaged signature."""
    candidate = facts.candidate
    if isinstance(candidate, str):
        return Answer(candidate)
    if all(word.decision == "approve" for word in facts.latest_decisions()):
        return Answer(f"nobody has rejected version {candidate.version}")
    request = Request(
        job=f"{facts.model}_sign_off",
        key=f"{facts.model}|v{candidate.version}|rejected|{len(facts.signed())}",
        tags={TRIGGER: "signatures"},
    )
    return Answer(f"version {candidate.version} was rejected", request)
