import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import runs_of_tests
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher.base import WorkerStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from clinical_assets.resources import run_workers
from clinical_assets.resources.home import Home
from clinical_assets.resources.run_workers import ForkedRuns, Worker

PATIENCE_SECONDS = 120.0
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """A home's own instance; its launcher's server imports for some seconds, once."""
    folder = tmp_path_factory.mktemp("forked")
    home = Home(folder / "home", folder / "raw")
    home.prepare()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CLINICAL_HOME", str(home.root))
        environment.setenv("CLINICAL_RAW", str(home.raw))
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            yield instance


def launch(instance: dg.DagsterInstance, name: str) -> str:
    file = Path(__file__).with_name("runs_of_tests.py")
    job = ReconstructableRepository.for_file(str(file), "defs").get_reconstructable_job(name)
    run = instance.create_run_for_job(
        job_def=job.get_definition(), job_code_origin=job.get_python_origin(), run_config=QUIET
    )
    instance.launch_run(run.run_id, None)  # pyright: ignore[reportArgumentType]
    return run.run_id


def wait_until(happened: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.05)


def run_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def worker_of(instance: dg.DagsterInstance, run_id: str) -> Worker:
    worker = Worker.recorded(run_of(instance, run_id))
    assert worker is not None
    return worker


def at_work(instance: dg.DagsterInstance) -> str:
    """A run whose step is waiting."""
    run_id = launch(instance, "wait")
    wait_until(lambda: bool(instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)), "a step at work")
    return run_id


def monitor(instance: dg.DagsterInstance) -> None:
    """One look of Dagster's own run monitoring."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context:
        assert list(execute_run_monitoring_iteration(context, logging.getLogger("monitoring"))) is not None


def test_a_run_works_in_a_process_that_was_forked_with_everything_imported(instance: dg.DagsterInstance) -> None:
    runs = [launch(instance, "greet") for _ in range(2)]
    for run_id in runs:
        wait_until(lambda run_id=run_id: run_of(instance, run_id).is_finished, "the end of a run")
        assert run_of(instance, run_id).is_success
    told = [
        record.asset_materialization
        for record in instance.fetch_materializations(dg.AssetKey("greeting"), limit=2).records
    ]
    metadata: list[dict[str, Any]] = [{k: v.value for k, v in one.metadata.items()} for one in told if one]
    assert {one["pid"] for one in metadata} == {worker_of(instance, run_id).pid for run_id in runs}
    assert len({one["parent"] for one in metadata}) == 1
    assert all(one["skops"] for one in metadata)


def test_a_run_that_a_person_ends_is_cancelled(instance: dg.DagsterInstance) -> None:
    run_id = at_work(instance)
    assert instance.run_launcher.terminate(run_id)
    wait_until(lambda: run_of(instance, run_id).is_finished, "the end of a cancelled run")
    assert run_of(instance, run_id).status is dg.DagsterRunStatus.CANCELED
    assert not instance.run_launcher.terminate(run_id)


def test_a_run_at_work_is_left_alone_and_one_whose_process_is_gone_has_failed_at_the_next_look(
    instance: dg.DagsterInstance,
) -> None:
    run_id = at_work(instance)
    monitor(instance)
    assert run_of(instance, run_id).status is dg.DagsterRunStatus.STARTED
    worker = worker_of(instance, run_id)
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: not worker.lives(), "the end of a killed process")
    monitor(instance)
    assert run_of(instance, run_id).status is dg.DagsterRunStatus.FAILURE


def test_a_run_of_before_the_machine_lost_power_has_failed_though_its_number_is_another_process_s(
    instance: dg.DagsterInstance,
) -> None:
    run_id = at_work(instance)
    worker = worker_of(instance, run_id)
    try:
        before = replace(worker, pid=os.getpid(), began=psutil.boot_time() - 3600)
        instance.add_run_tags(run_id, before.tag())
        monitor(instance)
        assert run_of(instance, run_id).status is dg.DagsterRunStatus.FAILURE
    finally:
        os.kill(worker.pid, signal.SIGKILL)


def test_of_a_run_that_another_machine_or_nobody_here_started_nothing_is_concluded(
    instance: dg.DagsterInstance,
) -> None:
    launcher = instance.run_launcher
    gone = Worker("another-machine", 1, 0.0)
    for tags in ({}, gone.tag()):
        run = instance.create_run_for_job(job_def=runs_of_tests.defs.resolve_job_def("greet"), tags=tags)
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING


def test_runs_are_forked_anew_once_a_file_of_the_package_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "defs").mkdir()
    (tmp_path / "defs" / "defs.yaml").write_text("at_least: 0.60\n")
    monkeypatch.setattr(run_workers, "PACKAGE", tmp_path)
    (tmp_path / "defs" / "cohort.py").touch()
    before = run_workers._state_of_sources()
    (tmp_path / "defs" / "defs.yaml").write_text("at_least: 0.33\n")
    os.utime(tmp_path / "defs" / "defs.yaml", (time.time() + 5, time.time() + 5))
    edited = run_workers._state_of_sources()
    (tmp_path / "defs" / "__pycache__").mkdir()  # which is no edit
    assert run_workers._state_of_sources() == edited != before
    (tmp_path / "defs" / "cohort.py").unlink()
    assert run_workers._state_of_sources() not in (before, edited)


def test_a_closed_launcher_leaves_runs_at_work_and_starts_a_server_again_when_asked(
    instance: dg.DagsterInstance,
) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, ForkedRuns)
    worker = worker_of(instance, at_work(instance))
    launcher.dispose()
    assert worker.lives()
    os.kill(worker.pid, signal.SIGKILL)
    after = launch(instance, "greet")
    wait_until(lambda: run_of(instance, after).is_finished, "a run of the next server")
    assert run_of(instance, after).is_success


def test_the_tag_names_machine_process_and_moment(instance: dg.DagsterInstance) -> None:
    own = Worker.of(os.getpid())
    assert json.loads(own.tag()[run_workers.WORKER])["pid"] == os.getpid()
    assert own.lives()
    assert not replace(own, began=own.began - 100).lives()
