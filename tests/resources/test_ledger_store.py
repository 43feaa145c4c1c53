from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import duckdb
import polars as pl
import pytest

from clinical_assets.governance.ledger import FIRST, Approval, LedgerEntry, LedgerError, LedgerKind
from clinical_assets.resources.analytics import publish_analytics
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.ledger import LEDGER_TABLE, append_entry, exclusive, read_ledger

RUN: dict[str, Any] = {"author": "a test", "message": "a test"}
NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    (tmp_path / "lake").mkdir()
    return Lake(str(tmp_path / "lake" / "catalogue.sqlite"), tmp_path / "lake" / "data")


def entry(model: str = "toy", before: LedgerEntry | None = None, **changes: Any) -> LedgerEntry:
    first = LedgerEntry(
        model=model,
        number=before.number + 1 if before else 1,
        live_from=before.live_from + timedelta(hours=1) if before else NOON,
        kind=LedgerKind.RELEASE,
        version=before.version + 1 if before else 1,
        previous_version=before.version if before else None,
        reason="it's signed",
        actor="run:a",
        run_id="a",
        artefact_sha256="a" * 64,
        report_sha256="b" * 64,
        protocol_sha256="c" * 64,
        smoke_sha256="",
        limits=3,
        approvals=(Approval("demo-ann", "mlops", "2026-03-14T01:00:00+00:00", True),),
        training_set_snapshot=7,
        trained_through=date(2026, 2, 1),
        data_origin="simulated",
        previous_sha256=before.sha256 if before else FIRST,
    )
    return replace(first, **changes)


def test_entries_are_appended_and_come_back_in_order_for_each_model(lake: Lake) -> None:
    first, other = entry(), entry("other", approvals=())
    second = entry(before=first)
    for each in (first, other, second):
        append_entry(lake, each)
    assert read_ledger(lake, "toy") == [first, second]
    assert read_ledger(lake, "other") == [other]
    assert read_ledger(lake, "third") == []


def test_an_entry_appended_twice_stands_once(lake: Lake) -> None:
    append_entry(lake, entry())
    append_entry(lake, entry())
    assert read_ledger(lake, "toy") == [entry()]


def test_an_entry_that_does_not_follow_from_the_last_is_refused(lake: Lake) -> None:
    append_entry(lake, entry())
    with pytest.raises(LedgerError, match="entry 2 of toy does not follow from the ledger's last"):
        append_entry(lake, entry(number=2, reason="another history"))
    assert read_ledger(lake, "toy") == [entry()]


def test_a_row_edited_in_the_lake_is_found_when_it_is_read(lake: Lake) -> None:
    append_entry(lake, entry())
    with lake.cursor() as cursor:
        cursor.execute(f"UPDATE lake.{LEDGER_TABLE} SET actor = 'user:nobody'")
    with pytest.raises(LedgerError, match="entry 1 of toy is not to be trusted: it was edited"):
        read_ledger(lake, "toy")


def older_home(lake: Lake) -> None:
    """A home on which two versions were released before there was a ledger."""
    facts = {"artefact_sha256": "a" * 64, "report_sha256": "b" * 64, "protocol_sha256": "c" * 64}
    releases = pl.DataFrame(
        [
            {"version": 1, "previous_champion": None, "released_at": NOON, **facts},
            {"version": 2, "previous_champion": 1, "released_at": NOON + timedelta(days=1), **facts},
        ]
    ).with_columns(trained_through=date(2026, 1, 1), training_set_snapshot=5, data_origin=pl.lit("simulated"))
    signed = {"version": 1, "signer": "ann", "role": "mlops", "decision": "approve", "demo": True, "signed_at": NOON}
    signatures = pl.DataFrame([signed | {"fault": None}, signed | {"signer": "bob", "fault": "it expired"}])
    lake.write_table("toy.release", releases, **RUN)
    lake.write_table("toy.sign_off", signatures, **RUN)
    lake.write_table("toy.validation_report", pl.DataFrame({"version": [1, 1, 2]}), **RUN)


def test_a_home_from_before_the_ledger_has_one_that_follows_from_its_releases(lake: Lake) -> None:
    older_home(lake)
    first, second = read_ledger(lake, "toy")
    assert (first.version, first.previous_version, first.limits, first.live_from) == (1, None, 2, NOON)
    assert (second.version, second.previous_version, second.limits, second.actor) == (2, 1, 1, "unknown")
    assert [(x.signer, x.demo) for x in first.approvals] == [("ann", True)]
    assert not lake.exists(LEDGER_TABLE), "reading writes nothing"
    third = entry(before=second)
    append_entry(lake, third)
    assert lake.read(LEDGER_TABLE).height == 3
    assert read_ledger(lake, "toy") == [first, second, third]


def test_analysts_see_what_was_live_when_and_every_release(lake: Lake, tmp_path: Path) -> None:
    first = entry()
    second = entry(before=first)
    back = entry(before=second, version=1, kind=LedgerKind.ROLLBACK, reason="harm")
    for each in (first, second, back):
        append_entry(lake, each)
    path = publish_analytics(lake, tmp_path / "analytics.duckdb", ["toy"]).path
    with duckdb.connect(str(path), read_only=True) as analyst:
        analyst.execute("SET TimeZone = 'UTC'")
        columns = "version, kind, valid_from, valid_to, approved_by"
        periods = f"SELECT {columns} FROM governance.live_versions ORDER BY valid_from"
        by = ["demo-ann as mlops (demonstration)"]
        hours = [NOON + timedelta(hours=n) for n in range(3)]
        assert analyst.execute(periods).fetchall() == [
            (1, "release", hours[0], hours[1], by),
            (2, "release", hours[1], hours[2], by),
            (1, "rollback", hours[2], None, by),
        ]
        released = "SELECT version, previous_champion, released_at FROM governance.release ORDER BY version"
        assert analyst.execute(released).fetchall() == [(1, None, hours[0]), (2, 1, hours[1])]
        [(comment,)] = analyst.execute(
            "SELECT comment FROM duckdb_views() WHERE view_name = 'live_versions'"
        ).fetchall()
        query = comment.partition("at a moment: ")[2].replace("MODEL", "toy").replace("02:00", "13:30")
        assert analyst.execute(f"SELECT version {query}").fetchall() == [(2,)]
        undescribed = "SELECT column_name FROM duckdb_columns() WHERE comment IS NULL AND schema_name = 'governance'"
        assert analyst.execute(undescribed).fetchall() == []


@pytest.mark.parametrize("kind", [LedgerKind.WITHDRAWAL, LedgerKind.EXPIRY])
def test_analysts_see_no_version_live_from_its_withdrawal_until_the_next(
    lake: Lake, tmp_path: Path, kind: LedgerKind
) -> None:
    first = entry()
    ended = entry(before=first, version=1, kind=kind)
    back = entry(before=ended, version=1, kind=LedgerKind.ROLLBACK, previous_version=None)
    hours = [NOON + timedelta(hours=n) for n in range(3)]
    periods = "SELECT version, kind, valid_from, valid_to FROM governance.live_versions ORDER BY valid_from"
    expected: list[tuple[Any, ...]] = [(1, "release", hours[0], hours[1])]
    for acts, added in (((first, ended), []), ((back,), [(1, "rollback", hours[2], None)])):
        for each in acts:
            append_entry(lake, each)
        expected += added
        path = publish_analytics(lake, tmp_path / "analytics.duckdb", ["toy"]).path
        with duckdb.connect(str(path), read_only=True) as analyst:
            analyst.execute("SET TimeZone = 'UTC'")
            assert analyst.execute(periods).fetchall() == expected


def test_two_acts_on_one_model_never_overlap_and_other_models_do_not_wait(tmp_path: Path) -> None:
    home, inside, most = Home(tmp_path, tmp_path), [], []

    def act() -> None:
        for _ in range(20):
            with exclusive(home, "toy"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [Thread(target=act) for _ in range(4)]
    with exclusive(home, "other"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(most), max(most)) == (80, 1)


def test_who_waits_too_long_for_another_act_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path)
    refused = pytest.raises(LedgerError, match="another act on toy is at work")
    with exclusive(home, "toy"), refused, exclusive(home, "toy", patience_seconds=0.1):
        pass
