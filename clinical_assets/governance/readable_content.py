"""What can be read in a file or a table: its texts, wherever they are packed, and what betrays a person by its shape.

Belongs here: opening (zip, gzip, Parquet, nested columns), the printable parts of binary content, and signs that are no
text: a photograph, a column's name, an old date. Does not belong here: what is searched in the texts (leak_scan.py).
"""

import base64
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.leak_patterns import announced_by_column

_DEEPEST = 4
_LARGEST_UNPACKED_BYTES = 2**30
_LONGEST_TEXT_CHARACTERS = 2_000
_OLDEST_DATE_DAYS = 3 * 365
_POOLED_AGE_YEARS = 90
_PRINTABLE = re.compile(rb"[\t\x20-\x7e]{6,}")
_ZIP, _GZIP, _PARQUET = b"PK\x03\x04", b"\x1f\x8b\x08", b"PAR1"
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_DIGEST = r"^(?:[0-9a-f]{32}|[0-9a-f]{64}|[0-9a-f]{128})$"
"""A pseudonym, a hash or a signature: nothing can be read in it."""
_IMAGE_BEGINS = (b"/9j/", b"iVBORw0KGgo", b"SUkqA", b"TU0AK")
_IMAGE_IN_BASE64 = re.compile(rb"(?:" + b"|".join(_IMAGE_BEGINS) + rb")[A-Za-z0-9+/]{60,}={0,2}")
_PHOTOGRAPH = re.compile(
    rb"\xff\xd8\xff(?:[\xe0-\xef]..(?:JFIF|Exif|ICC_|Adobe|http)|\xdb\x00C\x00)"  # JPEG
    rb"|\A.{4}ftyp(?:heic|heix|mif1|avif)|\A(?:II\*\x00|MM\x00\*)|\A.{128}DICM",
    re.DOTALL,
)
_PNG = b"\x89PNG\r\n\x1a\n"
_FIGURE = b"Software\0Matplotlib"
_METADATA_OF_A_PHOTOGRAPH = (b"Exif\0\0", b"eXIfII", b"eXIfMM", b"<x:xmpmeta", b"Photoshop 3.0\0")


class UnreadableContentError(RuntimeError):
    """Content cannot be opened, so that nobody can tell what is in it; the message says why, never what."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What betrays an identifier without being one: a column's name, an image, a date; in how many values."""

    identifier_class: IdentifierClass
    evidence: str
    count: int


@dataclass(frozen=True, slots=True)
class Content:
    """What one place (a file, a table's column) lets read: texts (String, without nulls), their bytes, and signs.

    `in_fragments`: the texts begin, end and join at random, so that only known identifiers can be told in them.
    """

    place: str
    texts: pl.Series
    size_bytes: int
    signs: tuple[Sign, ...] = ()
    in_fragments: bool = False


def content_of_file(place: str, content: bytes, images_expected: bool = False) -> Iterator[Content]:
    """What the bytes of a file, or of a value, let read; of archives each member.

    An image that is not a figure of this platform is a photograph; where images are expected, only one that carries a
    camera's metadata is. Raises UnreadableContentError for an archive that does not open.
    """
    yield from _unpacked(place, content, images_expected, depth=0)


def content_of_frame(place: str, frame: pl.DataFrame, images_expected: bool = False) -> Iterator[Content]:
    """What the columns of a frame let read, at `<place>.<column>`; each value once.

    Signs are: a column with values whose name announces an identifier, ages over 90 (90 stands for the pooled ones),
    dates more than three years before the row's `month`, texts longer than 2,000 characters, and photographs. Whole
    numbers from a hundred million on and dates count as texts.
    """
    months = frame["month"] if frame.schema.get("month") == pl.Date else None
    for values in frame.iter_columns():
        if values.null_count() == values.len():
            continue
        signs: list[Sign] = []
        if months is not None and values.dtype in (pl.Date, pl.Datetime):
            ages = (months - values.cast(pl.Date)).dt.total_days()
            if old := ages.filter(ages > _OLDEST_DATE_DAYS).len():
                signs.append(Sign(IdentifierClass.DATES, "date years before the month", old))
        yield from _content_of_column(f"{place}.{values.name}", values.drop_nulls(), images_expected, tuple(signs))


def content_of_texts(place: str, texts: pl.Series, images_expected: bool = False) -> Content:
    """What texts (String, nulls are none) let read, with the photographs that stand in them in base64."""
    return _plain(place, "\n".join(texts.drop_nulls()).encode(), images_expected)


def fragments_of(place: str, content: bytes) -> Content:
    """The printable parts of binary content that lie in no order, such as the pages of a database."""
    return Content(place, _printable_texts(content), len(content), in_fragments=True)


def _content_of_column(
    place: str, values: pl.Series, images_expected: bool, signs: tuple[Sign, ...] = ()
) -> Iterator[Content]:
    if kind := announced_by_column(values.name):
        signs = (*signs, Sign(kind, "column's name", values.len()))
    if isinstance(values.dtype, pl.Struct):
        for field in values.struct.fields:
            yield from _content_of_column(f"{place}.{field}", values.struct.field(field).drop_nulls(), images_expected)
        texts = pl.Series(dtype=pl.String)
    elif isinstance(values.dtype, (pl.List, pl.Array)):
        yield from _content_of_column(place, values.explode().drop_nulls(), images_expected)
        texts = pl.Series(dtype=pl.String)
    elif values.dtype == pl.Binary:
        yield from _content_of_blobs(place, values.unique(), images_expected)
        texts = pl.Series(dtype=pl.String)
    elif values.dtype.is_numeric():
        if re.fullmatch(r"age|age_years?", values.name.lower()) and (old := (values > _POOLED_AGE_YEARS).sum()):
            signs = (*signs, Sign(IdentifierClass.DATES, "age over 90", int(old)))
        numbers = values.unique()
        long = numbers.filter((numbers.abs() >= 1e8) & (numbers.abs() < 1e18) & (numbers % 1 == 0))
        texts = long.cast(pl.Int64).cast(pl.String)
    elif values.dtype.is_temporal():
        dates = values.cast(pl.Date) if isinstance(values.dtype, pl.Datetime) else values
        texts = dates.unique().cast(pl.String)
    else:
        texts = values.cast(pl.String).unique()
        texts = texts.filter(~texts.str.contains(_DIGEST))
        if free := int((texts.str.len_chars() > _LONGEST_TEXT_CHARACTERS).sum()):
            signs = (*signs, Sign(IdentifierClass.OTHER_UNIQUE, "free text", free))
    yield Content(place, texts, int(values.estimated_size()), signs)


def _content_of_blobs(place: str, blobs: pl.Series, images_expected: bool) -> Iterator[Content]:
    packed = pl.any_horizontal(pl.col(blobs.name).bin.starts_with(sign) for sign in (_PARQUET, _ZIP, _GZIP, *_ZLIB))
    is_packed = blobs.to_frame().select(packed).to_series()
    for blob in blobs.filter(is_packed):
        yield from _unpacked(place, blob, images_expected, depth=0)
    yield _plain(place, b"\0".join(blobs.filter(~is_packed)), images_expected)


def _unpacked(place: str, content: bytes, images_expected: bool, depth: int) -> Iterator[Content]:
    if depth > _DEEPEST:
        raise UnreadableContentError(f"archives in archives, more than {_DEEPEST} deep, are not opened; unpack them")
    try:
        if content.startswith(_ZIP):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = archive.infolist()
                if sum(member.file_size for member in members) > _LARGEST_UNPACKED_BYTES:
                    raise UnreadableContentError(f"it unpacks to more than {_LARGEST_UNPACKED_BYTES:,} bytes")
                yield Content(place, pl.Series([member.filename for member in members], dtype=pl.String), 0)
                for member in members:
                    yield from _unpacked(place, archive.read(member), images_expected, depth + 1)
        elif content.startswith(_GZIP):
            yield from _unpacked(place, gzip.decompress(content), images_expected, depth + 1)
        elif content.startswith(_ZLIB) and (inflated := _inflated(content)) is not None:
            yield from _unpacked(place, inflated, images_expected, depth + 1)
        elif content.startswith(_PARQUET) and content.endswith(_PARQUET):
            yield from content_of_frame(place, pl.read_parquet(io.BytesIO(content)), images_expected)
        else:
            yield _plain(place, content, images_expected)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, pl.exceptions.PolarsError) as error:
        if isinstance(error, UnreadableContentError):
            raise
        raise UnreadableContentError(f"it begins as an archive and does not open ({type(error).__name__})") from error


def _inflated(content: bytes) -> bytes | None:
    """What a zlib stream holds; None where the first two bytes are a zlib header by chance."""
    try:
        return zlib.decompress(content)
    except zlib.error:
        return None


def _plain(place: str, content: bytes, images_expected: bool) -> Content:
    photographs = _photographs(content, images_expected)
    images = _IMAGE_IN_BASE64.findall(content) if any(sign in content for sign in _IMAGE_BEGINS) else []
    for encoded in images:
        photographs += _photographs(base64.b64decode(encoded[: len(encoded) // 4 * 4]), images_expected)
    signs = (Sign(IdentifierClass.PHOTOGRAPH, "image", photographs),) if photographs else ()
    return Content(place, _printable_texts(content), len(content), signs)


def _printable_texts(content: bytes) -> pl.Series:
    """The lines of a text in UTF-8; of other content the runs of 6 and more printable characters of ASCII."""
    try:
        return pl.Series(content.decode().splitlines(), dtype=pl.String)
    except UnicodeDecodeError:
        return pl.Series([run.decode() for run in _PRINTABLE.findall(content)], dtype=pl.String)


def _photographs(content: bytes, images_expected: bool) -> int:
    """How many images in some bytes are neither drawn by this platform nor expected, or come from a camera."""
    metadata = sum(content.count(sign) for sign in _METADATA_OF_A_PHOTOGRAPH)
    if images_expected:
        return metadata
    drawn = min(content.count(_FIGURE), content.count(_PNG))
    return max(metadata, len(_PHOTOGRAPH.findall(content)) + content.count(_PNG) - drawn)
