"""When the sensor of a home looks at runs, incidents and notices; what follows is in test_failed_runs, test_runbook."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from troubled_home import TroubledHome

from clinical_assets.governance.incidents import Event, Incident
from clinical_assets.lifecycle.home_watch import Seen, home_watch
from clinical_assets.lifecycle.incidents import read_incidents
from clinical_assets.lifecycle.runbook import STEPS
from clinical_assets.resources.lake_io_manager import LakeResource

GONE = "/dev/null/there/can/be/no/lake"


class WatchedHome:
    """A home, and its sensor with the cursor that Dagster keeps for it."""

    def __init__(self, root: Path) -> None:
        self.troubled = TroubledHome.at(root)
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None

    def look(self, *, lake: LakeResource | None = None) -> dg.SensorResult:
        resources = self.troubled.resources | ({"lake": lake} if lake else {})
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources=resources)
        result = home_watch(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        return result

    def fails(self, job: str) -> None:
        run = dg.DagsterRun(job_name=job, status=dg.DagsterRunStatus.STARTED)
        self.instance.add_run(run)
        self.instance.report_run_failed(run)

    def records(self, incident: Incident) -> None:
        """All steps of an incident's runbook, as its runs leave them."""
        for step in STEPS:
            key = dg.AssetKey(["runbook", step])
            self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=incident.incident_id))

    def incidents(self) -> list[Incident]:
        return read_incidents(self.troubled.lake, self.troubled.home)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[WatchedHome]:
    watched = WatchedHome(tmp_path)
    yield watched
    watched.instance.dispose()


def steps(result: dg.SensorResult) -> list[str]:
    return [key.path[-1] for request in result.run_requests or () for key in request.asset_selection or ()]


def said(result: dg.SensorResult) -> str:
    assert isinstance(result.skip_reason, dg.SkipReason)
    return result.skip_reason.skip_message or ""


def test_a_glance_does_not_open_the_lake(watched: WatchedHome) -> None:
    for _ in range(2):
        watched.look()
    result = watched.look(lake=LakeResource(catalogue=GONE, data=GONE))
    assert said(result) == "no incident has changed"


def test_failures_from_before_the_home_was_watched_are_not_told(watched: WatchedHome) -> None:
    watched.fails("long_ago")
    watched.look()
    watched.fails("now")
    watched.fails("now_too")
    watched.look()
    assert {incident.job for incident in watched.incidents()} == {"now", "now_too"}
    assert Seen.read(watched.cursor).events == watched.instance.event_log_storage.get_maximum_record_id()


def test_a_failure_is_told_once(watched: WatchedHome) -> None:
    watched.look()
    watched.fails("now")
    for _ in range(3):
        watched.look()
    [incident] = watched.incidents()
    assert incident.observations == 1


def test_what_a_person_does_about_an_incident_is_recorded_at_the_next_look(watched: WatchedHome) -> None:
    watched.look()
    incident = watched.troubled.breach()
    assert steps(watched.look()) == ["diagnosis"]
    watched.instance.report_runless_asset_event(
        dg.AssetMaterialization(dg.AssetKey(["runbook", "diagnosis"]), partition=incident.incident_id)
    )
    assert steps(watched.look()) == []
    watched.troubled.act(incident, Event.ACKNOWLEDGED)
    assert steps(watched.look()) == ["decision"]


def test_a_run_that_ends_well_is_looked_at_only_while_an_incident_is_open(watched: WatchedHome) -> None:
    def ends_well() -> None:
        run = dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED)
        watched.instance.add_run(run)
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, "any", message="ended well")
        watched.instance.report_dagster_event(event, run.run_id)

    incident = watched.troubled.breach()
    watched.look()
    ends_well()
    assert steps(watched.look()) == ["diagnosis"], "asked for again, since it is not recorded"
    watched.troubled.close(incident)
    watched.records(incident)
    watched.look()
    ends_well()
    assert said(watched.look(lake=LakeResource(catalogue=GONE, data=GONE))).startswith("no incident has changed")
