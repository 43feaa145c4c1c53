from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from troubled_home import MODEL, TroubledHome

from clinical_assets.defs.runbook import runbook
from clinical_assets.governance.incidents import Cause, Event, Incident, IncidentError
from clinical_assets.lifecycle.home_watch import home_watch
from clinical_assets.lifecycle.runbook import STEPS
from clinical_assets.resources.outbox import pending_notices


class Runbook:
    """The runbook of a home with one incident, and the instance that records it."""

    def __init__(self, root: Path, cause: Cause = Cause.DRIFT_WITH_HARM) -> None:
        self.troubled = TroubledHome.at(root)
        self.instance = dg.DagsterInstance.ephemeral()
        self.incident: Incident = self.troubled.breach(cause=cause)
        self.cursor: str | None = None
        self.said: dg.SkipReason | None = None
        self.definitions = dg.Definitions.merge(runbook(), dg.Definitions(resources=self.troubled.resources))

    def tick(self) -> list[str]:
        """Let the sensor look, and run what it asks for; the steps that were asked for."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources=self.troubled.resources)
        result = home_watch(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor, self.said = result.cursor, result.skip_reason
        for request in result.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        asked = []
        for request in result.run_requests or ():
            assert request.asset_selection is not None
            asked += [key.path[-1] for key in request.asset_selection]
            self.run(asked, request.partition_key)
        return asked

    def run(self, steps: list[str], partition: str | None = None) -> dg.ExecuteInProcessResult:
        return self.definitions.resolve_job_def("runbook").execute_in_process(
            instance=self.instance,
            partition_key=partition or self.incident.incident_id,
            asset_selection=[dg.AssetKey(["runbook", step]) for step in steps],
        )

    def recorded(self, step: str) -> dict[str, object]:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(["runbook", step]))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}

    def month_ends_well(self) -> str:
        """A later run of the incident's own job."""
        run = dg.DagsterRun(job_name=f"{MODEL}_month", status=dg.DagsterRunStatus.SUCCESS)
        return self.instance.add_run(run).run_id


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Runbook]:
    book = Runbook(tmp_path)
    yield book
    book.instance.dispose()


def test_each_step_is_recorded_once_it_has_happened_and_not_before(book: Runbook) -> None:
    assert book.tick() == ["diagnosis"]
    assert book.troubled.home.incident_page(book.incident.incident_id).exists()
    assert book.tick() == []
    book.troubled.act(book.incident, Event.ACKNOWLEDGED, text="a candidate is awaited")
    assert book.tick() == ["decision"]
    book.troubled.act(book.incident, Event.MITIGATED, text="the candidate was released")
    assert book.tick() == ["repair_or_rollback"]
    run = book.month_ends_well()
    assert book.tick() == ["validation"]
    book.troubled.close(book.incident)
    assert book.tick() == ["closure"]
    assert book.tick() == []
    assert book.recorded("decision")["what"] == "a candidate is awaited"
    assert book.recorded("repair_or_rollback")["by"] == "dr-lead (clinical_lead)"
    assert book.recorded("validation")["evidence"] == run
    assert book.recorded("closure")["validated"] != "no"


def test_a_plan_that_opened_the_incident_is_its_decision(tmp_path: Path) -> None:
    planned = Runbook(tmp_path, Cause.FIX_DATA)
    assert planned.tick() == ["diagnosis", "decision"]
    assert planned.recorded("decision")["by"] == "repair_plan"
    planned.instance.dispose()


@pytest.mark.parametrize(("step", "told"), [(STEPS[1], "nobody has decided"), (STEPS[4], "it is not closed")])
def test_a_step_that_has_not_happened_cannot_be_materialised(book: Runbook, step: str, told: str) -> None:
    assert book.tick() == ["diagnosis"]
    with pytest.raises(IncidentError, match=told):
        book.run([step])


def test_what_is_seen_again_after_the_mitigation_is_not_validated(book: Runbook) -> None:
    book.troubled.act(book.incident, Event.MITIGATED)
    book.tick()
    book.troubled.breach(book.incident.opened_at.date().replace(day=1))
    book.month_ends_well()
    assert book.tick() == []
    book.troubled.close(book.incident)
    assert book.tick() == ["closure"]
    assert book.recorded("closure")["validated"] == "no"


def test_a_run_from_before_the_mitigation_validates_nothing(book: Runbook) -> None:
    book.month_ends_well()
    book.troubled.act(book.incident, Event.MITIGATED)
    assert "validation" not in book.tick()


def test_the_sensor_delivers_what_waits_and_a_broken_setting_loses_nothing(book: Runbook) -> None:
    home = book.troubled.home
    home.notifiers.write_text('[webhook.pager]\nurl = "http://127.0.0.1:1/"\n')
    assert book.tick() == ["diagnosis"]
    assert book.tick() == []
    assert book.said is not None
    assert "0 notices delivered, 1 wait" in (book.said.skip_message or "")
    assert pending_notices(home.outbox) == [f"{book.incident.incident_id}-0001"]
