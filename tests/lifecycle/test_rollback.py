"""Going back: only to what was released and is unchanged, whole or not at all, and written down."""

import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from champion_moves import audited, live_everywhere, published_as_live, sign
from killed_act import STEPS_OF_RELEASE, STEPS_OF_ROLLBACK, die
from small_platform import MODEL, Developed

from clinical_assets.governance.ledger import LedgerError, LedgerKind
from clinical_assets.lifecycle.automation import waiting_candidate
from clinical_assets.lifecycle.champion_move import (
    Intent,
    Platform,
    ReleaseError,
    intent_path,
    recover,
    settle,
    write_intent,
)
from clinical_assets.lifecycle.publication import publish_when_lake_changed
from clinical_assets.lifecycle.release_act import release_version
from clinical_assets.lifecycle.rollback import Rollback, roll_back
from clinical_assets.resources.analytics import publish_analytics
from clinical_assets.resources.ledger import LEDGER_TABLE, read_ledger
from clinical_assets.resources.registry import CHAMPION, RegistryError


def back(at: Platform, candidate: Developed, to: int | None = None, **how: Any) -> Rollback:
    return roll_back(at, candidate.platform.protocol, to, "a drill", "user:ann", **how)


def test_the_version_before_is_live_again_everywhere_and_it_is_written_down(
    candidate: Developed, twice_released: Platform
) -> None:
    at = twice_released
    assert live_everywhere(at) == {2}
    done = back(at, candidate)
    assert live_everywhere(at) == {1}
    assert published_as_live(at) == [(1, "rollback")]
    assert (done.entry.kind, done.entry.version, done.entry.previous_version) == (LedgerKind.ROLLBACK, 1, 2)
    assert (done.entry.actor, done.entry.reason, done.smoke_rows) == ("user:ann", "a drill", 64)
    assert {x.signer for x in done.entry.approvals} == {"dr-mlops", "dr-clinical_lead"}
    [record] = [x for x in audited(at, "rollback") if x["details"]["entry_sha256"] == done.entry.sha256]
    assert (record["actor"], record["reason"], record["outcome"]) == ("user:ann", "a drill", "success")
    noticed = at.lake.read("governance.incident_event", where={"cause": "rollback"})
    assert noticed.filter(text="rollback from version 2 to version 1 by user:ann: a drill").height
    assert not intent_path(at.home, MODEL).exists()


def test_a_month_after_a_rollback_is_scored_and_compared_by_the_version_that_is_live(
    candidate: Developed, twice_released: Platform
) -> None:
    back(twice_released, candidate)
    candidate.platform.run("month", candidate.platform.lake.months(f"{MODEL}.features")[-1], twice_released.instance)
    month = candidate.platform.lake.months(f"{MODEL}.drift_report")[-1]
    for table, column in (("predictions", "model_version"), ("drift_report", "champion_version")):
        assert candidate.platform.lake.read(f"{MODEL}.{table}", month=month)[column].unique().to_list() == [1]


def test_a_version_rolled_back_from_does_not_come_back_on_its_old_signatures(
    candidate: Developed, twice_released: Platform
) -> None:
    at, protocol = twice_released, candidate.platform.protocol
    back(at, candidate)
    with pytest.raises(
        ReleaseError, match=r"it was rolled back or withdrawn on .* no approval as mlops was given since"
    ):
        release_version(at, protocol, candidate.candidate, "again")
    assert live_everywhere(at) == {1}
    sign(candidate, signed_at=(datetime.now(UTC) + timedelta(seconds=2)).isoformat())
    assert release_version(at, protocol, candidate.candidate, "again").version == 2


def test_the_sensors_do_not_take_a_version_rolled_back_from_for_a_new_candidate(
    candidate: Developed, twice_released: Platform
) -> None:
    instance = twice_released.instance
    metadata = {"version": 2, "report_sha256": "", "silent_months_left": 0, "may_pass": True, "features_through": ""}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(dg.AssetKey([MODEL, "validation_report"]), metadata=metadata)
    )
    back(twice_released, candidate)
    waiting = waiting_candidate(instance, MODEL)
    assert isinstance(waiting, dg.SkipReason)
    assert "version 2 was rolled back" in (waiting.skip_message or "")


def assert_refused(at: Platform, candidate: Developed, words: str, to: int | None = None, **how: Any) -> None:
    before, refusals = live_everywhere(at), len(audited(at, "rollback_refused"))
    with pytest.raises((LedgerError, RegistryError), match=words):
        back(at, candidate, to, **how)
    assert live_everywhere(at) == before
    *_, refusal = audited(at, "rollback_refused")
    assert len(audited(at, "rollback_refused")) == refusals + 1
    assert (refusal["outcome"], refusal["actor"]) == ("failure", "user:ann")


def test_only_a_version_that_was_once_released_can_be_gone_back_to(candidate: Developed, at: Platform) -> None:
    settle(at, MODEL)
    assert_refused(at, candidate, "readmission version 2 was never released; released were: 1", to=2)
    assert_refused(at, candidate, "version 7 was never released", to=7)
    assert_refused(at, candidate, "version 1 was the first release; there is none to go back to")
    assert_refused(at, candidate, "version 1 is live already", to=1)


def test_a_rollback_leaves_the_analysts_file_to_the_sensor(candidate: Developed, twice_released: Platform) -> None:
    at = twice_released
    publish_analytics(at.lake, at.home.analytics, [MODEL])
    before = at.home.analytics.stat().st_ino
    back(at, candidate)
    assert at.home.analytics.stat().st_ino == before
    resources = {name: candidate.platform.resources[name] for name in ("home", "lake")}
    asked = publish_when_lake_changed(0.0)(dg.build_sensor_context(instance=at.instance, resources=resources))
    assert isinstance(asked, dg.SensorResult)
    assert [request.job_name or "publication" for request in asked.run_requests or []] == ["publication"]


def test_a_rollback_without_a_reason_is_refused(candidate: Developed, twice_released: Platform) -> None:
    with pytest.raises(LedgerError, match="needs a reason"):
        roll_back(twice_released, candidate.platform.protocol, None, "  ", "user:ann")
    assert live_everywhere(twice_released) == {2}


def test_a_version_whose_files_were_edited_since_is_refused(candidate: Developed, twice_released: Platform) -> None:
    [file, *_] = sorted(candidate.platform.registry.files(candidate.champion).glob("*.skops"))
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    try:
        assert_refused(twice_released, candidate, "readmission version 1: .* was changed or damaged")
    finally:
        file.write_bytes(whole)


def test_other_files_with_a_tag_in_mlflow_that_fits_them_are_refused(
    candidate: Developed, twice_released: Platform
) -> None:
    """The ledger says which files were released, not MLflow."""
    import shutil

    from mlflow import MlflowClient

    client = MlflowClient(candidate.platform.home.registry_uri)
    swapped = candidate.platform.registry.files(candidate.champion)
    kept = swapped.with_name("kept")
    swapped.rename(kept)
    shutil.copytree(candidate.platform.registry.files(candidate.candidate), swapped)
    client.set_model_version_tag(MODEL, "1", "artefact_sha256", candidate.candidate.artefact_sha256)
    try:
        assert_refused(twice_released, candidate, "readmission version 1: .* was changed or damaged")
    finally:
        client.set_model_version_tag(MODEL, "1", "artefact_sha256", candidate.champion.artefact_sha256)
        shutil.rmtree(swapped)
        kept.rename(swapped)


def test_a_version_that_no_longer_says_the_same_is_refused(
    candidate: Developed, twice_released: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are unchanged, and another library gives another risk by the eleventh digit."""
    kind = type(candidate.platform.registry.load(candidate.champion, candidate.platform.protocol.estimator))
    predict = kind.predict
    monkeypatch.setattr(kind, "predict", lambda self, rows: predict(self, rows) + 1e-11)
    assert_refused(twice_released, candidate, "its risks are up to 1e-11 from those at its release")


def test_an_edited_smoke_set_is_refused(candidate: Developed, twice_released: Platform) -> None:
    note: dict[str, Any] = {"author": "a test", "message": "an attack"}
    lake = twice_released.lake
    kept = lake.read(f"{MODEL}.smoke_set", where={"version": 1})
    other = lake.read(f"{MODEL}.smoke_set", where={"version": 2})["smoke_set"][0]
    lake.write_table(f"{MODEL}.smoke_set", kept.with_columns(smoke_set=other), replace_by="version", **note)
    try:
        assert_refused(twice_released, candidate, "the smoke set of readmission version 1 is gone or was changed")
    finally:
        lake.write_table(f"{MODEL}.smoke_set", kept, replace_by="version", **note)


def test_an_edited_ledger_is_refused(candidate: Developed, twice_released: Platform) -> None:
    lake, number = twice_released.lake, read_ledger(twice_released.lake, MODEL)[-1].number
    edit = f"UPDATE lake.{LEDGER_TABLE} SET version = ? WHERE number = {number} AND model = '{MODEL}'"
    with lake.cursor() as cursor:
        cursor.execute(edit, [1])
    try:
        with pytest.raises(LedgerError, match="was edited after it was written"):
            back(twice_released, candidate)
    finally:
        with lake.cursor() as cursor:
            cursor.execute(edit, [2])
    assert live_everywhere(twice_released) == {2}


def test_a_smoke_set_has_no_patient_s_row_and_no_pseudonym(candidate: Developed, twice_released: Platform) -> None:
    import io

    import polars as pl

    kept = twice_released.lake.read(f"{MODEL}.smoke_set", where={"version": 2})["smoke_set"][0]
    rows = pl.read_parquet(io.BytesIO(kept)).drop("said_1")
    features = twice_released.lake.read(f"{MODEL}.features")
    assert rows.height == 64
    assert rows.join(features, on=rows.columns, how="semi", nulls_equal=True).is_empty()
    assert not {candidate.platform.protocol.patient, candidate.platform.protocol.unit} & set(rows.columns)


@pytest.mark.parametrize("last_words", STEPS_OF_ROLLBACK)
def test_a_rollback_killed_after_any_step_leaves_the_old_or_the_new(
    candidate: Developed, twice_released: Platform, last_words: str
) -> None:
    at = twice_released
    ended = die(at.home, candidate.platform.protocol, 1, last_words, LedgerKind.ROLLBACK)
    assert ended == -signal.SIGKILL
    told = recover(at, MODEL)
    before = STEPS_OF_ROLLBACK.index(last_words) < STEPS_OF_ROLLBACK.index("alias moved")
    assert live_everywhere(at) == ({2} if before else {1})
    assert ("dropped" if before else "finished" if last_words != "intent dropped" else "") in told
    assert not intent_path(at.home, MODEL).exists()
    last = read_ledger(at.lake, MODEL)[-1]
    if not before:
        assert len([x for x in audited(at, "rollback") if x["details"]["entry_sha256"] == last.sha256]) == 1
        incidents = at.lake.read("governance.incident", where={"cause": "rollback"})
        assert incidents.filter(opened_at=incidents["opened_at"].max()).height == 1


@pytest.mark.parametrize("last_words", STEPS_OF_RELEASE)
def test_a_release_killed_after_any_step_leaves_the_old_or_the_new(
    candidate: Developed, at: Platform, last_words: str
) -> None:
    settle(at, MODEL)
    sign(candidate)
    assert die(at.home, candidate.platform.protocol, 2, last_words, LedgerKind.RELEASE) == -signal.SIGKILL
    recover(at, MODEL)
    settle(at, MODEL)
    before = STEPS_OF_RELEASE.index(last_words) < STEPS_OF_RELEASE.index("alias moved")
    assert live_everywhere(at) == ({1} if before else {2})
    assert not intent_path(at.home, MODEL).exists()
    assert release_version(at, candidate.platform.protocol, candidate.candidate, "next").version == 2


@pytest.mark.parametrize("damage", ['"version": 2', '"signer": "dr-mlops"'])
def test_an_intent_that_the_platform_did_not_write_is_not_finished(
    candidate: Developed, at: Platform, damage: str
) -> None:
    """Or else whoever can write to the folder and to MLflow would have a version of their own in the ledger."""
    settle(at, MODEL)
    entry = replace(read_ledger(at.lake, MODEL)[0], version=2, number=99)
    write_intent(at.home, Intent(entry, champion_before=1, audited=False))
    path = intent_path(at.home, MODEL)
    path.write_text(path.read_text().replace(damage, damage[:-1] + {"2": "1", '"': 'x"'}[damage[-1]]))
    candidate.platform.set_alias(CHAMPION, candidate.candidate)
    ledger = read_ledger(at.lake, MODEL)
    try:
        with pytest.raises(LedgerError, match="was not written by the platform, or was changed"):
            recover(at, MODEL)
    finally:
        path.unlink()
    assert read_ledger(at.lake, MODEL) == ledger
