"""The outbox: every notice as a file for its owner alone, and those undelivered until their receivers have them.

Belongs here: the files, and when an undelivered notice is tried again. Does not belong here: the channels.

`outbox/NAME.txt` is the local copy, which is always written; `outbox/pending/NAME.json` stays until every configured
channel has taken the notice. A receiver may get a notice twice, where the process is killed between the sending and the
note of it, and never loses one.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clinical_assets.governance.notices import Notice, NoticeError
from clinical_assets.resources.access_rights import make_private
from clinical_assets.resources.notifiers import Notifier, NotifierError

FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=1)
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one round of deliveries did: notices delivered whole, those that wait, and why, one line a channel."""

    delivered: tuple[str, ...]
    waiting: tuple[str, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Pending:
    notice: Notice
    delivered: tuple[str, ...] = ()
    attempts: int = 0
    next_at: datetime = AT_ONCE

    def to_json(self) -> str:
        stated = {
            "notice": self.notice.fields(),
            "delivered": list(self.delivered),
            "attempts": self.attempts,
            "next_at": self.next_at.isoformat(),
        }
        return json.dumps(stated, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> "_Pending":
        try:
            stated = json.loads(path.read_text())
            return cls(
                Notice.from_fields(stated["notice"]),
                tuple(stated["delivered"]),
                int(stated["attempts"]),
                datetime.fromisoformat(stated["next_at"]),
            )
        except (NoticeError, ValueError, KeyError, TypeError) as error:
            raise NotifierError(f"{path} is damaged; what it told stands in `clinical incident list`") from error


def post(outbox: Path, notice: Notice) -> None:
    """Put a notice into the outbox; it is on the disk when this returns. The same notice again changes nothing."""
    kept, pending = outbox / f"{notice.name}.txt", outbox / "pending" / f"{notice.name}.json"
    if kept.exists():
        return
    for folder in (outbox, pending.parent):
        make_private(folder)
    _write_private(pending, _Pending(notice).to_json())
    # Last, since it says that the notice was posted.
    _write_private(kept, f"{notice.subject()}\n\n{notice.text()}")


def pending_notices(outbox: Path) -> list[str]:
    """The names of the notices that some receiver does not have yet, in alphabetical order."""
    return sorted(path.stem for path in (outbox / "pending").glob("[!.]*.json"))


def deliver_pending(
    outbox: Path, notifiers: Sequence[Notifier], now: datetime, at_most_seconds: float = math.inf
) -> Delivery:
    """Try every undelivered notice whose time has come, by every channel that does not have it yet.

    A channel that fails does not keep the others from their turn; the next try comes after 30 s, twice that, and so on
    up to an hour. While another process delivers, this one does nothing. Without a channel nothing waits. No notice is
    begun with once `at_most_seconds` are over; the next round goes on with it.
    """
    end = time.monotonic() + at_most_seconds
    delivered: list[str] = []
    faults: list[str] = []
    with _only_deliverer(outbox) as alone:
        for name in pending_notices(outbox) if alone else ():
            path = outbox / "pending" / f"{name}.json"
            try:
                pending = _Pending.read(path)
            except NotifierError as error:
                faults.append(str(error))
                continue
            if pending.next_at > now or time.monotonic() > end:
                continue
            taken = list(pending.delivered)
            for notifier in notifiers:
                if notifier.name in taken:
                    continue
                try:
                    notifier.send(pending.notice)
                    taken.append(notifier.name)
                    _write_private(path, replace(pending, delivered=tuple(taken)).to_json())
                except NotifierError as error:
                    faults.append(f"{name}: {error}")
            if all(notifier.name in taken for notifier in notifiers):
                path.unlink()
                delivered.append(name)
                continue
            wait = min(FIRST_WAIT * 2**pending.attempts, LONGEST_WAIT)
            again = replace(pending, delivered=tuple(taken), attempts=pending.attempts + 1, next_at=now + wait)
            _write_private(path, again.to_json())
    return Delivery(tuple(delivered), tuple(pending_notices(outbox)), tuple(faults))


@contextmanager
def _only_deliverer(outbox: Path) -> Iterator[bool]:
    make_private(outbox)
    lock = os.open(outbox / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        yield _is_mine(lock)
    finally:
        os.close(lock)


def _is_mine(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_private(path: Path, text: str) -> None:
    """Write a file for its owner alone, so that a kill at any moment leaves the old file or the new one whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
