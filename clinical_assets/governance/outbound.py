"""The outbound guard: a process of the platform opens no connection but to its own machine and to configured hosts.

Belongs here: which destinations are allowed, and the refusal of all others. Does not belong here: who connects where.

It watches CPython's audit events (PEP 578) of sockets and name look-ups, so it sees whatever goes through Python's
`socket` module. Native code with sockets of its own (DuckDB's httpfs, libpq, gRPC) does not: for that a test runs the
whole demonstration in a network namespace without a route. A hook cannot be removed; it costs one comparison an event.
"""

import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from clinical_assets.governance.audit_trail import AuditTrail

HOSTS_VARIABLE = "CLINICAL_ALLOWED_HOSTS"

_TO_AN_ADDRESS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_BY_NAME = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})


class OutboundError(RuntimeError):
    """A connection to a host that is not configured was refused; the message names host, port and remedy."""


@dataclass(slots=True)
class _Guard:
    """The guard of this process: hosts that are allowed, and the trail in which a refusal is recorded, once each."""

    trail: AuditTrail | None = None
    actor: str = ""
    hosts: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    installed: bool = False


_guard = _Guard()
_lock = threading.Lock()
_inside = threading.local()


def guard_outbound(trail: AuditTrail, actor: str, hosts: Iterable[str] = ()) -> None:
    """Refuse, from now on in this process, what is neither of this machine nor allowed; a refusal goes to the trail.

    Allowed are `hosts`, those that CLINICAL_ALLOWED_HOSTS names (by comma), and those of `allow_hosts`. Repeated, it
    only changes the trail and the actor, and adds hosts.
    """
    _guard.trail, _guard.actor = trail, actor
    with _lock:
        for host in hosts:
            _guard.hosts.setdefault(host.lower(), 1)
        if not _guard.installed:
            sys.addaudithook(_watch)
            _guard.installed = True


@contextmanager
def allow_hosts(hosts: Iterable[str]) -> Iterator[None]:
    """Let this process connect to these hosts as well (names or addresses, without a port) until the block ends."""
    allowed = [host.lower() for host in hosts]
    with _lock:
        for host in allowed:
            _guard.hosts[host] = _guard.hosts.get(host, 0) + 1
    try:
        yield
    finally:
        with _lock:
            for host in allowed:
                _guard.hosts[host] -= 1


def allowed_hosts() -> set[str]:
    """The hosts beyond this machine that the process may connect to just now, in lower case."""
    configured = {host.strip().lower() for host in os.environ.get(HOSTS_VARIABLE, "").split(",") if host.strip()}
    return configured | {host for host, holders in list(_guard.hosts.items()) if holders > 0}


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith("socket.") or getattr(_inside, "looking", False):
        return
    if event in _TO_AN_ADDRESS:
        connecting, address = arguments[0], arguments[1]  # no address with sendmsg() on a connected socket
        if connecting.family in (socket.AF_INET, socket.AF_INET6) and address is not None:
            host = _text(address[0])
            if not _is_allowed_address(host):
                _refuse(host, address[1])
    elif event in _BY_NAME:
        host = _text(arguments[0] or "")
        if not _is_allowed_name(host):
            _refuse(host, arguments[1] if event == "socket.getaddrinfo" else None)


def _text(host: str | bytes) -> str:
    return host.decode() if isinstance(host, bytes) else host


def _is_allowed_name(name: str) -> bool:
    """Whether a name may be looked up: the query alone would carry it to a server."""
    lower = name.lower().rstrip(".")
    own = {"", "localhost", socket.gethostname().lower()}
    return lower in own or _is_this_machine(lower) or lower in allowed_hosts()


def _is_allowed_address(host: str) -> bool:
    if _is_this_machine(host) or _is_allowed_name(host):
        return True
    allowed = allowed_hosts()
    return host in allowed or any(host in _addresses_of(name) for name in allowed)


def _is_this_machine(host: str) -> bool:
    """Whether this is an address that never leaves the machine: loopback, or "any", which connects to loopback."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _addresses_of(name: str) -> set[str]:
    _inside.looking = True  # this look-up is the guard's own
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    except OSError:
        return set()
    finally:
        _inside.looking = False


def _refuse(host: str, port: object) -> None:
    destination = host if port is None else f"{host}:{port}"
    if destination not in _guard.refused and _guard.trail is not None:
        _guard.refused.add(destination)
        _guard.trail.record(
            "refused", actor=_guard.actor, target=destination, outcome="failure", reason="outbound connection"
        )
    raise OutboundError(
        f"a connection to {destination} was refused: the platform speaks to this machine and to configured hosts alone "
        f"({', '.join(sorted(allowed_hosts())) or 'none are'}); if it may go there, add {host} to {HOSTS_VARIABLE}"
    )
