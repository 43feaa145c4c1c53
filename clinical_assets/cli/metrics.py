"""The verbs of who watches the platform from outside: metrics, metrics rules, metrics dashboards.

Belongs here: the server, its options, and which files are written. Does not belong here: any figure, rule or board.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinical_assets.cli.terminal import JsonFlag, one_line_on_refusal, print_json, refuse
from clinical_assets.protocol import ModelProtocol, protocol_names, read_protocol
from clinical_assets.resources.home import Home, write_atomically
from clinical_assets.resources.lake import Lake

if TYPE_CHECKING:
    from clinical_assets.lifecycle.metrics_page import MetricsPage

app = typer.Typer()
metrics = typer.Typer(invoke_without_command=True)
app.add_typer(metrics, name="metrics", help="Serve what a monitoring system reads, or write its rules and boards.")

LOOPBACK = "127.0.0.1"
LOOPBACKS = (LOOPBACK, "localhost", "::1")
PORT = 9464
PATIENCE_SECONDS = 2.0
"""How long a look at the lake waits for others, before the figures from before are shown."""
MONITORING = Path("deploy") / "monitoring"

Out = Annotated[Path, typer.Option(help="The folder to write to.")]


@metrics.callback()
@one_line_on_refusal
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="The port to listen on.")] = PORT,
    host: Annotated[str, typer.Option(help="The address to listen on; this machine alone by default.")] = LOOPBACK,
    once: Annotated[bool, typer.Option("--once", help="Print the page, and serve nothing.")] = False,
) -> None:
    """Serve the figures of the platform and its models at /metrics for Prometheus, until stopped."""
    if context.invoked_subcommand is not None:
        return
    from prometheus_client import CollectorRegistry, start_http_server

    from clinical_assets.metrics.exporter import Exporter, page_of

    with page_of_home() as page:
        exporter = Exporter(page.read)
        # The first look reads every table: nobody who scrapes waits for it.
        first = exporter.samples()
        if once:
            typer.echo(page_of(first), nl=False)
            return
        registry = CollectorRegistry(auto_describe=False)
        registry.register(exporter)
        try:
            _, serving = start_http_server(port, host, registry)
        except OSError as error:
            refuse(f"{host}:{port} cannot be listened on ({error.strerror}); give another --port")
        typer.echo(f"serving http://{host}:{port}/metrics; Ctrl-C ends it")
        if host not in LOOPBACKS:
            typer.echo("clinical: other machines may read it, without a password and unencrypted", err=True)
        try:
            while serving.is_alive():
                time.sleep(1.0)
        except KeyboardInterrupt:
            typer.echo("ended")


@contextmanager
def page_of_home() -> Iterator["MetricsPage"]:
    """The figures of the home that the environment names; nothing of it is made or changed."""
    import dagster as dg

    from clinical_assets.lifecycle.metrics_page import MetricsPage

    home = Home.from_environment()
    if not (home.dagster / "dagster.yaml").exists() or not home.lake_catalogue.exists():
        refuse(f"{home.root} holds no lake yet; let a first month arrive (`make demo`), or set CLINICAL_HOME")
    lake = Lake(str(home.lake_catalogue), home.lake_data, retry_seconds=PATIENCE_SECONDS)
    protocols = _protocols()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        yield MetricsPage(home, lake, instance, protocols)


@metrics.command()
@one_line_on_refusal
def rules(
    out: Out = MONITORING,
    exporter: Annotated[str, typer.Option(help="Where Prometheus finds the exporter.")] = f"{LOOPBACK}:{PORT}",
    as_json: JsonFlag = False,
) -> None:
    """Write the alert rules of all protocols, and examples for Prometheus and Alertmanager."""
    from clinical_assets.metrics.monitoring_files import rule_files

    _write(rule_files(_protocols(), exporter), out, as_json)


@metrics.command()
@one_line_on_refusal
def dashboards(out: Out = MONITORING, as_json: JsonFlag = False) -> None:
    """Write Grafana's boards: the platform, who is on call, and each model."""
    from clinical_assets.metrics.monitoring_files import board_files

    _write(board_files(_protocols()), out, as_json)


def _protocols() -> list[ModelProtocol]:
    return [read_protocol(model) for model in protocol_names()]


def _write(files: Mapping[str, str], folder: Path, as_json: bool) -> None:
    written = []
    for name, text in files.items():
        write_atomically(folder / name, text)
        written.append(str(folder / name))
    print_json({"written": written}) if as_json else typer.echo("\n".join(f"written: {path}" for path in written))
