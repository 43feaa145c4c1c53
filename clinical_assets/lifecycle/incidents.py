"""What opens an incident, and how its events are recorded.

Belongs here: the tables of incidents in the lake, and how a failed run becomes a breach. Does not belong here: what an
incident is (governance/incidents.py), who looks for breaches (model_watch.py, home_watch.py), its diagnosis, and the
runbook.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from clinical_assets.governance.audit_trail import AuditTrail, person_at_terminal, run_actor
from clinical_assets.governance.incidents import (
    EVENT_DESCRIPTIONS,
    INCIDENT_DESCRIPTIONS,
    PLATFORM,
    STATE_AFTER,
    Breach,
    Cause,
    Event,
    Incident,
    IncidentError,
    IncidentEvent,
    event_of_breach,
    event_of_person,
    event_table,
    events_from,
    incident_table,
    incidents_of,
)
from clinical_assets.governance.notices import Notice
from clinical_assets.governance.platform_key import platform_key
from clinical_assets.protocol import AUTOMATION, protocol_names, read_protocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.outbox import post

EVENT_TABLE = "governance.incident_event"
INCIDENT_TABLE = "governance.incident"
MODEL = "clinical/model"
PARTITION = "dagster/partition"

Sign = Callable[[bytes], str]


def tell_of_failed_run(instance: dg.DagsterInstance, run: dg.DagsterRun, lake: Lake, home: Home) -> Incident | None:
    """Open an incident for a failed run, with the step and the error; the same failure again is observed."""
    failures = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    steps = [event for record in failures if (event := record.event_log_entry.dagster_event) is not None]
    data = steps[0].step_failure_data if steps else None
    error = data.error if data else None
    breach = Breach.of_failed_run(
        model=run.tags.get(MODEL, PLATFORM),
        run_id=run.run_id,
        job=run.job_name,
        step=(steps[0].step_key if steps else None) or "none",
        error_class=class_of_error(error),
        error=describe_error(error) or "the run ended before any step did",
        month=month_of_run(run.tags.get(PARTITION)),
    )
    AuditTrail(home.audit).record(
        "run_failed",
        actor=run_actor(run.run_id),
        target=f"{run.job_name}/{breach.step}",
        outcome="failure",
        reason=breach.what,
        details={"error_class": class_of_error(error)},
    )
    return open_incident(lake, home, breach)


def open_incident(lake: Lake, home: Home, breach: Breach, *, actor: str | None = None) -> Incident | None:
    """Record a breach: a new incident, or one more observation of the open one of the same cause.

    The event is signed with the platform's key, audited, and told. `actor` is a signer, `user:NAME` or `run:ID`; where
    none is given, the breach's run, or the account of this process. Returns the incident; None where the breach is
    known: its month or run was seen, or its evidence is older than the closing of the last incident of its cause.
    """
    acting = actor or (f"run:{breach.run_id}" if breach.run_id else person_at_terminal())

    def event(events: list[IncidentEvent]) -> IncidentEvent | None:
        return event_of_breach(events, breach, acting, datetime.now(UTC))

    return _record(lake, home, event, platform_key(home.keys).sign)


def change_incident(
    lake: Lake,
    home: Home,
    incident_id: str,
    event: Event,
    *,
    actor: str,
    role: str,
    text: str,
    sign: Sign,
    root_cause: str = "",
    action: str = "",
) -> Incident:
    """Record what a person did about an incident, signed with the person's own key, audited and told.

    Raises IncidentError where there is no such incident, or the change may not follow.
    """

    def changed(events: list[IncidentEvent]) -> IncidentEvent:
        history = _history_in(events, incident_id)
        return event_of_person(history, event, actor, role, text, datetime.now(UTC), root_cause, action)

    recorded = _record(lake, home, changed, sign)
    if recorded is None:
        raise IncidentError(f"incident {incident_id} was not changed")
    return recorded


def read_events(lake: Lake, home: Home) -> list[IncidentEvent]:
    """Every event of every incident; those that an earlier version of the platform opened are carried over first."""
    with _only_writer(home):
        _carry_over(lake, home)
        return _stored_events(lake)


def history_of(lake: Lake, home: Home, incident_id: str) -> list[IncidentEvent]:
    """The events of one incident in order; raises IncidentError where there is none of this name."""
    return _history_in(read_events(lake, home), incident_id)


def read_incidents(lake: Lake, home: Home) -> list[Incident]:
    """The present state of every incident, in the order in which they were opened."""
    return [Incident.of(history) for history in incidents_of(read_events(lake, home)).values()]


def is_demo(model: str) -> bool:
    """Whether what an incident is about is a demonstration: the model's protocol says so, or every protocol does."""
    known = protocol_names()
    return all(read_protocol(name).environment == "demo" for name in ([model] if model in known else known))


def class_of_error(error: SerializableErrorInfo | None) -> str:
    """The class of the error that a failure began with."""
    while error is not None and error.cause is not None and not error.message.startswith("clinical_assets."):
        error = error.cause
    return (error.cls_name if error else None) or "none"


def describe_error(error: SerializableErrorInfo | None) -> str:
    """An error as an incident may show it: our own words in full, of any other error the class alone.

    A library's message may quote a row; ours never do.
    """
    if error is None:
        return ""
    if error.message.startswith("clinical_assets."):
        return error.message.strip()
    if error.cause is not None:
        return describe_error(error.cause)
    return f"{error.cls_name or 'an error'} (its message is kept in the run's log alone)"


def month_of_run(partition: str | None) -> date | None:
    """The month of a run's partition, where it is a month's."""
    try:
        return date.fromisoformat(f"{partition}-01")
    except ValueError:
        return None


def _history_in(events: list[IncidentEvent], incident_id: str) -> list[IncidentEvent]:
    history = incidents_of(events).get(incident_id)
    if history is None:
        raise IncidentError(f"there is no incident {incident_id}; see `clinical incident list`")
    return history


def _record(
    lake: Lake, home: Home, make: Callable[[list[IncidentEvent]], IncidentEvent | None], sign: Sign
) -> Incident | None:
    with _only_writer(home):
        _carry_over(lake, home)
        events = _stored_events(lake)
        if (unsigned := make(events)) is None:
            return None
        event = replace(unsigned, signature=sign(unsigned.canonical()))
        _append(lake, [event])
        # Reading takes the lock too, and leaves its time: who watches sees by it that an event was recorded.
        os.utime(_lock_file(home))
        _renew_states(lake, [*events, event], event.actor)
        _audit(home, event)
    if event.event in STATE_AFTER:
        post(home.outbox, Notice.of(event, is_demo(event.model)))
    return Incident.of(incidents_of([*events, event])[event.incident_id])


def incidents_changed(home: Home) -> int:
    """When an event was last recorded on this home, in nanoseconds, without opening the lake; 0 where none was."""
    try:
        return _lock_file(home).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _lock_file(home: Home) -> Path:
    return home.signers.parent / ".incidents.lock"


@contextmanager
def _only_writer(home: Home) -> Iterator[None]:
    """One process at a time, so that an incident's chain has no two events of one number."""
    _lock_file(home).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(_lock_file(home), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _stored_events(lake: Lake) -> list[IncidentEvent]:
    return events_from(lake.read(EVENT_TABLE)) if lake.exists(EVENT_TABLE) else []


def _append(lake: Lake, events: list[IncidentEvent]) -> None:
    lake.append(
        EVENT_TABLE,
        event_table(events),
        author=events[0].actor,
        message=f"incident {events[0].incident_id} {events[0].event.value}",
        description="Every change of every incident, signed, in the order in which it was made; nothing is removed.",
        comments=EVENT_DESCRIPTIONS,
    )


def _renew_states(lake: Lake, events: list[IncidentEvent], author: str) -> None:
    lake.write_table(
        INCIDENT_TABLE,
        incident_table([Incident.of(history) for history in incidents_of(events).values()]),
        author=author,
        message="the present state of every incident",
        description="Every incident as it stands now; it follows from governance.incident_event.",
        comments=INCIDENT_DESCRIPTIONS,
    )


def _audit(home: Home, event: IncidentEvent) -> None:
    AuditTrail(home.audit).record(
        "incident_opened" if event.event is Event.OPENED else "incident_changed",
        actor=event.actor,
        target=f"{event.model}/incident/{event.incident_id}",
        reason=event.event.value,
        details={
            "cause": event.cause.value,
            "number": event.number,
            "role": event.role,
            "event_sha256": event.sha256,
        },
    )


def _carry_over(lake: Lake, home: Home) -> None:
    """Turn the incidents of an earlier version of the platform, which kept a row each and no events, into events."""
    if lake.exists(EVENT_TABLE) or not lake.exists(INCIDENT_TABLE):
        return
    key = platform_key(home.keys)
    carried = [_carried(row, key.sign) for row in lake.read(INCIDENT_TABLE).sort("opened_at").iter_rows(named=True)]
    _append(lake, carried)
    _renew_states(lake, carried, AUTOMATION)
    for event in carried:
        _audit(home, event)


def _carried(row: dict[str, object], sign: Sign) -> IncidentEvent:
    opened_at = row["opened_at"]
    event = IncidentEvent(
        incident_id=str(row["incident_id"]),
        number=1,
        at=opened_at if isinstance(opened_at, datetime) else datetime.now(UTC),
        event=Event.OPENED,
        actor=f"run:{row['run_id']}",
        role=AUTOMATION,
        model=str(row["model"]),
        cause=Cause(str(row["cause"])),
        # The name of a plan's incident was, and is, that of its cause.
        cause_id=str(row["incident_id"]),
        text=str(row["error"]),
        run_id=str(row["run_id"]),
        job=str(row["job"]),
        step=str(row["step"]),
    )
    return replace(event, signature=sign(event.canonical()))
