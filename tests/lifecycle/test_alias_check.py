"""An alias moved past the platform: found, told once, and never scored with."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from small_platform import MODEL, MONTHS, ROLES, Developed, small_protocol

from clinical_assets.governance.ledger import LedgerError, LedgerKind
from clinical_assets.lifecycle.alias_check import alias_checks, look_at_champion
from clinical_assets.lifecycle.champion_move import Platform, intent_path, move_champion
from clinical_assets.lifecycle.champion_upkeep import upkeep_job
from clinical_assets.lifecycle.model_facts import read_facts
from clinical_assets.lifecycle.questions.floor_broken import floor_broken
from clinical_assets.lifecycle.release_act import prepare_release, release_version
from clinical_assets.lifecycle.rollback import roll_back
from clinical_assets.resources.ledger import LEDGER_TABLE, exclusive, read_ledger, verified_champion
from clinical_assets.resources.registry import CHAMPION


@pytest.fixture
def moved(candidate: Developed) -> Developed:
    """Version 1 is released, and somebody has pointed the alias at version 2, in MLflow."""
    candidate.platform.set_alias(CHAMPION, candidate.candidate)
    return candidate


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as fresh:
        yield fresh


def look(at: Developed, instance: dg.DagsterInstance, cursor: str | None = None) -> tuple[str, str]:
    """One look: what it says, and the mismatch that people were told of."""
    platform = at.platform
    look_at = Platform(platform.home, platform.lake, platform.registry, instance)
    found = look_at_champion(look_at, platform.protocol, cursor or "", datetime.now(UTC))
    return found.reason, found.told


def check(at: Developed) -> dg.AssetCheckResult:
    found, _ = alias_checks(at.platform.protocol)
    return found(**at.platform.resources)


def unverified(at: Developed) -> int:
    lake = at.platform.lake
    table = "governance.incident"
    return lake.read(table, where={"cause": "unverified_alias"}).height if lake.exists(table) else 0


def mismatches_audited(at: Developed) -> int:
    return (at.platform.home.audit / "audit.jsonl").read_text().count('"action":"alias_mismatch"')


def test_the_check_passes_as_long_as_the_platform_alone_moves_the_alias(candidate: Developed) -> None:
    assert check(candidate).passed


def test_the_check_fails_and_names_both_versions(moved: Developed) -> None:
    result = check(moved)
    assert not result.passed
    words = "the registry's champion of readmission is version 2, and by the ledger version 1 is live"
    assert result.metadata["mismatch"].value == words


def test_the_sensor_opens_one_incident_and_audits_once(moved: Developed, instance: dg.DagsterInstance) -> None:
    incidents, records = unverified(moved), mismatches_audited(moved)
    said, cursor = look(moved, instance)
    assert said == "the registry's champion of readmission is version 2, and by the ledger version 1 is live"
    look(moved, instance, cursor)
    assert (unverified(moved), mismatches_audited(moved)) == (incidents + 1, records + 1)


def test_the_sensor_has_nothing_to_say_of_what_is_right(candidate: Developed, instance: dg.DagsterInstance) -> None:
    said, cursor = look(candidate, instance)
    assert said == "Dagster now knows what is live"
    assert look(candidate, instance, cursor) == ("the champion of readmission is the ledger's", "")


def test_a_champion_the_ledger_does_not_know_scores_nothing(moved: Developed) -> None:
    platform = moved.platform
    words = r"champion of readmission is version 2, .* version 1 is live; nothing is scored with it: put it back with"
    with pytest.raises(LedgerError, match=words):
        platform.run("month", MONTHS[0])
    assert platform.lake.months(f"{MODEL}.predictions") == [MONTHS[4]]


def test_an_alias_taken_away_or_a_hash_changed_in_mlflow_is_found_too(candidate: Developed) -> None:
    from mlflow import MlflowClient

    platform = candidate.platform
    client = MlflowClient(platform.home.registry_uri)
    client.set_model_version_tag(MODEL, "1", "artefact_sha256", "0" * 64)
    try:
        assert "the files of readmission version 1 have the sha256 000000000000" in str(check(candidate).metadata)
    finally:
        client.set_model_version_tag(MODEL, "1", "artefact_sha256", candidate.champion.artefact_sha256)
    platform.drop_alias(CHAMPION)
    assert "the registry's champion of readmission is no version" in str(check(candidate).metadata)


def test_a_ledger_cut_off_at_its_end_does_not_fit_the_alias(candidate: Developed) -> None:
    platform = candidate.platform
    last = read_ledger(platform.lake, MODEL)[-1]
    rows = platform.lake.read(LEDGER_TABLE)
    with platform.lake.cursor() as cursor:
        cursor.execute(f"DELETE FROM lake.{LEDGER_TABLE} WHERE model = '{MODEL}'")
    try:
        assert last.number != 1 or "and by the ledger nothing is live" in str(check(candidate).metadata)
    finally:
        platform.lake.write_table(LEDGER_TABLE, rows, author="a test", message="restored")


def test_a_rollback_to_the_ledger_s_version_puts_the_alias_back(moved: Developed, instance: dg.DagsterInstance) -> None:
    platform = moved.platform
    at = Platform(platform.home, platform.lake, platform.registry, instance)
    roll_back(at, platform.protocol, 1, "the alias was moved in MLflow", "user:ann")
    assert check(moved).passed
    assert verified_champion(platform.home, platform.lake, platform.registry, MODEL) == moved.champion


def test_nothing_is_released_over_an_alias_that_was_moved(moved: Developed, instance: dg.DagsterInstance) -> None:
    platform = moved.platform
    at = Platform(platform.home, platform.lake, platform.registry, instance)
    for role in ROLES:
        platform.sign(moved.candidate, role)
    with pytest.raises(RuntimeError, match="is version 2, and by the ledger version 1 is live; put it back with"):
        release_version(at, platform.protocol, moved.candidate, "a-run")


def test_the_guard_rolls_back_by_itself_and_the_ledger_says_guard(
    candidate: Developed, instance: dg.DagsterInstance
) -> None:
    import polars as pl

    platform = candidate.platform
    protocol, lake = platform.protocol, platform.lake
    at = Platform(platform.home, lake, platform.registry, instance)
    for role in ROLES:
        platform.sign(candidate.candidate, role)
    release_version(at, protocol, candidate.candidate, "a-run")
    table = f"{MODEL}.performance_report"
    kept = lake.read(table)
    fallen = kept.head(1).with_columns(
        month=pl.lit(MONTHS[4]),
        model_version=pl.lit(2, pl.Int32),
        metric=pl.lit("auroc"),
        subgroup=pl.lit("overall"),
        status=pl.lit("ripe"),
        value=0.5,
        low=0.45,
        high=0.55,
        n=pl.lit(900, pl.Int64),
    )
    lake.write_month(table, MONTHS[4], fallen, author="a test", message="a bad month")
    instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey([MODEL, "performance_report"])))
    guarded = small_protocol(rollback_guard={"metric": "auroc", "at_least": 0.6})
    try:
        answer = floor_broken(read_facts(at, guarded, {}))
        assert answer.request is not None
        upkeep_job(guarded).execute_in_process(instance=instance, resources=platform.resources)
        again = floor_broken(read_facts(at, guarded, {}))
    finally:
        lake.write_month(table, MONTHS[4], kept.filter(month=MONTHS[4]), author="a test", message="restored")
    last = read_ledger(lake, MODEL)[-1]
    assert (last.kind, last.version, last.actor) == (LedgerKind.GUARD, 1, "automation")
    assert "wholly under the floor of 0.6" in last.reason
    assert platform.registry.champion(MODEL) == candidate.champion
    assert answer.request.job == "readmission_champion_upkeep"
    assert answer.request.key.startswith("readmission|guard|")
    assert again.request is None, "the report is about the version that is live no longer"


def test_a_protocol_without_a_guard_has_no_guard(candidate: Developed, instance: dg.DagsterInstance) -> None:
    platform = candidate.platform
    at = Platform(platform.home, platform.lake, platform.registry, instance)
    answer = floor_broken(read_facts(at, small_protocol(), {}))
    assert (answer.request, answer.reason) == (None, "the protocol of readmission has no floor")


def test_an_act_that_was_interrupted_is_finished_in_a_run_and_one_at_work_is_left_alone(
    candidate: Developed, instance: dg.DagsterInstance
) -> None:
    platform, protocol = candidate.platform, candidate.platform.protocol
    at = Platform(platform.home, platform.lake, platform.registry, instance)
    for role in ROLES:
        platform.sign(candidate.candidate, role)
    entry = prepare_release(at, protocol, candidate.candidate, "a-run")
    next(move_champion(at, entry))
    with exclusive(platform.home, MODEL):
        assert look_at_champion(at, protocol, "", datetime.now(UTC)).request is None
    request = look_at_champion(at, protocol, "", datetime.now(UTC)).request
    assert request is not None
    assert request.job == "readmission_champion_upkeep"
    upkeep_job(protocol).execute_in_process(instance=instance, resources=platform.resources)
    assert not intent_path(platform.home, MODEL).exists()
    assert look_at_champion(at, protocol, "", datetime.now(UTC)).request is None
