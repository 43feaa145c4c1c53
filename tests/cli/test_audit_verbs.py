import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clinical_assets.cli import app
from clinical_assets.governance.audit_trail import AuditTrail, person_at_terminal
from clinical_assets.governance.audit_verification import read_records
from clinical_assets.governance.platform_key import public_key
from clinical_assets.resources.home import Home


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditTrail:
    """The trail of a home in which two months of a model arrived and a release was refused."""
    monkeypatch.setenv("CLINICAL_HOME", str(tmp_path / "home"))
    home = Home.from_environment()
    home.prepare()
    trail = AuditTrail(home.audit)
    for month in ("2025-01", "2025-02"):
        trail.record("materialise", actor="run:a1", target=f"toy/features [{month}]", snapshot=3, details={"rows": 5})
    trail.record("release_refused", actor="run:b2", target="toy/v1", outcome="failure", reason="one signature of two")
    return trail


def clinical(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_list_shows_the_newest_records_and_filters_them(trail: AuditTrail) -> None:
    shown = clinical("audit", "list")
    assert shown.exit_code == 0
    for word in ("toy/features [2025-02]", "release_refused (failed)", "one signature of two", "not verified"):
        assert word in " ".join(shown.stdout.split())

    def numbers(*arguments: str) -> list[int]:
        return [record["number"] for record in json.loads(clinical("audit", "list", "--json", *arguments).stdout)]

    assert numbers() == [1, 2, 3]
    assert numbers("--last", "1") == [3]
    assert numbers("--action", "materialise") == [1, 2]
    assert numbers("--target", "toy/v1") == [3]
    assert numbers("--since", "2000-01-01") == [1, 2, 3]
    assert numbers("--since", "2999-01-01") == []


def test_verify_says_that_a_trail_is_whole_and_names_the_first_record_that_is_not(trail: AuditTrail) -> None:
    whole = clinical("audit", "verify")
    assert whole.exit_code == 0
    assert "is whole" in whole.stdout
    trail.path.write_bytes(trail.path.read_bytes().replace(b"2025-02", b"2025-03"))

    broken = clinical("audit", "verify")
    assert broken.exit_code == 1
    assert broken.stdout == ""
    [line] = broken.stderr.splitlines()
    assert line.startswith(f"clinical: {trail.path} is not whole: record 2: it was changed or inserted")
    told = clinical("audit", "verify", "--json")
    assert told.exit_code == 1
    assert (json.loads(told.stdout)["is_whole"], json.loads(told.stdout)["fault"]["record"]) == (False, 2)


def test_a_checkpoint_can_be_noted_down_and_held_against_the_trail_later(trail: AuditTrail) -> None:
    seal = json.loads(clinical("audit", "checkpoint", "--json").stdout)
    noted = ("--anchor", f"{seal['records']}:{seal['sha256']}", "--public-key", public_key(trail.keys))
    assert clinical("audit", "verify", *noted).exit_code == 0
    printed = clinical("audit", "checkpoint").stdout
    assert f"public key: {public_key(trail.keys)}" in printed

    refused = clinical("audit", "verify", "--anchor", f"3:{'0' * 64}")
    assert refused.exit_code == 1
    assert "record 3: it is not the record that the anchor knows by this number" in refused.stderr


def test_an_export_is_refused_where_the_trail_is_not_whole(trail: AuditTrail, tmp_path: Path) -> None:
    done = clinical("audit", "export", "--format", "ocsf", "--out", str(tmp_path / "events.jsonl"), "--json")
    assert (done.exit_code, json.loads(done.stdout)["events"]) == (0, 3)
    trail.path.write_bytes(trail.path.read_bytes()[:-1])

    refused = clinical("audit", "export", "--out", str(tmp_path / "later.jsonl"))
    assert refused.exit_code == 1
    assert not (tmp_path / "later.jsonl").exists()
    nowhere = clinical("audit", "export", "--out", str(tmp_path / "none" / "events.jsonl"))
    assert nowhere.exit_code == 1


def test_shipping_to_nobody_ends_with_one_line_and_wrong_usage_with_two(trail: AuditTrail) -> None:
    refused = clinical("audit", "ship", "--syslog", "192.0.2.1:514")
    assert refused.exit_code == 1
    assert "over TLS alone" in refused.stderr
    assert clinical("audit", "ship").exit_code == 2


def test_a_verb_that_changes_something_is_recorded_when_it_is_refused(trail: AuditTrail) -> None:
    refused = clinical("keys", "revoke", "nobody", "--reason", "left", "--yes")
    assert refused.exit_code == 1

    record = list(read_records(trail))[-1]
    assert (record.action, record.outcome, record.actor) == ("refused", "failure", person_at_terminal())
    assert (record.target, f"clinical: {record.reason}") == ("clinical keys revoke", refused.stderr.strip())


def test_a_verb_that_only_looks_is_not(trail: AuditTrail) -> None:
    before = trail.path.read_bytes()
    assert clinical("audit", "verify", "--anchor", "x").exit_code == 1
    assert clinical("audit", "list", "--action", "none").exit_code == 0

    assert trail.path.read_bytes() == before


def test_where_the_trail_is_damaged_no_verb_that_changes_something_passes(trail: AuditTrail) -> None:
    trail.head_path.unlink()

    refused = clinical("keys", "revoke", "nobody", "--reason", "left", "--yes")
    assert refused.exit_code == 1
    assert "head.json is missing beside 3 records" in refused.stderr
