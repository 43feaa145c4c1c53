"""The audit trail: who did what, when, why and on which snapshot, as hash-chained records appended to one file.

Belongs here: records, their chain, and whether it is whole. Does not belong here: what is worth recording, and how
records are shipped elsewhere.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

Outcome = Literal["success", "failure"]
Scalar = str | int | float | bool | None

FIRST = "0" * 64
"""What the first record gives as the hash of the one before it."""


class AuditError(RuntimeError):
    """The audit trail cannot be written or is not whole; the message names the file and the record."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One act: its place in the chain, the actor, the action and its target, and the hash of the record before it."""

    number: int
    at: str
    actor: str
    action: str
    target: str
    outcome: Outcome
    reason: str
    snapshot: int | None
    previous_sha256: str
    details: Mapping[str, Scalar] = field(default_factory=dict)

    def canonical(self) -> bytes:
        """The line that stands in the file: JSON with sorted keys and no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """The trail of one home, in `folder`/audit.jsonl; several processes may write at once."""

    folder: Path

    @property
    def path(self) -> Path:
        """The file of the records, one a line."""
        return self.folder / "audit.jsonl"

    def record(
        self,
        action: str,
        *,
        actor: str,
        target: str,
        outcome: Outcome = "success",
        reason: str = "",
        snapshot: int | None = None,
        details: Mapping[str, Scalar] | None = None,
    ) -> AuditRecord:
        """Append one record, and return when it is on the disk.

        `action` is a verb of the trail's words (`materialise`, `sign`, `release`, ...), `target` what it was done to
        (an asset key, a model version, a key's name): never a row's value.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            number, previous = _last(descriptor)
            record = AuditRecord(
                number=number + 1,
                at=datetime.now(UTC).isoformat(timespec="microseconds"),
                actor=actor,
                action=action,
                target=target,
                outcome=outcome,
                reason=reason,
                snapshot=snapshot,
                previous_sha256=previous,
                details=dict(details or {}),
            )
            os.write(descriptor, record.canonical() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return record


def _last(descriptor: int) -> tuple[int, str]:
    """The number of the last record and its hash."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return 0, FIRST
    tail = os.pread(descriptor, min(size, 2**20), max(0, size - 2**20))
    line = tail.rstrip(b"\n").rpartition(b"\n")[2]
    return int(json.loads(line)["number"]), hashlib.sha256(line).hexdigest()
