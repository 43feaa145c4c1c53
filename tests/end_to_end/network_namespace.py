"""A network without a route for what a test does: this thread, and every process it starts, see loopback alone.

What refuses a connection here is the kernel, for native code as for Python's.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
NAMESPACE = Path("/proc/thread-self/ns/net")
ELSEWHERE = "192.0.2.7"  # RFC 5737: no host has it


@dataclass(frozen=True)
class Network:
    """Whether there was no route, why that could not be had, and what a connection to elsewhere ended with (errno)."""

    why_not: str
    to_elsewhere: int


@contextmanager
def without_network() -> Iterator[Network]:
    """Until the block ends, no route but loopback; where the machine forbids that, as before, and it says why."""
    if not NAMESPACE.exists():
        yield Network("this system has no network namespaces", 0)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open(NAMESPACE, os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) != 0:
            yield Network(f"a network namespace is not permitted ({os.strerror(ctypes.get_errno())})", 0)
            return
        try:
            bring_loopback_up()
            yield Network("", errno_of_a_connection())
        finally:
            if libc.setns(before, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "the network of before cannot be had again")
    finally:
        os.close(before)


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def errno_of_a_connection() -> int:
    """What a process of its own meets, without the platform's own guard, that connects to elsewhere."""
    connect = f"import socket; print(socket.socket().connect_ex(('{ELSEWHERE}', 443)))"
    told = subprocess.run([sys.executable, "-c", connect], capture_output=True, text=True, check=True)
    return int(told.stdout)


def is_without_route(network: Network) -> bool:
    """Whether the kernel said that there is no way to elsewhere."""
    return network.to_elsewhere == errno.ENETUNREACH
