"""The verbs of who watches the platform from outside: metrics, metrics rules, metrics dashboards.

Belongs here: the server, its options, and which files are written. Does not belong here: any figure, rule or board.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinical_assets.cli.terminal import one_line_on_refusal, refuse
from clinical_assets.protocol import protocol_names, read_protocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake

if TYPE_CHECKING:
    from clinical_assets.lifecycle.metrics_page import MetricsPage

app = typer.Typer()
metrics = typer.Typer(invoke_without_command=True)
app.add_typer(metrics, name="metrics", help="Serve what a monitoring system reads, or write its rules and boards.")

LOOPBACK = "127.0.0.1"
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
        if once:
            typer.echo(page_of(exporter.samples()), nl=False)
            return
        registry = CollectorRegistry(auto_describe=False)
        registry.register(exporter)
        try:
            _, serving = start_http_server(port, host, registry)
        except OSError as error:
            refuse(f"{host}:{port} cannot be listened on ({error.strerror}); give another --port")
        typer.echo(f"serving http://{host}:{port}/metrics; Ctrl-C ends it")
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
        refuse(
            f"{home.root} holds no platform yet; make it with `clinical init` and let a month arrive, or set CLINICAL_HOME"
        )
    lake = Lake(str(home.lake_catalogue), home.lake_data, retry_seconds=PATIENCE_SECONDS)
    protocols = [read_protocol(model) for model in protocol_names()]
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        yield MetricsPage(home, lake, instance, protocols)
