"""An identifier anywhere stops the publication: the file of before stays, an incident is open, the trail says so."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from small_platform import MODEL, Developed, SmallPlatform, small_protocol
from typer.testing import CliRunner

from clinical_assets.cli import app
from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.incidents import Cause, State
from clinical_assets.governance.pseudonyms import load_or_create_key
from clinical_assets.lifecycle import publication
from clinical_assets.lifecycle.incidents import read_incidents
from clinical_assets.lifecycle.publication import publish
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.leak_search import LeakError, LeakReport, only_search, search_home

MONTH = date(2024, 1, 1)
ACTOR = "user:test"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[SmallPlatform]:
    """A home that has published one month."""
    platform = SmallPlatform.on(tmp_path / "home", tmp_path / "raw" / "dataset_diabetes", small_protocol())
    bring(platform, "emergency")
    publish(platform.lake, platform.home, actor=ACTOR)
    yield platform


def bring(platform: SmallPlatform, value: str) -> None:
    rows = pl.DataFrame({"month": [MONTH] * 3, "admission_type": ["urgent", "elective", value]})
    platform.lake.write_month(f"{MODEL}.dataset", MONTH, rows, author="test", message="a month")


def canary(home: Home) -> str:
    """The social security number that was planted."""
    return canaries(load_or_create_key(home.pseudonym_key))[6].value


def refusals(home: Home) -> list[dict[str, object]]:
    records = [json.loads(line) for line in AuditTrail(home.audit).path.read_text().splitlines()]
    return [record for record in records if record["action"] == "publish_refused"]


def test_an_identifier_in_the_lake_stops_the_publication(platform: SmallPlatform) -> None:
    home, value = platform.home, canary(platform.home)
    before = home.analytics.read_bytes()
    bring(platform, value)
    with pytest.raises(
        LeakError, match=rf"ssn.*first in {MODEL}\.dataset\.admission_type.*nothing was published"
    ) as told:
        publish(platform.lake, home, actor=ACTOR)
    assert home.analytics.read_bytes() == before
    [incident] = read_incidents(platform.lake, home)
    assert (incident.cause, incident.state) == (Cause.PHI_LEAK, State.OPEN)
    [refusal] = refusals(home)
    assert (refusal["actor"], refusal["outcome"], refusal["target"]) == (ACTOR, "failure", "analytics.duckdb")
    assert value not in f"{told.value}{incident}{refusal}"


def test_the_same_leak_is_one_incident_and_once_it_is_removed_the_file_is_published(platform: SmallPlatform) -> None:
    log = platform.home.dagster / "daemon.log"
    log.write_text(f"KeyError: {canary(platform.home)}")
    for _ in range(2):
        with pytest.raises(LeakError):
            publish(platform.lake, platform.home, actor=ACTOR)
    assert len(read_incidents(platform.lake, platform.home)) == 1
    assert len(refusals(platform.home)) == 2
    log.unlink()
    assert publish(platform.lake, platform.home, actor=ACTOR).tables


def test_an_identifier_replaced_in_the_lake_still_stands_in_its_history_and_stops_publication(
    platform: SmallPlatform,
) -> None:
    bring(platform, canary(platform.home))
    bring(platform, "routine")
    with pytest.raises(LeakError, match=r"first in lake/catalogue\.sqlite"):
        publish(platform.lake, platform.home, actor=ACTOR)


def test_a_sink_that_cannot_be_read_stops_the_publication(platform: SmallPlatform) -> None:
    before = platform.home.analytics.read_bytes()
    (platform.home.root / "registry" / "mlflow.db").write_bytes(b"SQLite format 3\0" + bytes(4096))
    with pytest.raises(LeakError, match=r"1 places cannot be read, first registry/mlflow\.db"):
        publish(platform.lake, platform.home, actor=ACTOR)
    assert platform.home.analytics.read_bytes() == before


def test_rows_that_come_between_search_and_publication_are_searched_too(
    platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, value, searches = platform.home.analytics.read_bytes(), canary(platform.home), []

    def search_and_then_leak(lake: Lake, home: Home, **how: object) -> LeakReport:
        report = search_home(lake, home, **how)  # pyright: ignore[reportArgumentType]
        if not searches:
            bring(platform, value)
        searches.append(report.is_clean)
        return report

    bring(platform, "routine")
    monkeypatch.setattr(publication, "search_home", search_and_then_leak)
    with pytest.raises(LeakError, match="ssn"):
        publish(platform.lake, platform.home, actor=ACTOR)
    assert searches == [True, False]
    assert platform.home.analytics.read_bytes() == before


def test_what_was_put_into_the_publishers_spare_file_is_found(platform: SmallPlatform) -> None:
    import duckdb

    bring(platform, "routine")
    publish(platform.lake, platform.home, actor=ACTOR)
    with duckdb.connect(str(platform.home.root / ".analytics.duckdb.spare")) as database:
        database.execute(f"UPDATE {MODEL}.dataset SET admission_type = ?", [canary(platform.home)])
    with pytest.raises(LeakError, match=r"\.analytics\.duckdb\.spare"):
        publish(platform.lake, platform.home, actor=ACTOR)


def test_the_asset_is_stopped_and_its_run_is_named(platform: SmallPlatform) -> None:
    bring(platform, "routine")
    assert platform.publish().success
    bring(platform, canary(platform.home))
    failed = platform.publish(raise_on_error=False)
    assert not failed.success
    [refusal] = refusals(platform.home)
    assert refusal["actor"] == f"run:{failed.run_id}"


def test_phi_scan_says_where_and_never_what(platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(platform.home.root))
    monkeypatch.setenv("CLINICAL_RAW", str(platform.home.raw))
    monkeypatch.delenv("CLINICAL_PSEUDONYM_KEY", raising=False)
    clean = CliRunner().invoke(app, ["phi-scan", "--json"])
    assert (clean.exit_code, json.loads(clean.stdout)["clean"]) == (0, True)
    bring(platform, canary(platform.home))
    for options in ([], ["--json"], ["--whole"]):
        result = CliRunner().invoke(app, ["phi-scan", *options])
        assert result.exit_code == 1
        assert "ssn" in result.output
        assert canary(platform.home) not in result.output
    assert [incident.cause for incident in read_incidents(platform.lake, platform.home)] == [Cause.PHI_LEAK]


def test_a_home_in_which_models_were_trained_and_released_holds_no_identifier(developed: Developed) -> None:
    with only_search(developed.platform.home):
        report = search_home(developed.platform.lake, developed.platform.home, whole=True)
    assert report.describe() == "no identifier found"
    assert {sink.sink for sink in report.sinks if sink.texts} >= {"lake tables", "registry database", "reports"}
