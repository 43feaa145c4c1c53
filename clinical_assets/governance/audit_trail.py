"""The audit trail: who did what, when, why and on which snapshot, as hash-chained signed records appended to one file.

Belongs here: records, how one is appended, and the seals that say how far the trail reaches. Does not belong here:
what is worth recording, whether a trail is whole (audit_verification), and how it is shipped elsewhere.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from clinical_assets.governance.platform_key import PlatformKey, is_platform_signature, platform_key

Outcome = Literal["success", "failure"]
Scalar = str | int | float | bool | None

FIRST = "0" * 64
"""What the first record gives as the hash of the one before it."""

RECORDS_PER_CHECKPOINT = 100
PLATFORM = "platform"
CHECKPOINT, TORN_LINE = "checkpoint", "torn_line"
_READ_BYTES = 2**16
_ACTION = re.compile(r"[a-z][a-z_]{0,31}")


class AuditError(RuntimeError):
    """The audit trail cannot be written or is not whole; the message names the file and the record."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One act: its place in the chain, the actor, the action and its target, and the hash of the record before it.

    `signature` is the platform's, in 128 hex digits, over all the rest: without its key no record can be added.
    """

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
    signature: str = ""

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """The record that stands in a line of the file; raises AuditError for a line that no platform has written."""
        try:
            record = cls(**json.loads(line))
            canonical = record.canonical()
        except (ValueError, TypeError, AuditError) as error:
            raise AuditError("the line is no record") from error
        if canonical != line:
            raise AuditError("the line is not written the way the platform writes it")
        return record

    def canonical(self) -> bytes:
        """The line that stands in the file, without its end: JSON in UTF-8 with sorted keys and no spaces."""
        return _canonical(asdict(self))

    def statement(self) -> bytes:
        """The bytes that the platform signs: the line, but for the signature."""
        return _unsigned(asdict(self))


@dataclass(frozen=True, slots=True)
class Seal:
    """The platform's signed word on how far the trail reaches: the number of records, and the hash of the newest.

    The head is rewritten with every record; a checkpoint is kept for ever, here and wherever people note it down.
    """

    kind: Literal["head", "checkpoint"]
    at: str
    records: int
    sha256: str
    signature: str = ""

    @classmethod
    def of(cls, kind: Literal["head", "checkpoint"], records: int, sha256: str, key: PlatformKey) -> Self:
        """A seal, made now and signed."""
        unsigned = {"kind": kind, "at": _now(), "records": records, "sha256": sha256}
        return cls(**unsigned, signature=key.sign(_canonical(unsigned)))

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """The seal that stands in a line; raises AuditError for a line that no platform has written."""
        try:
            seal = cls(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise AuditError("the line is no seal") from error
        if seal.canonical() != line:
            raise AuditError("the line is not written the way the platform writes it")
        return seal

    def canonical(self) -> bytes:
        """The line that stands in the file, without its end."""
        return _canonical(asdict(self))

    def is_signed_by(self, public_key: str) -> bool:
        """Whether the signature is of the key with this public half."""
        return is_platform_signature(public_key, _unsigned(asdict(self)), self.signature)


@dataclass(frozen=True, slots=True)
class _Tail:
    """The end of the file: the newest whole record, where the whole lines end, and the bytes of a torn line."""

    number: int
    sha256: str
    end: int
    torn: int


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """The trail of one home, in `folder`/audit.jsonl; several processes may write at once.

    The platform's key lies in the folder `keys` beside `folder`. Every record is signed when it is appended, and the
    signed head is replaced after it, so that a removed end is found without reading the file.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """The file of the records, one a line."""
        return self.folder / "audit.jsonl"

    @property
    def head_path(self) -> Path:
        """The file of the newest seal."""
        return self.folder / "head.json"

    @property
    def checkpoint_path(self) -> Path:
        """The file of all checkpoints, one a line."""
        return self.folder / "checkpoints.jsonl"

    @property
    def keys(self) -> Path:
        """The folder of the platform's key."""
        return self.folder.parent / "keys"

    def torn_path(self, number: int) -> Path:
        """Where the torn line is kept that record `number` tells of."""
        return self.folder / f"audit.torn-{number}"

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
        (an asset key, a model version, a key's name): never a row's value. Every 100 records a checkpoint follows.

        Raises AuditError where nothing could be written, and where the trail does not end as its head says; the act
        that was to be recorded must then fail.
        """
        act = _checked_act(action, actor, target, outcome, reason, snapshot, dict(details or {}))
        key = platform_key(self.keys)
        with self._locked() as descriptor:
            record = self._append(descriptor, act, key)
            if record.number % RECORDS_PER_CHECKPOINT == 0:
                self._checkpoint(descriptor, record.number, _sha256(record.canonical()), key)
        return record

    def checkpoint(self) -> Seal:
        """Seal the trail as it is: in checkpoints.jsonl, and as a record; raises AuditError as `record` does."""
        if not self.path.exists():
            raise AuditError(f"there is no {self.path} to seal: nothing was recorded yet, or it was removed")
        key = platform_key(self.keys)
        with self._locked() as descriptor:
            tail = self._settled_tail(descriptor, key)
            if tail.number == 0:
                raise AuditError(f"{self.path} holds no record; there is nothing to seal")
            return self._checkpoint(descriptor, tail.number, tail.sha256, key)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise AuditError(f"{self.path} cannot be opened: {error.strerror}; nothing was done") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size == 0:
                _sync_folder(self.folder)
            yield descriptor
        except OSError as error:
            raise AuditError(
                f"{self.folder} cannot be written: {error.strerror}; see to its disk and rights"
            ) from error
        finally:
            os.close(descriptor)

    def _append(self, descriptor: int, act: Mapping[str, Any], key: PlatformKey) -> AuditRecord:
        tail = self._settled_tail(descriptor, key)
        return self._append_after(descriptor, tail.number, tail.sha256, act, key)

    def _append_after(
        self, descriptor: int, number: int, sha256: str, act: Mapping[str, Any], key: PlatformKey
    ) -> AuditRecord:
        unsigned = AuditRecord(number=number + 1, at=_now(), previous_sha256=sha256, **act)
        record = replace(unsigned, signature=key.sign(unsigned.statement()))
        _write_line(descriptor, record.canonical() + b"\n")
        head = Seal.of("head", record.number, _sha256(record.canonical()), key)
        _replace(self.head_path, head.canonical() + b"\n")
        return record

    def _checkpoint(self, descriptor: int, number: int, sha256: str, key: PlatformKey) -> Seal:
        seal = Seal.of(CHECKPOINT, number, sha256, key)
        kept = self.checkpoint_path.read_bytes() if self.checkpoint_path.exists() else b""
        # First the file, then the record: a record of a checkpoint that is not in the file can only mean removal.
        _replace(self.checkpoint_path, kept + seal.canonical() + b"\n")
        details = {"records": number, "sha256": sha256, "signature": seal.signature}
        act = _checked_act(CHECKPOINT, PLATFORM, "audit", "success", "", None, details)
        self._append_after(descriptor, number, sha256, act, key)
        return seal

    def _settled_tail(self, descriptor: int, key: PlatformKey) -> _Tail:
        """The end of a trail that agrees with its head; a torn line is set aside, and a record says so."""
        tail = _read_tail(descriptor, self.path, key.public_key)
        self._check_head(tail, key.public_key)
        aside = self.torn_path(tail.number + 1)
        if tail.torn:
            _replace(aside, _read(descriptor, tail.end, tail.torn))
            os.ftruncate(descriptor, tail.end)
        if not aside.exists():
            return tail
        content = aside.read_bytes()
        act = _checked_act(
            TORN_LINE,
            PLATFORM,
            aside.name,
            "success",
            "the line was not whole: its writer was killed while it wrote, or somebody added it",
            None,
            {"bytes": len(content), "sha256": _sha256(content)},
        )
        record = self._append_after(descriptor, tail.number, tail.sha256, act, key)
        return _Tail(record.number, _sha256(record.canonical()), end=0, torn=0)

    def _check_head(self, tail: _Tail, public_key: str) -> None:
        remedy = (
            "nothing was appended: run `clinical audit verify` and find out who changed it; then restore the folder, "
            "or keep it elsewhere as evidence, and a new trail begins at record 1"
        )
        if not self.head_path.exists():
            # Only a kill between the first record and its head leaves a record without one.
            if tail.number > 1:
                raise AuditError(f"{self.head_path} is missing beside {tail.number} records; {remedy}")
            return
        head = self.read_head()
        if not head.is_signed_by(public_key):
            raise AuditError(f"{self.head_path} is not signed with the platform's key; {remedy}")
        if tail.number < head.records or (tail.number == head.records and tail.sha256 != head.sha256):
            raise AuditError(
                f"{self.path} ends at record {tail.number} and not as {self.head_path.name} says, which knows of "
                f"{head.records}; {remedy}"
            )

    def read_head(self) -> Seal:
        """The newest seal, whoever signed it; raises AuditError where the file holds none."""
        try:
            return Seal.from_line(self.head_path.read_bytes().removesuffix(b"\n"))
        except AuditError as error:
            raise AuditError(f"{self.head_path} is damaged: {error}") from error


def person_at_terminal() -> str:
    """The actor of what is typed: `user:` and the account that the process runs as, whatever the environment says."""
    import pwd

    try:
        return f"user:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"user:{os.getuid()}"


def run_actor(run_id: str) -> str:
    """The actor of what a Dagster run does."""
    return f"run:{run_id}"


def _checked_act(
    action: str,
    actor: str,
    target: str,
    outcome: Outcome,
    reason: str,
    snapshot: int | None,
    details: dict[str, Scalar],
) -> dict[str, Any]:
    if not _ACTION.fullmatch(action):
        raise AuditError(f"the action {action!r} is not a word of lower-case letters and underscores, 32 at most")
    if not actor or not target:
        raise AuditError(f"the record of {action} names no {'target' if actor else 'actor'}")
    if outcome not in ("success", "failure"):
        raise AuditError(f"the outcome of {action} is {outcome!r}; it is success or failure")
    for name, value in details.items():
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise AuditError(f"the detail {name} of {action} is a {type(value).__name__}; give text or a number")
    act = {
        "actor": actor,
        "action": action,
        "target": target,
        "outcome": outcome,
        "reason": reason,
        "snapshot": snapshot,
        "details": details,
    }
    _canonical(act)
    return act


def _canonical(value: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except ValueError as error:
        raise AuditError("a record holds text that is not Unicode, or a number that is not finite") from error


def _unsigned(value: dict[str, Any]) -> bytes:
    return _canonical({name: given for name, given in value.items() if name != "signature"})


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _read_tail(descriptor: int, path: Path, public_key: str) -> _Tail:
    size = os.fstat(descriptor).st_size
    end = _last_line_end(descriptor, size)
    if end == 0:
        return _Tail(0, FIRST, end=0, torn=size)
    start = _last_line_end(descriptor, end - 1)
    line = _read(descriptor, start, end - 1 - start)
    try:
        record = AuditRecord.from_line(line)
    except AuditError as error:
        raise AuditError(f"the last line of {path} is damaged: {error}; run `clinical audit verify`") from error
    if not is_platform_signature(public_key, record.statement(), record.signature):
        raise AuditError(
            f"the last line of {path}, record {record.number}, is not signed with the platform's key; "
            "run `clinical audit verify`"
        )
    return _Tail(record.number, _sha256(line), end, size - end)


def _last_line_end(descriptor: int, before: int) -> int:
    """Where the last whole line ends among the first `before` bytes; the file is read from its end in pieces."""
    while before > 0:
        start = max(0, before - _READ_BYTES)
        found = _read(descriptor, start, before - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        before = start
    return 0


def _read(descriptor: int, start: int, length: int) -> bytes:
    pieces = []
    while length > 0:
        piece = os.pread(descriptor, length, start)
        if not piece:
            raise AuditError("the audit trail became shorter while it was read")
        pieces.append(piece)
        start, length = start + len(piece), length - len(piece)
    return b"".join(pieces)


def _write_line(descriptor: int, line: bytes) -> None:
    """Append a line whole; where the disk refuses a part, what was written of it is taken back."""
    start, rest = os.fstat(descriptor).st_size, memoryview(line)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError:
        # Where even this fails, the next record sets the torn line aside.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, start)
        raise


def _replace(path: Path, content: bytes) -> None:
    """Replace a small file in one step; the caller holds the lock."""
    draft = path.with_name(f".{path.name}.draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
