import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clinical_assets.archives.archive import Archive, ArchiveError
from clinical_assets.archives.diabetes130 import DIABETES130, Diabetes130
from clinical_assets.cli import app
from clinical_assets.protocol import read_protocol
from clinical_assets.resources.access_rights import AccessRightsError
from clinical_assets.resources.home import Home, hash_file, write_atomically

PROTOCOL = read_protocol("readmission")
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "raw")


def test_what_holds_keys_or_patients_is_its_owner_s_alone_from_the_start(home: Home) -> None:
    before = os.umask(0)
    try:
        home.prepare()
    finally:
        os.umask(before)
    for private in (*home.private_folders, home.lake_catalogue.parent, home.registry_artefacts.parent, home.dagster):
        assert private.stat().st_mode & 0o777 == 0o700, private


def test_a_folder_from_before_that_is_open_to_others_is_closed_and_it_is_said(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    home.dagster.mkdir(parents=True)
    home.dagster.chmod(0o755)
    home.prepare()
    assert home.dagster.stat().st_mode & 0o777 == 0o700
    assert f"{home.dagster} was open to others than its owner (mode 0755)" in caplog.text


@pytest.mark.parametrize("place", ["keys", "audit", "identified", "outbox", "lake/catalogue.sqlite"])
def test_a_secret_that_is_open_to_others_stops_every_start_and_stays_as_it_is(home: Home, place: str) -> None:
    home.prepare()
    secret = home.root / place
    if not secret.suffix:
        secret.mkdir(exist_ok=True, mode=0o700)
        secret = secret / "deep" / "secret"
        secret.parent.mkdir(mode=0o700)
    secret.write_text("secret")
    secret.chmod(0o640)
    with pytest.raises(AccessRightsError, match=rf"{secret} is open to .* \(mode 0640\).* chmod 600 {secret}"):
        home.prepare()
    assert secret.stat().st_mode & 0o777 == 0o640
    secret.chmod(0o600)
    home.prepare()


def test_a_folder_of_keys_that_is_open_to_others_is_refused_and_not_repaired(home: Home) -> None:
    home.prepare()
    home.keys.chmod(0o755)
    with pytest.raises(AccessRightsError, match="chmod 700"):
        home.prepare()
    assert home.keys.stat().st_mode & 0o777 == 0o755


def test_every_verb_and_the_code_location_stop_at_an_open_key(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.prepare()
    home.pseudonym_key.write_bytes(bytes(32))
    home.pseudonym_key.chmod(0o644)
    monkeypatch.setenv("CLINICAL_HOME", str(home.root))
    verb = CliRunner().invoke(app, ["status"])
    assert verb.exit_code == 1
    assert re.fullmatch(r"clinical: \S+pseudonym.key is open to others .* chmod 600 \S+\n", verb.output)
    load = [sys.executable, "-c", "from clinical_assets.definitions import defs; defs()"]
    location = subprocess.run(load, capture_output=True, text=True, check=False)
    assert location.returncode != 0
    assert "AccessRightsError" in location.stderr


def test_preparing_a_home_again_loses_nothing(home: Home) -> None:
    home.prepare()
    kept = [home.keys / "pseudonym.key", home.reports / "a.html", home.dagster / "history.db"]
    for path in kept:
        path.write_text("kept")
        path.chmod(0o600)
    home.prepare()
    assert [path.read_text() for path in kept] == ["kept"] * 3


def test_everything_a_platform_writes_lies_below_its_home(home: Home) -> None:
    written = (
        *(home.lake_catalogue, home.lake_data, home.registry_artefacts, home.reports, home.analytics, home.sign_offs),
        *(home.signers, home.keys, home.pseudonym_key, home.dagster, home.source, home.report("readmission", 3)),
    )
    assert all(path.is_relative_to(home.root) for path in written)
    assert home.registry_uri == f"sqlite:///{home.root}/registry/mlflow.db"
    assert home.report("readmission", 3).parent.name == "v3"


def test_the_environment_names_home_and_archives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLINICAL_HOME", "elsewhere")
    monkeypatch.setenv("CLINICAL_RAW", "/archives")
    assert Home.from_environment() == Home(tmp_path / "elsewhere", Path("/archives"))
    monkeypatch.setenv("CLINICAL_HOME", "")
    monkeypatch.delenv("CLINICAL_RAW")
    assert Home.from_environment() == Home(tmp_path / "data", tmp_path / "data" / "raw")


def test_a_home_fed_from_one_archive_refuses_another(home: Home, tmp_path: Path) -> None:
    one, other = tmp_path / "one.zip", tmp_path / "other.zip"
    home.choose_archive("readmission", one)
    home.choose_archive("readmission", one)
    with pytest.raises(
        ArchiveError, match=r"already holds readmission data from .*one\.zip .*, now asked for .*other\.zip"
    ):
        home.choose_archive("readmission", other)
    assert home.chosen_archive("readmission") == one


def test_a_home_fed_from_a_share_of_the_patients_refuses_another_share(home: Home, tmp_path: Path) -> None:
    home.choose_archive("sepsis", tmp_path / "one.zip", 0.25)
    home.choose_archive("sepsis", tmp_path / "one.zip", 0.25)
    written = home.source.read_text()
    with pytest.raises(ArchiveError, match=r"one\.zip \(25% of its patients\), now asked for .*one\.zip \(100%\)"):
        home.choose_archive("sepsis", tmp_path / "one.zip")
    assert home.source.read_text() == written


def test_each_model_has_an_archive_and_a_share_of_its_own(home: Home, tmp_path: Path) -> None:
    home.choose_archive("readmission", tmp_path / "one.zip")
    home.choose_archive("sepsis", tmp_path / "two.zip", 0.25)
    assert json.loads(home.source.read_text()) == {
        "readmission": {"path": str(tmp_path / "one.zip"), "share_of_patients": 1.0},
        "sepsis": {"path": str(tmp_path / "two.zip"), "share_of_patients": 0.25},
    }
    assert home.chosen_archive("retinopathy") is None


@pytest.mark.parametrize("folder", ["home", "raw"])
def test_an_archive_below_home_or_archives_is_found_again_where_these_are_now(
    home: Home, tmp_path: Path, folder: str
) -> None:
    place, moved = Path(folder) / "simulated" / "a", Home(tmp_path / "moved" / "home", tmp_path / "moved" / "raw")
    (tmp_path / place).mkdir(parents=True)
    home.choose_archive("readmission", tmp_path / place)
    assert home.chosen_archive("readmission") == tmp_path / place

    moved.root.parent.mkdir()
    for was, now in ((home.root, moved.root), (home.raw, moved.raw)):
        if was.exists():
            was.rename(now)
    assert moved.chosen_archive("readmission") == tmp_path / "moved" / place
    moved.choose_archive("readmission", tmp_path / "moved" / place)
    with pytest.raises(ArchiveError, match=rf"data from {tmp_path / 'moved' / place} "):
        moved.choose_archive("readmission", tmp_path / place)


def test_a_home_does_not_turn_to_another_archive_because_archives_are_looked_for_elsewhere(
    home: Home, tmp_path: Path
) -> None:
    for raw in ("raw", "other"):
        (tmp_path / raw / "a").mkdir(parents=True)
    home.choose_archive("readmission", tmp_path / "raw" / "a")
    turned = replace(home, raw=tmp_path / "other")
    assert turned.chosen_archive("readmission") == tmp_path / "raw" / "a"
    with pytest.raises(ArchiveError, match=rf"already holds readmission data from {tmp_path}/raw/a "):
        turned.choose_archive("readmission", tmp_path / "other" / "a")


def test_without_an_archive_the_error_names_the_folder_and_three_remedies(home: Home) -> None:
    with pytest.raises(ArchiveError) as refused:
        home.archive_path(PROTOCOL)
    for words in (str(home.raw), "clinical fetch readmission", "CLINICAL_RAW", "--data simulated"):
        assert words in str(refused.value)


def test_an_archive_is_found_and_a_chosen_one_goes_before_it(home: Home, tmp_path: Path) -> None:
    found = home.raw / "diabetes130" / "dataset_diabetes.zip"
    found.parent.mkdir(parents=True)
    found.write_bytes(b"")
    assert home.archive_path(PROTOCOL) == found
    home.choose_archive("readmission", tmp_path / "chosen.zip")
    assert home.archive_path(PROTOCOL) == tmp_path / "chosen.zip"


def test_a_simulated_archive_says_so_wherever_it_is_opened(home: Home) -> None:
    home.choose_archive("readmission", DIABETES130.simulate(home.root / "simulated", seed=1))
    assert home.open_archive(PROTOCOL).data_origin == "simulated"


@pytest.mark.parametrize(
    ("origin", "of_a_share"),
    [
        ("real:UCI", "real:UCI:modified"),
        ("real:UCI:modified", "real:UCI:modified"),
        ("simulated", "simulated"),
    ],
)
def test_a_share_of_an_archive_is_no_longer_the_published_data(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, of_a_share: str
) -> None:
    whole = Archive(tmp_path / "one.zip", origin, "0" * 64)
    monkeypatch.setattr(Diabetes130, "open", lambda _, path: replace(whole, path=path))
    home.choose_archive("readmission", whole.path, 0.25)
    assert home.open_archive(PROTOCOL) == replace(whole, data_origin=of_a_share, share_of_patients=0.25)
    assert whole.sampled(1.0) is whole


def test_a_quarter_of_the_real_archive_is_named_as_modified(home: Home, raw_archives: Path) -> None:
    found = DIABETES130.find(raw_archives)
    assert found is not None
    home.choose_archive("readmission", found, 0.25)
    whole = DIABETES130.open(found)
    assert home.open_archive(PROTOCOL).data_origin == f"{whole.data_origin.removesuffix(':modified')}:modified"
    assert home.open_archive(PROTOCOL).sha256 == whole.sha256


def test_a_model_without_an_archive_says_whose_its_rows_are(home: Home) -> None:
    fetching = PROTOCOL.model_copy(update={"archive": None, "data_origin": "real:a hospital"})
    assert home.open_archive(fetching).data_origin == "real:a hospital"


def test_the_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_file(tmp_path / "abc") == SHA256_OF_ABC


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "settings"
    write_atomically(path, "old")

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("clinical_assets.resources.home.os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, "new, and longer")
    assert path.read_text() == "old"


def test_what_an_operator_writes_into_dagster_s_settings_stays(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", tmp_path / "raw")
    home.prepare()
    settings = home.dagster / "dagster.yaml"
    theirs = settings.read_text().replace("max_concurrent_runs: 4", "max_concurrent_runs: 2")
    settings.write_text(theirs)
    home.prepare()
    assert settings.read_text() == theirs
