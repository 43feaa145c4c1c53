"""A real rsyslog of one's own for tests: own configuration, own port, own certificates, no service of the machine."""

import ipaddress
import json
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

RSYSLOGD = Path("/usr/sbin/rsyslogd")


def require_rsyslog(*drivers: str) -> None:
    """Skip where rsyslogd or one of its TLS drivers is not installed, but not in CI."""
    missing = [driver for driver in drivers if not list(Path("/usr/lib").glob(f"**/rsyslog/lmnsd_{driver}.so"))]
    if RSYSLOGD.is_file() and not missing:
        return
    why = f"no {RSYSLOGD}, or not all drivers ({missing}): apt-get install rsyslog rsyslog-openssl rsyslog-gnutls"
    if os.environ.get("CI"):
        pytest.fail(f"{why}; in CI no test on it may be skipped")
    pytest.skip(why)


def write_certificates(folder: Path, host: str = "127.0.0.1") -> Path:
    """A certificate authority of the test's own, and the receiver's certificate for a host; gives the authority's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem, now = serialization.Encoding.PEM, datetime.now(UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "authority of a test")])
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "receiver of a test")])

    def certificate(subject: x509.Name, public_key: Any, is_authority: bool) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )

    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    authority = certificate(authority_name, authority_key.public_key(), True).sign(authority_key, hashes.SHA256())
    issued = certificate(name, key.public_key(), False).add_extension(alternative, critical=False)
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    (folder / "receiver.pem").write_bytes(issued.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "receiver.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "authority.pem"


@dataclass
class LogReceiver:
    """An rsyslogd that writes each message as it came to a file before it reads on; driver None is plain TCP."""

    folder: Path
    driver: str | None = "ossl"
    port: int = field(init=False)
    process: "subprocess.Popen[bytes] | None" = field(init=False, default=None)

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def out(self) -> Path:
        return self.folder / "received.log"

    def start(self) -> None:
        tls = (
            f'defaultNetstreamDriver="{self.driver}" defaultNetstreamDriverCAFile="{self.folder}/authority.pem" '
            f'defaultNetstreamDriverCertFile="{self.folder}/receiver.pem" '
            f'defaultNetstreamDriverKeyFile="{self.folder}/receiver.key"'
        )
        mode = f'streamDriver.name="{self.driver}" streamDriver.mode="1" streamDriver.authMode="anon"'
        settings = self.folder / "rsyslog.conf"
        settings.write_text(
            f'global(workDirectory="{self.folder}" maxMessageSize="64k" {tls if self.driver else ""})\n'
            'main_queue(queue.type="direct")\n'
            f'module(load="imtcp" {mode if self.driver else ""})\n'
            f'input(type="imtcp" port="{self.port}" address="127.0.0.1")\n'
            'template(name="raw" type="string" string="%rawmsg%\\n")\n'
            f'action(type="omfile" file="{self.out}" template="raw" sync="on")\n'
        )
        with (self.folder / "rsyslogd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(RSYSLOGD), "-n", "-f", str(settings), "-i", str(self.folder / "pid")],
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + 20
        while not self._listens():
            assert time.monotonic() < give_up, (self.folder / "rsyslogd.log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """As `kill -9`: nothing is written, nothing said."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def numbers(self) -> Sequence[int]:
        """The numbers of the records received whole, in the order in which they came."""
        return [json.loads(line)["number"] for line in self.lines()]

    def lines(self) -> list[bytes]:
        """The records' own lines, as they arrived."""
        if not self.out.exists():
            return []
        messages = [line for line in self.out.read_bytes().split(b"\n") if b"clinical-assets" in line]
        return [message.partition(b"\xef\xbb\xbf")[2] for message in messages]

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
