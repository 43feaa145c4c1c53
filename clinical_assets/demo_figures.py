"""What a demonstration took: time, processors, memory, and how soon there was something to look at.

Belongs here: the figures, how they are measured and said, and the file that `benchmarks.replay --home` reads. Does not
belong here: what they ought to be.
"""

import json
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import dagster as dg
import psutil

from clinical_assets.resources.home import Home, write_atomically


@dataclass(frozen=True, slots=True)
class DemoFigures:
    """Seconds since the command began; CPU seconds of all its processes; the largest of them, MB.

    None where it cannot be told, since an earlier command had come that far on this home.
    """

    seconds: float
    cpu_seconds: float
    first_report_after_seconds: float | None
    first_scored_month_after_seconds: float | None
    largest_process_mb: float

    @classmethod
    def measure(cls, instance: dg.DagsterInstance, models: list[str]) -> Self:
        """The figures of this process and of all that it has started and waited for, until now."""
        began, now = psutil.Process().create_time(), time.time()
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(
            seconds=now - began,
            cpu_seconds=sum(one.ru_utime + one.ru_stime for one in used),
            first_report_after_seconds=_first(instance, models, "validation_report", began),
            first_scored_month_after_seconds=_first(instance, models, "repair_plan", began),
            largest_process_mb=max(one.ru_maxrss for one in used) / 1024,
        )

    @classmethod
    def read(cls, home: Home) -> Self | None:
        """The figures of the newest demonstration on a home; None where none has come to its end."""
        path = figures_path(home)
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def keep(self, home: Home) -> None:
        """Keep the figures beside what the demonstration made."""
        write_atomically(figures_path(home), json.dumps(asdict(self), indent=2) + "\n")

    def in_words(self) -> str:
        """The figures in two sentences."""
        minutes, seconds = divmod(round(self.seconds), 60)
        first = {
            "the first validation report": self.first_report_after_seconds,
            "the first scored month": self.first_scored_month_after_seconds,
        }
        seen = "; ".join(f"{what} after {after:.0f} s" for what, after in first.items() if after is not None)
        took = f"Took {minutes} min {seconds} s and {self.cpu_seconds:,.0f} CPU seconds of all processes together"
        largest = f"the largest process held {self.largest_process_mb:,.0f} MB"
        return f"{took}; {largest}." + (f" {seen[0].upper()}{seen[1:]}." if seen else "")


def figures_path(home: Home) -> Path:
    """Where a home keeps what its newest demonstration took."""
    return home.root / "demonstration.json"


def _first(instance: dg.DagsterInstance, models: list[str], asset: str, began: float) -> float | None:
    """Seconds from the beginning to the first materialisation of an asset of any model; None where one was before."""
    found = [
        record.timestamp
        for model in models
        for record in instance.fetch_materializations(dg.AssetKey([model, asset]), limit=1, ascending=True).records
    ]
    return min(found) - began if found and min(found) >= began else None
