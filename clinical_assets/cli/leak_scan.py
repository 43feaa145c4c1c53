"""The verb of who guards privacy: phi-scan.

Belongs here: its options and what it prints. Does not belong here: the search.
"""

from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.table import Table

from clinical_assets.cli.metrics import page_of_home
from clinical_assets.cli.terminal import (
    REFUSALS,
    JsonFlag,
    console,
    one_line_on_refusal,
    open_home,
    print_json,
    refuse,
)
from clinical_assets.governance.audit_trail import person_at_terminal
from clinical_assets.lifecycle.publication import open_leak_incident
from clinical_assets.metrics.exporter import page_of
from clinical_assets.resources.home import Home
from clinical_assets.resources.leak_search import (
    LeakReport,
    SinkReport,
    Unreadable,
    only_search,
    search_home,
    search_text,
)
from clinical_assets.resources.leak_sinks import EXEMPTIONS, NOT_SEARCHED

app = typer.Typer()


@app.command()
@one_line_on_refusal
def phi_scan(
    whole: Annotated[bool, typer.Option("--whole", help="Search also what was found clean before.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Search all that the platform wrote for identifiers of patients; exit code 1 if there are any, or may be."""
    home, lake, _ = open_home()
    with only_search(home):
        report = search_home(lake, home, whole=whole)
    report = replace(report, sinks=(*report.sinks, _search_metrics_page(home)))
    if not report.is_clean:
        open_leak_incident(lake, home, report, actor=person_at_terminal())
    print_json(_as_json(report)) if as_json else _print(report)
    if not report.is_clean:
        refuse(f"{report.describe()}; nothing is published until this is mended, and an incident is open")


def _search_metrics_page(home: Home) -> SinkReport:
    """What `/metrics` shows of the home just now; a page that cannot be made was not searched, and is not clean."""
    sink = "metrics page"
    try:
        with page_of_home() as page:
            return search_text(home, sink, page_of(page.read()))
    except REFUSALS as error:
        why = f"it cannot be made ({type(error).__name__})"
        return SinkReport(sink, 1, 0, 0, 0, (), (Unreadable(sink, why),))


def _print(report: LeakReport) -> None:
    table = Table(title=f"search for identifiers, lake snapshot {report.snapshot}, {report.seconds:.1f} s")
    for heading in ("sink", "places", "unchanged", "MB read", "texts read", "found"):
        table.add_column(heading, justify="left" if heading in ("sink", "found") else "right")
    for sink in report.sinks:
        found = f"{len(sink.leaks)} leaks" if sink.leaks else "none"
        found = f"{found}, cannot tell: {len(sink.unreadable)}" if sink.unreadable else found
        numbers = (f"{sink.places:,}", f"{sink.unchanged:,}", f"{sink.size_bytes / 1e6:,.1f}", f"{sink.texts:,}")
        table.add_row(sink.sink, *numbers, found if sink.places else "empty")
    console.print(table)
    if report.leaks:
        leaks = Table(title="leaks (a value is never shown; the mark tells whether two places hold the same)")
        for heading in ("place", "kind", "evidence", "texts", "mark"):
            leaks.add_column(heading, overflow="fold", justify="right" if heading == "texts" else "left")
        for leak in report.leaks:
            leaks.add_row(leak.place, leak.identifier_class.value, leak.evidence, f"{leak.count:,}", leak.mark or "-")
        console.print(leaks)
    for place in report.unreadable:
        console.print(f"cannot tell: {place.place}: {place.reason}")
    console.print(f"searched for: {report.known_identifiers} known identifiers in every written form, and patterns")
    for place, reason in NOT_SEARCHED.items():
        console.print(f"not searched: {place}: {reason}")
    for exemption in EXEMPTIONS:
        console.print(f"not counted: {exemption.evidence} in {exemption.place}: {exemption.reason}", markup=False)


def _as_json(report: LeakReport) -> dict[str, object]:
    exempt = [asdict(exemption) for exemption in EXEMPTIONS]
    return {"clean": report.is_clean, **asdict(report), "not_searched": NOT_SEARCHED, "exemptions": exempt}
