import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from clinical_assets.resources.dagster_logs import StepLogs
from clinical_assets.resources.home import Home

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


BEFORE: set[int] = set()


def children() -> set[int]:
    """The processes that this one has started, and that are at work."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


@dg.asset
def printed() -> None:
    """Prints what it was asked to, and how many processes it has started."""
    print(f"said on the ward; {len(children() - BEFORE)} processes")


@dg.asset(deps=[printed])
def another() -> None:
    """Follows."""


DEFINITIONS = dg.Definitions(
    assets=[printed, another], jobs=[dg.define_asset_job("both", executor_def=dg.in_process_executor)]
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", tmp_path / "raw")
    home.prepare()
    return home


@pytest.fixture
def instance(home: Home) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        yield instance


def run(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return DEFINITIONS.resolve_job_def("both").execute_in_process(instance=instance, run_config=QUIET)


def databases(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.db"))


def opened(folder: Path) -> int:
    """How many files below a folder this process holds open."""
    return sum(file.path.startswith(str(folder)) for file in psutil.Process().open_files())


def test_the_events_of_all_runs_are_in_one_database(home: Home, instance: dg.DagsterInstance) -> None:
    runs = [run(instance).run_id for _ in range(3)]
    assert databases(home.dagster) == ["history/event_log.db", "history/runs.db"]
    for run_id in runs:
        assert instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)[0].run_id == run_id
    assert instance.get_materialized_partitions(printed.key) == set()
    assert len(instance.fetch_materializations(printed.key, limit=10).records) == 3


def test_an_instance_that_is_made_again_opens_no_database_again(home: Home, instance: dg.DagsterInstance) -> None:
    run(instance)
    instance.all_instigator_state()
    before = opened(home.dagster)
    for _ in range(20):
        with dg.DagsterInstance.from_ref(instance.get_ref()) as again:
            assert len(again.get_runs()) == 1
            assert again.get_latest_materialization_event(printed.key) is not None
            assert again.all_instigator_state() == []
    assert 0 < before == opened(home.dagster)


def test_what_one_process_writes_another_reads_at_once(home: Home, instance: dg.DagsterInstance) -> None:
    run(instance)
    with sqlite3.connect(f"file:{home.dagster / 'history' / 'event_log.db'}?mode=ro", uri=True) as another_reader:
        [(events,)] = another_reader.execute("SELECT count(*) FROM event_logs").fetchall()
    assert events > 10


def test_who_watches_a_run_is_told_of_its_events_while_they_come(instance: dg.DagsterInstance) -> None:
    told: list[str] = []
    run_id = run(instance).run_id
    instance.watch_event_logs(run_id, None, lambda entry, _cursor: told.append(entry.run_id))
    end = time.monotonic() + 20
    while not told and time.monotonic() < end:
        time.sleep(0.05)
    assert set(told) == {run_id}


def test_what_a_step_prints_is_kept_in_its_file_and_starts_no_process(instance: dg.DagsterInstance) -> None:
    BEFORE.update(children())
    run_id = run(instance).run_id
    logs = instance.compute_log_manager
    assert isinstance(logs, StepLogs)
    captured = instance.all_logs(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED)[0].dagster_event
    assert captured is not None
    key = [run_id, "compute_logs", captured.logs_captured_data.file_key]
    assert logs.get_log_data(key).stdout == b"said on the ward; 0 processes\n"
    assert logs.is_capture_complete(key)


def test_a_home_that_was_moved_has_its_runs_where_it_lies_now(home: Home, instance: dg.DagsterInstance) -> None:
    run_id = run(instance).run_id
    elsewhere = home.root.with_name("elsewhere")
    home.root.rename(elsewhere)
    with dg.DagsterInstance.from_config(str(elsewhere / "dagster")) as moved:
        found = moved.get_run_by_id(run_id)
        assert found is not None and found.is_success


FIRST_LOOK = """
import sys, dagster as dg
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    assert instance.get_latest_materialization_event(dg.AssetKey("none")) is None
    assert instance.get_runs() == [] and instance.all_instigator_state() == []
"""


def test_processes_that_open_a_new_home_at_once_all_find_its_tables(home: Home) -> None:
    command = [sys.executable, "-c", FIRST_LOOK, str(home.dagster)]
    looks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(look.communicate()[1][-500:], look.returncode) for look in looks] == [("", 0)] * 4


def test_a_database_that_was_left_without_tables_gets_them(home: Home) -> None:
    history = home.dagster / "history"
    history.mkdir()
    (history / "event_log.db").touch()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert instance.get_latest_materialization_event(printed.key) is None
