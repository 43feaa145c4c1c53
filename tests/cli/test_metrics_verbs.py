"""The verbs `clinical metrics`: what they write, and what they refuse in one line."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clinical_assets.cli import app
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def clinical(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["metrics", *arguments], catch_exceptions=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CLINICAL_HOME", str(tmp_path / "home"))
    return Home.from_environment()


def test_a_folder_without_a_platform_is_refused_and_stays_as_it_was(home: Home) -> None:
    done = clinical("--once")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"clinical: {home.root} holds no lake yet; let a first month arrive")
    assert len(done.stderr.splitlines()) == 1
    assert not home.root.exists()


def test_a_home_that_is_ready_and_empty_has_a_page(home: Home) -> None:
    home.prepare()
    Lake(str(home.lake_catalogue), home.lake_data).latest_snapshot()
    done = clinical("--once")
    assert done.exit_code == 0
    assert "clinical_exporter_last_scrape_success 1.0" in done.stdout
    assert 'clinical_incidents_open_by_severity{severity="at_once"} 0.0' in done.stdout
    assert 'clinical_model_live{model="readmission"} 0.0' in done.stdout


def test_a_port_that_is_taken_is_refused(home: Home) -> None:
    home.prepare()
    Lake(str(home.lake_catalogue), home.lake_data).latest_snapshot()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = clinical("--port", str(port))
    assert done.exit_code == 1
    assert (
        done.stderr
        == f"clinical: 127.0.0.1:{port} cannot be listened on (Address already in use); give another --port\n"
    )


def test_rules_and_boards_are_written_where_one_asks(tmp_path: Path) -> None:
    rules = json.loads(clinical("rules", "--out", str(tmp_path), "--exporter", "127.0.0.1:9999", "--json").stdout)
    assert rules == {
        "written": [str(tmp_path / x) for x in ("clinical.rules.yml", "prometheus.yml", "alertmanager.yml")]
    }
    assert "127.0.0.1:9999" in (tmp_path / "prometheus.yml").read_text()
    boards = clinical("dashboards", "--out", str(tmp_path))
    assert boards.exit_code == 0
    assert f"written: {tmp_path / 'grafana' / 'on_call.json'}" in boards.stdout
    assert json.loads((tmp_path / "grafana" / "platform.json").read_text())["uid"] == "clinical-platform"
