from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from clinical_assets.governance.ledger import (
    FIRST,
    LEDGER_DESCRIPTIONS,
    Approval,
    LedgerEntry,
    LedgerError,
    LedgerKind,
    entries_of,
    last_of,
    ledger_table,
    live_at,
    valid_until,
    version_before,
    why_nothing_is_live,
    withdrawn_at,
)

START = datetime(2026, 3, 14, 2, tzinfo=UTC)


def history(*acts: tuple[LedgerKind, int]) -> list[LedgerEntry]:
    """A chain of acts, one an hour."""
    entries: list[LedgerEntry] = []
    for kind, version in acts:
        before = entries[-1] if entries else None
        entry = LedgerEntry(
            model="toy",
            number=len(entries) + 1,
            live_from=START + timedelta(hours=len(entries)),
            kind=kind,
            version=version,
            previous_version=before.version if before else None,
            reason="a drill",
            actor="user:ann",
            run_id="",
            artefact_sha256=f"{version}" * 64,
            report_sha256="b" * 64,
            protocol_sha256="c" * 64,
            smoke_sha256="d" * 64,
            limits=3,
            approvals=(Approval("ann", "mlops", "2026-03-14T01:00:00+00:00", False),),
            training_set_snapshot=7,
            trained_through=date(2026, 2, 1),
            data_origin="simulated",
            previous_sha256=before.sha256 if before else FIRST,
        )
        entries.append(entry)
    return entries


RELEASE, ROLLBACK = LedgerKind.RELEASE, LedgerKind.ROLLBACK
ENDINGS = (LedgerKind.WITHDRAWAL, LedgerKind.EXPIRY)
THREE_AND_BACK = history((RELEASE, 1), (RELEASE, 2), (RELEASE, 3), (ROLLBACK, 2))


def test_entries_come_back_from_their_table_as_they_were() -> None:
    table = ledger_table(THREE_AND_BACK)
    assert entries_of(table.sample(fraction=1.0, shuffle=True, seed=1)) == THREE_AND_BACK
    assert set(table.columns) == set(LEDGER_DESCRIPTIONS)
    assert ledger_table(history((RELEASE, 1))).schema == table.schema


EDITS: dict[str, Any] = {
    "version": pl.lit(9, pl.Int32),
    "previous_version": pl.lit(9, pl.Int32),
    "live_from": pl.col("live_from") + timedelta(microseconds=1),
    "kind": pl.lit("expiry"),
    "reason": pl.lit("a real one"),
    "actor": pl.lit("user:bob"),
    "run_id": pl.lit("x"),
    "artefact_sha256": pl.lit("e" * 64),
    "report_sha256": pl.lit("e" * 64),
    "protocol_sha256": pl.lit("e" * 64),
    "smoke_sha256": pl.lit(""),
    "limits": pl.lit(2, pl.Int32),
    "training_set_snapshot": pl.lit(8),
    "trained_through": pl.lit(date(2026, 1, 1)),
    "data_origin": pl.lit("real:UCI"),
    "previous_sha256": pl.lit(FIRST),
    "number": pl.lit(1, pl.Int32),
    "entry_sha256": pl.lit(FIRST),
    "approvals": pl.col("approvals").list.head(0),
}


@pytest.mark.parametrize("column", EDITS)
def test_an_edited_value_of_any_column_is_found(column: str) -> None:
    edited = ledger_table(THREE_AND_BACK).with_columns(
        pl.when(number=2).then(EDITS[column]).otherwise(pl.col(column)).alias(column)
    )
    with pytest.raises(LedgerError, match=r"entry \d of toy is not to be trusted"):
        entries_of(edited)


def test_every_column_of_the_ledger_is_attacked_above() -> None:
    assert set(EDITS) == set(LEDGER_DESCRIPTIONS) - {"model"}


@pytest.mark.parametrize(
    "attack",
    [
        lambda rows: rows.filter(pl.col("number") != 1),
        lambda rows: rows.filter(pl.col("number") != 2),
        lambda rows: pl.concat([rows, rows.tail(1)]),
        lambda rows: rows.with_columns(number=pl.col("number").replace({2: 3, 3: 2})),
    ],
    ids=["first removed", "one removed", "one doubled", "two swapped"],
)
def test_a_removed_doubled_or_moved_entry_is_found(attack: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    with pytest.raises(LedgerError, match="is not to be trusted"):
        entries_of(attack(ledger_table(THREE_AND_BACK)))


def test_an_entry_edited_and_hashed_anew_is_found_by_the_one_after() -> None:
    first, second, *others = THREE_AND_BACK
    forged = replace(second, actor="user:bob")
    with pytest.raises(LedgerError, match=r"entry 3 of toy .* does not follow from the entry before"):
        entries_of(ledger_table([first, forged, *others]))


def test_what_was_live_when_is_told_to_the_microsecond() -> None:
    tick = timedelta(microseconds=1)
    assert live_at(THREE_AND_BACK, START - tick) is None
    assert live_at(THREE_AND_BACK, START) == THREE_AND_BACK[0]
    assert live_at(THREE_AND_BACK, START + timedelta(hours=2) - tick) == THREE_AND_BACK[1]
    assert live_at(THREE_AND_BACK, START + timedelta(days=9)) == THREE_AND_BACK[-1] == last_of(THREE_AND_BACK)


@pytest.mark.parametrize("kind", ENDINGS)
def test_after_a_withdrawal_or_an_expiry_nothing_is_live(kind: LedgerKind) -> None:
    ended = history((RELEASE, 1), (kind, 1))
    assert last_of(ended) is None
    assert live_at(ended, START) == ended[0]
    assert live_at(ended, START + timedelta(hours=1)) is None
    assert why_nothing_is_live(ended) == "version 1 was withdrawn on 2026-03-14 03:00 UTC by user:ann: a drill"
    again = history((RELEASE, 1), (kind, 1), (ROLLBACK, 1))
    assert last_of(again) == again[-1]
    assert live_at(again, START + timedelta(hours=1)) is None


def test_where_a_version_is_live_or_none_ever_was_there_is_nothing_to_explain() -> None:
    assert why_nothing_is_live([]) == ""
    assert why_nothing_is_live(THREE_AND_BACK) == ""


def test_entries_of_every_kind_come_back_from_their_table() -> None:
    acts = history((RELEASE, 1), *((kind, 1) for kind in LedgerKind))
    assert entries_of(ledger_table(acts)) == acts


def test_a_version_s_days_begin_with_the_act_that_made_it_live() -> None:
    last = THREE_AND_BACK[-1]
    assert valid_until(last, 30) == START + timedelta(days=30, hours=3)
    assert valid_until(last, None) is None


def test_a_second_rollback_goes_one_further_back_and_not_forth_again() -> None:
    assert version_before(THREE_AND_BACK, 3) == 2
    assert version_before(THREE_AND_BACK, 2) == 1
    assert version_before(THREE_AND_BACK, 1) is None


def test_a_version_rolled_back_from_is_withdrawn_and_no_other() -> None:
    assert withdrawn_at(THREE_AND_BACK, 3) == START + timedelta(hours=3)
    assert withdrawn_at(THREE_AND_BACK, 2) is None


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_version_taken_out_of_service_is_withdrawn_though_it_was_put_back_since(kind: LedgerKind) -> None:
    acts = history((RELEASE, 1), (RELEASE, 2), (kind, 2), (ROLLBACK, 2))
    assert withdrawn_at(acts, 2) == START + timedelta(hours=2)
    assert withdrawn_at(acts, 1) is None
