"""The verbs of privacy officers: reidentify, keys rotate-pseudonyms.

Belongs here: who may ask who is behind a pseudonym, what is recorded of it, what is shown. Does not belong here: how
tables are sealed, and how identifiers are removed.
"""

from dataclasses import asdict
from typing import Annotated

import typer

from clinical_assets.cli.signing import KeyOption, SignerOption, find_signer, keys, unlock_key
from clinical_assets.cli.terminal import REFUSALS, JsonFlag, one_line_on_refusal, open_home, print_json, refuse
from clinical_assets.governance.audit_trail import AuditTrail, person_at_terminal
from clinical_assets.governance.reidentification import (
    PRIVACY_OFFICER,
    ReidentificationError,
    ReidentificationTable,
    Reidentified,
    hash_pseudonym,
)
from clinical_assets.governance.signatures import open_key
from clinical_assets.protocol import protocol_names, read_protocol
from clinical_assets.resources.home import Home

app = typer.Typer()


@app.command()
@one_line_on_refusal
def reidentify(
    pseudonym: str,
    reason: Annotated[str, typer.Option(help="Why, in a sentence; it is kept in the audit trail.")],
    signer: SignerOption,
    key: KeyOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say who is behind a pseudonym: for a privacy officer alone, with a reason, and recorded."""
    home, _, _ = open_home()
    trail, details = AuditTrail(home.audit), {"pseudonym_sha256": hash_pseudonym(pseudonym)}
    try:
        if not reason.strip():
            raise ReidentificationError("a re-identification needs its reason")
        person = ask_as_officer(home, pseudonym, signer, key)
    except REFUSALS as error:
        trail.record(
            "reidentify",
            actor=person_at_terminal(),
            target="person",
            outcome="failure",
            reason=f"{reason} (refused: {error})",
            details={**details, "signer_named": signer},
        )
        raise
    trail.record("reidentify", actor=signer, target="person", reason=reason, details=details)
    if as_json:
        print_json(asdict(person))
        return
    typer.echo(f"medical record number: {person.mrn} ({person.data_origin})")
    typer.echo(f"found in: {', '.join(person.found_in)}")
    typer.echo("This reading is recorded in the audit trail, with your name and your reason.")


@keys.command("rotate-pseudonyms")
@one_line_on_refusal
def keys_rotate_pseudonyms(
    reason: Annotated[str, typer.Option(help="Why, in a sentence; it is kept in the audit trail.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Renew the key of the pseudonyms and every pseudonym in the lake; patients keep their splits."""
    from clinical_assets.lifecycle.pseudonym_rotation import rotate_pseudonyms

    home, lake, _ = open_home()
    if not reason.strip():
        refuse("a rotation needs its reason")
    if not yes and not typer.confirm("Renew every pseudonym in the lake? No run may be at work meanwhile."):
        refuse("not rotated")
    protocols = [read_protocol(model) for model in protocol_names()]
    rotation = rotate_pseudonyms(home, lake, protocols, actor=person_at_terminal(), reason=reason)
    typer.echo(f"renewed: {rotation.pseudonyms:,} pseudonyms in {len(rotation.tables)} tables")
    typer.echo("Earlier snapshots of the lake and files handed out before still hold the former ones.")
    typer.echo("Publish the analysts' file again: `clinical publish`")


def ask_as_officer(home: Home, pseudonym: str, signer: str, key: KeyOption) -> Reidentified:
    """Who is behind a pseudonym, for a signer who is a privacy officer and holds the private key."""
    officer = find_signer(home, signer)
    if PRIVACY_OFFICER not in officer.roles:
        raise ReidentificationError(f"{signer} does not hold the role {PRIVACY_OFFICER}")
    private = open_key(*unlock_key(officer, key))
    if private.public_key().public_bytes_raw().hex() != officer.public_key:
        raise ReidentificationError(f"this is not the key that stands for {signer} in the signers file")
    return ReidentificationTable(home.identified).find(pseudonym, private.private_bytes_raw())
