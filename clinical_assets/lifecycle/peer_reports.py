"""Evidently's and NannyML's drift reports of a month, on request: rows handed over, verdicts beside ours.

Belongs here: the two assets, their job, what is handed to their environment, and what is kept of what they say. Does
not belong here: how the tools are called (peers/drift_script.py), and any statistic of ours.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psutil

from clinical_assets.learning.scoring import OUTPUTS
from clinical_assets.lifecycle.catalogue import markdown_table
from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.lifecycle.incidents import MODEL
from clinical_assets.lifecycle.month_report import scored_rows
from clinical_assets.lifecycle.scored_training import watched_training_rows
from clinical_assets.protocol import ModelProtocol
from clinical_assets.resources.access_rights import make_private
from clinical_assets.resources.audited_outputs import record_kept
from clinical_assets.resources.column_descriptions import COLUMN_DESCRIPTIONS
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.outward_gate import reporting
from clinical_assets.resources.platform import HomeResource, RegistryResource
from clinical_assets.resources.registry import Registry

PEERS = "CLINICAL_PEERS"
TOOLS = ("evidently", "nannyml")
PEER_REPORT = "peer_report"
SCRIPT = Path(__file__).parents[1] / "peers" / "drift_script.py"
HOW_TO_GET = (
    "make an environment for it (uv venv --python 3.11 peers; uv pip install --python peers/bin/python -r "
    f"benchmarks/peers.txt) and name its Python: {PEERS}=peers/bin/python"
)
_ROWS = ".rows-"


class PeerError(RuntimeError):
    """No report could be made by another tool; the message says why, without a word of the tool's own."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The rows of a month and of the training set of the version that scored it, as another tool reads them."""

    reference: pl.DataFrame = field(repr=False)
    batch: pl.DataFrame = field(repr=False)
    data_origin: str

    @property
    def categories(self) -> list[str]:
        """The columns that hold no numbers."""
        return [name for name, kind in self.reference.schema.items() if not kind.is_numeric()]


@dataclass(frozen=True, slots=True)
class PeerReport:
    """What another tool said of a month, and where its page lies."""

    table: pl.DataFrame = field(repr=False)
    page: Path
    version: str


def peer_python() -> Path:
    """The Python of the environment of the other tools; raises PeerError with the way to it where there is none."""
    named = os.environ.get(PEERS, "")
    if not named:
        raise PeerError(f"{PEERS} is not set: {HOW_TO_GET}")
    python = Path(named).absolute()
    if not os.access(python, os.X_OK) or python.is_dir():
        raise PeerError(f"{PEERS} names {named}, which is no program: {HOW_TO_GET}")
    return python


def peers_folder(home: Home, model: str) -> Path:
    """The folder of the other tools' pages, which their owner alone may enter: they show exact small counts."""
    return home.reports / model / "peers"


def rows_to_hand_over(lake: Lake, registry: Registry, protocol: ModelProtocol, month: date) -> HandedOver:
    """A month's watched columns and the model's own outputs, beside those of the training set; no identifier in them.

    Columns without any value in either are left out, with which both tools end.
    """
    features = lake.read(f"{protocol.model}.features", month=month)
    predictions = lake.read(f"{protocol.model}.predictions", month=month)
    version = registry.version(protocol.model, predictions["model_version"][0])
    trained_on, watched = watched_training_rows(lake, protocol, version)
    selected = [*watched, "risk", "alerted", pl.col(OUTPUTS)]
    reference, batch = (
        part.select(selected).with_columns(pl.col(pl.Boolean, pl.Categorical, pl.Enum).cast(pl.String))
        for part in (trained_on, scored_rows(protocol, features, predictions))
    )
    known = [
        name
        for name, kind in reference.schema.items()
        if (kind.is_numeric() or kind == pl.String) and _has_value(reference[name]) and _has_value(batch[name])
    ]
    return HandedOver(reference.select(known), batch.select(known), features["data_origin"][0])


def make_peer_report(
    context: dg.AssetExecutionContext, tool: str, protocol: ModelProtocol, home: Home, lake: Lake, registry: Registry
) -> PeerReport:
    """Have a tool report a month in its own environment, without network, and set its verdicts beside ours."""
    month = context.partition_time_window.start.date()
    python = peer_python()
    rows = rows_to_hand_over(lake, registry, protocol, month)
    folder = peers_folder(home, protocol.model)
    make_private_with_parents(folder)
    page = folder / f"{tool}_{month:%Y-%m}.html"
    with handed_over(rows, folder) as at:
        said = ask_peer(context, tool, python, rows, at)
        (at / "report.html").chmod(0o600)
        (at / "report.html").replace(page)
    table = beside_ours(said["columns"], lake, protocol.model, month, rows)
    named = table.select(
        pl.lit(f"{tool} {month:%Y-%m}").alias("report"),
        pl.lit(month).alias("month"),
        pl.lit(tool).alias("tool"),
        pl.lit(said["version"]).alias("tool_version"),
        pl.all(),
        pl.lit(rows.data_origin).alias("data_origin"),
    )
    return PeerReport(named, page, said["version"])


def make_private_with_parents(folder: Path) -> None:
    """Make a folder that its owner alone may enter, in the model's folder of reports, which is there or is made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_private(folder)


@contextmanager
def handed_over(rows: HandedOver, folder: Path) -> Iterator[Path]:
    """A private folder with the rows as Parquet, removed whatever happens; of killed processes' ones none is left."""
    for old in folder.glob(f"{_ROWS}*"):
        if not psutil.pid_exists(int(old.name.split("-")[1])):
            shutil.rmtree(old, ignore_errors=True)
    at = Path(tempfile.mkdtemp(prefix=f"{_ROWS}{os.getpid()}-", dir=folder))
    try:
        for name, frame in (("reference", rows.reference), ("batch", rows.batch)):
            path = at / f"{name}.parquet"
            path.touch(mode=0o600)
            frame.write_parquet(path)
        yield at
    finally:
        shutil.rmtree(at)


def ask_peer(context: dg.AssetExecutionContext, tool: str, python: Path, rows: HandedOver, at: Path) -> dict[str, Any]:
    """What the tool says of each column; raises PeerError where it could not be started, or failed."""
    asked = {
        "tool": tool,
        "folder": str(at),
        "reference": str(at / "reference.parquet"),
        "batch": str(at / "batch.parquet"),
        "html": str(at / "report.html"),
        "categories": rows.categories,
    }
    # -I: neither this package nor what PYTHONPATH names is seen there.
    command = [*without_network(), str(python), "-I", str(SCRIPT)]
    try:
        # Pipes asks an asset's context for what is deprecated there.
        step = context.op_execution_context
        done = dg.PipesSubprocessClient(cwd=str(at)).run(context=step, command=command, extras=asked)
    except dg.DagsterError as error:
        raise PeerError(f"{tool} could not be run by {python}: {error}; {HOW_TO_GET}") from error
    messages: Sequence[Any] = done.get_custom_messages()
    if not messages or "failed" in messages[0]:
        why = messages[0]["failed"] if messages else "nothing was said"
        raise PeerError(f"{tool} made no report ({why}); try its versions of benchmarks/peers.txt")
    return messages[0]


@cache
def without_network() -> tuple[str, ...]:
    """The words before a command that take the network from it, where the kernel lets this process; else none."""
    for words in (("unshare", "--net", "--"), ("unshare", "--map-root-user", "--net", "--")):
        with suppress(OSError):
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
    return ()


def beside_ours(said: Sequence[dict[str, Any]], lake: Lake, model: str, month: date, rows: HandedOver) -> pl.DataFrame:
    """One row a column: the tool's score and verdict, whether ours flagged it, and whether the two agree.

    `drift_report` is not said to agree about what it did not compare.
    """
    report = lake.read(f"{model}.drift_report", month=month, columns=["column", "flagged", "faulty"])
    ours = report.group_by("column").agg((pl.col("flagged") | pl.col("faulty")).any().alias("flagged"))
    theirs = pl.DataFrame(
        said,
        schema={
            "column": pl.String,
            "method": pl.String,
            "score": pl.Float64,
            "threshold": pl.Float64,
            "drifted": pl.Boolean,
        },
    ).rename({"threshold": "tool_threshold"})
    counted = pl.DataFrame(
        {
            "column": rows.batch.columns,
            "n": [series.len() for series in rows.batch.get_columns()],
            "n_null": [series.null_count() for series in rows.batch.get_columns()],
        },
        schema={"column": pl.String, "n": pl.Int64, "n_null": pl.Int64},
    )
    agreement = (
        pl.when(pl.col("flagged").is_null() | pl.col("drifted").is_null())
        .then(pl.lit("not compared"))
        .when(pl.col("flagged") == pl.col("drifted"))
        .then(pl.lit("agree"))
        .otherwise(pl.lit("disagree"))
    )
    both = ours.join(theirs, on="column", how="full", coalesce=True).join(counted, on="column", how="left")
    return both.select(
        "column", "n", "n_null", "method", "score", "tool_threshold", "drifted", "flagged", agreement.alias("agreement")
    ).sort("column")


def keep_peer_report(report: PeerReport, lake: Lake, model: str, run_id: str) -> None:
    """Write what a tool said of a month in place of what it said before; of other tools and months nothing changes."""
    lake.write_table(
        f"{model}.{PEER_REPORT}",
        report.table,
        author=run_id,
        message=report.table["report"][0],
        replace_by="report",
        description="What Evidently and NannyML, where they were asked, say of each column of a month, beside ours.",
        comments={name: COLUMN_DESCRIPTIONS[name] for name in report.table.columns},
    )


def _materialise(
    context: dg.AssetExecutionContext,
    tool: str,
    protocol: ModelProtocol,
    at: Home,
    lake: Lake,
    registry: Registry,
) -> dg.MaterializeResult[Any]:
    report = make_peer_report(context, tool, protocol, at, lake, registry)
    keep_peer_report(report, lake, protocol.model, context.run.run_id)
    counts = report.table.group_by("agreement").len("columns").sort("agreement")
    compared = report.table["drifted"].count()
    record_kept(at.audit, context.asset_key, context.run, details={"rows": report.table.height})
    return dg.MaterializeResult(
        metadata={
            "page": dg.MetadataValue.path(str(report.page.relative_to(at.root))),
            "tool_version": report.version,
            "columns_compared": compared,
            "columns_drifted": int(report.table["drifted"].sum()),
            "beside_ours": markdown_table(counts),
            "network": "none (a namespace of its own)" if without_network() else "sockets refused in the process",
        }
    )


@dg.asset(deps=["features", "predictions", "drift_report"], partitions_def=MONTHS, kinds={"evidently"})
@reporting
def evidently_report(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    home: HomeResource,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[Any]:
    """Evidently's drift report of the month, on request: its page in a private folder, its verdicts beside ours."""
    return _materialise(context, "evidently", protocol, home.open(), lake.open(), registry.open())


@dg.asset(deps=["features", "predictions", "drift_report"], partitions_def=MONTHS, kinds={"nannyml"})
@reporting
def nannyml_report(
    context: dg.AssetExecutionContext,
    protocol: ModelProtocol,
    home: HomeResource,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[Any]:
    """NannyML's drift report of the month, on request: its page in a private folder, its verdicts beside ours."""
    return _materialise(context, "nannyml", protocol, home.open(), lake.open(), registry.open())


def peer_jobs(protocol: ModelProtocol) -> list[Any]:
    """The jobs that ask the other tools: both, and each alone."""
    model = protocol.model
    asked = {"peer_reports": TOOLS, **{f"{tool}_report_on_request": (tool,) for tool in TOOLS}}
    return [
        dg.define_asset_job(
            f"{model}_{name}",
            dg.AssetSelection.assets(*([model, f"{tool}_report"] for tool in tools)),
            description=f"What {' and '.join(tools)} say of a month, in an environment of their own; on request only",
            tags={MODEL: model},
            executor_def=dg.in_process_executor,
        )
        for name, tools in asked.items()
    ]


def _has_value(series: pl.Series) -> bool:
    values = series.drop_nulls()
    return values.drop_nans().len() > 0 if values.dtype.is_float() else values.len() > 0
