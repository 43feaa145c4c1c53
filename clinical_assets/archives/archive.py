"""What an archive is, which months are taken from it, and the contract of the rows that a cohort function makes of it.

Belongs here: the values that every publisher's reader shares. Does not belong here: any publisher's columns or files.
"""

import hashlib
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import dataframely as dy
import polars as pl

from clinical_assets.protocol import ArchivePin, Verdict, month_after

SIMULATED_MARKER = "SIMULATED.txt"

AN_AGE = {"identifier": "dates", "safe_harbor": "pool_age"}
"""The metadata of a contract's column that holds an age: 45 CFR 164.514(b)(2)(i)(C) pools those of 90 and older."""


class ArchiveError(ValueError):
    """An archive cannot be used as it stands; the message names the file, the column, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Source data as its publisher lays it out; `sha256` is that of the data: equal archives hold equal rows.

    `share_of_patients` is the part that is used, below 1 in demonstrations that say so; `pin` is that of the hospital's
    own Git, which the files proved equal to, None where there is none.
    """

    path: Path
    data_origin: str
    sha256: str
    share_of_patients: float = 1.0
    pin: ArchivePin | None = None

    def sampled(self, share_of_patients: float) -> "Archive":
        """The archive of which a share of the patients is used: no longer the published data, and named so."""
        if share_of_patients == 1.0:
            return self
        whole = self.data_origin.startswith("real:") and not self.data_origin.endswith(":modified")
        return replace(
            self,
            data_origin=f"{self.data_origin}:modified" if whole else self.data_origin,
            share_of_patients=share_of_patients,
        )


@dataclass(frozen=True, slots=True)
class MonthWindow:
    """Whole months, from the first day of one (inclusive) to the first day of another (exclusive)."""

    start: date
    end: date

    def __post_init__(self) -> None:
        if self.start.day != 1 or self.end.day != 1 or self.start >= self.end:
            raise ArchiveError(f"{self.start} to {self.end} is no window of months; give the first days of two months")

    @classmethod
    def of_month(cls, month: date) -> Self:
        """The window of the one month that a day lies in."""
        return cls(month.replace(day=1), month_after(month))


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file as the publisher released it, with the sha256 of its unpacked content."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Download:
    """An address of the publisher, the file name to keep it under, and what must be found in it.

    `contents` are the members of a zip by base name, or the one file itself; an empty tuple means that the publisher
    gives no checksum.
    """

    url: str
    file_name: str
    contents: tuple[PublishedFile, ...]


@dataclass(frozen=True)
class PublishedArchive(ABC):
    """A public data set: who publishes it, under which licence, where it is, and how its layout is read."""

    name: str
    title: str
    publisher: str
    licence: str
    citation: str
    downloads: tuple[Download, ...]

    @abstractmethod
    def find(self, raw: Path) -> Path | None:
        """Where the archive lies below `raw`, or None."""

    @abstractmethod
    def open(self, path: Path) -> Archive:
        """The archive at `path`, its layout checked; raises ArchiveError."""

    @abstractmethod
    def simulate(self, directory: Path, seed: int) -> Path:
        """Write a simulated archive in the publisher's layout into `directory`, and return its path."""

    @abstractmethod
    def known_drift(self) -> "tuple[KnownDrift, ...]":
        """The changes that its simulated archive makes, in order of time."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that it is downloaded from."""
        return tuple(dict.fromkeys(urlsplit(download.url).hostname or "" for download in self.downloads))

    def origin(self, sha256: str, published_sha256: str, *, simulated: bool) -> str:
        """The `data_origin` of an archive whose data have this checksum."""
        if simulated:
            return "simulated"
        return f"real:{self.publisher}" if sha256 == published_sha256 else f"real:{self.publisher}:modified"


@dataclass(frozen=True, slots=True)
class KnownDrift:
    """A change that the simulation makes, for a monitor to find: since which month, of which kind, and in what."""

    month: date
    verdict: Verdict
    what: str


def hash_bytes(content: bytes) -> str:
    """The sha256 of a file's content, as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def contract_of(cohort: Callable[..., Any]) -> type[dy.Schema] | None:
    """The schema that a cohort function promises in its return annotation, `dy.DataFrame[Schema]`, if it promises one.

    Raises ArchiveError where the annotation is neither that nor `pl.DataFrame`.
    """
    promise = typing.get_type_hints(cohort).get("return")
    promised = typing.get_args(promise)
    if len(promised) == 1 and isinstance(promised[0], type) and issubclass(promised[0], dy.Schema):
        return promised[0]
    if promise is pl.DataFrame:
        return None
    raise ArchiveError(
        f"{cohort.__module__}.{cohort.__qualname__}: annotate the return as dy.DataFrame[<schema>], or as pl.DataFrame "
        "where the rows keep no contract"
    )


def describe_columns(contract: type[dy.Schema] | None) -> dict[str, str]:
    """What each column of a contract means, in the contract's order; raises ArchiveError where one says nothing."""
    if contract is None:
        return {}
    descriptions = {name: column.description or "" for name, column in contract.columns().items()}
    if silent := [name for name, description in descriptions.items() if not description]:
        raise ArchiveError(f"{contract.__name__}: the columns {silent} have no description; add one to each")
    return descriptions


def lines_of(offending: pl.Series, limit: int = 5) -> str:
    """The line numbers, in a file with one header line, of the rows where a Boolean series is true, for a message."""
    lines = offending.arg_true() + 2
    shown = ", ".join(str(line) for line in lines.head(limit))
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}" + (" ..." if len(lines) > limit else "")
