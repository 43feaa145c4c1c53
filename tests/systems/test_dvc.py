"""What we pin, the real dvc takes for its own: it moves it to a remote and back, and a release outlives its lake."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clinical_assets.governance.pseudonyms import KEY_BYTES
from clinical_assets.resources.home import Home

TESTS = Path(__file__).parents[1]
MODEL = "readmission"
AUTHOR = ("-c", "user.name=A Hospital", "-c", "user.email=git@hospital.example")


@dataclass(frozen=True)
class Hospital:
    """A Git working tree that is a DVC project with a local remote, and a home that pins in it."""

    dvc: str
    tree: Path
    home: Path
    raw: Path
    further: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        ours = {"CLINICAL_HOME": self.home, "CLINICAL_RAW": self.raw, "CLINICAL_PINS": self.tree}
        return (
            os.environ | {name: str(path) for name, path in ours.items()} | {"CLINICAL_DVC": self.dvc, **self.further}
        )

    def run(self, *command: str, expected: int = 0) -> str:
        done = subprocess.run(command, cwd=self.tree, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == expected, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        return done.stdout if not expected else done.stderr

    def clinical(self, *arguments: str, expected: int = 0) -> str:
        return self.run(sys.executable, "-m", "clinical_assets.cli", *arguments, expected=expected)

    def ask_dvc(self, *arguments: str) -> str:
        return self.run(self.dvc, *arguments).strip()

    def commit(self, message: str) -> str:
        self.run("git", "add", "--all")
        self.run("git", *AUTHOR, "commit", "--quiet", "--message", message)
        return self.run("git", "rev-parse", "HEAD").strip()

    def cloned(self, folder: Path) -> "Hospital":
        """Another machine: the same Git and remote, and nothing else."""
        folder.mkdir()
        self.run("git", "clone", "--quiet", str(self.tree), str(folder / "git"))
        return replace(self, tree=folder / "git", home=folder / "home", raw=folder / "raw")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str], raw_archives: Path) -> Hospital:
    """The archive is pinned and committed; then a version is trained, signed, released, and pinned by its own run."""
    program("git")
    folder = tmp_path_factory.mktemp("hospital")
    at = Hospital(program(os.environ.get("CLINICAL_DVC", "dvc")), folder / "git", folder / "home", raw_archives)
    at.tree.mkdir()
    at.run("git", "init", "--quiet")
    at.ask_dvc("init", "--quiet")
    at.ask_dvc("config", "core.analytics", "false")
    at.ask_dvc("remote", "add", "--quiet", "--default", "store", str(folder / "remote"))
    at.commit("a DVC project")
    assert "pushed to the remote store" in at.clinical("fetch", MODEL, "--pin")
    at.commit("the archive")
    fix_pseudonyms(Home(at.home, at.raw))
    at.run(sys.executable, str(TESTS / "own_model" / "guided_run.py"), MODEL)
    at.commit("the release")
    return at


def fix_pseudonyms(home: Home) -> None:
    """The key decides who is in which split: with another, a limit that is nearly missed may be missed."""
    home.prepare()
    home.pseudonym_key.write_bytes(bytes(range(KEY_BYTES)))
    home.pseudonym_key.chmod(0o600)


def test_what_we_wrote_is_clean_for_dvc_and_is_in_its_remote(hospital: Hospital) -> None:
    assert hospital.ask_dvc("config", "core.analytics") == "false"
    assert hospital.ask_dvc("status") == "Data and pipelines are up to date."
    assert hospital.ask_dvc("status", "--cloud") == "Cache and remote 'store' are in sync."
    pins = sorted(path.relative_to(hospital.tree).as_posix() for path in hospital.tree.rglob("*/*.dvc"))
    assert pins == ["archives/diabetes130/dataset_diabetes.zip.dvc", f"releases/{MODEL}/v1.dvc"]
    assert hospital.run("git", "status", "--porcelain") == ""


def test_pins_that_are_made_at_once_wait_for_each_other(hospital: Hospital) -> None:
    command = [sys.executable, "-m", "clinical_assets.cli", "pin", MODEL, "1"]
    with ThreadPoolExecutor(3) as at_once:
        told = list(at_once.map(lambda _: hospital.run(*command), range(3)))
    assert all("pushed to the remote store" in words for words in told)
    assert hospital.run("git", "status", "--porcelain") == ""


def test_dvc_would_pin_the_same_bytes_with_the_same_hashes(hospital: Hospital, tmp_path: Path) -> None:
    other = hospital.cloned(tmp_path / "other")
    other.ask_dvc("pull", "--quiet")
    for pin in other.tree.rglob("*/*.dvc"):
        ours = pin.read_text()
        pin.unlink()
        other.ask_dvc("add", "--quiet", str(pin.with_suffix("")))
        assert ours.startswith(pin.read_text().rstrip()), pin.name


def test_after_the_lake_is_gone_a_release_is_made_again_from_git_and_its_remote(
    hospital: Hospital, tmp_path: Path
) -> None:
    elsewhere = hospital.cloned(tmp_path / "elsewhere")
    assert not elsewhere.home.exists()
    elsewhere.ask_dvc("pull", "--quiet")
    told = json.loads(elsewhere.clinical("reproduce", MODEL, "1", "--json"))
    assert told["is_equal"]
    assert {item["sameness"] for item in told["compared"]} == {"equal"}
    compared = [item["what"] for item in told["compared"]]
    assert compared[:3] == ["archive md5", "artefact sha256", "threshold alert"]
    assert sum(item["of_figure"] for item in told["compared"]) > 100
    head = elsewhere.run("git", "rev-parse", "HEAD").strip()
    assert told["origin"] == f"releases/{MODEL}/v1.dvc (Git commit {head})"


def test_what_was_not_pulled_is_pulled_by_the_reproduction_itself(hospital: Hospital, tmp_path: Path) -> None:
    """In the hospital's own home, of which the lake was lost."""
    elsewhere = hospital.cloned(tmp_path / "elsewhere")
    shutil.copytree(hospital.home, elsewhere.home)
    shutil.rmtree(elsewhere.home / "lake")
    told = json.loads(elsewhere.clinical("reproduce", MODEL, "1", "--json"))
    assert told["is_equal"]
    pulled = [elsewhere.tree / "archives" / "diabetes130" / "dataset_diabetes.zip", elsewhere.tree / "releases" / MODEL]
    assert all(path.exists() for path in pulled)


def test_lineage_and_evidence_name_the_commit_that_the_archive_was_pinned_in(hospital: Hospital) -> None:
    evidence = hospital.home / "reports" / MODEL / "v1" / "evidence"
    pin = json.loads((evidence / "index.json").read_text())["archive_pin"]
    committed = hospital.run("git", "log", "--format=%H", "--", pin["file"]).split()
    assert [pin["commit"]] == committed


def test_bytes_that_a_remote_lost_or_changed_are_refused_and_never_used(hospital: Hospital, tmp_path: Path) -> None:
    elsewhere = hospital.cloned(tmp_path / "elsewhere")
    lost = tmp_path / "lost"
    lost.mkdir()
    elsewhere.ask_dvc("remote", "modify", "--quiet", "store", "url", str(lost))
    told = elsewhere.clinical("reproduce", MODEL, "1", expected=1)
    assert told.count("\n") == 1
    assert f"clinical: `dvc pull --quiet {elsewhere.tree}/releases/{MODEL}/v1.dvc` in {elsewhere.tree} failed: " in told


def test_a_pin_of_dvc_alone_is_taken_and_said_to_have_no_sha256(hospital: Hospital, tmp_path: Path) -> None:
    elsewhere = hospital.cloned(tmp_path / "elsewhere")
    elsewhere.ask_dvc("pull", "--quiet")
    pin = elsewhere.tree / "archives" / "diabetes130" / "dataset_diabetes.zip.dvc"
    pin.unlink()
    elsewhere.ask_dvc("add", "--quiet", str(pin.with_suffix("")))
    told = json.loads(elsewhere.clinical("reproduce", MODEL, "1", "--json"))
    assert told["is_equal"]
    with pin.with_suffix("").open("ab") as archive:
        archive.write(b" ")
    refused = elsewhere.clinical("reproduce", MODEL, "1", expected=1)
    assert "dataset_diabetes.zip is not what " in refused
    assert "md5 " in refused


def test_dvc_reports_its_use_to_nobody_when_the_platform_runs_it(hospital: Hospital, tmp_path: Path) -> None:
    """DVC reports, and asks for newer versions, from a process of its own, which begins this log."""
    log = tmp_path / "processes.log"
    elsewhere = hospital.cloned(tmp_path / "elsewhere")
    elsewhere.ask_dvc("config", "core.analytics", "true")
    elsewhere = replace(elsewhere, further={"DVC_DAEMON_LOGFILE": str(log)})
    elsewhere.clinical("reproduce", MODEL, "1")
    replace(elsewhere, raw=hospital.raw).clinical("fetch", MODEL, "--pin")
    assert not log.exists()
    elsewhere.ask_dvc("status")
    assert log.exists()
