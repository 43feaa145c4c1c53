import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from told_people import free_port, mail_server, notice

from clinical_assets.governance.notices import Notice
from clinical_assets.resources.notifiers import Email, EmailSettings, NotifierError
from clinical_assets.resources.outbox import deliver_pending, pending_notices, post

T0 = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Channel:
    """A channel that is down until it is up."""

    name: str = "pager"
    up: bool = True
    sent: list[Notice] = field(default_factory=list)

    def send(self, notice: Notice) -> None:
        if not self.up:
            raise NotifierError(f"{self.name} is down")
        self.sent.append(notice)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_notice_is_kept_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        post(tmp_path / "outbox", notice())
        deliver_pending(tmp_path / "outbox", [Channel(up=False)], T0)
    finally:
        os.umask(before)
    written = sorted((tmp_path / "outbox").rglob("*"))
    assert {mode(path) for path in written if path.is_file()} == {0o600}
    assert {mode(path) for path in [tmp_path / "outbox", *written] if path.is_dir()} == {0o700}
    assert (tmp_path / "outbox" / f"{notice().name}.txt").read_text().startswith(notice().subject())


def test_a_delivered_notice_waits_no_more_and_its_copy_stays(tmp_path: Path) -> None:
    channel = Channel()
    post(tmp_path, notice())
    done = deliver_pending(tmp_path, [channel], T0)
    assert (done.delivered, done.waiting, done.faults) == ((notice().name,), (), ())
    assert channel.sent == [notice()]
    assert deliver_pending(tmp_path, [channel], T0).delivered == ()
    assert (tmp_path / f"{notice().name}.txt").exists()


def test_the_same_event_is_posted_once(tmp_path: Path) -> None:
    channel = Channel()
    for _ in range(2):
        post(tmp_path, notice())
        deliver_pending(tmp_path, [channel], T0)
    assert len(channel.sent) == 1


def test_while_a_receiver_is_down_nothing_is_lost_and_each_wait_is_longer(tmp_path: Path) -> None:
    channel = Channel(up=False)
    post(tmp_path, notice())
    waits, now = [], T0
    for _ in range(10):
        assert deliver_pending(tmp_path, [channel], now).waiting == (notice().name,)
        [pending] = (tmp_path / "pending").glob("*.json")
        waits.append(datetime.fromisoformat(json.loads(pending.read_text())["next_at"]) - now)
        now += waits[-1]
    assert waits[:4] == [timedelta(seconds=30 * 2**n) for n in range(4)]
    assert waits[-1] == timedelta(hours=1)
    channel.up = True
    assert deliver_pending(tmp_path, [channel], now - timedelta(seconds=1)).delivered == ()
    assert deliver_pending(tmp_path, [channel], now).delivered == (notice().name,)


def test_a_channel_that_fails_keeps_no_other_from_its_turn_and_gets_it_later_alone(tmp_path: Path) -> None:
    down, up = Channel("email", up=False), Channel("webhook.pager")
    post(tmp_path, notice())
    assert deliver_pending(tmp_path, [down, up], T0).faults == (f"{notice().name}: email is down",)
    down.up = True
    deliver_pending(tmp_path, [down, up], T0 + timedelta(hours=1))
    assert (len(down.sent), len(up.sent)) == (1, 1)
    assert pending_notices(tmp_path) == []


def test_a_damaged_notice_is_told_kept_and_holds_up_no_other(tmp_path: Path) -> None:
    channel = Channel()
    for number in (1, 2):
        post(tmp_path, notice(number))
    damaged = tmp_path / "pending" / f"{notice(1).name}.json"
    damaged.write_text('{"notice": {"incident_id": "')
    done = deliver_pending(tmp_path, [channel], T0)
    assert [sent.number for sent in channel.sent] == [2]
    assert done.waiting == (notice(1).name,)
    assert str(damaged) in done.faults[0]


def test_a_mail_server_that_comes_back_gets_every_notice(tmp_path: Path) -> None:
    port = free_port()
    email = Email(
        "on_call.1", EmailSettings(host="127.0.0.1", port=port, sender="a@hospital.example"), "b@hospital.example"
    )
    for number in (1, 2, 3):
        post(tmp_path, notice(number))
        deliver_pending(tmp_path, [email], T0)
    with mail_server(port) as server:
        done = deliver_pending(tmp_path, [email], T0 + timedelta(hours=1))
    assert len(done.delivered) == len(server.messages) == 3


KILLED_WHILE_SENDING = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from clinical_assets.resources.outbox import deliver_pending

class Killer:
    name = "pager"
    def send(self, notice):
        os.kill(os.getpid(), signal.SIGKILL)

deliver_pending(Path(sys.argv[1]), [Killer()], datetime(2026, 3, 1, tzinfo=UTC))
"""


def test_a_notice_survives_the_killing_of_its_deliverer(tmp_path: Path) -> None:
    post(tmp_path, notice())
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED_WHILE_SENDING), str(tmp_path)], check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    channel = Channel()
    assert deliver_pending(tmp_path, [channel], T0).delivered == (notice().name,)
    assert channel.sent == [notice()]


@pytest.mark.parametrize("number", [1, 2])
def test_without_a_channel_nothing_waits(tmp_path: Path, number: int) -> None:
    post(tmp_path, notice(number))
    assert deliver_pending(tmp_path, [], T0).waiting == ()


def test_a_round_that_has_taken_its_time_leaves_the_others_to_the_next(tmp_path: Path) -> None:
    channel = Channel()
    post(tmp_path, notice())
    assert deliver_pending(tmp_path, [channel], T0, at_most_seconds=-1.0).waiting == (notice().name,)
    assert deliver_pending(tmp_path, [channel], T0, at_most_seconds=60.0).delivered == (notice().name,)
