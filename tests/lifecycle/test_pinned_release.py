"""A release is pinned with what it rests on, is made again from that alone, and stands where the pin fails."""

import json
import shutil
import stat
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from small_fundus import NewCamera
from small_platform import MODEL, MONTHS, ROLES, Developed, SmallPlatform
from typer.testing import CliRunner, Result

from clinical_assets.cli import app
from clinical_assets.governance.dvc_pins import PinError, read_pin, verify
from clinical_assets.governance.ledger import LedgerError
from clinical_assets.learning.recipe import RECIPE_FILE
from clinical_assets.learning.storage import hash_files
from clinical_assets.lifecycle.candidate import read_training_rows
from clinical_assets.lifecycle.evidence import gather_evidence
from clinical_assets.lifecycle.pinned_release import (
    EVALUATION,
    EVIDENCE,
    MODEL_FILES,
    REPORT_FILE,
    STATEMENTS,
    TRAINING_SET,
    PinnedEstimators,
    pin_release,
    read_pinned_release,
    refuse_leaks,
)
from clinical_assets.lifecycle.reproduction import is_in_lake, kept_in_git, reproduce
from clinical_assets.protocol import ArchivePin, ModelVersion
from clinical_assets.reporting.evidence.pack import read_evidence
from clinical_assets.resources.home import Home, hash_file
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.leak_search import LeakError
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.pinned_tree import PinnedTree
from clinical_assets.resources.registry import Registry


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedTree:
    (tmp_path / "git").mkdir()
    monkeypatch.setenv("CLINICAL_PINS", str(tmp_path / "git"))
    monkeypatch.delenv("CLINICAL_DVC", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return PinnedTree(tmp_path / "git")


def pin(platform: SmallPlatform, tree: PinnedTree, version: ModelVersion) -> Path:
    return pin_release(tree, platform.home, platform.lake, platform.registry, version).data


def clinical(home: Home, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setenv("CLINICAL_HOME", str(home.root))
    monkeypatch.setenv("CLINICAL_RAW", str(home.raw))
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def approve(candidate: Developed) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role)


def test_a_release_pins_what_it_rests_on(candidate: Developed, tree: PinnedTree) -> None:
    platform, version = candidate.platform, candidate.champion
    folder = pin(platform, tree, version)
    assert folder == tree.root / "releases" / MODEL / "v1"
    [entry, *_] = read_ledger(platform.lake, MODEL)
    assert hash_files(folder / MODEL_FILES) == version.artefact_sha256
    assert hash_file(folder / REPORT_FILE) == entry.report_sha256
    assert read_evidence(folder / EVIDENCE)["version"] == 1
    assert len(list((folder / STATEMENTS).iterdir())) == len(ROLES)
    assert json.loads((folder / "protocol.json").read_text())["model"] == MODEL
    assert json.loads((folder / "release.json").read_text())["run_id"] == entry.run_id
    assert (folder / RECIPE_FILE).exists()
    rows = read_training_rows(platform.lake, platform.protocol, version.lake_snapshot)
    assert pl.read_parquet(folder / TRAINING_SET).equals(rows)
    figures = platform.lake.read(f"{MODEL}.evaluation", where={"version": 1})
    assert pl.read_parquet(folder / EVALUATION).equals(figures)
    assert verify(read_pin(folder.with_name("v1.dvc")), folder).files is not None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert read_pinned_release(tree, MODEL, 1).version == version


def test_neither_pickle_nor_key_nor_identified_row_is_pinned(candidate: Developed, tree: PinnedTree) -> None:
    folder = pin(candidate.platform, tree, candidate.champion)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.read_bytes().startswith(b"\x80")]
    assert {path.suffix for path in files} <= {".json", ".html", ".md", ".xml", ".parquet", ".txt", ".skops"}
    keys = [path.read_bytes() for path in candidate.platform.home.keys.rglob("*") if path.is_file()]
    assert keys
    assert not [path for path in files for key in keys if key in path.read_bytes()]
    identified = {"patient_name", "ssn", "patient_nbr", "birth_date", "address"}
    assert not identified & set(pl.read_parquet_schema(folder / TRAINING_SET))


def test_pinning_the_same_release_again_gives_the_same_pin(candidate: Developed, tree: PinnedTree) -> None:
    folder = pin(candidate.platform, tree, candidate.champion)
    first = folder.with_name("v1.dvc").read_bytes()
    (folder / "left over").write_text("of an earlier pin")
    pin(candidate.platform, tree, candidate.champion)
    assert folder.with_name("v1.dvc").read_bytes() == first
    assert {path.name for path in folder.parent.iterdir()} == {".gitignore", "v1", "v1.dvc"}


def test_a_version_that_was_never_released_is_not_pinned(candidate: Developed, tree: PinnedTree) -> None:
    with pytest.raises(LedgerError, match=r"readmission version 2 was never released; only releases are pinned"):
        pin(candidate.platform, tree, candidate.candidate)
    assert not (tree.root / "releases").exists()


def test_an_identifier_in_a_file_stops_the_pin_and_leaves_nothing_there(candidate: Developed, tree: PinnedTree) -> None:
    note = candidate.platform.home.sign_offs / MODEL / "v1" / "note.json"
    note.write_text('{"reason": "patient SSN 123-45-6789 was seen"}')
    try:
        with pytest.raises(LeakError, match=r"v1 is not pinned, .* releases/readmission/v1/statements/note.json: "):
            pin(candidate.platform, tree, candidate.champion)
    finally:
        note.unlink()
    assert [path.name for path in (tree.root / "releases" / MODEL).iterdir()] == []


def test_images_are_pinned_where_the_protocol_says_that_they_show_nobody(
    new_camera: NewCamera, tree: PinnedTree
) -> None:
    platform = new_camera.platform
    folder = pin(platform, tree, new_camera.version)
    assert pl.Binary in pl.read_parquet_schema(folder / TRAINING_SET).values()
    identifiable = platform.protocol.model_copy(update={"images_identifiable": True})
    with pytest.raises(LeakError, match=r"training_set.parquet.* \(image\)"):
        refuse_leaks(folder, "releases/v1", platform.home, identifiable)


def test_a_report_that_is_not_the_one_released_is_not_pinned(candidate: Developed, tree: PinnedTree) -> None:
    report = candidate.platform.home.report(MODEL, 1)
    written = report.read_bytes()
    report.write_bytes(written + b" ")
    try:
        with pytest.raises(LedgerError, match="is not the report that was released"):
            pin(candidate.platform, tree, candidate.champion)
    finally:
        report.write_bytes(written)


def test_a_release_is_made_again_from_its_pin_alone_without_lake_or_registry(
    candidate: Developed, tree: PinnedTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(candidate.platform, tree, candidate.champion)
    result = reproduce(kept_in_git(tree, MODEL, 1), tmp_path / "out")
    assert result.is_equal
    assert hash_files(tmp_path / "out" / "estimator") == candidate.champion.artefact_sha256
    figures = candidate.platform.lake.read(f"{MODEL}.evaluation", where={"version": 1})
    assert sum(item.of_figure for item in result.compared) == figures.height
    empty = Home(tmp_path / "empty", tmp_path / "raw")
    told = clinical(empty, monkeypatch, "reproduce", MODEL, "1", "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["is_equal"]
    assert json.loads(told.stdout)["origin"].startswith(f"releases/{MODEL}/v1.dvc (Git commit ")
    assert not empty.registry_uri.removeprefix("sqlite:///") or not (empty.root / "registry" / "mlflow.db").exists()


def test_the_version_that_a_repair_began_with_is_loaded_from_its_own_pin(
    candidate: Developed, tree: PinnedTree
) -> None:
    """As `reproduce` does for a repair: no registry is asked."""
    platform, base = candidate.platform, candidate.champion
    folder, estimators = pin(platform, tree, base), PinnedEstimators(tree)
    assert estimators.version(MODEL, 1) == base
    rows = read_training_rows(platform.lake, platform.protocol, base.lake_snapshot, split="test")
    pinned = estimators.load(base, platform.protocol.estimator)
    assert (pinned.predict(rows) == platform.registry.load(base, platform.protocol.estimator).predict(rows)).all()
    shutil.rmtree(folder / MODEL_FILES)
    with pytest.raises(PinError, match="v1/model/"):
        estimators.load(base, platform.protocol.estimator)


def test_where_the_lake_has_a_version_it_is_made_from_that_unless_the_pin_is_asked_for(
    candidate: Developed, tree: PinnedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = candidate.platform.home
    told = clinical(home, monkeypatch, "reproduce", MODEL, "1", "--json")
    assert json.loads(told.stdout)["origin"] == f"lake snapshot {candidate.champion.lake_snapshot}"
    told = clinical(home, monkeypatch, "reproduce", MODEL, "1", "--pinned")
    assert told.exit_code == 1
    assert "readmission version 1 is not pinned in " in told.stderr


def test_a_lake_that_is_gone_is_found_out_without_making_a_registry(candidate: Developed, tmp_path: Path) -> None:
    platform = candidate.platform
    assert is_in_lake(platform.lake, platform.registry, MODEL, 1)
    assert not is_in_lake(platform.lake, platform.registry, MODEL, 9)
    empty = Home(tmp_path / "empty", tmp_path / "raw")
    empty.prepare()
    lake, registry = Lake(str(empty.lake_catalogue), empty.lake_data), Registry(empty.registry_uri, tmp_path)
    assert not is_in_lake(lake, platform.registry, MODEL, 1)
    assert not is_in_lake(platform.lake, registry, MODEL, 1)
    assert not registry.exists()


@pytest.mark.parametrize("file", [f"{MODEL_FILES}/model.json", TRAINING_SET, EVALUATION, RECIPE_FILE, "version.json"])
def test_a_pinned_release_of_which_one_file_was_changed_is_refused(
    candidate: Developed, tree: PinnedTree, file: str
) -> None:
    folder = pin(candidate.platform, tree, candidate.champion)
    changed = folder / file
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(PinError, match=rf"v1/{file} is not what .* pins: sha256 \w+ is pinned, and \w+ was found"):
        read_pinned_release(tree, MODEL, 1)


def test_a_release_under_another_s_pin_is_refused(candidate: Developed, tree: PinnedTree) -> None:
    folder = pin(candidate.platform, tree, candidate.champion)
    shutil.copytree(folder, folder.with_name("v3"))
    tree.pin(folder.with_name("v3"))
    with pytest.raises(PinError, match=r"v3 holds readmission version 1"):
        read_pinned_release(tree, MODEL, 3)


def test_what_is_missing_and_cannot_be_pulled_says_how_to_get_dvc(candidate: Developed, tree: PinnedTree) -> None:
    shutil.rmtree(pin(candidate.platform, tree, candidate.champion))
    with pytest.raises(PinError, match=r"v1 is not there, and the program dvc is not here: set CLINICAL_DVC='uvx dvc'"):
        read_pinned_release(tree, MODEL, 1)


def test_a_release_pins_itself_in_a_step_of_its_own(candidate: Developed, tree: PinnedTree) -> None:
    approve(candidate)
    done = candidate.platform.run("release", instance=candidate.instance)
    [told] = [x.step_materialization_data.materialization.metadata for x in materialised(done, "release_pin")]
    assert told["pinned"].value == f"releases/{MODEL}/v2.dvc"
    assert str(told["stored"].value).startswith("not pushed: the program dvc is not here")
    assert read_pinned_release(tree, MODEL, 2).version == candidate.candidate
    assert json.loads(audit(candidate.platform.home)[-1])["details"]["pinned"] == f"releases/{MODEL}/v2.dvc"


def test_where_no_pins_are_kept_a_release_is_as_it_was(candidate: Developed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLINICAL_PINS", raising=False)
    approve(candidate)
    done = candidate.platform.run("release", instance=candidate.instance)
    [told] = [x.step_materialization_data.materialization.metadata for x in materialised(done, "release_pin")]
    assert str(told["pinned"].value).startswith("CLINICAL_PINS is not set")
    assert candidate.platform.registry.champion(MODEL) == candidate.candidate


def test_a_pin_that_fails_fails_its_run_and_loses_no_release(
    candidate: Developed, tree: PinnedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.root / ".dvc").mkdir()
    monkeypatch.setenv("CLINICAL_DVC", "/bin/false")
    approve(candidate)
    done = candidate.platform.run("release", instance=candidate.instance, raise_on_error=False)
    assert not done.success
    [failed] = [event.step_key for event in done.all_events if event.is_step_failure]
    assert failed == "release_pin"
    assert candidate.platform.registry.champion(MODEL) == candidate.candidate
    assert read_ledger(candidate.platform.lake, MODEL)[-1].version == candidate.candidate.version
    monkeypatch.delenv("CLINICAL_DVC")
    told = clinical(candidate.platform.home, monkeypatch, "pin", MODEL)
    assert told.exit_code == 0
    assert f"releases/{MODEL}/v2.dvc: " in told.stdout


def test_the_verb_pins_what_was_released_before_pins_were_kept(
    candidate: Developed, tree: PinnedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = candidate.platform.home
    told = clinical(home, monkeypatch, "pin", MODEL, "1", "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["pinned"] == f"releases/{MODEL}/v1.dvc"
    assert json.loads(audit(home)[-1])["action"] == "pin"
    monkeypatch.delenv("CLINICAL_PINS")
    told = clinical(home, monkeypatch, "pin", MODEL, "1")
    assert told.exit_code == 1
    assert "CLINICAL_PINS is not set" in told.stderr


def test_a_month_s_lineage_names_the_pin_of_its_archive(candidate: Developed, tree: PinnedTree) -> None:
    platform = candidate.platform
    tree.pin_archive("diabetes130", platform.home.raw / "dataset_diabetes")
    pinned = platform.home.archive_pin(platform.protocol)
    assert pinned is not None
    done = platform.run("intake", MONTHS[0])
    [told] = [x.step_materialization_data.materialization.metadata for x in materialised(done, "dataset")]
    assert {name: told[f"pin_{name}"].value for name in asdict(pinned)} == asdict(pinned)


def test_evidence_is_gathered_with_the_pin_that_the_version_was_trained_under(candidate: Developed) -> None:
    platform, version = candidate.platform, candidate.champion
    [path] = platform.home.registry_artefacts.glob(f"{version.run_id}/**/{RECIPE_FILE}")
    written = path.read_text()
    pinned = ArchivePin("archives/diabetes130.dvc", "0" * 32, "1" * 64, "2" * 40)
    path.write_text(json.dumps(json.loads(written) | {"archive_pin": asdict(pinned)}))
    try:
        gathered = gather_evidence(
            platform.protocol, version, [], [], pl.DataFrame(), None, platform.lake, platform.registry
        )
    finally:
        path.write_text(written)
    assert gathered.archive_pin == pinned


def materialised(done: dg.ExecuteInProcessResult, asset: str) -> list[dg.DagsterEvent]:
    events = done.get_asset_materialization_events()
    return [event for event in events if event.asset_key == dg.AssetKey([MODEL, asset])]


def audit(home: Home) -> list[str]:
    return (home.audit / "audit.jsonl").read_text().splitlines()
