"""What `/metrics` shows of a home: read from the lake, its files and Dagster, and no more than analysts are shown."""

import json
import math
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import dagster as dg
import polars as pl
import pytest
from champion_moves import sign
from small_fundus import NewCamera
from small_platform import MODEL, MONTHS, Developed, small_protocol
from typer.testing import CliRunner

from clinical_assets.cli import app
from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.governance.ledger import LedgerError
from clinical_assets.governance.pseudonyms import load_or_create_key
from clinical_assets.governance.signers import Signer, add_signer
from clinical_assets.lifecycle.champion_move import Platform
from clinical_assets.lifecycle.dagster_figures import UNKNOWN, dagster_figures
from clinical_assets.lifecycle.incidents import open_incident
from clinical_assets.lifecycle.metrics_page import MetricsPage
from clinical_assets.lifecycle.questions.breaches import due_month
from clinical_assets.metrics import series
from clinical_assets.metrics.exporter import page_of
from clinical_assets.metrics.series import Family, Sample
from clinical_assets.resources.home import PROJECT, Home
from clinical_assets.resources.leak_search import search_text
from clinical_assets.resources.ledger import LEDGER_TABLE
from clinical_assets.resources.shown_lake import read_shown


def page_on(at: Developed | NewCamera) -> MetricsPage:
    platform = at.platform
    return MetricsPage(platform.home, platform.lake, at.instance, [platform.protocol])


def found(samples: list[Sample], family: Family, **labels: str) -> list[float]:
    return [x.value for x in samples if x.family is family and labels.items() <= dict(x.labels).items()]


def phi_scan(home: Home) -> subprocess.CompletedProcess[str]:
    """The verb in a process of its own: it opens and closes the catalogue, which would drop the locks of this one."""
    command = [sys.executable, "-m", "clinical_assets.cli", "phi-scan", "--json"]
    environment = os.environ | {"CLINICAL_HOME": str(home.root)}
    return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_what_is_live_is_what_the_ledger_says(developed: Developed) -> None:
    samples = page_on(developed).read()
    champion = developed.champion
    version = {"model": MODEL, "version": str(champion.version), "artefact_sha256": champion.artefact_sha256[:12]}
    assert found(samples, series.MODEL_INFO, **version) == [1]
    assert found(samples, series.MODEL_LIVE, model=MODEL) == [1]
    assert found(samples, series.MODEL_RELEASES, model=MODEL) == [1]


def test_no_series_is_told_twice(developed: Developed) -> None:
    told = [(x.family.name, x.values) for x in page_on(developed).read()]
    assert len(set(told)) == len(told)


def test_figures_are_those_of_the_analysts_file_and_withheld_where_they_are(new_camera: NewCamera) -> None:
    model, lake = new_camera.platform.protocol.model, new_camera.platform.lake
    shown = read_shown(lake, model, "estimated_performance")
    newest = shown.filter(pl.col("month") == pl.col("month").max())
    told = {
        (x.labels["metric"], x.labels["subgroup"]): x.value
        for x in page_on(new_camera).read()
        if x.family is series.MODEL_METRIC and x.labels["state"] == "estimated"
    }
    assert told
    for (metric, subgroup), value in told.items():
        [asked] = newest.filter(metric=metric, subgroup=subgroup)["value"]
        assert math.isnan(value) if asked is None else value == asked
    # Few photographs: the exact table has what the page withholds.
    exact = lake.read(f"{model}.estimated_performance").filter(pl.col("month") == pl.col("month").max())
    withheld = [key for key, value in told.items() if math.isnan(value)]
    assert withheld
    assert any(exact.filter(metric=metric, subgroup=subgroup)["value"][0] is not None for metric, subgroup in withheld)


def test_the_verdict_and_the_repair_of_the_newest_month_are_shown(new_camera: NewCamera) -> None:
    samples = page_on(new_camera).read()
    assert found(samples, series.DRIFT_VERDICT, verdict="data_fault") == [1]
    assert found(samples, series.REPAIR_PLANNED, repair="fix_data") == [1]


def test_what_was_added_since_is_seen_by_the_next_look(developed: Developed) -> None:
    page = page_on(developed)
    before = page.read()
    assert found(before, series.NEWEST_MONTH) == found(page.read(), series.NEWEST_MONTH)
    lake, newest = developed.platform.lake, MONTHS[4]
    plan = lake.read(f"{MODEL}.repair_plan", month=newest)
    changed = plan.with_columns(repair=pl.lit("retrain"))
    try:
        lake.write_month(f"{MODEL}.repair_plan", newest, changed, author="a test", message="another plan")
        assert found(page.read(), series.REPAIR_PLANNED, repair="retrain") == [1]
    finally:
        lake.write_month(f"{MODEL}.repair_plan", newest, plan, author="a test", message="restored")
    assert found(page.read(), series.REPAIR_PLANNED) == found(before, series.REPAIR_PLANNED)


def test_only_a_month_whose_outcomes_have_matured_is_realised(developed: Developed) -> None:
    page, lake, newest = page_on(developed), developed.platform.lake, MONTHS[4]
    table = f"{MODEL}.performance_report"
    report = lake.read(table, month=newest)
    assert set(report["status"]) != {"ripe"}
    assert found(page.read(), series.MODEL_METRIC, state="realised") == []
    try:
        matured = report.with_columns(status=pl.lit("ripe"))
        lake.write_month(table, newest, matured, author="a test", message="matured")
        assert found(page.read(), series.MODEL_METRIC, state="realised", subgroup="overall")
    finally:
        lake.write_month(table, newest, report, author="a test", message="restored")


def test_an_open_incident_and_its_notice_are_shown(candidate: Developed) -> None:
    home, lake = candidate.platform.home, candidate.platform.lake
    kept, [pending] = set(home.outbox.rglob("*")), found(page_on(candidate).read(), series.OUTBOX_PENDING)
    breach = Breach(MODEL, Cause.FIX_DATA, "a column", "the month's data are faulty", MONTHS[4])
    try:
        assert open_incident(lake, home, breach, actor="a test") is not None
        samples = page_on(candidate).read()
        labels = {"model": MODEL, "cause": "fix_data", "severity": "today"}
        assert found(samples, series.INCIDENTS_OPEN, **labels, state="open") == [1]
        assert found(samples, series.INCIDENT_UNACKNOWLEDGED, **labels) == [pytest.approx(time.time(), abs=120)]
        assert found(samples, series.OUTBOX_PENDING) == [pending + 1]
        [oldest] = found(samples, series.OUTBOX_OLDEST)
        assert 0 <= time.time() - oldest < 86_400
    finally:
        for path in set(home.outbox.rglob("*")) - kept:
            if path.is_file():
                path.unlink()


def test_a_key_that_expires_is_shown_by_its_role(developed: Developed) -> None:
    signers = developed.platform.home.signers
    written = signers.read_text()
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    try:
        add_signer(signers, Signer("dr-new", ("mlops",), "ab" * 32, demo=False, expires_at=expires))
        assert found(page_on(developed).read(), series.SIGNER_KEY_EXPIRES, role="mlops") == [expires.timestamp()]
    finally:
        signers.write_text(written)


def test_a_month_is_due_of_a_model_in_production_alone(developed: Developed) -> None:
    page = page_on(developed)
    assert found(page.read(), series.DUE_MONTH) == []
    production = small_protocol(environment="production")
    in_service = MetricsPage(page.home, page.lake, page.instance, [production])
    due = due_month(production, datetime.now(UTC).date())
    assert due is not None
    assert found(in_service.read(), series.DUE_MONTH) == [datetime(due.year, due.month, 1, tzinfo=UTC).timestamp()]


def test_a_look_that_finds_nothing_new_reads_no_table(developed: Developed) -> None:
    page = page_on(developed)
    page.read()
    moved = developed.platform.home.lake_data.with_name("elsewhere")
    developed.platform.home.lake_data.rename(moved)
    try:
        assert found(page.read(), series.MODEL_LIVE) == [1]
    finally:
        moved.rename(developed.platform.home.lake_data)


def test_a_ledger_that_was_edited_is_no_figure(candidate: Developed) -> None:
    lake = candidate.platform.lake
    ledger = lake.read(LEDGER_TABLE)
    lake.write_table(LEDGER_TABLE, ledger.with_columns(reason=pl.lit("edited")), author="a test", message="edited")
    with pytest.raises(LedgerError, match="edited after it was written"):
        page_on(candidate).read()


def test_signatures_on_a_candidate_expire_and_those_of_a_release_do_not(candidate: Developed) -> None:
    assert found(page_on(candidate).read(), series.CANDIDATE_WAITING) == [0]
    sign(candidate)
    samples = page_on(candidate).read()
    assert found(samples, series.CANDIDATE_WAITING) == [1]
    expires = found(samples, series.SIGNATURE_EXPIRES, version=str(candidate.candidate.version))
    days = candidate.platform.protocol.sign_off.valid_days
    assert len(expires) == 2
    assert all(abs(moment - time.time() - days * 86_400) < 120 for moment in expires)


def test_nothing_is_live_and_was_once_after_a_withdrawal(twice_released: Platform, candidate: Developed) -> None:
    from clinical_assets.lifecycle.withdrawal import withdraw

    withdraw(twice_released, MODEL, actor="dr-mlops", reason="a test")
    samples = page_on(candidate).read()
    assert found(samples, series.MODEL_LIVE) == [0]
    assert found(samples, series.MODEL_INFO) == []
    assert found(samples, series.MODEL_RELEASES) == [2]


def test_the_audit_trails_head_is_shown(developed: Developed) -> None:
    head = json.loads((developed.platform.home.audit / "head.json").read_text())
    assert found(page_on(developed).read(), series.AUDIT_RECORDS) == [head["records"]]


def test_the_page_holds_no_identifier_and_one_that_stood_there_would_be_found(developed: Developed) -> None:
    home = developed.platform.home
    page = page_of(page_on(developed).read())
    clean = search_text(home, "metrics page", page)
    assert (clean.leaks, clean.unreadable) == ((), ())
    assert clean.texts > 100
    for canary in canaries(load_or_create_key(home.pseudonym_key)):
        spoilt = f'{page}clinical_model_live{{model="{canary.value}"}} 1.0\n'
        leaks = search_text(home, "metrics page", spoilt).leaks
        assert canary.identifier_class in {leak.identifier_class for leak in leaks}
        assert canary.value not in str(leaks)


def test_no_pseudonym_stands_on_the_page(developed: Developed) -> None:
    page = page_of(page_on(developed).read())
    rows = developed.platform.lake.read(f"{MODEL}.predictions", month=MONTHS[4])
    assert not [name for column in ("patient_id", "encounter_id") for name in rows[column] if name in page]


def test_dagsters_figures_are_those_of_its_own_records(developed: Developed) -> None:
    instance = developed.instance
    samples = list(dagster_figures(instance, time.time()))
    ended = found(samples, series.COMPLETED_RUNS, status="success")
    assert sum(ended) == instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
    job = f"{MODEL}_month"
    runs = instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS]))
    labels = {"job_name": job, "location": UNKNOWN}
    assert found(samples, series.COMPLETED_RUNS, **labels, status="success") == [runs]
    assert found(samples, series.COMPLETED_RUNS, **labels, status="failure") == [0]
    assert found(samples, series.ACTIVE_RUNS, **labels, status="started") == [0]
    newest = instance.get_latest_materialization_event(dg.AssetKey([MODEL, "features"]))
    assert newest is not None
    [told] = found(samples, series.ASSET_MATERIALISED, asset_key=f"{MODEL}/features")
    assert told == pytest.approx(newest.timestamp, abs=0.01)


def test_a_daemon_is_healthy_while_its_last_sign_of_life_is_younger_than_the_limit(
    kept_instance: dg.DagsterInstance,
) -> None:
    from dagster._daemon.types import DaemonHeartbeat

    now = time.time()
    kept_instance.add_daemon_heartbeat(DaemonHeartbeat(now - 49, "SENSOR", "a test", errors=None))
    try:
        for later, healthy in ((0, 1), (2, 0)):
            samples = list(dagster_figures(kept_instance, now + later))
            assert found(samples, series.DAEMON_HEALTHY, daemon_type="SENSOR", required="true") == [healthy]
            assert found(samples, series.DAEMON_HEALTHY, daemon_type="BACKFILL", required="true") == [0]
        assert found(samples, series.DAEMON_HEARTBEAT, daemon_type="SENSOR") == [pytest.approx(now - 49)]
        assert found(samples, series.DAEMON_HEARTBEAT, daemon_type="BACKFILL") == []
    finally:
        kept_instance.wipe_daemon_heartbeats()


def test_the_verb_prints_the_page_and_the_search_for_identifiers_reads_it(
    developed: Developed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(developed.platform.home.root))
    printed = CliRunner().invoke(app, ["metrics", "--once"], catch_exceptions=False)
    assert printed.exit_code == 0
    assert 'clinical_model_live{model="readmission"} 1.0' in printed.stdout
    searched = json.loads(phi_scan(developed.platform.home).stdout)
    [page] = [sink for sink in searched["sinks"] if sink["sink"] == "metrics page"]
    assert page["places"] == 1
    assert page["texts"] > 100


def test_a_page_that_cannot_be_made_is_not_searched_and_not_clean(candidate: Developed) -> None:
    lake = candidate.platform.lake
    ledger = lake.read(LEDGER_TABLE)
    lake.write_table(LEDGER_TABLE, ledger.with_columns(reason=pl.lit("edited")), author="a test", message="edited")
    done = phi_scan(candidate.platform.home)
    assert done.returncode == 1
    [page] = [sink for sink in json.loads(done.stdout)["sinks"] if sink["sink"] == "metrics page"]
    assert page["unreadable"] == [{"place": "metrics page", "reason": "it cannot be made (LedgerError)"}]
