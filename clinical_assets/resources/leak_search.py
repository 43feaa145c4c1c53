"""The search of a whole home for identifiers: every sink, but only what changed since it was last found clean.

Belongs here: what was searched before, and the report. Does not belong here: what the sinks are (leak_sinks.py), and
what follows from a leak (lifecycle/publication.py).
"""

import fcntl
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.identified_zone import write_private
from clinical_assets.governance.known_identifiers import KnownIdentifiers
from clinical_assets.governance.leak_patterns import COLUMN_NAMES, PATTERNS
from clinical_assets.governance.leak_scan import Leak, LeakScanner
from clinical_assets.governance.pseudonyms import load_or_create_key
from clinical_assets.governance.readable_content import Content, UnreadableContentError, content_of_texts
from clinical_assets.protocol import protocol_names, read_protocol
from clinical_assets.resources.home import Home, write_atomically
from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.lake_engine import quoted_name
from clinical_assets.resources.leak_sinks import (
    EXEMPTIONS,
    SINKS,
    ReadSoFar,
    Sink,
    content_of,
    content_of_table,
    files_by_sink,
    logs_beside,
    tables_of,
)

FORMAT = 2
_HASH_SEED = 5
LAKE_SINKS = tuple(sink for sink in SINKS if sink.tables)


class LeakError(RuntimeError):
    """Identifiers stand where none may, or nobody can tell; the message names kinds, places and counts, no value."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A place of which nobody can tell what is in it, and why."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class SinkReport:
    """What was searched of one sink, and what was found.

    `places` counts files and tables, `unchanged` those of them that were found clean before and did not change since;
    `size_bytes` and `texts` what was read this time.
    """

    sink: str
    places: int
    unchanged: int
    size_bytes: int
    texts: int
    leaks: tuple[Leak, ...]
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True, slots=True)
class LeakReport:
    """The search of a home: sink by sink, up to which snapshot of the lake, in how many seconds."""

    sinks: tuple[SinkReport, ...]
    known_identifiers: int
    snapshot: int
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether every sink could be read, and holds no identifier."""
        return not (self.leaks or self.unreadable)

    @property
    def leaks(self) -> list[Leak]:
        """Every leak of every sink."""
        return [leak for sink in self.sinks for leak in sink.leaks]

    @property
    def unreadable(self) -> list[Unreadable]:
        """Every place that could not be read."""
        return [place for sink in self.sinks for place in sink.unreadable]

    def describe(self) -> str:
        """What was found in one line: kinds, and the first places; never a value."""
        leaks, unreadable = self.leaks, self.unreadable
        kinds = ", ".join(sorted({leak.identifier_class.value for leak in leaks}))
        said = [f"{len(leaks)} leaks ({kinds}), first in {leaks[0].place}"] if leaks else []
        said += [f"{len(unreadable)} places cannot be read, first {unreadable[0].place}"] if unreadable else []
        return "; ".join(said) or "no identifier found"


@dataclass(slots=True)
class _Texts:
    """Hashes of the texts of growing databases that were found clean, and of those that are being searched."""

    known: pl.Series
    asked: list[pl.Series] = field(default_factory=list)
    has_new: bool = False

    def unseen(self, texts: pl.Series) -> pl.Series:
        """The texts that were not found clean before, each once."""
        texts = texts.unique()
        hashes = texts.hash(seed=_HASH_SEED)
        is_new = ~hashes.is_in(self.known.implode())
        self.asked.append(hashes.filter(is_new))
        return texts.filter(is_new)

    def settle(self, clean: bool) -> None:
        """Remember what was asked for, if it proved clean."""
        if clean and any(hashes.len() for hashes in self.asked):
            self.known = pl.concat([self.known, *self.asked]).unique()
            self.has_new = True
        self.asked.clear()


@dataclass(slots=True)
class _Searched:
    """What was found clean: the state of each file, the lake and its snapshot, under which detectors.

    `databases` says of files that are growing databases how far they were read.
    """

    detectors: str
    files: dict[str, list[int]] = field(default_factory=dict)
    databases: dict[str, ReadSoFar] = field(default_factory=dict)
    lake: str = ""
    snapshot: int = -1
    texts: _Texts = field(default_factory=lambda: _Texts(pl.Series(dtype=pl.UInt64)))


@contextmanager
def only_search(home: Home) -> Iterator[None]:
    """One search or publication of a home at a time; the next one finds what this one searched."""
    _state_path(home).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(_state_path(home).with_name(".leak_scan.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def search_home(
    lake: Lake, home: Home, *, whole: bool = False, snapshot: int | None = None, sinks: Sequence[Sink] = SINKS
) -> LeakReport:
    """Search the sinks of a home for what is new, or (`whole`) everything anew; the caller holds `only_search`.

    A file is searched if its size, its times or its inode differ from when it was found clean, a table's rows if they
    were written since; `snapshot` is the lake's state to search, the present one by default. What holds a leak or
    cannot be read is searched again the next time.
    """
    began = time.monotonic()
    scanner = _scanner(home)
    detectors = _detectors(scanner.known)
    searched = _Searched(detectors) if whole else _read_state(home, detectors)
    shown = {name for name in protocol_names() if not read_protocol(name).images_identifiable}
    at = lake.latest_snapshot() if snapshot is None else snapshot
    made, since = str(lake.made_at()), searched.snapshot
    if searched.lake != made or since > at:
        since = -1
    tables, files = lake.tables(), files_by_sink(home) if any(sink.files for sink in sinks) else {}
    changed = set(tables) if since < 0 else lake.changed_since(since)
    reports = tuple(
        _search_tables(lake, sink, tables, changed, since, at, shown, scanner)
        if sink.tables
        else _search_files(sink, files[sink.name], searched, shown, scanner)
        for sink in sinks
    )
    of_tables = [report for report, sink in zip(reports, sinks, strict=True) if sink.tables]
    if len(of_tables) == len(LAKE_SINKS) and not any(report.leaks or report.unreadable for report in of_tables):
        searched.lake, searched.snapshot = made, at
    _write_state(home, searched)
    return LeakReport(reports, len(IdentifierClass), at, time.monotonic() - began)


def search_text(home: Home, sink: str, text: str) -> SinkReport:
    """Search a text, line by line, that others are shown and that stands in no file of the home."""
    read = content_of_texts(sink, pl.Series(text.splitlines()))
    return SinkReport(sink, 1, 0, read.size_bytes, read.texts.len(), tuple(_scanner(home).search([read])), ())


def trust(home: Home, files: tuple[Path, ...]) -> None:
    """Take files as searched that were made just now of rows that were; the caller holds `only_search`."""
    stored = json.loads(_state_path(home).read_text())
    states = {path.relative_to(home.root).as_posix(): _state_of(path) for path in files if path.exists()}
    write_atomically(_state_path(home), json.dumps(stored | {"files": stored["files"] | states}))


def _scanner(home: Home) -> LeakScanner:
    """What searches for this home's canaries and for patterns."""
    key = load_or_create_key(home.pseudonym_key)
    known = KnownIdentifiers.of((canary.identifier_class, canary.value) for canary in canaries(key))
    return LeakScanner(known, key, EXEMPTIONS)


def _search_files(
    sink: Sink, files: dict[str, Path], searched: _Searched, shown: set[str], scanner: LeakScanner
) -> SinkReport:
    unchanged = 0
    read = [Content(place, pl.Series([place]), len(place)) for place in files if place not in searched.files]
    telling = {leak.place for leak in scanner.search(read)}
    states: dict[str, list[int]] = {}
    databases: dict[str, ReadSoFar] = {}
    unreadable: list[Unreadable] = []
    for place, path in files.items():
        try:
            state = _state_of(path)
            if searched.files.get(place) == state:
                unchanged += 1
                continue
            is_new = not (sink.grows and place in searched.files)
            before = searched.databases.get(place)
            so_far = replace(before) if before and not is_new else ReadSoFar()
            images = _shows_images(place, shown)
            read += content_of(place, path, images, searched.texts.unseen, pages=is_new, so_far=so_far)
            states[place] = state
            if sink.grows and so_far.rows:
                databases[place] = so_far
        except FileNotFoundError:
            continue
        except UnreadableContentError as error:
            unreadable.append(Unreadable(_shown(place, telling), str(error)))
    leaks = scanner.search(read)
    searched.texts.settle(clean=not leaks and not unreadable)
    unclean = {leak.place.partition(":")[0] for leak in leaks} | {each.place for each in unreadable} | telling
    leaks = [replace(leak, place=_shown(leak.place, telling)) for leak in leaks]
    searched.files.update({place: state for place, state in states.items() if place not in unclean})
    searched.databases.update({place: far for place, far in databases.items() if place not in unclean})
    return _report(sink, len(files), unchanged, read, leaks, unreadable)


def _shown(place: str, telling: set[str]) -> str:
    """The place, unless its own name holds an identifier: then the sink's folder alone."""
    return f"{place.partition('/')[0]}/(name withheld)" if place.partition(":")[0] in telling else place


def _search_tables(
    lake: Lake,
    sink: Sink,
    tables: list[str],
    changed: set[str],
    since: int,
    at: int,
    shown: set[str],
    scanner: LeakScanner,
) -> SinkReport:
    own = tables_of(sink, tables)
    read: list[Content] = []
    unreadable: list[Unreadable] = []
    unchanged = 0
    for table in own:
        if table not in changed:
            unchanged += 1
            continue
        schema, _, name = table.partition(".")
        source = f"lake.{quoted_name(schema)}.{quoted_name(name)} AT (VERSION => {at})"
        try:
            with lake.cursor() as cursor:
                new = list(content_of_table(cursor, table, source, schema in shown, f"snapshot_id > {since}"))
        except duckdb.CatalogException:
            continue  # It was made after this snapshot.
        except (duckdb.Error, LakeError) as error:
            unreadable.append(Unreadable(table, f"it cannot be read ({type(error).__name__})"))
            continue
        unchanged += not new
        read += new
    return _report(sink, len(own), unchanged, read, scanner.search(read), unreadable)


def _report(
    sink: Sink, places: int, unchanged: int, read: list[Content], leaks: list[Leak], unreadable: list[Unreadable]
) -> SinkReport:
    size, texts = sum(content.size_bytes for content in read), sum(content.texts.len() for content in read)
    return SinkReport(sink.name, places, unchanged, size, texts, tuple(leaks), tuple(unreadable))


def _shows_images(place: str, shown: set[str]) -> bool:
    return place.startswith(tuple(f"reports/{model}/" for model in shown))


def _state_of(path: Path) -> list[int]:
    """What changes when a file does, with its logs beside it; the time of the inode cannot be set back.

    That of a log is not told: SQLite sets it whenever root reads.
    """
    own, logs = path.stat(), logs_beside(path)
    state = [own.st_size, own.st_mtime_ns, own.st_ctime_ns, own.st_ino]
    return state + [number for log in logs for number in (log.st_size, log.st_mtime_ns, log.st_ino)]


def _detectors(known: KnownIdentifiers) -> str:
    """Names what is searched for: with another pattern or canary, everything is searched anew."""
    patterns = [(pattern.name, pattern.expression) for pattern in PATTERNS]
    said = json.dumps([FORMAT, patterns, sorted(known.forms), sorted(COLUMN_NAMES.items()), [*map(asdict, EXEMPTIONS)]])
    return hashlib.sha256(f"{said}|{pl.__version__}".encode()).hexdigest()  # a text's hash is this polars' own


def _state_path(home: Home) -> Path:
    return home.signers.parent / "leak_scan.json"


def _texts_path(home: Home) -> Path:
    return home.signers.parent / "leak_scan.parquet"


def _read_state(home: Home, detectors: str) -> _Searched:
    path = _state_path(home)
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if stored.get("detectors") != detectors or not _texts_path(home).exists():
        return _Searched(detectors)
    databases = {
        place: ReadSoFar(said["since"], {table: (row, digest) for table, (row, digest) in said["rows"].items()})
        for place, said in stored.pop("databases").items()
    }
    texts = _Texts(pl.read_parquet(_texts_path(home)).to_series())
    return _Searched(**stored, databases=databases, texts=texts)


def _write_state(home: Home, searched: _Searched) -> None:
    kept = {place: state for place, state in searched.files.items() if (home.root / place).exists()}
    stored = {
        "detectors": searched.detectors,
        "files": kept,
        "databases": {place: asdict(far) for place, far in searched.databases.items() if place in kept},
        "lake": searched.lake,
        "snapshot": searched.snapshot,
    }
    if searched.texts.has_new or not _texts_path(home).exists():
        hashes = io.BytesIO()
        searched.texts.known.to_frame("text_hash").write_parquet(hashes)
        write_private(_texts_path(home), hashes.getvalue())
    write_atomically(_state_path(home), json.dumps(stored))
