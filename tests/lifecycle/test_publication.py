"""When the analysts' file is published: by itself soon after a commit, once, and again where a run was lost."""

import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from small_platform import MODEL, SmallPlatform, small_protocol

from clinical_assets.defs.publication import PAUSE, pause_seconds, publication
from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.audit_verification import read_records
from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.governance.pseudonyms import load_or_create_key
from clinical_assets.lifecycle import publication as module
from clinical_assets.lifecycle.incidents import open_incident
from clinical_assets.lifecycle.publication import JOB, MOST_ATTEMPTS, publish, publish_when_lake_changed
from clinical_assets.protocol import ProtocolError, protocol_names
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.leak_search import LeakError

MONTH = date(2024, 1, 1)
PAUSE_SECONDS = 60.0


class Desk:
    """The sensor of a home, with its cursor, on a clock that is moved by hand."""

    def __init__(self, platform: SmallPlatform, clock: pytest.MonkeyPatch) -> None:
        self.platform, self.instance, self.cursor = platform, dg.DagsterInstance.ephemeral(), ""
        self.ahead = PAUSE_SECONDS + 1
        now = time.time
        clock.setattr(module.time, "time", lambda: now() + self.ahead)

    def bring(self, value: str = "urgent", table: str = "dataset") -> None:
        rows = pl.DataFrame({"month": [MONTH] * 3, "admission_type": ["emergency", "elective", value]})
        self.platform.lake.write_month(f"{MODEL}.{table}", MONTH, rows, author="a test", message="a month")

    def tick(self, after: float = 0.0) -> dg.RunRequest | str:
        """What the sensor asks for so much later, or why it does not."""
        self.ahead += after
        resources = {name: self.platform.resources[name] for name in ("home", "lake")}
        context = dg.build_sensor_context(instance=self.instance, resources=resources, cursor=self.cursor)
        result = publish_when_lake_changed(PAUSE_SECONDS)(context)
        if isinstance(result, dg.SkipReason):
            return str(result.skip_message)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor or self.cursor
        return result.run_requests[0] if result.run_requests else str(result.skip_reason.skip_message)  # pyright: ignore[reportOptionalMemberAccess, reportOptionalSubscript]

    def asks(self, after: float = 0.0) -> str:
        """The key of the run that the sensor asks for."""
        request = self.tick(after)
        assert isinstance(request, dg.RunRequest), request
        return str(request.run_key)

    def publish(self) -> None:
        publish(self.platform.lake, self.platform.home, actor="user:test")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    yield Desk(
        SmallPlatform.on(tmp_path / "home", tmp_path / "raw" / "dataset_diabetes", small_protocol()), monkeypatch
    )


def test_a_commit_is_published_once_and_not_sooner_than_a_pause_after_the_last(desk: Desk) -> None:
    assert "no table of a model yet" in str(desk.tick())
    desk.bring()
    first = desk.asks()
    assert "less than 60 s ago" in str(desk.tick()), "it was asked for"
    desk.publish()
    assert "less than 60 s ago" in str(desk.tick(30))
    assert "the file shows the lake's snapshot" in str(desk.tick(31))
    for _ in range(3):
        desk.bring()
        desk.bring(table="features")
    second = desk.asks()
    assert second != first
    desk.publish()
    assert "the file shows the lake's snapshot" in str(desk.tick(61))


def test_a_lake_that_was_just_made_is_given_a_pause_to_fill(desk: Desk) -> None:
    desk.bring()
    assert "the lake was made less than 60 s ago" in str(desk.tick(-PAUSE_SECONDS))
    desk.asks(PAUSE_SECONDS)


def test_a_person_who_publishes_leaves_nothing_to_ask_for(desk: Desk) -> None:
    desk.bring()
    desk.publish()
    assert "the file shows the lake's snapshot" in str(desk.tick(61))


def test_without_a_commit_the_lake_is_not_even_opened(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.bring()
    desk.publish()
    desk.tick(61)
    desk.tick()
    with monkeypatch.context() as shut:
        shut.setattr(Lake, "cursor", None)
        assert desk.tick(600) == "no commit to the lake since the last look"
    desk.bring("elective")
    desk.asks()


def test_none_is_asked_for_while_one_is_at_work_and_a_lost_one_does_not_count(desk: Desk) -> None:
    desk.bring()
    run = dg.DagsterRun(JOB, "00000000-0000-0000-0000-000000000001", status=dg.DagsterRunStatus.STARTED)
    desk.instance.add_run(run)
    assert desk.tick() == "a publication is at work"
    desk.instance.delete_run(run.run_id)
    never_started = dg.DagsterRun(JOB, "00000000-0000-0000-0000-000000000002", status=dg.DagsterRunStatus.NOT_STARTED)
    desk.instance.add_run(never_started)
    assert desk.tick() == "a publication is at work"
    with pytest.MonkeyPatch.context() as later:
        later.setattr(module, "STARTS_WITHIN", -module.STARTS_WITHIN)
        desk.asks()


def test_one_that_fails_is_asked_for_again_later_each_time_and_not_for_ever(desk: Desk) -> None:
    desk.bring()
    keys = [desk.asks()]
    for attempt in range(1, MOST_ATTEMPTS):
        # A failed run leaves an incident in the lake: no reason to begin to count anew.
        breach = Breach("platform", Cause.FAILED_RUN, f"{attempt}", "a run failed", run_id=f"{attempt}")
        open_incident(desk.platform.lake, desk.platform.home, breach, actor="automation")
        assert "it is asked for again in" in str(desk.tick(PAUSE_SECONDS * 2**attempt - 50))
        keys.append(desk.asks(50))
    assert len(set(keys)) == MOST_ATTEMPTS
    assert "was to be published 4 times, and never was" in str(desk.tick(10_000))
    desk.bring("elective")
    assert "retry" not in desk.asks()


def test_one_that_was_refused_for_a_leak_is_not_asked_for_until_something_has_changed(desk: Desk) -> None:
    desk.bring()
    log = desk.platform.home.dagster / "daemon.log"
    log.write_text(f"KeyError: {canaries(load_or_create_key(desk.platform.home.pseudonym_key))[6].value}")
    desk.asks()
    with pytest.raises(LeakError):
        desk.publish()
    assert "was refused for a leak; nothing has changed since" in str(desk.tick(10_000))
    log.unlink()
    desk.bring("elective")
    desk.asks()
    desk.publish()
    assert "the file shows the lake's snapshot" in str(desk.tick(10_000))


def test_what_people_did_about_incidents_is_published_too(desk: Desk) -> None:
    desk.bring()
    desk.asks()
    desk.publish()
    open_incident(desk.platform.lake, desk.platform.home, Breach("platform", Cause.ROLLBACK, "1", "a drill"))
    assert "retry" not in desk.asks(61)


def test_a_run_that_finds_a_newer_publication_ends_at_once_and_is_audited_all_the_same(desk: Desk) -> None:
    desk.bring()
    platform, home = desk.platform, desk.platform.home
    for is_new in (True, False):
        before = home.analytics.stat().st_ino if home.analytics.exists() else None
        run = platform.publish(desk.instance)
        [materialised] = run.asset_materializations_for_node("analytics")
        assert materialised.metadata["is_new"].value is is_new
        assert (home.analytics.stat().st_ino != before) is is_new
        actions = [x.action for x in read_records(AuditTrail(home.audit)) if x.actor == f"run:{run.run_id}"]
        assert actions == (["publish"] if is_new else ["materialise"])


def test_the_asset_is_the_home_s_and_follows_from_every_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PAUSE, raising=False)
    assert pause_seconds() == PAUSE_SECONDS
    monkeypatch.setenv(PAUSE, "2.5")
    assert pause_seconds() == 2.5
    monkeypatch.setenv(PAUSE, "soon")
    with pytest.raises(ProtocolError, match="CLINICAL_PUBLISH_SECONDS is 'soon'; give a number of seconds"):
        pause_seconds()
    monkeypatch.delenv(PAUSE)
    nowhere = SmallPlatform(Home(tmp_path, tmp_path), small_protocol())
    definitions = dg.Definitions.merge(publication(), dg.Definitions(resources=nowhere.resources))
    [spec] = [spec for spec in definitions.resolve_all_asset_specs() if spec.key == dg.AssetKey("analytics")]
    assert spec.automation_condition is None
    assert {dep.asset_key for dep in spec.deps} == {
        dg.AssetKey([model, asset])
        for model in protocol_names()
        for asset in ("drift_report", "performance_report", "repair_plan", "validation_report", "release")
    }
    assert definitions.resolve_job_def(JOB).name == "publication"
    assert definitions.resolve_sensor_def("publish_when_lake_changed").job_name == JOB
