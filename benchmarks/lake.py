"""What a write and a question cost in a lake of many tables: `python -m benchmarks.lake [--tables 850]`.

Belongs here: the cost of one table when there are many others. Does not belong here: how fast the platform is
(benchmarks/replay.py), and anything the package needs.

The lake is made in a temporary folder; 850 tables are those of fifty models. Before each of what is timed, another
process commits: to rows alone, as in every step of every run, or to columns too, as where a new table comes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.replay import Figure
from clinical_assets.resources.lake import Lake, Write

TABLES_A_MODEL = 17
COLUMNS = 20
MONTHS = tuple(date(2024, month, 1) for month in (1, 2, 3))
NEXT_MONTH = date(2024, 4, 1)
REPETITIONS = 5
WRITE_SECONDS, EXISTS_SECONDS = 0.2, 0.02

# argv: catalogue, data folder, "rows" or "columns".
ELSEWHERE = """
import sys
from datetime import date
from pathlib import Path
import polars as pl
from clinical_assets.resources.lake import Lake

lake = Lake(sys.argv[1], Path(sys.argv[2]))
frame = pl.DataFrame({"x": [1]})
if sys.argv[3] == "columns":
    frame = frame.with_columns(pl.lit(1).alias(f"column_{lake.latest_snapshot()}"))
lake.write_table("elsewhere.rows" if sys.argv[3] == "rows" else "elsewhere.columns", frame, author="", message="")
"""


@contextmanager
def temporary_lake() -> Iterator[Lake]:
    """A lake that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="clinical-lake-") as folder:
        yield Lake(str(Path(folder) / "catalogue.sqlite"), Path(folder) / "data")


def rows_of(*months: date) -> pl.DataFrame:
    """Three rows a month, of many columns."""
    numbers = {f"column_{i}": [float(row) for row in range(3 * len(months))] for i in range(COLUMNS)}
    return pl.DataFrame({"month": sorted(months * 3), **numbers})


def fill(lake: Lake, tables: int, console: Console) -> list[str]:
    """The names of the tables made: commented, partitioned by month, three months each."""
    names = [f"model_{i // TABLES_A_MODEL}.asset_{i % TABLES_A_MODEL}" for i in range(tables)]
    frame, comments = rows_of(*MONTHS), {f"column_{i}": f"What column {i} says" for i in range(COLUMNS)}
    models = [names[i : i + TABLES_A_MODEL] for i in range(0, tables, TABLES_A_MODEL)]
    for model in track(models, "filling the lake", console=console):
        writes = [Write(name, frame, months=MONTHS, description=name, comments=comments) for name in model]
        lake.write_together(writes, author="benchmark", message="")
    return names


def cpu_seconds(lake: Lake, act: Callable[[int], object], elsewhere: str) -> float:
    """The median CPU time of an act of this process, each time after a commit of another."""
    spent = []
    for turn in range(REPETITIONS):
        command = [sys.executable, "-c", ELSEWHERE, lake.catalogue, str(lake.data), elsewhere]
        subprocess.run(command, check=True)
        started = time.process_time()
        act(turn)
        spent.append(time.process_time() - started)
    return sorted(spent)[REPETITIONS // 2]


def measure(lake: Lake, tables: int, console: Console) -> list[Figure]:
    """The figures of a lake of so many tables."""
    names = fill(lake, tables, console)
    lake.write_month(names[-1], NEXT_MONTH, rows_of(NEXT_MONTH), author="", message="")  # the engine is warm

    def write(turn: int) -> None:
        lake.write_month(names[turn], NEXT_MONTH, rows_of(NEXT_MONTH), author="", message="")

    def rewrite(turn: int) -> None:
        lake.write_month(names[turn], MONTHS[0], rows_of(MONTHS[0]), author="", message="")

    snapshot = lake.latest_snapshot()
    figures = [
        ("write of a new month", write, "rows", WRITE_SECONDS),
        ("write of a month again", rewrite, "rows", WRITE_SECONDS),
        ("exists", lambda turn: lake.exists(names[turn]), "rows", EXISTS_SECONDS),
        ("exists, of no table", lambda turn: lake.exists(f"model_0.nothing_{turn}"), "rows", EXISTS_SECONDS),
        ("read of a month", lambda turn: lake.read(names[turn], month=MONTHS[1]), "rows", None),
        ("months of a table", lambda turn: lake.months(names[turn]), "rows", None),
        ("tables changed since a snapshot", lambda _: lake.changed_since(snapshot), "rows", None),
        ("comments of all tables", lambda _: lake.descriptions(), "rows", None),
        ("write of a month again, columns came elsewhere", rewrite, "columns", None),
        ("exists, columns came elsewhere", lambda turn: lake.exists(names[turn]), "columns", EXISTS_SECONDS),
    ]
    return [
        Figure(name, 1000 * cpu_seconds(lake, act, elsewhere), at_most and 1000 * at_most, "CPU-ms")
        for name, act, elsewhere, at_most in figures
    ]


def main() -> None:
    """Measure, and print every figure beside its target."""
    parser = argparse.ArgumentParser(description="The lake's cost by its number of tables.")
    parser.add_argument("--tables", type=int, default=850)
    asked, console = parser.parse_args(), Console()
    load = os.getloadavg()[0]
    with temporary_lake() as lake:
        figures = measure(lake, asked.tables, console)
    box = f"DuckDB {duckdb.__version__}, {os.cpu_count()} cores, load {load:.1f} at the start"
    table = Table(title=f"{asked.tables} tables, a commit of another process before each; {box}")
    for heading in ("figure", "target", "measured", ""):
        table.add_column(heading, overflow="fold")
    for figure in figures:
        table.add_row(*figure.row())
    console.print(table)


if __name__ == "__main__":
    main()
