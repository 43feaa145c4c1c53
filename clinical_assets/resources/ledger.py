"""The ledger of one home: its table in the lake, what it says of older homes, and the lock under which it is written.

Belongs here: reading and appending entries, and whether the registry's champion is the ledger's. Does not belong here:
what an entry means, and the act that makes one.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC

import polars as pl

from clinical_assets.governance.ledger import (
    FIRST,
    LEDGER_DESCRIPTIONS,
    UNTOLD,
    Approval,
    LedgerEntry,
    LedgerError,
    LedgerKind,
    entries_of,
    last_of,
    ledger_table,
    why_nothing_is_live,
)
from clinical_assets.protocol import ModelVersion
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import CHAMPION, Registry

LEDGER_TABLE = "governance.ledger"
PATIENCE_SECONDS = 60.0


class AtWorkError(LedgerError):
    """Another release, rollback or withdrawal of the model is at work."""


def read_ledger(lake: Lake, model: str) -> list[LedgerEntry]:
    """A model's entries, oldest first; raises LedgerError with the first that is not to be trusted.

    A home from before the ledger was kept has none: they are derived from its table of releases, always alike, and
    written down with the next entry.
    """
    rows = lake.read(LEDGER_TABLE, where={"model": model}) if lake.exists(LEDGER_TABLE) else pl.DataFrame()
    return entries_of(rows) if rows.height else _earlier_releases(lake, model)


def append_entry(lake: Lake, entry: LedgerEntry) -> None:
    """Add an entry that follows from the last one, under the model's lock; one that is there already is left alone."""
    kept = lake.read(LEDGER_TABLE, where={"model": entry.model}) if lake.exists(LEDGER_TABLE) else pl.DataFrame()
    entries = entries_of(kept) if kept.height else []
    if entries and entries[-1] == entry:
        return
    before = entries or _earlier_releases(lake, entry.model)
    if entry.previous_sha256 != (before[-1].sha256 if before else FIRST):
        raise LedgerError(f"entry {entry.number} of {entry.model} does not follow from the ledger's last; try again")
    lake.append(
        LEDGER_TABLE,
        ledger_table([entry] if entries else [*before, entry]),
        author=entry.run_id or entry.actor,
        message=f"{entry.kind} of {entry.model} version {entry.version}",
        description="Every change of what is live, of every model, in order: never edited, each row holds the hash of "
        "the one before. What was live when, one row a period: governance.live_versions.",
        comments=LEDGER_DESCRIPTIONS,
    )


def mismatch(registry: Registry, entries: list[LedgerEntry], model: str) -> str:
    """How the registry's champion differs from the version that the ledger says is live; empty where it does not."""
    champion, live = registry.find(model, CHAMPION), last_of(entries)
    if champion is None and live is None:
        return ""
    if champion is None or live is None or champion.version != live.version:
        aliased = f"version {champion.version}" if champion else "no version"
        why = why_nothing_is_live(entries)
        known = f"version {live.version} is live" if live else "nothing is live" + (f": {why}" if why else "")
        return f"the registry's champion of {model} is {aliased}, and by the ledger {known}"
    if champion.artefact_sha256 != live.artefact_sha256:
        return (
            f"the registry says that the files of {model} version {live.version} have the sha256 "
            f"{champion.artefact_sha256[:12]}, and by the ledger {live.artefact_sha256[:12]} is live"
        )
    return ""


def verified_champion(home: Home, lake: Lake, registry: Registry, model: str) -> ModelVersion:
    """The champion that the ledger knows.

    Raises LedgerError where the alias was moved past the platform, or the live version was withdrawn.
    """
    champion = registry.find(model, CHAMPION)
    if champion is None or mismatch(registry, read_ledger(lake, model), model):
        # Between its moving of the alias and its entry in the ledger, every act holds the lock.
        with exclusive(home, model):
            champion, entries = registry.find(model, CHAMPION), read_ledger(lake, model)
            found = mismatch(registry, entries, model)
        if champion is None and (why := why_nothing_is_live(entries)):
            raise LedgerError(
                f"nothing of {model} is live: {why}; nothing is scored until a version is released or put back with "
                f'`clinical rollback {model} --to N --reason "..."`'
            )
        if champion is not None and found:
            raise LedgerError(f"{found}; nothing is scored with it: {remedy(lake, model)}")
    return champion or registry.champion(model)


def remedy(lake: Lake, model: str) -> str:
    """What a person does about an alias that was moved past the platform."""
    entries = read_ledger(lake, model)
    if live := last_of(entries):
        return f'put it back with `clinical rollback {model} --to {live.version} --reason "..."`'
    otherwise = f', or put a version back with `clinical rollback {model} --to N --reason "..."`' if entries else ""
    return f"delete the alias `{CHAMPION}` of {model} in MLflow, and have a candidate signed and released{otherwise}"


@contextmanager
def exclusive(home: Home, model: str, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Alone with what is live of a model, among all processes of this machine, until the block ends.

    Raises AtWorkError where another act does not end in time. A killed process holds no lock.
    """
    home.acts.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(home.acts / f"{model}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    end = time.monotonic() + patience_seconds
    try:
        while not _locked(lock):
            if time.monotonic() > end:
                raise AtWorkError(
                    f"another act on {model} is at work: a release, rollback or withdrawal; wait for it, or end its run"
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _earlier_releases(lake: Lake, model: str) -> list[LedgerEntry]:
    """The entries that follow from the releases of a home on which no ledger was kept yet."""
    if not lake.exists(f"{model}.release"):
        return []
    entries, before = [], FIRST
    signatures, judged = lake.read(f"{model}.sign_off"), lake.read(f"{model}.validation_report", columns=["version"])
    for number, row in enumerate(lake.read(f"{model}.release").sort("released_at").iter_rows(named=True), start=1):
        valid = signatures.filter(pl.col("version") == row["version"], pl.col("fault").is_null(), decision="approve")
        entry = LedgerEntry(
            model=model,
            number=number,
            live_from=row["released_at"].astimezone(UTC),
            kind=LedgerKind.RELEASE,
            version=row["version"],
            previous_version=row["previous_champion"],
            reason="released before the ledger was kept; written down from the table of releases",
            actor=UNTOLD,
            run_id="",
            artefact_sha256=row["artefact_sha256"],
            report_sha256=row["report_sha256"],
            protocol_sha256=row["protocol_sha256"],
            smoke_sha256="",
            limits=judged.filter(version=row["version"]).height,
            approvals=tuple(
                Approval(x["signer"], x["role"], x["signed_at"].isoformat(), x["demo"])
                for x in valid.sort("role", "signed_at").iter_rows(named=True)
            ),
            training_set_snapshot=row["training_set_snapshot"],
            trained_through=row["trained_through"],
            data_origin=row["data_origin"],
            previous_sha256=before,
        )
        entries.append(entry)
        before = entry.sha256
    return entries
