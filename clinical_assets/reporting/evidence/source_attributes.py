"""The 31 source attributes of a predictive decision support intervention: 45 CFR 170.315(b)(11)(iv)(B), HTI-1.

Belongs here: what the rule asks, and where the answer is found. Does not belong here: the answers that people write.

Source: 89 FR 1192 (9 January 2024). What is asked is told in our words; the paragraph is cited with each.
"""

import re

from clinical_assets.reporting.evidence.checklist import Answer, Checklist, answer, from_card
from clinical_assets.reporting.evidence.facts import (
    Evidence,
    ladder_in_words,
    monitoring_in_words,
    operating_point_in_words,
    sign_off_in_words,
)
from clinical_assets.reporting.metric_words import SILENT, plural_unit

PERSONAL = {
    "race": ("race",),
    "ethnicity": ("ethnicity",),
    "language": ("language",),
    "sexual orientation": ("orientation",),
    "gender identity": ("gender",),
    "sex": ("sex",),
    "date of birth": ("age", "birth"),
    "social determinants of health": ("housing", "income", "education", "insurance", "payer"),
    "health status assessments": ("disability", "status"),
}
"""The variables of 170.315(b)(11)(iv)(A)(5) to (13), and the words by which a column of ours is one."""

NO_GROUPS = "no subgroup of the protocol is one of the variables (A)(5) to (13), or none is large enough"
NO_EXTERNAL = (
    "no validation on other data is kept with the version; `clinical validate` makes one on any archive in the layout"
)
IN_USE = "the version is not in use yet; from its first month on, the monthly performance_report says so"


def source_attributes(evidence: Evidence) -> Checklist:
    """Each of the 31 attributes, filled from the protocol, the version and what was measured, or said to be missing."""
    answers = (
        *_details(evidence),
        *_purpose(evidence),
        *_out_of_scope(evidence),
        *_development(evidence),
        *_fairness(evidence),
        *_external_validation(evidence),
        *_performance(evidence),
        *_maintenance(evidence),
        *_updates(evidence),
    )
    return Checklist(
        f"Source attributes of {evidence.version.model} version {evidence.version.version}",
        "The 31 attributes of 45 CFR 170.315(b)(11)(iv)(B) (HTI-1), asked here in our words.",
        evidence.caution,
        answers,
    )


def _details(evidence: Evidence) -> list[Answer]:
    section, card, protocol = "(1) Details and output", evidence.protocol.model_card, evidence.protocol
    contact = f"{card.developer}; {card.contact}" if card.developer and card.contact else None
    output = f"The risk of `{protocol.outcome.column}` of one {plural_unit(protocol)[:-1]}, from 0 to 1"
    if protocol.outcome.kind == "graded":
        output += f"; and the probability of each grade. An event is a grade of {protocol.outcome.event_from} or more"
    return [
        from_card("(1)(i)", section, "Developer and contact", contact, "developer and contact"),
        from_card("(1)(ii)", section, "Funding of the technical implementation", card.funding, "funding"),
        Answer("(1)(iii)", section, "Value that is produced as output", output),
        Answer(
            "(1)(iv)",
            section,
            "Kind of output",
            f"A prediction, and a classification: {operating_point_in_words(protocol, evidence.version)}",
        ),
    ]


def _purpose(evidence: Evidence) -> list[Answer]:
    section, card = "(2) Purpose", evidence.protocol.model_card
    return [
        Answer("(2)(i)", section, "Intended use", evidence.protocol.intended_use.strip()),
        from_card("(2)(ii)", section, "Intended patients", card.population, "population"),
        from_card("(2)(iii)", section, "Intended users", card.intended_users, "intended_users"),
        from_card("(2)(iv)", section, "Role in decisions", card.decision_role, "decision_role"),
    ]


def _out_of_scope(evidence: Evidence) -> list[Answer]:
    section, card = "(3) Cautioned out-of-scope use", evidence.protocol.model_card
    return [
        from_card("(3)(i)", section, "Where users are cautioned against it", card.out_of_scope, "out_of_scope"),
        from_card("(3)(ii)", section, "Known risks and limitations", card.limitations, "limitations"),
    ]


def _development(evidence: Evidence) -> list[Answer]:
    section, card = "(4) Development details and input features", evidence.protocol.model_card
    used = {
        name: [column for column in evidence.inputs if set(words) & set(re.split(r"[^a-z]+", column.lower()))]
        for name, words in PERSONAL.items()
    }
    inputs = "; ".join(f"{name}: {', '.join(columns) or 'not used'}" for name, columns in used.items())
    groups = _group_sizes(evidence)
    relevance = (
        f"{evidence.archive_in_words}. Trained through {evidence.version.trained_through:%B %Y}; "
        "a hospital validates it on its own patients (`clinical validate`) before it relies on it"
    )
    return [
        from_card("(4)(i)", section, "Inclusion and exclusion criteria", card.eligibility, "eligibility"),
        Answer("(4)(ii)", section, "Use of the variables (A)(5) to (13) as inputs", f"By the columns' names. {inputs}"),
        answer(
            "(4)(iii)",
            section,
            "Demographic representativeness",
            groups and f"Of the test rows: {groups}",
            NO_GROUPS,
        ),
        Answer("(4)(iv)", section, "Relevance of the training data to the setting", relevance),
    ]


def _fairness(evidence: Evidence) -> list[Answer]:
    section, card = "(5) Fairness in development", evidence.protocol.model_card
    in_every = [x for x in evidence.protocol.acceptance if x.in_every_subgroup]
    limits = "; ".join(f"{x.metric} {x.in_words()}" for x in in_every)
    watched = ", ".join(evidence.protocol.subgroups) or "none"
    managed = (
        f"Subgroups measured before each release and every month: {watched}. Limits on every one: {limits or 'none'}"
    )
    return [
        from_card("(5)(i)", section, "Approach to fair output", card.fairness_approach, "fairness_approach"),
        Answer("(5)(ii)", section, "Approaches to manage bias", f"{managed}. {card.biases or ''}".strip()),
    ]


def _external_validation(evidence: Evidence) -> list[Answer]:
    section = "(6) External validation"
    asked = (
        "Source and setting of the external data",
        "Who tested",
        "Demographic representativeness of the external data",
        "How it was done",
    )
    return [
        Answer(f"(6)({numeral})", section, asks, None, NO_EXTERNAL)
        for numeral, asks in zip(("i", "ii", "iii", "iv"), asked, strict=True)
    ]


def _performance(evidence: Evidence) -> list[Answer]:
    section, facts = "(7) Quantitative measures of performance", evidence.candidate
    overall = [x for x in facts.on_test_rows if x.subgroup == "overall"]
    return [
        Answer("(7)(i)", section, "Validity in test data of the same source", facts.in_words(overall)),
        answer(
            "(7)(ii)",
            section,
            "Fairness in test data of the same source",
            facts.in_words([x for x in evidence.subgroup_findings if _is_personal(x.subgroup)]),
            NO_GROUPS,
        ),
        Answer("(7)(iii)", section, "Validity in data of another source", None, NO_EXTERNAL),
        Answer("(7)(iv)", section, "Fairness in data of another source", None, NO_EXTERNAL),
        from_card(
            "(7)(v)",
            section,
            "Evaluations of its use on outcomes",
            evidence.protocol.model_card.outcome_studies,
            "outcome_studies",
        ),
    ]


def _maintenance(evidence: Evidence) -> list[Answer]:
    section, facts = "(8) Ongoing maintenance", evidence.candidate
    monitored = monitoring_in_words(evidence.protocol)
    silent = facts.in_words(facts.starting(SILENT))
    subgroups = ", ".join(filter(_is_personal, evidence.protocol.subgroups))
    return [
        Answer("(8)(i)", section, "How and how often validity is monitored", monitored),
        answer("(8)(ii)", section, "Validity in local data", silent and f"In its silent months: {silent}", IN_USE),
        answer(
            "(8)(iii)",
            section,
            "How and how often fairness is monitored",
            subgroups and f"Every month, once outcomes are known, in every subgroup large enough: {subgroups}",
            NO_GROUPS,
        ),
        Answer("(8)(iv)", section, "Fairness in local data", None, IN_USE),
    ]


def _updates(evidence: Evidence) -> list[Answer]:
    section, protocol = "(9) Updates", evidence.protocol
    return [
        Answer(
            "(9)(i)",
            section,
            "How and how often it is updated",
            f"Retrained {protocol.retraining.cadence}; in between, {ladder_in_words(protocol)}. Every new version is "
            f"measured against the protocol's limits and {sign_off_in_words(protocol)}",
        ),
        Answer(
            "(9)(ii)",
            section,
            "How often performance is corrected when risks are found",
            f"Whenever a month's report finds more loss than is tolerated. {monitoring_in_words(protocol)}",
        ),
    ]


def _is_personal(column: str) -> bool:
    """Whether a column, or a subgroup `column=level`, is one of the variables (A)(5) to (13), by its name."""
    words = set(re.split(r"[^a-z]+", column.partition("=")[0].lower()))
    return any(words & set(known) for known in PERSONAL.values())


def _group_sizes(evidence: Evidence) -> str:
    sizes: dict[str, int] = {}
    for finding in evidence.candidate.on_test_rows:
        if _is_personal(finding.subgroup):
            sizes[finding.subgroup] = max(sizes.get(finding.subgroup, 0), finding.n)
    hidden = {x.subgroup for x in evidence.candidate.on_test_rows if evidence.candidate.hides(x)}
    return "; ".join(
        f"{subgroup.replace('=', ' ')}: {'not shown' if subgroup in hidden else f'{n:,}'}"
        for subgroup, n in sizes.items()
    )
