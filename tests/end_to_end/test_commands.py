import json
from pathlib import Path

import duckdb
import pytest
from replayed_home import DRIFTED, MODEL, PASSPHRASE, ReplayedHome, clinical

from clinical_assets.governance.signatures import SignatureError, Statement, read_signatures, sign
from clinical_assets.governance.signers import read_signers

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(autouse=True)
def home(replayed: ReplayedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(replayed.home.root))


def sign_as(role: str, signer: str, version: str = "2") -> str:
    """What `sign` says that must be refused in one line, before anything is asked."""
    done = clinical(
        *("sign", MODEL, version, "--role", role, "--decision", "approve", "--reason", "x", "--signer", signer)
    )
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_status_says_what_is_live_what_waits_and_what_the_last_month_said(replayed: ReplayedHome) -> None:
    done = clinical("status", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    (model,) = [state for state in told["models"] if state["model"] == MODEL]
    assert told["home"] == str(replayed.home.root)
    assert told["incidents"] >= 1
    champion = replayed.registry.champion(MODEL)
    assert model["champion"] == champion.version
    assert model["trained_through"] == f"{champion.trained_through:%Y-%m}"
    assert model["months"] == f"2024-01 to {DRIFTED:%Y-%m}"
    assert model["last_verdict"] == f"{DRIFTED:%Y-%m} population_shift"
    assert model["data_origin"] == "simulated"


def test_status_is_a_table_for_people() -> None:
    done = clinical("status")
    assert done.exit_code == 0
    assert MODEL in done.stdout
    assert "incidents: " in done.stdout


def test_publish_shows_what_the_lake_holds_and_leaves_a_file_that_does(replayed: ReplayedHome) -> None:
    done = clinical("publish", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["path"] == str(replayed.home.analytics)
    shown = replayed.home.analytics.stat().st_ino
    assert not json.loads(clinical("publish", "--json").stdout)["is_new"]
    assert replayed.home.analytics.stat().st_ino == shown
    names = replayed.lake.tables()
    with duckdb.connect(replayed.home.analytics, read_only=True) as analyst:
        rows = sum(analyst.table(name).count("*").fetchall()[0][0] for name in names)
    assert (told["tables"], told["rows"]) == (len(names), rows)


def test_sign_shows_every_limit_with_what_was_measured_before_it_asks(replayed: ReplayedHome) -> None:
    shown, _, asked = replayed.declined.stdout.partition("The whole report: ")
    assert "Readmission within 30 days, version 1 (simulated): meets every limit" in " ".join(shown.split())
    for metric in ("AUROC", "Observed / expected", "Expected calibration"):
        assert metric in shown
    assert "approve readmission version 1 as mlops, as mlops_of_the_house?" in " ".join(asked.split())


def test_who_says_no_when_asked_has_not_signed(replayed: ReplayedHome) -> None:
    assert replayed.declined.exit_code == 1
    assert replayed.declined.stderr == "clinical: not signed\n"
    assert replayed.first_signature.exit_code == 0
    assert len(read_signatures(replayed.home.sign_offs, MODEL, 1)) == len(replayed.protocol.sign_off.roles)


def test_a_role_that_the_protocol_does_not_know_cannot_sign() -> None:
    told = sign_as("surgeon", "mlops_of_the_house")
    assert "readmission is signed by mlops, clinical_lead; surgeon is none of them" in told


def test_an_unknown_signer_cannot_sign() -> None:
    assert "nobody is in none of" in sign_as("mlops", "nobody")


def test_nobody_signs_in_a_role_of_another() -> None:
    assert "mlops_of_the_house does not hold the role clinical_lead" in sign_as("clinical_lead", "mlops_of_the_house")


def test_a_version_that_is_not_there_cannot_be_signed() -> None:
    assert "readmission has no version 7; the registry holds: 1, 2" in sign_as("mlops", "mlops_of_the_house", "7")


def test_a_new_key_is_locked_and_its_owner_alone_may_read_it(replayed: ReplayedHome) -> None:
    key = replayed.home.root.parent / "keys" / "mlops_of_the_house.pem"
    statement = Statement(
        MODEL, 1, "", "", "", "approve", "", "mlops", "mlops_of_the_house", "2025-01-01T00:00:00+00:00"
    )
    assert all(made.exit_code == 0 for made in replayed.keys_made)
    assert key.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in key.read_bytes()
    with pytest.raises(SignatureError, match="wrong or missing passphrase"):
        sign(statement, key, None)
    with pytest.raises(SignatureError, match="wrong or missing passphrase"):
        sign(statement, key, "another passphrase")
    assert sign(statement, key, PASSPHRASE).statement == statement


def test_who_makes_a_key_is_a_signer_of_the_home_and_no_demonstration(replayed: ReplayedHome) -> None:
    signer = read_signers([replayed.home.signers])["clinical_lead_of_the_house"]
    assert (signer.roles, signer.demo) == (("clinical_lead",), False)


def test_a_home_fed_from_one_archive_takes_no_other(replayed: ReplayedHome, tmp_path: Path) -> None:
    chosen = replayed.home.source.read_text()
    other = tmp_path / "raw" / "diabetes130" / "dataset_diabetes.zip"
    other.parent.mkdir(parents=True)
    other.write_bytes(replayed.archive.read_bytes())
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CLINICAL_RAW", str(tmp_path / "raw"))
        done = clinical("demo", "--data", "real")
    assert done.exit_code == 1
    assert "already holds readmission data from" in done.stderr
    assert replayed.home.source.read_text() == chosen
