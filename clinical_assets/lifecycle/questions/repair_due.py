"""Is a repair due? Steps through every new repair plan, and asks for the one candidate that the plans call for.

Belongs here: how facts become a request. Does not belong here: the rule (monitoring/repair_request.py).
"""

from clinical_assets.lifecycle.automation import MONTH
from clinical_assets.lifecycle.conditions import REPAIR
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.lifecycle.questions.answer import Answer, Request
from clinical_assets.lifecycle.questions.facts import ModelFacts
from clinical_assets.monitoring.repair_request import request_repair

WORDS_OF_REASON = 500


def repair_due(facts: ModelFacts) -> Answer:
    """A retraining for the newest month that calls for one, or why there is none; notices not yet met stay pending."""
    model = facts.model
    if not (facts.plans or facts.pending) or facts.newest_plan is None:
        return Answer(f"no repair plan of {model} since the last look")
    notices = {x.month: x for x in (*facts.pending, *(plan.notice for plan in facts.plans))}
    decision = request_repair(
        list(notices.values()),
        facts.champion,
        facts.newest_plan,
        facts.protocol.retraining.cool_down_days,
        facts.history,
        facts.awaited_candidate(),
    )
    breaches = tuple(plan.breach for plan in facts.plans if plan.breach is not None)
    reason = "; ".join(decision.reasons)
    if (due := decision.due) is None:
        return Answer(reason, breaches=breaches, pending=decision.pending)
    attempt = facts.history.failed_months.count(due.month)
    request = Request(
        job=f"{model}_retraining",
        key=f"{model}|{due.month:%Y-%m}|v{due.champion_version}" + (f"|retry {attempt}" if attempt else ""),
        tags={
            TRIGGER: "repair",
            REPAIR: due.repair.value,
            MONTH: due.month.isoformat(),
            "clinical/reason": reason[:WORDS_OF_REASON],
        },
        counts_attempts=True,
    )
    return Answer(reason, request, breaches, decision.pending)
