"""What people typed is shown as they typed it: brackets are no markup."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clinical_assets.cli import app
from clinical_assets.cli import ledger as ledger_verbs
from clinical_assets.cli import platform as platform_verbs
from clinical_assets.governance.ledger import FIRST, Approval, LedgerEntry, LedgerKind
from clinical_assets.resources.home import Home

REASON = "beds [ward] moved [/ward 3]"
WHEN = datetime(2026, 3, 14, 2, tzinfo=UTC)
ENTRY = LedgerEntry(
    model="toy",
    number=1,
    live_from=WHEN,
    kind=LedgerKind.RELEASE,
    version=1,
    previous_version=None,
    reason=REASON,
    actor="user:ann",
    run_id="",
    artefact_sha256="a" * 64,
    report_sha256="b" * 64,
    protocol_sha256="c" * 64,
    smoke_sha256="",
    limits=3,
    approvals=(Approval("[ann]", "mlops", "2026-03-14T01:00:00+00:00", False),),
    training_set_snapshot=7,
    trained_through=date(2026, 2, 1),
    data_origin="simulated",
    previous_sha256=FIRST,
)


def in_one_line(shown: str) -> str:
    return " ".join(shown.replace("│", " ").split())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CLINICAL_HOME", str(tmp_path))
    monkeypatch.setattr(ledger_verbs.console, "_width", 300)
    return Home(tmp_path, tmp_path / "raw")


def test_the_ledger_shows_a_reason_with_brackets_whole(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    ledger_verbs.show_all("toy", [ENTRY, replace(ENTRY, number=2)])
    ledger_verbs.show_one(home, ENTRY, WHEN)
    shown = in_one_line(capsys.readouterr().out)
    assert shown.count(REASON) == 3
    assert shown.count("[ann] as mlops") == 3


def test_status_shows_a_reason_with_brackets_whole(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_verbs, "model_state", lambda *_: {"model": "toy", "live_by": REASON})
    assert CliRunner().invoke(app, ["init"], catch_exceptions=False).exit_code == 0
    done = CliRunner().invoke(app, ["status"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "[/ward 3]" in in_one_line(done.stdout)
