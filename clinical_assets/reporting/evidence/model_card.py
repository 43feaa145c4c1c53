"""The applied model card of the Coalition for Health AI, version 0.2, as XML; and the same card as a page.

Belongs here: which fact stands in which element. Does not belong here: the schema, which is its publisher's
(https://mc.chai.org/v0.2/schema.xsd), and the facts.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clinical_assets.protocol import Finding
from clinical_assets.reporting.evidence.facts import (
    Evidence,
    ladder_in_words,
    monitoring_in_words,
    operating_point_in_words,
    sign_off_in_words,
)
from clinical_assets.reporting.metric_words import SILENT, describe_metric, plural_unit
from clinical_assets.reporting.pages import page_environment

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"

OF_CALIBRATION = (
    "brier",
    "calibration_slope",
    "calibration_intercept",
    "expected_calibration_error",
    "observed_expected_ratio",
)
"""Whether the risks are right, which the card counts as safety; all else overall is usefulness."""

LISTED_INPUTS = 60
"""A card that lists hundreds of columns is not read."""


class ModelCardError(ValueError):
    """A card does not follow the schema; the message names the line and the element."""


@dataclass(frozen=True, slots=True)
class Section:
    """One element of the card as the page shows it: its name, its plain entries, and the results of a key metric."""

    name: str
    entries: tuple[tuple[str, str], ...]
    results: tuple[tuple[str, str], ...] = ()


def model_card(evidence: Evidence) -> str:
    """The card as an XML document; what nobody stated is said to be missing, and what warns comes first."""
    from xml.etree.ElementTree import Element, indent, tostring

    root = Element("AppliedModelCard", xmlns=NAMESPACE)
    for build in (_basic, _release, _summary, _uses, _warnings, _trust, _key_metrics, _resources):
        root.append(build(evidence))
    references = evidence.protocol.model_card.references
    root.append(_leaf("Bibliography", "; ".join(references) or _missing("references")))
    indent(root, "  ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def model_card_page(card: str, evidence: Evidence) -> str:
    """The card as one self-contained HTML page that says exactly what the XML says."""
    from xml.etree.ElementTree import fromstring

    environment = page_environment("reporting/evidence")
    sections = [section for element in fromstring(card) for section in _sections(element)]
    return environment.get_template("model_card.html").render(
        title=evidence.protocol.title,
        version=evidence.version,
        caution=evidence.caution,
        created_at=evidence.created_at,
        sections=sections,
    )


def check_model_card(card: Path, schema: Path) -> None:
    """Raise ModelCardError where a card does not follow a schema that is kept on this machine; nothing is fetched.

    The schema's import of XML signatures is answered by an empty one: our cards carry none.
    """
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    class _NothingFetched(etree.Resolver):
        def resolve(self, system_url: str, public_id: str, context: object) -> object:
            if system_url and Path(system_url.removeprefix("file://")) == schema:
                return None
            return self.resolve_string(XML_SIGNATURE_STANDIN, context)

    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(_NothingFetched())
    try:
        rules = etree.XMLSchema(etree.parse(str(schema), parser))
        rules.assertValid(etree.parse(str(card), etree.XMLParser(no_network=True, resolve_entities=False)))
    except (OSError, etree.LxmlError) as error:
        raise ModelCardError(f"{card}, against {schema}: {error}") from error


XML_SIGNATURE_STANDIN = """\
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="http://www.w3.org/2000/09/xmldsig#">
  <xs:element name="Signature"/>
</xs:schema>
"""


def _basic(evidence: Evidence) -> "Element":
    card = evidence.protocol.model_card
    return _element(
        "BasicInfo",
        _leaf("ModelName", f"{evidence.protocol.title} ({evidence.version.model})"),
        _leaf("ModelDeveloper", card.developer or _missing("developer")),
        _leaf("DeveloperContact", card.contact or _missing("contact")),
    )


def _release(evidence: Evidence) -> "Element":
    card, version = evidence.protocol.model_card, evidence.version
    return _element(
        "ReleaseInfo",
        _leaf("ReleaseStage", f"Candidate, {evidence.protocol.environment}; {evidence.limits_in_words}"),
        _leaf("ReleaseDate", f"Not released when this card was written, {evidence.created_at:%d %B %Y}"),
        _leaf("ReleaseVersion", f"{version.version}, sha256 {version.artefact_sha256}"),
        _leaf("GlobalAvailability", card.availability or _missing("availability")),
        _leaf("RegulatoryApproval", card.regulatory_status or _missing("regulatory_status")),
    )


def _summary(evidence: Evidence) -> "Element":
    words = " ".join(filter(None, (evidence.caution, evidence.protocol.intended_use.strip())))
    keywords = _element("Keywords", *(_leaf("Keyword", word) for word in evidence.protocol.model_card.keywords))
    return _element("ModelSummary", _leaf("Summary", words), keywords)


def _uses(evidence: Evidence) -> "Element":
    card = evidence.protocol.model_card
    return _element(
        "UsesAndDirections",
        _leaf("IntendedUseAndWorkflow", evidence.protocol.intended_use.strip()),
        _leaf("PrimaryIntendedUsers", card.intended_users or _missing("intended_users")),
        _leaf("HowToUse", card.how_to_use or _missing("how_to_use")),
        _leaf("TargetedPatientPopulation", card.population or _missing("population")),
        _leaf("CautionedOutOfScopeSettings", card.out_of_scope or _missing("out_of_scope")),
    )


def _warnings(evidence: Evidence) -> "Element":
    card = evidence.protocol.model_card
    risks = " ".join(filter(None, (evidence.caution, card.limitations or _missing("limitations"))))
    return _element(
        "Warnings",
        _leaf("KnownRisksAndLimitations", risks),
        _leaf("KnownBiasesOrEthicalConsiderations", card.biases or _missing("biases")),
        _leaf("ClinicalRiskLevel", card.risk_level or _missing("risk_level")),
    )


def _trust(evidence: Evidence) -> "Element":
    protocol, card = evidence.protocol, evidence.protocol.model_card
    outcome, unit = protocol.outcome, plural_unit(protocol)
    names = ", ".join(list(evidence.inputs)[:LISTED_INPUTS])
    more = ", and others; all are told in tripod_ai.json, item 9b" if len(evidence.inputs) > LISTED_INPUTS else ""
    inputs = f"Input: {len(evidence.inputs)} columns ({names}{more}). Output: a probability from 0 to 1"
    maintained = (
        f"Retrained {protocol.retraining.cadence}; in between, {ladder_in_words(protocol)}. "
        f"{monitoring_in_words(protocol)}. Each version is {sign_off_in_words(protocol)}."
    )
    return _element(
        "TrustIngredients",
        _element(
            "AISystemFacts",
            _leaf("OutcomesAndOutputs", f"{outcome.column}; {operating_point_in_words(protocol, evidence.version)}"),
            _leaf("ModelType", f"{protocol.estimator.rpartition('.')[2]} ({protocol.estimator})"),
            _leaf("InputDataSource", evidence.archive_in_words),
            _leaf("OutputAndInputDataTypes", inputs),
            _leaf("DevelopmentDataCharacterization", f"{unit.capitalize()}: {evidence.candidate.cohort_in_words}"),
            _leaf("BiasMitigationApproaches", card.fairness_approach or _missing("fairness_approach")),
            _leaf("OngoingMaintenance", maintained),
            _leaf(
                "Security",
                "Files without pickle, bound by sha256 to the protocol, the report and its signatures; data files "
                "encrypted at rest; software listed in bom.cdx.json",
            ),
            _leaf("Transparency", f"Protocol sha256 {evidence.version.protocol_sha256}; evidence beside this card"),
        ),
        _element(
            "TransparencyInformation",
            _leaf("FundingSource", card.funding or _missing("funding")),
            _leaf("ThirdPartyInformation", card.third_parties or _missing("third_parties")),
            _leaf("StakeholdersConsulted", card.stakeholders or _missing("stakeholders")),
        ),
    )


def _key_metrics(evidence: Evidence) -> "Element":
    facts = evidence.candidate
    overall = [x for x in facts.on_test_rows if x.subgroup == "overall"]
    safety = [x for x in overall if x.metric in OF_CALIBRATION] + facts.starting(SILENT)
    useful = [x for x in overall if x.metric not in OF_CALIBRATION]
    return _element(
        "KeyMetrics",
        _metric(
            "UsefulnessUsabilityEfficacy",
            "That it finds those with the outcome at the operating point",
            useful,
            evidence,
        ),
        _metric("FairnessEquity", "That it serves every group of patients", evidence.subgroup_findings, evidence),
        _metric("SafetyReliability", "That its risks are right, and stay so", safety, evidence),
    )


def _metric(name: str, goal: str, findings: Sequence[Finding], evidence: Evidence) -> "Element":
    protocol = evidence.protocol
    limits = "; ".join(
        f"{describe_metric(x.metric, protocol).name} {x.in_words()}"
        for x in protocol.limits
        if x.metric in {finding.metric for finding in findings}
    )
    results = [_result(x, evidence) for x in findings]
    nothing = _element(
        "MetricResult", _leaf("Label", "None measured"), _leaf("ValueJson", json.dumps({"kind": "none"}))
    )
    return _element(
        name,
        _leaf("MetricGoal", f"{goal}. Limits of the protocol: {limits or 'none'}"),
        _element("Results", *(results or [nothing])),
        _leaf("Interpretation", f"On data of origin {evidence.version.data_origin}: {evidence.limits_in_words}"),
        _leaf("TestType", "Retrospective, on patients held out; 95 % intervals by bootstrap over patients"),
        _leaf(
            "TestingDataDescription",
            f"Data origin {evidence.version.data_origin}; {evidence.candidate.cohort_in_words}",
        ),
        _leaf(
            "ValidationProcessAndJustification",
            "Each patient belongs to one split in every version; test rows are those of the last "
            f"{protocol.evaluation_months} months. No external validation is kept with the version",
        ),
    )


def _result(finding: Finding, evidence: Evidence) -> "Element":
    name = describe_metric(finding.metric, evidence.protocol).name
    place = "" if finding.subgroup == "overall" else f", {finding.subgroup.replace('=', ' ')}"
    silent = "Silent months: " if finding.metric.startswith(SILENT) else ""
    return _element(
        "MetricResult",
        _leaf("Label", f"{silent}{name}{place}"),
        _leaf("ValueJson", json.dumps(_value(finding, evidence))),
    )


def _value(finding: Finding, evidence: Evidence) -> dict[str, str | float | int | None]:
    if evidence.candidate.hides(finding):
        return {"kind": "single", "value": None, "why": "not shown, to protect a small group"}
    if finding.value is None:
        return {"kind": "single", "value": None, "why": "undefined"}
    if finding.low is None or finding.high is None:
        return {"kind": "single", "value": round(finding.value, 6), "n": finding.n}
    bounds = {"lower": round(finding.low, 6), "upper": round(finding.high, 6), "level": 95}
    return {"kind": "estimate_ci", "estimate": round(finding.value, 6), **bounds, "n": finding.n}


def _resources(evidence: Evidence) -> "Element":
    card = evidence.protocol.model_card
    return _element(
        "Resources",
        _leaf("EvaluationReferences", "The validation report beside this evidence; its hash is signed"),
        _leaf("PeerReviewedPublications", "; ".join(card.references) or _missing("references")),
        _leaf("PatientConsentOrDisclosure", card.patient_disclosure or _missing("patient_disclosure")),
    )


def _missing(field: str) -> str:
    return f"Not available: the protocol's model_card does not state {field}"


def _leaf(name: str, text: str) -> "Element":
    from xml.etree.ElementTree import Element

    leaf = Element(name)
    leaf.text = text
    return leaf


def _element(name: str, *children: "Element") -> "Element":
    from xml.etree.ElementTree import Element

    element = Element(name)
    element.extend(children)
    return element


def _sections(element: "Element") -> list[Section]:
    name = _name(element)
    if not len(element):
        return [Section(_spaced(name), (("", element.text or ""),))]
    if any(len(child) and _name(child) not in ("Keywords", "Results") for child in element):
        return [section for child in element for section in _sections(child)]
    entries, results = [], []
    for child in element:
        if _name(child) == "Results":
            results = [(result[0].text or "", _in_words(result[1].text or "{}")) for result in child]
        else:
            text = ", ".join(word.text or "" for word in child) if len(child) else child.text or ""
            entries.append((_spaced(_name(child)), text))
    return [Section(_spaced(name), tuple(entries), tuple(results))]


def _in_words(value: str) -> str:
    told = json.loads(value)
    if told["kind"] == "estimate_ci":
        return f"{told['estimate']:.3f} ({told['lower']:.3f} to {told['upper']:.3f}), n {told['n']:,}"
    if told.get("value") is None:
        return told.get("why", "–")
    return f"{told['value']:.3f}, n {told['n']:,}"


def _name(element: "Element") -> str:
    return element.tag.rpartition("}")[2]


def _spaced(name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).split()
    return " ".join([words[0], *(word if word.isupper() else word.lower() for word in words[1:])])
