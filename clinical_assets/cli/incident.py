"""The verbs of who is on call: incident list, show, ack, mitigate, close, notify.

Belongs here: what a person on call sees and is asked. Does not belong here: what an incident is, and its diagnosis.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from clinical_assets.cli.signing import KeyOption, SignerOption, find_signer, unlock_key
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
from clinical_assets.governance.diagnosis import Diagnosis
from clinical_assets.governance.incidents import Event, Incident, State, event_of_person
from clinical_assets.governance.notices import CAUSE_WORDS, SEVERITY_WORDS
from clinical_assets.governance.outbound import allow_hosts
from clinical_assets.governance.platform_key import is_platform_signature
from clinical_assets.governance.signatures import SignatureError, sign_message
from clinical_assets.governance.signers import Signer
from clinical_assets.lifecycle.diagnosis import diagnose, write_page
from clinical_assets.lifecycle.incidents import change_incident, history_of, is_demo, read_incidents
from clinical_assets.protocol import Judgement
from clinical_assets.reporting.incident_page import (
    LINK_WORDS,
    first_abnormal_in_words,
    in_words,
    months_in_words,
    planned_in_words,
    short_actor,
    signatures_in_words,
)
from clinical_assets.resources.notifiers import configured_hosts, notifiers_of, read_settings
from clinical_assets.resources.outbox import deliver_pending

app = typer.Typer()
incident = typer.Typer(help="Open problems: what was seen, what to do, who did what.", no_args_is_help=True)
app.add_typer(incident, name="incident")

STATE_STYLES = {
    State.OPEN: "bold red",
    State.ACKNOWLEDGED: "bold yellow",
    State.MITIGATED: "cyan",
    State.CLOSED: "green",
}
JUDGEMENT_STYLES = {Judgement.PASS: "green", Judgement.FAIL: "bold red", Judgement.CANNOT_TELL: "yellow"}
RoleOption = Annotated[str | None, typer.Option(help="The role you act in; your first one by default.")]


@incident.command("list")
@one_line_on_refusal
def incident_list(
    every: Annotated[bool, typer.Option("--all", help="The closed ones as well.")] = False,
    model: Annotated[str | None, typer.Option(help="Of one model alone.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """The incidents that are not closed, the newest last."""
    home, lake, _ = open_home()
    known = [x for x in read_incidents(lake, home) if model in (None, x.model)]
    shown = [x for x in known if every or x.state is not State.CLOSED]
    if as_json:
        print_json([asdict(x) for x in shown])
        return
    if not shown:
        closed = f"; {len(known)} are closed (--all)" if known else ""
        console.print(f"no open incident{closed}", highlight=False)
        return
    table = Table(header_style="bold")
    for heading in ("incident", "state", "model", "cause", "months", "seen", "opened (UTC)", "by"):
        table.add_column(heading, overflow="fold")
    for x in shown:
        style = STATE_STYLES[x.state]
        table.add_row(
            x.incident_id,
            f"[{style}]{x.state.value}[/]",
            x.model + (" [dim](demo)[/]" if is_demo(x.model) else ""),
            CAUSE_WORDS[x.cause],
            _months(x),
            str(x.observations),
            f"{x.opened_at.astimezone(UTC):%Y-%m-%d %H:%M}",
            short_actor(x.changed_by),
        )
    console.print(table, highlight=False)


@incident.command("show")
@one_line_on_refusal
def incident_show(incident_id: str, as_json: JsonFlag = False) -> None:
    """What is known of an incident: first steps, what is live, where it began, who did what; checks the signatures."""
    home, lake, _ = open_home()
    if as_json:
        diagnosis = diagnose(lake, home, incident_id)
        first = diagnosis.first_abnormal
        print_json(
            asdict(diagnosis)
            | {
                "first_abnormal": asdict(first) if first else None,
                "signatures": signatures_in_words(diagnosis),
                "page": str(home.incident_page(incident_id)),
            }
        )
    else:
        diagnosis = write_page(lake, home, incident_id)
        show_diagnosis(diagnosis, home.incident_page(incident_id))
    if diagnosis.faults:
        number, fault = next(iter(sorted(diagnosis.faults.items())))
        refuse(f"incident {incident_id}: event {number} is not to be trusted: {fault}; see `clinical audit verify`")


@incident.command("ack")
@one_line_on_refusal
@recorded_when_refused
def incident_ack(
    incident_id: str,
    text: Annotated[str, typer.Option("--text", help="What you are going to do, in a sentence.")],
    signer: SignerOption,
    role: RoleOption = None,
    key: KeyOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take an incident on: your name, and what you decided to do, signed with your key."""
    _change(incident_id, Event.ACKNOWLEDGED, signer, role, key, text, as_json)


@incident.command("mitigate")
@one_line_on_refusal
@recorded_when_refused
def incident_mitigate(
    incident_id: str,
    text: Annotated[str, typer.Option("--text", help="What ended the harm, in a sentence.")],
    signer: SignerOption,
    role: RoleOption = None,
    key: KeyOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say that an incident does no more harm, and what ended it, signed with your key."""
    _change(incident_id, Event.MITIGATED, signer, role, key, text, as_json)


@incident.command("note")
@one_line_on_refusal
@recorded_when_refused
def incident_note(
    incident_id: str,
    text: Annotated[str, typer.Option("--text", help="What you found; no patient's data.")],
    signer: SignerOption,
    role: RoleOption = None,
    key: KeyOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add what you found to an incident, signed with your key; its state stays."""
    _change(incident_id, Event.NOTE, signer, role, key, text, as_json)


@incident.command("close")
@one_line_on_refusal
@recorded_when_refused
def incident_close(
    incident_id: str,
    signer: SignerOption,
    root_cause: Annotated[str, typer.Option(help="Why it happened, in a sentence.")] = "",
    action: Annotated[str, typer.Option(help="What was done so that it does not happen again.")] = "",
    text: Annotated[str, typer.Option("--text", help="Anything else, in a sentence.")] = "closed",
    role: RoleOption = None,
    key: KeyOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Close an incident, with its root cause and the action taken, signed with your key; refused without either."""
    _change(incident_id, Event.CLOSED, signer, role, key, text, as_json, root_cause, action)


@incident.command("notify")
@one_line_on_refusal
def incident_notify(as_json: JsonFlag = False) -> None:
    """Try now to deliver the notices that some receiver does not have yet; the daemon does so by itself."""
    home, _, _ = open_home()
    channels = notifiers_of(read_settings(home.notifiers))
    with allow_hosts(configured_hosts(home.notifiers)):
        done = deliver_pending(home.outbox, channels, datetime.now(UTC))
    if as_json:
        print_json(asdict(done) | {"channels": [channel.name for channel in channels]})
    else:
        named = ", ".join(channel.name for channel in channels)
        told = f"{named}: {len(done.delivered)} delivered, {len(done.waiting)} wait"
        typer.echo(f"{told if channels else f'no channel in {home.notifiers}'}; every notice is kept in {home.outbox}")
    if done.faults:
        refuse("; ".join(done.faults))


def show_diagnosis(diagnosis: Diagnosis, page: Path) -> None:
    """A diagnosis in a terminal, in the order in which a person on call needs it."""
    known = diagnosis.incident
    style = STATE_STYLES[known.state]
    months = months_in_words(diagnosis)
    heading = f"[bold]{diagnosis.title}: {CAUSE_WORDS[known.cause]}[/]"
    soon = f", {SEVERITY_WORDS[known.severity]}" if known.state is State.OPEN else ""
    lines = [
        f"[{style}]{known.state.value}[/]{soon}{f', seen in {months}' if months else ''}"
        + (" [yellow](demonstration: no patient is concerned)[/]" if diagnosis.demo else ""),
        escape(known.error),
    ]
    if known.closed_at:
        lines += [f"root cause: {escape(known.root_cause)}", f"action: {escape(known.action)}"]
    if known.follows:
        lines.append(f"follows incident {known.follows}, of the same cause, which was closed")
    console.print(Panel("\n".join(lines), title=heading, title_align="left", border_style=style), highlight=False)
    console.print("\n[bold]What to do first[/]", highlight=False)
    for number, action in enumerate(diagnosis.actions, 1):
        console.print(f" {number}. {escape(action)}", highlight=False)
    console.print(f" Owners: {', '.join(map(in_words, diagnosis.owners))}", highlight=False)
    live = diagnosis.live
    told = f"version {live.version} since {live.live_from.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if live else ""
    console.print(f" Live: {told or escape(diagnosis.nothing_live)}", highlight=False)
    if planned := planned_in_words(diagnosis):
        console.print(f" Repair planned: {escape(planned)}", highlight=False)
    console.print(f"\n[bold]Where it began[/]\n {escape(first_abnormal_in_words(diagnosis))}", highlight=False)
    if diagnosis.lineage:
        table = Table(header_style="bold")
        for column in ("asset", "judgement", "what was seen", "run"):
            table.add_column(column, overflow="fold")
        for link in diagnosis.lineage:
            judged = JUDGEMENT_STYLES.get(link.judgement, "dim")
            word = f"[{judged}]{LINK_WORDS[link.judgement]}[/]"
            table.add_row(in_words(link.asset), word, escape(link.what), link.run_id[:8] or "-")
        console.print(table, highlight=False)
    if fallen := [group for group in diagnosis.groups if group.alarmed]:
        console.print(f" Sensitivity has fallen in: {', '.join(group.subgroup for group in fallen)}", highlight=False)
    console.print("\n[bold]What was done[/]", highlight=False)
    for event in diagnosis.events:
        fault = diagnosis.faults.get(event.number)
        mark = f"[bold red]✕ {escape(fault)}[/]" if fault else "[green]✓ signed[/]"
        month = f" ({event.month:%Y-%m})" if event.month else ""
        console.print(
            f" {event.at.astimezone(UTC):%Y-%m-%d %H:%M} {event.event.value}{month} by {short_actor(event.actor)} "
            f"({in_words(event.role)}) {mark}",
            highlight=False,
        )
    console.print(f" {signatures_in_words(diagnosis)}", highlight=False)
    console.print(f"The page: {page}", soft_wrap=True, highlight=False)


def _change(
    incident_id: str,
    event: Event,
    signer: str,
    role: str | None,
    key: Path | None,
    text: str,
    as_json: bool,
    root_cause: str = "",
    action: str = "",
) -> None:
    home, lake, _ = open_home()
    person = find_signer(home, signer)
    acting = role or person.roles[0]
    if acting not in person.roles:
        refuse(f"{signer} does not hold the role {acting}")
    refuse_identifiers(home, text=text, root_cause=root_cause, action=action)
    # Asked here as well, so that nobody is asked for a passphrase in vain.
    history = history_of(lake, home, incident_id)
    event_of_person(history, event, signer, acting, text, datetime.now(UTC), root_cause, action)
    if person.demo and not is_demo(history[0].model):
        refuse(f"{signer} is a demonstration signer, and incident {incident_id} is none of a demonstration")
    changed = change_incident(
        lake,
        home,
        incident_id,
        event,
        actor=signer,
        role=acting,
        text=text,
        sign=_signing(person, key),
        root_cause=root_cause,
        action=action,
    )
    write_page(lake, home, incident_id)
    if as_json:
        print_json(asdict(changed))
        return
    marked = ", a demonstration signer" if person.demo else ""
    typer.echo(
        f"incident {incident_id}: {event.value} by {signer} as {in_words(acting)}{marked}; it is {changed.state}"
    )


def _signing(person: Signer, key: Path | None) -> Callable[[bytes], str]:
    path, passphrase = unlock_key(person, key)

    def sign(message: bytes) -> str:
        signature = sign_message(message, path, passphrase)
        if not is_platform_signature(person.public_key, message, signature):
            raise SignatureError(f"{path} is not the key that stands for {person.name} in the signers file")
        return signature

    return sign


def _months(known: Incident) -> str:
    months: Sequence[str] = [f"{x:%Y-%m}" for x in (known.first_month, known.last_month) if x is not None]
    return " to ".join(dict.fromkeys(months)) or "-"
