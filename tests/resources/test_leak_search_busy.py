"""A database that another process is in the middle of writing while it is searched."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.governance.readable_content import UnreadableContentError
from clinical_assets.resources.leak_sinks import ReadSoFar, content_of


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of some pages."""
    path = tmp_path / "runs.db"
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE runs (body TEXT)")
        made.executemany("INSERT INTO runs VALUES (?)", [(f"{number}" * 100,) for number in range(500)])
    return path


def places_read(path: Path) -> list[str]:
    return [content.place for content in content_of("runs.db", path, False, pl.Series, False, ReadSoFar())]


def test_a_database_in_the_middle_of_a_write_is_read_once_it_is_whole(database: Path) -> None:
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    finishing = threading.Timer(0.6, database.write_bytes, [whole])
    finishing.start()
    try:
        assert places_read(database) == ["runs.db:runs.body"]
    finally:
        finishing.join()


def test_a_database_that_stays_damaged_cannot_be_read(database: Path) -> None:
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableContentError, match="it cannot be read"):
        places_read(database)
