"""What Dagster's catalogue shows of a materialisation: described columns, small tables, pictures.

Belongs here: the look of metadata. Does not belong here: the columns of a cohort, whose contract describes them, and
how a figure is drawn.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from clinical_assets.governance.small_cells import is_name_of_count, shown_count
from clinical_assets.reporting.figures import to_png_data_uri
from clinical_assets.resources.column_descriptions import describe_column

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def described(frame: pl.DataFrame, descriptions: Mapping[str, str]) -> dg.TableSchema:
    """A cohort's columns with their types and what they mean; the lake takes its comments from it."""
    return dg.TableSchema(
        [
            dg.TableColumn(name, str(dtype), description=descriptions.get(name) or describe_column(name))
            for name, dtype in frame.schema.items()
        ]
    )


def markdown_table(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """A small frame as a table in the catalogue; counts of 1 to 10 read `fewer than 11`."""
    header = " | ".join(frame.columns)
    counts = [is_name_of_count(name) and kind.is_integer() for name, kind in frame.schema.items()]
    lines = [" | ".join(map(_written, row, counts)) for row in frame.rows()]
    return dg.MetadataValue.md("\n".join([f"| {line} |" for line in (header, "|".join("-" * frame.width), *lines)]))


def picture(figure: "Figure", title: str) -> dg.MarkdownMetadataValue:
    """A figure as a picture in the catalogue."""
    return dg.MetadataValue.md(f"![{title}]({to_png_data_uri(figure)})")


def _written(cell: object, is_count: bool) -> str:
    if cell is None:
        return ""
    if is_count and isinstance(cell, int):
        return shown_count(cell)
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
