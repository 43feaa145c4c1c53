"""The processes in which Dagster's runs work: forked, on this machine, from one that has imported everything already.

Belongs here: how a run's process is started, known, ended and found dead. Does not belong here: what a run does, and
runs on other machines, for which `dagster.yaml` names another launcher.

A new Python process spends some six seconds of CPU time on imports before its run does anything. The server here pays
them once: it imports, makes the definitions, and forks one process a run. It has a single thread when it forks: native
libraries start theirs on first use, which is in the child. It is started anew when a file of the package has changed,
so that a run always sees the protocols and the code as they stand.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

PACKAGE = Path(__file__).parents[1]
WORKER = "clinical/worker"
PRELOADED = (
    *("clinical_assets.definitions", "dagster._cli.api", "mlflow", "mlflow.pyfunc", "skops.io", "lightgbm"),
    *("matplotlib.figure", "jinja2", "sklearn.calibration", "scipy.special"),
)
SAME_START_SECONDS = 1.0
ENDS_WITHIN_SECONDS = 5.0


class RunWorkerError(RuntimeError):
    """No process could be started for a run; the message says what to look at."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A run's process: on which machine, its number, and when it began, since numbers are used again."""

    host: str
    pid: int
    began: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process of this number on this machine, as it is now."""
        return cls(socket.gethostname(), pid, psutil.Process(pid).create_time())

    @classmethod
    def recorded(cls, run: DagsterRun) -> "Worker | None":
        """The process that a run's tag names; None for a run that was not started here."""
        return cls(**json.loads(run.tags[WORKER])) if WORKER in run.tags else None

    def tag(self) -> dict[str, str]:
        """The run's tag that names the process."""
        return {WORKER: json.dumps(asdict(self))}

    def lives(self) -> bool:
        """Whether this very process is still at work; another one of the same number is not it."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.began) < SAME_START_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class ForkedRuns(RunLauncher, ConfigurableClass):
    """Starts each run in a process forked from a server of its own, and tells of a run whether its process lives."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._server: _Server | None = None
        self._ending: list[_Server] = []
        self._starting = threading.Lock()
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What `dagster.yaml` says of this class."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """Nothing can be set."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The launcher of an instance that Dagster makes from its `dagster.yaml`."""
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Fork the run's process; raises RunWorkerError where none could be."""
        run = context.dagster_run
        if context.job_code_origin is None:
            raise RunWorkerError(f"run {run.run_id} does not say where its job's code is; launch it from a workspace")
        arguments = ExecuteRunArgs(
            job_origin=context.job_code_origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=False,
        )
        with self._starting:
            if self._server is None or not self._server.serves():
                self._close()
                self._server = _Server.start()
            worker = Worker.of(self._server.fork(serialize_value(arguments)))
        self._instance.add_run_tags(run.run_id, worker.tag())
        self._instance.report_engine_event(f"Forked a process for the run (pid: {worker.pid}).", run)

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run as Ctrl-C does; False where its process is not at work here."""
        run = self._instance.get_run_by_id(run_id)
        worker = Worker.recorded(run) if run and not run.is_finished else None
        if run is None or worker is None or worker.host != socket.gethostname() or not worker.lives():
            return False
        self._instance.report_run_canceling(run)
        os.kill(worker.pid, signal.SIGINT)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """A run whose process is gone is found by Dagster's run monitoring."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether a run's process lives; of runs that another process or machine works on, nothing is known."""
        worker = Worker.recorded(run)
        if worker is None or worker.host != socket.gethostname():
            return CheckRunHealthResult(WorkerStatus.RUNNING, "nothing is known of its process")
        if worker.lives():
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"its process (pid: {worker.pid}) is gone")

    def dispose(self) -> None:
        """Let the server end once its runs have."""
        with self._starting:
            self._close()

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._ending = [server for server in (*self._ending, self._server) if server.process.poll() is None]
            self._server = None


@dataclass(frozen=True, slots=True)
class _Server:
    """The process that forks; its standard input and output carry a line a run."""

    process: "subprocess.Popen[str]"
    sources: tuple[int, float]

    @classmethod
    def start(cls) -> Self:
        sources = _state_of_sources()
        process = subprocess.Popen(
            [sys.executable, "-m", "clinical_assets.resources.run_workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        return cls(process, sources)

    def serves(self) -> bool:
        """Whether it runs, on the files as they stand."""
        return self.process.poll() is None and self.sources == _state_of_sources()

    def fork(self, arguments: str) -> int:
        """The number of a new process that executes a run."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RunWorkerError("the server of runs has no pipes")
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RunWorkerError("the server of runs has ended; see the daemon's log")
        return int(answer)

    def close(self) -> None:
        """No more runs; those at work go on, and the server ends once they have."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDS_WITHIN_SECONDS)


def _state_of_sources() -> tuple[int, float]:
    """How many files the package has, and when one was last changed: other where one was added, edited or removed."""
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".yaml", ".html")]
    return len(files), max(path.stat().st_mtime for path in files)


def serve() -> None:
    """Import everything, then fork one process for each line of standard input, and answer with its number."""
    import importlib
    import warnings

    warnings.simplefilter("ignore")  # other packages' own
    for module in PRELOADED:
        importlib.import_module(module)
    definitions = importlib.import_module("clinical_assets.definitions")
    definitions.__dict__["defs"] = definitions.defs()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a run prints outside its steps goes to the daemon's log
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            answers.close()
            _execute(json.loads(line))
        answers.write(f"{pid}\n")
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def _reap(*_: object) -> None:
    """Take note of the runs that have ended, so that their times count as this process's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _execute(arguments: str) -> None:
    """The life of a forked process: one run, as `dagster api execute_run` executes it."""
    from dagster._cli.api import execute_run_command

    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    status = 1
    try:
        execute_run_command.main([arguments], standalone_mode=False)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
