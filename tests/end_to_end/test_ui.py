import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from replayed_home import MODEL, ReplayedHome, wait_until

from clinical_assets.resources.home import PROJECT

CHAIN = {
    *("protocol", "identified_feed", "dataset", "data_quality", "features", "training_set"),
    *("trained_model", "evaluation"),
    *(
        "silent_run",
        "validation_report",
        "sign_off",
        "release",
        "predictions",
        "scored_history",
        "profile",
        "drift_report",
        "performance_report",
    ),
}
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=8000,5000",  # in a small window the graph leaves out what lies outside
)
LOOKS = 8
WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(address: str, query: str) -> dict[str, list[dict[str, object]]] | None:
    """What GraphQL answers, or None while nobody does."""
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with WITHOUT_PROXY.open(request, timeout=60) as answer:
            return json.load(answer)["data"]
    except (urllib.error.URLError, ConnectionError):
        return None


@pytest.fixture(scope="module")
def address(replayed: ReplayedHome) -> Iterator[str]:
    """Dagster's web server at work on the home."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "CLINICAL_HOME": str(replayed.home.root),
        "DAGSTER_HOME": str(replayed.home.dagster),
    }
    command = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", "workspace.yaml"]
    log = replayed.home.root.parent / "webserver.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as server,
    ):
        try:
            wait_until(lambda: server.poll() is not None or ask(where, "{ version }"), f"an answer; see {log}")
            assert server.poll() is None, log.read_text()
            yield where
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                pass
            finally:
                os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def chromium() -> str:
    if found := shutil.which("chromium"):
        return found
    pytest.skip("there is no chromium on the path")


def missing_from_page(chromium: str, address: str, profile: Path, words: Iterable[str]) -> list[str]:
    """The words that a browser does not show at this address, after some looks: a page is drawn bit by bit."""
    command = [chromium, *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=30000", "--dump-dom", address]
    missing = list(words)
    for _ in range(LOOKS):
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
        missing = [word for word in missing if word not in shown]
        if not missing:
            break
    return missing


def test_the_catalogue_holds_the_chain_as_one_group(address: str) -> None:
    answer = ask(address, "{ assetNodes { assetKey { path } groupName description owners { __typename } } }")
    assert answer is not None
    nodes = [node for node in answer["assetNodes"] if node["groupName"] == MODEL]
    names = {node["assetKey"]["path"][-1] for node in nodes}  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
    assert names >= CHAIN
    assert all(node["description"] and node["owners"] for node in nodes)


def test_the_asset_graph_shows_the_chain(address: str, chromium: str, tmp_path: Path) -> None:
    graph = f"{address}/locations/__repository__@clinical_assets/asset-groups/{MODEL}"
    assert missing_from_page(chromium, graph, tmp_path, [f">{name}<" for name in sorted(CHAIN)]) == []


def test_the_evaluations_page_shows_its_figures_and_what_its_columns_mean(
    address: str, chromium: str, tmp_path: Path
) -> None:
    words = ("auroc_minus_champion", "calibration", "observed_expected_ratio", "Upper end of the 95 % interval")
    assert missing_from_page(chromium, f"{address}/assets/{MODEL}/evaluation", tmp_path, words) == []
