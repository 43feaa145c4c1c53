"""What a person at a terminal is told of what is live, and how they go back."""

import json
from typing import Any

import pytest
from small_platform import MODEL, ROLES, Developed
from typer.testing import CliRunner, Result

from clinical_assets.cli import app
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.registry import CHAMPION


@pytest.fixture
def typed(candidate: Developed, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A terminal on this home."""
    monkeypatch.setenv("CLINICAL_HOME", str(candidate.platform.home.root))
    monkeypatch.setenv("CLINICAL_RAW", str(candidate.platform.home.raw))

    def invoke(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_the_ledger_tells_what_was_live_who_approved_it_and_on_what_evidence(candidate: Developed, typed: Any) -> None:
    first, *_ = read_ledger(candidate.platform.lake, MODEL)
    told = json.loads(typed("ledger", MODEL, "--at", first.live_from.isoformat(), "--json").stdout)["live"]
    assert (told["version"], told["kind"], told["report_now"]) == (1, "release", "the file is the one that was signed")
    assert {x["signer"] for x in told["approvals"]} == {f"dr-{role}" for role in ROLES}
    shown = typed("ledger", MODEL, "--at", first.live_from.isoformat()).stdout
    assert "readmission version 1 was live" in shown
    assert "dr-mlops as mlops" in shown
    assert candidate.champion.artefact_sha256 in shown


def test_before_the_first_release_nothing_was_live(typed: Any) -> None:
    assert json.loads(typed("ledger", MODEL, "--at", "2020-01-01T02:00", "--json").stdout)["live"] is None
    assert "nothing of readmission was live" in typed("ledger", MODEL, "--at", "2020-01-01T02:00").stdout


def test_a_moment_that_is_none_is_wrong_usage(typed: Any) -> None:
    assert "write 2026-03-14T02:00" in typed("ledger", MODEL, "--at", "last night", code=2).stderr


def test_an_alias_moved_past_the_platform_is_told_by_the_ledger_and_by_status(candidate: Developed, typed: Any) -> None:
    candidate.platform.set_alias(CHAMPION, candidate.candidate)
    words = "the registry's champion of readmission is version 2, and by the ledger version 1 is live"
    assert words in typed("ledger", MODEL, code=1).stderr
    states = json.loads(typed("status", "--json").stdout)["models"]
    assert [state["live_by"] for state in states if state["model"] == MODEL] == [words]


def test_a_refused_rollback_is_one_line_and_exit_code_1(typed: Any) -> None:
    error = typed("rollback", MODEL, "--reason", "a drill", code=1).stderr
    assert error == "clinical: readmission version 1 was the first release; there is none to go back to\n"


def test_a_withdrawal_is_told_and_the_ledger_says_when_and_why_nothing_was_live(typed: Any) -> None:
    told = json.loads(typed("withdraw", MODEL, "--reason", "it did [harm]", "--json").stdout)["withdrawn"]
    assert (told["version"], told["kind"], told["reason"]) == (1, "withdrawal", "it did [harm]")
    then = ("ledger", MODEL, "--at", told["live_from"])
    answered = json.loads(typed(*then, "--json").stdout)
    assert answered["live"] is None
    assert answered["why_nothing"].startswith("version 1 was withdrawn on ")
    assert answered["why_nothing"].endswith(": it did [harm]")
    shown = " ".join(typed(*then).stdout.split())
    assert "nothing of readmission was live; version 1 was withdrawn on" in shown
    assert shown.endswith(": it did [harm]")
    assert "none (was 1)" in " ".join(typed("ledger", MODEL).stdout.split())
    error = typed("rollback", MODEL, "--reason", "needed", code=1).stderr
    assert error.endswith("nothing is live; name with --to the version to put back; released were: 1\n")
    assert "in place of nothing" in typed("rollback", MODEL, "--to", "1", "--reason", "needed").stdout


def test_a_rollback_is_told_with_its_seconds_and_status_shows_it(candidate: Developed, typed: Any) -> None:
    candidate.platform.set_alias(CHAMPION, candidate.candidate)
    told = json.loads(typed("rollback", MODEL, "--to", "1", "--reason", "put back", "--json").stdout)
    assert (told["live"]["version"], told["smoke_rows"]) == (1, 64)
    assert 0 < told["seconds_to_live"] <= told["seconds"]
    states = json.loads(typed("status", "--json").stdout)["models"]
    [state] = [state for state in states if state["model"] == MODEL]
    assert state["champion"] == 1
    assert state["live_by"].startswith("rollback of user:")
    assert state["live_by"].endswith(": put back")
    assert state["newest_candidate"] == "2 (not released)"
