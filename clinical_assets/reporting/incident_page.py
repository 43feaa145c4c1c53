"""The page of one incident: what was seen, what is live, what to do first, where the month went wrong, who did what.

Belongs here: choosing and wording what is shown. Does not belong here: gathering the diagnosis.
"""

from dataclasses import dataclass
from datetime import UTC

from clinical_assets.governance.diagnosis import Diagnosis, Link
from clinical_assets.governance.incidents import Event, State
from clinical_assets.governance.notices import CAUSE_WORDS, SEVERITY_WORDS
from clinical_assets.protocol import AUTOMATION, Judgement
from clinical_assets.reporting.pages import page_environment

SYMBOLS = {Judgement.PASS: "✓", Judgement.FAIL: "✕", Judgement.CANNOT_TELL: "?", Judgement.NOT_APPLICABLE: "–"}
LINK_WORDS = {
    Judgement.PASS: "as expected",
    Judgement.FAIL: "abnormal",
    Judgement.CANNOT_TELL: "cannot tell",
    Judgement.NOT_APPLICABLE: "not applicable",
}
STATE_TONES = {State.OPEN: "fail", State.ACKNOWLEDGED: "warn", State.MITIGATED: "neutral", State.CLOSED: "pass"}


@dataclass(frozen=True, slots=True)
class _Change:
    """One event in words."""

    at: str
    event: str
    who: str
    text: str
    signature: str
    whole: bool


def render_incident(diagnosis: Diagnosis) -> str:
    """The incident as one self-contained HTML page: styles inside, no script, nothing fetched."""
    environment = page_environment()
    environment.filters["words"] = in_words
    incident = diagnosis.incident
    return environment.get_template("incident_page.html").render(
        diagnosis=diagnosis,
        incident=incident,
        heading=CAUSE_WORDS[incident.cause],
        how_soon=SEVERITY_WORDS[incident.severity],
        tone=STATE_TONES[incident.state],
        lineage=[(link, SYMBOLS[link.judgement], LINK_WORDS[link.judgement]) for link in diagnosis.lineage],
        changes=[_change(diagnosis, place) for place in range(len(diagnosis.events))],
        signatures=signatures_in_words(diagnosis),
        first=first_abnormal_in_words(diagnosis),
        months=months_in_words(diagnosis),
        planned=planned_in_words(diagnosis),
    )


def first_abnormal_in_words(diagnosis: Diagnosis) -> str:
    """The first asset that is not as it should be, in a sentence."""
    if not diagnosis.lineage:
        return "The incident is of no month, so there is no lineage to walk."
    link: Link | None = diagnosis.first_abnormal
    if link is None:
        return "No asset of this month is abnormal by what is known."
    run = f" (run {link.run_id[:8]})" if link.run_id else ""
    return f"First abnormal: {in_words(link.asset)}{run}: {link.what}."


def signatures_in_words(diagnosis: Diagnosis) -> str:
    """Whether every event's signature holds, in a sentence."""
    count = len(diagnosis.events)
    if diagnosis.faults:
        numbers = ", ".join(str(number) for number in sorted(diagnosis.faults))
        return f"NOT WHOLE: of {count} events those numbered {numbers} are not to be trusted."
    return "1 event, signed." if count == 1 else f"{count} events, each signed, the chain unbroken."


def months_in_words(diagnosis: Diagnosis) -> str:
    """In which months the cause was seen."""
    first, last = diagnosis.incident.first_month or diagnosis.month, diagnosis.incident.last_month
    if first is None:
        return ""
    return f"{first:%Y-%m}" if last is None or last == first else f"{first:%Y-%m} to {last:%Y-%m}"


def planned_in_words(diagnosis: Diagnosis) -> str:
    """The repair that the month's plan chose; empty where the incident itself tells it."""
    return "" if diagnosis.incident.error in diagnosis.plan else diagnosis.plan


def short_actor(actor: str) -> str:
    """An actor as it is shown: of a run the first eight digits."""
    return actor[:12] if actor.startswith("run:") else actor


def in_words(name: str) -> str:
    """A name of the platform's as people write it."""
    return name.replace("_", " ")


def _change(diagnosis: Diagnosis, place: int) -> _Change:
    event = diagnosis.events[place]
    text = event.text
    if event.event is Event.CLOSED:
        text = f"{text} Root cause: {event.root_cause} Action: {event.action}"
    fault = diagnosis.faults.get(event.number, "")
    signed_by = "the platform's key" if event.role == AUTOMATION else f"{event.actor}'s key"
    return _Change(
        at=f"{event.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        event=event.event.value,
        who=f"{short_actor(event.actor)} ({in_words(event.role)})",
        text=f"{event.month:%Y-%m}: {text}" if event.month else text,
        signature=fault or f"signed with {signed_by}",
        whole=not fault,
    )
