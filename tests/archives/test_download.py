import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.archives.archive import ArchiveError, Download, PublishedArchive, PublishedFile, hash_bytes
from clinical_assets.archives.diabetes130 import CODES_FILE, DATA_FILE, DIABETES130
from clinical_assets.archives.download import fetch

Publish = Callable[[pl.DataFrame], Path]


class Shelf(BaseHTTPRequestHandler):
    """Serves one file, and half of it while announcing the whole under /short."""

    content = b""

    def do_GET(self) -> None:
        if self.path not in ("/whole", "/short"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content if self.path == "/whole" else self.content[: len(self.content) // 2])

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def address(
    four_rows: pl.DataFrame, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    folder = publish(four_rows)
    with zipfile.ZipFile(tmp_path / "served.zip", "w") as packed:
        packed.write(folder / DATA_FILE, DATA_FILE)
        packed.write(folder / CODES_FILE, "IDS_mapping.csv")
    monkeypatch.setattr(Shelf, "content", (tmp_path / "served.zip").read_bytes())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def contents(four_rows: pl.DataFrame, publish: Publish) -> tuple[PublishedFile, ...]:
    folder = publish(four_rows)
    return tuple(PublishedFile(name, hash_bytes((folder / name).read_bytes())) for name in (DATA_FILE, CODES_FILE))


def published_at(url: str, contents: tuple[PublishedFile, ...]) -> PublishedArchive:
    return replace(DIABETES130, downloads=(Download(url, "dataset_diabetes.zip", contents),))


def ignore(name: str, received: int, expected: int | None) -> None:
    """Report progress to nobody."""


def left_behind(raw: Path) -> list[str]:
    return [path.name for path in raw.rglob("*") if path.is_file()]


def test_what_has_the_published_checksums_is_kept(
    address: str, contents: tuple[PublishedFile, ...], tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int | None]] = []
    raw = tmp_path / "raw"
    path = fetch(published_at(f"{address}/whole", contents), raw, lambda *progress: seen.append(progress))
    assert path == raw / "diabetes130" / "dataset_diabetes.zip"
    assert DIABETES130.open(path).sha256 == contents[0].sha256
    assert seen[-1] == ("dataset_diabetes.zip", path.stat().st_size, path.stat().st_size)
    assert left_behind(raw) == ["dataset_diabetes.zip"]


def test_what_has_another_checksum_is_not_kept(
    address: str, contents: tuple[PublishedFile, ...], tmp_path: Path
) -> None:
    wrong = (replace(contents[0], sha256="0" * 64), contents[1])
    with pytest.raises(ArchiveError, match=rf"holds {DATA_FILE} with sha256 {contents[0].sha256}"):
        fetch(published_at(f"{address}/whole", wrong), tmp_path / "raw", ignore)
    assert left_behind(tmp_path / "raw") == []


def test_a_transfer_that_ends_early_is_not_kept(
    address: str, contents: tuple[PublishedFile, ...], tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match="ended after"):
        fetch(published_at(f"{address}/short", contents), tmp_path / "raw", ignore)
    assert left_behind(tmp_path / "raw") == []


def test_an_address_that_is_gone_is_named(address: str, contents: tuple[PublishedFile, ...], tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=f"{address}/gone cannot be fetched .*404"):
        fetch(published_at(f"{address}/gone", contents), tmp_path / "raw", ignore)


def test_without_a_network_the_message_says_where_to_put_the_file(tmp_path: Path) -> None:
    nowhere = published_at("http://127.0.0.1:9/whole", ())
    with pytest.raises(ArchiveError, match=r"put it at .*diabetes130/dataset_diabetes\.zip"):
        fetch(nowhere, tmp_path / "raw", ignore)


def test_an_archive_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    there = tmp_path / "raw" / "dataset_diabetes.zip"
    there.parent.mkdir()
    there.touch()
    assert fetch(published_at("http://127.0.0.1:9/whole", ()), tmp_path / "raw", ignore) == there


def test_a_single_file_is_verified_by_its_own_checksum(address: str, tmp_path: Path) -> None:
    checksum = hash_bytes(Shelf.content)
    kept = replace(
        DIABETES130,
        downloads=(
            Download(f"{address}/whole", "dataset_diabetes.zip", (PublishedFile("dataset_diabetes.zip", checksum),)),
        ),
    )
    assert fetch(kept, tmp_path / "raw", ignore).read_bytes() == Shelf.content
