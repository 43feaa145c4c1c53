"""Fetching a published archive from its publisher: whole, with the published checksums, or not at all.

Belongs here: the transfer and its verification. Does not belong here: any publisher's addresses and checksums.
"""

import hashlib
import http.client
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol

from clinical_assets.archives.archive import ArchiveError, Download, PublishedArchive, hash_bytes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 1 << 18

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes received so far, and the bytes expected (None if the server does not say)."""


@contextmanager
def download_bar(console: "Console") -> Iterator[Progress]:
    """A progress bar on a terminal, as the function `fetch` reports to."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def report(name: str, received: int, expected: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=expected)
            bar.update(tasks[name], completed=received)

        yield report


class _Response(Protocol):
    headers: http.client.HTTPMessage

    def read(self, size: int, /) -> bytes: ...


def fetch(
    published: PublishedArchive, raw: Path, progress: Progress, answer_within_seconds: float = TIMEOUT_SECONDS
) -> Path:
    """The path of the archive below `raw`, downloaded into `raw/<name>/` unless it is there already.

    The publisher must answer, and go on answering, within `answer_within_seconds`. A file appears under its name only
    when it is complete and its contents have the published sha256. Raises ArchiveError, naming the address and the
    remedy, when the transfer fails or a checksum differs.
    """
    if (found := published.find(raw)) is not None:
        return found
    folder = raw / published.name
    folder.mkdir(parents=True, exist_ok=True)
    for download in published.downloads:
        if not (folder / download.file_name).exists():
            _download(download, folder, progress, answer_within_seconds)
    if (found := published.find(raw)) is None:
        raise ArchiveError(f"{folder} has every file of {published.name}, but they are not the layout that is expected")
    return found


def _download(download: Download, folder: Path, progress: Progress, answer_within_seconds: float) -> None:
    target = folder / download.file_name
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download.") as draft_folder:
        draft = Path(draft_folder) / download.file_name
        try:
            with (
                urllib.request.urlopen(download.url, timeout=answer_within_seconds) as response,
                draft.open("wb") as file,
            ):
                _receive(response, file, download, progress)
        except (OSError, http.client.HTTPException) as error:
            raise ArchiveError(
                f"{download.url} cannot be fetched ({error}); check the network and the free space, "
                f"or fetch it by other means and put it at {target}"
            ) from error
        _verify(draft, download)
        draft.replace(target)


def _receive(response: _Response, file: IO[bytes], download: Download, progress: Progress) -> None:
    announced = response.headers.get("Content-Length")
    expected = int(announced) if announced is not None and announced.isdigit() else None
    received = 0
    while chunk := response.read(CHUNK_BYTES):
        file.write(chunk)
        received += len(chunk)
        progress(download.file_name, received, expected)
    if expected is not None and received != expected:
        raise ArchiveError(f"{download.url} ended after {received:,} of {expected:,} bytes; fetch it again")


def _verify(draft: Path, download: Download) -> None:
    """Raise ArchiveError unless the file, or each member of the zip, has the published checksum."""
    if not download.contents:
        return
    found = _hash_contents(draft, download)
    for published in download.contents:
        sha256 = found.get(published.name.lower())
        if sha256 != published.sha256:
            fault = f"holds no {published.name}" if sha256 is None else f"holds {published.name} with sha256 {sha256}"
            raise ArchiveError(
                f"{download.url} {fault}, but {published.sha256} is published; nothing was kept: fetch it again, "
                "or ask the publisher whether the data were corrected"
            )


def _hash_contents(draft: Path, download: Download) -> dict[str, str]:
    """The sha256 of what is in a file, by lower-case base name: its members if it is a zip, else the file itself."""
    if zipfile.is_zipfile(draft) and [published.name for published in download.contents] != [download.file_name]:
        with zipfile.ZipFile(draft) as packed:
            return {PurePosixPath(name).name.lower(): hash_bytes(packed.read(name)) for name in packed.namelist()}
    with draft.open("rb") as file:
        return {download.file_name.lower(): hashlib.file_digest(file, "sha256").hexdigest()}
