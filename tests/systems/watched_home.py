"""A home at work that other systems watch: a model of a table and one of images, each released, and a real daemon.

The home is made in this process; exporter, daemon, Prometheus and Alertmanager are processes of their own.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from small_fundus import FEW_RESAMPLES, SCREENING_MONTHS, screening_protocol, write_screening_archive
from small_platform import MONTHS, ROLES, SmallPlatform, sample_of, small_protocol, unpack, write_archive

from clinical_assets.archives.diabetes130 import DIABETES130
from clinical_assets.governance.pseudonyms import KEY_BYTES
from clinical_assets.lifecycle import candidate, development
from clinical_assets.metrics.monitoring_files import RULES, alertmanager_config, scrape_config
from clinical_assets.protocol import month_after
from clinical_assets.resources.home import PROJECT, Home
from clinical_assets.resources.registry import Registry

ENCOUNTERS = 6_000
POLL_SECONDS = 0.25
CAMERA_MONTH = SCREENING_MONTHS[3]

SENSOR = """
import dagster as dg


@dg.sensor(minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING, job_name="nothing")
def looks_about(context):
    return dg.SkipReason("nothing is new")


@dg.job
def nothing():
    pass


defs = dg.Definitions(jobs=[nothing], sensors=[looks_about])
"""


def home_in(folder: Path) -> Home:
    return Home(folder / "home", folder / "raw")


def instance_of(folder: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(home_in(folder).dagster))


def make_home(folder: Path) -> None:
    """Both models are developed and released; the table's first month alone is live, and its outcomes are known."""
    home = home_in(folder)
    home.prepare()
    home.pseudonym_key.write_bytes(bytes(range(KEY_BYTES)))
    home.pseudonym_key.chmod(0o600)
    Registry(home.registry_uri, home.registry_artefacts).prepare()
    rows, codes = unpack(DIABETES130.simulate(folder, seed=3))
    archive = write_archive(home.raw / "dataset_diabetes", sample_of(rows, ENCOUNTERS), codes)
    with instance_of(folder) as instance, pytest.MonkeyPatch.context() as patch:
        for module in (candidate, development):
            patch.setattr(module, "RESAMPLES", FEW_RESAMPLES)
        table = SmallPlatform.at(home, archive, small_protocol())
        _release(table, MONTHS[:4], instance)
        for month in (MONTHS[4], month_after(MONTHS[4])):
            table.run("month", month, instance)
        table.run("ripening", MONTHS[4], instance)
        images = SmallPlatform.at(home, write_screening_archive(home.raw), screening_protocol())
        _release(images, SCREENING_MONTHS[:3], instance)


def _release(platform: SmallPlatform, months: tuple[date, ...], instance: dg.DagsterInstance) -> None:
    platform.run_together("intake", months, instance)
    platform.run("retraining", instance=instance)
    version = platform.registry.challenger(platform.protocol.model)
    for role in ROLES:
        platform.sign(version, role)
    platform.run("release", instance=instance)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def until(what: str, holds: Callable[[], Any], within_seconds: float) -> float:
    """How many seconds it took until something held; fails where it never did."""
    began = time.monotonic()
    while time.monotonic() - began < within_seconds:
        with suppress(OSError, KeyError, IndexError, ValueError):
            if holds():
                return time.monotonic() - began
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"{what}: not within {within_seconds:.0f} s")


@contextmanager
def process(log: Path, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process until the block ends; its words are in the log."""
    with log.open("ab") as words:
        started = subprocess.Popen(
            command,
            stdout=words,
            stderr=words,
            cwd=PROJECT,
            env=os.environ | environment,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@dataclass
class Webhook:
    """Who is told: keeps each alert that Alertmanager posts, with the moment at which it came."""

    told: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def of(self, name: str, model: str) -> list[float]:
        wanted = {"alertname": name, "model": model}.items()
        return [at for at, alert in self.told if alert["status"] == "firing" and wanted <= alert["labels"].items()]


@contextmanager
def webhook(port: int) -> Iterator[Webhook]:
    kept = Webhook()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kept.told.extend((time.time(), alert) for alert in content["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield kept
        server.shutdown()


@dataclass(frozen=True)
class Watched:
    """The home, and the addresses of those who watch it."""

    folder: Path
    metrics: str
    prometheus: str
    webhook: Webhook
    daemon: subprocess.Popen[bytes]

    @property
    def home(self) -> Home:
        return home_in(self.folder)

    def page(self) -> str:
        return read(self.metrics)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now, by Prometheus."""
        asked = urllib.parse.urlencode({"query": expression})
        answer = json.loads(read(f"{self.prometheus}/api/v1/query?{asked}"))
        assert answer["status"] == "success", answer
        return answer["data"]["result"] if answer["data"]["resultType"] == "vector" else [{"value": answer["data"]}]


@contextmanager
def watch(folder: Path, program: Callable[[str], str]) -> Iterator[Watched]:
    """Exporter, Prometheus and Alertmanager on loopback, and a real daemon of Dagster with one sensor."""
    home, exporter, prometheus, alertmanager, receiver = home_in(folder), *(free_port() for _ in range(4))
    settings = scrape_config(
        f"127.0.0.1:{exporter}", f"127.0.0.1:{alertmanager}", str(PROJECT / "deploy" / "monitoring" / RULES)
    )
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    told = alertmanager_config(f"http://127.0.0.1:{receiver}/")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(told))
    (folder / "looks_about.py").write_text(SENSOR)
    of_home = {"CLINICAL_HOME": str(home.root), "DAGSTER_HOME": str(home.dagster)}
    clinical = (sys.executable, "-m", "clinical_assets.cli", "metrics", "--port", str(exporter))
    daemon = (sys.executable, "-m", "dagster._daemon", "run", "-f", str(folder / "looks_about.py"))
    with (
        webhook(receiver) as kept,
        process(folder / "exporter.log", *clinical, **of_home),
        process(folder / "daemon.log", *daemon, **of_home) as working,
        process(
            folder / "alertmanager.log",
            program("prometheus-alertmanager"),
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{alertmanager}",
            "--cluster.listen-address=",
        ),
        process(
            folder / "prometheus.log",
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        ),
    ):
        watched = Watched(
            folder, f"http://127.0.0.1:{exporter}/metrics", f"http://127.0.0.1:{prometheus}", kept, working
        )
        until("the exporter computes", lambda: "clinical_exporter_last_scrape_success 1.0" in watched.page(), 60)
        until("Prometheus has scraped it", lambda: watched.query('up{job="clinical"} == 1'), 60)
        until("every daemon is at work", lambda: not watched.query('dagster_daemon_healthy{required="true"} == 0'), 120)
        until("the sensor has looked", lambda: watched.query("dagster_sensor_last_tick_status"), 60)
        yield watched
