"""Incidents: open problems as a chain of signed events, from which each one's present state follows.

Belongs here: what a breach, an event and an incident are, and which change may follow which. Does not belong here: what
notices a breach, where events are stored, and who is told.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Self

import polars as pl

from clinical_assets.governance.platform_key import is_platform_signature
from clinical_assets.governance.signers import Signer
from clinical_assets.protocol import AUTOMATION, Repair

PLATFORM = "platform"
"""What an incident is about that is no single model's."""

FIRST = "0" * 64
"""What an incident's first event gives as the hash of the one before it."""


class IncidentError(ValueError):
    """An incident cannot be changed as asked; the message names it and what it needs."""


class Cause(StrEnum):
    """What opens an incident."""

    FAILED_RUN = "failed_run"
    FIX_DATA = "fix_data"
    ROLL_BACK = "roll_back"
    DRIFT_WITH_HARM = "drift_with_harm"
    SUBGROUP_SENSITIVITY = "subgroup_sensitivity"
    STALE_DATA = "stale_data"
    UNVERIFIED_ALIAS = "unverified_alias"
    PHI_LEAK = "phi_leak"
    ROLLBACK = "rollback"
    WITHDRAWAL = "withdrawal"


class Severity(StrEnum):
    """How soon somebody must look."""

    AT_ONCE = "at_once"
    TODAY = "today"
    THIS_WEEK = "this_week"


SEVERITY = {
    Cause.FAILED_RUN: Severity.TODAY,
    Cause.FIX_DATA: Severity.TODAY,
    Cause.ROLL_BACK: Severity.AT_ONCE,
    Cause.DRIFT_WITH_HARM: Severity.TODAY,
    Cause.SUBGROUP_SENSITIVITY: Severity.TODAY,
    Cause.STALE_DATA: Severity.TODAY,
    Cause.UNVERIFIED_ALIAS: Severity.AT_ONCE,
    Cause.PHI_LEAK: Severity.AT_ONCE,
    Cause.ROLLBACK: Severity.THIS_WEEK,
    Cause.WITHDRAWAL: Severity.TODAY,
}


class State(StrEnum):
    """Where an incident stands."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    MITIGATED = "mitigated"
    CLOSED = "closed"


class Event(StrEnum):
    """What can happen to an incident."""

    OPENED = "opened"
    OBSERVED = "observed"
    ACKNOWLEDGED = "acknowledged"
    MITIGATED = "mitigated"
    CLOSED = "closed"
    NOTE = "note"


STATE_AFTER = {
    Event.OPENED: State.OPEN,
    Event.ACKNOWLEDGED: State.ACKNOWLEDGED,
    Event.MITIGATED: State.MITIGATED,
    Event.CLOSED: State.CLOSED,
}
"""The other events leave the state as it is."""

ALLOWED_IN = {
    Event.ACKNOWLEDGED: (State.OPEN,),
    Event.MITIGATED: (State.OPEN, State.ACKNOWLEDGED),
    Event.CLOSED: (State.OPEN, State.ACKNOWLEDGED, State.MITIGATED),
    Event.NOTE: tuple(State),
}


@dataclass(frozen=True, slots=True)
class Breach:
    """Something that must not be, as it was noticed once.

    `subject` is what makes two breaches the same cause: columns, a subgroup, a step. `what` says it in our own words:
    counts and names, never a row's value. `seen_at` is when the evidence was made, UTC.
    """

    model: str
    cause: Cause
    subject: str
    what: str
    month: date | None = None
    run_id: str = ""
    job: str = ""
    step: str = ""
    seen_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def cause_id(self) -> str:
        """Names the cause: the same for every breach of it."""
        return _digest(self.model, self.cause.value, self.subject)

    @classmethod
    def of_failed_run(
        cls, model: str, run_id: str, job: str, step: str, error_class: str, error: str, month: date | None = None
    ) -> Self:
        """A failed run; the same step of the same job failing with the same class of error is one cause."""
        return cls(model, Cause.FAILED_RUN, f"{job}|{step}|{error_class}", error, month, run_id, job, step)

    @classmethod
    def of_plan(
        cls, model: str, repair: Repair, columns: str, run_id: str, reason: str, month: date, seen_at: datetime
    ) -> Self:
        """A repair that people must do; the same repair of the same columns is one cause."""
        return cls(model, Cause(repair.value), columns, reason, month, run_id, f"{model}_month", "repair_plan", seen_at)


@dataclass(frozen=True, slots=True)
class IncidentEvent:
    """One change of an incident: what, when, by whom, in which role, signed; its place in the incident's own chain.

    `signature` is Ed25519 over `canonical()`, by the actor's key, or by the platform's where the role is `automation`.
    """

    incident_id: str
    number: int
    at: datetime
    event: Event
    actor: str
    role: str
    model: str
    cause: Cause
    cause_id: str
    text: str
    month: date | None = None
    run_id: str = ""
    job: str = ""
    step: str = ""
    root_cause: str = ""
    action: str = ""
    follows: str = ""
    previous_sha256: str = FIRST
    signature: str = ""

    def canonical(self) -> bytes:
        """The bytes that are signed: JSON with sorted keys and no spaces, of all but the signature."""
        stated = asdict(self) | {"at": self.at.astimezone(UTC).isoformat(timespec="microseconds")}
        del stated["signature"]
        return json.dumps(stated, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()

    @property
    def sha256(self) -> str:
        """The hash that the next event of the incident gives."""
        return hashlib.sha256(self.canonical()).hexdigest()


@dataclass(frozen=True, slots=True)
class Incident:
    """The present state of an incident, as it follows from its events."""

    incident_id: str
    opened_at: datetime
    model: str
    cause: Cause
    severity: Severity
    state: State
    run_id: str
    job: str
    step: str
    error: str
    first_month: date | None
    last_month: date | None
    observations: int
    changed_at: datetime
    changed_by: str
    mitigated_at: datetime | None
    closed_at: datetime | None
    root_cause: str
    action: str
    follows: str

    @classmethod
    def of(cls, events: Sequence[IncidentEvent]) -> Self:
        """What the events of one incident add up to; they are in order of their numbers."""
        first, last = events[0], events[-1]
        months = [event.month for event in events if event.month is not None]
        closing = next((event for event in events if event.event is Event.CLOSED), None)
        mitigating = next((event for event in reversed(events) if event.event is Event.MITIGATED), None)
        return cls(
            incident_id=first.incident_id,
            opened_at=first.at,
            model=first.model,
            cause=first.cause,
            severity=SEVERITY[first.cause],
            state=[STATE_AFTER[event.event] for event in events if event.event in STATE_AFTER][-1],
            run_id=first.run_id,
            job=first.job,
            step=first.step,
            error=first.text,
            first_month=min(months, default=None),
            last_month=max(months, default=None),
            observations=sum(event.event in (Event.OPENED, Event.OBSERVED) for event in events),
            changed_at=last.at,
            changed_by=last.actor,
            mitigated_at=mitigating.at if mitigating else None,
            closed_at=closing.at if closing else None,
            root_cause=closing.root_cause if closing else "",
            action=closing.action if closing else "",
            follows=first.follows,
        )


def incidents_of(events: Sequence[IncidentEvent]) -> dict[str, list[IncidentEvent]]:
    """The events of each incident in order of their numbers, incidents in the order in which they were opened."""
    grouped: dict[str, list[IncidentEvent]] = {}
    for event in sorted(events, key=lambda event: (event.number, event.at)):
        grouped.setdefault(event.incident_id, []).append(event)
    return grouped


def event_of_breach(events: Sequence[IncidentEvent], breach: Breach, actor: str, at: datetime) -> IncidentEvent | None:
    """The event that a breach adds, unsigned; None where it adds nothing.

    One incident a cause: while it is open, the same cause is observed in it, once a month (once a run, where the breach
    is of no month). After it was closed, evidence made later opens a new one, which names the earlier.
    """
    of_cause = [x for x in incidents_of(events).values() if x[0].cause_id == breach.cause_id]
    if not of_cause:
        return _from_breach(breach, breach.cause_id, Event.OPENED, actor, at)
    latest = of_cause[-1]
    known = Incident.of(latest)
    if known.closed_at is not None:
        if breach.seen_at <= known.closed_at:
            return None
        name = _digest(breach.cause_id, str(len(of_cause)))
        return _from_breach(breach, name, Event.OPENED, actor, at, follows=known.incident_id)
    seen = [x for x in latest if x.event in (Event.OPENED, Event.OBSERVED)]
    if any(x.month == breach.month and (x.run_id == breach.run_id or breach.month is not None) for x in seen):
        return None
    event = _from_breach(breach, known.incident_id, Event.OBSERVED, actor, at)
    return replace(event, number=latest[-1].number + 1, previous_sha256=latest[-1].sha256)


def event_of_person(
    history: Sequence[IncidentEvent],
    event: Event,
    actor: str,
    role: str,
    text: str,
    at: datetime,
    root_cause: str = "",
    action: str = "",
) -> IncidentEvent:
    """The event by which a person changes an incident, unsigned; raises IncidentError where it may not follow."""
    last, known = history[-1], Incident.of(history)
    if known.state not in ALLOWED_IN[event]:
        raise IncidentError(f"incident {known.incident_id} is {known.state.value}, so it cannot be {event.value} now")
    if not text.strip():
        raise IncidentError(f"incident {known.incident_id}: say in a sentence why or how; it is kept and signed")
    if event is Event.CLOSED and not (root_cause.strip() and action.strip()):
        raise IncidentError(
            f"incident {known.incident_id} is not closed: closing needs a root cause and an action, each in a sentence"
        )
    return IncidentEvent(
        incident_id=known.incident_id,
        number=last.number + 1,
        at=at,
        event=event,
        actor=actor,
        role=role,
        model=known.model,
        cause=known.cause,
        cause_id=last.cause_id,
        text=text,
        root_cause=root_cause,
        action=action,
        previous_sha256=last.sha256,
    )


def faults_of_events(
    history: Sequence[IncidentEvent], signers: Mapping[str, Signer], platform_public_key: str
) -> dict[int, str]:
    """What is wrong with an incident's chain and signatures, by the number of the event; empty where all is whole.

    Events that were cut off at the end leave no trace here: the audit trail has a record of each.
    """
    faults: dict[int, str] = {}
    for place, event in enumerate(history, 1):
        before = FIRST if place == 1 else history[place - 2].sha256
        if event.number != place:
            faults[event.number] = f"event {place} is missing"
        elif event.previous_sha256 != before:
            faults[event.number] = "it does not follow the event before it: one of them was changed"
        elif fault := _fault_of_signature(event, signers, platform_public_key):
            faults[event.number] = fault
    return faults


def _fault_of_signature(event: IncidentEvent, signers: Mapping[str, Signer], platform_public_key: str) -> str:
    if event.role == AUTOMATION:
        whole = is_platform_signature(platform_public_key, event.canonical(), event.signature)
        return "" if whole else "the signature is not the platform's, or the event was changed after signing"
    signer = signers.get(event.actor)
    if signer is None:
        return f"{event.actor} is not in the signers file"
    if not is_platform_signature(signer.public_key, event.canonical(), event.signature):
        return f"the signature is not {event.actor}'s, or the event was changed after signing"
    if event.role not in signer.roles:
        return f"{event.actor} does not hold the role {event.role}"
    return signer.fault_of_key(event.at)


EVENT_SCHEMA = pl.Schema(
    {item.name: pl.String for item in fields(IncidentEvent)}
    | {"number": pl.Int32, "at": pl.Datetime("us", "UTC"), "month": pl.Date}
)
EVENT_DESCRIPTIONS = {
    "incident_id": "Names the incident",
    "number": "The event's place in its incident, from 1",
    "at": "When it was recorded, UTC",
    "event": "opened, observed, acknowledged, mitigated, closed or note",
    "actor": "Who: a signer's name, or run:ID or sensor:NAME where the platform acted by itself",
    "role": "The role in which the signer acted, or automation",
    "model": "The model it is about, or platform",
    "cause": "What opened it",
    "cause_id": "Names the cause; the same for every incident of it",
    "text": "What was seen or done, in words",
    "month": "The month in which the cause was seen, where it is of a month",
    "run_id": "The Dagster run in which it was seen",
    "job": "The job of that run",
    "step": "The step it arose in, or none",
    "root_cause": "On closing: why it happened",
    "action": "On closing: what was done so that it does not happen again",
    "follows": "The incident of the same cause that was closed before, if any",
    "previous_sha256": "SHA-256 over the event before it in the same incident",
    "signature": "Ed25519 signature over the event, hexadecimal; the platform's where the role is automation",
}

INCIDENT_SCHEMA = pl.Schema(
    {item.name: pl.String for item in fields(Incident)}
    | dict.fromkeys(("opened_at", "changed_at", "mitigated_at", "closed_at"), pl.Datetime("us", "UTC"))
    | {"first_month": pl.Date, "last_month": pl.Date, "observations": pl.Int32}
)
INCIDENT_DESCRIPTIONS = {
    "incident_id": "Names the incident",
    "opened_at": "When it was opened, UTC",
    "model": "The model it is about, or platform",
    "cause": f"What opened it: {', '.join(Cause)}",
    "severity": f"How soon somebody must look: {', '.join(Severity)}",
    "state": f"{', '.join(State)}",
    "run_id": "The Dagster run it is about",
    "job": "The job of that run",
    "step": "The step it arose in, or none",
    "error": "What was seen first, in our own words; of other libraries' errors the class alone",
    "first_month": "The first month in which the cause was seen, where it is of a month",
    "last_month": "The last such month",
    "observations": "How often the cause was seen: once a month, or once a run",
    "changed_at": "When the last event was recorded, UTC",
    "changed_by": "By whom",
    "mitigated_at": "When somebody last said that it does no more harm, UTC",
    "closed_at": "When it was closed, UTC",
    "root_cause": "Why it happened, as the person says who closed it",
    "action": "What was done so that it does not happen again",
    "follows": "The incident of the same cause that was closed before, if any",
}


def event_table(events: Sequence[IncidentEvent]) -> pl.DataFrame:
    """One row an event, as it is stored."""
    return pl.DataFrame([asdict(event) for event in events], schema=EVENT_SCHEMA)


def incident_table(incidents: Sequence[Incident]) -> pl.DataFrame:
    """One row an incident."""
    return pl.DataFrame([asdict(incident) for incident in incidents], schema=INCIDENT_SCHEMA)


def events_from(table: pl.DataFrame) -> list[IncidentEvent]:
    """The events of a table as it is stored."""
    return [
        IncidentEvent(**row | {"event": Event(row["event"]), "cause": Cause(row["cause"])})
        for row in table.select(EVENT_SCHEMA.names()).iter_rows(named=True)
    ]


def _from_breach(
    breach: Breach, incident_id: str, event: Event, actor: str, at: datetime, follows: str = ""
) -> IncidentEvent:
    return IncidentEvent(
        incident_id=incident_id,
        number=1,
        at=at,
        event=event,
        actor=actor,
        role=AUTOMATION,
        model=breach.model,
        cause=breach.cause,
        cause_id=breach.cause_id,
        text=breach.what,
        month=breach.month,
        run_id=breach.run_id,
        job=breach.job,
        step=breach.step,
        follows=follows,
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]
