"""The verbs of those who hold the platform to account: audit list, verify, checkpoint, export, ship.

Belongs here: what they are shown and how they ask. Does not belong here: what a trail is and when it is whole.
"""

import re
from collections import deque
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from clinical_assets.cli.terminal import JsonFlag, console, one_line_on_refusal, print_json, refuse
from clinical_assets.governance.audit_trail import AuditRecord, AuditTrail
from clinical_assets.governance.audit_verification import Anchor, read_records, verify_trail
from clinical_assets.governance.ocsf_events import OCSF_VERSION, export_ocsf, ocsf_line
from clinical_assets.governance.outbound import allow_hosts
from clinical_assets.governance.platform_key import public_key
from clinical_assets.governance.syslog_shipping import Receiver
from clinical_assets.governance.syslog_shipping import ship as ship_records
from clinical_assets.resources.home import Home

app = typer.Typer()
audit = typer.Typer(help="Who did what, when and why; and whether the record of it is whole.", no_args_is_help=True)
app.add_typer(audit, name="audit")


@audit.command("list")
@one_line_on_refusal
def list_records(
    action: Annotated[str | None, typer.Option(help="Only this action, such as release.")] = None,
    target: Annotated[str | None, typer.Option(help="Only targets that begin so, such as MODEL/.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only from this time on, UTC.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many records, the newest.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """The newest records of the audit trail, unverified: who did what to what, and how it ended."""
    trail = AuditTrail(Home.from_environment().audit)
    earliest = since.isoformat() if since else ""
    matching = (
        record
        for record in read_records(trail)
        if (action is None or record.action == action)
        and record.target.startswith(target or "")
        and record.at >= earliest
    )
    newest = deque(matching, maxlen=last)
    if as_json:
        print_json([asdict(record) for record in newest])
        return
    table = Table(title=f"{trail.path}: the newest {len(newest)} that match (not verified)")
    for heading in ("number", "at (UTC)", "actor"):
        table.add_column(heading, no_wrap=True)
    for heading in ("action and target", "why, and what else was recorded"):
        table.add_column(heading, overflow="fold")
    for record in newest:
        table.add_row(
            str(record.number),
            f"{record.at[:10]} {record.at[11:19]}",
            escape(_short(record.actor)),
            f"[bold]{record.action}[/]{'' if record.outcome == 'success' else ' [red](failed)[/]'}\n"
            f"{escape(record.target)}",
            escape(in_words(record)),
        )
    console.print(table)


def in_words(record: AuditRecord) -> str:
    """The reason, the snapshot and the details of a record; hashes and runs by their first digits."""
    given = {"snapshot": record.snapshot, **record.details}
    details = "; ".join(f"{name} {_short(value)}" for name, value in given.items() if value is not None)
    return ". ".join(text for text in (record.reason, details) if text)


def _short(value: object) -> str:
    return re.sub(r"([0-9a-f]{8})[0-9a-f-]{24,}", r"\1...", str(value))


@audit.command()
@one_line_on_refusal
def verify(
    anchor: Annotated[str | None, typer.Option(help="A checkpoint you noted down elsewhere, NUMBER:SHA256.")] = None,
    key: Annotated[
        str | None, typer.Option("--public-key", help="The platform's public key as you noted it down.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Read the whole audit trail, and name the first record that was edited, removed, inserted, moved or cut off."""
    trail = AuditTrail(Home.from_environment().audit)
    found = verify_trail(trail, key, Anchor.parse(anchor) if anchor else None)
    if as_json:
        print_json(asdict(found) | {"is_whole": found.is_whole})
    if found.fault:
        where = f"record {found.fault.record}" if found.fault.record is not None else "a seal"
        refuse(f"{found.path} is not whole: {where}: {found.fault.what}")
    if not as_json:
        against = "the public key you gave" if key else f"the public key in {trail.keys}"
        typer.echo(
            f"{found.path} is whole\n"
            f"records      {found.records:,}, each signed by the platform ({against})\n"
            f"checkpoints  {found.checkpoints}, the newest over the first {found.checkpointed:,} records\n"
            f"newest       {found.records}:{found.sha256}"
        )


@audit.command()
@one_line_on_refusal
def checkpoint(as_json: JsonFlag = False) -> None:
    """Seal the audit trail now; note the line down outside this machine, and hold the trail against it later."""
    trail = AuditTrail(Home.from_environment().audit)
    seal = trail.checkpoint()
    if as_json:
        print_json(asdict(seal))
        return
    typer.echo(
        f"{seal.records}:{seal.sha256}\npublic key: {public_key(trail.keys)}\n"
        "Note both down outside this machine. Then nobody who owns it can write the trail anew unseen:\n"
        "clinical audit verify --anchor NUMBER:SHA256 --public-key KEY"
    )


@audit.command()
@one_line_on_refusal
def export(
    out: Annotated[Path, typer.Option(help="The file to write, one event a line.")],
    format: Annotated[Literal["ocsf"], typer.Option(help="The events' schema.")] = "ocsf",
    as_json: JsonFlag = False,
) -> None:
    """Write the whole audit trail as OCSF events, once it has proved whole."""
    trail = AuditTrail(Home.from_environment().audit)
    if fault := verify_trail(trail).fault:
        refuse(f"{trail.path} is not whole, and was not exported: {fault.what}; see `clinical audit verify`")
    if not out.parent.is_dir():
        refuse(f"there is no folder {out.parent} to write {out.name} to")
    events = export_ocsf(read_records(trail), out)
    if as_json:
        print_json({"path": str(out), "format": format, "version": OCSF_VERSION, "events": events})
        return
    typer.echo(f"{out}: {events:,} OCSF events (schema {OCSF_VERSION})")


@audit.command()
@one_line_on_refusal
def ship(
    syslog: Annotated[str, typer.Option(help="The log receiver, HOST:PORT.")],
    tls: Annotated[bool, typer.Option("--tls", help="Over TLS; without, only to this machine.")] = False,
    ca: Annotated[Path | None, typer.Option(help="Certificates to trust (PEM); the system's if none.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Our certificate with its key (PEM), if asked for.")] = None,
    format: Annotated[
        Literal["record", "ocsf"], typer.Option(help="The records as they stand in the trail, or OCSF events.")
    ] = "record",
    silent_close: Annotated[
        bool, typer.Option("--silent-close", help="The receiver sends no close_notify; its end of stream counts.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Send a log receiver every record it does not have yet (RFC 5424); what it does not take waits."""
    receiver = Receiver.parse(syslog, tls=tls, ca=ca, certificate=certificate, silent_close=silent_close)
    with allow_hosts([receiver.host]):
        shipped = ship_records(
            AuditTrail(Home.from_environment().audit),
            receiver,
            AuditRecord.canonical if format == "record" else ocsf_line,
        )
    print_json(asdict(shipped)) if as_json else typer.echo(
        f"{shipped.receiver}: {shipped.shipped:,} records shipped, it has all up to number {shipped.last:,}"
    )
