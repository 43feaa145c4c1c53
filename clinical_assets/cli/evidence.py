"""The verbs of people who must prove something: evidence, pin, reproduce.

Belongs here: what they print. Does not belong here: what the evidence is, and how a version is made again.
"""

import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from clinical_assets.cli.terminal import (
    JsonFlag,
    console,
    one_line_on_refusal,
    open_home,
    print_json,
    recorded_when_refused,
    refuse,
)
from clinical_assets.governance.audit_trail import AuditTrail, person_at_terminal
from clinical_assets.reporting.evidence.model_card import check_model_card
from clinical_assets.reporting.evidence.pack import MODEL_CARD, read_evidence
from clinical_assets.resources.pinned_tree import NOT_SET, PinnedTree

if TYPE_CHECKING:
    from clinical_assets.lifecycle.reproduction import Comparison, Reproduction

app = typer.Typer()


@app.command()
@one_line_on_refusal
def evidence(
    model: str,
    version: Annotated[int | None, typer.Argument(help="The version; the champion by default.")] = None,
    xsd: Annotated[Path | None, typer.Option(help="CHAI's schema.xsd, to check the model card against.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a version's evidence pack, once every document has proved unchanged."""
    home, _, registry = open_home()
    chosen = registry.champion(model) if version is None else registry.version(model, version)
    folder = home.evidence(model, chosen.version)
    index = read_evidence(folder)
    if xsd is not None:
        check_model_card(folder / MODEL_CARD, xsd)
    if as_json:
        print_json({"folder": str(folder), "valid_against": str(xsd) if xsd else None, **index})
        return
    table = Table(title=f"Evidence of {model} version {chosen.version} ({chosen.data_origin})")
    for heading in ("document", "filled", "sha256"):
        table.add_column(heading, overflow="fold")
    for name, digest in index["files"].items():
        filled = index["completeness"].get(Path(name).stem)
        table.add_row(name, f"{filled['filled']} of {filled['asked']}" if filled else "", digest)
    console.print(table)
    console.print(f"Every document is as it was written. They lie in {folder}")
    if xsd is not None:
        console.print(f"{MODEL_CARD} follows {xsd}")


@app.command()
@one_line_on_refusal
@recorded_when_refused
def pin(
    model: str,
    version: Annotated[int | None, typer.Argument(help="A version once released; the champion by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Pin what a release rests on in the hospital's own Git, below CLINICAL_PINS, and push it where dvc can."""
    from clinical_assets.lifecycle.pinned_release import pin_release
    from clinical_assets.lifecycle.release import figures_of_pin

    if (tree := PinnedTree.from_environment()) is None:
        refuse(NOT_SET)
    home, lake, registry = open_home()
    chosen = registry.champion(model) if version is None else registry.version(model, version)
    made = figures_of_pin(tree, pin_release(tree, home, lake, registry, chosen), chosen)
    AuditTrail(home.audit).record(
        "pin",
        actor=person_at_terminal(),
        target=f"{model} version {chosen.version}",
        snapshot=chosen.lake_snapshot,
        details=made,
    )
    if as_json:
        print_json({"model": model, **made})
        return
    typer.echo(f"{made['pinned']}: {made['files']} files, {made['bytes']:,} bytes, md5 {made['md5']}")
    typer.echo(f"  sha256 {made['sha256']}\n  {made['stored']}\n  Git commit: {made['commit']}")


@app.command()
@one_line_on_refusal
def reproduce(
    model: str,
    version: int,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the rebuilt files; without it they are not kept.")
    ] = None,
    pinned: Annotated[
        bool, typer.Option("--pinned", help="From its pin in the hospital's Git, even where the lake has it.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a version again from its snapshot, protocol and seed, and compare it with the registered one.

    Where the lake or the registry is gone, from the release's pin below CLINICAL_PINS; what is missing is pulled.
    """
    from clinical_assets.lifecycle.reproduction import is_in_lake, kept_in_git, kept_in_lake
    from clinical_assets.lifecycle.reproduction import reproduce as make_again

    home, lake, registry = open_home()
    tree = PinnedTree.from_environment()
    if pinned and tree is None:
        refuse(NOT_SET)
    if tree is not None and (pinned or not is_in_lake(lake, registry, model, version)):
        kept = kept_in_git(tree, model, version)
    else:
        kept = kept_in_lake(home, lake, registry, registry.version(model, version))
    with tempfile.TemporaryDirectory() as fresh:
        result = make_again(kept, out or Path(fresh) / "rebuilt")
    AuditTrail(home.audit).record(
        "reproduce",
        actor=person_at_terminal(),
        target=f"{model} version {version}",
        outcome="success" if result.is_equal else "failure",
        snapshot=result.lake_snapshot,
        details={
            "compared": len(result.compared),
            "artefact_sha256": kept.version.artefact_sha256,
            "origin": result.origin,
        },
    )
    print_json(asdict(result) | {"is_equal": result.is_equal}) if as_json else show_reproduction(result)
    if not result.is_equal:
        raise typer.Exit(1)


def show_reproduction(result: "Reproduction") -> None:
    """Files and thresholds in full, figures counted, and every figure that is not equal with both values."""
    figures = [item for item in result.compared if item.of_figure]
    unequal = [item for item in figures if not item.is_equal]
    table = Table(title=f"{result.model} version {result.version}, made again ({result.data_origin})")
    for heading in ("", "registered", "made again", "is it the same?"):
        table.add_column(heading, overflow="fold")
    for item in (*(item for item in result.compared if not item.of_figure), *unequal):
        table.add_row(*_cells(item))
    counted = ", ".join(f"{n} {word}" for word, n in Counter(item.sameness.value for item in figures).items())
    table.add_row("figures of the evaluation", f"{len(figures)}", "", counted)
    console.print(table)
    changes = [f"{item.what} {item.registered}, now {item.rebuilt}" for item in result.environment]
    console.print(f"environment: {'; '.join(changes) or 'the same Python, machine and packages as when it was made'}")
    for note in result.notes:
        console.print(f"note: {note}")
    verdict = "made again, and equal" if result.is_equal else "NOT EQUAL"
    console.print(f"{result.model} version {result.version}: {verdict}, from {result.origin}")


def _cells(item: "Comparison") -> tuple[str, str, str, str]:
    colour = "green" if item.is_equal else "red"
    return item.what, item.registered, item.rebuilt, f"[{colour}]{item.sameness.value}[/]"
