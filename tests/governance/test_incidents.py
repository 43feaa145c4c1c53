from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from clinical_assets.governance.incidents import (
    EVENT_DESCRIPTIONS,
    EVENT_SCHEMA,
    INCIDENT_DESCRIPTIONS,
    INCIDENT_SCHEMA,
    Breach,
    Cause,
    Event,
    Incident,
    IncidentError,
    IncidentEvent,
    State,
    event_of_breach,
    event_of_person,
    event_table,
    events_from,
    faults_of_events,
    incident_table,
    incidents_of,
)
from clinical_assets.governance.platform_key import PlatformKey, platform_key
from clinical_assets.governance.signatures import create_key, sign_message
from clinical_assets.governance.signers import Signer
from clinical_assets.protocol import Repair

T0 = datetime(2026, 3, 1, 6, tzinfo=UTC)
MAY, JUNE = date(2025, 5, 1), date(2025, 6, 1)


def breach(month: date | None = MAY, run_id: str = "run-1", subject: str = "camera", seen: int = 0) -> Breach:
    what = f"{subject} comes from a device never seen"
    return Breach(
        "retinopathy", Cause.FIX_DATA, subject, what, month, run_id, "retinopathy_month", "plan", T0 + seen * HOUR
    )


HOUR = timedelta(hours=1)


class Register:
    """The events of a home, signed by its platform and by one person."""

    def __init__(self, folder: Path) -> None:
        self.platform: PlatformKey = platform_key(folder / "keys")
        self.key = folder / "dr-lead.pem"
        self.lead = Signer("dr-lead", ("clinical_lead",), create_key(self.key, None), demo=False)
        self.events: list[IncidentEvent] = []

    def see(self, seen: Breach, hours: int = 0) -> IncidentEvent | None:
        event = event_of_breach(self.events, seen, "run:1", T0 + hours * HOUR)
        if event is not None:
            event = replace(event, signature=self.platform.sign(event.canonical()))
            self.events.append(event)
        return event

    def act(
        self, event: Event, hours: int, root_cause: str = "", action: str = "", role: str = "clinical_lead"
    ) -> None:
        history = list(incidents_of(self.events).values())[-1]
        at = T0 + hours * HOUR
        done = event_of_person(history, event, "dr-lead", role, "as agreed", at, root_cause, action)
        self.events.append(replace(done, signature=sign_message(done.canonical(), self.key, None)))

    def close(self, hours: int) -> None:
        self.act(Event.CLOSED, hours, "a new camera", "cameras are announced")

    @property
    def incidents(self) -> list[Incident]:
        return [Incident.of(history) for history in incidents_of(self.events).values()]

    def faults(self, events: list[IncidentEvent]) -> dict[int, str]:
        return faults_of_events(events, {"dr-lead": self.lead}, self.platform.public_key)


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(tmp_path)


def test_one_cause_is_one_incident_and_each_further_month_is_observed_once(register: Register) -> None:
    register.see(breach(MAY))
    assert register.see(breach(MAY, run_id="run-2")) is None
    register.see(breach(JUNE))
    assert register.see(breach(JUNE)) is None
    [incident] = register.incidents
    assert [event.event for event in register.events] == [Event.OPENED, Event.OBSERVED]
    assert (incident.observations, incident.first_month, incident.last_month) == (2, MAY, JUNE)


def test_another_column_another_repair_or_another_model_is_another_incident(register: Register) -> None:
    register.see(breach())
    register.see(breach(subject="contrast"))
    register.see(replace(breach(), model="sepsis"))
    register.see(replace(breach(), cause=Cause.ROLL_BACK))
    assert len(register.incidents) == 4


def test_failures_of_one_step_with_one_class_of_error_are_one_cause_and_each_run_is_observed(
    register: Register,
) -> None:
    for run in ("run-1", "run-1", "run-2"):
        register.see(Breach.of_failed_run("sepsis", run, "sepsis_month", "sepsis__dataset", "ArchiveError", "no file"))
    register.see(Breach.of_failed_run("sepsis", "run-3", "sepsis_month", "sepsis__dataset", "LakeError", "locked"))
    assert [incident.observations for incident in register.incidents] == [2, 1]


def test_the_name_of_a_plan_s_incident_is_that_of_its_cause() -> None:
    planned = Breach.of_plan("sepsis", Repair.FIX_DATA, "lactate_mmol_l", "run-1", "another unit", MAY, T0)
    assert planned.cause_id == replace(planned, what="other words", month=JUNE, run_id="run-2").cause_id


def test_after_closing_a_new_occurrence_opens_a_new_incident_that_names_the_earlier(register: Register) -> None:
    register.see(breach(MAY))
    register.close(hours=2)
    register.see(breach(JUNE, seen=3), hours=3)
    first, second = register.incidents
    assert (first.state, second.state) == (State.CLOSED, State.OPEN)
    assert second.follows == first.incident_id != second.incident_id


def test_evidence_from_before_the_closing_opens_nothing(register: Register) -> None:
    """A sensor that lost its cursor sees all reports again."""
    register.see(breach(MAY))
    register.close(hours=2)
    assert register.see(breach(MAY, seen=1), hours=3) is None
    assert register.see(breach(JUNE, seen=1), hours=3) is None


def test_the_state_follows_from_the_events(register: Register) -> None:
    register.see(breach())
    states = [register.incidents[0].state]
    for event, hours in ((Event.ACKNOWLEDGED, 1), (Event.MITIGATED, 2)):
        register.act(event, hours)
        states.append(register.incidents[0].state)
    register.see(breach(JUNE))
    states.append(register.incidents[0].state)
    register.close(hours=4)
    [closed] = register.incidents
    assert states == [State.OPEN, State.ACKNOWLEDGED, State.MITIGATED, State.MITIGATED]
    assert (closed.state, closed.root_cause, closed.action) == (
        State.CLOSED,
        "a new camera",
        "cameras are announced",
    )
    assert closed.changed_by == "dr-lead"


@pytest.mark.parametrize(("root_cause", "action"), [("", ""), ("a new camera", " "), ("", "cameras are announced")])
def test_closing_needs_a_root_cause_and_an_action(register: Register, root_cause: str, action: str) -> None:
    register.see(breach())
    with pytest.raises(IncidentError, match="closing needs a root cause and an action"):
        register.act(Event.CLOSED, 1, root_cause, action)


def test_a_closed_incident_is_changed_no_more_but_by_notes(register: Register) -> None:
    register.see(breach())
    register.close(hours=1)
    for event in (Event.ACKNOWLEDGED, Event.MITIGATED):
        with pytest.raises(IncidentError, match="is closed"):
            register.act(event, 2)
    with pytest.raises(IncidentError, match="is closed"):
        register.close(hours=2)
    register.act(Event.NOTE, 2)
    assert register.incidents[0].state is State.CLOSED


@pytest.fixture
def closed(register: Register) -> Register:
    register.see(breach())
    register.act(Event.ACKNOWLEDGED, 1)
    register.see(breach(JUNE))
    register.close(hours=3)
    return register


def test_signatures_of_people_and_platform_hold_and_survive_the_table(closed: Register) -> None:
    assert closed.faults(closed.events) == {}
    assert closed.faults(events_from(event_table(closed.events))) == {}


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    "change", [{"text": "nothing"}, {"actor": "dr-other"}, {"action": "nothing"}, {"at": T0 - HOUR}]
)
def test_an_edited_event_is_found(closed: Register, place: int, change: dict[str, object]) -> None:
    edited = list(closed.events)
    edited[place] = replace(edited[place], **change)
    assert place + 1 in closed.faults(edited)


def test_an_event_that_was_removed_added_or_moved_is_found(closed: Register) -> None:
    first, second, third, fourth = closed.events
    for attacked in (
        [first, third, fourth],
        [first, replace(third, number=2), replace(fourth, number=3)],
        [first, replace(third, number=2), replace(second, number=3), fourth],
        [first, second, third, replace(third, number=4), replace(fourth, number=5)],
    ):
        assert closed.faults(attacked)


def test_a_person_s_event_signed_by_the_platform_or_in_a_role_not_held_does_not_hold(closed: Register) -> None:
    second = closed.events[1]
    by_platform = replace(second, signature=closed.platform.sign(second.canonical()))
    assert 2 in closed.faults([closed.events[0], by_platform])
    other_role = replace(second, role="privacy_officer")
    signed = replace(other_role, signature=sign_message(other_role.canonical(), closed.key, None))
    assert "does not hold the role" in closed.faults([closed.events[0], signed])[2]
    stranger = faults_of_events(closed.events[:2], {}, closed.platform.public_key)
    assert stranger == {2: "dr-lead is not in the signers file"}


def test_a_key_that_was_revoked_before_the_event_does_not_hold_and_after_it_does(closed: Register) -> None:
    def faults_when_revoked(at: datetime) -> dict[int, str]:
        revoked = replace(closed.lead, revoked_at=at, revoked_reason="lost")
        return faults_of_events(closed.events, {"dr-lead": revoked}, closed.platform.public_key)

    assert set(faults_when_revoked(T0)) == {2, 4}
    assert faults_when_revoked(T0 + 10 * HOUR) == {}


def test_every_column_of_both_tables_is_described(closed: Register) -> None:
    assert set(EVENT_DESCRIPTIONS) == set(EVENT_SCHEMA) == set(event_table(closed.events).columns)
    assert set(INCIDENT_DESCRIPTIONS) == set(INCIDENT_SCHEMA) == set(incident_table(closed.incidents).columns)
