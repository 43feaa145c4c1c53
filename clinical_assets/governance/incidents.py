"""Incidents: open problems, each with what is known of its cause.

Belongs here: what an incident is. Does not belong here: what opens one, and where it is stored.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Self

import polars as pl

from clinical_assets.protocol import Repair

INCIDENT_DESCRIPTIONS = {
    "incident_id": "Names the incident; the same cause gives the same name",
    "opened_at": "When it was opened, UTC",
    "model": "The model it is about, or platform",
    "cause": "What opened it: failed_run, fix_data or roll_back",
    "state": "open",
    "run_id": "The Dagster run it is about",
    "job": "The job of that run",
    "step": "The step that failed, or none",
    "error": "What was raised, of other libraries' errors the class alone; or why a repair plan asks people to act",
}


@dataclass(frozen=True, slots=True)
class Incident:
    """An open problem: its cause, the run and step it arose in, and the error."""

    incident_id: str
    opened_at: datetime
    model: str
    cause: str
    state: str
    run_id: str
    job: str
    step: str
    error: str

    @classmethod
    def of_failed_run(cls, model: str, run_id: str, job: str, step: str, error: str) -> Self:
        """The incident of one failed run; its name follows from the run."""
        name = hashlib.sha256(f"failed_run|{run_id}".encode()).hexdigest()[:12]
        return cls(name, datetime.now(UTC), model, "failed_run", "open", run_id, job, step, error)

    @classmethod
    def of_plan(cls, model: str, repair: Repair, columns: str, run_id: str, reason: str) -> Self:
        """The incident of a repair that people must do; its name follows from the model, the repair and the columns."""
        name = hashlib.sha256(f"{model}|{repair.value}|{columns}".encode()).hexdigest()[:12]
        return cls(
            name, datetime.now(UTC), model, repair.value, "open", run_id, f"{model}_month", "repair_plan", reason
        )


def incident_table(incidents: Sequence[Incident]) -> pl.DataFrame:
    """One row an incident."""
    return pl.DataFrame([asdict(incident) for incident in incidents]).with_columns(
        pl.col("opened_at").cast(pl.Datetime("us", "UTC"))
    )
