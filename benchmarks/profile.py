"""How fast and how exact a profile is: `python -m benchmarks.profile [--rows N] [--long-rows N]`.

Belongs here: profile_frame beside `why.log` of pandas and `describe` of Polars on one table, and its peak memory on a
Parquet file that is 20 times longer. Does not belong here: whether a profile finds drift.

The table has 20 columns of floats, 5 of integers and 5 of text. The files of the memory figures have a fifth of them
(4, 1, 1), so that 20 million rows fit on a small disk; each is profiled by a process of its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from clinical_assets.monitoring.profiles import profile_frame, serialise

if TYPE_CHECKING:
    from whylogs.core import DatasetProfileView

REPETITIONS = 3
ROWS, LONG_ROWS, ROWS_WRITTEN_AT_ONCE = 1_000_000, 20_000_000, 250_000
FASTER_THAN_WHYLOGS, OF_DESCRIBE, MEMORY_GROWTH = 15.0, 1.5, 1.2
INTEGERS_BELOW = (9, 100, 1_000, 100_000, 2**40)
TEXTS = (3, 20, 200, 700, 5_000)
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
STANDARD_ERRORS = 3


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value, its goal in words, and whether it is reached (`None` where there is no goal)."""

    name: str
    measured: str
    goal: str = "-"
    reached: bool | None = None

    def row(self) -> tuple[str, str, str, str]:
        """The figure as the table shows it."""
        return self.name, self.measured, self.goal, {None: "", True: "reached", False: "SHORT"}[self.reached]


def draw_table(rows: int, floats: int, integers: int, texts: int, seed: int = 0) -> pl.DataFrame:
    """A table of laboratory values, a twentieth missing, of whole numbers, and of texts of few to many values."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for number in range(floats):
        values = rng.normal(size=rows) if number % 2 else rng.gamma(2.0, size=rows)
        columns[f"float_{number}"] = pl.Series(values).set(pl.Series(rng.random(rows) < 0.05), None)
    for number, below in enumerate(INTEGERS_BELOW[:integers]):
        columns[f"integer_{number}"] = rng.integers(0, below, rows)
    for number, distinct in enumerate(TEXTS[:texts]):
        names = pl.Series([f"value {value}" for value in range(distinct)])
        columns[f"text_{number}"] = names.gather(rng.integers(0, distinct, rows))
    return pl.DataFrame(columns)


def best_of(repetitions: int, work: Callable[[], Any]) -> tuple[float, float]:
    """The least wall and the least CPU seconds of several runs."""
    wall, cpu = [], []
    for _ in range(repetitions):
        wall_started, cpu_started = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - wall_started)
        cpu.append(time.process_time() - cpu_started)
    return min(wall), min(cpu)


def log_with_whylogs(table: pl.DataFrame) -> tuple["DatasetProfileView", float, float]:
    """The profile whylogs makes of the table as pandas, the conversion not counted; wall and CPU seconds."""
    import whylogs

    frame = table.to_pandas()
    wall, cpu = time.perf_counter(), time.process_time()
    logged = whylogs.log(frame).view()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if logged is None:
        raise RuntimeError("whylogs gave no profile of a table with rows")
    return logged, wall, cpu


def measure_speed(table: pl.DataFrame, whylogs_wall: float, whylogs_cpu: float) -> list[Figure]:
    """The times of one table in memory, and their ratios."""
    describe_wall, describe_cpu = best_of(REPETITIONS, table.describe)
    ours_wall, ours_cpu = best_of(REPETITIONS, lambda: profile_frame(table))
    faster, of_describe = whylogs_wall / ours_wall, ours_wall / describe_wall
    cells = table.height * table.width / ours_wall / 1e6
    return [
        Figure("whylogs: why.log(pandas)", f"{whylogs_wall:.2f} s wall, {whylogs_cpu:.2f} s CPU"),
        Figure("Polars: describe", f"{describe_wall:.2f} s wall, {describe_cpu:.2f} s CPU"),
        Figure("profile_frame", f"{ours_wall:.2f} s wall, {ours_cpu:.2f} s CPU"),
        Figure("cells a second", f"{cells:.1f} million"),
        Figure(
            "faster than whylogs",
            f"{faster:.1f} times (CPU: {whylogs_cpu / ours_cpu:.1f})",
            f"at least {FASTER_THAN_WHYLOGS:g} times",
            faster >= FASTER_THAN_WHYLOGS,
        ),
        Figure(
            "time of Polars describe",
            f"{of_describe:.2f} times (CPU: {ours_cpu / describe_cpu:.2f})",
            f"at most {OF_DESCRIBE:g} times",
            of_describe <= OF_DESCRIBE,
        ),
    ]


def measure_equality(table: pl.DataFrame, ours: "DatasetProfileView", theirs: "DatasetProfileView") -> list[Figure]:
    """How far our profile lies from that of whylogs and from the table itself."""
    frames = [view.to_pandas().loc[table.columns] for view in (ours, theirs)]
    exact = [name for name in frames[1].columns if name.split("/")[0] in ("counts", "types", "ints")]
    exact += ["distribution/n", "distribution/min", "distribution/max"]
    mine, stock = (frame[exact].astype(float).to_numpy() for frame in frames)
    unequal = int((~((mine == stock) | (np.isnan(mine) & np.isnan(stock)))).sum())
    moments = ["distribution/mean", "distribution/stddev"]
    mine, stock = (frame[moments].astype(float).to_numpy() for frame in frames)
    with np.errstate(invalid="ignore"):
        relative = float(np.nanmax(np.abs(mine - stock) / np.where(stock == 0, np.nan, np.abs(stock))))
    numeric = [name for name, kind in table.schema.items() if kind.is_numeric()]
    stated = ours.get_columns()[numeric[0]].get_metric("distribution").kll.value.normalized_rank_error(False)  # pyright: ignore
    rank = [
        max(rank_error(table[name], metric(view, name, "distribution")) for name in numeric) for view in (ours, theirs)
    ]
    cardinality = [
        max(cardinality_error(table[name], metric(view, name, "cardinality")) for name in table.columns)
        for view in (ours, theirs)
    ]
    listed = [name for name in table.columns if table.schema[name] == pl.String and table[name].n_unique() <= 768]
    same = sum(frequent_items(ours, name) == frequent_items(theirs, name) for name in listed)
    return [
        Figure(
            "counts, types, minimum, maximum unlike whylogs",
            f"{unequal} of {mine.shape[0] * len(exact)}",
            "0",
            unequal == 0,
        ),
        Figure("mean, stddev: largest relative difference", f"{relative:.1e}", "at most 1e-12", relative <= 1e-12),
        Figure(
            "quantiles: largest rank error",
            f"{rank[0]:.2%} (whylogs: {rank[1]:.2%})",
            f"at most the stated {stated:.2%}",
            rank[0] <= stated,
        ),
        Figure(
            "cardinality: largest error in standard errors",
            f"{cardinality[0]:.2f} (whylogs: {cardinality[1]:.2f})",
            f"at most {STANDARD_ERRORS}",
            cardinality[0] <= STANDARD_ERRORS,
        ),
        Figure(
            "columns of few texts with the same frequent items", f"{same} of {len(listed)}", "all", same == len(listed)
        ),
    ]


def metric(view: "DatasetProfileView", column: str, name: str) -> Any:
    """One of the metrics whylogs keeps of a column."""
    return view.get_columns()[column].get_metric(name)


def rank_error(column: pl.Series, distribution: Any) -> float:
    """The largest share of rows by which a quantile lies at another rank than asked for."""
    values = np.sort(column.drop_nulls().to_numpy())
    found = np.array(distribution.kll.value.get_quantiles(list(QUANTILES)))
    asked = np.array(QUANTILES)
    below = np.searchsorted(values, found, "left") / len(values) - asked
    above = asked - np.searchsorted(values, found, "right") / len(values)
    return float(np.maximum(np.maximum(below, above), 0).max())


def cardinality_error(column: pl.Series, cardinality: Any) -> float:
    """The error of the estimated number of distinct values, in the sketch's own standard errors."""
    truth = column.drop_nulls().n_unique()
    standard_error = (cardinality.upper_1 - cardinality.lower_1) / 2
    return abs(cardinality.estimate - truth) / standard_error


def frequent_items(view: "DatasetProfileView", column: str) -> dict[str, int]:
    """The frequent values of a column with their estimated counts."""
    return {item.value: item.est for item in metric(view, column, "frequent_items").strings}


def write_parquet(path: Path, rows: int) -> None:
    """A Parquet file of 6 columns, written in pieces."""
    from pyarrow.parquet import ParquetWriter

    pieces = [min(ROWS_WRITTEN_AT_ONCE, rows - start) for start in range(0, rows, ROWS_WRITTEN_AT_ONCE)]
    schema = draw_table(1, 4, 1, 1).to_arrow().schema
    with ParquetWriter(path, schema) as writer:
        for seed, piece in enumerate(pieces):
            writer.write_table(draw_table(piece, 4, 1, 1, seed).to_arrow().cast(schema))


def peak_memory() -> float:
    """The most memory this process has held so far, in megabytes (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1000


def profile_parquet(path: Path) -> None:
    """Profile a file in this process, and print the seconds it took and the most memory it needed."""
    profile_frame(pl.DataFrame({"warm": [1]}))
    before, started = peak_memory(), time.perf_counter()
    profile_frame(pl.scan_parquet(path))
    print(time.perf_counter() - started, before, peak_memory())


def measure_memory(rows: int, long_rows: int) -> list[Figure]:
    """Peak memory out of Parquet files of two lengths."""
    figures: list[Figure] = []
    peaks: list[float] = []
    with tempfile.TemporaryDirectory(prefix="clinical-profile-") as folder:
        for length in (rows, long_rows):
            path = Path(folder) / "table.parquet"
            write_parquet(path, length)
            command = [sys.executable, "-m", "benchmarks.profile", "--parquet", str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, before, peak = map(float, done.stdout.split())
            peaks.append(peak)
            figures.append(
                Figure(
                    f"{length / 1e6:g}M x 6 out of Parquet ({path.stat().st_size / 1e6:.0f} MB)",
                    f"{seconds:.2f} s, peak {peak:.0f} MB ({before:.0f} MB before the file)",
                )
            )
    growth = peaks[1] / peaks[0]
    return [
        *figures,
        Figure(
            "growth of peak memory", f"{growth:.2f} times", f"at most {MEMORY_GROWTH:g} times", growth <= MEMORY_GROWTH
        ),
    ]


def main() -> None:
    """Print every figure beside its goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the table, and of the shorter file")
    parser.add_argument("--long-rows", type=int, default=LONG_ROWS, help="rows of the longer file")
    parser.add_argument("--parquet", type=Path, help="profile this file only, and print seconds and megabytes")
    chosen = parser.parse_args()
    if chosen.parquet:
        profile_parquet(chosen.parquet)
        return
    console = Console()
    table = draw_table(chosen.rows, 20, 5, 5)
    ours = profile_frame(table)
    theirs, wall, cpu = log_with_whylogs(table)
    shown = Table(
        "figure", "measured", "goal", "", title=f"a profile of {table.height:,} rows of {table.width} columns"
    )
    for figure in measure_speed(table, wall, cpu):
        shown.add_row(*figure.row())
    for figure in measure_equality(table, ours, theirs):
        shown.add_row(*figure.row())
    for figure in measure_memory(chosen.rows, chosen.long_rows):
        shown.add_row(*figure.row())
    shown.add_row(
        "size of the stored profile",
        f"{len(serialise(ours)) / 1000:.0f} kB (whylogs: {len(serialise(theirs)) / 1000:.0f})",
        "-",
        "",
    )
    console.print(shown)


if __name__ == "__main__":
    main()
