"""A registered version is made again from what was kept of it, and every lie about it is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_platform import MODEL, Developed, SmallPlatform
from typer.testing import CliRunner, Result

from clinical_assets.cli import app
from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.recipe import RECIPE_FILE, Environment, Recipe
from clinical_assets.learning.storage import hash_files
from clinical_assets.lifecycle import reproduction
from clinical_assets.lifecycle.conditions import REPAIR
from clinical_assets.lifecycle.reproduction import (
    Reproduction,
    Sameness,
    compare_environments,
    compare_findings,
    kept_in_lake,
    reproduce,
)
from clinical_assets.protocol import Finding, ModelVersion, ProtocolError, Repair
from clinical_assets.resources.home import hash_file
from clinical_assets.resources.registry import CHALLENGER


def again(platform: SmallPlatform, version: ModelVersion, out: Path) -> Reproduction:
    return reproduce(kept_in_lake(platform.home, platform.lake, platform.registry, version), out)


def unequal(result: Reproduction) -> dict[str, Sameness]:
    return {item.what: item.sameness for item in result.compared if not item.is_equal}


def recipe_path(platform: SmallPlatform, version: ModelVersion) -> Path:
    [path] = platform.home.registry_artefacts.glob(f"{version.run_id}/**/{RECIPE_FILE}")
    return path


def clinical(platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setenv("CLINICAL_HOME", str(platform.home.root))
    monkeypatch.setenv("CLINICAL_RAW", str(platform.home.raw))
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_a_retrained_version_is_made_again_byte_by_byte(candidate: Developed, tmp_path: Path) -> None:
    platform, version = candidate.platform, candidate.champion
    result = again(platform, version, tmp_path / "out")
    assert result.is_equal, unequal(result)
    assert hash_files(tmp_path / "out" / "estimator") == version.artefact_sha256
    figures = platform.lake.read(f"{MODEL}.evaluation", where={"version": version.version})
    assert sum(item.of_figure for item in result.compared) == figures.height
    assert result.environment == ()
    written = json.loads((tmp_path / "out" / "reproduction.json").read_text())
    assert written["lake_snapshot"] == version.lake_snapshot


@pytest.mark.parametrize("repair", [Repair.RECALIBRATE_SLOPE, Repair.MOVE_THRESHOLD])
def test_a_repair_is_made_again_from_the_version_it_repaired_even_when_another_is_champion_now(
    candidate: Developed, tmp_path: Path, repair: Repair
) -> None:
    platform = candidate.platform
    platform.run("retraining", instance=candidate.instance, tags={REPAIR: repair.value})
    repaired = platform.registry.challenger(MODEL)
    platform.set_alias("champion", repaired)
    result = again(platform, repaired, tmp_path / "out")
    assert result.is_equal, unequal(result)
    assert any(note.startswith("a repair of version 1, whose files were checked") for note in result.notes)
    assert any("were not measured again" in note for note in result.notes)
    platform.set_alias(CHALLENGER, candidate.candidate)


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        ({"artefact_sha256": "0" * 64}, "artefact sha256"),
        ({"threshold": 0.123}, "threshold alert"),
    ],
)
def test_a_version_that_claims_another_hash_or_threshold_is_found(
    candidate: Developed, tmp_path: Path, lie: dict[str, object], found: str
) -> None:
    claimed = replace(candidate.champion, **lie)  # pyright: ignore[reportArgumentType]
    result = again(candidate.platform, claimed, tmp_path / "out")
    assert unequal(result) == {found: Sameness.DIFFERS}
    assert not result.is_equal


def test_another_snapshot_gives_another_version_or_none(candidate: Developed, tmp_path: Path) -> None:
    other = replace(candidate.champion, lake_snapshot=candidate.candidate.lake_snapshot)
    result = again(candidate.platform, other, tmp_path / "out")
    assert "artefact sha256" in unequal(result)


def test_a_figure_that_was_edited_is_found_with_both_values() -> None:
    measured = [Finding("auroc", "overall", 0.71, 0.6, 0.8, 300), Finding("auroc", "sex=female", 0.7, 0.6, 0.8, 150)]
    flattered = [replace(measured[0], value=0.81), measured[1]]
    [lie, truth] = compare_findings(flattered, measured)
    assert (lie.sameness, truth.sameness) == (Sameness.DIFFERS, Sameness.EQUAL)
    assert "0.81" in lie.registered
    assert "0.71" in lie.rebuilt


def test_a_figure_that_is_missing_on_one_side_is_not_equal() -> None:
    one = Finding("auroc", "overall", 0.71, 0.6, 0.8, 300)
    assert [x.sameness for x in compare_findings([one], [])] == [Sameness.DIFFERS]
    assert [x.sameness for x in compare_findings([], [one])] == [Sameness.CANNOT_TELL]


def test_differences_from_released_versions_are_left_aside() -> None:
    paired = Finding("auroc_minus_champion", "overall", 0.01, 0.0, 0.02, 300)
    assert list(compare_findings([paired], [])) == []


def test_packages_that_differ_are_named_with_both_versions_and_an_unknown_past_is_not_the_same() -> None:
    now = Environment("3.11.7", "Linux x86_64", "1", {"polars": "2.1.0", "new": "1"})
    then = replace(now, packages={"polars": "2.0.9", "gone": "3"}, threads="4")
    told = {(x.what, x.registered, x.rebuilt) for x in compare_environments(then, now)}
    assert told == {
        ("threads", "4", "1"),
        ("polars", "2.0.9", "2.1.0"),
        ("new", "absent", "1"),
        ("gone", "3", "absent"),
    }
    assert compare_environments(now, now) == ()
    assert [x.sameness for x in compare_environments(None, now)] == [Sameness.CANNOT_TELL]


def test_a_recipe_that_was_changed_in_the_store_is_refused(candidate: Developed, tmp_path: Path) -> None:
    path = recipe_path(candidate.platform, candidate.champion)
    written = path.read_text()
    try:
        path.write_text(written.replace('\\"minimum_n\\":20', '\\"minimum_n\\":2'))
        assert path.read_text() != written
        with pytest.raises(LearningError, match="it was changed; restore it"):
            again(candidate.platform, candidate.champion, tmp_path / "out")
        path.write_text("{")
        with pytest.raises(LearningError, match=f"{RECIPE_FILE} of {MODEL} version 1 is no JSON"):
            again(candidate.platform, candidate.champion, tmp_path / "out")
    finally:
        path.write_text(written)
    assert not (tmp_path / "out").exists()


def test_without_a_recipe_the_log_of_the_runs_serves_and_without_both_it_cannot_be_told(
    candidate: Developed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, path = candidate.platform, recipe_path(candidate.platform, candidate.champion)
    written = path.read_text()
    path.unlink()
    try:
        with pytest.raises(LearningError, match="under which protocol it was made cannot be told"):
            again(platform, candidate.champion, tmp_path / "none")
        monkeypatch.setattr(reproduction, "runs_of", lambda home: candidate.instance)
        result = again(platform, candidate.champion, tmp_path / "out")
    finally:
        path.write_text(written)
    assert result.is_equal, unequal(result)
    assert [item.sameness for item in result.environment] == [Sameness.CANNOT_TELL]


def test_nothing_is_rebuilt_over_files_that_are_there(candidate: Developed, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(LearningError, match="already holds files"):
        again(candidate.platform, candidate.champion, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_verb_says_equal_ends_with_0_and_is_audited(
    candidate: Developed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = clinical(candidate.platform, monkeypatch, "reproduce", MODEL, "1", "--out", str(tmp_path / "kept"))
    assert done.exit_code == 0, done.output
    assert "made again, and equal" in done.stdout
    assert (tmp_path / "kept" / "estimator" / "model.json").is_file()
    last = json.loads(AuditTrail(candidate.platform.home.audit).path.read_text().splitlines()[-1])
    assert (last["action"], last["target"], last["outcome"]) == ("reproduce", f"{MODEL} version 1", "success")


def test_the_verb_shows_what_differs_and_ends_with_1(candidate: Developed, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(candidate.platform.home.registry_uri)
    client.set_model_version_tag(MODEL, "1", "threshold", "0.123")
    try:
        done = clinical(candidate.platform, monkeypatch, "reproduce", MODEL, "1")
        as_json = clinical(candidate.platform, monkeypatch, "reproduce", MODEL, "1", "--json")
    finally:
        client.set_model_version_tag(MODEL, "1", "threshold", str(candidate.champion.threshold))
    assert (done.exit_code, as_json.exit_code) == (1, 1)
    assert "NOT EQUAL" in done.stdout
    assert "0.123" in done.stdout
    assert json.loads(as_json.stdout)["is_equal"] is False
    last = json.loads(AuditTrail(candidate.platform.home.audit).path.read_text().splitlines()[-1])
    assert last["outcome"] == "failure"


def test_each_candidate_has_its_evidence_and_the_report_that_is_signed_names_its_hash(
    candidate: Developed, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = candidate.platform.home
    for version in (candidate.champion, candidate.candidate):
        index = home.evidence(MODEL, version.version) / "index.json"
        assert hash_file(index) in home.report(MODEL, version.version).read_text()
        assert json.loads(index.read_text())["artefact_sha256"] == version.artefact_sha256
    told = (home.evidence(MODEL, 2) / "difference.md").read_text()
    assert "Compared with version 1" in told
    assert "No field differs" in told
    shown = clinical(candidate.platform, monkeypatch, "evidence", MODEL, "2")
    assert shown.exit_code == 0
    assert "Every document is as it was written" in shown.stdout


def test_evidence_that_was_edited_is_refused_in_one_line(candidate: Developed, monkeypatch: pytest.MonkeyPatch) -> None:
    document = candidate.platform.home.evidence(MODEL, 2) / "tripod_ai.md"
    written = document.read_text()
    document.write_text(written.replace("not available", "excellent", 1))
    refused = clinical(candidate.platform, monkeypatch, "evidence", MODEL, "2")
    document.write_text(written)
    assert refused.exit_code == 1
    assert "tripod_ai.md was changed" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_too_few_rows_to_repair_on_are_refused_again(candidate: Developed, tmp_path: Path) -> None:
    platform = candidate.platform
    recipe = platform.registry.recipe(candidate.candidate)
    assert recipe is not None
    path = recipe_path(platform, candidate.champion)
    written = path.read_text()
    lie = Recipe(recipe.protocol_json, Repair.MOVE_THRESHOLD, 2, recipe.environment)
    path.write_text(json.dumps(lie.to_dict()))
    try:
        with pytest.raises(ProtocolError, match="ripe rows since"):
            again(platform, candidate.champion, tmp_path / "out")
    finally:
        path.write_text(written)
