"""The replay of one model: its months arrive one by one, while the real Dagster daemon retrains and releases.

Belongs here: what a month of the demonstration is made of, the demonstration signers, and the process that runs a
replay. Does not belong here: which archives are used, and what is shown of the result (demo.py).
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any, Protocol

import dagster as dg
import polars as pl
from dagster._core.scheduler.instigation import InstigatorType
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG as RANGE_END
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_START_TAG as RANGE_START

from clinical_assets.archives.calendar import FIRST_MONTH, REPLAY_MONTHS
from clinical_assets.governance.audit_trail import AuditTrail, person_at_terminal
from clinical_assets.governance.outbound import guard_outbound
from clinical_assets.governance.signatures import Statement, create_key, last_words, now, read_signatures, sign, store
from clinical_assets.governance.signers import Signer, add_signer, read_signers
from clinical_assets.lifecycle.automation import (
    IN_FLIGHT,
    RETRAINING,
    WaitingCandidate,
    champion_version,
    newest_month,
    recorded,
    waiting_candidate,
)
from clinical_assets.lifecycle.launch import DEMONSTRATION, TRIGGER
from clinical_assets.lifecycle.model_watch import Seen, watch_name
from clinical_assets.protocol import Judgement, ModelProtocol, ModelVersion, Repair, month_after, read_protocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry

DAEMON_WITHIN_SECONDS = 180.0
RUN_WITHIN_SECONDS = 1800.0
POLL_SECONDS = 0.3
FAILED = "failed"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class DemoError(RuntimeError):
    """The demonstration cannot go on; the message says what to look at."""


class Progress(Protocol):
    """What a replay tells of its progress; rich's progress display is one."""

    def add_task(self, description: str, *, total: float) -> Any:
        """A task begins."""
        ...

    def update(self, task_id: Any, *, description: str) -> None:
        """What is being done now."""
        ...

    def advance(self, task_id: Any) -> None:
        """One more step is done."""
        ...


@dataclass(frozen=True)
class Replay:
    """One model's two years: months arrive one by one; the daemon alone retrains and releases."""

    home: Home
    lake: Lake
    registry: Registry
    instance: dg.DagsterInstance
    protocol: ModelProtocol
    progress: Progress

    def run(self) -> None:
        """Everything that has not happened yet on this home."""
        model, develop, silent = self.protocol.model, self.protocol.development_months, self.protocol.silent_months
        months = [FIRST_MONTH]
        while len(months) < REPLAY_MONTHS:
            months.append(month_after(months[-1]))
        task = self.progress.add_task(model, total=REPLAY_MONTHS - develop + 3)

        def step(words: str, act: Callable[[], None] | None) -> None:
            self.progress.update(task, description=f"{model}: {words}")
            if act:
                act()
            self.progress.advance(task)

        taken_in = self._partitions("features")
        to_come = [month for month in months[:develop] if month not in taken_in]
        first, last = months[0], months[develop - 1]
        words = f"{first:%Y-%m} to {last:%Y-%m} arrive"
        step(words, (lambda: self._job("intake", to_come[0], to_come[-1])) if to_come else None)
        released = champion_version(self.instance, model) is not None
        trained = self.instance.get_latest_materialization_event(dg.AssetKey([model, "validation_report"])) is not None
        step("a first model is trained and validated", None if trained else lambda: self._job("retraining"))
        for month in months[develop : develop + silent]:
            step(
                f"{month:%Y-%m} arrives; scored, shown to nobody",
                None if released else lambda m=month: self._silence(m),
            )
        step("it is signed, and the daemon releases it", None if released else self._sign_and_wait)
        if not released and champion_version(self.instance, model) is None:
            raise DemoError(
                f"the first candidate of {model} does not meet its limits and was refused; see "
                f"{self.home.reports / model}"
            )
        reported = self._partitions("repair_plan")
        for month in months[develop + silent :]:
            step(
                f"{month:%Y-%m} is scored, profiled, compared",
                None if month in reported else lambda m=month: self._month(m),
            )

    def _silence(self, month: date) -> None:
        """A month that the first candidate scores in silence, before anybody may sign it."""
        if month not in self._partitions("features"):
            self._job("intake", month)
        self._await_silent_run()

    def _await_silent_run(self) -> None:
        """Wait until the daemon has had the waiting candidate score the newest month, where it runs in silence."""
        newest = newest_month(self.instance, self.protocol.model, "features")
        model = self.protocol.model

        def seen() -> bool:
            candidate = waiting_candidate(self.instance, model)
            runs = isinstance(candidate, WaitingCandidate) and candidate.silent_months_left > 0
            return not (runs and isinstance(candidate, WaitingCandidate) and candidate.features_through < newest)

        if not seen():
            self._wait(seen, RUN_WITHIN_SECONDS, f"the silent run of {model} on {newest:%Y-%m} did not end")

    def _month(self, month: date) -> None:
        self._job("month", month)
        for unripe in self._unripe_months(month):
            self._job("ripening", unripe)
        self._await_repair(month)

    def _job(self, name: str, month: date | None = None, last: date | None = None) -> None:
        """One of the model's jobs in this process: of no month, of one, or of all from one to the last."""
        self._run(f"{self.protocol.model}_{name}", month, last)

    def _run(self, name: str, month: date | None = None, last: date | None = None) -> None:
        job = _definitions().resolve_job_def(name)
        together = {RANGE_START: f"{month:%Y-%m}", RANGE_END: f"{last:%Y-%m}"} if month and last else {}
        try:
            result = job.execute_in_process(
                instance=self.instance,
                partition_key=f"{month:%Y-%m}" if month and not last else None,
                run_config=QUIET,
                raise_on_error=True,
                tags={TRIGGER: DEMONSTRATION, **together},
            )
        except (dg.DagsterExecutionInterruptedError, RuntimeError) as error:
            # Dagster has its own interruption, and DuckDB makes a RuntimeError of it in the middle of a query.
            if any(isinstance(x, dg.DagsterExecutionInterruptedError) for x in (error, error.__cause__)):
                raise KeyboardInterrupt from error
            raise
        if failed := [x for x in result.get_asset_check_evaluations() if not x.passed and x.blocking]:
            raise DemoError(f"{failed[0].asset_key.to_user_string()}: the check {failed[0].check_name} failed")

    def _unripe_months(self, newest: date) -> list[date]:
        table = f"{self.protocol.model}.performance_report"
        if not self.lake.exists(table):
            return []
        reports = self.lake.read(table, columns=["month", "status"])
        unripe = reports.filter((pl.col("status") != "ripe") & (pl.col("month") < newest))
        return unripe["month"].unique().sort().to_list()

    def _await_repair(self, month: date) -> None:
        """Wait until the daemon's sensors have seen the month, and what they started has come to its end."""
        self._await_silent_run()
        self._sign_and_wait()
        model = self.protocol.model
        key = dg.AssetKey([model, "repair_plan"])
        plan = self.instance.fetch_materializations(key, limit=1).records[0]
        idle = Repair(recorded(plan.event_log_entry, "repair/repair")) is Repair.NONE
        if idle and not self._seen_by_sensor().pending:
            return
        self._wait(
            lambda: self._seen_by_sensor().reports.get("repair_plan", 0) >= plan.storage_id,
            DAEMON_WITHIN_SECONDS,
            f"the daemon's sensor {watch_name(model)} did not look at {month:%Y-%m}",
        )
        self._wait(
            lambda: not self.instance.get_runs(dg.RunsFilter(tags={RETRAINING: model}, statuses=IN_FLIGHT), limit=1),
            RUN_WITHIN_SECONDS,
            f"the repair of {model} for {month:%Y-%m} did not end",
        )
        self._sign_and_wait()

    def _sign_and_wait(self) -> None:
        """Both demonstration signers decide on the newest candidate, once; if they approve, the daemon releases it."""
        waiting = waiting_candidate(self.instance, self.protocol.model)
        if isinstance(waiting, dg.SkipReason) or (waiting.silent_months_left and waiting.may_pass):
            return  # nothing waits: it is live, or was rolled back and waits for people; or it runs in silence
        candidate = self.registry.challenger(self.protocol.model)
        if not read_signatures(self.home.sign_offs, candidate.model, candidate.version):
            sign_as_demonstration(self.home, self.lake, self.protocol, candidate)
        signatures = read_signatures(self.home.sign_offs, candidate.model, candidate.version)
        if all(word.decision == "approve" for word in last_words(signatures)):
            self._wait(
                lambda: champion_version(self.instance, candidate.model) == candidate.version,
                DAEMON_WITHIN_SECONDS,
                f"the daemon did not release {candidate.model} version {candidate.version}",
            )

    def _seen_by_sensor(self) -> Seen:
        """What the model's sensor has looked at, as it remembers itself."""
        name = watch_name(self.protocol.model)
        for state in self.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            if state.instigator_name == name:
                return Seen.read(getattr(state.instigator_data, "cursor", None))
        return Seen()

    def _partitions(self, asset: str) -> set[date]:
        found = self.instance.get_materialized_partitions(dg.AssetKey([self.protocol.model, asset]))
        return {date.fromisoformat(f"{key}-01") for key in found}

    def _wait(self, happened: Callable[[], bool], seconds: float, otherwise: str) -> None:
        end = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > end:
                raise DemoError(f"{otherwise} within {seconds:.0f} s; see {self.home.dagster / 'daemon.log'}")
            time.sleep(POLL_SECONDS)


@cache
def _definitions() -> dg.Definitions:
    """All definitions, made once: a replay runs some hundred jobs."""
    from clinical_assets.definitions import defs

    return defs()


def demonstration_signer(home: Home, role: str) -> Signer:
    """The demonstration signer of a role, who is made with a key of this home where there is none yet."""
    name = f"demo-{role}"
    if name not in (known := read_signers([home.signers])):
        add_signer(home.signers, Signer(name, (role,), create_key(home.keys / f"{name}.pem", None), demo=True))
        return read_signers([home.signers])[name]
    return known[name]


def sign_as_demonstration(home: Home, lake: Lake, protocol: ModelProtocol, version: ModelVersion) -> None:
    """Let a demonstration signer of each role decide as the report does."""
    report = lake.read(f"{protocol.model}.validation_report", where={"version": version.version})
    unmet = report.filter(pl.col("judgement").is_in([Judgement.FAIL, Judgement.CANNOT_TELL]))
    reason = f"demonstration: {report.height - unmet.height} of {report.height} limits are met"
    for role in protocol.sign_off.roles:
        name = demonstration_signer(home, role).name
        statement = Statement(
            model=version.model,
            version=version.version,
            artefact_sha256=version.artefact_sha256,
            report_sha256=report["report_sha256"][0],
            protocol_sha256=version.protocol_sha256,
            decision="approve" if unmet.is_empty() else "reject",
            reason=reason,
            role=role,
            signer=name,
            signed_at=now(),
        )
        store(sign(statement, home.keys / f"{name}.pem", None), home.sign_offs)


@dataclass(frozen=True)
class WrittenProgress:
    """Progress as lines of JSON on standard output, for the process that started this one."""

    def add_task(self, description: str, *, total: float) -> None:
        """Tell how many steps there are."""
        self._tell(total=total)

    def update(self, task_id: Any, *, description: str) -> None:
        """Tell what is being done now."""
        self._tell(description=description)

    def advance(self, task_id: Any) -> None:
        """Tell that one more step is done."""
        self._tell(advance=1)

    def _tell(self, **what: str | float) -> None:
        print(json.dumps(what), flush=True)


def main(model: str) -> int:
    """Replay one model on the home of the environment; a DemoError is told to the process that started this one."""
    home = Home.from_environment()
    guard_outbound(AuditTrail(home.audit), person_at_terminal())
    lake = Lake(str(home.lake_catalogue), home.lake_data)
    registry = Registry(home.registry_uri, home.registry_artefacts)
    try:
        with dg.DagsterInstance.get() as instance:
            Replay(home, lake, registry, instance, read_protocol(model), WrittenProgress()).run()
    except DemoError as error:
        print(json.dumps({FAILED: str(error)}), flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
