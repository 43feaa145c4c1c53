"""The TRIPOD+AI checklist, 27 items in 52 parts: how a prediction model was made and measured, for readers of studies.

Belongs here: what each item asks, in our words, and where the answer is found. Does not belong here: the answers that
people write.

Source: Collins GS, Moons KGM, Dhiman P, et al. TRIPOD+AI statement. BMJ 2024;385:e078378.
"""

from clinical_assets.reporting.evidence.checklist import Answer, Checklist, answer, from_card
from clinical_assets.reporting.evidence.facts import (
    Evidence,
    ladder_in_words,
    operating_point_in_words,
    split_in_words,
)
from clinical_assets.reporting.metric_words import TRANSPORTED, plural_unit

UNRECORDED = "the archive does not record it"
FOR_AUTHORS = "it is for the authors of a publication to write"


def tripod_ai(evidence: Evidence) -> Checklist:
    """Every item with its answer, or with why there is none."""
    answers = (
        *_introduction(evidence),
        *_participants(evidence),
        *_variables(evidence),
        *_analysis(evidence),
        *_open_science(evidence),
        *_results(evidence),
        *_discussion(evidence),
    )
    return Checklist(
        f"TRIPOD+AI of {evidence.version.model} version {evidence.version.version}",
        "The 27 items of Collins et al. 2024 (BMJ 385:e078378), asked here in our words.",
        evidence.caution,
        answers,
    )


def _introduction(evidence: Evidence) -> list[Answer]:
    protocol, card, section = evidence.protocol, evidence.protocol.model_card, "Title and introduction"
    purpose = " ".join(filter(None, (protocol.intended_use.strip(), card.population, card.intended_users)))
    return [
        Answer(
            "1",
            section,
            "Title: study, patients, outcome",
            f"Development and internal evaluation of {protocol.title}: {protocol.outcome.column}",
        ),
        Answer("2", section, "Abstract", None, FOR_AUTHORS),
        from_card("3a", section, "Healthcare context and rationale", card.rationale, "rationale"),
        Answer("3b", section, "Target population, purpose, users", purpose),
        from_card("3c", section, "Known health inequalities", card.health_inequalities, "health_inequalities"),
        Answer(
            "4",
            section,
            "Objectives",
            f"To develop and evaluate, under a protocol (sha256 {evidence.version.protocol_sha256}), a version that "
            "meets its limits",
        ),
    ]


def _participants(evidence: Evidence) -> list[Answer]:
    protocol, card, section = evidence.protocol, evidence.protocol.model_card, "Methods: data and participants"
    return [
        Answer("5a", section, "Sources of data", f"{evidence.archive_in_words}. Development and evaluation share it"),
        Answer("5b", section, "Dates", f"Months of the platform's calendar: {evidence.candidate.cohort_in_words}"),
        from_card("6a", section, "Setting and centres", card.population, "population"),
        from_card("6b", section, "Eligibility", card.eligibility, "eligibility"),
        from_card("6c", section, "Treatments received", card.treatments, "treatments"),
        Answer(
            "7",
            section,
            "Preparation and quality checks of the data",
            f"Rows: {protocol.cohort}, checked against a typed contract, month by month; features: "
            f"{protocol.features or 'as the rows are'}; the same for every patient",
        ),
    ]


def _variables(evidence: Evidence) -> list[Answer]:
    protocol, section = evidence.protocol, "Methods: outcome and predictors"
    outcome = protocol.outcome
    event = f", an event from {outcome.event_from} on" if outcome.kind == "graded" else ""
    described = "; ".join(f"{name}: {text}" for name, text in evidence.inputs.items())
    return [
        Answer(
            "8a",
            section,
            "Outcome and horizon",
            f"`{outcome.column}`, {outcome.kind}{event}; known {outcome.ripe_after_days} days after the index time "
            f"(`{protocol.index_time}`)",
        ),
        Answer("8b", section, "Who assessed a subjective outcome", None, UNRECORDED),
        Answer("8c", section, "Blinding of the outcome's assessment", None, UNRECORDED),
        Answer(
            "9a",
            section,
            "Choice of predictors",
            f"All {len(evidence.inputs)} columns of the features but {', '.join(protocol.not_features) or 'none'}; no "
            "selection by the outcome before fitting",
        ),
        Answer("9b", section, "Definition of the predictors", described),
        Answer("9c", section, "Who assessed subjective predictors", None, UNRECORDED),
    ]


def _analysis(evidence: Evidence) -> list[Answer]:
    protocol, card, section = evidence.protocol, evidence.protocol.model_card, "Methods: analysis"
    settings = ", ".join(f"{name} {value}" for name, value in protocol.estimator_settings.items())
    metrics = ", ".join(dict.fromkeys(x.metric for x in evidence.candidate.on_test_rows))
    across = protocol.transported_across
    return [
        from_card("10", section, "Sample size and its reason", card.sample_size, "sample_size"),
        from_card("11", section, "Missing data", card.missing_data, "missing_data"),
        Answer(
            "12a",
            section,
            "How the data were used and parted",
            f"Parted {split_in_words()}; test rows from the last "
            f"{protocol.evaluation_months} of {protocol.development_months} months",
        ),
        Answer("12b", section, "How predictors were handled", f"By the estimator: {protocol.estimator}"),
        Answer(
            "12c",
            section,
            "Type of model, how it was built, hyperparameters, internal validation",
            f"{protocol.estimator}, settings of the protocol: {settings or 'its defaults'}; made by "
            f"{evidence.made_by.value.replace('_', ' ')}; none is tuned on the test rows",
        ),
        answer(
            "12d",
            section,
            "Heterogeneity between clusters",
            across and f"A model fitted without each {across} is measured there",
            "the protocol names no clusters (transported_across)",
        ),
        Answer(
            "12e",
            section,
            "Measures and plots",
            f"{metrics}; 95 % intervals by bootstrap over patients; calibration curve, forest by subgroup",
        ),
        Answer("12f", section, "Model updating", f"Proposed by a month's repair plan: {ladder_in_words(protocol)}"),
        Answer(
            "12g",
            section,
            "How predictions were calculated",
            f"By the registered files, sha256 {evidence.version.artefact_sha256}",
        ),
        Answer(
            "13",
            section,
            "Class imbalance",
            "No row is drawn again or left out; probabilities are calibrated on rows apart",
        ),
        from_card("14", section, "Approaches to fairness", card.fairness_approach, "fairness_approach"),
        Answer(
            "15",
            section,
            "Output and thresholds",
            f"A probability; {operating_point_in_words(protocol, evidence.version)}",
        ),
        Answer(
            "16",
            section,
            "Differences between development and evaluation data",
            f"Other patients of the same source, later months: {evidence.candidate.cohort_in_words}",
        ),
        from_card("17", section, "Ethical approval", card.ethics_approval, "ethics_approval"),
    ]


def _open_science(evidence: Evidence) -> list[Answer]:
    card, section = evidence.protocol.model_card, "Open science and involvement"
    return [
        from_card("18a", section, "Funding", card.funding, "funding"),
        from_card("18b", section, "Conflicts of interest", card.competing_interests, "competing_interests"),
        Answer("18c", section, "Protocol", f"Kept with the version; sha256 {evidence.version.protocol_sha256}"),
        from_card("18d", section, "Registration", card.registration, "registration"),
        from_card("18e", section, "Data sharing", card.data_sharing, "data_sharing"),
        from_card("18f", section, "Code sharing", card.code_sharing, "code_sharing"),
        from_card("19", section, "Patients and the public", card.patient_involvement, "patient_involvement"),
    ]


def _results(evidence: Evidence) -> list[Answer]:
    facts, section = evidence.candidate, "Results"
    overall = [x for x in facts.on_test_rows if x.subgroup == "overall"]
    inside = [x for x in facts.on_test_rows if x.subgroup != "overall"]
    repaired = (
        f"Made by {evidence.made_by.value.replace('_', ' ')}; figures under 23a"
        if evidence.made_by.needs_candidate
        else ""
    )
    return [
        Answer("20a", section, "Flow of participants", f"By split: {facts.cohort_in_words}"),
        Answer(
            "20b",
            section,
            "Characteristics of the participants",
            None,
            "not in this pack; the monthly profile and data_quality tables hold the distribution of every column",
        ),
        Answer(
            "20c",
            section,
            "Important predictors in evaluation and development data",
            None,
            "not in this pack; a month's drift_report compares every column with the training data",
        ),
        Answer("21", section, "Participants and events in each analysis", facts.cohort_in_words),
        Answer(
            "22",
            section,
            "The full model",
            f"Version {evidence.version.version} in the registry, sha256 {evidence.version.artefact_sha256}; "
            f"`clinical reproduce {evidence.version.model} {evidence.version.version}` makes it again",
        ),
        Answer("23a", section, "Performance, with subgroups", facts.in_words([*overall, *inside])),
        answer(
            "23b",
            section,
            "Performance across clusters",
            facts.in_words(facts.starting(TRANSPORTED)),
            "no cluster was large enough, or the protocol names none",
        ),
        answer("24", section, "Results of updating", repaired, "this version is no update"),
    ]


def _discussion(evidence: Evidence) -> list[Answer]:
    card, section = evidence.protocol.model_card, "Discussion"
    unit = plural_unit(evidence.protocol)
    return [
        Answer("25", section, "Interpretation", f"Against the protocol: {evidence.limits_in_words}"),
        from_card("26", section, "Limitations", card.limitations, "limitations"),
        Answer(
            "27a",
            section,
            "Poor or missing input in use",
            f"Rows that break their contract stop the month's run; broken records are put into quarantine and counted; "
            f"{unit} with missing values: {card.missing_data or 'the model_card does not state missing_data'}",
        ),
        from_card("27b", section, "What users do, and their expertise", card.how_to_use, "how_to_use"),
        from_card("27c", section, "Next steps", card.next_steps, "next_steps"),
    ]
