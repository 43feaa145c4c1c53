"""The processes beside the demonstration: the real Dagster daemon, and the server of the definitions that it asks.

Belongs here: how they are started and ended, and what a killed demonstration left behind. Does not belong here: what
months are made of, and what is shown.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import dagster as dg
import yaml

from clinical_assets.lifecycle import intervals
from clinical_assets.lifecycle.automation import IN_FLIGHT
from clinical_assets.replay import POLL_SECONDS, DemoError
from clinical_assets.resources.home import PROJECT, Home, write_atomically

HEARTBEAT_SECONDS = 60.0
SERVER_WITHIN_SECONDS = 120.0
SENSOR_SECONDS = 2
"""How often the demonstration's sensors look: its months pass in seconds."""
LOCATION = "clinical_assets"
"""The name that `dg dev` gives the location too, so that both share their sensors' cursors."""


@contextmanager
def background(
    command: Sequence[str], log: Path, environment: Mapping[str, str], output: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own until the block ends; then it is interrupted as by Ctrl-C, or else killed."""
    with log.open("ab") as written:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdout=output or written,
            stderr=written,
            bufsize=0,  # a line that lay in a buffer would not wake a selector
            start_new_session=True,
            env={**os.environ, **environment},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()  # only what was waited for counts in the times shown at the end


def end_abandoned_runs(instance: dg.DagsterInstance, home: Home) -> None:
    """Mark the runs of a demonstration that was killed as failed; raises DemoError where another daemon is at work."""
    beats = [status.last_heartbeat for status in instance.get_daemon_statuses().values()]
    if any(beat and time.time() - beat.timestamp < HEARTBEAT_SECONDS for beat in beats):
        raise DemoError(f"a Dagster daemon is at work on {home.root} (`make dev`?); stop it first, and wait a minute")
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT)):
        instance.report_run_failed(run, "The process of this run ended before the run did.")


class Watch:
    """The real Dagster daemon, and the server of the definitions that it asks; both start while months arrive already.

    Without a server of its own the daemon would start a new one every minute, at eight seconds of CPU time.
    """

    def __init__(self, home: Home, stack: ExitStack) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._home, self._stack = home, stack
        self._environment = {"DAGSTER_HOME": str(home.dagster), intervals.SETTING: str(SENSOR_SECONDS)}
        self._until = time.monotonic() + SERVER_WITHIN_SECONDS
        module = ["-m", "clinical_assets.definitions", "--location-name", LOCATION]
        command = [sys.executable, "-m", "dagster", "api", "grpc", *module, "-h", "127.0.0.1", "-p", str(self._port)]
        self._server = self._start(command, "code-server.log")
        self._daemon: subprocess.Popen[bytes] | None = None

    def look(self) -> None:
        """Start the daemon once the server answers; raises DemoError where either has stopped."""
        if self._server.poll() is not None or (self._daemon is None and time.monotonic() > self._until):
            raise DemoError(f"the server of the definitions is not there; see {self._home.dagster / 'code-server.log'}")
        if self._daemon is None and answers(self._port):
            location = {"host": "127.0.0.1", "port": self._port, "location_name": LOCATION}
            workspace = self._home.dagster / "workspace.yaml"
            write_atomically(workspace, yaml.safe_dump({"load_from": [{"grpc_server": location}]}))
            command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)]
            self._daemon = self._start(command, "daemon.log")
        if self._daemon is not None and self._daemon.poll() is not None:
            raise DemoError(f"the daemon has stopped; see {self._home.dagster / 'daemon.log'}")

    def await_daemon(self) -> None:
        """Wait until the daemon has been started."""
        while self._daemon is None:
            self.look()
            time.sleep(POLL_SECONDS)

    def _start(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        return self._stack.enter_context(background(command, self._home.dagster / log, self._environment))


@contextmanager
def daemon(home: Home, instance: dg.DagsterInstance) -> Iterator[Watch]:
    """The real Dagster daemon, working on this home until the block ends."""
    end_abandoned_runs(instance, home)
    # A script's background jobs ignore SIGINT, and so would the daemon, which maps SIGTERM to its handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            yield Watch(home, stack)
    finally:
        instance.wipe_daemon_heartbeats()


def answers(port: int) -> bool:
    """Whether something on this machine takes connections at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
