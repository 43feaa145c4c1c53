"""The guard is installed in processes of their own: it cannot be taken out of one again."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ELSEWHERE = "192.0.2.7"  # RFC 5737: no host has it


def guarded(tmp_path: Path, code: str, **environment: str) -> list[str]:
    """What a guarded process prints; `told(f)` prints the class of what f raised, and its words, or `done`."""
    program = f"""
        import socket, urllib.request
        from pathlib import Path
        from clinical_assets.governance.audit_trail import AuditTrail
        from clinical_assets.governance.outbound import OutboundError, allow_hosts, guard_outbound

        trail = AuditTrail(Path({str(tmp_path / "audit")!r}))
        guard_outbound(trail, "user:tester")
        guard_outbound(trail, "user:tester")

        def told(act):
            try:
                act()
            except (OutboundError, OSError) as error:
                print(type(error).__name__, error)
            else:
                print("done")
    """
    written = textwrap.dedent(program) + textwrap.dedent(code)
    ran = subprocess.run(
        [sys.executable, "-c", written], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize(
    "act",
    [
        f"socket.create_connection(('{ELSEWHERE}', 443), 1)",
        f"socket.socket().connect_ex(('{ELSEWHERE}', 443))",
        f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{ELSEWHERE}', 443))",
        f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('{ELSEWHERE}', 443))",
        f"urllib.request.urlopen('https://{ELSEWHERE}/', timeout=1)",
        f"socket.socket(socket.AF_INET6).connect(('::ffff:{ELSEWHERE}', 443))",
    ],
)
def test_no_connection_leaves_the_machine(tmp_path: Path, act: str) -> None:
    [said] = guarded(tmp_path, f"told(lambda: {act})")
    assert said.startswith("OutboundError a connection to ")
    assert f"{ELSEWHERE}:443 was refused" in said
    assert "CLINICAL_ALLOWED_HOSTS" in said


def test_a_name_is_refused_before_it_is_looked_up(tmp_path: Path) -> None:
    said = guarded(tmp_path, "told(lambda: socket.getaddrinfo('patient-17.example.org', 80))")
    said += guarded(tmp_path, "told(lambda: socket.gethostbyname('patient-17.example.org'))")
    assert all(line.startswith("OutboundError a connection to patient-17.example.org") for line in said)


def test_this_machine_is_reached_by_every_name_it_has(tmp_path: Path) -> None:
    said = guarded(
        tmp_path,
        """
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            told(lambda: socket.create_connection(("127.0.0.1", port), 5).close())
            told(lambda: socket.create_connection(("localhost", port), 5).close())
            told(lambda: socket.getfqdn())
        one, other = socket.socketpair()
        told(lambda: one.sendmsg([b"x"]))
        """,
    )
    assert said == ["done"] * 4


def test_a_configured_host_is_reached_and_one_allowed_for_a_while_only_then(tmp_path: Path) -> None:
    code = f"""
        def connect():
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.connect_ex(("{ELSEWHERE}", 443))

        told(connect)
        with allow_hosts(["{ELSEWHERE}"]):
            told(connect)
        told(connect)
    """
    before, meanwhile, after = guarded(tmp_path, code)
    assert (before[:13], meanwhile, after[:13]) == ("OutboundError", "done", "OutboundError")
    assert guarded(tmp_path, code, CLINICAL_ALLOWED_HOSTS=f" other.example, {ELSEWHERE}") == ["done"] * 3


def test_a_refusal_is_recorded_once_for_each_destination(tmp_path: Path) -> None:
    said = guarded(
        tmp_path,
        f"""
        for port in (443, 443, 25):
            told(lambda: socket.create_connection(("{ELSEWHERE}", port), 1))
        for line in trail.path.read_text().splitlines():
            print(line)
        """,
    )
    records = said[3:]
    assert len(records) == 2
    assert all('"action":"refused"' in line and '"actor":"user:tester"' in line for line in records)
    assert f'"target":"{ELSEWHERE}:443"' in records[0]
    assert f'"target":"{ELSEWHERE}:25"' in records[1]
