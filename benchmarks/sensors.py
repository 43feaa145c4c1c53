"""What watching costs: `python -m benchmarks.sensors [--models N] [--seconds S]`.

Belongs here: the CPU time of a look, and of a platform of many models on which nothing happens. Does not belong here:
how soon a sensor acts (replay.py), and anything the package needs.

Without `--models` the sensors of one model and of the home look at a small home in this process, which is warm. With it
a daemon and a code server watch so many copies of a model, and their CPU time is read from the kernel.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import dagster as dg
from dagster._core.definitions.sensor_definition import SensorEvaluationContext
from dagster._core.scheduler.instigation import InstigatorType
from rich.console import Console
from rich.table import Table

from benchmarks.copied_models import COPIED, COPIES
from clinical_assets.lifecycle.intervals import SETTING, sensor_seconds
from clinical_assets.resources.home import PROJECT, Home

LOOKS = 50
MONTHS = tuple(f"2024-{month:02}" for month in range(1, 13))
LOOK_SECONDS = 0.03
CORES_OF_FIFTY, LONGEST_PAUSE_SECONDS = 1.0, 30.0
WARM_UP_SECONDS = 60.0
STARTED_WITHIN_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Watching:
    """What watching many models cost: cores of the daemon and the code server, looks a second, the longest pause."""

    models: int
    daemon_cores: float
    server_cores: float
    looks_per_second: float
    longest_pause_seconds: float


@contextmanager
def small_home() -> Iterator[tuple[Home, dg.DagsterInstance]]:
    """A home with a year of materialisations of one model, gone afterwards; the environment names it until then."""
    with tempfile.TemporaryDirectory(prefix="clinical-sensors-") as folder:
        home = Home(Path(folder), Path(folder) / "raw")
        home.prepare()
        addresses = {"CLINICAL_HOME": home.root, "CLINICAL_RAW": home.raw, "DAGSTER_HOME": home.dagster}
        os.environ.update({name: str(path) for name, path in addresses.items()})
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            for asset in ("identified_feed", "dataset", "features"):
                for month in MONTHS:
                    key = dg.AssetKey([COPIED, asset])
                    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=month))
            yield home, instance


def measure_looks(instance: dg.DagsterInstance) -> dict[str, float]:
    """CPU seconds of one look of each sensor where nothing is new, in this warm process."""
    from clinical_assets.definitions import defs

    repository = defs().get_repository_def()
    return {
        name: _look_again(repository, instance, name)
        for name in (f"{COPIED}_watch", f"{COPIED}_months_flow", "home_watch")
    }


def _look_again(repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, name: str) -> float:
    sensor = repository.get_sensor_def(name)
    needed = {x: y for x, y in repository.get_top_level_resources().items() if x in sensor.required_resource_keys}
    cursor: str | None = None

    def look() -> None:
        nonlocal cursor
        with SensorEvaluationContext(
            instance_ref=None,
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=cursor,
            log_key=None,
            repository_name=repository.name,
            instance=instance,
            repository_def=repository,
            sensor_name=name,
            resources=needed,
        ) as context:
            cursor = sensor.evaluate_tick(context).cursor

    for _ in range(5):
        look()
    started = time.process_time()
    for _ in range(LOOKS):
        look()
    return (time.process_time() - started) / LOOKS


def measure_models(models: int, seconds: float) -> Watching:
    """Have a daemon and a code server watch copies of a model on which nothing happens."""
    with small_home() as (home, instance):
        environment = {**os.environ, COPIES: str(models), "PYTHONPATH": str(PROJECT)}
        address = home.dagster / "code-server.socket"
        workspace = home.dagster / "workspace.yaml"
        workspace.write_text(f"load_from:\n  - grpc_server:\n      socket: {address}\n      location_name: copies\n")
        served = ["api", "grpc", "-m", "benchmarks.copied_models", "--location-name", "copies", "-s", str(address)]
        watch = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)]
        with _running([sys.executable, "-m", "dagster", *served], environment, home.dagster / "server.log") as server:
            # A daemon that does not find its code server looks for it again after a minute.
            _await(address.exists, f"the code server does not answer; see {home.dagster}")
            with _running(watch, environment, home.dagster / "daemon.log") as daemon:
                _await(
                    lambda: len(_looks_since(instance, 0.0)) > 2 * models,
                    f"not every sensor of {models} models has looked; see {home.dagster}",
                )
                time.sleep(WARM_UP_SECONDS)
                begun, before = time.time(), (cpu_seconds(daemon.pid), cpu_seconds(server.pid))
                time.sleep(seconds)
                passed, after = time.time() - begun, (cpu_seconds(daemon.pid), cpu_seconds(server.pid))
                looks = _looks_since(instance, begun - WARM_UP_SECONDS / 2)
    pauses = [later - earlier for times in looks for earlier, later in pairwise(times)]
    in_time = [at for times in looks for at in times if at >= begun]
    return Watching(
        models,
        (after[0] - before[0]) / passed,
        (after[1] - before[1]) / passed,
        len(in_time) / passed,
        max(pauses, default=float("nan")),
    )


@contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with (
        log.open("w") as told,
        subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=told, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def _await(happened: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + STARTED_WITHIN_SECONDS
    while not happened():
        if time.monotonic() > end:
            raise RuntimeError(f"{otherwise} ({STARTED_WITHIN_SECONDS:.0f} s)")
        time.sleep(1.0)


def _looks_since(instance: dg.DagsterInstance, since: float) -> list[list[float]]:
    """The times at which each sensor looked, oldest first."""
    states = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    ticks = (instance.get_ticks(x.instigator_origin_id, x.selector_id, after=since) for x in states)
    return [times for found in ticks if (times := sorted(tick.timestamp for tick in found))]


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process and of its children that have ended."""
    further = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, further[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print every figure beside its target."""
    parser = argparse.ArgumentParser(description="What watching costs.")
    parser.add_argument("--models", type=int, help="watch so many copies of a model by a daemon and a code server")
    parser.add_argument("--seconds", type=float, default=120.0, help="for so long")
    asked = parser.parse_args()
    table = Table(title=f"watching, a look every {sensor_seconds()} s ({SETTING})")
    for heading in ("figure", "target", "measured"):
        table.add_column(heading)
    if asked.models:
        found = measure_models(asked.models, asked.seconds)
        cores = found.daemon_cores + found.server_cores
        table.add_row(
            f"cores for {found.models} idle models",
            f"at most {CORES_OF_FIFTY:g} for 50",
            f"{cores:.3f} (daemon {found.daemon_cores:.3f}, code server {found.server_cores:.3f})",
        )
        looks = found.looks_per_second
        table.add_row("CPU of a look, all in all", f"at most {LOOK_SECONDS:g} s", f"{cores / looks:.4f} s")
        table.add_row("looks a second", "-", f"{looks:.2f}")
        longest = f"{found.longest_pause_seconds:.1f} s"
        table.add_row("longest pause between two looks", f"at most {LONGEST_PAUSE_SECONDS:g} s", longest)
    else:
        with small_home() as (_, instance):
            for name, seconds in measure_looks(instance).items():
                table.add_row(f"CPU of a look of {name}", f"at most {LOOK_SECONDS:g} s", f"{seconds:.4f} s")
    Console().print(table)


if __name__ == "__main__":
    main()
