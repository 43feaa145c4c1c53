"""Going back to a version that was once released: by a person, or by the protocol's guard.

Belongs here: whether one may go back to a version, and the entry that says so. Does not belong here: the steps in which
what is live changes (champion_move.py).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from clinical_assets.governance.ledger import (
    LedgerEntry,
    LedgerError,
    LedgerKind,
    last_of,
    release_of,
    released_versions,
    version_before,
)
from clinical_assets.lifecycle.champion_move import (
    LEDGER_WRITTEN,
    Platform,
    move_champion,
    recover_locked,
    refusal_recorded,
)
from clinical_assets.lifecycle.smoke_set import prove_smoke_set
from clinical_assets.protocol import ModelProtocol
from clinical_assets.resources.ledger import exclusive, mismatch, read_ledger


@dataclass(frozen=True, slots=True)
class Rollback:
    """A rollback that is done: its entry in the ledger, and the rows it was proved on.

    `seconds_to_live` is until the version was live and in the ledger, `seconds` until Dagster and people were told too.
    """

    entry: LedgerEntry
    smoke_rows: int
    seconds_to_live: float
    seconds: float


def roll_back(
    at: Platform,
    protocol: ModelProtocol,
    to: int | None,
    reason: str,
    actor: str,
    kind: LedgerKind = LedgerKind.ROLLBACK,
    without_smoke_set: bool = False,
) -> Rollback:
    """Make a version live again that was once released; `to` None is the one live before the present one's release.

    Where nothing is live, since the live version was withdrawn, `to` must be given.

    Raises LedgerError, RegistryError or LearningError, each of which the audit trail keeps, and then nothing has moved.
    """
    begun = time.monotonic()
    target = f"{protocol.model} version {to if to is not None else 'before'}"
    with exclusive(at.home, protocol.model):
        recover_locked(at, protocol.model)
        with refusal_recorded(at.home, "rollback_refused", actor, target):
            entry, smoke_rows = prepare_rollback(at, protocol, to, reason, actor, kind, without_smoke_set)
        done = {step: time.monotonic() - begun for step in move_champion(at, entry)}
    return Rollback(entry, smoke_rows, done[LEDGER_WRITTEN], time.monotonic() - begun)


def prepare_rollback(
    at: Platform,
    protocol: ModelProtocol,
    to: int | None,
    reason: str,
    actor: str,
    kind: LedgerKind,
    without_smoke_set: bool,
) -> tuple[LedgerEntry, int]:
    """The entry of a rollback, once the version has proved itself unchanged, and the rows it was proved on."""
    if not reason.strip():
        raise LedgerError("a rollback needs a reason, in a sentence; it is kept in the ledger")
    entries = read_ledger(at.lake, protocol.model)
    if not entries:
        raise LedgerError(f"nothing of {protocol.model} was ever released; there is nothing to go back to")
    live = last_of(entries)
    target = version_before(entries, live.version) if to is None and live else to
    moved_past_us = mismatch(at.registry, entries, protocol.model)
    basis = _basis(entries, live, target, protocol.model)
    if live and target == live.version and not moved_past_us:
        raise LedgerError(f"{protocol.model} version {target} is live already")
    version = replace(at.registry.version(protocol.model, basis.version), artefact_sha256=basis.artefact_sha256)
    estimator = at.registry.load(version, protocol.estimator)
    if basis.smoke_sha256:
        smoke_rows = prove_smoke_set(at.lake, estimator, version, basis.smoke_sha256)
    elif without_smoke_set:
        smoke_rows, reason = 0, f"{reason} (its files are unchanged; no smoke set was kept when it was released)"
    else:
        raise LedgerError(
            f"{protocol.model} version {target} was released before smoke sets were kept: its files are unchanged, but "
            "that it still says the same cannot be told; add --without-smoke-set if going back is worth that"
        )
    entry = replace(
        basis,
        number=entries[-1].number + 1,
        live_from=datetime.now(UTC),
        kind=kind,
        previous_version=live.version if live else None,
        reason=reason,
        actor=actor,
        run_id="",
        previous_sha256=entries[-1].sha256,
    )
    return entry, smoke_rows


def _basis(entries: Sequence[LedgerEntry], live: LedgerEntry | None, target: int | None, model: str) -> LedgerEntry:
    released = released_versions(entries)
    if target is not None:
        if release := release_of(entries, target):
            return release
        raise LedgerError(f"{model} version {target} was never released; released were: {released}")
    if live and live.version == entries[0].version:
        raise LedgerError(f"{model} version {live.version} was the first release; there is none to go back to")
    why = f"nothing was live when version {live.version} was released" if live else "nothing is live"
    raise LedgerError(f"{model}: {why}; name with --to the version to put back; released were: {released}")
