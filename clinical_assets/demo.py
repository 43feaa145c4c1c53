"""The demonstration: two years of every model, side by side, while the real Dagster daemon watches and repairs.

Belongs here: which archives are used, the processes, and what is shown of the result. Does not belong here: what a
month is made of (replay.py), and anything that a hospital's own months would need: those flow through the lifecycle.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any, Literal, cast

import dagster as dg
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from clinical_assets.archives.archive import Archive, ArchiveError, PublishedArchive
from clinical_assets.archives.calendar import CALENDAR_NOTE
from clinical_assets.archives.download import download_bar, fetch
from clinical_assets.demo_daemon import Watch, background, daemon
from clinical_assets.demo_drill import hold_drill
from clinical_assets.demo_figures import DemoFigures
from clinical_assets.demo_summary import found_table, months_table
from clinical_assets.governance.outbound import allow_hosts
from clinical_assets.governance.reidentification import PRIVACY_OFFICER
from clinical_assets.lifecycle.champion_move import Platform
from clinical_assets.lifecycle.launch import DEMONSTRATION
from clinical_assets.lifecycle.publication import publish
from clinical_assets.protocol import ModelProtocol, load_object, read_protocol
from clinical_assets.replay import FAILED, POLL_SECONDS, DemoError, demonstration_signer
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry

DataChoice = Literal["auto", "real", "simulated"]
SEED = 20260101
ANSWER_WITHIN_SECONDS = 5.0


def choose_source(home: Home, protocol: ModelProtocol, data: DataChoice, console: Console) -> Archive:
    """The archive this demonstration runs on: the one chosen before, one found, one downloaded, or a simulated one.

    Raises ArchiveError where real data are asked for and cannot be had, or the home holds data of another source.
    """
    if protocol.archive is None or (data == "auto" and home.chosen_archive(protocol.model)):
        return home.open_archive(protocol)
    published: PublishedArchive = load_object(protocol.archive)
    path = None if data == "simulated" else published.find(home.raw)
    if path is None and data != "simulated":
        console.print(f"{published.title}: not in {home.raw}; asking {published.publisher} ({published.licence}) ...")
        try:
            with allow_hosts(published.hosts), download_bar(console) as progress:
                path = fetch(published, home.raw, progress, ANSWER_WITHIN_SECONDS)
        except ArchiveError as error:
            if data == "real":
                raise
            console.print(f"{error}\nGoing on with the built-in simulated cohort.")
    archive = published.open(path or published.simulate(home.root / "simulated", SEED))
    simulated = archive.data_origin == "simulated"
    home.choose_archive(protocol.model, archive.path, 1.0 if simulated else protocol.replay.share_of_patients)
    return home.open_archive(protocol)


def run_demo(home: Home, data: DataChoice, console: Console, models: Sequence[str]) -> None:
    """Replay these models' two years on this home; stopped and started again, it goes on where it was."""
    # Whatever asks this process to end, Ctrl-C or a service manager, its daemon and its replays end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    protocols = [read_protocol(model) for model in models]
    for protocol in protocols:
        archive = choose_source(home, protocol, data, console)
        path = f", from {archive.path}" if protocol.archive else ""
        part = "" if archive.share_of_patients == 1.0 else f", {archive.share_of_patients:.0%} of its patients"
        console.print(f"{protocol.title}: {archive.data_origin}{path}{part}", soft_wrap=True)
    console.print(f"{CALENDAR_NOTE} The signers are demonstrations.", soft_wrap=True)
    home.prepare()
    registry = Registry(home.registry_uri, home.registry_artefacts)
    registry.prepare()
    demonstration_signer(home, PRIVACY_OFFICER)  # without one, nobody could ever say who is behind a pseudonym
    lake = Lake(str(home.lake_catalogue), home.lake_data)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    with dg.DagsterInstance.get() as instance, daemon(home, instance) as watching:
        failures = replay_side_by_side(home, protocols, watching, console)
        watched = [protocol for protocol in protocols if lake.exists(f"{protocol.model}.drift_report")]
        for protocol in watched:
            console.print(months_table(lake, instance, protocol))
            if found := found_table(lake, protocol):
                console.print(found)
        demonstrated = [protocol for protocol in watched if protocol.environment == "demo"]
        for told in hold_drill(Platform(home, lake, registry, instance), demonstrated):
            console.print(told, soft_wrap=True, highlight=False)
    if watched:
        publish(lake, home, actor=DEMONSTRATION)
        console.print(where_to_look(home, registry, watched), soft_wrap=True, highlight=False)
    with dg.DagsterInstance.get() as instance:
        figures = DemoFigures.measure(instance, list(models))
    figures.keep(home)
    console.print(figures.in_words(), soft_wrap=True, highlight=False)
    if failures:
        raise DemoError("; ".join(failures))


def replay_side_by_side(home: Home, protocols: Sequence[ModelProtocol], watching: Watch, console: Console) -> list[str]:
    """Replay every model in a process of its own, with a bar each; why those that could not go on could not.

    One that cannot go on, because its first candidate was refused perhaps, does not stop the others. Whatever ends this
    function ends the processes: they are interrupted as by Ctrl-C, and leave their runs whole.
    """
    columns = SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns, console=console))
        replays: dict[subprocess.Popen[bytes], TaskID] = {}
        failures: dict[subprocess.Popen[bytes], str] = {}
        selector = stack.enter_context(selectors.DefaultSelector())
        for protocol in protocols:
            process = stack.enter_context(replay_process(home, protocol.model))
            replays[process] = progress.add_task(protocol.model, total=None)
            selector.register(cast(IO[bytes], process.stdout), selectors.EVENT_READ, process)
        while replays:
            watching.look()
            for key, _ in selector.select(POLL_SECONDS):
                process, output = key.data, cast(IO[bytes], key.fileobj)
                if line := output.readline():
                    told: dict[str, Any] = json.loads(line)
                    if FAILED in told:
                        failures[process] = told[FAILED]
                    else:
                        progress.update(replays[process], **told)
                    continue
                selector.unregister(output)
                progress.stop_task(replays.pop(process))
                if process.wait() != 0 and process not in failures:
                    failures[process] = f"the replay of {process.args[-1]} ended in an error; see {home.dagster}"
    return list(failures.values())


@contextmanager
def replay_process(home: Home, model: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process that replays one model, until the block ends."""
    addresses = {"CLINICAL_HOME": str(home.root), "CLINICAL_RAW": str(home.raw)}
    command = [sys.executable, "-m", "clinical_assets.replay", model]
    with background(command, home.dagster / f"replay-{model}.log", addresses, subprocess.PIPE) as process:
        try:
            yield process
        finally:
            cast(IO[bytes], process.stdout).close()


def where_to_look(home: Home, registry: Registry, protocols: list[ModelProtocol]) -> str:
    """Where the results lie, with three queries to paste."""
    champions = [registry.champion(protocol.model) for protocol in protocols]
    paths = [str(home.report(champion.model, champion.version)) for champion in champions]
    reports = f"\n{'':31}".join(paths)
    return f"""
Where to look
  the chains, in Dagster's UI  make dev, then http://127.0.0.1:3000
  the validation reports       {reports}
  the analysts' DuckDB file    {home.analytics}

Three queries to paste there
  from monitoring.drift_report select model, month, verdict, "column", value, critical where flagged order by all;
  from monitoring.performance_report select model, month, metric, value where subgroup = 'overall' order by all;
  from governance.validation_report select model, version, metric, subgroup, value, judgement order by all;
"""
