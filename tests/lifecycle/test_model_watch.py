"""When the sensor of a model asks its questions, and what keeps one question from the others' way."""

import os
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from small_platform import MODEL, ROLES, small_protocol
from watched_model import WatchedModel

from clinical_assets.governance.signatures import SignatureError
from clinical_assets.lifecycle.asking_again import MOST_ATTEMPTS, PAUSES
from clinical_assets.lifecycle.champion_move import ReleaseError, intent_path
from clinical_assets.lifecycle.incidents import MODEL as MODEL_TAG
from clinical_assets.lifecycle.intervals import LONGEST_PAUSE_SECONDS, SECONDS_BETWEEN_COMPARISONS, sensor_seconds
from clinical_assets.lifecycle.model_watch import Look, Seen, look
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry

NOTHING_NEW = f"nothing new of {MODEL} since the last look"
GONE = "/dev/null/there/can/be/no/store"


@pytest.fixture
def watched(tmp_path: Path) -> WatchedModel:
    """A released version, a candidate, and a sensor that has looked twice."""
    watched = WatchedModel(tmp_path, small_protocol())
    watched.released(1)
    watched.reported(2)
    watched.look()
    assert watched.look().reason.startswith(NOTHING_NEW)
    return watched


def sign_all(watched: WatchedModel, version: int = 2) -> None:
    for role in ROLES:
        watched.sign(role, version)


def release_of(found: Look) -> dg.RunRequest:
    [request] = found.requests
    assert request.job_name == f"{MODEL}_release"
    return request


def test_a_glance_opens_neither_the_lake_nor_the_registry(watched: WatchedModel) -> None:
    at = watched.at
    unreachable = type(at)(at.home, Lake(GONE, Path(GONE)), Registry(GONE, Path(GONE)), at.instance)
    found = look(unreachable, watched.protocol, Seen.read(watched.cursor), watched.now)
    assert found.reason.startswith(NOTHING_NEW)


def test_a_glance_goes_on_saying_what_is_waited_for(watched: WatchedModel) -> None:
    assert "version 2 waits for approval as mlops, clinical_lead" in watched.look().reason


def test_a_signature_is_seen_at_the_next_look(watched: WatchedModel) -> None:
    watched.sign("mlops", 2)
    assert "version 2 waits for approval as clinical_lead" in watched.look().reason
    watched.sign("clinical_lead", 2)
    assert release_of(watched.look()).run_key == f"{MODEL}|v2|444444444444|2|2026-01-01T00:00:00+00:00"


def test_a_report_is_seen_at_the_next_look_and_another_model_s_is_not_looked_at(watched: WatchedModel) -> None:
    key = dg.AssetKey(["sepsis", "drift_report"])
    watched.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="2024-05"))
    assert watched.look().reason.startswith(NOTHING_NEW)
    watched.materialised("features", "2024-06")
    assert not watched.look().reason.startswith(NOTHING_NEW)


@pytest.mark.parametrize(("model", "seen"), [(MODEL, True), ("sepsis", False), (None, True)])
def test_a_run_that_ended_is_seen_unless_it_is_another_model_s(
    watched: WatchedModel, model: str | None, seen: bool
) -> None:
    """One that a person launches in the UI does not say of which model it is."""
    run = dg.DagsterRun(job_name="a_job", status=dg.DagsterRunStatus.STARTED, tags={MODEL_TAG: model} if model else {})
    watched.instance.add_run(run)
    assert watched.look().reason.startswith(NOTHING_NEW)
    watched.instance.report_run_failed(run)
    assert watched.look().reason.startswith(NOTHING_NEW) is not seen


def test_what_leaves_no_event_is_seen_after_a_while(watched: WatchedModel) -> None:
    """A signature file that is put right in its place changes no folder."""
    path = watched.sign("mlops", 2)
    whole = path.read_text()
    watched.look()
    folder = path.parent.stat()
    path.write_text(whole.replace('"mlops"', '"clinical_lead"'))
    os.utime(path.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))
    assert watched.look().reason.startswith(NOTHING_NEW)
    watched.pass_time(seconds=LONGEST_PAUSE_SECONDS)
    assert "version 2 waits for approval as mlops" in watched.look().reason


def test_the_champion_is_compared_when_ledger_or_registry_were_written_and_at_most_once_a_minute(
    watched: WatchedModel,
) -> None:
    compared = Seen.read(watched.cursor).compared_at
    watched.home.lake_catalogue.touch()
    watched.look()
    assert Seen.read(watched.cursor).compared_at == compared
    watched.pass_time(seconds=SECONDS_BETWEEN_COMPARISONS)
    watched.look()
    compared_again = Seen.read(watched.cursor).compared_at
    assert compared_again > compared
    watched.pass_time(seconds=SECONDS_BETWEEN_COMPARISONS)
    watched.look()
    assert Seen.read(watched.cursor).compared_at == compared_again, "nothing was written since"


def test_an_interrupted_act_is_seen_at_the_next_look(watched: WatchedModel) -> None:
    path = intent_path(watched.home, MODEL)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    [request] = watched.look().requests
    assert request.job_name == f"{MODEL}_champion_upkeep"
    assert request.run_key == f"{MODEL}|interrupted|{path.stat().st_mtime_ns}"


def test_a_question_that_cannot_be_answered_keeps_no_other_from_its_turn(watched: WatchedModel) -> None:
    damaged = watched.sign("mlops", 2)
    damaged.write_text("{")
    watched.materialised(
        "repair_plan",
        "2024-06",
        **{"repair/repair": "retrain", "repair/reason": "x", "repair/champion_version": 1, "repair/columns": ""},
    )
    [request] = watched.look().requests
    assert request.job_name == f"{MODEL}_retraining"
    watched.runs(request, dg.DagsterRunStatus.STARTED, **{"clinical/retraining": MODEL})
    with pytest.raises(SignatureError, match=damaged.name):
        watched.look()


def test_an_unanswered_question_is_asked_again_until_it_is_answered(watched: WatchedModel) -> None:
    damaged = watched.sign("mlops", 2)
    damaged.write_text("{")
    for _ in range(2):
        with pytest.raises(SignatureError):
            watched.look()
    damaged.unlink()
    assert "version 2 waits for approval as mlops, clinical_lead" in watched.look().reason


def test_a_lost_or_foreign_cursor_begins_anew(watched: WatchedModel) -> None:
    for cursor in (None, "no cursor", '{"events": "x"}'):
        watched.cursor = cursor
        assert not watched.look().reason.startswith(NOTHING_NEW)


def test_a_request_whose_run_failed_is_made_again_under_its_own_key_after_growing_pauses(watched: WatchedModel) -> None:
    sign_all(watched)
    keys = list[str | None]()
    for pause in PAUSES:
        request = release_of(watched.look())
        keys.append(request.run_key)
        watched.runs(request, dg.DagsterRunStatus.FAILURE)
        watched.passed = pause - timedelta(seconds=5)  # since the end of the run, whose time is the machine's
        assert watched.look().requests == (), "too early"
        watched.pass_time(seconds=10)
    request = release_of(watched.look())
    keys.append(request.run_key)
    assert keys == [keys[0], f"{keys[0]}|retry 1", f"{keys[0]}|retry 2"]


def test_after_the_last_attempt_an_incident_says_so_once(watched: WatchedModel) -> None:
    sign_all(watched)
    for _ in range(MOST_ATTEMPTS):
        watched.runs(release_of(watched.look()), dg.DagsterRunStatus.FAILURE)
        watched.pass_time(hours=1)
    for _ in range(3):
        assert watched.look().requests == ()
        watched.pass_time(hours=1)
    [incident] = [x for x in watched.incidents() if x.job == f"{MODEL}_release"]
    assert incident.observations == 1
    assert incident.error == (
        f"{MODEL}_release: 3 runs of it failed, and it is not asked for again; version 2 is approved by every role"
    )
    watched.sign("mlops", 2, minute=5)
    assert release_of(watched.look()).run_key, "a new signature is a new request"


def test_while_its_run_is_at_work_or_once_it_has_ended_well_a_request_is_not_made_again(watched: WatchedModel) -> None:
    sign_all(watched)
    request = release_of(watched.look())
    run = watched.runs(request, dg.DagsterRunStatus.STARTED)
    watched.pass_time(hours=1)
    assert watched.look().requests == ()
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name, message="ended well")
    watched.instance.report_dagster_event(event, run.run_id)
    watched.pass_time(hours=1)
    assert watched.look().requests == ()


def test_a_run_that_never_started_counts_as_one_that_failed(watched: WatchedModel) -> None:
    sign_all(watched)
    request = release_of(watched.look())
    tags = {**request.tags, "dagster/run_key": request.run_key or ""}
    run = dg.DagsterRun(job_name=request.job_name or "", status=dg.DagsterRunStatus.NOT_STARTED, tags=tags)
    watched.instance.add_run(run)
    watched.instance.report_run_failed(run, "Run timed out due to taking longer than 120 seconds to start.")
    watched.pass_time(seconds=PAUSES[0].total_seconds() + 5)
    assert release_of(watched.look()).run_key == f"{request.run_key}|retry 1"


def test_a_release_that_was_refused_is_no_failure_and_not_tried_again(watched: WatchedModel) -> None:
    sign_all(watched)
    request = release_of(watched.look())

    @dg.op
    def release() -> None:
        raise ReleaseError("a limit is not met")

    @dg.job(name=f"{MODEL}_release")
    def job() -> None:
        release()

    tags = {**request.tags, "dagster/run_key": request.run_key or ""}
    job.execute_in_process(instance=watched.instance, tags=tags, raise_on_error=False)
    watched.pass_time(days=1)
    found = watched.look()
    assert found.requests == ()
    assert "version 2 is approved by every role: it was refused" in found.reason
    assert watched.incidents() == []


@pytest.mark.parametrize("written", ["0", "-1", "soon", "1.5"])
def test_an_interval_that_is_no_number_of_seconds_is_refused(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("CLINICAL_SENSOR_SECONDS", written)
    with pytest.raises(ValueError, match="CLINICAL_SENSOR_SECONDS"):
        sensor_seconds()


def test_the_interval_of_every_look_is_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLINICAL_SENSOR_SECONDS", raising=False)
    assert sensor_seconds() == 15
    monkeypatch.setenv("CLINICAL_SENSOR_SECONDS", "1")
    assert sensor_seconds() == 1


def test_no_pause_is_shorter_than_the_one_before() -> None:
    assert sorted(PAUSES) == list(PAUSES)
    assert timedelta(0) < PAUSES[0]


def test_an_incident_that_could_not_be_opened_beside_a_request_is_opened_at_the_next_look(
    watched: WatchedModel,
) -> None:
    plan = {"repair/repair": "retrain", "repair/reason": "x", "repair/champion_version": 1, "repair/columns": ""}
    watched.materialised("repair_plan", "2024-06", **plan)
    harm = {"drift/verdict": "population_shift", "drift/reason": "age_band moved", "severity": 0.5}
    watched.materialised("drift_report", "2024-06", **harm)
    at = watched.at
    no_lake = type(at)(at.home, Lake(GONE, Path(GONE)), at.registry, at.instance)
    found = look(no_lake, watched.protocol, Seen.read(watched.cursor), watched.now)
    assert [request.job_name for request in found.requests] == [f"{MODEL}_retraining"]
    watched.cursor = found.seen.written()
    assert watched.incidents() == []
    watched.look()
    assert [incident.cause for incident in watched.incidents()] == ["drift_with_harm"]
