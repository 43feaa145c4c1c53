"""The release ledger: every change of what is live, as hash-chained entries that are only ever appended.

Belongs here: what an entry says, the chain of one model's entries, and what they answer. Does not belong here: where
they are stored, and what moves the alias.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

import polars as pl

FIRST = "0" * 64
"""What the first entry of a model gives as the hash of the one before it."""

UNTOLD = "unknown"
"""The actor of releases from before the ledger was kept."""


class LedgerError(RuntimeError):
    """The ledger does not allow what was asked, or is not whole; the message names versions and the remedy."""


class LedgerKind(StrEnum):
    """What changed the live version; `guard` is a rollback by the protocol's guard, `expiry` a withdrawal by it."""

    RELEASE = "release"
    ROLLBACK = "rollback"
    GUARD = "guard"
    WITHDRAWAL = "withdrawal"
    EXPIRY = "expiry"

    @property
    def leaves_nothing_live(self) -> bool:
        """Whether nothing of the model is live from then on."""
        return self in (LedgerKind.WITHDRAWAL, LedgerKind.EXPIRY)


@dataclass(frozen=True, slots=True)
class Approval:
    """A signature that a release rested on."""

    signer: str
    role: str
    signed_at: str
    demo: bool


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One change of what is live, and all that it rested on.

    `number` counts a model's entries from 1; `limits` is how many limits its report judged; `smoke_sha256` names the
    rows that the version is proved on before it is ever live again, empty where none were kept; a rollback has the
    approvals and the evidence of the release it goes back to, a withdrawal those of the version that ceases to be live,
    which is both its `version` and its `previous_version`.
    """

    model: str
    number: int
    live_from: datetime
    kind: LedgerKind
    version: int
    previous_version: int | None
    reason: str
    actor: str
    run_id: str
    artefact_sha256: str
    report_sha256: str
    protocol_sha256: str
    smoke_sha256: str
    limits: int
    approvals: tuple[Approval, ...]
    training_set_snapshot: int
    trained_through: date
    data_origin: str
    previous_sha256: str

    def canonical(self) -> bytes:
        """What is hashed: JSON with sorted keys and no spaces, times in UTC to the microsecond."""
        said = asdict(self) | {
            "live_from": self.live_from.astimezone(UTC).isoformat(timespec="microseconds"),
            "trained_through": self.trained_through.isoformat(),
        }
        return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def sha256(self) -> str:
        """The hash that the next entry gives, and that the audit trail holds."""
        return hashlib.sha256(self.canonical()).hexdigest()


LEDGER_DESCRIPTIONS = {
    "model": "The model's name",
    "number": "Counts the model's entries from 1, without a gap",
    "live_from": "When it became live, or ceased to be, UTC",
    "kind": "release, rollback, guard (a rollback by the protocol's own guard), withdrawal (by a person; nothing is "
    "live from then on) or expiry (a withdrawal by the protocol)",
    "version": "The version that is live from then on; of a withdrawal or an expiry the one that ceased to be live",
    "previous_version": "The version that was live until then, if any",
    "reason": "Why, in a sentence",
    "actor": "Who did it: a signer's name, user:ACCOUNT, run:RUN, automation, or unknown (before the ledger was kept)",
    "run_id": "The Dagster run that did it; empty where a person did it at a terminal",
    "artefact_sha256": "SHA-256 over the version's files",
    "report_sha256": "SHA-256 of the validation report it was released on",
    "protocol_sha256": "SHA-256 of the protocol it was released under",
    "smoke_sha256": "SHA-256 of its smoke set and what it must say of it; empty where none was kept",
    "limits": "How many limits of the protocol its validation report judged",
    "approvals": "The signatures it rests on: signer, role, signed_at, and whether it is a demonstration signer",
    "training_set_snapshot": "The lake snapshot that holds its training set as it was",
    "trained_through": "The last month whose rows the version learnt from",
    "data_origin": "Where the rows come from: real:PUBLISHER, real:PUBLISHER:modified, or simulated",
    "previous_sha256": "SHA-256 of the model's entry before, 64 zeros for the first",
    "entry_sha256": "SHA-256 of this entry (canonical JSON of all its columns but this one)",
}

_SCHEMA = {
    "number": pl.Int32,
    "version": pl.Int32,
    "previous_version": pl.Int32,
    "limits": pl.Int32,
    "live_from": pl.Datetime("us", "UTC"),
    "approvals": pl.List(
        pl.Struct({"signer": pl.String, "role": pl.String, "signed_at": pl.String, "demo": pl.Boolean})
    ),
}


def ledger_table(entries: Sequence[LedgerEntry]) -> pl.DataFrame:
    """One row an entry, each beside its own hash."""
    rows = [asdict(x) | {"kind": x.kind.value, "entry_sha256": x.sha256} for x in entries]
    return pl.DataFrame([row | {"approvals": list(row["approvals"])} for row in rows], schema_overrides=_SCHEMA)


def entries_of(table: pl.DataFrame) -> list[LedgerEntry]:
    """The entries of one model in order; raises LedgerError with the first that was edited, added or removed."""
    entries, before = [], FIRST
    names = [field.name for field in fields(LedgerEntry)]
    for place, row in enumerate(table.sort("number").iter_rows(named=True), start=1):
        entry = LedgerEntry(
            **{name: row[name] for name in names}
            | {
                "kind": LedgerKind(row["kind"]),
                "live_from": row["live_from"].astimezone(UTC),
                "approvals": tuple(Approval(**approval) for approval in row["approvals"]),
            }
        )
        fault = ""
        if entry.number != place:
            fault = f"it is entry {entry.number} in the place of entry {place}"
        elif entry.previous_sha256 != before:
            fault = "it does not follow from the entry before"
        elif entry.sha256 != row["entry_sha256"]:
            fault = "it was edited after it was written"
        if fault:
            raise LedgerError(
                f"governance.ledger: entry {entry.number} of {entry.model} is not to be trusted: {fault}; compare with "
                "the audit trail (`clinical audit verify`) and restore the lake"
            )
        entries.append(entry)
        before = entry.sha256
    return entries


def last_of(entries: Sequence[LedgerEntry]) -> LedgerEntry | None:
    """The entry that says what is live now; None where nothing is."""
    return entries[-1] if entries and not entries[-1].kind.leaves_nothing_live else None


def why_nothing_is_live(entries: Sequence[LedgerEntry]) -> str:
    """Which version was taken out of service, when, by whom and why; empty where one is live, or none ever was."""
    if not entries or not entries[-1].kind.leaves_nothing_live:
        return ""
    last = entries[-1]
    return f"version {last.version} was withdrawn on {last.live_from:%Y-%m-%d %H:%M} UTC by {last.actor}: {last.reason}"


def valid_until(live: LedgerEntry, days: int | None) -> datetime | None:
    """When a live version goes out of service by a protocol that allows it so many days; None where it never does."""
    return live.live_from + timedelta(days=days) if days is not None else None


def live_at(entries: Sequence[LedgerEntry], at: datetime) -> LedgerEntry | None:
    """The entry that says what was live at a moment; None where nothing was."""
    return last_of([entry for entry in entries if entry.live_from <= at])


def release_of(entries: Sequence[LedgerEntry], version: int) -> LedgerEntry | None:
    """The last release of a version; None where it never was released."""
    releases = [x for x in entries if x.version == version and x.kind is LedgerKind.RELEASE]
    return releases[-1] if releases else None


def version_before(entries: Sequence[LedgerEntry], version: int) -> int | None:
    """The version that was live when this one was released: a second rollback goes one further back, not forth."""
    release = release_of(entries, version)
    return release.previous_version if release else None


def released_versions(entries: Sequence[LedgerEntry]) -> str:
    """The versions that were ever released, in words."""
    return ", ".join(str(x) for x in sorted({x.version for x in entries if x.kind is LedgerKind.RELEASE}))


def withdrawn_at(entries: Sequence[LedgerEntry], version: int) -> datetime | None:
    """When a version was last rolled back from or withdrawn; signatures of before do not release it again."""
    moments = [
        entry.live_from
        for entry in entries
        if entry.previous_version == version
        and (entry.kind.leaves_nothing_live or (entry.kind is not LedgerKind.RELEASE and entry.version != version))
    ]
    return max(moments, default=None)
