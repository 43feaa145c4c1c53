"""The verbs of who answers for what is live: ledger, rollback, withdraw.

Belongs here: what they print. Does not belong here: what the ledger says, and how a rollback or a withdrawal is done.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clinical_assets.cli.terminal import (
    JsonFlag,
    console,
    one_line_on_refusal,
    open_home,
    print_json,
    refuse,
    refuse_identifiers,
)
from clinical_assets.governance.audit_trail import person_at_terminal
from clinical_assets.governance.ledger import LedgerEntry, live_at, why_nothing_is_live
from clinical_assets.protocol import read_protocol
from clinical_assets.resources.home import Home, hash_file
from clinical_assets.resources.ledger import mismatch, read_ledger, remedy

app = typer.Typer()
FILE_FOLLOWS = "The analysts' file follows by itself while the daemon runs, else with `clinical publish`."


@app.command()
@one_line_on_refusal
def ledger(
    model: str,
    at: Annotated[
        str | None, typer.Option(help="A moment, such as 2026-03-14T02:00; UTC where no zone is given.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Every change of what is live; with --at, what was live then, who approved it, and on what evidence."""
    home, lake, registry = open_home()
    read_protocol(model)
    entries = read_ledger(lake, model)
    if at is None:
        print_json({"model": model, "entries": [_told(home, x) for x in entries]}) if as_json else show_all(
            model, entries
        )
        if found := mismatch(registry, entries, model):
            refuse(f"{found}; {remedy(lake, model)}")
        return
    moment = _moment(at)
    live, why = live_at(entries, moment), why_nothing_is_live([x for x in entries if x.live_from <= moment])
    if as_json:
        told = {"live": _told(home, live) if live else None, "why_nothing": why or None}
        print_json({"model": model, "at": moment} | told)
    elif live is None:
        first = f"the first release was {_utc(entries[0].live_from)}" if entries else "nothing was ever released"
        console.print(f"{_utc(moment)}: nothing of {model} was live; {escape(why) or first}", highlight=False)
    else:
        show_one(home, live, moment)


@app.command()
@one_line_on_refusal
def rollback(
    model: str,
    reason: Annotated[str, typer.Option(help="Why, in a sentence; it is kept in the ledger.")],
    to: Annotated[int | None, typer.Option(help="A version once released; the one live before by default.")] = None,
    without_smoke_set: Annotated[
        bool, typer.Option("--without-smoke-set", help="For versions released before smoke sets were kept.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a version live again that was once released, with the daemon at work or not."""
    import dagster as dg

    from clinical_assets.lifecycle.champion_move import Platform
    from clinical_assets.lifecycle.rollback import roll_back

    home, lake, registry = open_home()
    protocol = read_protocol(model)
    refuse_identifiers(home, reason=reason)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        at = Platform(home, lake, registry, instance)
        done = roll_back(at, protocol, to, reason, person_at_terminal(), without_smoke_set=without_smoke_set)
    entry = done.entry
    if as_json:
        seconds = {"seconds_to_live": round(done.seconds_to_live, 2), "seconds": round(done.seconds, 2)}
        print_json(seconds | {"smoke_rows": done.smoke_rows, "live": _told(home, entry)})
        return
    before = "nothing" if entry.previous_version is None else f"version {entry.previous_version}"
    proved = f"{done.smoke_rows} rows scored as at its release" if done.smoke_rows else "no smoke set was kept"
    console.print(
        f"{model}: version {entry.version} is live in place of {before}, after "
        f"{done.seconds_to_live:.1f} s ({proved}; files unchanged; ledger entry {entry.number}; an incident is open)"
    )
    console.print(FILE_FOLLOWS)
    if entry.protocol_sha256 != protocol.sha256:
        console.print(
            f"It was released under protocol {entry.protocol_sha256[:12]}; now {protocol.sha256[:12]} is in force."
        )


@app.command()
@one_line_on_refusal
def withdraw(
    model: str,
    reason: Annotated[str, typer.Option(help="Why, in a sentence; it is kept in the ledger.")],
    as_json: JsonFlag = False,
) -> None:
    """Take the live version out of service: nothing is scored until one is released or put back."""
    import dagster as dg

    from clinical_assets.lifecycle import withdrawal
    from clinical_assets.lifecycle.champion_move import Platform

    home, lake, registry = open_home()
    read_protocol(model)
    refuse_identifiers(home, reason=reason)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        entry = withdrawal.withdraw(Platform(home, lake, registry, instance), model, reason, person_at_terminal())
    if as_json:
        print_json({"withdrawn": _told(home, entry)})
        return
    console.print(
        f"{model}: version {entry.version} is withdrawn and nothing is live (ledger entry {entry.number}; an incident "
        f'is open); to put it back: clinical rollback {model} --to {entry.version} --reason "..."'
    )
    console.print(FILE_FOLLOWS)


def show_all(model: str, entries: list[LedgerEntry]) -> None:
    """Every entry in a row."""
    table = Table(title=f"{model}: {len(entries)} entries, the chain of hashes is whole")
    for heading in ("no.", "live from (UTC)", "act", "version", "approved by", "actor and reason"):
        table.add_column(heading, overflow="fold")
    for x in entries:
        now = "none" if x.kind.leaves_nothing_live else str(x.version)
        version = now if x.previous_version is None else f"{now} (was {x.previous_version})"
        row = (str(x.number), f"{x.live_from:%Y-%m-%d %H:%M:%S}", x.kind.value, version)
        table.add_row(*row, escape(_approved(x, "\n")), escape(f"{x.actor}: {x.reason}"))
    console.print(table)


def show_one(home: Home, live: LedgerEntry, moment: datetime) -> None:
    """One entry as an answer: what was live, by which act, who approved it, on what evidence, trained on what."""
    table = Table(title=f"{_utc(moment)}: {live.model} version {live.version} was live", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, words in (
        ("live from", f"{_utc(live.live_from)}, by {live.kind.value} (entry {live.number}) of {live.actor}"),
        ("reason", live.reason),
        ("approved by", _approved(live, "; ")),
        ("evidence", f"{live.limits} limits judged in {home.report(live.model, live.version)}"),
        ("report", f"{live.report_sha256} ({_report_now(home, live)})"),
        ("model files", live.artefact_sha256),
        ("protocol", live.protocol_sha256),
        ("trained on", f"lake snapshot {live.training_set_snapshot}, months to {live.trained_through:%Y-%m}"),
        ("data", live.data_origin),
        ("entry", f"{live.sha256}; the chain of hashes is whole"),
    ):
        table.add_row(name, escape(words))
    console.print(table)


def _approved(entry: LedgerEntry, between: str) -> str:
    said = [f"{x.signer} as {x.role}{' (demonstration signer)' if x.demo else ''}" for x in entry.approvals]
    return between.join(said) or "nobody"


def _told(home: Home, entry: LedgerEntry) -> dict[str, Any]:
    report = {"report": home.report(entry.model, entry.version), "report_now": _report_now(home, entry)}
    return asdict(entry) | {"kind": entry.kind.value, "entry_sha256": entry.sha256} | report


def _report_now(home: Home, entry: LedgerEntry) -> str:
    path = home.report(entry.model, entry.version)
    if not path.is_file():
        return "the file is gone"
    return "the file is the one that was signed" if hash_file(path) == entry.report_sha256 else "the file was changed"


def _moment(at: str) -> datetime:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise typer.BadParameter(f"{at} is no moment; write 2026-03-14T02:00", param_hint="--at") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
