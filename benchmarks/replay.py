"""How light the platform is, each figure beside its target: `python -m benchmarks.replay [--home HOME] [--models N]`.

Belongs here: figures of time, processors, memory and size, printed beside what is asked of them. Does not belong here:
how well a model does, and anything the package needs.

Without arguments, the 24 months of each model are replayed in a temporary home, in this one process and without a
daemon, on the real archives where they are found and on simulated ones elsewhere: what is measured are the months that
arrive after the release, each with its looks back at months whose outcomes have matured, and how many rows of features
and predictions they read. With `--home` the figures that a finished demonstration kept are printed beside them, and a
rollback is timed on a copy of that home. With `--models N` nothing is replayed: N copies of a model are watched by one
daemon. Seconds are CPU seconds unless a figure says otherwise; take them on a machine with nothing else to do.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.sensors import CORES_OF_FIFTY, LONGEST_PAUSE_SECONDS, LOOK_SECONDS, measure_models
from clinical_assets.demo import choose_source
from clinical_assets.demo_figures import DemoFigures
from clinical_assets.lifecycle.intervals import sensor_seconds
from clinical_assets.protocol import protocol_names, read_protocol
from clinical_assets.replay import Replay, sign_as_demonstration
from clinical_assets.resources.home import PROJECT, Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry

MONTHS_SECONDS, GROWTH, ROWS_READ, LARGEST_MB = 160.0, 1.1, 3.0, 1_500.0
DEMO_SECONDS, DEMO_CPU_SECONDS, FIRST_REPORT_SECONDS, FIRST_MONTH_SECONDS = 360.0, 600.0, 45.0, 90.0
WATCHED_SECONDS, IDLE_CORES = 120.0, 0.03
LIVE_SECONDS, RETURN_SECONDS, LIST_SECONDS = 5.0, 6.0, 6.0
REPETITIONS = 3
ROW_TABLES = (".features", ".predictions")
LOAD_DEFINITIONS = """
import time
started = time.process_time()
from clinical_assets.definitions import defs
defs()
print(time.process_time() - started)
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
        digits = 1 if self.measured >= 10 else 2 if self.measured >= 0.1 else 4
        return self.name, target, f"{self.measured:,.{digits}f} {self.unit}", said


@dataclass(slots=True)
class MonthsMeasured:
    """What the months of one model after its release took, in order."""

    model: str
    cpu_seconds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    rows_read: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class UnwatchedReplay(Replay):
    """A replay without a daemon: the first model is released by this process, nothing is repaired, months are timed."""

    measured: MonthsMeasured

    def _month(self, month: date) -> None:
        read: list[int] = []
        started = time.process_time()
        with counting_rows(read):
            super()._month(month)
        self.measured.cpu_seconds.append(time.process_time() - started)
        self.measured.rows_read.append(sum(read))
        features = self.lake.read(f"{self.protocol.model}.features", month=month, columns=["month"])
        self.measured.rows.append(features.height)

    def _await_repair(self, month: date) -> None:
        """Nobody repairs."""

    def _await_silent_run(self) -> None:
        self._job("silent_month")

    def _sign_and_wait(self) -> None:
        sign_as_demonstration(self.home, self.lake, self.protocol, self.registry.challenger(self.protocol.model))
        self._job("release")


@contextmanager
def counting_rows(into: list[int]) -> Iterator[None]:
    """Notes, until the block ends, how many rows each reading of features or predictions gave."""
    read = Lake.read

    def counted(self: Lake, table: str, **asked: Any) -> pl.DataFrame:
        frame = read(self, table, **asked)
        if table.endswith(ROW_TABLES):
            into.append(frame.height)
        return frame

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lake, "read", counted)
        yield


@contextmanager
def temporary_home(raw: Path) -> Iterator[Home]:
    """A home that is gone afterwards; until then the environment names it, for the definitions to find."""
    with tempfile.TemporaryDirectory(prefix="clinical-replay-") as folder:
        home = Home(Path(folder), raw)
        home.prepare()
        addresses = {"CLINICAL_HOME": home.root, "CLINICAL_RAW": home.raw, "DAGSTER_HOME": home.dagster}
        os.environ.update({name: str(path) for name, path in addresses.items()})
        yield home


def replay(home: Home, model: str, console: Console) -> MonthsMeasured:
    """What each month took that arrived after the release of one model."""
    protocol, measured = read_protocol(model), MonthsMeasured(model)
    published = choose_source(home, protocol, "auto", console)
    console.print(f"{model}: {published.data_origin}")
    registry = Registry(home.registry_uri, home.registry_artefacts)
    registry.prepare()
    lake = Lake(str(home.lake_catalogue), home.lake_data)
    with dg.DagsterInstance.get() as instance, Progress(console=console, transient=True) as progress:
        UnwatchedReplay(home, lake, registry, instance, protocol, progress, measured).run()
    return measured


def measure_months(models: Sequence[str], console: Console) -> list[Figure]:
    """The figures of a replay in this one process."""
    raw = Home.from_environment().raw
    with temporary_home(raw) as home:
        measured = [replay(home, model, console) for model in models]
        size = size_of_home(home)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    each = "; ".join(f"{one.model} {sum(one.cpu_seconds):.0f} s" for one in measured)
    reads = max(
        (read / rows, one.model) for one in measured for read, rows in zip(one.rows_read, one.rows, strict=True)
    )
    return [
        Figure(
            f"the months after the release, {len(models)} models, one process",
            sum(sum(one.cpu_seconds) for one in measured),
            MONTHS_SECONDS * len(models) / 3,
            remark=each,
        ),
        *(growth(one) for one in measured),
        Figure("most rows of features and predictions read per row of a month", reads[0], ROWS_READ, "", reads[1]),
        Figure("largest memory of this process", largest, LARGEST_MB, "MB"),
        size,
    ]


def growth(measured: MonthsMeasured) -> Figure:
    """How much dearer the last month was than the first by age alone, for a month of the same size.

    Seconds are fitted by least squares to a constant, the rows and the number of months before; the very first month,
    which warms the process up, is left out.
    """
    import numpy as np

    seconds, age = np.array(measured.cpu_seconds[1:]), np.arange(1, len(measured.cpu_seconds))
    rows = np.array(measured.rows[1:])
    (constant, a_row, a_month), *_ = np.linalg.lstsq(np.stack([np.ones(len(age)), rows, age], 1), seconds)
    typical = constant + a_row * rows.mean()
    shown = ", ".join(f"{taken:.1f}" for taken in measured.cpu_seconds)
    return Figure(
        f"{measured.model}: last month against the first, of the same size",
        float((typical + a_month * age[-1]) / typical),
        GROWTH,
        "x",
        f"{a_month:+.2f} s a month; {shown} s",
    )


def measure_demonstration(home: Home) -> list[Figure]:
    """The figures that the newest demonstration on a home kept."""
    kept = DemoFigures.read(home)
    if kept is None:
        return [Figure("the demonstration", None, DEMO_SECONDS, remark=f"none has come to its end on {home.root}")]
    return [
        Figure("the demonstration, on the clock", kept.seconds, DEMO_SECONDS),
        Figure("the demonstration, all processes", kept.cpu_seconds, DEMO_CPU_SECONDS),
        Figure("its first validation report, on the clock", kept.first_report_after_seconds, FIRST_REPORT_SECONDS),
        Figure("its first scored month, on the clock", kept.first_scored_month_after_seconds, FIRST_MONTH_SECONDS),
        Figure("its largest process", kept.largest_process_mb, LARGEST_MB, "MB"),
    ]


def measure_rollback(home: Home, model: str) -> list[Figure]:
    """How long `clinical rollback` takes on a copy of a home, on the clock, imports and all."""
    with tempfile.TemporaryDirectory(prefix="clinical-rollback-") as folder:
        copy = Path(folder) / "home"
        shutil.copytree(home.root, copy, symlinks=True)
        command = [sys.executable, "-m", "clinical_assets.cli", "rollback", model, "--reason", "a benchmark", "--json"]
        environment = {**os.environ, "CLINICAL_HOME": str(copy), "DAGSTER_HOME": str(copy / "dagster")}
        started = time.monotonic()
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
        returned = time.monotonic() - started
    if done.returncode:
        return [Figure(f"clinical rollback {model}", None, RETURN_SECONDS, remark=done.stderr.strip()[-200:])]
    told = json.loads(done.stdout)
    imports = returned - told["seconds"]
    return [
        Figure(f"clinical rollback {model}, until live", imports + told["seconds_to_live"], LIVE_SECONDS),
        Figure(f"clinical rollback {model}, until it returns", returned, RETURN_SECONDS),
    ]


def measure_installation() -> list[Figure]:
    """How long definitions take to load, and how large the installation is."""
    listed = [Path(sys.executable).with_name("dg"), "list", "defs"]
    return [
        Figure("dg list defs, on the clock", time_command(listed), LIST_SECONDS),
        Figure("import of the definitions", time_definitions(), remark=f"median of {REPETITIONS} new processes"),
        Figure("size of the installation", megabytes(Path(sys.prefix)), unit="MB"),
    ]


def measure_watching(models: int) -> list[Figure]:
    """What one daemon and its code server take to watch so many models on which nothing happens."""
    found = measure_models(models, WATCHED_SECONDS)
    cores = found.daemon_cores + found.server_cores
    target = IDLE_CORES if models <= 3 else CORES_OF_FIFTY * models / 50
    parts = (
        f"daemon {found.daemon_cores:.3f}, code server {found.server_cores:.3f}; {found.looks_per_second:.2f} looks/s"
    )
    return [
        Figure(f"{models} idle models, a look every {sensor_seconds()} s", cores, target, "cores", parts),
        Figure("a look, daemon and code server together", cores / found.looks_per_second, LOOK_SECONDS),
        Figure("the longest pause between two looks", found.longest_pause_seconds, LONGEST_PAUSE_SECONDS),
    ]


def time_command(command: Sequence[str | Path]) -> float:
    """The median wall time of a command run from the project's folder, in seconds."""
    seconds = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def time_definitions() -> float:
    """The median CPU time in which a new process imports and builds the definitions, in seconds."""
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


def print_figures(figures: Sequence[Figure], load: float) -> None:
    """All figures in one table."""
    title = f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {load:.1f} at the start"
    table = Table(title=title)
    for heading in ("figure", "target", "measured", ""):
        table.add_column(heading, overflow="fold")
    for figure in figures:
        table.add_row(*figure.row())
    Console().print(table)


def main() -> None:
    """Measure, and print every figure beside its target."""
    parser = argparse.ArgumentParser(description="Time, processors, memory and size of the platform.")
    parser.add_argument("--home", type=Path, help="a home on which `clinical demo` has finished")
    parser.add_argument("--model", action="append", choices=protocol_names(), help="one model; repeat for several")
    parser.add_argument("--models", type=int, help="watch so many copies of a model with one daemon, and no more")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    if asked.home and not (asked.home / "dagster" / "history").is_dir():
        parser.error(f"{asked.home} is not a home on which anything has run")
    if asked.models:
        print_figures(measure_watching(asked.models), load)
        return
    figures: list[Figure] = []
    if asked.home:
        home = Home(asked.home.resolve(), asked.home.resolve() / "raw")
        figures += measure_demonstration(home) + measure_rollback(home, (asked.model or protocol_names())[0])
    figures += measure_months(asked.model or protocol_names(), Console()) + measure_installation()
    print_figures(figures, load)


if __name__ == "__main__":
    main()
