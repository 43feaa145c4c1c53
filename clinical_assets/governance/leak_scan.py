"""The leak scanner: searches what can be read for known identifiers and for patterns, and says where, never what.

Belongs here: the search, and what a hit says. Does not belong here: which content a platform holds
(resources/leak_sinks.py), how it is opened (readable_content.py), and what an identifier looks like (leak_patterns.py).
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.known_identifiers import KnownIdentifiers
from clinical_assets.governance.leak_patterns import PATTERNS
from clinical_assets.governance.readable_content import Content

KNOWN = "known identifier"
_MARK_HEX_DIGITS = 8
_BATCH_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class Leak:
    """Identifiers of one kind in one place.

    `evidence` is `known identifier`, a pattern's name or a sign; `count` the number of texts (values, lines) that hold
    one; `mark` the first 8 hex digits of a keyed hash of the first, which tells whether two places hold the same.
    """

    place: str
    identifier_class: IdentifierClass
    evidence: str
    count: int
    mark: str


@dataclass(frozen=True, slots=True)
class Exemption:
    """A pattern that is not searched in some places, because there it finds no patient; never a known identifier."""

    place: str
    evidence: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeakScanner:
    """Searches for known identifiers and for patterns; `salt` keys the marks, `exemptions` need a reason each."""

    known: KnownIdentifiers
    salt: bytes
    exemptions: Sequence[Exemption] = ()

    def search(self, contents: Iterable[Content]) -> list[Leak]:
        """The identifiers in some content, by place and kind; reads about 64 MB of text at a time."""
        leaks: list[Leak] = []
        for batch in _batches(contents):
            leaks += [
                Leak(content.place, sign.identifier_class, sign.evidence, sign.count, "")
                for content in batch
                for sign in content.signs
            ]
            leaks += self._known_in(_texts_of(batch))
            leaks += self._patterns_in(_texts_of([content for content in batch if not content.in_fragments]))
        return [leak for leak in leaks if not self._is_exempt(leak)]

    def _known_in(self, texts: pl.DataFrame) -> Iterator[Leak]:
        if not self.known.kinds:
            return
        held = texts.filter(pl.col("text").str.contains_any(self.known.forms, ascii_case_insensitive=True))
        if held.is_empty():
            return
        found = {"ascii_case_insensitive": True, "overlapping": True}
        places = (
            held.with_row_index("row")
            .with_columns(
                form=pl.col("text").str.extract_many(self.known.forms, **found),
                start=pl.col("text").str.find_many(self.known.forms, **found).cast(pl.List(pl.Int64)),
            )
            .explode("form", "start")
        )
        content = pl.col("text").cast(pl.Binary)
        before = pl.when(pl.col("start") > 0).then(content.bin.slice(pl.col("start") - 1, 1))
        after = content.bin.slice(pl.col("start") + pl.col("form").str.len_bytes(), 1)
        # Within a hash or a longer number any short run of digits stands by chance.
        by_chance = pl.col("form").str.contains(r"^[0-9a-fA-F]+$") & (
            _is_alphanumeric(before) | _is_alphanumeric(after)
        )
        kinds = pl.col("form").str.to_lowercase().replace_strict(self.known.kinds, return_dtype=pl.String)
        certain = places.filter(~by_chance).with_columns(kind=kinds)
        for (place, kind), group in certain.group_by("place", "kind", maintain_order=True):
            mark = self._mark(group["form"][0])
            yield Leak(str(place), IdentifierClass(kind), KNOWN, group["row"].n_unique(), mark)

    def _patterns_in(self, texts: pl.DataFrame) -> Iterator[Leak]:
        for pattern in PATTERNS:
            held = texts.filter(pl.col("text").str.contains(pattern.expression))
            held = held.with_columns(pl.col("text").str.extract(pattern.expression))
            if pattern.confirm is not None:
                confirmed = [value for value in held["text"].unique().sort() if pattern.confirm(value)]
                held = held.filter(pl.col("text").is_in(confirmed))
            for (place,), group in held.group_by("place", maintain_order=True):
                mark = self._mark(group["text"][0])
                yield Leak(str(place), pattern.identifier_class, pattern.name, group.height, mark)

    def _is_exempt(self, leak: Leak) -> bool:
        return leak.evidence != KNOWN and any(
            exemption.evidence == leak.evidence and re.fullmatch(exemption.place, leak.place)
            for exemption in self.exemptions
        )

    def _mark(self, value: str) -> str:
        plain = re.sub(r"[^a-z0-9]+", "", value.lower())
        return hmac.digest(self.salt, f"leak|{plain}".encode(), hashlib.sha256).hex()[:_MARK_HEX_DIGITS]


def _batches(contents: Iterable[Content]) -> Iterator[list[Content]]:
    batch: list[Content] = []
    size = 0
    for content in contents:
        batch.append(content)
        size += content.size_bytes
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _texts_of(batch: Sequence[Content]) -> pl.DataFrame:
    """One row a text, with its place."""
    if not batch:
        return pl.DataFrame(schema={"place": pl.String, "text": pl.String})
    places = pl.Series([content.place for content in batch], dtype=pl.String)
    lengths = pl.Series([content.texts.len() for content in batch], dtype=pl.UInt32)
    texts = pl.concat([content.texts for content in batch])
    return pl.DataFrame({"place": places.repeat_by(lengths).explode(empty_as_null=False), "text": texts})


def _is_alphanumeric(byte: pl.Expr) -> pl.Expr:
    return byte.cast(pl.String, strict=False).str.contains("^[A-Za-z0-9]$").fill_null(False)
