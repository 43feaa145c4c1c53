"""Whether an audit trail is whole: every record, its place, its signature, and the end that the seals speak of.

Belongs here: reading a trail without trusting it, and naming the first record that is wrong. Does not belong here: how
records are written (audit_trail), and what follows from a broken trail.

What is found: every edited, deleted, inserted, moved or cut off record, also where the hashes were made anew, by one
who does not hold the platform's private key. What is not found from the folder alone: what one who holds that key
writes anew; and that somebody who kept an older head.json (and checkpoints.jsonl) puts it back and cuts the trail to
it. Both are found against a checkpoint noted down elsewhere (`Anchor`), and against what a log receiver was sent.
"""

import fcntl
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Self

from clinical_assets.governance.audit_trail import (
    CHECKPOINT,
    FIRST,
    TORN_LINE,
    AuditError,
    AuditRecord,
    AuditTrail,
    Seal,
)
from clinical_assets.governance.platform_key import PlatformKeyError, is_platform_signature
from clinical_assets.governance.platform_key import public_key as read_public_key


@dataclass(frozen=True, slots=True)
class Anchor:
    """A checkpoint that somebody noted down elsewhere: the number of a record and the sha256 of its line."""

    records: int
    sha256: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The anchor `NUMBER:SHA256` as `clinical audit checkpoint` prints it; raises AuditError for another text."""
        number, _, sha256 = text.partition(":")
        if not number.isdecimal() or len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise AuditError(f"{text!r} is no anchor; give it as `clinical audit checkpoint` printed it, NUMBER:SHA256")
        return cls(int(number), sha256)


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong, in a sentence; the number of the record, or None where it is a seal's file."""

    record: int | None
    what: str


@dataclass(frozen=True, slots=True)
class AuditVerification:
    """What was read of a trail: its length, its newest hash, how much of it checkpoints cover, and the first fault.

    `sealed` is the number of records that the head covers; `public_key` is the key that every signature was held
    against.
    """

    path: str
    public_key: str
    records: int
    sha256: str
    checkpoints: int
    checkpointed: int
    sealed: int
    fault: Fault | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return self.fault is None


def verify_trail(trail: AuditTrail, public_key: str | None = None, anchor: Anchor | None = None) -> AuditVerification:
    """Read a whole trail and name the first record that is wrong; nothing is written, and the order is the file's.

    Args:
        trail: the trail; it may be read while others append.
        public_key: the key to hold the signatures against, in 64 hex digits; the one beside the trail if none. Give it
            where whoever changed the trail could have changed that key as well.
        anchor: a checkpoint that was noted down elsewhere, which the trail must still hold.

    Raises AuditError where there is no trail: that is not a whole one.
    """
    if not trail.path.is_file() or trail.path.stat().st_size == 0:
        raise AuditError(f"there is no audit trail in {trail.folder}: nothing was recorded yet, or it was removed")
    try:
        key = public_key or read_public_key(trail.keys)
    except PlatformKeyError as error:
        raise AuditError(f"the signatures of {trail.path} cannot be checked: {error}") from error
    with trail.path.open("rb") as file:
        # Under the lock nobody is writing: seals and length belong together. The records are read without holding it.
        fcntl.flock(file, fcntl.LOCK_SH)
        seals, length = _Seals.read(trail, key), trail.path.stat().st_size
        fcntl.flock(file, fcntl.LOCK_UN)
        chain = _follow(file, length, key)
    faults = [chain.fault] if chain.fault else []
    faults += seals.faults + _broken_promises(trail, chain, seals, anchor)
    return AuditVerification(
        path=str(trail.path),
        public_key=key,
        records=len(chain.hashes),
        sha256=chain.hashes[-1] if chain.hashes else FIRST,
        checkpoints=len(seals.checkpoints),
        checkpointed=max((seal.records for seal in seals.checkpoints), default=0),
        sealed=seals.head.records if seals.head else 0,
        fault=min(faults, key=lambda fault: math.inf if fault.record is None else fault.record, default=None),
    )


def read_records(trail: AuditTrail) -> Iterator[AuditRecord]:
    """The records of a trail in their order, unverified; raises AuditError naming the line that is no record."""
    if not trail.path.is_file():
        raise AuditError(f"there is no audit trail in {trail.folder}")
    with trail.path.open("rb") as file:
        for place, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # Being written at this moment, or torn: no record either way.
            try:
                yield AuditRecord.from_line(line[:-1])
            except AuditError as error:
                raise AuditError(f"{trail.path}, line {place}: {error}; run `clinical audit verify`") from error


@dataclass(frozen=True, slots=True)
class _Chain:
    """The records that follow from each other, up to the first that does not: their hashes, and what they tell of."""

    hashes: list[str]
    checkpoint_signatures: dict[str, int]
    torn_lines: list[AuditRecord]
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class _Seals:
    """The head and the checkpoints, and what is wrong with the files that hold them."""

    head: Seal | None
    checkpoints: list[Seal]
    faults: list[Fault]

    @classmethod
    def read(cls, trail: AuditTrail, public_key: str) -> Self:
        faults, checkpoints = [], []
        try:
            head = trail.read_head() if trail.head_path.exists() else None
        except AuditError as error:
            head = None
            faults.append(Fault(None, str(error)))
        if head and not (head.is_signed_by(public_key) and head.kind == "head"):
            faults.append(Fault(None, f"{trail.head_path.name} is not a head signed with the key {public_key[:12]}..."))
            head = None
        written = trail.checkpoint_path.read_bytes() if trail.checkpoint_path.exists() else b""
        for place, line in enumerate(written.splitlines(), start=1):
            try:
                seal = Seal.from_line(line)
                if not (seal.is_signed_by(public_key) and seal.kind == CHECKPOINT):
                    raise AuditError(f"it is not a checkpoint signed with the key {public_key[:12]}...")
                checkpoints.append(seal)
            except AuditError as error:
                faults.append(Fault(None, f"{trail.checkpoint_path.name}, line {place}: {error}"))
        return cls(head, checkpoints, faults)


def _follow(file: BinaryIO, length: int, public_key: str) -> _Chain:
    hashes: list[str] = []
    signatures: dict[str, int] = {}
    torn_lines: list[AuditRecord] = []
    while file.tell() < length:
        line, number = file.readline(), len(hashes) + 1
        found = _read_next(line, number, hashes[-1] if hashes else FIRST, public_key)
        if isinstance(found, str):
            return _Chain(hashes, signatures, torn_lines, Fault(number, found))
        hashes.append(hashlib.sha256(line[:-1]).hexdigest())
        if found.action == CHECKPOINT:
            signatures[str(found.details.get("signature"))] = number
        elif found.action == TORN_LINE:
            torn_lines.append(found)
    return _Chain(hashes, signatures, torn_lines, None)


def _read_next(line: bytes, number: int, before: str, public_key: str) -> AuditRecord | str:
    """The record in a line, or what is wrong with it at this place."""
    if not line.endswith(b"\n"):
        return (
            f"the last line is unfinished ({len(line)} bytes): a writer was killed, or the file was cut or added to; "
            "the next record sets it aside and says so"
        )
    try:
        record = AuditRecord.from_line(line[:-1])
    except AuditError as error:
        return str(error)
    if not is_platform_signature(public_key, record.statement(), record.signature):
        return f"it was changed or inserted: it is not signed with the key {public_key[:12]}..."
    if record.number != number:
        return f"record {record.number} stands in its place: records were removed, repeated or moved"
    if record.previous_sha256 != before:
        return "it does not follow from the record before it: it belongs to another history of this trail"
    return record


def _broken_promises(trail: AuditTrail, chain: _Chain, seals: _Seals, anchor: Anchor | None) -> list[Fault]:
    """Where the records that follow from each other are not those that the seals speak of."""
    faults = []
    reached = len(chain.hashes)
    if seals.head is None and reached > 1 and not seals.faults:
        faults.append(Fault(None, f"{trail.head_path.name}, which says where the trail ends, is missing"))
    promises = [(seal.records, seal.sha256, trail.checkpoint_path.name) for seal in seals.checkpoints]
    if seals.head:
        promises.append((seals.head.records, seals.head.sha256, trail.head_path.name))
    if anchor:
        promises.append((anchor.records, anchor.sha256, "the anchor"))
    for records, sha256, who in promises:
        if records > reached:
            faults.append(Fault(reached + 1, f"it is missing: {who} knows of {records} records"))
        elif records < 1 or chain.hashes[records - 1] != sha256:
            faults.append(Fault(max(records, 1), f"it is not the record that {who} knows by this number"))
    kept = {seal.signature for seal in seals.checkpoints}
    faults += [
        Fault(number, f"the checkpoint it tells of is missing from {trail.checkpoint_path.name}")
        for signature, number in chain.checkpoint_signatures.items()
        if signature not in kept
    ]
    for record in chain.torn_lines:
        aside = trail.torn_path(record.number)
        if not aside.is_file() or hashlib.sha256(aside.read_bytes()).hexdigest() != record.details.get("sha256"):
            faults.append(Fault(record.number, f"the torn line it tells of is missing or changed in {aside.name}"))
    return faults
