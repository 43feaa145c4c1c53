"""What is shown of the platform as a whole: incidents, audit trail, outbox, signatures, and its own limits of time.

Belongs here: which state becomes which series, and those limits. Does not belong here: reading files and tables, and
what is Dagster's.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from clinical_assets.governance.incidents import Severity, State
from clinical_assets.governance.ledger import LedgerEntry, release_of
from clinical_assets.governance.signatures import Signature
from clinical_assets.governance.signers import Signer
from clinical_assets.metrics import series
from clinical_assets.metrics.series import Sample
from clinical_assets.protocol import ModelProtocol

ACKNOWLEDGE_WITHIN = {
    Severity.AT_ONCE: timedelta(minutes=15),
    Severity.TODAY: timedelta(hours=8),
    Severity.THIS_WEEK: timedelta(days=5),
}
DAEMON_HEARTBEAT, AUDIT_LAG, OUTBOX_WAIT, EXPIRY_NOTICE = (
    "daemon_heartbeat",
    "audit_lag",
    "outbox_wait",
    "expiry_notice",
)
LIMITS = {
    # A daemon gives a sign of life every 30 s.
    DAEMON_HEARTBEAT: timedelta(seconds=50),
    AUDIT_LAG: timedelta(minutes=5),
    # The third try of a delivery has failed by then.
    OUTBOX_WAIT: timedelta(minutes=10),
    EXPIRY_NOTICE: timedelta(days=7),
}
"""How long each may take before somebody is told; series of their own, for rules hold no number."""


def limit_figures() -> Iterator[Sample]:
    """The platform's own limits of time."""
    for limit, length in LIMITS.items():
        yield series.PLATFORM_LIMIT.at(length.total_seconds(), limit=limit)
    for severity, length in ACKNOWLEDGE_WITHIN.items():
        yield series.ACKNOWLEDGE_WITHIN.at(length.total_seconds(), severity=severity.value)


def incident_figures(incidents: pl.DataFrame) -> Iterator[Sample]:
    """Open incidents by model, severity, cause and state; of each severity a number, be it nought.

    `incidents` has the columns model, severity, cause, state and opened_at, a row an incident.
    """
    unclosed = incidents.filter(pl.col("state") != State.CLOSED.value)
    by_severity = dict(unclosed.group_by("severity").len().rows())
    for severity in Severity:
        yield series.INCIDENTS_BY_SEVERITY.at(by_severity.get(severity.value, 0), severity=severity.value)
    kinds = ["model", "severity", "cause"]
    for *kind, state, count in unclosed.group_by(*kinds, "state").len().sort(pl.all()).rows():
        yield series.INCIDENTS_OPEN.at(count, **dict(zip(kinds, kind, strict=True)), state=state)
    waiting = unclosed.filter(pl.col("state") == State.OPEN.value)
    for *kind, opened in waiting.group_by(kinds).agg(pl.col("opened_at").min()).sort(pl.all()).rows():
        yield series.INCIDENT_UNACKNOWLEDGED.at(opened.timestamp(), **dict(zip(kinds, kind, strict=True)))


def audit_figures(records: int, head_at: datetime) -> Iterator[Sample]:
    """How long the audit trail is by its head, and when that was written."""
    yield series.AUDIT_RECORDS.at(records)
    yield series.AUDIT_HEAD.at(head_at.timestamp())


def outbox_figures(posted_at: Sequence[datetime]) -> Iterator[Sample]:
    """How many notices some receiver does not have yet, and since when the oldest waits."""
    yield series.OUTBOX_PENDING.at(len(posted_at))
    if posted_at:
        yield series.OUTBOX_OLDEST.at(min(posted_at).timestamp())


def signature_figures(
    protocol: ModelProtocol, version: int, signatures: Sequence[Signature], entries: Sequence[LedgerEntry]
) -> Iterator[Sample]:
    """When each role's newest approval of a candidate expires; nothing of one that was released.

    `version` is the newest that anybody signed, 0 where there is none.
    """
    waiting = version > 0 and release_of(entries, version) is None
    yield series.CANDIDATE_WAITING.at(waiting, model=protocol.model)
    newest: dict[str, datetime] = {}
    for signature in signatures if waiting else ():
        if (said := signature.statement).decision == "approve":
            newest[said.role] = datetime.fromisoformat(said.signed_at)
    for role, signed_at in sorted(newest.items()):
        expires = signed_at + timedelta(days=protocol.sign_off.valid_days)
        yield series.SIGNATURE_EXPIRES.at(expires.timestamp(), model=protocol.model, version=version, role=role)


def signer_figures(signers: Mapping[str, Signer]) -> Iterator[Sample]:
    """When the first key of each role expires, of keys that still count; no signer is named."""
    first: dict[str, datetime] = {}
    for signer in signers.values():
        if signer.expires_at is None or signer.revoked_at is not None:
            continue
        for role in signer.roles:
            first[role] = min(first.get(role, signer.expires_at), signer.expires_at)
    for role, expires in sorted(first.items()):
        yield series.SIGNER_KEY_EXPIRES.at(expires.astimezone(UTC).timestamp(), role=role)
