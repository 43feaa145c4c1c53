"""The lake's aggregate tables as they may be shown to people who have no right to the lake.

Belongs here: reading one with its small counts suppressed. Does not belong here: which counts those are
(`reporting.shown_tables`), and publication, which reads all tables at one snapshot.
"""

from collections.abc import Sequence
from datetime import date

import polars as pl

from clinical_assets.reporting.shown_tables import SHOWN_TABLES
from clinical_assets.resources.lake import Lake


def read_shown(lake: Lake, model: str, table: str) -> pl.DataFrame:
    """An aggregate table of a model (one of `SHOWN_TABLES`) with small counts null, and the column `suppressed`.

    Raises LakeError where the table was never written.
    """
    shown = SHOWN_TABLES[table]
    names = [name for name in shown.looks_at if name == table or lake.exists(f"{model}.{name}")]
    return shown.show({name: lake.read(f"{model}.{name}") for name in names})


def read_shown_months(
    lake: Lake, model: str, table: str, months: Sequence[date], columns: Sequence[str]
) -> pl.DataFrame:
    """Some columns of some months, suppressed as `read_shown` does, without reading the others.

    Only for columns that are withheld by what their own month holds, as values and their intervals are; figures since
    the release are not. Raises LakeError where the table lacks one of the months.
    """
    return SHOWN_TABLES[table].show({table: lake.read(f"{model}.{table}", months=months)}).select(columns)
