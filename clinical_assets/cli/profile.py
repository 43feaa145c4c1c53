"""The verb that draws a model's stored profiles: profile.

Belongs here: its options and what it prints. Does not belong here: what is fetched, compared and drawn.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from clinical_assets.archives.calendar import CALENDAR_NOTE
from clinical_assets.cli.terminal import JsonFlag, console, one_line_on_refusal, open_home, print_json, refuse
from clinical_assets.protocol import month_after, read_protocol

if TYPE_CHECKING:
    from clinical_assets.reporting.profile_page import MovedColumn

app = typer.Typer()

TRAINING = "training"
_MOST_LISTED = 10
_MONTHS = re.compile(r"(\d{4}-(?:0[1-9]|1[0-2]))(?:\.\.(\d{4}-(?:0[1-9]|1[0-2])))?")


@app.command()
@one_line_on_refusal
def profile(
    model: str,
    out: Annotated[Path, typer.Option(help="The HTML page to write.")],
    periods: Annotated[str | None, typer.Option(help="Months, as 2025-01..2025-06 or 2025-05; all if none.")] = None,
    against: Annotated[
        str | None, typer.Option(help="`training`, or months; without it each month is held against all of them.")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Whose training set; the champion's by default.")] = None,
    bins: Annotated[
        Path | None, typer.Option(help="A private folder for .bin files that whylogs opens; their counts are exact.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw the stored profiles of a model's months on one page: what moved, the furthest first."""
    from clinical_assets.lifecycle.stored_profiles import alarmed_columns, compare_stored_profiles, write_bins
    from clinical_assets.reporting.profile_page import ProfilePage, moved_columns, render_profile_page
    from clinical_assets.reporting.shown_profiles import show_columns

    protocol = read_protocol(model)
    asked = months_of(periods, "--periods")
    others = [] if against in (None, TRAINING) else months_of(against, "--against")
    _, lake, registry = open_home()
    months = asked or lake.months(f"{model}.profile")
    of_version = None
    if against == TRAINING:
        of_version = registry.champion(model) if version is None else registry.version(model, version)
    elif version is not None:
        refuse("--version says whose training set is meant; give --against training with it")
    compared = compare_stored_profiles(lake, protocol, months, others, of_version)
    opened = compared.opened()
    columns = show_columns(opened)
    page = ProfilePage(protocol, opened, compared.data_origin, CALENDAR_NOTE, alarmed_columns(lake, model, months))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render_profile_page(page, columns))
    written = write_bins(model, compared, bins) if bins is not None else []
    moved = moved_columns(columns)
    if as_json:
        print_json(
            {
                "model": model,
                "periods": opened.whole.label,
                "against": None if opened.is_against_itself else opened.against.label,
                "data_origin": compared.data_origin,
                "columns": len(columns),
                "moved": [asdict(column) for column in moved],
                "page": str(out),
                "bins": [str(path) for path in written],
            }
        )
        return
    held = "all of them" if opened.is_against_itself else opened.against.label
    console.print(f"{model} {opened.whole.label}, each month against {held}:")
    console.print(f"{len(moved)} of {len(columns)} columns moved further than chance explains")
    if moved:
        console.print(table_of(moved))
    console.print(
        f"written: {out}{f'; {len(written)} .bin files in {bins}, for you alone' if written else ''}", soft_wrap=True
    )


def table_of(moved: "Sequence[MovedColumn]") -> Table:
    """The columns that moved furthest; the page has them all."""
    more = len(moved) - _MOST_LISTED
    table = Table(caption=f"and {more} more on the page" if more > 0 else None)
    for heading in ("column", "furthest", "× chance", "what is different"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "× chance" else "left")
    for column in moved[:_MOST_LISTED]:
        table.add_row(escape(column.column), column.month, f"{column.moved:.1f}", escape(column.words))
    return table


def months_of(text: str | None, option: str) -> list[date]:
    """The first days of the months that `2025-01..2025-06` or `2025-05` names; none where nothing is said."""
    if text is None:
        return []
    found = _MONTHS.fullmatch(text)
    first = date.fromisoformat(f"{found[1]}-01") if found else date.max
    last = date.fromisoformat(f"{found[2]}-01") if found and found[2] else first
    if found is None or last < first:
        raise typer.BadParameter(f"{text!r} names no months; give 2025-05 or 2025-01..2025-06", param_hint=option)
    months = [first]
    while months[-1] < last:
        months.append(month_after(months[-1]))
    return months
