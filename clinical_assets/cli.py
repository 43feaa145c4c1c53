"""The command `clinical`: what people do with a platform from a terminal.

Belongs here: verbs, their words and exit codes (0 done, 1 refused or failed with one line why, 2 wrong usage).
Does not belong here: what a verb does; it calls the same functions as the assets.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import date, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, ParamSpec

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from clinical_assets.archives.archive import ArchiveError
from clinical_assets.archives.download import download_bar
from clinical_assets.archives.download import fetch as fetch_archive
from clinical_assets.evaluation import EvaluationError
from clinical_assets.governance.pseudonyms import PseudonymError
from clinical_assets.governance.signatures import (
    SignatureError,
    Signer,
    Statement,
    add_signer,
    create_key,
    now,
    read_signers,
    store,
)
from clinical_assets.governance.signatures import sign as sign_statement
from clinical_assets.learning.estimator import LearningError
from clinical_assets.protocol import (
    Judgement,
    ModelProtocol,
    ProtocolError,
    load_object,
    protocol_names,
    read_protocol,
)
from clinical_assets.resources.analytics import publish_analytics
from clinical_assets.resources.home import Home, hash_file
from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.registry import CHALLENGER, CHAMPION, Registry, RegistryError

app = typer.Typer(help="Run clinical models as governed assets.", no_args_is_help=True, add_completion=False)
keys = typer.Typer(help="Signing keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")
console = Console() if sys.stdout.isatty() else Console(width=120)

P = ParamSpec("P")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
REFUSALS = (
    ArchiveError,
    EvaluationError,
    LakeError,
    LearningError,
    ProtocolError,
    PseudonymError,
    RegistryError,
    SignatureError,
)


def refuse(why: object) -> NoReturn:
    """End with exit code 1 and one line that says why."""
    typer.echo(f"clinical: {' '.join(str(why).split())}", err=True)
    raise typer.Exit(1)


def one_line_on_refusal(verb: Callable[P, None]) -> Callable[P, None]:
    """A verb whose expected failures end with one line, and exit code 1."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            verb(*args, **kwargs)
        except REFUSALS as error:
            refuse(error)

    return run


def print_json(value: Any) -> None:
    """Print a value as JSON, dates and times in ISO 8601."""
    typer.echo(
        json.dumps(value, indent=2, default=lambda x: x.isoformat() if isinstance(x, (date, datetime)) else str(x))
    )


def open_home() -> tuple[Home, Lake, Registry]:
    """The home that the environment names, ready to use, with its lake and its registry."""
    home = Home.from_environment()
    home.prepare()
    return home, Lake(str(home.lake_catalogue), home.lake_data), Registry(home.registry_uri, home.registry_artefacts)


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
    as_json: JsonFlag = False,
) -> None:
    """Download a model's archive from its publisher into CLINICAL_RAW, and check it."""
    home, protocol = Home.from_environment(), read_protocol(model)
    if protocol.archive is None:
        refuse(f"{model} reads no archive: its cohort function fetches its rows itself")
    published = load_object(protocol.archive)
    if not as_json:
        typer.echo(f"{published.title}, {published.publisher}, {published.licence}. Cite: {published.citation}")
    with download_bar(Console(stderr=True)) as progress:
        path = fetch_archive(published, home.raw, progress, timeout_seconds)
    archive = published.open(path)
    print_json(asdict(archive)) if as_json else typer.echo(f"{archive.path}: {archive.data_origin}")


@app.command()
@one_line_on_refusal
def status(as_json: JsonFlag = False) -> None:
    """What is live, what waits for signatures, and what the last month said, of every model."""
    home, lake, registry = open_home()
    states = [model_state(lake, registry, model) for model in protocol_names()]
    incidents = lake.read("governance.incident").height if lake.exists("governance.incident") else 0
    if as_json:
        print_json({"home": str(home.root), "models": states, "incidents": incidents})
        return
    table = Table(title=f"clinical-assets at {home.root}")
    for heading in states[0]:
        table.add_column(heading.replace("_", " "), overflow="fold")
    for state in states:
        table.add_row(*("-" if value is None else str(value) for value in state.values()))
    console.print(table)
    console.print(f"incidents: {incidents}")


def model_state(lake: Lake, registry: Registry, model: str) -> dict[str, Any]:
    """One model in a row: versions, months, last verdict, realised discrimination."""
    champion, challenger = registry.find(model, CHAMPION), registry.find(model, CHALLENGER)
    months = lake.months(f"{model}.features") if lake.exists(f"{model}.features") else []
    drift = lake.read(f"{model}.drift_report") if lake.exists(f"{model}.drift_report") else None
    latest = drift.sort("month").row(-1, named=True) if drift is not None else {}
    performance = lake.read(f"{model}.performance_report") if lake.exists(f"{model}.performance_report") else None
    headline = read_protocol(model).monitoring.headline
    ripe = (
        performance.filter(metric=headline, subgroup="overall", status="ripe").drop_nulls("value")
        if performance is not None
        else pl.DataFrame()
    )
    last_ripe = ripe.sort("month").row(-1, named=True) if ripe.height else None
    waiting = challenger is not None and (champion is None or challenger.version != champion.version)
    return {
        "model": model,
        "champion": champion.version if champion else None,
        "trained_through": f"{champion.trained_through:%Y-%m}" if champion else None,
        "newest_candidate": f"{challenger.version} (not released)" if challenger and waiting else None,
        "months": f"{months[0]:%Y-%m} to {months[-1]:%Y-%m}" if months else None,
        "last_verdict": f"{latest['month']:%Y-%m} {latest['verdict']}" if latest else None,
        "last_ripe": f"{last_ripe['month']:%Y-%m} {headline} {last_ripe['value']:.3f}" if last_ripe else None,
        "data_origin": champion.data_origin if champion else None,
    }


@app.command()
@one_line_on_refusal
def publish(as_json: JsonFlag = False) -> None:
    """Build the analysts' DuckDB file anew and replace it in one step."""
    home, lake, _ = open_home()
    published = publish_analytics(lake, home.analytics, protocol_names())
    print_json(asdict(published)) if as_json else typer.echo(
        f"{published.path}: {published.tables} tables, {published.rows:,} rows, lake snapshot {published.snapshot}"
    )


@app.command()
@one_line_on_refusal
def sign(
    model: str,
    version: int,
    role: Annotated[str, typer.Option(help="The role you sign in.")],
    decision: Annotated[Literal["approve", "reject"], typer.Option(help="Your decision.")],
    reason: Annotated[str, typer.Option(help="Why, in a sentence; it is kept with the signature.")],
    signer: Annotated[str, typer.Option(help="Your name in the signers file.", envvar="CLINICAL_SIGNER")],
    key: Annotated[Path | None, typer.Option(help="Your private key.", envvar="CLINICAL_KEY")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Sign one exact version with its report: shows the headline figures first, and asks."""
    home, lake, registry = open_home()
    protocol, candidate = read_protocol(model), registry.version(model, version)
    if role not in protocol.sign_off.roles:
        refuse(f"{model} is signed by {', '.join(protocol.sign_off.roles)}; {role} is none of them")
    known = read_signers(home.signer_files)
    if signer not in known:
        refuse(f"{signer} is in none of {', '.join(map(str, home.signer_files))}; see `clinical keys new`")
    if role not in known[signer].roles:
        refuse(f"{signer} does not hold the role {role}")
    report = lake.read(f"{model}.validation_report", where={"version": version})
    path = home.report(model, version)
    if report.is_empty() or not path.is_file() or hash_file(path) != report["report_sha256"][0]:
        refuse(f"the report of {model} version {version} is missing or was changed; materialise its validation_report")
    show_headline(protocol, version, report, path)
    if known[signer].demo:
        console.print("[yellow]This is a demonstration signer.[/]")
    if not yes and not typer.confirm(f"{decision} {model} version {version} as {role}, as {signer}?"):
        refuse("not signed")
    key_path = key or Path.home() / ".config" / "clinical-assets" / f"{signer}.pem"
    encrypted = key_path.is_file() and b"ENCRYPTED" in key_path.read_bytes()
    passphrase = typer.prompt("Passphrase", hide_input=True) if encrypted else None
    statement = Statement(
        model=model,
        version=version,
        artefact_sha256=candidate.artefact_sha256,
        report_sha256=report["report_sha256"][0],
        protocol_sha256=candidate.protocol_sha256,
        decision=decision,
        reason=reason,
        role=role,
        signer=signer,
        signed_at=now(),
    )
    store(sign_statement(statement, key_path, passphrase), home.sign_offs)
    typer.echo(f"signed: {decision} {model} version {version} as {role}")


def show_headline(protocol: ModelProtocol, version: int, report: pl.DataFrame, path: Path) -> None:
    """What a signer must have seen: every limit with what was measured, and where the whole report lies."""
    blocking = report.filter(pl.col("judgement").is_in([Judgement.FAIL, Judgement.CANNOT_TELL]))
    outcome = "meets every limit" if blocking.is_empty() else f"does not meet {blocking.height} limits"
    table = Table(title=f"{protocol.title}, version {version} ({report['data_origin'][0]}): {outcome}")
    for heading in ("limit", "subgroup", "measured", "judgement"):
        table.add_column(heading, overflow="fold")
    for row in report.iter_rows(named=True):
        measured = "-" if row["value"] is None else f"{row['value']:.3f}"
        if row["low"] is not None:
            measured += f" [{row['low']:.3f}, {row['high']:.3f}]"
        table.add_row(f"{row['metric']} {row['limit']}", row["subgroup"], measured, row["judgement"])
    console.print(table)
    console.print(f"The whole report: {path}")


@keys.command("new")
@one_line_on_refusal
def keys_new(
    name: str,
    role: Annotated[list[str], typer.Option(help="A role the signer holds; repeat for several.")],
    folder: Annotated[Path | None, typer.Option(help="Where to keep the private key, outside any repository.")] = None,
) -> None:
    """Make a signing key of your own, locked with a passphrase, and add you to this home's signers."""
    home, _, _ = open_home()
    path = (folder or Path.home() / ".config" / "clinical-assets") / f"{name}.pem"
    if name in read_signers(home.signer_files):
        refuse(f"{name} is a signer already; choose another name")
    passphrase = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    public = create_key(path, passphrase)
    add_signer(home.signers, Signer(name, tuple(role), public, demo=False))
    typer.echo(f"private key: {path}\npublic key: {public}, added to {home.signers}")


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


if __name__ == "__main__":
    sys.exit(app())
