"""How fast the platform is, each figure beside its target: `python -m benchmarks.replay [--home HOME]`.

Belongs here: figures of speed and size. Does not belong here: how well a model does, and anything the package needs.

Without `--home`, the 24 months are replayed on the simulated archive in a temporary home, in this process and without a
daemon: what is timed are the 12 months that arrive after the release, each with its look back at months whose outcomes
have ripened. With `--home`, the records of a finished demonstration are read, and nothing on it is changed: its months
are timed from the creation to the end of their runs, while a daemon was at work beside them. How soon the sensor acts
is known from such a home alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import cast

import dagster as dg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from clinical_assets.archives.calendar import REPLAY_MONTHS
from clinical_assets.demo import choose_source
from clinical_assets.lifecycle.automation import RETRAINING
from clinical_assets.lifecycle.intervals import sensor_seconds
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.protocol import protocol_names, read_protocol
from clinical_assets.replay import Replay, sign_as_demonstration
from clinical_assets.resources.home import PROJECT, Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry

REPLAY_SECONDS = 60.0
LIST_SECONDS = 6.0
SENSOR_ALLOWANCE_SECONDS = 8.0
REPETITIONS = 3
LOAD_DEFINITIONS = """
import time
started = time.perf_counter()
from clinical_assets.definitions import defs
defs()
print(time.perf_counter() - started)
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and, where there is one, the most it may be."""

    name: str
    measured: float | None
    at_most: float | None = None
    unit: str = "s"
    remark: str = ""

    def row(self) -> tuple[str, str, str, str]:
        """The figure, its target, what was measured, and what to say of it."""
        target = "-" if self.at_most is None else f"at most {self.at_most:g} {self.unit}"
        if self.measured is None:
            return self.name, target, "not measured", self.remark
        reached = "" if self.at_most is None else "reached" if self.measured <= self.at_most else "SHORT"
        said = "; ".join(part for part in (reached, self.remark) if part)
        return self.name, target, f"{self.measured:.1f} {self.unit}", said


@dataclass(frozen=True)
class UnwatchedReplay(Replay):
    """A replay without a daemon: the first model is released by this process, nothing is repaired, months are timed."""

    seconds: list[float]
    cpu_seconds: list[float]

    def _month(self, month: date) -> None:
        started, cpu_started = time.perf_counter(), time.process_time()
        super()._month(month)
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds.append(time.process_time() - cpu_started)

    def _await_repair(self, month: date) -> None:
        """Nobody repairs."""

    def _sign_and_wait(self) -> None:
        sign_as_demonstration(self.home, self.lake, self.protocol, self.registry.challenger(self.protocol.model))
        self._job("release")


@contextmanager
def temporary_home() -> Iterator[Home]:
    """A home that is gone afterwards; until then the environment names it, for the definitions to find."""
    with tempfile.TemporaryDirectory(prefix="clinical-replay-") as folder:
        home = Home(Path(folder), Path(folder) / "raw")
        home.prepare()
        addresses = {"CLINICAL_HOME": home.root, "CLINICAL_RAW": home.raw, "DAGSTER_HOME": home.dagster}
        os.environ.update({name: str(path) for name, path in addresses.items()})
        yield home


def replay(home: Home, model: str, console: Console) -> tuple[list[float], list[float]]:
    """The wall and the CPU seconds of each month that arrived after the release, on the simulated archive."""
    protocol = read_protocol(model)
    choose_source(home, protocol, "simulated", console)
    registry = Registry(home.registry_uri, home.registry_artefacts)
    registry.prepare()
    lake = Lake(str(home.lake_catalogue), home.lake_data)
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    nobody = cast("subprocess.Popen[bytes]", None)
    with dg.DagsterInstance.get() as instance, Progress(console=console) as progress:
        UnwatchedReplay(home, lake, registry, instance, protocol, progress, nobody, seconds, cpu_seconds).run()
    return seconds, cpu_seconds


def recorded_months(instance: dg.DagsterInstance, model: str) -> list[float]:
    """The seconds of each run of a demonstration that scored a month or looked back at one."""
    records = [
        record
        for job in ("month", "ripening")
        for record in instance.get_run_records(dg.RunsFilter(job_name=f"{model}_{job}", tags={TRIGGER: "demo"}))
    ]
    return [record.end_time - record.create_timestamp.timestamp() for record in records if record.end_time]


def recorded_reactions(instance: dg.DagsterInstance, model: str) -> list[float]:
    """For each retraining for drift, the seconds from the drift report that was the newest to the start of the run."""
    key = dg.AssetKey([model, "drift_report"])
    reported = [record.timestamp for record in instance.fetch_materializations(key, limit=1000).records]
    reactions = []
    for record in instance.get_run_records(dg.RunsFilter(tags={RETRAINING: model, TRIGGER: "drift"})):
        before = [at for at in reported if at <= record.create_timestamp.timestamp()]
        if record.start_time and before:
            reactions.append(record.start_time - max(before))
    return reactions


def time_command(command: Sequence[str | Path]) -> float:
    """The median wall time of a command run from the project's folder, in seconds."""
    seconds = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def time_definitions() -> float:
    """The median time in which a new process imports and builds the definitions, in seconds."""
    command = [sys.executable, "-c", LOAD_DEFINITIONS]
    runs = [
        subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True) for _ in range(REPETITIONS)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def megabytes(path: Path) -> float:
    """The size of a file or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir() or file.is_symlink()) / 1e6


def size_of_home(home: Home) -> Figure:
    """How much the home holds, and the parts of it."""
    parts = sorted(((megabytes(part), part.name) for part in home.root.iterdir()), reverse=True)
    remark = ", ".join(f"{name} {size:.0f}" for size, name in parts if size >= 1)
    return Figure("size of the home", megabytes(home.root), unit="MB", remark=remark)


def measure_home(home: Home, model: str) -> list[Figure]:
    """The figures of a finished demonstration."""
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        months, reactions = recorded_months(instance, model), recorded_reactions(instance, model)
    worst = max(reactions, default=None)
    of_which = f"the slowest of {len(reactions)}, median {statistics.median(reactions):.1f} s" if reactions else "none"
    return [
        replay_figure(months, "from run records, beside a daemon"),
        Figure(
            "drift report to retraining started", worst, sensor_seconds() + SENSOR_ALLOWANCE_SECONDS, remark=of_which
        ),
        size_of_home(home),
    ]


def measure_replay(model: str, console: Console) -> list[Figure]:
    """The figures of a replay in a temporary home."""
    with temporary_home() as home:
        months, cpu = replay(home, model, console)
        return [
            replay_figure(months, f"simulated; slowest month {max(months):.1f} s; CPU time in sum {sum(cpu):.1f} s"),
            Figure(
                "drift report to retraining started",
                None,
                sensor_seconds() + SENSOR_ALLOWANCE_SECONDS,
                remark="give --home a finished demonstration",
            ),
            size_of_home(home),
        ]


def replay_figure(seconds: Sequence[float], remark: str) -> Figure:
    """The time of the monthly chain in sum."""
    return Figure("12 months of the monthly chain", sum(seconds) or None, REPLAY_SECONDS, remark=remark)


def main() -> None:
    """Measure, and print every figure beside its target."""
    parser = argparse.ArgumentParser(description="Speed and size of the platform.")
    parser.add_argument("--home", type=Path, help="a home on which `clinical demo` has finished")
    parser.add_argument("--model", default="readmission", choices=protocol_names())
    asked = parser.parse_args()
    console, load = Console(), os.getloadavg()[0]
    develop = read_protocol(asked.model).development_months
    if REPLAY_MONTHS - develop != 12:
        parser.error(
            f"{asked.model} develops on {develop} of {REPLAY_MONTHS} months, which does not leave 12 to replay"
        )
    if asked.home and not (asked.home / "dagster" / "history").is_dir():
        parser.error(f"{asked.home} is not a home on which anything has run")
    figures = [
        Figure("dg list defs", time_command([Path(sys.executable).with_name("dg"), "list", "defs"]), LIST_SECONDS),
        Figure("import of the definitions", time_definitions(), remark=f"median of {REPETITIONS} new processes"),
        Figure("size of the installation", megabytes(Path(sys.prefix)), unit="MB"),
    ]
    if asked.home:
        figures = measure_home(Home(asked.home.resolve(), asked.home.resolve() / "raw"), asked.model) + figures
    else:
        figures = measure_replay(asked.model, console) + figures
    table = Table(
        title=f"{asked.model}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {load:.1f} at the start"
    )
    for heading in ("figure", "target", "measured", ""):
        table.add_column(heading, overflow="fold")
    for figure in figures:
        table.add_row(*figure.row())
    console.print(table)


if __name__ == "__main__":
    main()
