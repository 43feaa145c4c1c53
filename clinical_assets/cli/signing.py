"""The verbs of people who sign: sign, keys.

Belongs here: what a signer sees and is asked. Does not belong here: what a signature is.
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import typer
from rich.markup import escape
from rich.table import Table

from clinical_assets.cli.terminal import (
    JsonFlag,
    console,
    one_line_on_refusal,
    open_home,
    print_json,
    recorded_when_refused,
    refuse,
    refuse_identifiers,
)
from clinical_assets.governance.audit_trail import AuditTrail, person_at_terminal
from clinical_assets.governance.signatures import (
    Signature,
    SignatureError,
    Statement,
    create_key,
    fault_of_trainer,
    is_genuine,
    now,
    store,
)
from clinical_assets.governance.signatures import sign as sign_statement
from clinical_assets.governance.signers import Signer, SignerError, add_signer, check_entry, read_signers, revoke_signer
from clinical_assets.protocol import Judgement, ModelProtocol, ModelVersion, read_protocol
from clinical_assets.reporting.metric_words import describe_metric, in_words
from clinical_assets.resources.home import Home, hash_file
from clinical_assets.resources.registry import CHAMPION

app = typer.Typer()
keys = typer.Typer(help="Signing keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")

SignerOption = Annotated[str, typer.Option(help="Your name in the signers file.", envvar="CLINICAL_SIGNER")]
KeyOption = Annotated[Path | None, typer.Option(help="Your private key.", envvar="CLINICAL_KEY")]
KEYS = Path.home() / ".config" / "clinical-assets"
JUDGED = {
    Judgement.PASS: "[green]pass[/]",
    Judgement.FAIL: "[bold red]fail[/]",
    Judgement.CANNOT_TELL: "[bold yellow]cannot tell[/]",
    Judgement.NOT_APPLICABLE: "[dim]not applicable[/]",
}


@app.command()
@one_line_on_refusal
@recorded_when_refused
def sign(
    model: str,
    version: int,
    role: Annotated[str, typer.Option(help="The role you sign in.")],
    decision: Annotated[Literal["approve", "reject"], typer.Option(help="Your decision.")],
    reason: Annotated[str, typer.Option(help="Why, in a sentence; it is kept with the signature.")],
    signer: SignerOption,
    key: KeyOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Sign one exact version with its report: shows the headline figures first, and asks."""
    home, lake, registry = open_home()
    protocol, candidate = read_protocol(model), registry.version(model, version)
    if role not in protocol.sign_off.roles:
        refuse(f"{model} is signed by {', '.join(protocol.sign_off.roles)}; {role} is none of them")
    if not reason.strip():
        refuse("a decision needs its reason")
    refuse_identifiers(home, reason=reason)
    person = find_signer(home, signer)
    if role not in person.roles:
        refuse(f"{signer} does not hold the role {role}")
    if fault := fault_of_trainer(person, candidate):
        refuse(fault)
    if person.demo and protocol.environment == "production":
        refuse(f"{signer} is a demonstration signer, and the environment of {model} is production")
    report = lake.read(f"{model}.validation_report", where={"version": version})
    path = home.report(model, version)
    if report.is_empty() or not path.is_file() or hash_file(path) != report["report_sha256"][0]:
        refuse(f"the report of {model} version {version} is missing or was changed; materialise its validation_report")
    if candidate.protocol_sha256 != protocol.sha256:
        refuse(f"the protocol of {model} was edited after version {version} was trained; train a new candidate")
    show_what_is_signed(protocol, candidate, registry.find(model, CHAMPION), report, path)
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
    console.print(f'As [bold]{signer}[/] ({role}) you [bold]{decision}[/] it: "{escape(reason)}"', highlight=False)
    if person.demo:
        console.print("[yellow]This is a demonstration signer.[/]")
    if not yes and not typer.confirm(f"{decision} {model} version {version} as {role}, as {signer}?"):
        refuse("not signed")
    signature = sign_as(person, statement, key)
    # The record comes first: a signature that counts is never one that nobody recorded.
    AuditTrail(home.audit).record(
        "sign" if decision == "approve" else "reject",
        actor=signer,
        target=f"{model}/v{version}",
        reason=reason,
        snapshot=candidate.lake_snapshot,
        details={"role": role, "demo": person.demo, "report_sha256": statement.report_sha256},
    )
    store(signature, home.sign_offs)
    typer.echo(f"signed: {decision} {model} version {version} as {role}")


def find_signer(home: Home, name: str) -> Signer:
    """The signer of this name, whose key counts today; raises SignerError."""
    known = read_signers(home.signer_files)
    if name not in known:
        raise SignerError(f"{name} is in none of {', '.join(map(str, home.signer_files))}; see `clinical keys new`")
    if fault := known[name].fault_of_key(datetime.now(UTC)):
        raise SignerError(fault)
    return known[name]


def unlock_key(person: Signer, key: Path | None) -> tuple[Path, str | None]:
    """Where the person's private key lies, and its passphrase, which is asked for where the key is locked."""
    path = key or KEYS / f"{person.name}.pem"
    locked = path.is_file() and b"ENCRYPTED" in path.read_bytes()
    return path, typer.prompt("Passphrase", hide_input=True) if locked else None


def sign_as(person: Signer, statement: Statement, key: Path | None) -> Signature:
    """The statement with the person's signature; raises SignatureError where the key is not the one on file."""
    path, passphrase = unlock_key(person, key)
    signature = sign_statement(statement, path, passphrase)
    if not is_genuine(signature, person):
        raise SignatureError(f"{path} is not the key that stands for {person.name} in the signers file")
    return signature


def show_what_is_signed(
    protocol: ModelProtocol, candidate: ModelVersion, champion: ModelVersion | None, report: pl.DataFrame, path: Path
) -> None:
    """What a signer must have seen: the version, what it would replace, and every limit with what was measured."""
    blocking = report.filter(pl.col("judgement").is_in([Judgement.FAIL, Judgement.CANNOT_TELL]))
    outcome = "[green]meets every limit[/]"
    if blocking.height:
        outcome = f"[bold red]does not meet {blocking.height} of {report.height} limits[/]"
    title = f"{protocol.title}, version {candidate.version} ({candidate.data_origin})"
    console.print(f"\n[bold]{title}:[/] {outcome}", highlight=False)
    console.print(escape(protocol.intended_use), style="dim", highlight=False)
    same = champion is not None and champion.version == candidate.version
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, value in (
        (
            "replaces",
            f"version {champion.version}" if champion and not same else "nothing: it is live" if same else "-",
        ),
        ("trained on", f"{candidate.data_origin}, through {candidate.trained_through:%Y-%m}"),
        ("trained by", candidate.trained_by),
        ("model files", candidate.artefact_sha256[:12]),
        ("report", report["report_sha256"][0][:12]),
        ("protocol", f"{candidate.protocol_sha256[:12]}, environment {protocol.environment}"),
    ):
        facts.add_row(name, value)
    console.print(facts, highlight=False)
    table = Table(header_style="bold")
    for heading in ("measured", "of", "value [95 % interval]", "limit", "judgement"):
        table.add_column(heading, overflow="fold")
    order = pl.col("judgement").replace_strict({Judgement.FAIL: 0, Judgement.CANNOT_TELL: 1}, default=2)
    for row in report.sort(order, maintain_order=True).iter_rows(named=True):
        measured = "-" if row["value"] is None else f"{row['value']:.3f}"
        if row["low"] is not None:
            measured += f" [{row['low']:.3f}, {row['high']:.3f}]"
        table.add_row(
            describe_metric(row["metric"], protocol).name,
            in_words(row["subgroup"]),
            measured,
            row["limit"],
            JUDGED[Judgement(row["judgement"])],
        )
    console.print(table, highlight=False)
    console.print(f"The whole report: {path}", soft_wrap=True, highlight=False)


@keys.command("new")
@one_line_on_refusal
@recorded_when_refused
def keys_new(
    name: str,
    role: Annotated[list[str], typer.Option(help="A role the signer holds; repeat for several.")],
    folder: Annotated[Path | None, typer.Option(help="Where to keep the private key, outside any repository.")] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(
            help="An account of yours on the platform's machine; who trains from it may not sign. Repeatable."
        ),
    ] = None,
    expires: Annotated[datetime | None, typer.Option(help="The day from which the key no longer counts, UTC.")] = None,
) -> None:
    """Make a signing key of your own, locked with a passphrase, and add you to this home's signers."""
    home, _, _ = open_home()
    path = (folder or KEYS) / f"{name}.pem"
    if name in read_signers(home.signer_files):
        refuse(f"{name} is a signer already; choose another name")
    until = expires.replace(tzinfo=UTC) if expires else None
    passphrase = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    signer = Signer(name, tuple(role), "", demo=False, users=tuple(user or ()), expires_at=until)
    check_entry(signer)
    public = create_key(path, passphrase)
    add_signer(home.signers, replace(signer, public_key=public))
    AuditTrail(home.audit).record(
        "key_created",
        actor=person_at_terminal(),
        target=name,
        details={"roles": ", ".join(role), "public_key": public},
    )
    typer.echo(f"private key: {path}\npublic key: {public}, added to {home.signers}")


@keys.command("revoke")
@one_line_on_refusal
@recorded_when_refused
def keys_revoke(
    name: str,
    reason: Annotated[str, typer.Option(help="Why, in a sentence; it stands in the signers file.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Revoke a signer's key: from now on none of its signatures counts towards a release, whenever it was made."""
    home, _, _ = open_home()
    if not yes and not typer.confirm(f"Revoke the key of {name}, for ever?"):
        refuse("not revoked")
    path = revoke_signer(home.signer_files, name, reason, datetime.now(UTC))
    AuditTrail(home.audit).record("key_revoked", actor=person_at_terminal(), target=name, reason=reason)
    typer.echo(f"revoked: {name}, in {path}")


@keys.command("list")
@one_line_on_refusal
def keys_list(as_json: JsonFlag = False) -> None:
    """Who may sign, in which roles, and whose key no longer counts."""
    home, _, _ = open_home()
    signers = read_signers(home.signer_files)
    if as_json:
        print_json([asdict(signer) for signer in signers.values()])
        return
    table = Table(header_style="bold")
    for heading in ("signer", "roles", "public key", "counts"):
        table.add_column(heading, overflow="fold")
    for signer in signers.values():
        fault = signer.fault_of_key(datetime.now(UTC))
        counts = f"[red]{escape(fault)}[/]" if fault else "[yellow]in demonstrations alone[/]" if signer.demo else "yes"
        table.add_row(signer.name, ", ".join(signer.roles), signer.public_key[:12], counts)
    console.print(table, highlight=False)
