"""The rotation of the pseudonyms' key: the lake's tables get new pseudonyms, and every patient keeps their split.

Belongs here: which tables hold pseudonyms, in which order they are rewritten, what stands when the act is interrupted.
Does not belong here: how a pseudonym is made, who may rotate.

The new key lies beside the old one until all is done; as long as both are there, no month is taken in, and the same
call finishes what was interrupted: a value already new is left as it is. Then the new key takes the old one's place,
and the old one is gone. What a rotation cannot reach is what was copied before it: earlier snapshots of the lake, which
pin what a model was trained on, hold the former pseudonyms until they are expired, and so do files handed to others.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl

from clinical_assets.archives.archive import MonthWindow
from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.identified_zone import write_private
from clinical_assets.governance.pseudonyms import (
    KEY_BYTES,
    PseudonymError,
    next_key,
    pseudonymise,
    read_secret,
    refuse_key_in_environment,
)
from clinical_assets.governance.reidentification import ReidentificationTable, officers_of
from clinical_assets.governance.safe_harbor import derive_shift_key
from clinical_assets.governance.signers import read_signers
from clinical_assets.learning.splits import BUCKET, kept_split, patient_buckets
from clinical_assets.lifecycle.identified_month import MRN, archived_rows, has_identified_feed, zone_of
from clinical_assets.protocol import ModelProtocol, load_object
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake

PLACE = "place"
MESSAGE = "rotation of the pseudonyms"
DESCRIPTION = "The split number that each patient had before the pseudonyms were renewed, and keeps for ever."


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation renewed: pseudonyms and tables."""

    pseudonyms: int
    tables: tuple[str, ...]


def rotate_pseudonyms(
    home: Home, lake: Lake, protocols: Sequence[ModelProtocol], *, actor: str, reason: str
) -> Rotation:
    """Renew the key and every pseudonym of these models' tables; called again, finish what was interrupted.

    Nobody's dates move and nobody's split changes. No run may be at work meanwhile. Raises PseudonymError, before
    anything is written, for a key given in the environment and for a table with pseudonyms that the models' archives
    and feeds do not explain.
    """
    refuse_key_in_environment()
    old, following = read_secret(home.pseudonym_key), next_key(home.pseudonym_key)
    taken_in = [protocol for protocol in protocols if lake.exists(f"{protocol.model}.dataset")]
    new = read_secret(following) if following.exists() else secrets.token_bytes(KEY_BYTES)
    renewed = {protocol.model: _renewed(home, lake, protocol, (old, new), actor) for protocol in taken_in}
    for protocol in taken_in:
        _require_explained(lake, protocol, renewed[protocol.model])
    if not home.shift_key.exists():
        write_private(home.shift_key, derive_shift_key(old))
    write_private(following, new)
    tables: list[str] = []
    for protocol in taken_in:
        _keep_splits(lake, protocol, renewed[protocol.model], actor)
        tables += _rewrite(lake, protocol, renewed[protocol.model], actor)
        _seal_again(home, lake, protocol, (old, new), actor)
    following.replace(home.pseudonym_key)
    rotation = Rotation(sum(len(x) for x in renewed.values()), tuple(tables))
    AuditTrail(home.audit).record(
        "key_rotated",
        actor=actor,
        target=home.pseudonym_key.name,
        reason=reason,
        details={"pseudonyms": rotation.pseudonyms, "tables": len(tables)},
    )
    return rotation


def _renewed(home: Home, lake: Lake, protocol: ModelProtocol, keys: tuple[bytes, bytes], actor: str) -> dict[str, str]:
    """The new pseudonym of every old one of a model: of units, patients, and places of records in quarantine."""
    archive = home.open_archive(protocol)
    identifiers: set[str] = set()
    for month in lake.months(f"{protocol.model}.dataset"):
        rows = _identified(home, protocol, month, actor)
        for column in (protocol.unit, protocol.patient):
            identifiers |= set(rows[column].cast(pl.String))
        if protocol.faults:
            places = load_object(protocol.faults)(archive, MonthWindow.of_month(month))[PLACE]
            identifiers |= set(places.drop_nulls().cast(pl.String))
    named = pl.DataFrame({"identifier": sorted(identifiers)}, schema={"identifier": pl.String})
    before, after = (pseudonymise(named, ["identifier"], key)["identifier"] for key in keys)
    return dict(zip(before, after, strict=True))


def _identified(home: Home, protocol: ModelProtocol, month: date, actor: str) -> pl.DataFrame:
    archive = home.open_archive(protocol)
    if has_identified_feed(archive):
        return zone_of(home).read(protocol.model, month, actor=actor, reason=MESSAGE)
    return archived_rows(protocol, archive, MonthWindow.of_month(month))


def _tables_with_pseudonyms(lake: Lake, protocol: ModelProtocol) -> Iterator[tuple[str, pl.DataFrame, list[str]]]:
    """The tables of a model, their rows, and the columns of them that hold pseudonyms."""
    for table in lake.tables():
        if table.partition(".")[0] != protocol.model or table == kept_split(protocol.model):
            continue
        rows = lake.read(table)
        if columns := [x for x in (protocol.unit, protocol.patient, PLACE) if x in rows.columns]:
            yield table, rows, columns


def _require_explained(lake: Lake, protocol: ModelProtocol, renewed: dict[str, str]) -> None:
    known = renewed.keys() | set(renewed.values())
    for table, rows, columns in _tables_with_pseudonyms(lake, protocol):
        for column in columns:
            if strangers := len(set(rows[column].drop_nulls()) - known):
                raise PseudonymError(
                    f"{table}: {strangers:,} values of {column} belong to no identifier of the archive or feed; "
                    "materialise these months again, then rotate"
                )


def _keep_splits(lake: Lake, protocol: ModelProtocol, renewed: dict[str, str], actor: str) -> None:
    """Write down the split number of every patient under the new pseudonym, as it was under the old one."""
    table = kept_split(protocol.model)
    patients = set(lake.read(f"{protocol.model}.dataset", columns=[protocol.patient])[protocol.patient])
    pairs = [(old, new) for old, new in renewed.items() if old in patients or new in patients]
    before = pl.Series(protocol.patient, [old for old, _ in pairs], dtype=pl.String)
    kept = pl.DataFrame({protocol.patient: [new for _, new in pairs], BUCKET: patient_buckets(before)})
    if lake.exists(table):
        known = dict(lake.read(table).select(protocol.patient, BUCKET).iter_rows())
        kept = kept.with_columns(
            pl.Series(BUCKET, [known.get(new, known.get(old)) for old, new in pairs], dtype=pl.Int8).fill_null(
                kept[BUCKET]
            )
        )
    comments = {protocol.patient: "Patient, a pseudonym", BUCKET: "Split number, 0 to 99"}
    lake.write_table(table, kept, author=actor, message=MESSAGE, description=DESCRIPTION, comments=comments)


def _rewrite(lake: Lake, protocol: ModelProtocol, renewed: dict[str, str], actor: str) -> list[str]:
    rewritten = []
    for table, rows, columns in _tables_with_pseudonyms(lake, protocol):
        frame = rows.with_columns(pl.col(columns).replace(renewed))
        lake.write_table(table, frame, author=actor, message=MESSAGE)
        rewritten.append(table)
    return rewritten


def _seal_again(home: Home, lake: Lake, protocol: ModelProtocol, keys: tuple[bytes, bytes], actor: str) -> None:
    """Let the privacy officers resolve the new pseudonyms, and the old ones that stand on paper."""
    if not has_identified_feed(home.open_archive(protocol)):
        return
    officers = officers_of(read_signers(home.signer_files).values(), datetime.now(UTC))
    for month in lake.months(f"{protocol.model}.dataset"):
        behind = _identified(home, protocol, month, actor).select(
            pl.col(protocol.patient).alias("pseudonym"), MRN, "data_origin"
        )
        both = pl.concat([pseudonymise(behind.unique(), ["pseudonym"], key) for key in keys])
        ReidentificationTable(home.identified).write(protocol.model, month, both, officers)
