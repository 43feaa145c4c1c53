"""The verbs that run the platform: init, demo, fetch, status, publish, validate.

Belongs here: their options and what they print. Does not belong here: what they do; they call the assets' functions.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clinical_assets.archives.download import download_bar
from clinical_assets.archives.download import fetch as fetch_archive
from clinical_assets.cli.terminal import (
    REFUSALS,
    JsonFlag,
    console,
    one_line_on_refusal,
    open_home,
    print_json,
    recorded_when_refused,
    refuse,
)
from clinical_assets.governance.audit_trail import person_at_terminal
from clinical_assets.governance.ledger import (
    LedgerEntry,
    last_of,
    release_of,
    valid_until,
    why_nothing_is_live,
)
from clinical_assets.governance.outbound import allow_hosts
from clinical_assets.protocol import ArchivePin, ModelVersion, load_object, protocol_names, read_protocol
from clinical_assets.resources.dvc_tool import store
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.ledger import mismatch, read_ledger
from clinical_assets.resources.pinned_tree import NOT_SET, PinnedTree
from clinical_assets.resources.registry import CHALLENGER, CHAMPION, Registry

app = typer.Typer()


@app.command()
@one_line_on_refusal
def init() -> None:
    """Make the home ready: folders, access rights, Dagster's settings, the registry's database."""
    home, _, registry = open_home()
    registry.prepare()
    typer.echo(f"ready: {home.root}")


@app.command()
def demo(
    data: Annotated[Literal["auto", "real", "simulated"], typer.Option(help="Which archive to run on.")] = "auto",
    model: Annotated[list[str] | None, typer.Option(help="A model to replay; repeat for several, all if none.")] = None,
) -> None:
    """Replay two years of months with the real Dagster daemon; goes on where it was stopped."""
    from clinical_assets.demo import DemoError, run_demo

    try:
        run_demo(Home.from_environment(), data, console, model or protocol_names())
    except (*REFUSALS, DemoError) as error:
        refuse(error)
    except KeyboardInterrupt:
        refuse("stopped; the same command goes on from here, `make clean-demo` starts over")


@app.command()
@one_line_on_refusal
def fetch(
    model: str,
    timeout_seconds: Annotated[float, typer.Option(help="How long the publisher may be silent.")] = 30.0,
    pin: Annotated[bool, typer.Option("--pin", help="Pin it in the hospital's Git, below CLINICAL_PINS.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Download a model's archive from its publisher into CLINICAL_RAW, and check it."""
    home, protocol = Home.from_environment(), read_protocol(model)
    if protocol.archive is None:
        refuse(f"{model} reads no archive: its cohort function fetches its rows itself")
    published, tree = load_object(protocol.archive), PinnedTree.from_environment()
    if pin and tree is None:
        refuse(NOT_SET)
    if not as_json:
        typer.echo(f"{published.title}, {published.publisher}, {published.licence}. Cite: {published.citation}")
    with allow_hosts(published.hosts), download_bar(Console(stderr=True)) as progress:
        path = fetch_archive(published, home.raw, progress, timeout_seconds)
    archive, stored = published.open(path), ""
    if pin and tree is not None:
        if path == home.raw:
            refuse(f"{path} may hold more than this archive; move its files to {path / published.name}, then pin it")
        written = tree.pin_archive(published.name, path)
        stored = store(tree.root, written.file)
        archive = replace(archive, pin=tree.record_of(written))
    if as_json:
        print_json(asdict(archive) | ({"stored": stored} if pin else {}))
        return
    typer.echo(f"{archive.path}: {archive.data_origin}")
    if archive.pin is not None:
        show_pin(archive.pin, stored)


def show_pin(pin: ArchivePin, stored: str) -> None:
    """A pin, where its bytes are, and what is left to a person: the commit."""
    typer.echo(f"{pin.file}: md5 {pin.md5}\n  sha256 {pin.sha256}\n  {stored}\n  Git commit: {pin.commit}")


@app.command()
@one_line_on_refusal
def status(as_json: JsonFlag = False) -> None:
    """What is live, what waits for signatures, and what the last month said, of every model."""
    home, lake, registry = open_home()
    states = [model_state(lake, registry, model) for model in protocol_names()]
    known = lake.read("governance.incident") if lake.exists("governance.incident") else pl.DataFrame({"state": []})
    incidents = known.filter(pl.col("state") != "closed").height
    if as_json:
        print_json({"home": str(home.root), "models": states, "incidents": incidents})
        return
    table = Table(title=f"clinical-assets at {home.root}")
    for heading in ("", *(state["model"] for state in states)):
        table.add_column(heading, overflow="fold", ratio=None if heading == "" else 1)
    for name in list(states[0])[1:]:
        table.add_row(
            name.replace("_", " "), *("-" if state[name] is None else escape(str(state[name])) for state in states)
        )
    console.print(table)
    console.print(f"incidents: {incidents} open (clinical incident list)")


def model_state(lake: Lake, registry: Registry, model: str) -> dict[str, Any]:
    """One model in a row: versions, months, last verdict, realised discrimination."""
    champion, challenger = registry.find(model, CHAMPION), registry.find(model, CHALLENGER)
    months = lake.months(f"{model}.features") if lake.exists(f"{model}.features") else []
    drift = lake.read(f"{model}.drift_report") if lake.exists(f"{model}.drift_report") else None
    latest = drift.sort("month").row(-1, named=True) if drift is not None else {}
    performance = lake.read(f"{model}.performance_report") if lake.exists(f"{model}.performance_report") else None
    protocol = read_protocol(model)
    headline = protocol.monitoring.headline
    ripe = (
        performance.filter(metric=headline, subgroup="overall", status="ripe").drop_nulls("value")
        if performance is not None
        else pl.DataFrame()
    )
    last_ripe = ripe.sort("month").row(-1, named=True) if ripe.height else None
    entries = read_ledger(lake, model)
    live, moved_past_us = last_of(entries), mismatch(registry, entries, model)
    until = valid_until(live, protocol.release_valid_days) if live else None
    since = f"{live.live_from:%Y-%m-%d %H:%M} UTC{f' until {until:%Y-%m-%d}' if until else ''}" if live else None
    by = f"{live.kind.value} of {live.actor}: {live.reason}" if live else why_nothing_is_live(entries)
    return {
        "model": model,
        "champion": champion.version if champion else None,
        "live_since": since,
        "live_by": moved_past_us or by or None,
        "trained_through": f"{champion.trained_through:%Y-%m}" if champion else None,
        "newest_candidate": waiting_words(challenger, champion, entries),
        "months": f"{months[0]:%Y-%m} to {months[-1]:%Y-%m}" if months else None,
        "last_verdict": f"{latest['month']:%Y-%m} {latest['verdict']}" if latest else None,
        "last_ripe": f"{last_ripe['month']:%Y-%m} {headline} {last_ripe['value']:.3f}" if last_ripe else None,
        "data_origin": champion.data_origin if champion else None,
    }


def waiting_words(
    challenger: ModelVersion | None, champion: ModelVersion | None, entries: list[LedgerEntry]
) -> str | None:
    """The newest candidate and why it is not live; None where it is, or there is none."""
    if challenger is None or (champion is not None and challenger.version == champion.version):
        return None
    if release_of(entries, challenger.version) is None:
        return f"{challenger.version} (not released)"
    withdrawn = entries[-1].kind.leaves_nothing_live and entries[-1].version == challenger.version
    return f"{challenger.version} ({'withdrawn' if withdrawn else 'rolled back'})"


@app.command()
@one_line_on_refusal
@recorded_when_refused
def publish(as_json: JsonFlag = False) -> None:
    """Bring the analysts' DuckDB file to what the lake holds, and replace it in one step."""
    from clinical_assets.lifecycle.publication import publish as publish_and_record

    home, lake, _ = open_home()
    published = publish_and_record(lake, home, actor=person_at_terminal())
    print_json(asdict(published)) if as_json else typer.echo(
        f"{published.path}: {published.tables} tables, {published.rows:,} rows, lake snapshot {published.snapshot}"
        f"{'' if published.is_new else ', as it was: the lake holds nothing newer'}"
    )


@app.command()
@one_line_on_refusal
def validate(
    model: str,
    source: Annotated[Path, typer.Option(help="An archive in its publisher's layout.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
    version: Annotated[int | None, typer.Option(help="The version to validate; the champion by default.")] = None,
    split: Annotated[str | None, typer.Option(help="A split of the archive's publisher, or `all`.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score any archive in the publisher's layout with a released version, and write the full evaluation."""
    from clinical_assets.validation import validate_externally

    home, lake, registry = open_home()
    protocol = read_protocol(model)
    chosen = registry.champion(model) if version is None else registry.version(model, version)
    result = validate_externally(protocol, lake, registry, chosen, source, out, home.pseudonym_key, split)
    if as_json:
        typer.echo((out / "evaluation.json").read_text())
        return
    table = Table(title=f"{protocol.title}, version {chosen.version} on {result.data_origin}")
    for heading in ("metric", "value", "95 % interval", "n"):
        table.add_column(heading)
    for finding in result.findings:
        if finding.subgroup == "overall" and finding.value is not None:
            interval = f"{finding.low:.3f} to {finding.high:.3f}" if finding.low is not None else "-"
            table.add_row(finding.metric, f"{finding.value:.3f}", interval, f"{finding.n:,}")
    console.print(table)
    console.print("; ".join(result.notes))
    console.print(f"written: {', '.join(str(out / name) for name in result.files)}")
