"""The verb that asks another tool for its drift report of a month: report.

Belongs here: its options and what it prints. Does not belong here: what is handed over, and how the tool is called.
"""

from datetime import date
from typing import Annotated, Literal

import polars as pl
import typer
from rich.markup import escape
from rich.table import Table

from clinical_assets.cli.profile import months_of
from clinical_assets.cli.terminal import JsonFlag, console, one_line_on_refusal, open_home, print_json, refuse
from clinical_assets.governance.audit_trail import person_at_terminal
from clinical_assets.protocol import read_protocol

app = typer.Typer()


@app.command()
@one_line_on_refusal
def report(
    tool: Annotated[Literal["evidently", "nannyml"], typer.Argument(help="The tool to ask.")],
    model: str,
    period: Annotated[str, typer.Option(help="The month, as 2025-05.")],
    as_json: JsonFlag = False,
) -> None:
    """Have Evidently or NannyML report a month's drift, in their own environment, and set it beside ours."""
    import warnings

    import dagster as dg

    from clinical_assets.definitions import defs
    from clinical_assets.lifecycle.launch import PERSON
    from clinical_assets.lifecycle.peer_reports import PEER_REPORT, PeerError, peer_python, peers_folder

    read_protocol(model)
    months = months_of(period, "--period")
    if len(months) != 1:
        raise typer.BadParameter(f"{period!r} is more than one month; give 2025-05", param_hint="--period")
    home, lake, _ = open_home()
    warnings.simplefilter("ignore", dg.BetaWarning)
    try:
        peer_python()
        for table in ("predictions", "drift_report"):
            lake.read(f"{model}.{table}", month=months[0], columns=["month"])
        job = defs().resolve_job_def(f"{model}_{tool}_report_on_request")
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            job.execute_in_process(
                instance=instance,
                partition_key=f"{months[0]:%Y-%m}",
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                tags={PERSON: person_at_terminal()},
            )
    except PeerError as error:
        refuse(error)
    said = lake.read(f"{model}.{PEER_REPORT}", where={"report": f"{tool} {months[0]:%Y-%m}"}).sort("column")
    show(said, tool, months[0], str(peers_folder(home, model) / f"{tool}_{months[0]:%Y-%m}.html"), as_json)


def show(said: pl.DataFrame, tool: str, month: date, page: str, as_json: bool) -> None:
    """The columns on which the two disagree, the number of those on which they agree, and where the page lies."""
    if as_json:
        print_json({"tool": tool, "month": f"{month:%Y-%m}", "page": page, "columns": said.to_dicts()})
        return
    counts = dict(said["agreement"].value_counts().iter_rows())
    apart = said.filter(agreement="disagree")
    table = Table(title=f"{tool} {said['tool_version'][0]} on {month:%Y-%m}, where it says otherwise than we do")
    for heading in ("column", tool, "ours", "its method", "score"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "score" else "left")
    for row in apart.iter_rows(named=True):
        words = ["drifted" if row[name] else "no drift" for name in ("drifted", "flagged")]
        score = "withheld" if row["score"] is None else f"{row['score']:.3g} / {row['tool_threshold']:.3g}"
        table.add_row(escape(row["column"]), *words, escape(row["method"]), score)
    if apart.height:
        console.print(table)
    verdicts = ", ".join(f"{counts.get(word, 0)} {word}" for word in ("agree", "disagree", "not compared"))
    console.print(f"{tool} on {month:%Y-%m}: of {said.height} columns {verdicts}")
    console.print(f"written: {page} (for you alone: it shows exact small counts)", soft_wrap=True)
