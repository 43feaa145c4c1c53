"""Taking the live version out of service, so that nothing of the model is live: by a person, or by the protocol.

Belongs here: whether there is anything to take out, when the protocol does it, and the entry that says so. Does not
belong here: the steps in which what is live changes (champion_move.py).
"""

from dataclasses import replace
from datetime import UTC, datetime

from clinical_assets.governance.ledger import LedgerEntry, LedgerError, LedgerKind, last_of, valid_until
from clinical_assets.lifecycle.champion_move import Platform, move_champion, recover_locked, refusal_recorded
from clinical_assets.protocol import AUTOMATION, ModelProtocol
from clinical_assets.resources.ledger import exclusive, mismatch, read_ledger, remedy


def withdraw(at: Platform, model: str, reason: str, actor: str) -> LedgerEntry:
    """Take the live version out of service; gives the ledger's entry.

    Raises LedgerError, which the audit trail keeps, and then nothing has moved.
    """
    with exclusive(at.home, model):
        recover_locked(at, model)
        with refusal_recorded(at.home, "withdraw_refused", actor, model):
            entry = prepare_withdrawal(at, model, reason, actor, LedgerKind.WITHDRAWAL)
        for _ in move_champion(at, entry):
            pass
    return entry


def withdraw_when_expired(at: Platform, protocol: ModelProtocol) -> str:
    """Take the live version out of service once its days under the protocol are over, and tell; empty otherwise."""
    if not _is_over(at, protocol):
        return ""
    with exclusive(at.home, protocol.model):
        recover_locked(at, protocol.model)
        # Whoever held the lock may have released, rolled back or withdrawn.
        if not _is_over(at, protocol):
            return ""
        reason = f"the protocol allows a release {protocol.release_valid_days} days of service, and they are over"
        entry = prepare_withdrawal(at, protocol.model, reason, AUTOMATION, LedgerKind.EXPIRY)
        for _ in move_champion(at, entry):
            pass
    return f"version {entry.version} is out of service: {reason}"


def prepare_withdrawal(at: Platform, model: str, reason: str, actor: str, kind: LedgerKind) -> LedgerEntry:
    """The entry after which nothing is live, with all that the version rested on; raises LedgerError where none is."""
    if not reason.strip():
        raise LedgerError("a withdrawal needs a reason, in a sentence; it is kept in the ledger")
    entries = read_ledger(at.lake, model)
    if (live := last_of(entries)) is None:
        if found := mismatch(at.registry, entries, model):
            raise LedgerError(f"{found}; {remedy(at.lake, model)}")
        raise LedgerError(f"nothing of {model} is live by the ledger; there is nothing to withdraw")
    return replace(
        live,
        number=live.number + 1,
        live_from=datetime.now(UTC),
        kind=kind,
        previous_version=live.version,
        reason=reason,
        actor=actor,
        run_id="",
        previous_sha256=live.sha256,
    )


def _is_over(at: Platform, protocol: ModelProtocol) -> bool:
    if protocol.release_valid_days is None:
        return False
    live = last_of(read_ledger(at.lake, protocol.model))
    until = valid_until(live, protocol.release_valid_days) if live else None
    return until is not None and datetime.now(UTC) >= until
