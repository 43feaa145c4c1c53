import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import polars as pl
import pytest

from clinical_assets.learning.recipe import Environment
from clinical_assets.protocol import (
    ArchivePin,
    Finding,
    ModelCard,
    ModelProtocol,
    Repair,
    protocol_names,
    read_protocol,
)
from clinical_assets.reporting.evidence.bill_of_materials import bill_of_materials
from clinical_assets.reporting.evidence.change_plan import change_plan
from clinical_assets.reporting.evidence.checklist import Answer, Checklist
from clinical_assets.reporting.evidence.difference import difference_in_words
from clinical_assets.reporting.evidence.facts import Evidence, VersionFacts
from clinical_assets.reporting.evidence.model_card import (
    NAMESPACE,
    ModelCardError,
    check_model_card,
    model_card,
    model_card_page,
)
from clinical_assets.reporting.evidence.pack import INDEX, EvidenceError, evidence_documents, read_evidence
from clinical_assets.reporting.evidence.source_attributes import source_attributes
from clinical_assets.reporting.evidence.tripod_ai import tripod_ai
from clinical_assets.reporting.validation_report import ValidationReport

SCHEMA = Path(__file__).parents[3] / "shared" / "reference" / "chai" / "schema.xsd"
INSTALLED = Environment("3.11.7", "Linux x86_64", "1", {"clinical-assets": "0.1.0", "polars": "2.1.0", "typer": "0.16"})

# 45 CFR 170.315(b)(11)(iv)(B), and Collins et al. 2024: how many parts each group or item has.
ATTRIBUTES = {1: 4, 2: 4, 3: 2, 4: 4, 5: 2, 6: 4, 7: 5, 8: 4, 9: 2}
ITEMS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc"}
ROMAN = ("i", "ii", "iii", "iv", "v")


def cohort(events: int = 4_400) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "split": ["train", "calibrate", "test"],
            "rows": [40_000, 9_000, 3_000],
            "patients": [29_000, 7_000, 2_000],
            "events": [events, 990, 330],
            "first_month": [date(2024, 1, 1)] * 3,
            "last_month": [date(2024, 12, 1)] * 3,
        }
    )


@pytest.fixture(scope="module")
def evidence(report: ValidationReport) -> Evidence:
    return Evidence(
        candidate=VersionFacts(report.protocol, report.version, report.findings, cohort()),
        judged=report.judged,
        inputs={"age_years": "Age at admission", "sex": "Sex as recorded", "stay_days": "Length of stay"},
        made_by=Repair.RETRAIN,
        environment=INSTALLED,
        created_at=datetime(2025, 7, 3, 9, 30, tzinfo=UTC),
    )


@pytest.fixture(scope="module")
def under(evidence: Evidence) -> Callable[[ModelProtocol], Evidence]:
    """The same evidence under another protocol."""
    return lambda protocol: replace(evidence, candidate=replace(evidence.candidate, protocol=protocol))


@pytest.fixture
def pack(evidence: Evidence, tmp_path: Path) -> Path:
    for name, text in evidence_documents(evidence).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def texts(root: Element) -> dict[str, str]:
    return {element.tag.removeprefix(f"{{{NAMESPACE}}}"): element.text or "" for element in root.iter()}


def uncarded(protocol: ModelProtocol) -> ModelProtocol:
    return protocol.model_copy(update={"model_card": ModelCard()})


@pytest.fixture(scope="session")
def chai_schema() -> Path:
    if not SCHEMA.is_file():
        pytest.skip("CHAI's schema is not in the project, by its licence; it is not beside it either")
    return SCHEMA


@pytest.mark.parametrize("model", protocol_names())
def test_the_card_follows_chai_s_schema(
    under: Callable[[ModelProtocol], Evidence], chai_schema: Path, tmp_path: Path, model: str
) -> None:
    card = tmp_path / "card.xml"
    for protocol in (read_protocol(model), uncarded(read_protocol(model))):
        card.write_text(model_card(under(protocol)))
        check_model_card(card, chai_schema)


def test_a_card_that_lacks_an_element_is_refused_by_name(evidence: Evidence, chai_schema: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.xml"
    card.write_text(
        model_card(evidence).replace("<HowToUse>", "<HowNotToUse>").replace("</HowToUse>", "</HowNotToUse>")
    )
    with pytest.raises(ModelCardError, match="HowNotToUse"):
        check_model_card(card, chai_schema)


def test_a_schema_that_is_none_is_refused(pack: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "schema.xsd"
    with pytest.raises(ModelCardError, match=r"schema\.xsd"):
        check_model_card(pack / "model_card.xml", nothing)
    nothing.write_text("no schema")
    with pytest.raises(ModelCardError, match=r"schema\.xsd"):
        check_model_card(pack / "model_card.xml", nothing)


def test_the_card_has_the_measured_figures_with_their_intervals(evidence: Evidence) -> None:
    auroc = evidence.candidate.finding("auroc")
    assert auroc is not None and auroc.value is not None and auroc.low is not None
    values = [json.loads(text) for text in texts_of(model_card(evidence), "ValueJson")]
    assert {"estimate": round(auroc.value, 6), "lower": round(auroc.low, 6), "n": auroc.n}.items() <= values[0].items()
    page = model_card_page(model_card(evidence), evidence)
    assert f"{auroc.value:.3f}" in page


def texts_of(card: str, tag: str) -> list[str]:
    return [element.text or "" for element in fromstring(card).iter(f"{{{NAMESPACE}}}{tag}")]


def test_simulated_data_and_a_demonstration_are_named_in_every_document(evidence: Evidence) -> None:
    simulated = replace(evidence.version, data_origin="simulated")
    documents = evidence_documents(replace(evidence, candidate=replace(evidence.candidate, version=simulated)))
    for name in set(documents) - {"bom.cdx.json", "protocol.json"}:
        assert "SIMULATED DATA" in documents[name], name
        assert "DEMONSTRATION" in documents[name], name


def test_what_nobody_stated_is_missing_and_not_made_up(
    evidence: Evidence, under: Callable[[ModelProtocol], Evidence]
) -> None:
    bare = under(uncarded(evidence.protocol))
    stated = texts(fromstring(model_card(bare)))
    for element, field in {"ModelDeveloper": "developer", "FundingSource": "funding", "HowToUse": "how_to_use"}.items():
        assert stated[element] == f"Not available: the protocol's model_card does not state {field}"
    assert source_attributes(bare).filled < source_attributes(evidence).filled
    assert tripod_ai(bare).filled < tripod_ai(evidence).filled


def test_all_31_attributes_are_asked_each_by_its_paragraph(evidence: Evidence) -> None:
    asked = [f"({group})({numeral})" for group, parts in ATTRIBUTES.items() for numeral in ROMAN[:parts]]
    assert [item.reference for item in source_attributes(evidence).answers] == asked
    assert len(asked) == 31


def test_all_27_items_of_tripod_ai_are_asked_in_their_52_parts(evidence: Evidence) -> None:
    asked = [f"{item}{part}" for item in range(1, 28) for part in ITEMS.get(item, ("",))]
    assert sorted(item.reference for item in tripod_ai(evidence).answers) == sorted(asked)
    assert len(asked) == 52


def test_an_answer_is_given_or_it_is_said_why_not() -> None:
    with pytest.raises(ValueError, match=r"8b: give an answer, or why there is none"):
        Answer("8b", "Methods", "Who assessed it", None)
    with pytest.raises(ValueError, match="8b"):
        Answer("8b", "Methods", "Who assessed it", "two readers", "it is not known")


def test_a_list_counts_what_is_filled() -> None:
    half = Checklist("A", "B", "", (Answer("1", "s", "a?", "yes"), Answer("2", "s", "b?", None, "nobody knows")))
    assert json.loads(half.to_json())["filled"] == 1
    assert "1 of 2 are filled" in half.to_markdown()
    assert "*not available: nobody knows*" in half.to_markdown()


def test_a_group_by_camera_is_no_demographic_group(evidence: Evidence) -> None:
    by_camera = [replace(x, subgroup=x.subgroup.replace("sex=", "camera=")) for x in evidence.candidate.findings]
    kept = [x for x in by_camera if x.subgroup == "overall" or x.subgroup.startswith("camera=")]
    cameras = replace(evidence, candidate=replace(evidence.candidate, findings=kept))
    answers = {item.reference: item for item in source_attributes(cameras).answers}
    assert answers["(4)(iii)"].answer is None
    assert answers["(4)(ii)"].answer is not None and "sex: sex" in answers["(4)(ii)"].answer
    assert {item.reference: item for item in source_attributes(evidence).answers}["(4)(iii)"].answer is not None


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({"retraining": {"cadence": "yearly", "cool_down_days": 11}}, ("yearly", "11 days")),
        ({"operating_point": {"alerted_fraction": 0.37}}, ("37%",)),
        ({"acceptance": [{"metric": "brier", "at_most": 0.123}]}, ("Brier score at most 0.123",)),
        ({"sign_off": {"roles": ["physicist"], "valid_days": 19}}, ("physicist", "19 days")),
        ({"silent_months": 4}, ("4 months in silence",)),
    ],
)
def test_the_change_plan_says_what_the_protocol_says(
    evidence: Evidence, under: Callable[[ModelProtocol], Evidence], edit: dict[str, object], told: tuple[str, ...]
) -> None:
    plan = change_plan(under(ModelProtocol.model_validate(evidence.protocol.model_dump() | edit))).to_markdown()
    for words in told:
        assert words in plan
        assert words not in change_plan(evidence).to_markdown()


def test_a_first_version_has_nothing_to_be_compared_with(evidence: Evidence) -> None:
    assert "nothing to compare with" in difference_in_words(evidence)


def test_the_difference_names_every_field_that_changed_the_data_and_the_threshold(evidence: Evidence) -> None:
    earlier_protocol = evidence.protocol.model_copy(update={"minimum_n": 4321})
    version = replace(evidence.version, version=2, threshold=0.987, artefact_sha256="b2" * 32)
    earlier = VersionFacts(earlier_protocol, version, evidence.candidate.findings, cohort(events=1_234))
    told = difference_in_words(replace(evidence, previous=earlier))
    assert "`minimum_n`: “4321” before" in told
    assert told.count("` :") == 0
    assert sum(line.startswith("- `") for line in told.splitlines()) == 1
    assert "0.987 before" in told
    assert "1,234 with the outcome" in told
    assert "its parameters or its calibration are others" in told
    assert "AUROC less that of the champion" in told


def test_a_protocol_that_was_not_kept_is_not_said_to_be_the_same(evidence: Evidence) -> None:
    version = replace(evidence.version, version=2, protocol_sha256="c3" * 32)
    earlier = replace(evidence.candidate, version=version, protocol_kept=False)
    told = difference_in_words(replace(evidence, previous=earlier))
    assert f"What differs cannot be told: protocol {'c3' * 32} was not kept" in told
    assert "No field differs" not in told


def test_no_small_count_stands_in_any_document(evidence: Evidence) -> None:
    few = [
        Finding("auroc", "overall", 0.71234, 0.6, 0.8, 3_000),
        Finding("prevalence", "overall", 0.11, 0.1, 0.12, 3_000),
        Finding("sensitivity", "sex=female", 0.98765, 0.9, 1.0, 2_993),
        Finding("sensitivity", "sex=intersex", 0.87654, 0.5, 1.0, 7),
        Finding("sensitivity", "overall", 0.5, 0.4, 0.6, 3_000),
    ]
    small = replace(evidence, candidate=replace(evidence.candidate, findings=few, cohort=cohort(events=9)))
    for name, text in evidence_documents(small).items():
        assert "0.876" not in text and "87.7 %" not in text, name
        assert "n 7" not in text and '"n": 7' not in text, name
        assert "2,993" not in text and "2993" not in text, name
        assert "9 with the outcome" not in text, name
    assert "0.712" in evidence_documents(small)["model_card.html"]


def test_the_bill_lists_every_package_once_and_is_valid_cyclonedx() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    here = Environment.here()
    bill = bill_of_materials(here)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.replace('"library"', '"librarium"')) is not None
    written = json.loads(bill)
    listed = {item["name"]: item["version"] for item in [*written["components"], written["metadata"]["component"]]}
    assert listed == {**here.packages, "python": here.python}
    assert listed["polars"] == pl.__version__
    assert len(written["components"]) == len(here.packages)


def test_equal_environments_have_equal_bills() -> None:
    from clinical_assets.reporting.evidence.bill_of_materials import _bill

    first = bill_of_materials(INSTALLED)
    _bill.cache_clear()
    assert bill_of_materials(INSTALLED) == first
    other = replace(INSTALLED, packages={**INSTALLED.packages, "polars": "2.1.1"})
    assert bill_of_materials(other) != first


def test_the_pin_of_the_archive_stands_in_the_pack_and_in_its_bill(evidence: Evidence) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    pin = ArchivePin("archives/diabetes130/dataset_diabetes.zip.dvc", "a" * 32, "b" * 64, "c" * 40)
    documents = evidence_documents(replace(evidence, archive_pin=pin))
    assert json.loads(documents[INDEX])["archive_pin"] == asdict(pin)
    for name in ("model_card.xml", "tripod_ai.json", "source_attributes.json"):
        assert pin.in_words() in documents[name], name
    bill = documents["bom.cdx.json"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    [archive] = [item for item in json.loads(bill)["components"] if item["type"] == "data"]
    assert archive["name"] == "archives/diabetes130/dataset_diabetes.zip"
    assert {item["alg"]: item["content"] for item in archive["hashes"]} == {"MD5": pin.md5, "SHA-256": pin.sha256}
    assert {"name": "clinical-assets:git-commit", "value": pin.commit} in archive["properties"]


def test_a_bill_calls_no_hash_what_is_none_of_bytes() -> None:
    pin = ArchivePin("archives/physionet2019.dvc", f"{'a' * 32}.dir", "not stated, DVC alone wrote the pin", "c" * 40)
    [archive] = [item for item in json.loads(bill_of_materials(INSTALLED, pin))["components"] if item["type"] == "data"]
    assert "hashes" not in archive
    assert {"name": "clinical-assets:pin-md5", "value": pin.md5} in archive["properties"]


def test_a_pack_as_it_was_written_is_read(pack: Path, evidence: Evidence) -> None:
    index = read_evidence(pack)
    assert index["protocol_sha256"] == evidence.version.protocol_sha256
    assert set(index["files"]) == {path.name for path in pack.iterdir()} - {INDEX}
    assert index["completeness"]["source_attributes"]["asked"] == 31


def test_one_byte_changed_one_file_gone_and_one_added_are_each_named(pack: Path) -> None:
    card = pack / "model_card.xml"
    written = card.read_bytes()
    card.write_bytes(written.replace(b"demonstration", b"Demonstration", 1))
    with pytest.raises(EvidenceError, match=r"model_card\.xml was changed"):
        read_evidence(pack)
    card.unlink()
    with pytest.raises(EvidenceError, match=r"model_card\.xml is missing"):
        read_evidence(pack)
    card.write_bytes(written)
    (pack / "praise.md").write_text("the best model")
    with pytest.raises(EvidenceError, match=r"praise\.md is not in the index"):
        read_evidence(pack)


def test_evidence_that_is_not_there_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="materialise the version's validation_report"):
        read_evidence(tmp_path)
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(EvidenceError, match="is no index"):
        read_evidence(tmp_path)


def test_the_page_fetches_nothing_and_escapes_what_it_is_told(
    evidence: Evidence, under: Callable[[ModelProtocol], Evidence]
) -> None:
    told = ModelCard(developer="<script>alert(1)</script>")
    odd = under(evidence.protocol.model_copy(update={"model_card": told}))
    page = model_card_page(model_card(odd), odd)
    assert "<script" not in page
    assert "http-equiv" not in page and "src=" not in page
