"""A home on which the demonstration's replay has run, to the month after which the simulated archive has drifted.

The driver interrupts the demonstration, lets the real daemon release and retrain, kills one retraining, and notes
what held at each moment; the tests say what must have held.
"""

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TypeVar

import dagster as dg
import duckdb
import polars as pl
import pytest
from dagster._core.scheduler.instigation import InstigatorTick, InstigatorType, TickStatus
from network_namespace import Network, without_network
from rich.progress import Progress
from typer.testing import CliRunner, Result

from clinical_assets.archives.simulated_diabetes import SIMULATED_DRIFT
from clinical_assets.cli import app
from clinical_assets.demo import daemon
from clinical_assets.governance.pseudonyms import KEY_BYTES
from clinical_assets.lifecycle.automation import IN_FLIGHT, RETRAINING
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.lifecycle.model_watch import watch_name
from clinical_assets.protocol import ModelProtocol, Repair, month_after, read_protocol
from clinical_assets.replay import Replay
from clinical_assets.resources.home import PROJECT, Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import CHALLENGER, CHAMPION, Registry

T = TypeVar("T")

MODEL = "readmission"
DRIFTED = SIMULATED_DRIFT[0].month
RETRAINED_FOR_DRIFT = dg.RunsFilter(tags={RETRAINING: MODEL, TRIGGER: "repair"})
PATIENCE_SECONDS = 150.0
POLL_SECONDS = 0.1
TICKS_TO_LET_PASS = 3
PASSPHRASE = "a long passphrase"
PLANNED = "a test's plan, not the platform's"


@dataclass(frozen=True)
class Interruption:
    """What a stopped demonstration left: exit code, words, months taken in, and processes that go on working."""

    exit_code: int
    told: str
    months: frozenset[str]
    still_running: list[str]


@dataclass(frozen=True)
class Registered:
    """What the registry said at a moment."""

    champion: int | None
    challenger: int | None
    versions: tuple[int, ...]


@dataclass(frozen=True)
class ReplayedHome:
    """The home, and what was seen on the way."""

    home: Home
    lake: Lake
    registry: Registry
    instance: dg.DagsterInstance
    protocol: ModelProtocol
    archive: Path
    validated: Path
    stopped: Interruption
    keys_made: tuple[Result, ...]
    declined: Result
    first_signature: Result
    unsigned: Registered
    half_signed: Registered
    waits_for: str
    released: Registered
    retrainings_before_drift: int
    published_meanwhile: pl.DataFrame
    planned: str
    killed_run: str
    after_kill: Registered
    training_rows_after_kill: int
    retrained: Registered
    signed_again: Registered
    ticks_after: tuple[str, ...]
    retrainings_after: int
    validation: Result
    network: Network | None = None

    @property
    def champion(self) -> int:
        """The version that is live at the end."""
        return self.registry.champion(MODEL).version

    def analytics(self, query: str) -> pl.DataFrame:
        """What a query of the analysts' file gives, opened read-only."""
        return ask_analytics(self.home, query)


def ask_analytics(home: Home, query: str) -> pl.DataFrame:
    with duckdb.connect(home.analytics, read_only=True) as analyst:
        return analyst.sql(query).pl()


def verdicts_shown_through(home: Home, month: date) -> list[pl.DataFrame]:
    """The months and verdicts that the analysts' file shows, once it shows this month; nothing before."""
    if not home.analytics.exists():
        return []
    shown = ask_analytics(home, "SELECT DISTINCT month, verdict FROM readmission.drift_report ORDER BY month")
    return [shown] if month in shown["month"] else []


def wait_until(happened: Callable[[], T | None], what: str) -> T:
    """The first true thing that `happened` returns; fails the test when that takes too long."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := happened()):
        if time.monotonic() > end:
            pytest.fail(f"not within {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(POLL_SECONDS)
    return found


def clinical(*arguments: str, typed: str | None = None) -> Result:
    """The command `clinical` with what a person types at its questions."""
    return CliRunner().invoke(app, list(arguments), input=typed, catch_exceptions=False)


def processes_on(home: Home) -> list[str]:
    """The command lines of the processes that work with this home's Dagster."""
    mark, found = f"DAGSTER_HOME={home.dagster}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.name != str(os.getpid()) and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended, or is not ours
    return found


def sensor_ticks(instance: dg.DagsterInstance, sensor: str) -> list[InstigatorTick]:
    """The newest ticks of a sensor, newest first."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.instigator_name == sensor:
            return list(instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=100))
    return []


def runs_for_drift(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The retrainings for drift, oldest first."""
    return list(instance.get_runs(RETRAINED_FOR_DRIFT))[::-1]


@contextmanager
def replay(root: Path) -> Iterator[ReplayedHome]:
    """Drive a new home below `root` through the first drift."""
    home = Home(root / "home", root / "raw")
    home.prepare()
    # The key decides which patient is in which split; a fixed one makes every replay the same.
    home.pseudonym_key.write_bytes(bytes(range(KEY_BYTES)))
    home.pseudonym_key.chmod(0o600)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        with pytest.MonkeyPatch.context() as environment, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other packages' own, as in the daemon's processes
            environment.setenv("CLINICAL_HOME", str(home.root))
            environment.setenv("CLINICAL_RAW", str(home.raw))
            environment.setenv("DAGSTER_HOME", str(home.dagster))
            environment.setenv("CLINICAL_SENSOR_SECONDS", "1")
            environment.setenv("CLINICAL_PUBLISH_SECONDS", "10")
            with without_network() as network:
                driven = drive(home, instance, root)
        yield replace(driven, network=network)


def drive(home: Home, instance: dg.DagsterInstance, root: Path) -> ReplayedHome:
    """The demonstration, stopped in the middle of its first training, and then what it would have done."""
    stopped = interrupted_demo(home, instance)
    lake = Lake(str(home.lake_catalogue), home.lake_data)
    registry = Registry(home.registry_uri, home.registry_artefacts)
    with daemon(home, instance) as watching, Progress(disable=True) as progress:
        watching.await_daemon()
        replayed = Replay(home, lake, registry, instance, read_protocol(MODEL), progress)
        return through_the_drift(replayed, stopped, root)


def interrupted_demo(home: Home, instance: dg.DagsterInstance) -> Interruption:
    """Start the demonstration, and stop it as Ctrl-C does: in the middle of the run that trains its first model."""
    command = [sys.executable, "-m", "clinical_assets.cli", "demo", "--data", "simulated", "--model", MODEL]
    training = dg.RunsFilter(job_name=f"{MODEL}_retraining", statuses=[dg.DagsterRunStatus.STARTED])

    def taken_in() -> set[str]:
        return instance.get_materialized_partitions(dg.AssetKey([MODEL, "features"]))

    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True
    ) as demo:
        try:
            wait_until(
                lambda: demo.poll() is not None or bool(instance.get_runs(training)),
                "a demonstration that trains its first model",
            )
            demo.send_signal(signal.SIGINT)
            told, _ = demo.communicate(timeout=PATIENCE_SECONDS)
        finally:
            demo.kill()
    return Interruption(demo.returncode, told, frozenset(taken_in()), processes_on(home))


def through_the_drift(replay: Replay, stopped: Interruption, root: Path) -> ReplayedHome:
    """First model, release by the daemon, months up to the drift, a retraining that is killed, and its repetition."""
    home, instance, lake, protocol = replay.home, replay.instance, replay.lake, replay.protocol
    months = [date(2024, 1, 1)]
    while months[-1] < DRIFTED:
        months.append(month_after(months[-1]))
    replay._job("retraining")

    people = {role: f"{role}_of_the_house" for role in protocol.sign_off.roles}
    keys_made = tuple(
        clinical("keys", "new", name, "--role", role, "--folder", str(root / "keys"), typed=f"{PASSPHRASE}\n" * 2)
        for role, name in people.items()
    )

    def sign(version: int, role: str, *, answer: str = "y") -> Result:
        return clinical(
            *("sign", MODEL, str(version), "--role", role, "--decision", "approve", "--reason", "all limits were read"),
            *("--signer", people[role], "--key", str(root / "keys" / f"{people[role]}.pem")),
            typed=f"{answer}\n{PASSPHRASE}\n",
        )

    one_role, other_role = protocol.sign_off.roles
    declined = sign(1, one_role, answer="n")
    unsigned = registered(replay.registry)
    first_signature = sign(1, one_role)
    waits_for = wait_until(
        lambda: newest_skip_reason(instance, f"waits for approval as {other_role}"), "a tick that waits for a signature"
    )
    half_signed = registered(replay.registry)
    sign(1, other_role)
    wait_until(lambda: release_runs(instance, 1), "a release by the daemon")
    released = registered(replay.registry)

    for month in months[protocol.development_months : -1]:
        replay._month(month)
    plans = instance.fetch_materializations(dg.AssetKey([MODEL, "repair_plan"]), limit=1).records
    wait_until(
        lambda: replay._seen_by_sensor().reports.get("repair_plan", 0) >= plans[0].storage_id,
        "a look at every stable month",
    )
    retrainings_before_drift = len(runs_for_drift(instance))

    replay._job("month", DRIFTED)
    for month in replay._unripe_months(DRIFTED):
        replay._job("ripening", month)
    planned = lake.read(f"{MODEL}.repair_plan", month=DRIFTED)["repair"][0]
    # What shifted brings no harm; the rest of the story needs a plan that asks for a candidate.
    instance.report_runless_asset_event(a_plan_to_retrain(replay.registry.champion(MODEL).version))
    killed = wait_until(lambda: kill_while_training(instance), "a retraining for drift, started by the daemon")
    wait_until(lambda: failed(instance, killed), "the killed run is seen to have failed")
    after_kill = registered(replay.registry)
    training_rows = lake.read(f"{MODEL}.training_set").height
    [published] = wait_until(
        lambda: verdicts_shown_through(home, DRIFTED), "a publication that shows the drifted month"
    )
    wait_until(lambda: retraining_that_succeeded(instance), "a second attempt at the retraining")
    retrained = registered(replay.registry)

    for role in protocol.sign_off.roles:
        sign(2, role)
    wait_until(lambda: release_runs(instance, 2), "a decision on the second version")
    signed_again = registered(replay.registry)
    validated = root / "validated"
    last = sensor_ticks(instance, watch_name(MODEL))[0].tick_id
    # It takes a while, in which the sensor ticks.
    archive = home.archive_path(protocol)
    validation = clinical("validate", MODEL, "--source", str(archive), "--out", str(validated), "--json")
    ticks_after = wait_until(lambda: skip_reasons_since(instance, last), f"{TICKS_TO_LET_PASS} more ticks")
    return ReplayedHome(
        home=home,
        lake=lake,
        registry=replay.registry,
        instance=instance,
        protocol=protocol,
        archive=archive,
        validated=validated,
        stopped=stopped,
        keys_made=keys_made,
        declined=declined,
        first_signature=first_signature,
        unsigned=unsigned,
        half_signed=half_signed,
        waits_for=waits_for,
        released=released,
        retrainings_before_drift=retrainings_before_drift,
        published_meanwhile=published,
        planned=planned,
        killed_run=killed,
        after_kill=after_kill,
        training_rows_after_kill=training_rows,
        retrained=retrained,
        signed_again=signed_again,
        ticks_after=ticks_after,
        retrainings_after=len(runs_for_drift(instance)),
        validation=validation,
    )


def a_plan_to_retrain(version: int) -> dg.AssetMaterialization:
    """A repair plan as the sensor sees it."""
    return dg.AssetMaterialization(
        dg.AssetKey([MODEL, "repair_plan"]),
        partition=f"{DRIFTED:%Y-%m}",
        metadata={
            "repair/repair": Repair.RETRAIN.value,
            "repair/reason": PLANNED,
            "repair/champion_version": version,
            "repair/columns": "",
        },
    )


def registered(registry: Registry) -> Registered:
    champion, challenger = registry.find(MODEL, CHAMPION), registry.find(MODEL, CHALLENGER)
    return Registered(
        champion.version if champion else None,
        challenger.version if challenger else None,
        tuple(version.version for version in registry.versions(MODEL)),
    )


def newest_skip_reason(instance: dg.DagsterInstance, words: str) -> str | None:
    reasons = [tick.skip_reason or "" for tick in sensor_ticks(instance, watch_name(MODEL))[:1]]
    return next((reason for reason in reasons if words in reason), None)


def release_runs(instance: dg.DagsterInstance, number: int) -> list[dg.DagsterRun] | None:
    """The finished release runs, once there are as many as `number`."""
    runs = instance.get_runs(dg.RunsFilter(job_name=f"{MODEL}_release"))
    finished = [run for run in runs if run.is_finished]
    return finished if len(finished) >= number else None


def kill_while_training(instance: dg.DagsterInstance) -> str | None:
    """Kill the process of the retraining for drift if it is training its model just now; returns the run."""
    for run in runs_for_drift(instance):
        started = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
        if run.status in IN_FLIGHT and any(str(entry.step_key).endswith("trained_model") for entry in started):
            words = [entry.message for entry in instance.all_logs(run.run_id) if "(pid: " in entry.message]
            pid = re.search(r"\(pid: (\d+)\)", words[0]) if words else None
            if pid:
                os.kill(int(pid[1]), signal.SIGKILL)
                return run.run_id
    return None


def failed(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status is dg.DagsterRunStatus.FAILURE


def retraining_that_succeeded(instance: dg.DagsterInstance) -> dg.DagsterRun | None:
    runs = runs_for_drift(instance)
    return next((run for run in runs if run.status is dg.DagsterRunStatus.SUCCESS), None)


def skip_reasons_since(instance: dg.DagsterInstance, tick_id: int | str) -> tuple[str, ...] | None:
    """What the model's sensor said in the ticks after one, once enough of them have passed."""
    ticks = [tick for tick in sensor_ticks(instance, watch_name(MODEL)) if int(tick.tick_id) > int(tick_id)]
    reasons = tuple(tick.skip_reason or str(tick.run_ids) for tick in ticks if tick.status is not TickStatus.STARTED)
    return reasons if len(reasons) >= TICKS_TO_LET_PASS else None
