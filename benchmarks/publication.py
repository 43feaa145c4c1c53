"""What a publication costs: with nothing new, with one month of one model new, and how many bytes it writes.

Belongs here: the figures, on a copy of a home or on a small lake made for it. Does not belong here: any promise; those
are in tests/resources/test_analytics.py and tests/lifecycle/test_publication.py.

    python -m benchmarks.publication --home data
"""

import argparse
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from clinical_assets.lifecycle.publication import publish
from clinical_assets.protocol import protocol_names
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake

MONTHS = [date(2024, month, 1) for month in range(1, 13)]
ROWS, COLUMNS = 4_000, 40


def main() -> None:
    """Publish a home a few times, and print CPU seconds, seconds and megabytes written of each."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--home", type=Path, help="a home; it is copied, and left as it is")
    chosen: Path | None = arguments.parse_args().home
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "home"
        if chosen:
            copy_home(chosen.resolve(), root)
        home = Home(root, root / "raw")
        home.prepare()
        lake = Lake(str(home.lake_catalogue), home.lake_data)
        if not chosen:
            for month in MONTHS:
                fill_month(lake, month)
        model = next(name for name in protocol_names() if any(x.startswith(f"{name}.") for x in lake.tables()))

        def once(what: str, before: Callable[[], object] = lambda: None) -> None:
            before()
            cpu, wall, written = time.process_time(), time.perf_counter(), written_bytes()
            published = publish(lake, home, actor="user:benchmark")
            print(
                f"{what:45} {time.process_time() - cpu:6.2f} CPU-s {time.perf_counter() - wall:6.2f} s "
                f"{(written_bytes() - written) / 1e6:8.1f} MB written, {published.rows:,} rows, new: {published.is_new}"
            )

        once("the whole home, searched and published")
        once("nothing new")
        for number in range(1, 4):
            once(f"one month of {model} new, time {number}", lambda: bring_a_month(lake, model))
            once("nothing new")


def copy_home(source: Path, root: Path) -> None:
    """A home elsewhere; where the lake's catalogue holds the full path of the data, it is the new one's."""
    shutil.copytree(source, root)
    with closing(sqlite3.connect(root / "lake" / "catalogue.sqlite")) as catalogue, catalogue:
        known = "UPDATE ducklake_metadata SET value = replace(value, ?, ?) WHERE key = 'data_path'"
        catalogue.execute(known, [str(source), str(root)])


def fill_month(lake: Lake, month: date) -> None:
    """A month of random rows in two tables of a model."""
    draws = np.random.default_rng(month.month).normal(size=(COLUMNS, ROWS))
    frame = pl.DataFrame({f"value_{place}": column for place, column in enumerate(draws)})
    for table in ("features", "predictions"):
        rows = frame.with_columns(month=pl.lit(month))
        lake.write_month(f"{protocol_names()[0]}.{table}", month, rows, author="benchmark", message="a month")


def bring_a_month(lake: Lake, model: str) -> None:
    """The newest month of every monthly table of a model, written once more."""
    for table in lake.tables():
        if not table.startswith(f"{model}."):
            continue
        rows = lake.read(table)
        if "month" in rows.columns and "data_quality" not in table:
            newest = rows.filter(pl.col("month") == pl.col("month").max())
            lake.write_month(table, newest["month"][0], newest, author="benchmark", message="the month again")


def written_bytes() -> int:
    """What this process has handed to the system to write, so far; 0 where it does not tell."""
    counted = Path("/proc/self/io")
    told = dict(line.split(": ") for line in counted.read_text().splitlines()) if counted.exists() else {}
    return int(told.get("wchar", 0))


if __name__ == "__main__":
    main()
