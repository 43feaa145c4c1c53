"""Is a release signed? The newest candidate is released once every role has approved it.

Belongs here: the question. Does not belong here: whether a signature is good, which the release itself verifies.
"""

from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.lifecycle.questions.answer import Answer, Request
from clinical_assets.lifecycle.questions.facts import ModelFacts


def release_signed(facts: ModelFacts) -> Answer:
    """A release of the candidate, or who has not approved it yet; raises SignatureError for a damaged signature."""
    candidate = facts.candidate
    if isinstance(candidate, str):
        return Answer(candidate)
    words, signatures = facts.latest_decisions(), facts.signed()
    if rejected := sorted(word.signer for word in words if word.decision == "reject"):
        return Answer(f"version {candidate.version} was rejected by {', '.join(rejected)}")
    approved = {word.role for word in words}
    if missing := [role for role in facts.protocol.sign_off.roles if role not in approved]:
        return Answer(f"version {candidate.version} waits for approval as {', '.join(missing)}")
    # One more signature, or a new report, is a reason to try again; the same ones are not.
    signed = max(signature.statement.signed_at for signature in signatures)
    request = Request(
        job=f"{facts.model}_release",
        key=f"{facts.model}|v{candidate.version}|{candidate.report_sha256[:12]}|{len(signatures)}|{signed}",
        tags={TRIGGER: "signatures"},
    )
    return Answer(f"version {candidate.version} is approved by every role", request)
