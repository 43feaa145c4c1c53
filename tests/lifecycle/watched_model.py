"""A model as its sensor sees it: Dagster's records, signatures in a folder, and what is remembered."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from small_platform import MODEL

from clinical_assets.governance.incidents import Incident
from clinical_assets.governance.signatures import Decision, Signature, Statement, store
from clinical_assets.lifecycle.champion_move import Platform
from clinical_assets.lifecycle.incidents import read_incidents
from clinical_assets.lifecycle.model_watch import Asked, Look, Seen, ask_questions, look
from clinical_assets.protocol import ModelProtocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry


@dataclass
class WatchedModel:
    """One model and the sensor that watches it; `cursor` is what Dagster keeps for the sensor between two looks.

    `now` runs on by itself, and by `pass_time`.
    """

    root: Path
    protocol: ModelProtocol
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)
    cursor: str | None = None
    passed: timedelta = timedelta(0)

    @property
    def home(self) -> Home:
        return Home(self.root, self.root)

    @property
    def lake(self) -> Lake:
        return Lake(str(self.home.lake_catalogue), self.home.lake_data)

    @property
    def at(self) -> Platform:
        registry = Registry(self.home.registry_uri, self.home.registry_artefacts)
        return Platform(self.home, self.lake, registry, self.instance)

    @property
    def now(self) -> datetime:
        return datetime.now(UTC) + self.passed

    def pass_time(self, **much: float) -> None:
        self.passed += timedelta(**much)

    def materialised(self, asset: str, month: str | None = None, **metadata: Any) -> None:
        key = dg.AssetKey([MODEL, asset])
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=month, metadata=metadata))

    def reported(self, version: int, *, left: int = 0, may_pass: bool = True, **changes: Any) -> None:
        """A validation report on a candidate."""
        metadata = {
            **{"version": version, "report_sha256": "4" * 64, "silent_months_left": left, "may_pass": may_pass},
            "features_through": "2024-05-01",
        }
        self.materialised("validation_report", **{**metadata, **changes})

    def released(self, version: int) -> None:
        self.materialised("release", version=version)

    def sign(self, role: str, version: int, decision: Decision = "approve", minute: int = 0) -> Path:
        """A signature file; the questions only count them, the release verifies them."""
        signed_at = f"2026-01-01T00:{minute:02}:00+00:00"
        statement = Statement(MODEL, version, "", "", "", decision, "", role, f"dr-{role}", signed_at)
        return store(Signature(statement, ""), self.home.sign_offs)

    def ask(self) -> Asked:
        """Every question once, whether or not anything is new, and without a look at the champion."""
        asked = Asked(self.at, self.protocol, self.now)
        self.cursor = ask_questions(asked, Seen.read(self.cursor)).written()
        if asked.errors:
            raise asked.errors[0]
        return asked

    def look(self) -> Look:
        """One look of the sensor, as Dagster has it look."""
        found = look(self.at, self.protocol, Seen.read(self.cursor), self.now)
        self.cursor = found.seen.written()
        return found

    def asked(self, question: Callable[..., Any], job: str) -> dg.RunRequest | str:
        """The run of a job that is asked for, or what the question answers."""
        found = self.ask()
        of_job = [request for request in found.requests if request.job_name == f"{MODEL}_{job}"]
        return of_job[0] if of_job else found.said[question.__name__]

    def runs(self, request: dg.RunRequest, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
        """A run of a request, as Dagster's daemon makes it."""
        tags = {**request.tags, "dagster/run_key": request.run_key or "", **tags}
        run = dg.DagsterRun(job_name=request.job_name or "", status=dg.DagsterRunStatus.STARTED, tags=tags)
        self.instance.add_run(run)
        if status is dg.DagsterRunStatus.FAILURE:
            self.instance.report_run_failed(run)
        elif status is dg.DagsterRunStatus.CANCELED:
            self.instance.report_run_canceled(run)
        elif status is dg.DagsterRunStatus.SUCCESS:
            event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name, message="ended well")
            self.instance.report_dagster_event(event, run.run_id)
        return run

    def incidents(self) -> list[Incident]:
        return read_incidents(self.lake, self.home)
