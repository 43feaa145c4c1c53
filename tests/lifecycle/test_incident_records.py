import json
import multiprocessing
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from troubled_home import MODEL, MONTH, TroubledHome

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.incidents import (
    Breach,
    Cause,
    Event,
    IncidentError,
    State,
    faults_of_events,
    incidents_of,
)
from clinical_assets.governance.platform_key import platform_key
from clinical_assets.governance.signers import read_signers
from clinical_assets.lifecycle.incidents import (
    EVENT_TABLE,
    INCIDENT_TABLE,
    open_incident,
    read_events,
    read_incidents,
)
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.outbox import pending_notices

JUNE = date(2025, 6, 1)


@pytest.fixture
def troubled(tmp_path: Path) -> TroubledHome:
    return TroubledHome.at(tmp_path)


def faults_of(troubled: TroubledHome) -> dict[int, str]:
    [history] = incidents_of(read_events(troubled.lake, troubled.home)).values()
    signers = read_signers([troubled.home.signers])
    return faults_of_events(history, signers, platform_key(troubled.home.keys).public_key)


def audited(troubled: TroubledHome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in AuditTrail(troubled.home.audit).path.read_text().splitlines()]


def test_every_event_is_stored_signed_audited_and_the_state_follows(troubled: TroubledHome) -> None:
    incident = troubled.breach()
    troubled.breach(JUNE)
    for event in (Event.ACKNOWLEDGED, Event.MITIGATED):
        troubled.act(incident, event)
    troubled.close(incident)
    events = [event.event for event in read_events(troubled.lake, troubled.home)]
    assert events == [Event.OPENED, Event.OBSERVED, Event.ACKNOWLEDGED, Event.MITIGATED, Event.CLOSED]
    assert faults_of(troubled) == {}
    [row] = troubled.lake.read(INCIDENT_TABLE).to_dicts()
    assert (row["state"], row["observations"], row["changed_by"]) == ("closed", 2, "dr-lead")
    assert [(record["action"], record["actor"]) for record in audited(troubled)] == [
        ("incident_opened", incident.changed_by),
        ("incident_changed", incident.changed_by),
        *[("incident_changed", "dr-lead")] * 3,
    ]
    assert audited(troubled)[-1]["details"]["event_sha256"] == read_events(troubled.lake, troubled.home)[-1].sha256


def test_a_breach_that_is_known_leaves_no_trace(troubled: TroubledHome) -> None:
    troubled.breach()
    again = Breach(MODEL, Cause.DRIFT_WITH_HARM, "champion", "told otherwise", MONTH, "another-run")
    assert open_incident(troubled.lake, troubled.home, again) is None
    assert (len(audited(troubled)), len(pending_notices(troubled.home.outbox))) == (1, 1)


def test_people_are_told_of_changes_of_state_and_not_of_each_month(troubled: TroubledHome) -> None:
    incident = troubled.breach()
    troubled.breach(JUNE)
    troubled.act(incident, Event.NOTE)
    troubled.close(incident)
    assert pending_notices(troubled.home.outbox) == [f"{incident.incident_id}-{n:04d}" for n in (1, 4)]


def test_an_event_edited_in_the_lake_is_found(troubled: TroubledHome) -> None:
    troubled.close(troubled.breach())
    table = troubled.lake.read(EVENT_TABLE)
    edited = table.with_columns(root_cause=pl.lit("nobody's fault"))
    troubled.lake.write_table(EVENT_TABLE, edited, author="mallory", message="")
    assert set(faults_of(troubled)) == {1, 2}


def test_a_refused_change_leaves_nothing(troubled: TroubledHome) -> None:
    incident = troubled.breach()
    with pytest.raises(IncidentError, match="closing needs a root cause"):
        troubled.act(incident, Event.CLOSED)
    with pytest.raises(IncidentError, match="say in a sentence"):
        troubled.act(incident, Event.ACKNOWLEDGED, text=" ")
    assert len(read_events(troubled.lake, troubled.home)) == len(audited(troubled)) == 1


def test_an_incident_that_does_not_exist_is_named(troubled: TroubledHome) -> None:
    incident = troubled.breach()
    unknown = replace(incident, incident_id="0" * 12)
    with pytest.raises(IncidentError, match=f"there is no incident {'0' * 12}; see `clinical incident list`"):
        troubled.act(unknown, Event.ACKNOWLEDGED)


def test_a_home_of_an_earlier_version_opens_and_its_incidents_are_carried_over(troubled: TroubledHome) -> None:
    """They stood in one table of nine columns, without events."""
    opened_at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    row = {
        **{"incident_id": "20e44c3bec9d", "opened_at": opened_at, "model": MODEL, "cause": "fix_data", "state": "open"},
        **{"run_id": "run-1", "job": f"{MODEL}_month", "step": "repair_plan", "error": "another unit"},
    }
    earlier = pl.DataFrame([row]).with_columns(pl.col("opened_at").cast(pl.Datetime("us", "UTC")))
    troubled.lake.write_table(INCIDENT_TABLE, earlier, author="x", message="")
    [carried] = read_incidents(troubled.lake, troubled.home)
    assert (carried.incident_id, carried.opened_at, carried.state) == ("20e44c3bec9d", opened_at, State.OPEN)
    assert faults_of(troubled) == {}
    assert troubled.close(carried).state is State.CLOSED
    assert troubled.lake.read(INCIDENT_TABLE)["state"].to_list() == ["closed"]


def open_many(root: str, first: int) -> None:
    troubled = TroubledHome.at(Path(root))
    for month in (first, first + 2):
        troubled.breach(date(2025, month, 1))


def test_two_processes_that_see_the_same_cause_keep_one_chain(troubled: TroubledHome) -> None:
    troubled.lake.latest_snapshot()  # makes the catalogue
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=open_many, args=(str(troubled.home.root), n)) for n in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    fresh = Lake(str(troubled.home.lake_catalogue), troubled.home.lake_data)
    [incident] = read_incidents(fresh, troubled.home)
    assert incident.observations == 4
    assert faults_of(troubled) == {}
