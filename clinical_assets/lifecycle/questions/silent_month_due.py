"""Is a silent month due? The newest candidate scores each month that arrives, shown to nobody, as long as it must.

Belongs here: the question. Does not belong here: what a silent month counts for (candidate.py).
"""

from clinical_assets.lifecycle.automation import SILENT
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.lifecycle.questions.answer import Answer, Request
from clinical_assets.lifecycle.questions.facts import ModelFacts


def silent_month_due(facts: ModelFacts) -> Answer:
    """A silent run on the newest month, or why there is none."""
    candidate = facts.candidate
    if isinstance(candidate, str):
        return Answer(candidate)
    if not candidate.silent_months_left:
        return Answer(f"version {candidate.version} has run its silent months")
    newest = facts.newest_features
    if newest is None or newest <= candidate.features_through:
        return Answer(
            f"version {candidate.version} has {candidate.silent_months_left} silent months to run, and none has "
            f"arrived since {candidate.features_through:%Y-%m}"
        )
    request = Request(
        job=f"{facts.model}_silent_month",
        key=f"{facts.model}|v{candidate.version}|silent|{newest:%Y-%m}",
        tags={TRIGGER: "month", SILENT: str(candidate.version)},
    )
    return Answer(f"version {candidate.version} scores {newest:%Y-%m} in silence", request)
