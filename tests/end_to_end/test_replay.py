import json
import subprocess
import sys
import zipfile

import dagster as dg
import polars as pl
import polars.selectors as cs
import pytest
from replayed_home import DRIFTED, MODEL, PLANNED, ReplayedHome, release_runs, runs_for_drift

from clinical_assets.archives.diabetes130 import DATA_FILE
from clinical_assets.governance.pseudonyms import load_or_create_key, pseudonymise
from clinical_assets.lifecycle.automation import MONTH, recorded
from clinical_assets.lifecycle.model_watch import watch_name
from clinical_assets.protocol import Judgement, last_day
from clinical_assets.resources.ledger import read_ledger

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

STABLE = ["2025-01", "2025-02", "2025-03", "2025-04"]

# argv: the home, then texts; prints every file in which one stands by itself, packed, in clear or as an integer.
SEARCH = """
import gzip, re, sys, zipfile
from pathlib import Path

root, texts = Path(sys.argv[1]), sys.argv[2:]
in_clear = re.compile(rb"(?<![\\d.])(?:" + b"|".join(text.encode() for text in texts) + rb")(?!\\d)")
integers = [int(text).to_bytes(8, order) for text in texts if text.isdigit() for order in ("little", "big")]

def contents(path):
    data = path.read_bytes()
    yield data
    if data[:2] == b"\\x1f\\x8b":
        yield gzip.decompress(data)
    if data[:4] == b"PK\\x03\\x04":
        with zipfile.ZipFile(path) as packed:
            yield from (packed.read(name) for name in packed.namelist())

for path in sorted(root.rglob("*")):
    if path.is_file():
        for data in contents(path):
            if in_clear.search(data) or any(integer in data for integer in integers):
                print(path.relative_to(root))
                break
"""


def files_holding(replayed: ReplayedHome, *texts: str) -> list[str]:
    """The files below the home that hold a text. In another process: see resources/lake_engine.py on open handles."""
    command = [sys.executable, "-c", SEARCH, str(replayed.home.root), *texts]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def materialised_metadata(record: dg.EventLogRecord) -> dict[str, object]:
    """What a materialisation recorded, by name."""
    assert record.asset_materialization is not None
    return dict(record.asset_materialization.metadata)


@pytest.fixture(scope="module")
def canaries(replayed: ReplayedHome) -> tuple[str, str]:
    """An encounter and its patient, in the middle of the order of the rows that the home has taken in."""
    with zipfile.ZipFile(replayed.archive) as packed:
        rows = pl.read_csv(packed.read(f"dataset_diabetes/{DATA_FILE}"), infer_schema=False)
    alive = rows.filter(~pl.col("discharge_disposition_id").is_in(["11", "13", "14"]))
    encounter = alive.row(20_000, named=True)
    return encounter["encounter_id"], encounter["patient_nbr"]


def test_drift_is_found_in_the_month_it_was_put_in_and_not_before(replayed: ReplayedHome) -> None:
    verdicts = replayed.lake.read(f"{MODEL}.drift_report", columns=["month", "verdict"]).unique().sort("month")
    told = {f"{month:%Y-%m}": verdict for month, verdict in verdicts.iter_rows()}
    assert told == {**dict.fromkeys(STABLE, "stable"), f"{DRIFTED:%Y-%m}": "population_shift"}


def test_a_shift_that_does_no_harm_is_not_repaired(replayed: ReplayedHome) -> None:
    """The simulation moves the patients, and not the risk that follows from what is known of them."""
    assert replayed.planned == "none"


def test_the_daemon_retrains_as_planned_and_not_before(replayed: ReplayedHome) -> None:
    assert replayed.retrainings_before_drift == 0
    assert {run.tags[MONTH] for run in runs_for_drift(replayed.instance)} == {DRIFTED.isoformat()}
    for run in runs_for_drift(replayed.instance):
        assert run.tags["dagster/sensor_name"] == watch_name(MODEL)
        assert f"2025-05 retrain: {PLANNED}" in run.tags["clinical/reason"]


def test_one_drift_is_one_retraining_and_a_repetition_of_what_was_killed(replayed: ReplayedHome) -> None:
    killed, repeated = runs_for_drift(replayed.instance)
    assert (killed.run_id, killed.status) == (replayed.killed_run, dg.DagsterRunStatus.FAILURE)
    assert repeated.status is dg.DagsterRunStatus.SUCCESS
    assert repeated.tags["dagster/run_key"] == f"{killed.tags['dagster/run_key']}|retry 1"


def test_nothing_is_retrained_again_without_a_new_month(replayed: ReplayedHome) -> None:
    assert len(replayed.ticks_after) >= 3
    skipped = [reason for reason in replayed.ticks_after if not reason.startswith("[")]
    assert skipped == list(replayed.ticks_after), "a tick that asked for a run gives the runs' names"
    assert replayed.retrainings_after == 2


def test_a_killed_retraining_leaves_champion_registry_and_lake_as_they_were(replayed: ReplayedHome) -> None:
    assert replayed.after_kill == replayed.released
    assert replayed.training_rows_after_kill > 0
    champion = replayed.registry.champion(MODEL)
    assert replayed.registry.load(champion, replayed.protocol.estimator)
    as_learnt = replayed.lake.read(f"{MODEL}.training_set", snapshot=champion.lake_snapshot)
    assert as_learnt["month"].max() == champion.trained_through


def test_a_killed_retraining_is_an_incident(replayed: ReplayedHome) -> None:
    incidents = replayed.lake.read("governance.incident", where={"run_id": replayed.killed_run})
    (incident,) = incidents.to_dicts()
    assert (incident["model"], incident["state"], incident["job"]) == (MODEL, "open", f"{MODEL}_retraining")


def test_the_first_model_is_released_by_the_daemon_once_both_roles_have_signed(replayed: ReplayedHome) -> None:
    one_role, other_role = replayed.protocol.sign_off.roles
    assert (replayed.unsigned.champion, replayed.unsigned.challenger) == (None, 1)
    assert f"version 1 waits for approval as {other_role}" in replayed.waits_for
    assert replayed.half_signed.champion is None
    assert replayed.released.champion == 1
    signed = replayed.lake.read(f"{MODEL}.sign_off", where={"version": 1})
    assert sorted(signed["role"]) == sorted([one_role, other_role])
    assert signed["fault"].null_count() == 2
    assert signed["signer"].n_unique() == 2
    (first, *_) = (release_runs(replayed.instance, 1) or [])[::-1]
    assert first.tags["dagster/sensor_name"] == watch_name(MODEL)


def test_the_champion_moves_in_the_release_asset_alone(replayed: ReplayedHome) -> None:
    records = replayed.instance.fetch_materializations(dg.AssetKey([MODEL, "release"]), limit=10).records
    released = [int(recorded(record.event_log_entry, "version")) for record in records]
    assert released[0] == replayed.champion
    assert [entry.version for entry in read_ledger(replayed.lake, MODEL)] == released[::-1]


def test_the_candidate_is_measured_against_the_champion(replayed: ReplayedHome) -> None:
    assert (replayed.retrained.champion, replayed.retrained.challenger) == (1, 2)
    assert replayed.retrained.versions == (1, 2)
    measured = replayed.lake.read(f"{MODEL}.evaluation", where={"version": 2, "metric": "auroc_minus_champion"})
    (paired,) = measured.to_dicts()
    assert paired["low"] < paired["value"] < paired["high"]
    judged = replayed.lake.read(f"{MODEL}.validation_report", where={"version": 2})
    against = judged.filter(pl.col("limit").str.starts_with("not worse than the champion"))
    assert against["judgement"].to_list() != [Judgement.NOT_APPLICABLE]
    assert against["value"].to_list() == [paired["value"]]


def test_two_signatures_release_a_candidate_only_if_it_meets_every_limit(replayed: ReplayedHome) -> None:
    judged = replayed.lake.read(f"{MODEL}.validation_report", where={"version": 2})
    meets = judged.filter(pl.col("judgement").is_in([Judgement.FAIL, Judgement.CANNOT_TELL])).is_empty()
    second = (release_runs(replayed.instance, 2) or [])[0]
    assert replayed.signed_again.champion == (2 if meets else 1)
    assert second.status is (dg.DagsterRunStatus.SUCCESS if meets else dg.DagsterRunStatus.FAILURE)


def test_an_outcome_that_cannot_be_known_yet_is_not_ripe_and_never_a_negative(replayed: ReplayedHome) -> None:
    april = dg.AssetRecordsFilter(dg.AssetKey([MODEL, "performance_report"]), asset_partitions=["2025-04"])
    records = replayed.instance.fetch_materializations(april, limit=10, ascending=True).records
    assert [recorded(record.event_log_entry, "status") for record in records] == ["not_ripe", "ripe"]
    assert "auroc" not in materialised_metadata(records[0])
    assert 0.55 < recorded(records[1].event_log_entry, "auroc") < 0.85


def test_a_month_is_measured_on_its_ripe_outcomes_alone(replayed: ReplayedHome) -> None:
    rows = replayed.lake.read(f"{MODEL}.features", month=DRIFTED, columns=["outcome_known_on"])
    ripe = rows.filter(pl.col("outcome_known_on") <= last_day(DRIFTED)).height
    assert 0 < ripe < rows.height / 20
    report = replayed.lake.read(f"{MODEL}.performance_report", month=DRIFTED).filter(subgroup="overall", metric="auroc")
    assert report.select("status", "n").rows() == [("partly_ripe", ripe)]


def test_an_analyst_reads_the_newest_months_while_the_daemon_works(replayed: ReplayedHome) -> None:
    months = [f"{month:%Y-%m}" for month in replayed.published_meanwhile["month"]]
    assert months == [*STABLE, f"{DRIFTED:%Y-%m}"]


def test_the_analysts_file_holds_the_documented_tables(replayed: ReplayedHome) -> None:
    tables = replayed.analytics(
        "SELECT schema_name || '.' || table_name AS name FROM duckdb_tables()"
        " UNION ALL SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE NOT internal"
    )
    own = ("dataset", "data_quality", "features", "predictions", "evaluation", "silent_run", "validation_report")
    assert set(tables["name"]) >= {
        *(f"{MODEL}.{name}" for name in own),
        *(f"{MODEL}.{name}" for name in ("drift_report", "performance_report", "training_set", "profile")),
        *(f"{MODEL}.{name}" for name in ("sign_off", "smoke_set")),
        *(f"monitoring.{name}" for name in ("drift_report", "performance_report", "predictions")),
        *(f"governance.{name}" for name in ("evaluation", "validation_report", "sign_off", "release", "incident")),
        *("governance.ledger", "governance.live_versions"),
    }
    of_all_models = replayed.analytics("SELECT DISTINCT model FROM monitoring.drift_report")
    assert MODEL in of_all_models["model"]


def test_every_table_and_column_of_the_analysts_file_is_described(replayed: ReplayedHome) -> None:
    silent = replayed.analytics(
        "SELECT schema_name || '.' || table_name AS name FROM duckdb_tables() WHERE comment IS NULL"
        " UNION ALL SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE comment IS NULL AND NOT internal"
        " UNION ALL SELECT schema_name || '.' || table_name || '.' || column_name FROM duckdb_columns()"
        " WHERE comment IS NULL AND NOT internal"
    )
    assert sorted(silent["name"]) == []


def test_the_analysts_file_cannot_be_written(replayed: ReplayedHome) -> None:
    assert replayed.home.analytics.stat().st_mode & 0o222 == 0
    assert list(replayed.home.root.glob("analytics.duckdb.wal*")) == []


def test_no_identifier_of_the_archive_is_in_any_file_but_the_archive(
    replayed: ReplayedHome, canaries: tuple[str, str]
) -> None:
    assert files_holding(replayed, *canaries) == ["simulated/dataset_diabetes.zip"]


def test_no_identifier_of_the_archive_is_in_any_table(replayed: ReplayedHome, canaries: tuple[str, str]) -> None:
    for table in replayed.lake.tables():
        rows = replayed.lake.read(table)
        nested = rows.select(cs.nested()).write_json()
        assert not any(canary in nested for canary in canaries), table
        texts = rows.select((cs.all() - cs.nested() - cs.temporal() - cs.binary()).cast(pl.String, strict=False))
        assert not texts.select(pl.any_horizontal(pl.all().is_in(canaries))).to_series().any(), table
    key = load_or_create_key(replayed.home.pseudonym_key)
    asked = pl.DataFrame({"encounter_id": [canaries[0]], "patient_id": [canaries[1]]})
    (pseudonyms,) = pseudonymise(asked, ("encounter_id", "patient_id"), key).to_dicts()
    assert replayed.lake.read(f"{MODEL}.features", where=pseudonyms).height == 1


def test_a_demonstration_that_is_stopped_says_so_in_one_line_and_leaves_no_process(replayed: ReplayedHome) -> None:
    assert replayed.stopped.exit_code == 1
    assert "Traceback" not in replayed.stopped.told
    assert "clinical: stopped; the same command goes on from here" in replayed.stopped.told
    assert replayed.stopped.still_running == []


def test_a_demonstration_that_is_started_again_goes_on_where_it_was(replayed: ReplayedHome) -> None:
    assert len(replayed.stopped.months) == replayed.protocol.development_months
    for month in replayed.stopped.months:
        taken_in = replayed.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey([MODEL, "features"]), asset_partitions=[month]), limit=10
        ).records
        assert len(taken_in) == 1
    [(model, chosen)] = json.loads(replayed.home.source.read_text()).items()
    assert (model, chosen["share_of_patients"]) == (MODEL, 1.0)
    assert replayed.home.chosen_archive(MODEL) == replayed.archive
