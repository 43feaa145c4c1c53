"""The demonstration: two years of months, one after another, while the real Dagster daemon watches and repairs.

Belongs here: the replay, and the demonstration signers, who are marked as such wherever they sign.
Does not belong here: anything that a hospital's own months would need; those flow through the lifecycle alone.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import dagster as dg
import polars as pl
from dagster._core.scheduler.instigation import InstigatorType
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from clinical_assets.archives.archive import Archive, ArchiveError, PublishedArchive
from clinical_assets.archives.calendar import CALENDAR_NOTE, FIRST_MONTH, REPLAY_MONTHS
from clinical_assets.archives.download import download_bar, fetch
from clinical_assets.governance.signatures import (
    Signer,
    Statement,
    add_signer,
    create_key,
    last_words,
    now,
    read_signatures,
    read_signers,
    sign,
    store,
)
from clinical_assets.lifecycle.automation import IN_FLIGHT, MONTH, RETRAINING, TRIGGER, champion_version, recorded
from clinical_assets.monitoring.repair import RETRAINING_VERDICTS
from clinical_assets.protocol import (
    Judgement,
    ModelProtocol,
    ModelVersion,
    Verdict,
    load_object,
    month_after,
    protocol_names,
    read_protocol,
)
from clinical_assets.resources.home import PROJECT, Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry

DataChoice = Literal["auto", "real", "simulated"]
SEED = 20260101
ANSWER_WITHIN_SECONDS = 5.0
DAEMON_WITHIN_SECONDS = 90.0
RUN_WITHIN_SECONDS = 900.0
POLL_SECONDS = 0.3
HEARTBEAT_SECONDS = 60.0
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class DemoError(RuntimeError):
    """The demonstration cannot go on; the message says what to look at."""


def choose_source(home: Home, protocol: ModelProtocol, data: DataChoice, console: Console) -> Archive:
    """The archive this demonstration runs on: the one chosen before, one found, one downloaded, or a simulated one.

    Raises ArchiveError where real data are asked for and cannot be had, or the home holds data of another source.
    """
    published: PublishedArchive = load_object(protocol.archive)
    if data == "auto" and (chosen := home.chosen_archive(protocol.model)):
        return published.open(chosen)
    path = None if data == "simulated" else published.find(home.raw)
    if path is None and data != "simulated":
        console.print(f"{published.title}: not in {home.raw}; asking {published.publisher} ({published.licence}) ...")
        try:
            with download_bar(console) as progress:
                path = fetch(published, home.raw, progress, ANSWER_WITHIN_SECONDS)
        except ArchiveError as error:
            if data == "real":
                raise
            console.print(f"{error}\nGoing on with the built-in simulated cohort.")
    archive = published.open(path or published.simulate(home.root / "simulated", SEED))
    home.choose_archive(protocol.model, archive.path)
    return archive


def run_demo(home: Home, data: DataChoice, console: Console) -> None:
    """Replay every model's two years on this home; stopped and started again, it goes on where it was."""
    protocols = [read_protocol(model) for model in protocol_names()]
    for protocol in protocols:
        archive = choose_source(home, protocol, data, console)
        console.print(f"{protocol.title}: {archive.data_origin}, from {archive.path}", soft_wrap=True)
    console.print(f"{CALENDAR_NOTE} The signers are demonstrations.", soft_wrap=True)
    home.prepare()
    registry = Registry(home.registry_uri, home.registry_artefacts)
    registry.prepare()
    lake = Lake(str(home.lake_catalogue), home.lake_data)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with (
        dg.DagsterInstance.get() as instance,
        daemon(home, instance) as watching,
        Progress(*columns, console=console) as progress,
    ):
        for protocol in protocols:
            Replay(home, lake, registry, instance, protocol, progress, watching).run()
        for protocol in protocols:
            console.print(months_table(lake, instance, protocol))
    console.print(where_to_look(home, registry, protocols), soft_wrap=True, highlight=False)


def end_abandoned_runs(instance: dg.DagsterInstance, home: Home) -> None:
    """Mark the runs of a demonstration that was killed as failed; raises DemoError where another daemon is at work."""
    beats = [status.last_heartbeat for status in instance.get_daemon_statuses().values()]
    if any(beat and time.time() - beat.timestamp < HEARTBEAT_SECONDS for beat in beats):
        raise DemoError(f"a Dagster daemon is at work on {home.root} (`make dev`?); stop it first, and wait a minute")
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT)):
        instance.report_run_failed(run, "The process of this run ended before the run did.")


@contextmanager
def daemon(home: Home, instance: dg.DagsterInstance) -> Iterator[subprocess.Popen[bytes]]:
    """The real Dagster daemon, working on this home until the block ends."""
    end_abandoned_runs(instance, home)
    log = home.dagster / "daemon.log"
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(PROJECT / "workspace.yaml")]
    with log.open("ab") as output:
        # A script's background jobs ignore SIGINT, and so would the daemon, which maps SIGTERM to its handler.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "DAGSTER_HOME": str(home.dagster)},
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        instance.wipe_daemon_heartbeats()


@dataclass(frozen=True)
class Replay:
    """One model's two years: months arrive one by one; the daemon alone retrains and releases."""

    home: Home
    lake: Lake
    registry: Registry
    instance: dg.DagsterInstance
    protocol: ModelProtocol
    progress: Progress
    daemon: subprocess.Popen[bytes]

    def run(self) -> None:
        """Everything that has not happened yet on this home."""
        model, develop = self.protocol.model, self.protocol.development_months
        months = [FIRST_MONTH]
        while len(months) < REPLAY_MONTHS:
            months.append(month_after(months[-1]))
        task = self.progress.add_task(model, total=REPLAY_MONTHS + 2)

        def step(words: str, act: Callable[[], None] | None) -> None:
            self.progress.update(task, description=f"{model}: {words}")
            if act:
                act()
            self.progress.advance(task)

        taken_in = self._partitions("features")
        for month in months[:develop]:
            step(f"{month:%Y-%m} arrives", None if month in taken_in else lambda m=month: self._job("intake", m))
        released = champion_version(self.instance, model) is not None
        trained = self.instance.get_latest_materialization_event(dg.AssetKey([model, "validation_report"])) is not None
        step("a first model is trained and validated", None if trained else lambda: self._job("retraining"))
        step("it is signed, and the daemon releases it", None if released else self._sign_and_wait)
        if not released and champion_version(self.instance, model) is None:
            raise DemoError(f"the first candidate of {model} was not released; see {self.home.reports / model}")
        reported = self._partitions("drift_report")
        for month in months[develop:]:
            step(
                f"{month:%Y-%m} is scored, profiled, compared",
                None if month in reported else lambda m=month: self._month(m),
            )
        self._job("publication")

    def _month(self, month: date) -> None:
        # A look at what has ripened publishes too; then the month itself need not.
        self._job("month", month, without="analytics" if self._unripe_months(month) else None)
        self._look_again_at_unripe_months(month)
        self._await_repair(month)

    def _job(self, name: str, month: date | None = None, without: str | None = None) -> None:
        from clinical_assets.definitions import defs

        job = defs().resolve_job_def(f"{self.protocol.model}_{name}")
        assets = [key for key in job.asset_layer.executable_asset_keys if key.path[-1] != without]
        try:
            result = job.execute_in_process(
                instance=self.instance,
                partition_key=f"{month:%Y-%m}" if month else None,
                asset_selection=assets if without else None,
                run_config=QUIET,
                raise_on_error=True,
                tags={TRIGGER: "demo"},
            )
        except (dg.DagsterExecutionInterruptedError, RuntimeError) as error:
            # Dagster has its own interruption, and DuckDB makes a RuntimeError of it in the middle of a query.
            if any(isinstance(x, dg.DagsterExecutionInterruptedError) for x in (error, error.__cause__)):
                raise KeyboardInterrupt from error
            raise
        if failed := [x for x in result.get_asset_check_evaluations() if not x.passed and x.blocking]:
            raise DemoError(f"{failed[0].asset_key.to_user_string()}: the check {failed[0].check_name} failed")

    def _look_again_at_unripe_months(self, newest: date) -> None:
        for month in self._unripe_months(newest):
            self._job("ripening", month)

    def _unripe_months(self, newest: date) -> list[date]:
        table = f"{self.protocol.model}.performance_report"
        if not self.lake.exists(table):
            return []
        reports = self.lake.read(table, columns=["month", "status"])
        unripe = reports.filter((pl.col("status") != "ripe") & (pl.col("month") < newest))
        return unripe["month"].unique().sort().to_list()

    def _await_repair(self, month: date) -> None:
        """Wait until the daemon's sensor has seen the month, and any retraining it started has come to its end."""
        model = self.protocol.model
        key = dg.AssetKey([model, "drift_report"])
        report = self.instance.fetch_materializations(key, limit=1).records[0]
        shifted = Verdict(recorded(report.event_log_entry, "drift/verdict")) in RETRAINING_VERDICTS
        if not shifted and not self._sensor_cursor().get("pending"):
            return
        self._wait(
            lambda: self._sensor_cursor().get("storage_id", 0) >= report.storage_id,
            DAEMON_WITHIN_SECONDS,
            f"the daemon's sensor {model}_retraining_when_drifted did not look at {month:%Y-%m}",
        )
        self._wait(
            lambda: not self.instance.get_runs(dg.RunsFilter(tags={RETRAINING: model}, statuses=IN_FLIGHT), limit=1),
            RUN_WITHIN_SECONDS,
            f"the retraining of {model} for {month:%Y-%m} did not end",
        )
        self._sign_and_wait()

    def _sign_and_wait(self) -> None:
        """Both demonstration signers decide on the newest candidate, once; if they approve, the daemon releases it."""
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

    def _sensor_cursor(self) -> Mapping[str, Any]:
        name = f"{self.protocol.model}_retraining_when_drifted"
        for state in self.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            cursor = getattr(state.instigator_data, "cursor", None)
            if state.instigator_name == name and cursor:
                return json.loads(cursor)
        return {}

    def _partitions(self, asset: str) -> set[date]:
        found = self.instance.get_materialized_partitions(dg.AssetKey([self.protocol.model, asset]))
        return {date.fromisoformat(f"{key}-01") for key in found}

    def _wait(self, happened: Callable[[], bool], seconds: float, otherwise: str) -> None:
        end = time.monotonic() + seconds
        while not happened():
            if self.daemon.poll() is not None:
                raise DemoError(f"the daemon has stopped; see {self.home.dagster / 'daemon.log'}")
            if time.monotonic() > end:
                raise DemoError(f"{otherwise} within {seconds:.0f} s; see {self.home.dagster / 'daemon.log'}")
            time.sleep(POLL_SECONDS)


def sign_as_demonstration(home: Home, lake: Lake, protocol: ModelProtocol, version: ModelVersion) -> None:
    """Let a demonstration signer of each role decide as the report does."""
    report = lake.read(f"{protocol.model}.validation_report", where={"version": version.version})
    unmet = report.filter(pl.col("judgement").is_in([Judgement.FAIL, Judgement.CANNOT_TELL]))
    reason = f"demonstration: {report.height - unmet.height} of {report.height} limits are met"
    for role in protocol.sign_off.roles:
        name = f"demo-{role}"
        key = home.keys / f"{name}.pem"
        if name not in read_signers([home.signers]):
            add_signer(home.signers, Signer(name, (role,), create_key(key, None), demo=True))
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
        store(sign(statement, key, None), home.sign_offs)


def months_table(lake: Lake, instance: dg.DagsterInstance, protocol: ModelProtocol) -> Table:
    """Month by month, what was seen of one model and what was done about it."""
    model = protocol.model
    drift = lake.read(f"{model}.drift_report").sort("evidence", "value", descending=True, nulls_last=True)
    performance = lake.read(f"{model}.performance_report", where={"subgroup": "overall"})
    figures = {(row["month"], row["metric"]): row["value"] for row in performance.iter_rows(named=True)}
    status = dict(performance.select("month", "status").unique().iter_rows())
    done = repairs(instance, model)
    table = Table(title=f"{protocol.title} on {drift['data_origin'][0]}: what was seen, and what was done", box=SIMPLE)
    for heading in ("month", "live", "verdict", "moved", "most of all", "AUROC", "O:E", "done by the daemon"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("month", "verdict", "moved"))
    for (month,), rows in sorted(drift.group_by("month", maintain_order=True), key=lambda item: item[0]):
        flagged = rows.filter("flagged")
        auroc, ratio = (figures.get((month, metric)) for metric in ("auroc", "observed_expected_ratio"))
        ripe, unripe = status.get(month) == "ripe", status.get(month, "not_ripe").replace("_", " ")
        table.add_row(
            f"{month:%Y-%m}",
            f"v{rows['champion_version'][0]}",
            rows["verdict"][0],
            f"{flagged['column'].n_unique()} of {rows['column'].n_unique()}",
            movement_in_words(flagged.row(0, named=True)) if flagged.height else "-",
            f"{auroc:.3f}" if ripe and auroc is not None else unripe,
            f"{ratio:.2f}" if ripe and ratio is not None else unripe,
            done.get(month, ""),
        )
    return table


def movement_in_words(row: Mapping[str, Any]) -> str:
    """The movement of one column, short."""
    if row["statistic"] == "missing_rate_change":
        return f"{row['column']} missing {row['reference_missing_rate']:.0%} -> {row['batch_missing_rate']:.0%}"
    return f"{row['column']} {row['statistic'].replace('_', ' ')} {row['value']:.2f}"


def repairs(instance: dg.DagsterInstance, model: str) -> dict[date, str]:
    """What each retraining for drift came to, by the month that called for it."""
    trained = instance.fetch_materializations(dg.AssetKey([model, "trained_model"]), limit=1000).records
    versions = {record.run_id: int(recorded(record.event_log_entry, "version")) for record in trained}
    releases = instance.fetch_materializations(dg.AssetKey([model, "release"]), limit=1000).records
    released = {int(recorded(record.event_log_entry, "version")) for record in releases}
    words: dict[date, str] = {}
    for run in instance.get_runs(dg.RunsFilter(tags={RETRAINING: model, TRIGGER: "drift"})):
        version = versions.get(run.run_id)
        outcome = "released" if version in released else "refused"
        told = f"retrained: v{version} {outcome}" if version else f"retraining {run.status.value.lower()}"
        words[date.fromisoformat(run.tags[MONTH])] = told
    return words


def where_to_look(home: Home, registry: Registry, protocols: list[ModelProtocol]) -> str:
    """Where the results lie, with three queries to paste."""
    model = protocols[0].model
    version = registry.champion(model)
    return f"""
Where to look
  the chain, in Dagster's UI   make dev, then http://127.0.0.1:3000
  the validation report        {home.report(model, version.version)}
  the analysts' DuckDB file    {home.analytics}

Three queries to paste there
  from {model}.drift_report select month, verdict, "column", value, critical where flagged order by month, value desc;
  from {model}.performance_report select month, value, low, high where metric = 'auroc' and subgroup = 'overall';
  from governance.validation_report select version, metric, subgroup, value, judgement order by version, metric;
"""
