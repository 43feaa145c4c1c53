"""An identifier of each of the 18 kinds pushed into each sink is found; what is clean is searched once."""

import json
import os
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pytest

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.leak_scan import KNOWN
from clinical_assets.governance.pseudonyms import load_or_create_key
from clinical_assets.monitoring.profiles import profile_frame, profile_table
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.leak_search import LeakReport, SinkReport, only_search, search_home
from clinical_assets.resources.leak_sinks import SINKS

MONTH = date(2024, 1, 1)
Values = list[str]


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def append(lake: Lake, table: str, rows: pl.DataFrame, message: str = "rows") -> None:
    lake.append(table, rows, author="test", message=message)


def rows_of(values: Values, **others: object) -> pl.DataFrame:
    return pl.DataFrame({"value": values}).with_columns(**{name: pl.lit(value) for name, value in others.items()})


def in_the_lake(home: Home, lake: Lake, values: Values) -> None:
    append(lake, "readmission.dataset", rows_of(values, month=MONTH))


def in_profiles(home: Home, lake: Lake, values: Values) -> None:
    table = profile_table(profile_frame(rows_of(values * 3))).with_columns(month=pl.lit(MONTH))
    append(lake, "readmission.profile", table.drop("most_frequent"))


def in_incidents(home: Home, lake: Lake, values: Values) -> None:
    append(lake, "governance.incident_event", rows_of([f"the run failed on {value}" for value in values]))


def in_the_ledger(home: Home, lake: Lake, values: Values) -> None:
    append(lake, "governance.ledger", rows_of([f"released because {value}" for value in values]))


def in_the_catalogue(home: Home, lake: Lake, values: Values) -> None:
    for value in values:
        append(lake, "readmission.dataset", rows_of(["a"], month=MONTH), message=f"rows of {value}")


def in_the_registry(home: Home, lake: Lake, values: Values) -> None:
    with sqlite3.connect(home.root / "registry" / "mlflow.db") as database:
        database.execute("CREATE TABLE params (key TEXT, value TEXT)")
        database.executemany("INSERT INTO params VALUES ('note', ?)", [(value,) for value in values])
    database.close()


def in_an_artefact(home: Home, lake: Lake, values: Values) -> None:
    path = home.registry_artefacts / "models" / "m-1" / "estimator.skops"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", json.dumps({"categories": values}))


def in_the_event_log(home: Home, lake: Lake, values: Values) -> None:
    path = home.dagster / "history" / "runs" / "9d1c.db"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE event_logs (id INTEGER PRIMARY KEY, event TEXT)")
        # Longer than a page of the database, so that none lies in it in one piece.
        events = [(json.dumps({"message": "x" * 4_090 + " " + value}),) for value in values]
        database.executemany("INSERT INTO event_logs (event) VALUES (?)", events)
    database.close()


def in_a_compute_log(home: Home, lake: Lake, values: Values) -> None:
    write(home.dagster / "storage" / "run" / "compute_logs" / "step.err", "\n".join(f"KeyError: {v}" for v in values))


def in_a_dagster_log(home: Home, lake: Lake, values: Values) -> None:
    write(home.dagster / "daemon.log", "\n".join(f"2024-01-01 ERROR {value}" for value in values))


def in_a_report(home: Home, lake: Lake, values: Values) -> None:
    write(home.report("readmission", 1), "".join(f"<td>{value}</td>" for value in values))


def in_a_notice(home: Home, lake: Lake, values: Values) -> None:
    write(home.outbox / "pending" / "1.json", json.dumps({"text": values}))


def in_the_audit_trail(home: Home, lake: Lake, values: Values) -> None:
    for value in values:
        AuditTrail(home.audit).record("refused", actor="user:test", target="clinical sign", reason=value)


def in_a_statement(home: Home, lake: Lake, values: Values) -> None:
    write(home.sign_offs / "readmission" / "v1" / "mlops.json", json.dumps({"reason": values}))


def in_the_analytics_file(home: Home, lake: Lake, values: Values) -> None:
    with duckdb.connect(str(home.analytics)) as database:
        rows = rows_of(values)
        database.register("rows", rows)
        database.execute("CREATE SCHEMA readmission; CREATE TABLE readmission.dataset AS FROM rows")


def in_another_file(home: Home, lake: Lake, values: Values) -> None:
    write(home.root / "export" / "patients.csv", "\n".join(values))


PUSHES: dict[str, Callable[[Home, Lake, Values], None]] = {
    "profiles": in_profiles,
    "incidents": in_incidents,
    "release ledger": in_the_ledger,
    "lake tables": in_the_lake,
    "lake catalogue": in_the_catalogue,
    "registry database": in_the_registry,
    "registry artefacts": in_an_artefact,
    "Dagster runs and events": in_the_event_log,
    "Dagster compute logs": in_a_compute_log,
    "Dagster logs": in_a_dagster_log,
    "reports": in_a_report,
    "notices": in_a_notice,
    "audit trail": in_the_audit_trail,
    "statements": in_a_statement,
    "analytics file": in_the_analytics_file,
    "other files": in_another_file,
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", tmp_path / "raw")
    home.prepare()
    return home


@pytest.fixture
def lake(home: Home) -> Iterator[Lake]:
    lake = Lake(str(home.lake_catalogue), home.lake_data)
    append(lake, "sepsis.dataset", rows_of(["medical", "surgical"], month=MONTH))
    yield lake


def search(home: Home, lake: Lake, *, whole: bool = False) -> LeakReport:
    with only_search(home):
        return search_home(lake, home, whole=whole)


def sink(report: LeakReport, name: str) -> SinkReport:
    return next(each for each in report.sinks if each.sink == name)


def values_of(home: Home) -> Values:
    return [canary.value for canary in canaries(load_or_create_key(home.pseudonym_key))]


def test_every_sink_has_its_attack() -> None:
    assert set(PUSHES) == {each.name for each in SINKS}


@pytest.mark.parametrize("name", PUSHES)
def test_an_identifier_of_each_kind_is_found_in_each_sink(home: Home, lake: Lake, name: str) -> None:
    assert search(home, lake).is_clean
    PUSHES[name](home, lake, values_of(home))
    report = search(home, lake)
    leaks = [leak for leak in sink(report, name).leaks if leak.evidence == KNOWN]
    assert {leak.identifier_class for leak in leaks} == set(IdentifierClass)
    assert not report.is_clean
    assert not any(value in repr(report) for value in values_of(home))
    assert sink(search(home, lake), name).leaks, "a leak that stays is found again"


def test_a_clean_database_beside_an_empty_log_is_searched_once(home: Home, lake: Lake) -> None:
    """Dagster's databases of ended runs have one, and whoever opens it touches it."""
    path = home.dagster / "history" / "runs" / "9d1c.db"
    in_the_event_log(home, lake, ["fine"])
    path.with_name("9d1c.db-wal").touch()
    place = "Dagster runs and events"
    first, second = search(home, lake), search(home, lake)
    assert sink(first, place).unchanged == 0
    assert sink(second, place).unchanged == sink(second, place).places == 2
    path.with_name("9d1c.db-wal").unlink()
    with sqlite3.connect(path) as database:
        database.executemany("INSERT INTO event_logs (event) VALUES (?)", [(value,) for value in values_of(home)])
    database.close()
    assert sink(search(home, lake), place).leaks


def test_a_clean_home_is_searched_once_and_then_only_what_is_new(home: Home, lake: Lake) -> None:
    in_a_report(home, lake, ["fine"])
    first, second = search(home, lake), search(home, lake)
    assert sink(first, "reports").unchanged == 0
    assert sink(second, "reports").unchanged == sink(second, "reports").places == 1
    assert sink(second, "lake tables").texts == 0
    append(lake, "sepsis.dataset", rows_of(["cardiac"], month=MONTH))
    third = search(home, lake)
    assert 0 < sink(third, "lake tables").texts < sink(first, "lake tables").texts
    assert sink(search(home, lake, whole=True), "lake tables").texts > sink(third, "lake tables").texts


def test_an_edit_with_its_time_set_back_and_its_size_kept_is_found(home: Home, lake: Lake) -> None:
    value, path = values_of(home)[6], home.report("readmission", 1)
    write(path, "x" * len(value))
    assert search(home, lake).is_clean
    before = path.stat()
    path.write_text(value)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not search(home, lake).is_clean


def test_a_row_added_to_a_database_that_its_writer_holds_open_is_found(home: Home, lake: Lake) -> None:
    path = home.dagster / "history" / "runs.db"
    path.parent.mkdir()
    writer = sqlite3.connect(path, isolation_level=None)
    try:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE runs (body TEXT)")
        writer.execute("INSERT INTO runs VALUES ('all is well')")
        assert search(home, lake).is_clean
        writer.execute("INSERT INTO runs VALUES (?)", [f"failed on {values_of(home)[7]}"])
        found = {leak.identifier_class for leak in sink(search(home, lake), "Dagster runs and events").leaks}
        assert IdentifierClass.MRN in found
    finally:
        writer.close()


def test_a_row_removed_from_a_database_still_stands_in_its_pages_and_is_found(home: Home, lake: Lake) -> None:
    in_the_event_log(home, lake, [])
    with sqlite3.connect(home.dagster / "history" / "runs" / "9d1c.db") as database:
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("INSERT INTO event_logs (event) VALUES (?)", [f"note {values_of(home)[7]} end"])
        database.commit()
        database.execute("DELETE FROM event_logs")
    database.close()
    leaks = sink(search(home, lake), "Dagster runs and events").leaks
    assert {leak.evidence for leak in leaks} == {KNOWN}


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("registry/mlflow.db", b"SQLite format 3\0" + bytes(4096)),
        ("analytics.duckdb", bytes(8) + b"DUCK" + bytes(4096)),
        ("reports/readmission/v1/evidence.zip", b"PK\x03\x04" + bytes(40)),
    ],
)
def test_what_cannot_be_read_is_not_clean(home: Home, lake: Lake, place: str, content: bytes) -> None:
    path = home.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    for _ in range(2):
        report = search(home, lake)
        assert [each.place for each in report.unreadable] == [place]
        assert not report.is_clean
        assert "cannot be read" in report.describe()


def test_a_file_whose_name_holds_an_identifier_is_found_and_not_named(home: Home, lake: Lake) -> None:
    value = values_of(home)[6]
    write(home.reports / f"{value}.html", "empty")
    report = search(home, lake)
    assert [leak.place for leak in report.leaks if leak.evidence == KNOWN] == ["reports/(name withheld)"]
    assert value not in repr(report)


def test_an_unencrypted_file_beside_the_lakes_own_is_searched(home: Home, lake: Lake) -> None:
    rows_of(values_of(home)).write_parquet(home.lake_data / "export.parquet")
    leaks = sink(search(home, lake), "lake catalogue").leaks
    assert {leak.identifier_class for leak in leaks} == set(IdentifierClass)


def test_keys_and_the_identified_zone_and_the_archives_are_not_searched(home: Home, lake: Lake) -> None:
    for place in ("keys/x.txt", "identified/readmission/x.identified", "simulated/archive.csv"):
        write(home.root / place, "\n".join(values_of(home)))
    assert search(home, lake).is_clean


def test_another_key_has_other_canaries_and_everything_is_searched_anew(home: Home, lake: Lake) -> None:
    in_a_report(home, lake, ["fine"])
    assert search(home, lake).is_clean
    home.pseudonym_key.write_bytes(bytes(32))
    assert sink(search(home, lake), "reports").unchanged == 0


def test_only_hashes_sizes_and_times_are_remembered(home: Home, lake: Lake) -> None:
    in_the_event_log(home, lake, ["a text of the log"])
    assert search(home, lake).is_clean
    remembered = list(home.signers.parent.glob("leak_scan.*"))
    assert len(remembered) == 2
    assert not any(b"a text of the log" in path.read_bytes() or b"medical" in path.read_bytes() for path in remembered)


def sqlite_of_dagster(home: Home, *statements: str, values: list[str] | None = None) -> None:
    path = home.dagster / "history" / "event_log.db"
    path.parent.mkdir(exist_ok=True)
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement, values or [])
    database.close()


def test_events_that_were_found_clean_are_not_read_again_and_new_ones_are(home: Home, lake: Lake) -> None:
    place = "Dagster runs and events"
    events = [f"INSERT INTO event_logs (event) VALUES ('event {number}')" for number in range(50)]
    sqlite_of_dagster(home, "CREATE TABLE event_logs (id INTEGER PRIMARY KEY, event TEXT)", *events)
    assert search(home, lake).is_clean
    sqlite_of_dagster(home, "INSERT INTO event_logs (event) VALUES ('one more')")
    assert 0 < sink(search(home, lake), place).texts < 5
    sqlite_of_dagster(home, "INSERT INTO event_logs (event) VALUES (?)", values=[values_of(home)[7]])
    for _ in range(2):
        assert {leak.place for leak in sink(search(home, lake), place).leaks} == {
            "dagster/history/event_log.db:event_logs.event"
        }


def test_an_event_under_the_number_of_one_that_was_removed_is_found(home: Home, lake: Lake) -> None:
    sqlite_of_dagster(
        home,
        "CREATE TABLE event_logs (id INTEGER PRIMARY KEY, event TEXT)",
        *["INSERT INTO event_logs (event) VALUES ('fine')"] * 5,
    )
    assert search(home, lake).is_clean
    sqlite_of_dagster(home, "DELETE FROM event_logs WHERE id > 3")
    sqlite_of_dagster(home, "INSERT INTO event_logs (event) VALUES (?)", values=[values_of(home)[7]])
    sqlite_of_dagster(home, *["INSERT INTO event_logs (event) VALUES ('of another moment')"] * 9)
    assert not search(home, lake).is_clean


@pytest.mark.parametrize(
    ("table", "columns", "first", "change"),
    [
        (
            "job_ticks",
            "status TEXT, timestamp TEXT, body TEXT",
            "'STARTED', '2024-01-01', 'fine'",
            "status = 'SUCCESS'",
        ),
        (
            "job_ticks",
            "status TEXT, timestamp TEXT, body TEXT",
            "'SKIPPED', datetime('now'), 'fine'",
            "status = status",
        ),
        ("runs", "update_timestamp TEXT, body TEXT", "'2024-01-01', 'fine'", "update_timestamp = datetime('now')"),
        ("runs", "body TEXT", "'fine'", "body = body"),
    ],
)
def test_a_tick_or_a_run_that_went_on_since_is_searched_again(
    home: Home, lake: Lake, table: str, columns: str, first: str, change: str
) -> None:
    sqlite_of_dagster(
        home,
        f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {columns})",
        *[f"INSERT INTO {table} VALUES (NULL, {first})"] * 3,
    )
    assert search(home, lake).is_clean
    sqlite_of_dagster(home, f"UPDATE {table} SET {change}, body = ? WHERE id = 2", values=[values_of(home)[7]])
    assert not search(home, lake).is_clean
