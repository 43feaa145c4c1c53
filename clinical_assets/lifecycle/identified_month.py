"""A month on its way through the identified zone: what its feed holds, what is declared of it, what is left of it.

Belongs here: which archive has an identified feed, and what the protocol and the contracts declare of each column. Does
not belong here: the assets (data.py), the rules (governance/safe_harbor.py), how identified rows are stored.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import dataframely as dy
import polars as pl

from clinical_assets.archives.archive import Archive, MonthWindow, contract_of
from clinical_assets.archives.identified_feed import SimulatedIdentity, identify
from clinical_assets.governance.audit_trail import AuditTrail, run_actor
from clinical_assets.governance.canaries import Canary
from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.identified_zone import IdentifiedZone
from clinical_assets.governance.pseudonyms import load_or_create_key, pseudonymise, read_secret
from clinical_assets.governance.reidentification import ReidentificationTable, officers_of
from clinical_assets.governance.safe_harbor import DeclaredColumn, Rule, SafeHarborError, de_identify, derive_shift_key
from clinical_assets.governance.signers import read_signers
from clinical_assets.learning.splits import take_patients
from clinical_assets.protocol import ModelProtocol, load_object
from clinical_assets.resources.home import Home

MRN = "mrn"
CARRIED_BY = {
    "family_name": IdentifierClass.NAMES,
    "street_address": IdentifierClass.GEOGRAPHIC,
    "telephone": IdentifierClass.TELEPHONE,
    "fax": IdentifierClass.FAX,
    "email": IdentifierClass.EMAIL,
    "ssn": IdentifierClass.SSN,
    "health_plan_number": IdentifierClass.HEALTH_PLAN,
    "account_number": IdentifierClass.ACCOUNT,
    "licence_number": IdentifierClass.LICENCE,
    "vehicle_plate": IdentifierClass.VEHICLE,
    "device_serial": IdentifierClass.DEVICE,
    "web_address": IdentifierClass.URL,
    "ip_address": IdentifierClass.IP_ADDRESS,
    "fingerprint": IdentifierClass.BIOMETRIC,
    "face_photograph": IdentifierClass.PHOTOGRAPH,
    "study_number": IdentifierClass.OTHER_UNIQUE,
}
"""Which column of the feed carries the canary of which kind."""

SIMULATED = "simulated"
NO_IDENTIFIERS = "none: the archive comes without direct identifiers, so there is no identified feed"


def zone_of(home: Home) -> IdentifiedZone:
    """The identified zone of a home."""
    return IdentifiedZone(home.identified, home.identified_key, AuditTrail(home.audit))


def shift_key_of(home: Home) -> bytes:
    """The key of the patients' date shifts: of the pseudonyms' first key, kept when that is renewed."""
    if home.shift_key.exists():
        return read_secret(home.shift_key)
    return derive_shift_key(load_or_create_key(home.pseudonym_key))


def has_identified_feed(archive: Archive) -> bool:
    """Whether the archive's rows come with direct identifiers: simulated ones do, published ones were de-identified."""
    return archive.data_origin == SIMULATED


def archived_rows(protocol: ModelProtocol, archive: Archive, window: MonthWindow) -> pl.DataFrame:
    """The rows of months as the cohort function makes them, under the archive's own identifiers, with their origin."""
    rows = load_object(protocol.cohort)(archive, window)
    rows = take_patients(rows, protocol.patient, archive.share_of_patients)
    return rows.with_columns(data_origin=pl.lit(archive.data_origin))


def identified_rows(protocol: ModelProtocol, archive: Archive, month: date, planted: Sequence[Canary]) -> pl.DataFrame:
    """The month as a hospital's feed would deliver it: the archive's rows, and who each patient is (simulated).

    One patient of the month carries the canaries, so that a leak of the feed, of any column, is found for certain.
    """
    ages = [item.column for item in declared_columns(protocol) if item.rule is Rule.POOL_AGE]
    rows = archived_rows(protocol, archive, MonthWindow.of_month(month))
    numbers_first = sorted(ages, key=lambda column: rows.schema[column] == pl.String)
    feed = identify(
        rows,
        patient=protocol.patient,
        index_time=protocol.index_time,
        age=next(iter(numbers_first), None),
        seed=archive.sha256,
    )
    return plant(feed, protocol.patient, planted)


def plant(feed: pl.DataFrame, patient: str, planted: Sequence[Canary]) -> pl.DataFrame:
    """The feed in which the first patient, by number, has the canaries in place of identifiers, and all in the note.

    The record number stays the patient's own, so that who is behind a pseudonym is the same in every month; its canary
    stands in the note alone. So do those of kinds that the feed has as a date.
    """
    carrier = pl.col(patient) == pl.col(patient).min()
    values = {canary.identifier_class: canary.value for canary in planted}
    placed = {column: values[identifier] for column, identifier in CARRIED_BY.items()}
    note = "SIMULATED NOTE. Canaries: " + "; ".join(values.values())
    return feed.with_columns(
        pl.when(carrier).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)
        for column, value in {**placed, "clinical_note": note}.items()
    )


def de_identified_rows(home: Home, protocol: ModelProtocol, month: date, run_id: str) -> pl.DataFrame:
    """What Safe Harbor leaves of a month of the identified feed; keeps who is behind a pseudonym for the officers."""
    feed = zone_of(home).read(
        protocol.model, month, actor=run_actor(run_id), reason=f"de-identification for {protocol.model}/dataset"
    )
    key = load_or_create_key(home.pseudonym_key)
    behind = feed.select(pl.col(protocol.patient).alias("pseudonym"), MRN, "data_origin").unique(maintain_order=True)
    officers = officers_of(read_signers(home.signer_files).values(), datetime.now(UTC))
    ReidentificationTable(home.identified).write(
        protocol.model, month, pseudonymise(behind, ["pseudonym"], key), officers
    )
    return de_identify(
        feed, declared_columns(protocol), patient=protocol.patient, month="month", key=key, shift_key=shift_key_of(home)
    )


def pseudonymous_rows(home: Home, protocol: ModelProtocol, archive: Archive, window: MonthWindow) -> pl.DataFrame:
    """Months of an archive that its publisher has de-identified, with pseudonyms in place of its numbers."""
    key = load_or_create_key(home.pseudonym_key)
    return pseudonymise(archived_rows(protocol, archive, window), (protocol.unit, protocol.patient), key)


def declared_columns(protocol: ModelProtocol) -> tuple[DeclaredColumn, ...]:
    """What the identified feed of a model holds, column by column, and what becomes of each under Safe Harbor.

    The protocol says which columns name the unit and the patient and which is the time; the contracts of the cohort and
    of the identity say the rest, in the metadata `identifier` and `safe_harbor` of a column. A column of a contract
    that says neither tells nothing of who the patient is. Raises SafeHarborError for a cohort without a contract.
    """
    contract = contract_of(load_object(protocol.cohort))
    if contract is None:
        raise SafeHarborError(
            f"{protocol.cohort} promises no contract, so nothing is declared of its columns; annotate its return as "
            "dy.DataFrame[<schema>]"
        )
    by_protocol = {
        "data_origin": (None, Rule.KEEP),
        "month": (IdentifierClass.DATES, Rule.BATCH_MONTH),
        "outcome_known_on": (IdentifierClass.DATES, Rule.MONTH_END),
        protocol.index_time: (IdentifierClass.DATES, Rule.SHIFT),
        protocol.patient: (IdentifierClass.MRN, Rule.PSEUDONYM),
        protocol.unit: (IdentifierClass.OTHER_UNIQUE, Rule.PSEUDONYM),
    }
    declared = [DeclaredColumn(column, *treatment) for column, treatment in by_protocol.items()]
    for schema in (contract, SimulatedIdentity):
        declared += (x for x in _declared_by(schema, protocol.images_identifiable) if x.column not in by_protocol)
    return tuple(declared)


def declaration_table(protocol: ModelProtocol) -> pl.DataFrame:
    """The declaration for a reader: column, the paragraph of 45 CFR 164.514(b)(2)(i), kind of identifier, rule."""
    return pl.DataFrame(
        [
            (x.column, f"({x.identifier.letter})" if x.identifier else "", x.identifier or "none", x.rule.value)
            for x in declared_columns(protocol)
            if x.rule is not Rule.KEEP
        ],
        schema=["column", "paragraph", "identifier", "rule"],
        orient="row",
    )


def _declared_by(contract: type[dy.Schema], images_identifiable: bool) -> Iterator[DeclaredColumn]:
    for name, column in contract.columns().items():
        said: dict[str, Any] = column.metadata or {}
        if isinstance(column, dy.Binary) and not said and not images_identifiable:
            said = {"identifier": IdentifierClass.PHOTOGRAPH, "safe_harbor": Rule.IMAGE}
        try:
            identifier = IdentifierClass(said["identifier"]) if "identifier" in said else None
            yield DeclaredColumn(name, identifier, Rule(said.get("safe_harbor", Rule.KEEP)))
        except ValueError as error:
            raise SafeHarborError(f"{contract.__name__}.{name}: {error}; correct the column's metadata") from error
