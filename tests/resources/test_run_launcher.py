import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.workspace.context import BaseWorkspaceRequestContext
from dagster._daemon.monitoring.run_monitoring import monitor_started_run

from clinical_assets.lifecycle.automation import RETRAINING, repair_history
from clinical_assets.resources.run_launcher import SLACK_SECONDS, LocalRunLauncher, RunProcess, is_alive

MODEL = "readmission"
HERE, ELSEWHERE = {"host": "localhost", "socket": "/tmp/code-server"}, {"host": "another-machine", "port": 4000}


class Hospital:
    """An instance whose runs are launched on this machine, and the daemon's look at those that have started."""

    def __init__(self, root: Path) -> None:
        launcher = {"module": LocalRunLauncher.__module__, "class": LocalRunLauncher.__name__}
        settings = {"run_launcher": launcher, "run_monitoring": {"enabled": True}}
        self.instance = dg.DagsterInstance.local_temp(str(root), overrides=settings)

    def started(self, pid: int | None, server: Mapping[str, object] | None) -> dg.DagsterRun:
        """A retraining that has started in a process, by a code server."""
        address = {".dagster/grpc_info": json.dumps(server)} if server else {}
        run = dg.DagsterRun(
            job_name=f"{MODEL}_retraining", status=dg.DagsterRunStatus.STARTED, tags={RETRAINING: MODEL, **address}
        )
        self.instance.add_run(run)
        if pid is not None:
            words = f"Started process for run (pid: {pid})."
            self.instance.report_engine_event(words, run, EngineEventData.in_process(pid))
        return run

    def look(self, run: dg.DagsterRun) -> dg.DagsterRunStatus:
        record = self.instance.get_run_record_by_id(run.run_id)
        assert record is not None
        nothing_is_launched = cast("BaseWorkspaceRequestContext", None)
        monitor_started_run(self.instance, nothing_is_launched, record, logging.getLogger("monitoring"))
        seen = self.instance.get_run_by_id(run.run_id)
        assert seen is not None
        return seen.status


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    hospital = Hospital(tmp_path)
    yield hospital
    hospital.instance.dispose()


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    return ended.pid


def test_a_run_whose_process_is_gone_blocks_no_repair_after_one_look(hospital: Hospital, gone: int) -> None:
    run = hospital.started(gone, HERE)
    assert repair_history(hospital.instance, MODEL).in_flight
    assert hospital.look(run) is dg.DagsterRunStatus.FAILURE
    assert not repair_history(hospital.instance, MODEL).in_flight
    told = [entry.message for entry in hospital.instance.all_logs(run.run_id)]
    assert any(f"its process {gone} is gone" in words for words in told)


def test_a_run_at_work_is_never_failed(hospital: Hospital) -> None:
    run = hospital.started(os.getpid(), HERE)
    for _ in range(3):
        assert hospital.look(run) is dg.DagsterRunStatus.STARTED


@pytest.mark.parametrize("server", [ELSEWHERE, None], ids=["another machine's", "a terminal's"])
def test_a_run_whose_process_cannot_be_known_from_here_is_left_alone(
    hospital: Hospital, gone: int, server: Mapping[str, object] | None
) -> None:
    assert hospital.look(hospital.started(gone, server)) is dg.DagsterRunStatus.STARTED


def test_a_run_that_has_told_of_no_process_yet_is_left_alone(hospital: Hospital) -> None:
    assert hospital.look(hospital.started(None, HERE)) is dg.DagsterRunStatus.STARTED


def test_a_number_that_was_given_to_another_process_since_is_not_the_run_s() -> None:
    """As after a restart of the machine."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as later:
        started = Path(f"/proc/{later.pid}").stat().st_mtime
        assert is_alive(RunProcess(later.pid, started + 1.0))
        assert not is_alive(RunProcess(later.pid, started - 2 * SLACK_SECONDS))


def test_a_process_that_ended_and_was_not_waited_for_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(RunProcess(ended.pid, 4e9))
