"""How what is live changes: steps in a fixed order, so that a kill after any of them leaves the old or the new.

Belongs here: the steps of a release, a rollback and a withdrawal, and what becomes of an interrupted one. Does not
belong here: whether a version may be released (release_act.py), gone back to (rollback.py) or taken out of service
(withdrawal.py).

The intent is written before the alias moves. Where it is found later, and no process holds the model's lock, the alias
tells: not moved, and the intent is dropped; moved, and the steps after it are done, each of which may be done twice.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.governance.ledger import (
    Approval,
    LedgerEntry,
    LedgerError,
    LedgerKind,
    last_of,
    why_nothing_is_live,
)
from clinical_assets.governance.platform_key import is_platform_signature, platform_key, public_key
from clinical_assets.governance.signatures import SignatureError
from clinical_assets.governance.signers import SignerError
from clinical_assets.learning.estimator import LearningError
from clinical_assets.lifecycle.automation import IN_FLIGHT, NEWEST_RELEASED, NOTHING_LIVE
from clinical_assets.lifecycle.incidents import open_incident
from clinical_assets.protocol import ProtocolError
from clinical_assets.resources.home import Home, write_atomically
from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.ledger import AtWorkError, append_entry, exclusive, read_ledger
from clinical_assets.resources.registry import CHAMPION, Registry, RegistryError

LEDGER_NUMBER = "ledger_number"
LEDGER_WRITTEN = "ledger written"
VERSION_IS_LIVE = "a_version_is_live"
"""The check of `release` that fails while nothing is live, and holds scoring up; its evaluations name the entry."""


class ReleaseError(RuntimeError):
    """A candidate may not be released; the message gives every reason."""


@dataclass(frozen=True, slots=True)
class Platform:
    """All that a change of what is live touches."""

    home: Home
    lake: Lake
    registry: Registry
    instance: dg.DagsterInstance


@dataclass(frozen=True, slots=True)
class Intent:
    """A change that is at work: its entry, the champion of before, and whether the audit trail has it already."""

    entry: LedgerEntry
    champion_before: int | None
    audited: bool


def move_champion(at: Platform, entry: LedgerEntry) -> Iterator[str]:
    """Make what the entry says live, and tell each step once it is done; the caller holds the model's lock."""
    champion = at.registry.find(entry.model, CHAMPION)
    intent = Intent(entry, champion.version if champion else None, audited=False)
    write_intent(at.home, intent)
    yield "intent written"
    yield from _move_and_follow(at, intent, interrupted=False)


def recover(at: Platform, model: str) -> str:
    """Finish or drop a change that was interrupted, and tell which; empty where there is none, or it is at work."""
    if not intent_path(at.home, model).exists():
        return ""
    try:
        with exclusive(at.home, model, patience_seconds=0.0):
            return recover_locked(at, model)
    except AtWorkError:
        return ""


def recover_locked(at: Platform, model: str) -> str:
    """As `recover`, by who holds the model's lock already."""
    path = intent_path(at.home, model)
    if not path.exists():
        return ""
    intent = read_intent(at.home, model)
    entry, champion = intent.entry, at.registry.find(model, CHAMPION)
    if entry.kind.leaves_nothing_live:
        moved = champion is None
    else:
        moved = champion is not None and champion.version == entry.version != intent.champion_before
    written = any(known == entry for known in read_ledger(at.lake, model))
    words = f"{entry.kind} of {model} version {entry.version}"
    if not (moved or written):
        AuditTrail(at.home.audit).record(
            f"{_action(entry)}_refused",
            actor=entry.actor,
            target=f"{model} version {entry.version}",
            outcome="failure",
            reason="it was interrupted before the alias moved; nothing has changed",
        )
        path.unlink()
        return f"{words} had been interrupted before the alias moved: dropped, nothing has changed"
    for _ in _move_and_follow(at, intent, interrupted=True):
        pass
    return f"{words} had been interrupted after the alias moved: finished"


def recover_all(home: Home, lake: Lake, registry: Registry) -> list[str]:
    """Finish or drop every change of this home that was interrupted, and tell of each, without Dagster at work.

    One that cannot be finished yet is told of too, and the next look tries again.
    """
    told = []
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        for model in sorted(path.stem for path in home.acts.glob("[!.]*.json")):
            try:
                told.append(recover(Platform(home, lake, registry, instance), model))
            except (LakeError, LedgerError, RegistryError) as error:
                told.append(f"a release, rollback or withdrawal of {model} is not finished yet: {error}")
    return [words for words in told if words]


def _move_and_follow(at: Platform, intent: Intent, interrupted: bool) -> Iterator[str]:
    entry = intent.entry
    if entry.kind.leaves_nothing_live:
        at.registry.withdraw(entry.model)
    else:
        at.registry.release(at.registry.version(entry.model, entry.version))
    yield "alias moved"
    append_entry(at.lake, entry)
    yield LEDGER_WRITTEN
    if not intent.audited:
        _audit(at.home, entry, interrupted)
        write_intent(at.home, replace(intent, audited=True))
    yield "audited"
    # A release is a run's own materialisation: unless it was killed before.
    if entry.kind is not LedgerKind.RELEASE:
        open_incident(at.lake, at.home, _breach(entry), actor=entry.actor)
        yield "incident opened"
    if entry.kind is not LedgerKind.RELEASE or interrupted:
        settle(at, entry.model)
        yield "monitoring re-referenced"
    intent_path(at.home, entry.model).unlink(missing_ok=True)
    yield "intent dropped"


def _audit(home: Home, entry: LedgerEntry, interrupted: bool) -> None:
    AuditTrail(home.audit).record(
        _action(entry),
        actor=entry.actor,
        target=f"{entry.model} version {entry.version}",
        reason=entry.reason,
        snapshot=entry.training_set_snapshot,
        details={
            "kind": entry.kind.value,
            "previous_version": entry.previous_version,
            LEDGER_NUMBER: entry.number,
            "entry_sha256": entry.sha256,
            "artefact_sha256": entry.artefact_sha256,
            "report_sha256": entry.report_sha256,
            "protocol_sha256": entry.protocol_sha256,
            "finished_after_interruption": interrupted,
        },
    )


def settle(at: Platform, model: str) -> bool:
    """Have Dagster's newest release be the ledger's last entry, from which sensors tell who is champion.

    So with the check that a version is live. True where either was not, which is put right without a run; a release
    whose run is still at work is left to it.
    """
    entries = read_ledger(at.lake, model)
    if not entries:
        return False
    last, key = entries[-1], dg.AssetKey([model, "release"])
    metadata, check = release_metadata(last, entries), version_is_live(model, entries)
    event = at.instance.get_latest_materialization_event(key)
    known = event.asset_materialization.metadata if event and event.asset_materialization else {}
    told = {name: known[name].value for name in (LEDGER_NUMBER, "version") if name in known}
    released = bool(told) and told.items() <= metadata.items()
    checked = _is_told(at.instance, check)
    if released and checked:
        return False
    run = at.instance.get_run_by_id(last.run_id) if last.run_id else None
    if run is not None and run.status in IN_FLIGHT:
        return False
    if not released:
        at.instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))
    # Dagster takes a failed check for stale as soon as its asset is materialised after it.
    at.instance.report_runless_asset_event(check)
    return True


def _is_told(instance: dg.DagsterInstance, check: dg.AssetCheckEvaluation) -> bool:
    record = instance.get_latest_asset_check_evaluation_record(check.asset_check_key)
    evaluation = record.evaluation if record else None
    if evaluation is None or LEDGER_NUMBER not in evaluation.metadata:
        return False
    same_entry = evaluation.metadata[LEDGER_NUMBER] == check.metadata[LEDGER_NUMBER]
    return same_entry and evaluation.passed == check.passed


def version_is_live(model: str, entries: list[LedgerEntry]) -> dg.AssetCheckEvaluation:
    """Whether a version of the model is live by its ledger, and if not, since when, by whom and why."""
    live = last_of(entries)
    words = f"version {live.version}" if live else why_nothing_is_live(entries) or "nothing was ever released"
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey([model, "release"]),
        check_name=VERSION_IS_LIVE,
        passed=live is not None,
        metadata={"live": words if live else f"nothing: {words}", LEDGER_NUMBER: len(entries)},
        severity=dg.AssetCheckSeverity.WARN,
    )


def release_metadata(last: LedgerEntry, entries: list[LedgerEntry]) -> dict[str, Any]:
    """What a materialisation of `release` tells, whichever act made the version live, or left none so."""
    return {
        "version": NOTHING_LIVE if last.kind.leaves_nothing_live else last.version,
        "previous_champion": "none" if last.previous_version is None else last.previous_version,
        "act": last.kind.value,
        "reason": last.reason,
        LEDGER_NUMBER: last.number,
        NEWEST_RELEASED: max(x.version for x in [*entries, last]),
        "artefact_sha256": last.artefact_sha256,
        "report_sha256": last.report_sha256,
        "protocol_sha256": last.protocol_sha256,
    }


@contextmanager
def refusal_recorded(home: Home, action: str, actor: str, target: str) -> Iterator[None]:
    """Whatever forbids the act in the block is written to the audit trail, and raised."""
    try:
        yield
    except (
        *(LakeError, LearningError, LedgerError, ProtocolError, RegistryError),
        *(ReleaseError, SignatureError, SignerError),
    ) as error:
        AuditTrail(home.audit).record(action, actor=actor, target=target, outcome="failure", reason=str(error))
        raise


def intent_path(home: Home, model: str) -> Path:
    """Where the change of a model that is at work, or was interrupted, is written down."""
    return home.acts / f"{model}.json"


def write_intent(home: Home, intent: Intent) -> None:
    """Write down what is about to change, signed by the platform; a kill leaves the file of before or this one whole.

    Without the signature, who can write to the folder could have a version of their own finished into the ledger.
    """
    said = asdict(intent.entry) | {
        "live_from": intent.entry.live_from.isoformat(timespec="microseconds"),
        "trained_through": intent.entry.trained_through.isoformat(),
        "champion_before": intent.champion_before,
        "audited": intent.audited,
    }
    signature = platform_key(home.keys).sign(_canonical(said))
    write_atomically(intent_path(home, intent.entry.model), json.dumps({"intent": said, "signature": signature}))


def read_intent(home: Home, model: str) -> Intent:
    """What was about to change; raises LedgerError for a file that is no intent of the platform's."""
    path = intent_path(home, model)
    try:
        written = json.loads(path.read_text())
        said = written["intent"]
        if not is_platform_signature(public_key(home.keys), _canonical(said), written["signature"]):
            raise LedgerError(
                f"{path} was not written by the platform, or was changed; find out by whom, compare the ledger with "
                "the alias, then delete it"
            )
        before, audited = said.pop("champion_before"), said.pop("audited")
        entry = LedgerEntry(
            **said
            | {
                "kind": LedgerKind(said["kind"]),
                "live_from": datetime.fromisoformat(said["live_from"]).astimezone(UTC),
                "trained_through": date.fromisoformat(said["trained_through"]),
                "approvals": tuple(Approval(**approval) for approval in said["approvals"]),
            }
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"{path} is damaged ({type(error).__name__}); compare ledger and alias, then delete it"
        ) from error
    return Intent(entry, before, audited)


def _canonical(said: dict[str, Any]) -> bytes:
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _action(entry: LedgerEntry) -> str:
    if entry.kind.leaves_nothing_live:
        return "withdraw"
    return "release" if entry.kind is LedgerKind.RELEASE else "rollback"


def _breach(entry: LedgerEntry) -> Breach:
    before = f"version {entry.previous_version}" if entry.previous_version is not None else "nothing"
    gone = entry.kind.leaves_nothing_live
    now = "nothing" if gone else f"version {entry.version}"
    return Breach(
        model=entry.model,
        cause=Cause.WITHDRAWAL if gone else Cause.ROLLBACK,
        subject=f"ledger entry {entry.number}",
        what=f"{entry.kind} from {before} to {now} by {entry.actor}: {entry.reason}",
        run_id=entry.run_id,
        seen_at=entry.live_from,
    )
