"""The published file, analytics.duckdb: the lake at one snapshot, in clear and read-only, for any DuckDB client.

Two files take turns. The one that was published before the present one is kept aside; the next publication brings it up
to date, by the rows that changed since, and swaps it in: nothing is copied that did not change. It is written to only
where no process has it open, since an analyst may have opened it while it was the published one.

Belongs here: when the file is replaced, and how under its readers. Does not belong here: what is in it
(analytics_content.py), what is de-identified (all that reaches the lake is), and Dagster.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clinical_assets.resources.analytics_content import renew_content
from clinical_assets.resources.home import write_atomically
from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.lake_engine import attempt


@dataclass(frozen=True, slots=True)
class Published:
    """What is published: the file, the number of its tables, their rows in sum, and the lake's snapshot they show.

    `is_new` is whether this publication made it; False where the file showed the lake's newest commit already.
    """

    path: Path
    tables: int
    rows: int
    snapshot: int
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a publisher wrote into a file, and how it left it: size, times and inode tell whether anybody changed it."""

    state: list[int]
    snapshot: int
    lake: str
    models: list[str]
    tables: int
    rows: int
    views: str
    written_at: str


def publish_analytics(
    lake: Lake,
    path: Path,
    models: Sequence[str],
    before_replacing: Callable[[int], None] | None = None,
    *,
    asked: int | None = None,
) -> Published:
    """Publishes the tables of the models and of governance, with their comments, and views over all models.

    A file that shows the snapshot `asked` (the newest when this is called, by default) or a later one is left as it is.
    Readers of the file of before keep it; who opens the file afterwards sees the new one. Columns of type BLOB are left
    out. What an analyst does to the published file is gone with the next. `before_replacing` is told the snapshot that
    is about to be shown; if it raises, the published file stays as it was. Raises LakeError if no table is there to
    publish.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = lake.latest_snapshot() if asked is None else asked
    spare = spare_of(path)
    with _only_publisher(path):
        shown, kept = (_unchanged(record, file) for record, file in zip(_records(path), (path, spare), strict=True))
        if shown and shown.snapshot >= asked and (shown.lake, shown.models) == (str(lake.made_at()), list(models)):
            return Published(path, shown.tables, shown.rows, shown.snapshot, is_new=False)
        views = _ready_to_write(spare, path, shown, kept)
        try:
            content, _ = attempt("publication", lake.retry_seconds, lambda: renew_content(lake, spare, models, views))
            if spare.with_name(f"{spare.name}.wal").exists():
                raise LakeError(f"{path.name}: the file is not whole, a log is left beside it; publish again")
            if before_replacing is not None:
                before_replacing(content.snapshot)
            _swap_in(spare, path, keep_the_one_of_before=shown is not None)
        except BaseException:
            # What may not be shown must not lie about either; the next publication makes another.
            _delete(spare)
            raise
        written = FileRecord(
            _state_of(path),
            content.snapshot,
            str(lake.made_at()),
            list(models),
            content.tables,
            content.rows,
            content.views,
            datetime.now(UTC).isoformat(),
        )
        aside = asdict(shown) | {"state": _state_of(spare)} if shown else None
        write_atomically(_record_path(path), json.dumps({"published": asdict(written), "spare": aside}))
    return Published(path, content.tables, content.rows, content.snapshot)


def published_record(path: Path) -> FileRecord | None:
    """What the published file shows; None where there is none, or somebody has changed it since."""
    return _unchanged(_records(path)[0], path)


def spare_of(path: Path) -> Path:
    """The file that was published before the one at `path`, kept aside for the next publication."""
    return path.with_name(f".{path.name}.spare")


@contextmanager
def _only_publisher(path: Path) -> Iterator[None]:
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _ready_to_write(spare: Path, path: Path, shown: FileRecord | None, kept: FileRecord | None) -> str:
    """Leave at `spare` the file that is to be brought up to date, if there is one; gives the mark of its views.

    The spare one where it is as a publisher left it and nobody has it open, else a copy of the published one.
    """
    building = spare.with_name(f"{spare.name}.building")
    building.unlink(missing_ok=True)
    if kept and _nobody_has_open(spare):
        spare.chmod(0o600)
        return kept.views
    _delete(spare)
    if shown is None:
        return ""
    try:
        shutil.copyfile(path, building)
        building.chmod(0o600)
        building.replace(spare)
    finally:
        building.unlink(missing_ok=True)
    return shown.views


def _nobody_has_open(file: Path) -> bool:
    """Whether no process, this one included, has the file open, and no other name leads to it.

    The kernel grants a lease for writing on exactly these terms; where it knows none, nobody can tell.
    """
    opened = os.open(file, os.O_RDONLY)
    try:
        if os.fstat(opened).st_nlink > 1:
            return False
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except (OSError, AttributeError):
        return False
    finally:
        os.close(opened)
    return True


def _swap_in(spare: Path, path: Path, keep_the_one_of_before: bool) -> None:
    aside = spare.with_name(f"{spare.name}.aside")
    aside.unlink(missing_ok=True)
    spare.chmod(0o444)
    # A log that a killed analyst left would be replayed into the new file, by its first reader.
    _delete_logs(path)
    if keep_the_one_of_before:
        os.link(path, aside)
    spare.replace(path)
    _delete_logs(path)
    if keep_the_one_of_before:
        aside.replace(spare)
        spare.chmod(0o600)


def _delete(file: Path) -> None:
    file.unlink(missing_ok=True)
    _delete_logs(file)


def _delete_logs(file: Path) -> None:
    for log in file.parent.glob(f"{file.name}.wal*"):
        log.unlink(missing_ok=True)


def _record_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.record")


def _records(path: Path) -> tuple[FileRecord | None, FileRecord | None]:
    """What was written down of the published file and of the spare one; none where that cannot be read."""
    try:
        stored: dict[str, Any] = json.loads(_record_path(path).read_text())
        published, spare = stored["published"], stored["spare"]
        return FileRecord(**published), FileRecord(**spare) if spare else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None, None


def _unchanged(record: FileRecord | None, file: Path) -> FileRecord | None:
    return record if record and file.exists() and _state_of(file) == record.state else None


def _state_of(file: Path) -> list[int]:
    """What changes when a file does; the time of the inode cannot be set back."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
