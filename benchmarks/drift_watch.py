"""How a stream is shown to each monitor, and what each said, as one table.

Belongs here: the calls of this package's monitor and of whylogs, and the files through which the others see the same
streams. Does not belong here: what the streams are (`drift_streams`), and any figure.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.drift_streams import DEVICE, Stream
from clinical_assets.monitoring import DriftMonitor, DriftReport, profile_frame
from clinical_assets.monitoring.drift import JOINTLY
from clinical_assets.protocol import Monitoring, Verdict

OURS = "clinical-assets"
WHYLOGS = "whylogs, any column"
PEERS = ("Evidently, any column", "Evidently, half of the columns", "NannyML, any column")
TOOLS = (OURS, *PEERS, WHYLOGS)

POLICY = Monitoring(headline="auroc", tolerated_loss=0.02, device=DEVICE)
ALARMS = (Verdict.DATA_FAULT, Verdict.POPULATION_SHIFT)

WATCHED_SCHEMA = pl.Schema(
    {
        "tool": pl.String,
        "look": pl.Int64,
        "alarm": pl.Boolean,
        "flagged": pl.List(pl.String),
        "verdict": pl.String,
        "said": pl.String,
    }
)


@dataclass(frozen=True, slots=True)
class Watched:
    """What one tool said at one look (the first is 0)."""

    tool: str
    look: int
    alarm: bool
    flagged: list[str]
    verdict: str | None = None
    said: str | None = None


def watch_by_us(stream: Stream, columns: Sequence[str], policy: Monitoring, patient: str | None) -> list[DriftReport]:
    """The reports of all looks of a stream, by a monitor fitted on its reference."""
    needed = [*columns, *([patient] if patient else [])]
    monitor = DriftMonitor.fit(stream.reference.select(needed), policy, columns=columns, patient=patient)
    return [monitor.check(batch.select(needed)) for batch in stream.batches]


def as_watched(reports: Sequence[DriftReport]) -> list[Watched]:
    """The reports as rows of the table; an alarm is a data fault or a population shift."""
    return [
        Watched(
            tool=OURS,
            look=look,
            alarm=report.verdict in ALARMS,
            flagged=moved_columns(report),
            verdict=report.verdict.value,
            said=report.reason,
        )
        for look, report in enumerate(reports)
    ]


def moved_columns(report: DriftReport) -> list[str]:
    """The flagged columns of a report, without what is said of all of them together."""
    flagged = report.columns.filter(pl.col("flagged") & (pl.col("column") != JOINTLY))
    return flagged["column"].unique(maintain_order=True).to_list()


def watch_by_whylogs(stream: Stream, columns: Sequence[str]) -> list[Watched]:
    """The drift scores that whylogs has for two profiles, at its thresholds (Kolmogorov-Smirnov, chi-square)."""
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    reference = profile_frame(stream.reference.select(columns))
    watched = []
    for look, batch in enumerate(stream.batches):
        scores = calculate_drift_scores(
            target_view=profile_frame(batch.select(columns)), reference_view=reference, with_thresholds=True
        )
        flagged = [name for name, score in scores.items() if score and score["drift_category"] == "DRIFT"]
        watched.append(Watched(WHYLOGS, look, bool(flagged), flagged))
    return watched


def write_for_peers(stream: Stream, columns: Sequence[str], folder: Path, stem: str) -> None:
    """The stream as files for the monitors of the other environment; looks are cut to the rows of the shortest.

    NannyML compares chunks of equal size.
    """
    rows = min(len(batch) for batch in stream.batches)
    stream.reference.select(columns).write_parquet(folder / f"{stem}.reference.parquet")
    batches = [
        batch.select(columns).head(rows).with_columns(look=pl.lit(look, dtype=pl.Int64))
        for look, batch in enumerate(stream.batches)
    ]
    pl.concat(batches).write_parquet(folder / f"{stem}.batches.parquet")


def run_peers(python: Path, folder: Path, processes: int) -> dict[str, pl.DataFrame]:
    """What the other monitors said of the folder's streams, by stem; they run in processes of one thread each.

    Raises RuntimeError with the end of its error output where one of them fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}
    script = Path(__file__).with_name("drift_peers.py")
    running = [
        subprocess.Popen(
            [python, script, "watch", folder, str(part), str(processes)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in range(processes)
    ]
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the peers' process ended with {process.returncode}: {errors[-2000:]}")
    return {
        path.name.removesuffix(".watched.parquet"): pl.read_parquet(path) for path in folder.glob("*.watched.parquet")
    }


def tabulate(watched: Sequence[Watched]) -> pl.DataFrame:
    """What was said as a table of `WATCHED_SCHEMA`."""
    return pl.DataFrame(list(watched), schema=WATCHED_SCHEMA)
