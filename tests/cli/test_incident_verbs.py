import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from clinical_assets.cli import app
from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.governance.signatures import create_key
from clinical_assets.governance.signers import Signer, add_signer
from clinical_assets.lifecycle.incidents import EVENT_TABLE, open_incident
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake

CLOSING = ("--root-cause", "a new camera", "--action", "cameras are announced")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with two signers and nothing else."""
    home = Home(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("raw"))
    home.prepare()
    for name, roles, demo in (
        ("dr-lead", ("clinical_lead", "on_call"), False),
        ("demo-lead", ("clinical_lead",), True),
    ):
        key = create_key(home.keys / f"{name}.pem", None)
        add_signer(home.signers, Signer(name, roles, key, demo=demo))
    return home


@pytest.fixture(autouse=True)
def environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(home.root))
    monkeypatch.setenv("CLINICAL_RAW", str(home.raw))
    monkeypatch.setenv("CLINICAL_SIGNER", "dr-lead")
    monkeypatch.setenv("CLINICAL_KEY", str(home.keys / "dr-lead.pem"))
    monkeypatch.delenv("CLINICAL_NOTIFIERS", raising=False)


@pytest.fixture
def lake(home: Home) -> Lake:
    return Lake(str(home.lake_catalogue), home.lake_data)


@pytest.fixture
def incident(home: Home, lake: Lake, request: pytest.FixtureRequest) -> str:
    """The name of a new incident."""
    opened = open_incident(lake, home, Breach("retinopathy", Cause.FIX_DATA, request.node.name, "a new camera"))
    assert opened is not None
    return opened.incident_id


def clinical(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["incident", *arguments], catch_exceptions=False)


def refusal(done: Result) -> str:
    assert done.exit_code == 1
    [line] = [line for line in done.stderr.splitlines() if line.strip()]
    return line


def test_an_incident_is_acknowledged_mitigated_and_closed_and_each_change_is_signed(incident: str) -> None:
    assert clinical("ack", incident, "--text", "I ask the clinic").exit_code == 0
    assert clinical("mitigate", incident, "--text", "the old camera is used", "--role", "on_call").exit_code == 0
    assert "it is closed" in clinical("close", incident, *CLOSING).stdout
    told = json.loads(clinical("show", incident, "--json").stdout)
    assert [event["event"] for event in told["events"]] == ["opened", "acknowledged", "mitigated", "closed"]
    assert [event["role"] for event in told["events"][1:]] == ["clinical_lead", "on_call", "clinical_lead"]
    assert told["signatures"] == "4 events, each signed, the chain unbroken."
    assert Path(told["page"]).is_file()
    shown = clinical("show", incident).stdout
    assert "root cause: a new camera" in shown
    assert "action: cameras are announced" in shown


@pytest.mark.parametrize("given", [(), CLOSING[:2], CLOSING[2:]])
def test_closing_without_root_cause_or_action_is_refused(incident: str, given: tuple[str, ...]) -> None:
    assert "closing needs a root cause and an action" in refusal(clinical("close", incident, *given))
    assert json.loads(clinical("show", incident, "--json").stdout)["incident"]["state"] == "open"


def test_open_incidents_are_listed_and_closed_ones_on_demand(incident: str) -> None:
    assert incident in clinical("list").stdout
    clinical("close", incident, *CLOSING)
    assert incident not in clinical("list").stdout
    assert incident in [x["incident_id"] for x in json.loads(clinical("list", "--all", "--json").stdout)]
    assert json.loads(clinical("list", "--model", "nobody", "--json").stdout) == []


def test_a_key_that_is_not_the_signer_s_is_refused(incident: str, home: Home) -> None:
    other = str(home.keys / "demo-lead.pem")
    line = refusal(clinical("ack", incident, "--text", "mine", "--key", other))
    assert "is not the key that stands for dr-lead in the signers file" in line
    assert json.loads(clinical("show", incident, "--json").stdout)["incident"]["state"] == "open"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--signer", "nobody"), "nobody is in none of"),
        (("--role", "privacy_officer"), "dr-lead does not hold the role privacy_officer"),
    ],
)
def test_who_may_not_act_is_refused(incident: str, given: tuple[str, ...], told: str) -> None:
    assert told in refusal(clinical("ack", incident, "--text", "mine", *given))


def test_an_incident_that_does_not_exist_is_named() -> None:
    assert "there is no incident 000000000000" in refusal(clinical("show", "000000000000"))
    assert "there is no incident 000000000000" in refusal(clinical("close", "000000000000", *CLOSING))


def test_a_demonstration_signer_is_marked(incident: str, home: Home) -> None:
    key = str(home.keys / "demo-lead.pem")
    done = clinical("ack", incident, "--text", "mine", "--signer", "demo-lead", "--key", key)
    assert "demo-lead as clinical lead, a demonstration signer" in done.stdout


def test_a_chain_that_was_tampered_with_is_shown_and_ends_with_exit_code_1(incident: str, lake: Lake) -> None:
    table = lake.read(EVENT_TABLE)
    edited = table.with_columns(
        text=pl.when(pl.col("incident_id") == incident).then(pl.lit("all is well")).otherwise("text")
    )
    lake.write_table(EVENT_TABLE, edited, author="mallory", message="")
    assert "event 1 is not to be trusted" in refusal(clinical("show", incident))
    lake.write_table(EVENT_TABLE, table, author="test", message="")


@pytest.fixture
def settings(home: Home) -> Iterator[Path]:
    yield home.notifiers
    home.notifiers.unlink(missing_ok=True)


def test_a_refused_delivery_is_told_and_nothing_is_lost(incident: str, settings: Path) -> None:
    settings.write_text('[webhook.pager]\nurl = "http://127.0.0.1:1/"\n')
    assert f"{incident}-0001: webhook.pager: 127.0.0.1: ConnectionRefusedError" in refusal(clinical("notify"))
    settings.unlink()
    assert "every notice is kept in" in clinical("notify").stdout
