import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from clinical_assets.governance.audit_trail import AuditRecord
from clinical_assets.governance.ocsf_events import EVENT_CLASSES, OCSF_VERSION, export_ocsf, ocsf_event

PACKAGE = Path(__file__).parents[2] / "clinical_assets"


@pytest.fixture(scope="module")
def schemas() -> dict[int, dict[str, Any]]:
    """The published JSON schema of each class that is used, as the package ocsf-json-schema carries it."""
    published = OcsfJsonSchemaEmbedded(get_ocsf_schema(OCSF_VERSION))
    numbers = {mapped.class_uid for mapped in EVENT_CLASSES.values()}
    return {uid: published.get_class_schema(published.lookup_class_name_from_uid(uid), []) for uid in numbers}


def a_record(action: str, **changes: Any) -> AuditRecord:
    given = {
        "number": 7,
        "at": "2026-03-14T02:00:00.123456+00:00",
        "actor": "dr-lead",
        "action": action,
        "target": "toy v1",
        "outcome": "success",
        "reason": "as the report says",
        "snapshot": 12,
        "previous_sha256": "0" * 64,
        "details": {"rows": 5, "version": None, "share": 0.5, "demo": True, "name": "ähm"},
        "signature": "0" * 128,
    }
    return AuditRecord(**{**given, **changes})


def faults_of(event: dict[str, Any], schemas: dict[int, dict[str, Any]]) -> list[str]:
    found = Draft202012Validator(schemas[event["class_uid"]]).iter_errors(event)
    return [f"{'.'.join(map(str, fault.path))}: {fault.message}" for fault in found]


@pytest.mark.parametrize("actor", ["dr-lead", "user:root", "run:a1b2", "platform"])
@pytest.mark.parametrize("outcome", ["success", "failure"])
@pytest.mark.parametrize("action", [*EVENT_CLASSES, "a_word_of_later"])
def test_the_event_of_every_action_is_valid_by_the_published_schema(
    action: str, outcome: str, actor: str, schemas: dict[int, dict[str, Any]]
) -> None:
    event = ocsf_event(a_record(action, actor=actor, outcome=outcome, reason="" if actor == "platform" else "why"))

    assert faults_of(json.loads(json.dumps(event)), schemas) == []
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("time", "yesterday"), ("severity_id", 7), ("metadata", {}), ("actor", {}), ("entity", None), ("invented", 1)],
)
def test_the_schema_does_refuse_what_is_no_event(
    attribute: str, value: object, schemas: dict[int, dict[str, Any]]
) -> None:
    assert faults_of(ocsf_event(a_record("release")) | {attribute: value}, schemas) != []


def test_an_event_says_who_did_what_when_to_what_and_how_it_ended() -> None:
    event = ocsf_event(a_record("release", outcome="failure"))

    assert event["actor"]["user"]["name"] == "dr-lead"
    assert (event["activity_name"], event["entity"]["name"], event["status_id"]) == ("release", "toy v1", 2)
    assert (event["time"], event["metadata"]["original_time"]) == (1773453600123, "2026-03-14T02:00:00.123456+00:00")
    assert (event["status_detail"], event["unmapped"]["snapshot"]) == ("as the report says", 12)
    assert ocsf_event(a_record("materialise", actor="run:a1"))["actor"] == {"app_name": "dagster", "app_uid": "a1"}


def test_every_word_that_the_platform_records_has_a_class() -> None:
    written = {
        word
        for path in PACKAGE.rglob("*.py")
        for word in re.findall(r'\.record\(\s*"([a-z_]+)"', path.read_text(encoding="utf-8"))
    }

    assert {"materialise", "publish", "refused", "run_failed"} <= written
    assert written <= set(EVENT_CLASSES)


def test_an_export_is_one_event_a_line_its_owners_alone_and_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "events.jsonl"
    assert export_ocsf([a_record("release"), a_record("sign")], out) == 2
    assert [json.loads(line)["activity_name"] for line in out.read_text().splitlines()] == ["release", "sign"]
    assert out.stat().st_mode & 0o777 == 0o600

    def broken() -> Any:
        yield a_record("rollback")
        raise RuntimeError("the trail ends here")

    before = out.read_bytes()
    with pytest.raises(RuntimeError, match="ends here"):
        export_ocsf(broken(), out)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]
