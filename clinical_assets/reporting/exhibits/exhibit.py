"""What a kind of model shows in its report beside the findings: figures, small tables and pictures, as frozen values.

Belongs here: the shape that every exhibit has. Does not belong here: any exhibit, and how one becomes HTML.

A protocol names its exhibits; each is a function of the scored test rows, the protocol and the findings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from clinical_assets.protocol import Finding, ModelProtocol

PICTURE_ADDRESS = "data:image/png;base64,"


class ExhibitError(ValueError):
    """An exhibit cannot be made of these rows or under this protocol; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table: its text, a smaller line below, how dark its ground is (0 to 1), whether it is framed."""

    text: str
    note: str = ""
    shade: float = 0.0
    framed: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A small table; the first cell of each row names the row."""

    caption: str
    heading: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A small PNG picture as a `data:` address, with the lines below it; raises ExhibitError on any other address."""

    address: str
    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.address.startswith(PICTURE_ADDRESS):
            raise ExhibitError(f"a picture of a report stands in the page itself: give {PICTURE_ADDRESS}...")


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures under one caption."""

    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Exhibit:
    """What is shown under one title, with a sentence on how to read it; `svg` is the markup of a drawn figure."""

    title: str
    reading: str
    svg: str | None = None
    tables: tuple[Table, ...] = ()
    galleries: tuple[Gallery, ...] = ()


ExhibitFunction = Callable[[pl.DataFrame, ModelProtocol, Sequence[Finding]], Exhibit]


def require_columns(scored: pl.DataFrame, columns: Sequence[str], exhibit: str) -> None:
    """Raise ExhibitError where the scored rows are none, or lack a column that an exhibit shows."""
    if missing := [column for column in columns if column not in scored.columns]:
        raise ExhibitError(
            f"{exhibit}: the scored rows lack the columns {', '.join(missing)}; "
            "take it out of the protocol's exhibits, or name an assessment that gives them"
        )
    if scored.is_empty():
        raise ExhibitError(f"{exhibit}: there are no scored rows to show")
