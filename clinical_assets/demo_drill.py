"""What the demonstration shows of governance once its months are over: an incident is closed, a rollback is drilled.

Belongs here: who acts, all of them demonstration signers, and on what. Does not belong here: how an incident changes
or a rollback is done; the same functions serve people.
"""

from collections.abc import Sequence
from functools import partial

from clinical_assets.archives.archive import PublishedArchive
from clinical_assets.governance.incidents import Cause, Event, Incident, State
from clinical_assets.governance.ledger import LedgerKind, last_of, version_before
from clinical_assets.governance.signatures import sign_message
from clinical_assets.lifecycle.champion_move import Platform
from clinical_assets.lifecycle.diagnosis import write_page
from clinical_assets.lifecycle.incidents import change_incident, read_incidents
from clinical_assets.lifecycle.rollback import roll_back
from clinical_assets.protocol import ModelProtocol, load_object
from clinical_assets.replay import demonstration_signer
from clinical_assets.resources.ledger import read_ledger

ON_CALL = "on_call"
DRILL = "demonstration: a drill"


def hold_drill(at: Platform, protocols: Sequence[ModelProtocol]) -> list[str]:
    """Close one incident and roll one model back and forward again, each once a home; what was done, in sentences."""
    return [*_answer_incident(at, protocols), *_drill_rollback(at, protocols)]


def _answer_incident(at: Platform, protocols: Sequence[ModelProtocol]) -> list[str]:
    incidents = read_incidents(at.lake, at.home)
    faulty = [x for x in incidents if x.cause is Cause.FIX_DATA and x.state is not State.CLOSED]
    if not faulty or any(x.cause is Cause.FIX_DATA and x.state is State.CLOSED for x in incidents):
        return []
    action = "demonstration: nothing was retrained; the owner of the feed was told of the column"
    return [_close(at, faulty[0], _put_in(faulty[0], protocols), action)]


def _put_in(incident: Incident, protocols: Sequence[ModelProtocol]) -> str:
    """The change that the replay makes in the incident's month, as its root cause."""
    for protocol in protocols:
        if protocol.model == incident.model and protocol.archive:
            published: PublishedArchive = load_object(protocol.archive)
            for drift in published.known_drift():
                if drift.month == incident.first_month:
                    return f"demonstration: put in by the replay: {drift.what}"
    return "demonstration: nobody has looked"


def _drill_rollback(at: Platform, protocols: Sequence[ModelProtocol]) -> list[str]:
    """Of the first model that has a version to go back to; what follows from it is left as it was found."""
    for protocol in protocols:
        entries = read_ledger(at.lake, protocol.model)
        if any(entry.kind is LedgerKind.ROLLBACK for entry in entries):
            return []
        if (last := last_of(entries)) is None or (before := version_before(entries, live := last.version)) is None:
            continue
        actor = demonstration_signer(at.home, ON_CALL).name
        there = roll_back(at, protocol, before, DRILL, actor)
        back = roll_back(at, protocol, live, f"{DRILL}, undone", actor)
        opened = [x for x in read_incidents(at.lake, at.home) if x.cause is Cause.ROLLBACK and x.state is State.OPEN]
        return [
            f"{protocol.title}: rolled back from version {live} to {before} in {there.seconds:.1f} s, and forward in "
            f"{back.seconds:.1f} s ({DRILL}, by {actor})",
            *(_close(at, incident, DRILL, "demonstration: none; the drill went as planned") for incident in opened),
        ]
    return []


def _close(at: Platform, incident: Incident, root_cause: str, action: str) -> str:
    signer = demonstration_signer(at.home, ON_CALL)
    sign = partial(sign_message, key_path=at.home.keys / f"{signer.name}.pem", passphrase=None)
    change = partial(
        change_incident, at.lake, at.home, incident.incident_id, actor=signer.name, role=ON_CALL, sign=sign
    )
    change(Event.ACKNOWLEDGED, text="demonstration: I am looking into it")
    change(Event.CLOSED, text="demonstration: nothing is left to do", root_cause=root_cause, action=action)
    write_page(at.lake, at.home, incident.incident_id)
    named = f"incident {incident.incident_id} ({incident.model}, {incident.cause})"
    return f"{named}: acknowledged and closed by {signer.name}"
