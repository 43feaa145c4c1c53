"""Releasing a version: all that may forbid it, read afresh, and the entry that says on what it rests.

Belongs here: what a release asks for beside the asset. Does not belong here: how a signature is checked (signatures),
and the steps in which what is live changes (champion_move.py).
"""

from datetime import UTC, datetime

from clinical_assets.governance.audit_trail import run_actor
from clinical_assets.governance.ledger import (
    FIRST,
    Approval,
    LedgerEntry,
    LedgerKind,
    last_of,
    withdrawn_at,
)
from clinical_assets.governance.signatures import CheckedSignature
from clinical_assets.lifecycle.candidate import check_sign_offs, reasons_against_release
from clinical_assets.lifecycle.champion_move import (
    Platform,
    ReleaseError,
    move_champion,
    recover_locked,
    refusal_recorded,
)
from clinical_assets.lifecycle.release_reference import release_reference
from clinical_assets.lifecycle.smoke_set import keep_smoke_set
from clinical_assets.protocol import ModelProtocol, ModelVersion
from clinical_assets.resources.ledger import exclusive, mismatch, read_ledger, remedy


def release_version(at: Platform, protocol: ModelProtocol, version: ModelVersion, run_id: str) -> LedgerEntry:
    """Make a version live if its report passes and every role signed; gives the ledger's entry.

    Raises ReleaseError with every reason against it, and what the audit trail keeps of it; then nothing has moved.
    """
    target, actor = f"{version.model} version {version.version}", run_actor(run_id)
    with exclusive(at.home, version.model):
        recover_locked(at, version.model)
        with refusal_recorded(at.home, "release_refused", actor, target):
            entry = prepare_release(at, protocol, version, run_id)
        if entry not in read_ledger(at.lake, version.model):
            for _ in move_champion(at, entry):
                pass
    return entry


def prepare_release(at: Platform, protocol: ModelProtocol, version: ModelVersion, run_id: str) -> LedgerEntry:
    """The entry of a release that nothing forbids; that of the version itself where it is live already."""
    report = at.lake.read(f"{version.model}.validation_report", where={"version": version.version})
    estimator = at.registry.load(version, protocol.estimator)
    entries = read_ledger(at.lake, version.model)
    reasons = reasons_against_release(at.home, protocol, version, report)
    if moved_past_us := mismatch(at.registry, entries, version.model):
        reasons.append(f"{moved_past_us}; {remedy(at.lake, version.model)} first")
    approvals = [] if reasons else _approvals(check_sign_offs(at.home, protocol, version, report))
    if not reasons and (withdrawn := withdrawn_at(entries, version.version)):
        reasons += _unsigned_since(withdrawn, approvals, protocol)
    if reasons:
        raise ReleaseError(f"{version.model} version {version.version} is not released: {'; '.join(reasons)}")
    live = last_of(entries)
    if live and live.version == version.version:
        return live
    release_reference(at.lake, version, protocol, run_id)  # what cannot be watched does not go live
    return LedgerEntry(
        model=version.model,
        number=len(entries) + 1,
        live_from=datetime.now(UTC),
        kind=LedgerKind.RELEASE,
        version=version.version,
        previous_version=live.version if live else None,
        reason=f"every limit of its report is met or does not apply, and {_names(approvals)} approved it",
        actor=run_actor(run_id),
        run_id=run_id,
        artefact_sha256=version.artefact_sha256,
        report_sha256=report["report_sha256"][0],
        protocol_sha256=version.protocol_sha256,
        smoke_sha256=keep_smoke_set(at.lake, estimator, protocol, version, author=run_id),
        limits=report.height,
        approvals=tuple(approvals),
        training_set_snapshot=version.lake_snapshot,
        trained_through=version.trained_through,
        data_origin=version.data_origin,
        previous_sha256=entries[-1].sha256 if entries else FIRST,
    )


def _approvals(checked: list[CheckedSignature]) -> list[Approval]:
    said = [(item.signature.statement, item.demo) for item in checked if not item.fault]
    return [Approval(x.signer, x.role, x.signed_at, demo) for x, demo in said if x.decision == "approve"]


def _unsigned_since(withdrawn: datetime, approvals: list[Approval], protocol: ModelProtocol) -> list[str]:
    since = {x.role for x in approvals if datetime.fromisoformat(x.signed_at) > withdrawn}
    return [
        f"it was rolled back or withdrawn on {withdrawn:%Y-%m-%d %H:%M} UTC, and no approval as {role} was given since"
        for role in protocol.sign_off.roles
        if role not in since
    ]


def _names(approvals: list[Approval]) -> str:
    return ", ".join(f"{x.signer} ({x.role}{', demonstration' if x.demo else ''})" for x in approvals)
