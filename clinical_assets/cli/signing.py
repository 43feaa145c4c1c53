"""The verbs of people who sign: sign, keys.

Belongs here: what a signer sees and is asked. Does not belong here: what a signature is.
"""

from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import typer
from rich.table import Table

from clinical_assets.cli.terminal import console, one_line_on_refusal, open_home, refuse
from clinical_assets.governance.signatures import Signer, Statement, add_signer, create_key, now, read_signers, store
from clinical_assets.governance.signatures import sign as sign_statement
from clinical_assets.protocol import Judgement, ModelProtocol, read_protocol
from clinical_assets.resources.home import hash_file

app = typer.Typer()
keys = typer.Typer(help="Signing keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")


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
