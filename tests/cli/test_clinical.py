import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clinical_assets.archives import diabetes130
from clinical_assets.archives.archive import Download
from clinical_assets.archives.diabetes130 import DIABETES130
from clinical_assets.cli import app
from clinical_assets.governance.signers import read_signers

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

VERBS = ("init", "demo", "fetch", "status", "publish", "sign", "validate", "keys", "withdraw")
MODEL = "readmission"


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home on which nothing was ever done; making its registry takes seconds, so that tests share it."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(autouse=True)
def environment(empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(empty_home))
    monkeypatch.setenv("CLINICAL_RAW", str(tmp_path / "raw"))
    for name in ("CLINICAL_SIGNER", "CLINICAL_KEY", "CLINICAL_PSEUDONYM_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def publisher_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address that the archive has in this test: bound, so that nobody else answers there, and refusing."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/dataset_diabetes.zip"
        unreachable = replace(DIABETES130, downloads=(Download(url, "dataset_diabetes.zip", ()),))
        monkeypatch.setattr(diabetes130, "DIABETES130", unreachable)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield url


def clinical(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=typed, catch_exceptions=False)


def one_line(done: Result) -> str:
    """The one line of a refusal: exit code 1, on the error stream, with nothing beside it."""
    assert done.exit_code == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("clinical: ")
    return lines[0]


def test_every_verb_says_what_it_is_for() -> None:
    overview = clinical("--help")
    assert overview.exit_code == 0
    for verb in VERBS:
        assert verb in overview.stdout
        assert clinical(verb, "--help").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("prescribe",),
        ("status", "--colour"),
        ("fetch",),
        ("demo", "--data", "invented"),
        ("validate", MODEL),
        ("validate", MODEL, "--source", "x", "--out", "y", "--version", "newest"),
        ("sign", MODEL, "1", "--role", "mlops", "--decision", "perhaps", "--reason", "x", "--signer", "x"),
        ("sign", MODEL, "1", "--role", "mlops", "--decision", "approve", "--signer", "x"),
        ("keys",),
        ("keys", "new", "ada"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert clinical(*arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("fetch", "gout"),
        ("validate", "gout", "--source", "x", "--out", "y"),
        ("sign", "gout", "1", "--role", "mlops", "--decision", "approve", "--reason", "x", "--signer", "x"),
    ],
)
def test_an_unknown_model_is_refused_with_those_that_are_known(arguments: tuple[str, ...]) -> None:
    told = one_line(clinical(*arguments))
    assert told == f"clinical: there is no model 'gout'; the models are: {MODEL}, retinopathy, sepsis"


def test_init_makes_a_home_whose_secrets_only_its_owner_can_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(tmp_path / "home"))
    done = clinical("init")
    assert (done.exit_code, done.stdout) == (0, f"ready: {tmp_path / 'home'}\n")
    for private in ("keys", "lake", "registry"):
        assert (tmp_path / "home" / private).stat().st_mode & 0o777 == 0o700
    assert "enabled: false" in (tmp_path / "home" / "dagster" / "dagster.yaml").read_text()
    assert clinical("init").exit_code == 0


def test_status_of_an_empty_home_is_that_nothing_is_live(empty_home: Path) -> None:
    done = clinical("status", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["home"], told["incidents"]) == (str(empty_home), 0)
    (state,) = [model for model in told["models"] if model["model"] == MODEL]
    assert {value for name, value in state.items() if name != "model"} == {None}
    assert set(state) >= {"champion", "newest_candidate", "months", "last_verdict", "last_ripe", "data_origin"}
    table = clinical("status")
    assert table.exit_code == 0
    assert "incidents: 0" in table.stdout


def test_there_is_nothing_to_publish_from_an_empty_home(empty_home: Path) -> None:
    told = one_line(clinical("publish"))
    assert f"nothing to publish: no table of {MODEL}" in told
    assert not (empty_home / "analytics.duckdb").exists()


def test_without_a_champion_nothing_is_validated_and_the_way_to_one_is_said(tmp_path: Path) -> None:
    told = one_line(clinical("validate", MODEL, "--source", "nowhere.zip", "--out", str(tmp_path / "out")))
    assert f"{MODEL} has no champion: train a candidate, have it signed" in told
    assert not (tmp_path / "out").exists()


def test_a_version_that_was_never_trained_can_neither_be_signed_nor_validated(tmp_path: Path) -> None:
    signing = ("--role", "mlops", "--decision", "approve", "--reason", "x", "--signer", "x")
    validating = ("--source", "nowhere.zip", "--out", str(tmp_path / "out"), "--version", "3")
    expected = f"clinical: {MODEL} has no version 3; the registry holds: none"
    assert one_line(clinical("sign", MODEL, "3", *signing)) == expected
    assert one_line(clinical("validate", MODEL, *validating)) == expected


def test_fetch_without_a_network_says_where_to_put_the_file(publisher_out_of_reach: str, tmp_path: Path) -> None:
    done = clinical("fetch", MODEL)
    told = done.stderr.strip().splitlines()[-1]
    assert done.exit_code == 1
    assert told.startswith(f"clinical: {publisher_out_of_reach} cannot be fetched (")
    assert told.endswith(f"put it at {tmp_path / 'raw' / 'diabetes130' / 'dataset_diabetes.zip'}")
    assert "CC BY 4.0" in done.stdout
    assert [path for path in (tmp_path / "raw").rglob("*") if path.is_file()] == []


def test_fetch_of_an_archive_that_is_there_only_checks_it(publisher_out_of_reach: str, tmp_path: Path) -> None:
    archive = DIABETES130.simulate(tmp_path / "raw" / "diabetes130", seed=3)
    done = clinical("fetch", MODEL, "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["path"], told["data_origin"]) == (str(archive), "simulated")
    assert len(told["sha256"]) == 64


def test_the_real_archive_is_known_as_real(raw_archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_RAW", str(raw_archives))
    done = clinical("fetch", MODEL, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["data_origin"].startswith("real:UCI")


def test_a_demonstration_on_real_data_that_cannot_be_had_is_refused(
    publisher_out_of_reach: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(tmp_path / "home"))
    done = clinical("demo", "--data", "real")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"clinical: {publisher_out_of_reach} cannot be fetched")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


def test_a_home_of_another_source_takes_no_simulated_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    chosen = {MODEL: {"path": "/elsewhere/dataset_diabetes.zip", "share_of_patients": 1.0}}
    (home / "archives.json").write_text(json.dumps(chosen))
    monkeypatch.setenv("CLINICAL_HOME", str(home))
    told = one_line(clinical("demo", "--data", "simulated"))
    assert told.startswith(f"clinical: {home} already holds {MODEL} data from /elsewhere/dataset_diabetes.zip")
    assert "choose another CLINICAL_HOME" in told
    assert json.loads((home / "archives.json").read_text()) == chosen


def test_a_key_needs_the_same_passphrase_twice(empty_home: Path, tmp_path: Path) -> None:
    done = clinical("keys", "new", "ada", "--role", "mlops", "--folder", str(tmp_path), typed="one\nother\n")
    assert done.exit_code == 1
    assert "do not match" in done.output
    assert not (tmp_path / "ada.pem").exists()
    assert "ada" not in read_signers([empty_home / "governance" / "signers.toml"])


def test_a_signer_holds_the_roles_that_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(tmp_path / "home"))
    made = clinical(
        *("keys", "new", "ada", "--role", "mlops", "--role", "clinical_lead", "--folder", str(tmp_path / "keys")),
        typed="secret\nsecret\n",
    )
    assert made.exit_code == 0
    assert "secret" not in made.output
    signer = read_signers([tmp_path / "home" / "governance" / "signers.toml"])["ada"]
    assert (signer.roles, signer.demo) == (("mlops", "clinical_lead"), False)
    assert signer.public_key in made.stdout


def test_a_key_is_never_overwritten_and_a_name_never_taken_twice(empty_home: Path, tmp_path: Path) -> None:
    (tmp_path / "grace.pem").write_text("another key")
    new_key = ("keys", "new", "grace", "--role", "mlops", "--folder")
    told = clinical(*new_key, str(tmp_path), typed="secret\nsecret\n")
    assert told.exit_code == 1
    assert "exists already; a key is never overwritten" in told.stderr
    assert (tmp_path / "grace.pem").read_text() == "another key"
    assert "grace" not in read_signers([empty_home / "governance" / "signers.toml"])

    assert clinical(*new_key, str(tmp_path / "first"), typed="secret\nsecret\n").exit_code == 0
    again = clinical(*new_key, str(tmp_path / "second"), typed="secret\nsecret\n")
    assert again.exit_code == 1
    assert "grace" in again.stderr
    assert not (tmp_path / "second" / "grace.pem").exists()


@pytest.mark.parametrize("said", ["SSN 900-12-3456 looked wrong", "call (312) 555-0143", "see jane.roe@example.org"])
def test_words_with_an_identifier_in_them_are_refused_before_they_are_kept(empty_home: Path, said: str) -> None:
    for verb in ("rollback", "withdraw"):
        told = one_line(clinical(verb, MODEL, "--reason", said))
        assert "--reason seems to hold an identifier" in told
    kept = [path for path in empty_home.rglob("*") if path.is_file() and said.encode() in path.read_bytes()]
    assert kept == []
