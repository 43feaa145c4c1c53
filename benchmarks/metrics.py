"""What being scraped costs: `python -m benchmarks.metrics [--models N] [--months M]`.

Belongs here: the time of a scrape on a home that is stamped for it, and how many series it has. Does not belong here:
what the figures say, and anything the package needs.

A home of N copies of a model gets M months of the tables that the page reads, a materialisation for each month of each
of a model's assets, and two runs a month; without arguments first 3 models, then 30, of 24 months each: 1,008 and
10,080 partitions. A scrape is a computation and the page written. Seconds are those on the wall.
"""

import argparse
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.copied_models import copies
from clinical_assets.lifecycle.metrics_page import MetricsPage
from clinical_assets.metrics.exporter import Exporter, page_of
from clinical_assets.protocol import ModelProtocol, month_after
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake

SIZES = ((3, 24, 0.1), (30, 24, 0.2))
SCRAPES = 30
FIRST = date(2024, 1, 1)
ROWS_A_MONTH = 2_000
ASSETS = (
    *("identified_feed", "dataset", "data_quality", "features", "predictions", "scored_history", "profile"),
    *("drift_evidence", "drift_report", "estimated_performance", "performance_report", "repair_plan", "silent_run"),
    "training_set",
)
SUBGROUPS = ("overall", *(f"age_band={number}" for number in range(8)), "sex=female", "sex=male")
METRICS = ("auroc", "sensitivity", "ppv", "observed_expected_ratio", "alerts_per_100", "loss_of_auroc")


@dataclass(frozen=True, slots=True)
class Cost:
    """Median seconds of a scrape: with nothing new, after one commit, and the first of all; and its series."""

    quiet: float
    after_a_commit: float
    first: float
    series: int
    partitions: int


def measure(models: int, months: int) -> Cost:
    """Stamp a home in a temporary folder, and scrape it."""
    with tempfile.TemporaryDirectory(prefix="clinical-metrics-") as folder:
        home = Home(Path(folder), Path(folder) / "raw")
        home.prepare()
        lake = Lake(str(home.lake_catalogue), home.lake_data)
        calendar = _calendar(months)
        protocols = copies(models)
        for protocol in protocols:
            _stamp_tables(lake, protocol, calendar)
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            for protocol in protocols:
                _stamp_records(instance, protocol.model, calendar)
            page = MetricsPage(home, lake, instance, protocols)
            exporter = Exporter(page.read, kept_seconds=0)
            first = _seconds(exporter)
            quiet = statistics.median(_seconds(exporter) for _ in range(SCRAPES))
            commits = [lambda protocol=protocol: _commit_again(lake, protocol, calendar[-1]) for protocol in protocols]
            after = statistics.median(_after(commits[number % models], exporter) for number in range(SCRAPES))
            return Cost(quiet, after, first, len(exporter.samples()), models * months * len(ASSETS))


def _calendar(months: int) -> list[date]:
    calendar = [FIRST]
    while len(calendar) < months:
        calendar.append(month_after(calendar[-1]))
    return calendar


def _seconds(exporter: Exporter) -> float:
    began = time.perf_counter()
    page_of(exporter.samples())
    return time.perf_counter() - began


def _after(commit: Callable[[], None], exporter: Exporter) -> float:
    commit()
    return _seconds(exporter)


def _commit_again(lake: Lake, protocol: ModelProtocol, month: date) -> None:
    rows = _findings([month]).with_columns(alarmed=pl.lit(None, pl.Boolean), status=pl.lit("ripe"))
    table = f"{protocol.model}.performance_report"
    lake.write_month(table, month, rows, author="benchmark", message="again")


def _findings(calendar: Sequence[date]) -> pl.DataFrame:
    """One finding a month, metric and subgroup, as estimates and reports have it."""
    keys = pl.DataFrame({"month": calendar}).join(pl.DataFrame({"metric": METRICS}), how="cross")
    return keys.join(pl.DataFrame({"subgroup": SUBGROUPS}), how="cross").with_columns(
        model_version=pl.lit(1, pl.Int32),
        value=pl.lit(0.7),
        low=pl.lit(0.6),
        high=pl.lit(0.8),
        n=pl.when(pl.col("subgroup") == "overall").then(ROWS_A_MONTH).otherwise(ROWS_A_MONTH // 10).cast(pl.Int64),
        invalid_because=pl.lit(None, pl.String),
        **{
            name: pl.lit(None, pl.Float64)
            for name in (
                *("estimated", "estimate_low", "estimate_high", "estimate_error"),
                *("value_so_far", "low_so_far", "high_so_far", "baseline"),
            )
        },
        estimate_covered=pl.lit(None, pl.Boolean),
        below_baseline=pl.lit(None, pl.Boolean),
    )


def _stamp_tables(lake: Lake, protocol: ModelProtocol, calendar: Sequence[date]) -> None:
    rows = pl.DataFrame({"month": calendar}).join(
        pl.DataFrame({"latency_ms_per_1000": [20.0] * ROWS_A_MONTH}), how="cross"
    )
    words = pl.DataFrame({"month": calendar}).with_columns(verdict=pl.lit("stable"), repair=pl.lit("none"))
    reports = _findings(calendar).with_columns(alarmed=pl.lit(None, pl.Boolean), status=pl.lit("ripe"))
    tables = {
        "features": rows,
        "predictions": rows,
        "estimated_performance": _findings(calendar),
        "performance_report": reports,
        "drift_report": words,
        "repair_plan": words,
    }
    for name, frame in tables.items():
        lake.write_months(f"{protocol.model}.{name}", calendar, frame, author="benchmark", message="stamped")


def _stamp_records(instance: dg.DagsterInstance, model: str, calendar: Sequence[date]) -> None:
    for month in calendar:
        for asset in ASSETS:
            key = dg.AssetKey([model, asset])
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=f"{month:%Y-%m}"))
        for job in ("month", "ripening"):
            run = dg.DagsterRun(f"{model}_{job}", str(uuid.uuid4()), status=dg.DagsterRunStatus.SUCCESS)
            instance.run_storage.add_run(run)


def main() -> None:
    """Print what a scrape costs, beside what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, help="how many copies of a model")
    parser.add_argument("--months", type=int, default=24, help="how many months of each")
    asked = parser.parse_args()
    sizes = SIZES if asked.models is None else ((asked.models, asked.months, SIZES[-1][2]),)
    table = Table(title=f"a scrape of /metrics, {datetime.now(UTC):%Y-%m-%d}: median of {SCRAPES}, ms")
    for heading in ("models", "partitions", "series", "nothing new", "after a commit", "the first", "asked"):
        table.add_column(heading, justify="right")
    for models, months, limit in sizes:
        cost = measure(models, months)
        spent = (f"{1_000 * seconds:.0f}" for seconds in (cost.quiet, cost.after_a_commit, cost.first))
        table.add_row(str(models), f"{cost.partitions:,}", f"{cost.series:,}", *spent, f"{1_000 * limit:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
