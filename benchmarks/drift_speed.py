"""Seconds and peak memory of profile and drift on two large tables: each tool in a process of its own.

Belongs here: the tables, and the processes in which they are timed. Does not belong here: what a monitor finds.

`python -m benchmarks.drift_speed compare REFERENCE BATCH` and `... watch REFERENCE BATCH` (both lazily, in batches)
print one JSON line each; `benchmarks.drift` calls them.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

FLOATS, INTEGERS, STRINGS = 20, 5, 5
COLUMNS = FLOATS + INTEGERS + STRINGS
ROW_GROUP = 250_000


@dataclass(frozen=True, slots=True)
class Timed:
    """What one process needed, reading of files and imports before the clock left out; `peak_mb` is of all of it."""

    seconds: float
    peak_mb: float


def write_table(path: Path, rows: int, seed: int, columns: int = COLUMNS) -> None:
    """A Parquet file of `rows` rows and the first `columns` of 20 floats, 5 integers, 5 strings, by row groups."""
    import pyarrow.parquet

    random = np.random.default_rng(seed)
    writer = None
    for start in range(0, rows, ROW_GROUP):
        group = _draw(random, min(ROW_GROUP, rows - start), columns).to_arrow()
        writer = writer or pyarrow.parquet.ParquetWriter(path, group.schema, compression="lz4")
        writer.write_table(group)
    if writer is not None:
        writer.close()


def _draw(random: np.random.Generator, rows: int, columns: int) -> pl.DataFrame:
    texts = np.array([f"level {number}" for number in range(20)])
    drawn = {f"float_{number}": random.standard_normal(rows) for number in range(min(FLOATS, columns))}
    drawn |= {f"integer_{number}": random.poisson(20, rows) for number in range(min(INTEGERS, columns - FLOATS))}
    drawn |= {
        f"string_{number}": texts[random.integers(len(texts), size=rows)]
        for number in range(min(STRINGS, columns - FLOATS - INTEGERS))
    }
    return pl.DataFrame(drawn)


def time_ours(task: str, reference: Path, batch: Path) -> Timed:
    """This package's profile and drift of two Parquet files: `compare` in memory, `watch` lazily and in batches."""
    return _run([sys.executable, "-m", "benchmarks.drift_speed", task, str(reference), str(batch)])


def time_peer(python: Path, tool: str, reference: Path, batch: Path) -> Timed:
    """Evidently's drift and summary presets, or NannyML's univariate drift, of the same two files."""
    script = Path(__file__).with_name("drift_peers.py")
    return _run([str(python), str(script), "time", tool, str(reference), str(batch)])


def _run(command: Sequence[str]) -> Timed:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}
    environment.pop("POLARS_MAX_THREADS", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Timed(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Do what the command line names, and print the seconds and the peak memory."""
    from clinical_assets.monitoring import DriftMonitor, profile_frame

    task, *paths = sys.argv[1:]
    # whylogs is imported at the first profile.
    profile_frame(pl.DataFrame({"warm": [1.0, 2.0]}))
    lazy = [pl.scan_parquet(path) for path in paths]
    reference, batch = lazy if task == "watch" else pl.collect_all(lazy)
    started = time.perf_counter()
    profile_frame(reference)
    profile_frame(batch)
    DriftMonitor.fit(reference).check(batch)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


if __name__ == "__main__":
    main()
