"""The predetermined change control plan of a model, told from its protocol, which is what the platform enforces.

Belongs here: the three parts of a plan, and which field of the protocol each rests on. Does not belong here: the limits
themselves.

Source: FDA, Marketing Submission Recommendations for a Predetermined Change Control Plan for Artificial
Intelligence-Enabled Device Software Functions, final guidance, December 2024 (section 515C of the FD&C Act).
"""

from clinical_assets.protocol import Limit
from clinical_assets.reporting.evidence.checklist import Answer, Checklist, answer, from_card
from clinical_assets.reporting.evidence.facts import (
    Evidence,
    ladder_in_words,
    monitoring_in_words,
    operating_point_in_words,
    sign_off_in_words,
    split_in_words,
)
from clinical_assets.reporting.metric_words import MINUS, describe_metric

DESCRIPTION, PROTOCOL, IMPACT = "Description of Modifications", "Modification Protocol", "Impact Assessment"

UNCHANGED = (
    "Intended use, patients, inputs, outcome and limits; a change of any of these is a new protocol and a new "
    "validation, outside this plan"
)


def change_plan(evidence: Evidence) -> Checklist:
    """What may change without a new protocol, how each change is made and judged, and what it may do to patients."""
    return Checklist(
        f"Predetermined change control plan of {evidence.version.model}",
        "After the FDA's final guidance of December 2024; derived from protocol "
        f"{evidence.version.protocol_sha256}, and no submission by itself.",
        evidence.caution,
        (*_description(evidence), *_protocol(evidence), *_impact(evidence)),
    )


def _description(evidence: Evidence) -> list[Answer]:
    protocol = evidence.protocol
    cool = protocol.retraining.cool_down_days
    share = f"{protocol.operating_point.alerted_fraction:.0%} of {protocol.operating_point.of}"
    modifications = (
        (
            "retraining",
            f"The same estimator ({protocol.estimator}) with the same settings, fitted anew on the last "
            f"{protocol.development_months} ripe months: {protocol.retraining.cadence}, and for drift that costs more "
            f"than is tolerated, not within {cool} days of the last",
        ),
        (
            "recalibration",
            "The intercept, or intercept and slope, of the released model's log odds, fitted on rows of "
            "known outcome that it has not learnt from; ranks stay as they are",
        ),
        ("threshold", f"Another threshold, so that again {share} are alerted; the model stays as it is"),
        ("roll back", "An earlier release in place of the present one"),
    )
    answers = [
        Answer(f"M{number}", DESCRIPTION, f"Modification: {name}", text)
        for number, (name, text) in enumerate(modifications, 1)
    ]
    return [*answers, Answer("M0", DESCRIPTION, "What stays as it is", UNCHANGED)]


def _protocol(evidence: Evidence) -> list[Answer]:
    protocol = evidence.protocol
    silent = f"runs {protocol.silent_months} months in silence, shown to nobody, and " if protocol.silent_months else ""
    return [
        Answer(
            "P1",
            PROTOCOL,
            "Data management",
            f"{evidence.archive_in_words}. Parted {split_in_words()}; test rows come from the last "
            f"{protocol.evaluation_months} months. An outcome counts once it is known, "
            f"{protocol.outcome.ripe_after_days} days after the case. A snapshot pins the rows",
        ),
        Answer(
            "P2",
            PROTOCOL,
            "Re-training",
            f"Fitted on the training rows, calibrated on the calibration rows; "
            f"{operating_point_in_words(protocol, evidence.version)}. Between retrainings, {ladder_in_words(protocol)}",
        ),
        Answer(
            "P3",
            PROTOCOL,
            "Performance evaluation and acceptance",
            "; ".join(_in_words(limit, evidence) for limit in protocol.limits)
            + f". A limit on fewer than {protocol.minimum_n:,} rows is not met; “cannot tell” is no pass",
        ),
        Answer(
            "P4",
            PROTOCOL,
            "Update procedures",
            f"Every version {silent}is {sign_off_in_words(protocol)}. The release compares the hashes of model, report "
            "and protocol with those signed, and refuses any other. An earlier release can be taken back at any time",
        ),
        Answer("P5", PROTOCOL, "Monitoring after an update", monitoring_in_words(protocol)),
    ]


def _impact(evidence: Evidence) -> list[Answer]:
    card, facts = evidence.protocol.model_card, evidence.candidate
    compared = facts.in_words([x for x in facts.findings if MINUS in x.metric])
    not_worse = "; ".join(_in_words(x, evidence) for x in evidence.protocol.acceptance if x.not_worse_than)
    return [
        answer(
            "I1", IMPACT, "The modified version against the present one", compared, "none was released to compare with"
        ),
        from_card("I2", IMPACT, "Risks and limitations", card.limitations, "limitations"),
        from_card("I3", IMPACT, "Risks of unintended bias", card.biases, "biases"),
        Answer(
            "I4",
            IMPACT,
            "How the protocol keeps it safe and effective",
            "Every version, however small its change, is measured on the same patients as the one it replaces, and is "
            f"{sign_off_in_words(evidence.protocol)}. This version: {evidence.limits_in_words}",
        ),
        Answer(
            "I5",
            IMPACT,
            "Several modifications, one after another",
            "Each is compared with the version in use and, where the protocol says so, with the first release, so that "
            f"many small losses cannot add up unseen: {not_worse or 'no such limit'}",
        ),
    ]


def _in_words(limit: Limit, evidence: Evidence) -> str:
    return f"{describe_metric(limit.metric, evidence.protocol).name} {limit.in_words()}"
