"""How audit records leave the house: syslog frames to a log receiver, over TLS, at least once each.

Belongs here: frames (RFC 5424, octet counting of RFC 6587 and 5425), the connection, and how far a receiver has got.
Does not belong here: what is in a record.

The trail itself is the spool: it is on the disk before anything is sent. Syslog knows no acknowledgement, so a batch
counts as received only when the receiver, having read to its end, has closed the connection in order: with TLS by its
close_notify, without by the end of the stream. Then, and only then, the position moves on. Where the receiver dies
before, the batch is sent again: no record is lost, and some may arrive twice. Each carries its number, as sequenceId of
the standard element `meta` and in its JSON, by which a receiver drops repeats. What a receiver has read but not written
when it dies is out of the sender's sight: a receiver that must not lose it writes before it reads on (of rsyslog: a
queue of type direct, or one kept on disk).
"""

import fcntl
import hashlib
import ipaddress
import json
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from clinical_assets.governance.audit_trail import FIRST, AuditError, AuditRecord, AuditTrail

LOG_AUDIT, INFORMATIONAL, WARNING = 13, 6, 4  # RFC 5424, 6.2.1
APPLICATION = "clinical-assets"
RECORDS_PER_BATCH = 200
TIMEOUT_SECONDS = 30.0


Body = Callable[[AuditRecord], bytes]
"""What a message says of a record: its line as it stands in the trail, or an event made of it."""


class ShippingError(RuntimeError):
    """Records could not be handed to the receiver; the message says how many were, and that the rest waits."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A log receiver: its host, its port, and what proves who it is and who we are.

    `ca` holds the certificates (PEM) to trust, those of the system if None; `certificate` our own with its key (PEM),
    where the receiver asks for one. Without `tls` only this machine is spoken to. With `silent_close` the end of the
    TCP stream counts where close_notify should come (rsyslog's driver gtls never sends one): a receiver that is killed
    after it has read looks the same then, and what it had not written is lost.
    """

    host: str
    port: int
    tls: bool
    ca: Path | None = None
    certificate: Path | None = None
    silent_close: bool = False

    @classmethod
    def parse(
        cls,
        address: str,
        *,
        tls: bool,
        ca: Path | None = None,
        certificate: Path | None = None,
        silent_close: bool = False,
    ) -> Self:
        """The receiver at HOST:PORT ([HOST]:PORT of IPv6); raises ShippingError for another text, or no TLS to it."""
        found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", address)
        if not found or not 0 < int(found[3]) < 2**16:
            raise ShippingError(f"{address!r} is no receiver; give it as HOST:PORT")
        receiver = cls(found[1] or found[2], int(found[3]), tls, ca, certificate, silent_close)
        if not tls and not receiver.is_this_machine:
            raise ShippingError(
                "records leave this machine over TLS alone: add --tls, or forward from a local receiver"
            )
        return receiver

    @property
    def is_this_machine(self) -> bool:
        """Whether the host is the loopback of this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a receiver has got: the number and hash of the last record it has read, and where the next one starts."""

    number: int
    sha256: str
    offset: int


@dataclass(frozen=True, slots=True)
class Shipment:
    """What one call handed over: the receiver, how many records, and the number of the last one it has now."""

    receiver: str
    shipped: int
    last: int


def ship(trail: AuditTrail, receiver: Receiver, body: Body = AuditRecord.canonical) -> Shipment:
    """Hand a receiver every record that it does not have yet; raises ShippingError where it could not take them all.

    Records as they stand in the trail let the receiver's owner follow the chain; `body` makes another message of each.
    Raises AuditError where the trail is not there, or no longer goes on from the record the receiver has.
    """
    if not trail.path.is_file():
        raise AuditError(f"there is no audit trail in {trail.folder}")
    context = _trust(receiver) if receiver.tls else None
    shipped = 0
    with _only_shipper(trail, receiver) as position_path:
        position = _read_position(position_path)
        while batch := _read_batch(trail, position):
            try:
                _hand_over(receiver, context, [frame(record, body) for record, _ in batch])
            except OSError as error:
                raise ShippingError(
                    f"{receiver} took {shipped} records and then failed: {error}; record {position.number + 1} and "
                    "those after it wait, run the same command again"
                ) from error
            position = batch[-1][1]
            _write_position(position_path, position)
            shipped += len(batch)
    return Shipment(str(receiver), shipped, position.number)


def frame(record: AuditRecord, body: Body = AuditRecord.canonical) -> bytes:
    """One record as a syslog message (RFC 5424) with its length in octets before it (RFC 6587, 3.4.1).

    Facility 13 (log audit), informational, warning for what failed. A receiver takes 2,048 octets at least and should
    take 8,192 (RFC 5424, 6.1): a message that is longer may be cut there, as rsyslog's maxMessageSize says.
    """
    severity = INFORMATIONAL if record.outcome == "success" else WARNING
    priority = LOG_AUDIT * 8 + severity
    host = re.sub(r"[^!-~]", "-", socket.gethostname())[:255] or "-"
    structured = f'[meta sequenceId="{record.number}"]'
    header = f"<{priority}>1 {record.at} {host} {APPLICATION} - {record.action} {structured} "
    message = header.encode() + b"\xef\xbb\xbf" + body(record)
    return str(len(message)).encode() + b" " + message


def position_path(trail: AuditTrail, receiver: Receiver) -> Path:
    """The file that says how far a receiver has got."""
    return trail.folder / f"shipped-{re.sub(r'[^A-Za-z0-9.-]', '_', receiver.host)}-{receiver.port}.json"


def _trust(receiver: Receiver) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=receiver.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if receiver.certificate:
            context.load_cert_chain(receiver.certificate)
    except OSError as error:
        files = ", ".join(str(path) for path in (receiver.ca, receiver.certificate) if path)
        raise ShippingError(f"{files} cannot be read as certificates in PEM: {error}") from error
    return context


@contextmanager
def _only_shipper(trail: AuditTrail, receiver: Receiver) -> Iterator[Path]:
    path = position_path(trail, receiver)
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShippingError(f"another process is shipping to {receiver}; let it finish") from error
        yield path
    finally:
        os.close(lock)


def _read_position(path: Path) -> Position:
    if not path.exists():
        return Position(0, FIRST, 0)
    try:
        return Position(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ShippingError(
            f"{path} is damaged; remove it, and every record is shipped again, with its number as before"
        ) from error


def _write_position(path: Path, position: Position) -> None:
    draft = path.with_name(f".{path.name}.draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(position), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _read_batch(trail: AuditTrail, position: Position) -> list[tuple[AuditRecord, Position]]:
    """The next records, each with the position behind it; a line that is still being written is left for later."""
    batch: list[tuple[AuditRecord, Position]] = []
    with trail.path.open("rb") as file:
        file.seek(position.offset)
        while len(batch) < RECORDS_PER_BATCH and (line := file.readline()).endswith(b"\n"):
            try:
                record = AuditRecord.from_line(line[:-1])
            except AuditError as error:
                raise AuditError(
                    f"{trail.path} after record {position.number}: {error}; run `clinical audit verify`"
                ) from error
            if (record.number, record.previous_sha256) != (position.number + 1, position.sha256):
                raise AuditError(
                    f"{trail.path} does not go on from record {position.number}, the last that was shipped: it was "
                    "changed since; run `clinical audit verify`, and compare with what the receiver holds"
                )
            position = Position(record.number, hashlib.sha256(line[:-1]).hexdigest(), position.offset + len(line))
            batch.append((record, position))
    return batch


def _hand_over(receiver: Receiver, context: ssl.SSLContext | None, frames: list[bytes]) -> None:
    """Send frames over a connection of their own, and return when the receiver has read to its end and closed it."""
    with socket.create_connection((receiver.host, receiver.port), timeout=TIMEOUT_SECONDS) as connection:
        if context is None:
            connection.sendall(b"".join(frames))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(2**12):
                pass  # A receiver of syslog says nothing; what it might say is of no use here.
            return
        with context.wrap_socket(connection, server_hostname=receiver.host) as secured:
            secured.sendall(b"".join(frames))
            try:
                secured.unwrap()
            except ssl.SSLEOFError as error:
                if not receiver.silent_close:
                    raise ConnectionAbortedError(
                        "it closed the connection without close_notify, so nobody knows whether it has read to the end "
                        "(if it never sends one, as rsyslog's driver gtls: use its driver ossl, or --silent-close)"
                    ) from error
