"""Whether a short text holds an identifier: a log line, a message, a figure's note; searched before it is handed on.

Belongs here: the search of one text, fast enough for every line. Does not belong here: the search of stored content
(leak_scan.py), what an identifier looks like (leak_patterns.py), and what is done about one (outward_gate.py).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.known_identifiers import KnownIdentifiers
from clinical_assets.governance.leak_patterns import PATTERNS

_IMAGE = re.compile(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+")
_HEXADECIMAL = re.compile(r"[0-9a-f]+")

Confirm = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class LineSearch:
    """The search of single texts for known identifiers and for the patterns of the leak search."""

    known: KnownIdentifiers = field(default_factory=lambda: KnownIdentifiers({}))

    def kinds_in(self, text: str) -> tuple[IdentifierClass, ...]:
        """The kinds of identifiers in a text, each once, in order of name; pictures in base64 are passed over."""
        plain = _IMAGE.sub("", text)
        return tuple(sorted({*self._known_in(plain.lower()), *_announced_in(plain)}))

    def _known_in(self, text: str) -> Iterator[IdentifierClass]:
        for form, kind in self.known.kinds.items():
            if form in text and not _by_chance(form, text):
                yield kind


def _by_chance(form: str, text: str) -> bool:
    """Whether a run of digits stands within hashes and longer numbers alone."""
    alone = rf"(?<![a-z0-9]){form}(?![a-z0-9])"
    return _HEXADECIMAL.fullmatch(form) is not None and re.search(alone, text) is None


def _announced_in(text: str) -> Iterator[IdentifierClass]:
    for kind, expression, confirm in _expressions():
        if any(confirm is None or confirm(match[1]) for match in expression.finditer(text)):
            yield kind


@cache
def _expressions() -> tuple[tuple[IdentifierClass, re.Pattern[str], Confirm | None], ...]:
    return tuple((each.identifier_class, re.compile(each.expression), each.confirm) for each in PATTERNS)
