import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from log_receiver import LogReceiver, require_rsyslog, write_certificates

from clinical_assets.governance import syslog_shipping
from clinical_assets.governance.audit_trail import AuditError, AuditTrail
from clinical_assets.governance.audit_verification import read_records
from clinical_assets.governance.ocsf_events import ocsf_event, ocsf_line
from clinical_assets.governance.syslog_shipping import Receiver, Shipment, ShippingError, frame, position_path, ship

RECORDS = 60
RFC_5424 = re.compile(
    rb"<(?P<priority>\d{1,3})>1 \S+ (?P<host>[!-~]{1,255}) (?P<application>[!-~]{1,48}) - (?P<id>[!-~]{1,32}) "
    rb'\[meta sequenceId="(?P<number>\d+)"\] \xef\xbb\xbf(?P<message>.*)',
    re.DOTALL,
)

SHIP_SLOWLY = """
import sys
from pathlib import Path
from clinical_assets.governance import syslog_shipping
from clinical_assets.governance.audit_trail import AuditTrail
syslog_shipping.RECORDS_PER_BATCH = 1
receiver = syslog_shipping.Receiver.parse(sys.argv[2], tls=True, ca=Path(sys.argv[3]))
syslog_shipping.ship(AuditTrail(Path(sys.argv[1])), receiver)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> AuditTrail:
    trail = AuditTrail(tmp_path_factory.mktemp("home") / "audit")
    for number in range(1, RECORDS):
        trail.record("materialise", actor="run:1", target=f"toy/features [{number}]", snapshot=number, reason="ähm")
    trail.record("release", actor="run:1", target="toy v1", outcome="failure", reason="x" * 20_000)
    return trail


@pytest.fixture
def trail(written: AuditTrail, tmp_path: Path) -> AuditTrail:
    shutil.copytree(written.folder.parent, tmp_path / "home")
    return AuditTrail(tmp_path / "home" / "audit")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LogReceiver]:
    """A receiver that is not started yet."""
    require_rsyslog("ossl")
    write_certificates(tmp_path)
    receiver = LogReceiver(tmp_path)
    yield receiver
    receiver.kill()


def over_tls(receiver: LogReceiver) -> Receiver:
    return Receiver.parse(receiver.address, tls=True, ca=receiver.folder / "authority.pem")


def test_a_frame_is_rfc_5424_with_its_length_in_octets(written: AuditTrail) -> None:
    for record in read_records(written):
        length, _, message = frame(record).partition(b" ")
        assert int(length) == len(message)
        found = RFC_5424.fullmatch(message)
        assert found is not None
        assert int(found["priority"]) == (110 if record.outcome == "success" else 108)
        assert (found["application"], found["id"].decode()) == (b"clinical-assets", record.action)
        assert (int(found["number"]), found["message"]) == (record.number, record.canonical())


def test_a_real_rsyslog_gets_every_record_once_as_it_stands_in_the_trail(
    trail: AuditTrail, receiver: LogReceiver
) -> None:
    receiver.start()

    assert ship(trail, over_tls(receiver)) == Shipment(receiver.address, RECORDS, RECORDS)
    assert ship(trail, over_tls(receiver)) == Shipment(receiver.address, 0, RECORDS)

    assert receiver.lines() == trail.path.read_bytes().splitlines()


def test_a_real_rsyslog_gets_every_ocsf_event_once(trail: AuditTrail, receiver: LogReceiver) -> None:
    receiver.start()

    ship(trail, over_tls(receiver), ocsf_line)

    assert [json.loads(line) for line in receiver.lines()] == [ocsf_event(record) for record in read_records(trail)]


def test_while_the_receiver_is_down_records_wait_and_then_each_arrives_once(
    trail: AuditTrail, receiver: LogReceiver
) -> None:
    for _ in range(2):
        with pytest.raises(ShippingError, match=r"took 0 records and then failed: .*refused; record 1 and"):
            ship(trail, over_tls(receiver))
    receiver.start()
    assert ship(trail, over_tls(receiver)).shipped == RECORDS
    receiver.kill()
    trail.record("sign", actor="dr-lead", target="toy v2")
    receiver.start()
    assert ship(trail, over_tls(receiver)).shipped == 1

    assert receiver.numbers() == list(range(1, RECORDS + 2))


def test_a_receiver_killed_in_the_middle_gets_what_it_missed_and_only_one_batch_twice(
    trail: AuditTrail, receiver: LogReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog_shipping, "RECORDS_PER_BATCH", 10)
    unwrap, batches = ssl.SSLSocket.unwrap, []

    def killed_at_the_third_batch(connection: ssl.SSLSocket) -> object:
        batches.append(connection)
        if len(batches) == 3:
            receiver.kill()
        return unwrap(connection)

    receiver.start()
    monkeypatch.setattr(ssl.SSLSocket, "unwrap", killed_at_the_third_batch)
    with pytest.raises(ShippingError, match="took 20 records and then failed"):
        ship(trail, over_tls(receiver))
    receiver.start()
    assert ship(trail, over_tls(receiver)) == Shipment(receiver.address, RECORDS - 20, RECORDS)

    assert set(receiver.numbers()) == set(range(1, RECORDS + 1))
    repeated = [number for number in receiver.numbers() if receiver.numbers().count(number) > 1]
    assert set(repeated) <= set(range(21, 31))


def test_a_sender_killed_in_the_middle_goes_on_and_nothing_is_lost(trail: AuditTrail, receiver: LogReceiver) -> None:
    receiver.start()
    authority = receiver.folder / "authority.pem"
    sender = subprocess.Popen([sys.executable, "-c", SHIP_SLOWLY, str(trail.folder), receiver.address, str(authority)])
    while len(receiver.lines()) < 5:
        assert sender.poll() is None
        time.sleep(0.005)
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    before = len(receiver.lines())
    assert before < RECORDS

    ship(trail, over_tls(receiver))

    assert set(receiver.numbers()) == set(range(1, RECORDS + 1))
    assert len(receiver.numbers()) <= RECORDS + 1


def test_a_receiver_that_closes_without_a_word_counts_only_where_that_was_said(
    trail: AuditTrail, tmp_path: Path
) -> None:
    require_rsyslog("gtls")
    write_certificates(tmp_path)
    receiver = LogReceiver(tmp_path, driver="gtls")
    receiver.start()
    try:
        with pytest.raises(ShippingError, match="closed the connection without close_notify"):
            ship(trail, over_tls(receiver))
        assert ship(trail, replace(over_tls(receiver), silent_close=True)).shipped == RECORDS
        assert set(receiver.numbers()) == set(range(1, RECORDS + 1))
    finally:
        receiver.kill()


def test_without_tls_a_receiver_on_this_machine_gets_every_record_once(trail: AuditTrail, tmp_path: Path) -> None:
    require_rsyslog()
    receiver = LogReceiver(tmp_path, driver=None)
    receiver.start()
    try:
        assert ship(trail, Receiver.parse(receiver.address, tls=False)).shipped == RECORDS
        assert receiver.lines() == trail.path.read_bytes().splitlines()
    finally:
        receiver.kill()


def test_nothing_is_said_to_one_whose_certificate_is_not_trusted_or_of_another_host(
    trail: AuditTrail, receiver: LogReceiver
) -> None:
    receiver.start()
    with pytest.raises(ShippingError, match="certificate verify failed"):
        ship(trail, replace(over_tls(receiver), ca=None))
    receiver.kill()
    write_certificates(receiver.folder, host="192.0.2.1")
    receiver.start()
    with pytest.raises(ShippingError, match=r"certificate is not valid for '127\.0\.0\.1'"):
        ship(trail, over_tls(receiver))

    assert receiver.lines() == []


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:70000", "a:b:6514", "::1:6514"])
def test_a_receiver_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ShippingError, match="give it as HOST:PORT"):
        Receiver.parse(address, tls=True)


def test_records_leave_this_machine_over_tls_alone() -> None:
    assert Receiver.parse("[::1]:514", tls=False).is_this_machine
    with pytest.raises(ShippingError, match="over TLS alone"):
        Receiver.parse("192.0.2.1:514", tls=False)


def test_what_is_no_certificate_is_named(trail: AuditTrail, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ShippingError, match=r"ca\.pem cannot be read as certificates"):
        ship(trail, Receiver.parse("127.0.0.1:6514", tls=True, ca=tmp_path / "ca.pem"))


def test_a_trail_that_was_changed_behind_what_was_shipped_is_not_shipped_on(
    trail: AuditTrail, receiver: LogReceiver
) -> None:
    receiver.start()
    place, lines = over_tls(receiver), trail.path.read_bytes().splitlines(keepends=True)
    trail.path.write_bytes(b"".join(lines[:40]))
    ship(trail, place)
    edited = lines[39].replace(b'"actor":"run:1"', b'"actor":"run:2"')
    trail.path.write_bytes(b"".join([*lines[:39], edited, *lines[40:45], *lines[46:]]))

    with pytest.raises(AuditError, match="does not go on from record 45"):
        ship(trail, place)
    assert json.loads(position_path(trail, place).read_text())["number"] == 40


def test_a_damaged_position_is_refused_with_what_to_do(trail: AuditTrail) -> None:
    receiver = Receiver.parse("127.0.0.1:6514", tls=False)
    position_path(trail, receiver).write_text("{")
    with pytest.raises(ShippingError, match=r"shipped-127\.0\.0\.1-6514\.json is damaged; remove it"):
        ship(trail, receiver)


def test_a_line_that_is_still_being_written_is_left_for_later(trail: AuditTrail, receiver: LogReceiver) -> None:
    receiver.start()
    lines = trail.path.read_bytes().splitlines(keepends=True)
    trail.path.write_bytes(b"".join(lines[:4]) + lines[4][:50])
    assert ship(trail, over_tls(receiver)).last == 4
    trail.path.write_bytes(b"".join(lines))
    assert ship(trail, over_tls(receiver)).shipped == RECORDS - 4
    assert receiver.numbers() == list(range(1, RECORDS + 1))
