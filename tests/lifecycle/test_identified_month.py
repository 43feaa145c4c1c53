from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from small_platform import MODEL, SmallPlatform, small_protocol, write_archive
from typer.testing import CliRunner, Result

from clinical_assets.archives.archive import SIMULATED_MARKER, MonthWindow, contract_of
from clinical_assets.archives.identified_feed import SimulatedIdentity
from clinical_assets.cli import app
from clinical_assets.defs.readmission.cohort import Encounter
from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.audit_verification import read_records
from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.pseudonyms import load_or_create_key, pseudonymise
from clinical_assets.governance.safe_harbor import Rule, SafeHarborError
from clinical_assets.governance.signatures import create_key
from clinical_assets.governance.signers import Signer, add_signer, read_signers
from clinical_assets.learning.splits import ripe_months
from clinical_assets.lifecycle import identified_month
from clinical_assets.lifecycle.identified_month import archived_rows, declared_columns, zone_of
from clinical_assets.protocol import ModelProtocol, load_object, protocol_names, read_protocol

MARCH, A_YEAR_LATER = date(2024, 3, 1), date(2025, 3, 1)
DATASET, FEATURES = f"{MODEL}.dataset", f"{MODEL}.features"
WHO = {"actor": "user:test", "reason": "test"}

TakenIn = tuple[SmallPlatform, pl.DataFrame]
"""A platform after two months, and their identified rows."""


@pytest.fixture(scope="module")
def rows(encounters: pl.DataFrame) -> pl.DataFrame:
    """240 encounters of 120 patients, ten a month, each patient twice, a year apart; a quarter is 90 or older."""
    return encounters.head(240).with_columns(
        pl.Series("encounter_id", [str(77_001_000 + row) for row in range(240)]),
        pl.Series("patient_nbr", [str(88_002_000 + row % 120) for row in range(240)]),
        pl.Series("age", ["[90-100)" if row % 120 % 4 == 0 else "[60-70)" for row in range(240)]),
        discharge_disposition_id=pl.lit("1"),
    )


def platform_on(folder: Path, rows: pl.DataFrame, codes: bytes) -> SmallPlatform:
    """A platform with a privacy officer and another signer."""
    archive = write_archive(folder / "raw" / "dataset_diabetes", rows, codes)
    platform = SmallPlatform.on(folder / "home", archive, small_protocol())
    for name, roles in (("olga", ("privacy_officer",)), ("mona", ("mlops",))):
        public = create_key(platform.home.keys / f"{name}.pem", None)
        add_signer(platform.home.signers, Signer(name, roles, public, demo=True))
    return platform


@pytest.fixture
def platform(tmp_path: Path, rows: pl.DataFrame, published: tuple[pl.DataFrame, bytes]) -> SmallPlatform:
    return platform_on(tmp_path, rows, published[1])


@pytest.fixture(scope="module")
def taken_in(
    tmp_path_factory: pytest.TempPathFactory, rows: pl.DataFrame, published: tuple[pl.DataFrame, bytes]
) -> TakenIn:
    platform = platform_on(tmp_path_factory.mktemp("identified"), rows, published[1])
    for month in (MARCH, A_YEAR_LATER):
        platform.run("intake", month)
    zone = zone_of(platform.home)
    return platform, pl.concat([zone.read(MODEL, month, **WHO) for month in (MARCH, A_YEAR_LATER)])


def told_by(platform: SmallPlatform, action: str) -> list[tuple[str, str, str]]:
    records = read_records(AuditTrail(platform.home.audit))
    return [(x.actor.partition(":")[0], x.target, x.outcome) for x in records if x.action == action]


def canaries_of(feed: pl.DataFrame) -> set[str]:
    """Every value that names somebody, but for those short or common enough to stand anywhere by chance."""
    named = feed.select(*SimulatedIdentity.column_names(), "patient_id", "encounter_id").cast(pl.String)
    return {value for column in named for value in column if len(value) >= 8}


def test_nothing_identified_stands_in_any_table_or_file(taken_in: TakenIn) -> None:
    platform, feed = taken_in
    canaries = canaries_of(feed)
    assert len(canaries) > 10 * len(feed)
    for table in platform.lake.tables():
        texts = platform.lake.read(table).select(pl.col(pl.String))
        values = {value for column in texts for value in column if value is not None}
        assert not {canary for canary in canaries for value in values if canary in value}, table
    for path in platform.home.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not {canary for canary in canaries if canary.encode() in content}, path


def test_every_column_of_the_dataset_keeps_its_contract_and_nothing_else_is_added(taken_in: TakenIn) -> None:
    platform, _ = taken_in
    dataset = platform.lake.read(DATASET)
    assert set(dataset.columns) == {*Encounter.column_names(), "data_origin", "birth_year", "zip3"}
    Encounter.validate(dataset.select(Encounter.column_names()))


def test_no_estimator_sees_where_a_patient_lives_or_when_they_were_born(taken_in: TakenIn) -> None:
    platform, _ = taken_in
    assert not {"birth_year", "zip3"} & set(platform.lake.read(FEATURES).columns)


def test_nobody_of_90_or_more_has_a_year_of_birth(taken_in: TakenIn) -> None:
    dataset = taken_in[0].lake.read(DATASET)
    assert dataset.filter(age_band="[90-100)")["birth_year"].null_count() == (dataset["age_band"] == "[90-100)").sum()
    assert dataset.filter(age_band="[60-70)")["birth_year"].null_count() == 0
    assert (dataset["age_band"] == "[90-100)").any()


def test_a_patient_s_times_move_by_the_same_weeks_in_every_month(taken_in: TakenIn) -> None:
    platform, feed = taken_in
    key = load_or_create_key(platform.home.pseudonym_key)
    known = pseudonymise(feed.select("encounter_id", seen="discharged_at"), ["encounter_id"], key)
    moved = (
        platform.lake.read(DATASET)
        .join(known, on="encounter_id")
        .with_columns(pl.col("discharged_at") - pl.col("seen"))
    )
    by_patient = moved.group_by("patient_id").agg(pl.len(), pl.col("discharged_at").n_unique().alias("shifts"))
    assert by_patient["shifts"].unique().to_list() == [1]
    assert by_patient["len"].unique().to_list() == [2]
    assert moved["discharged_at"].n_unique() > 5
    assert (moved["discharged_at"].dt.total_seconds() % (7 * 86_400) == 0).all()


def test_a_month_is_ripe_exactly_when_it_was_before_dates_were_changed(taken_in: TakenIn) -> None:
    platform, feed = taken_in
    features = platform.lake.read(FEATURES)
    for as_of in (date(2024, 3, 31), date(2024, 4, 30), date(2024, 5, 31)):
        assert ripe_months(features, as_of) == ripe_months(feed, as_of)


def test_every_reading_of_the_feed_is_recorded(taken_in: TakenIn) -> None:
    targets = [f"{MODEL}/identified_feed/{month}" for month in ("2024-03", "2025-03")]
    told = [(actor, target, "success") for actor in ("run", "user") for target in targets]
    assert told_by(taken_in[0], "read_identified") == told


def test_a_dataset_without_its_feed_says_what_to_materialise(platform: SmallPlatform) -> None:
    job = platform.definitions.resolve_job_def(f"{MODEL}_intake")
    result = job.execute_in_process(
        asset_selection=[key for key in job.asset_layer.executable_asset_keys if key.path[-1] == "dataset"],
        partition_key="2024-03",
        raise_on_error=False,
    )
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert "materialise readmission/identified_feed" in str(failed.step_failure_data.error)
    assert told_by(platform, "read_identified") == [("run", f"{MODEL}/identified_feed/2024-03", "failure")]
    assert not platform.lake.exists(DATASET)


def test_a_column_that_nobody_declared_stops_the_month_before_the_lake(
    platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    identify = identified_month.identify
    monkeypatch.setattr(
        identified_month, "identify", lambda rows, **who: identify(rows, **who).with_columns(nickname=pl.lit("Canary"))
    )
    result = platform.run("intake", MARCH, raise_on_error=False)
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert failed.step_key == "dataset"
    error = str(failed.step_failure_data.error)
    assert "no declaration names: nickname" in error
    assert "Canary" not in error
    assert not platform.lake.exists(DATASET)


def test_a_published_archive_has_no_identified_feed_and_its_rows_are_as_ever(
    tmp_path: Path, rows: pl.DataFrame, published: tuple[pl.DataFrame, bytes]
) -> None:
    archive = write_archive(tmp_path / "raw" / "dataset_diabetes", rows, published[1])
    (archive / SIMULATED_MARKER).unlink()
    platform = SmallPlatform.on(tmp_path / "home", archive, small_protocol())
    result = platform.run("intake", MARCH)
    [event] = result.asset_materializations_for_node("identified_feed")
    assert "comes without direct identifiers" in str(event.metadata["identifiers"].value)
    assert not list(platform.home.identified.rglob("*"))
    opened = platform.home.open_archive(platform.protocol)
    assert opened.data_origin.startswith("real:")
    key = load_or_create_key(platform.home.pseudonym_key)
    expected = pseudonymise(
        archived_rows(platform.protocol, opened, MonthWindow.of_month(MARCH)), ("encounter_id", "patient_id"), key
    )
    kept = (
        platform.lake.read(DATASET)
        .select(expected.columns)
        .with_columns(pl.col("discharged_at").dt.convert_time_zone("UTC"))
    )
    assert kept.sort("encounter_id").equals(expected.sort("encounter_id"))


@pytest.mark.parametrize("model", protocol_names())
def test_every_column_of_every_model_is_declared_and_all_18_classes_are_among_them(model: str) -> None:
    protocol = read_protocol(model)
    declared = {item.column: item for item in declared_columns(protocol)}
    contract = contract_of(load_object(protocol.cohort))
    assert contract is not None
    assert set(declared) == {*contract.column_names(), *SimulatedIdentity.column_names(), "data_origin"}
    assert {item.identifier for item in declared.values()} - {None} == set(IdentifierClass)
    assert declared[protocol.index_time].rule is Rule.SHIFT
    assert declared[protocol.patient].rule is declared[protocol.unit].rule is Rule.PSEUDONYM
    ages = [column for column in declared if column.startswith("age_")]
    assert all(declared[column].rule is Rule.POOL_AGE for column in ages)


def bare_cohort() -> pl.DataFrame:
    """A cohort function that promises nothing of its columns."""
    return pl.DataFrame()


def test_of_a_cohort_without_a_contract_nothing_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identified_month, "load_object", lambda _: bare_cohort)
    with pytest.raises(SafeHarborError, match="promises no contract"):
        declared_columns(small_protocol())


def test_images_that_may_identify_somebody_do_not_pass() -> None:
    protocol = ModelProtocol.model_validate(read_protocol("retinopathy").model_dump() | {"images_identifiable": True})
    rules = {item.column: item.rule for item in declared_columns(protocol)}
    assert rules["image_png"] is Rule.KEEP  # which no image passes, see tests/governance/test_safe_harbor.py


Reidentify = Callable[..., Result]


@pytest.fixture
def reidentify(taken_in: TakenIn, monkeypatch: pytest.MonkeyPatch) -> Reidentify:
    home = taken_in[0].home
    monkeypatch.setenv("CLINICAL_HOME", str(home.root))
    monkeypatch.setenv("CLINICAL_RAW", str(home.raw))

    def run(pseudonym: str, signer: str = "olga", key: str | None = None, reason: str = "asked by the ward") -> Result:
        arguments = ["reidentify", pseudonym, "--signer", signer, "--key", str(home.keys / f"{key or signer}.pem")]
        return CliRunner().invoke(app, [*arguments, "--reason", reason], catch_exceptions=False)

    return run


def test_a_privacy_officer_learns_who_is_behind_a_pseudonym_and_it_is_recorded(
    taken_in: TakenIn, reidentify: Reidentify
) -> None:
    platform, feed = taken_in
    key = load_or_create_key(platform.home.pseudonym_key)
    behind = pseudonymise(feed.select("patient_id", "mrn"), ["patient_id"], key).row(0, named=True)
    done = reidentify(behind["patient_id"])
    assert done.exit_code == 0
    assert f"{behind['mrn']} (simulated)" in done.stdout
    *_, record = (x for x in read_records(AuditTrail(platform.home.audit)) if x.action == "reidentify")
    assert (record.actor, record.outcome, record.reason) == ("olga", "success", "asked by the ward")
    trail = AuditTrail(platform.home.audit).path.read_text()
    assert behind["patient_id"] not in trail
    assert behind["mrn"] not in trail


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"signer": "mona"}, "mona does not hold the role privacy_officer"),
        ({"signer": "olga", "key": "mona"}, "not the key that stands for olga"),
        ({"signer": "nobody", "key": "olga"}, "nobody is in none of"),
        ({"reason": " "}, "needs its reason"),
        ({}, "stands in none of 2 tables"),
    ],
)
def test_anybody_else_is_refused_and_that_is_recorded_too(
    taken_in: TakenIn, reidentify: Reidentify, asked: dict[str, str], why: str
) -> None:
    platform, feed = taken_in
    key = load_or_create_key(platform.home.pseudonym_key)
    known = pseudonymise(feed.select("patient_id"), ["patient_id"], key)["patient_id"][0]
    done = reidentify(known if asked else "0" * 32, **asked)
    assert done.exit_code == 1
    assert why in done.stderr
    assert "MRN" not in done.output
    *_, record = (x for x in read_records(AuditTrail(platform.home.audit)) if x.action == "reidentify")
    assert record.outcome == "failure"
    assert record.actor.startswith("user:")
    assert why in record.reason


def test_who_is_behind_a_pseudonym_is_sealed_for_the_privacy_officer_alone(taken_in: TakenIn) -> None:
    home = taken_in[0].home
    signers = read_signers([home.signers])
    tables = sorted(home.identified.rglob("*.reidentification"))
    assert [table.stem for table in tables] == ["2024-03", "2025-03"]
    for table in tables:
        header = table.read_bytes().partition(b"\n")[0].decode()
        assert signers["olga"].public_key in header
        assert signers["mona"].public_key not in header
