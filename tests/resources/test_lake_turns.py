from datetime import date
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.lake_engine import turn_to_write

MONTH = date(2024, 1, 1)


def write(lake: Lake) -> int:
    rows = pl.DataFrame({"month": [MONTH], "days": [3]})
    return lake.write_month("toy.stays", MONTH, rows, author="a test", message="a month").attempts


def test_a_writer_waits_for_another_s_turn_and_says_so_when_it_does_not_end(tmp_path: Path) -> None:
    catalogue = str(tmp_path / "catalogue.sqlite")
    lake = Lake(catalogue, tmp_path / "data", retry_seconds=0.2)
    assert write(lake) == 1
    with turn_to_write(catalogue, "another's table", 1.0):
        assert lake.read("toy.stays").height == 1
        with pytest.raises(LakeError, match=r"toy\.stays: other writers kept the lake busy"):
            write(lake)
    assert write(lake) == 1
