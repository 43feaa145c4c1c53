"""Dagster's own launcher of runs on this machine, which also knows whether the process of a run is still there.

Belongs here: how the process of a run is found again. Does not belong here: what becomes of a run whose process is
gone, which Dagster's run monitoring decides, and runs on other machines.

A machine that lost power leaves its runs STARTED. Nothing but a time limit would end them, and until then no repair of
the model is begun.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

SLACK_SECONDS = 60.0
"""By so much the clocks of the events and of the kernel may differ before a process counts as another one."""
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class RunProcess:
    """The process in which a run was started, and when."""

    pid: int
    at: float


class LocalRunLauncher(DefaultRunLauncher):
    """Launches runs by the code server of this machine, and tells when the process of one is gone."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """It does."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Failed where the process of the run is gone; running where it is there, or cannot be known from here."""
        if not _is_of_this_machine(run.tags) or (process := find_process(self._instance, run.run_id)) is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if is_alive(process):
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=str(process.pid))
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            msg=f"its process {process.pid} is gone; the machine or the code server was restarted, or it was killed",
        )


def find_process(instance: dg.DagsterInstance, run_id: str) -> RunProcess | None:
    """The process that a run's first event of a process names; None where it has none yet."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        written = event.engine_event_data.metadata.get("pid") if event is not None else None
        if written is not None and str(written.value).isdecimal():
            return RunProcess(int(str(written.value)), entry.timestamp)
    return None


def is_alive(process: RunProcess) -> bool:
    """Whether the process is still there: its number may have been given to another since."""
    try:
        # The name, in brackets, may hold spaces; after it come the state and, as the twentieth, the time of the start.
        state, *further = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return not Path("/proc/self").exists() and _answers(process.pid)
    if state in ("Z", "X"):
        return False
    started = _booted_at() + int(further[18]) / os.sysconf("SC_CLK_TCK")
    return started <= process.at + SLACK_SECONDS


def _booted_at() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime ")))


def _answers(pid: int) -> bool:
    """Whether there is a process of this number, on a system that has no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_of_this_machine(tags: Mapping[str, str]) -> bool:
    """Whether the code server that started the run is on this machine; one that a terminal executes has none."""
    address = json.loads(tags.get(GRPC_INFO_TAG, "{}"))
    return bool(address) and ("socket" in address or address.get("host") in _THIS_MACHINE)
