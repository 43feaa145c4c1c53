"""Debian's Prometheus and Alertmanager beside a home at work: what they scrape, ask and tell."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from kept_homes import kept
from small_fundus import screening_protocol
from small_platform import MODEL, SmallPlatform
from watched_home import CAMERA_MONTH, Watched, instance_of, make_home, read, until, watch

from clinical_assets.metrics.boards import Panel, boards
from clinical_assets.protocol import month_after, protocol_names, read_protocol

pytestmark = [
    pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Specifying a partitions_def on an AssetCheckSpec:dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore:::mlflow"),
]

SCREENING = screening_protocol().model
SCRAPERS, WITHIN_SECONDS, KILLED_SECONDS = 10, 30.0, 60.0
Program = Callable[[str], str]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, program: Program) -> Iterator[Watched]:
    for name in ("prometheus", "prometheus-alertmanager", "promtool"):
        program(name)
    folder, _ = kept(tmp_path_factory, "watched", make_home)
    with watch(folder, program) as at_work:
        yield at_work


@dataclass(frozen=True)
class CameraMonth:
    """What happened when photographs of a camera never seen before arrived, while ten scraped all the time."""

    faults_before: int
    succeeded: bool
    told_after_seconds: float
    pages: list[str]


@pytest.fixture(scope="module")
def camera_month(watched: Watched) -> CameraMonth:
    """The month arrives; then the one after it, and the outcomes of the first become known."""
    faults = len(watched.query('ALERTS{alertname="ClinicalDataFault"}'))
    pages: list[str] = []
    done = False

    def scrape(_: int) -> None:
        while not done:
            pages.append(watched.page())
            time.sleep(0.1)

    images = SmallPlatform(watched.home, screening_protocol())
    with instance_of(watched.folder) as instance, ThreadPoolExecutor(SCRAPERS) as scrapers:
        scraping = [scrapers.submit(scrape, number) for number in range(SCRAPERS)]
        try:
            succeeded = images.run("month", CAMERA_MONTH, instance).success
            materialised = instance.get_latest_materialization_event(dg.AssetKey([SCREENING, "drift_report"]))
            assert materialised is not None
            until("Alertmanager posts", lambda: watched.webhook.of("ClinicalDataFault", SCREENING), 2 * WITHIN_SECONDS)
            told = watched.webhook.of("ClinicalDataFault", SCREENING)[0] - materialised.timestamp
        finally:
            done = True
        for each in scraping:
            each.result(60)
        images.run("month", month_after(CAMERA_MONTH), instance)
        images.run("ripening", CAMERA_MONTH, instance)
    return CameraMonth(faults, succeeded, told, pages)


def test_promtool_finds_no_fault_with_the_page(watched: Watched, program: Program) -> None:
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=watched.page(), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_server_is_reached_from_this_machine_alone(watched: Watched) -> None:
    port = watched.metrics.split(":")[2].split("/")[0]
    listening = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{int(port):04X}" in listening
    assert f"00000000:{int(port):04X}" not in listening


def test_the_camera_month_is_told_within_half_a_minute_of_its_materialisation(camera_month: CameraMonth) -> None:
    assert camera_month.faults_before == 0
    assert 0 < camera_month.told_after_seconds <= WITHIN_SECONDS


def test_the_fault_is_told_of_that_model_alone(watched: Watched, camera_month: CameraMonth) -> None:
    others = [model for model in protocol_names() if model != SCREENING]
    assert camera_month.succeeded
    assert not [at for model in others for at in watched.webhook.of("ClinicalDataFault", model)]


def test_ten_who_scrape_all_the_time_disturb_nothing(camera_month: CameraMonth) -> None:
    assert camera_month.succeeded
    assert len(camera_month.pages) > 10 * SCRAPERS
    assert all("clinical_exporter_last_scrape_success 1.0" in page for page in camera_month.pages)


def panels() -> list[tuple[str, Panel]]:
    """Those of the platform, of who is on call, and of the models that are on the home."""
    there = [read_protocol(model) for model in protocol_names() if model in {SCREENING, MODEL}]
    return [(f"{board.name}: {panel.title}", panel) for board in boards(there) for panel in board.panels]


@pytest.mark.usefixtures("camera_month")
def test_every_query_of_every_panel_finds_a_series(watched: Watched) -> None:
    until(
        "the outcomes are scraped",
        lambda: watched.query(f'clinical_model_metric{{model="{SCREENING}",state="realised"}}'),
        60,
    )
    empty = [
        f"{where}: {query.expression}"
        for where, panel in panels()
        for query in panel.queries
        if not watched.query(query.expression)
    ]
    assert empty == []


def test_two_pages_of_a_quiet_home_differ_in_nothing_but_the_exporter_itself(watched: Watched) -> None:
    def quiet(page: str) -> list[str]:
        changing = re.compile(r"clinical_exporter_|dagster_daemon_last|dagster_sensor_last")
        return [line for line in page.splitlines() if not changing.match(line)]

    first = quiet(watched.page())
    time.sleep(6)
    assert quiet(watched.page()) == first


def test_a_daemon_that_was_killed_shows_within_a_minute(watched: Watched) -> None:
    unhealthy = re.compile(r'^dagster_daemon_healthy\{daemon_type="SENSOR",required="true"\} 0\.0$', re.MULTILINE)
    assert not unhealthy.search(watched.page())
    os.killpg(watched.daemon.pid, signal.SIGKILL)
    until("the page says so", lambda: unhealthy.search(read(watched.metrics)), KILLED_SECONDS)
