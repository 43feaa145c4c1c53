"""Notices: what people are told of an incident, built from a closed set of fields and of no free text.

Belongs here: the fields, what each may hold, and their wording. Does not belong here: the channels, and who is told.

A notice leaves the house (e-mail, chat), so nothing in it may come from a row: every field is a name, a number or a
date of the platform's own, and is refused where it has another shape. What was seen stands in the house alone, behind
`clinical incident show`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Self

from clinical_assets.governance.incidents import SEVERITY, Cause, Event, IncidentEvent, Severity

TOLD = ("on_call", "clinical_lead")
"""The roles that are told of every incident."""

CAUSE_WORDS = {
    Cause.FAILED_RUN: "a run failed",
    Cause.FIX_DATA: "faulty data, to be mended at their source",
    Cause.ROLL_BACK: "an earlier release would do better",
    Cause.DRIFT_WITH_HARM: "the patients changed, and the model loses more than is tolerated",
    Cause.SUBGROUP_SENSITIVITY: "the sensitivity of a group has fallen",
    Cause.STALE_DATA: "no new month has arrived",
    Cause.UNVERIFIED_ALIAS: "a version is live that was not released",
    Cause.PHI_LEAK: "an identifier stands where none may",
    Cause.ROLLBACK: "an earlier release was put back",
    Cause.WITHDRAWAL: "the live version was taken out of service, and nothing is live",
}
SEVERITY_WORDS = {
    Severity.AT_ONCE: "look at once",
    Severity.TODAY: "look today",
    Severity.THIS_WEEK: "look this week",
}

_ID = re.compile(r"[0-9a-f]{12}")
_MODEL = re.compile(r"[a-z][a-z0-9_]{0,63}")


class NoticeError(ValueError):
    """A notice would hold what a notice may not; the message names the field, and not what it held."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One event of an incident, as people are told of it; raises NoticeError where a field has another shape."""

    incident_id: str
    number: int
    event: Event
    model: str
    cause: Cause
    severity: Severity
    month: date | None
    at: datetime
    demo: bool

    def __post_init__(self) -> None:
        for name, pattern in (("incident_id", _ID), ("model", _MODEL)):
            if not pattern.fullmatch(getattr(self, name)):
                raise NoticeError(f"a notice's {name} must match {pattern.pattern}; it is not sent")

    @classmethod
    def of(cls, event: IncidentEvent, demo: bool) -> Self:
        """The notice of an event; of its text nothing is taken."""
        severity = SEVERITY[event.cause]
        return cls(
            event.incident_id,
            event.number,
            event.event,
            event.model,
            event.cause,
            severity,
            event.month,
            event.at,
            demo,
        )

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The notice whose `fields()` these are; raises NoticeError where they are not a notice's."""
        try:
            return cls(
                incident_id=str(fields["incident_id"]),
                number=int(fields["number"]),
                event=Event(fields["event"]),
                model=str(fields["model"]),
                cause=Cause(fields["cause"]),
                severity=Severity(fields["severity"]),
                month=date.fromisoformat(f"{fields['month']}-01") if fields["month"] else None,
                at=datetime.fromisoformat(fields["at"]),
                demo=bool(fields["demonstration"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise NoticeError("these are not the fields of a notice") from error

    @property
    def name(self) -> str:
        """Names the notice: the same event is told under the same name, so that a receiver can drop a repetition."""
        return f"{self.incident_id}-{self.number:04d}"

    @property
    def command(self) -> str:
        """What a reader types to see what was seen, what is live and what to do."""
        return f"clinical incident show {self.incident_id}"

    def fields(self) -> dict[str, str | int | bool | None]:
        """All of the notice as plain values, for JSON."""
        return {
            "incident_id": self.incident_id,
            "number": self.number,
            "event": self.event.value,
            "model": self.model,
            "cause": self.cause.value,
            "severity": self.severity.value,
            "month": f"{self.month:%Y-%m}" if self.month else None,
            "at": self.at.astimezone(UTC).isoformat(timespec="seconds"),
            "demonstration": self.demo,
            "command": self.command,
        }

    def subject(self) -> str:
        """One line."""
        marked = "[demonstration] " if self.demo else ""
        return f"{marked}{self.model}: incident {self.incident_id} {self.event.value}, {CAUSE_WORDS[self.cause]}"

    def text(self) -> str:
        """A few lines for people."""
        lines = [
            f"Incident {self.incident_id}: {self.event.value}",
            f"Model:    {self.model}",
            f"Cause:    {CAUSE_WORDS[self.cause]}",
            f"How soon: {SEVERITY_WORDS[self.severity]}",
            *([f"Month:    {self.month:%Y-%m}"] if self.month else []),
            f"At:       {self.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
            "",
            f"What was seen, what is live and what to do: {self.command}",
            "This message holds no patient data; please send none in reply.",
            *(["This is a demonstration: no patient is concerned."] if self.demo else []),
        ]
        return "\n".join(lines) + "\n"
