"""Identifiers known by value, and the forms in which each may stand in a text: as written, bare, encoded.

Belongs here: from a value to what is searched. Does not belong here: where values come from (canaries.py, the
identified zone), and the search (leak_scan.py).
"""

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from clinical_assets.governance.direct_identifiers import IdentifierClass

_SHORTEST = 7
_SHORTEST_NUMBER = 9
_SEPARATORS = ("", " ", "-", ".", "/", "_", "+", ", ")


@dataclass(frozen=True, slots=True)
class KnownIdentifiers:
    """Values that must not appear anywhere, by the forms they are searched in; the case of letters does not matter."""

    kinds: dict[str, IdentifierClass]

    @classmethod
    def of(cls, values: Iterable[tuple[IdentifierClass, str]]) -> Self:
        """The identifiers of these values; one whose forms are all too short to be told from chance is not searched."""
        return cls({form: kind for kind, value in values for form in written_forms(kind, value)})

    @property
    def forms(self) -> list[str]:
        """What is searched, in lower case."""
        return list(self.kinds)


def written_forms(kind: IdentifierClass, value: str) -> set[str]:
    """The forms, in lower case, in which a value may stand in a text.

    As written, and each part between commas; with separators left out or replaced; a name also with the family name
    first; a date also in the orders of day and month; escaped for a URL and for JSON; and in base64 at each of its
    three alignments. Forms of fewer than 7 characters, of digits alone fewer than 9, are left out: they stand in
    texts by chance.
    """
    parts = [part for part in re.split(r"[^\w]+", value) if part]
    orders = [parts, *(part.split() for part in value.split(","))]
    if kind is IdentifierClass.NAMES:
        orders.append([parts[-1], *parts[:-1]])
    if kind is IdentifierClass.DATES and len(parts) == 3:
        orders += [parts[::-1], [parts[1], parts[2], parts[0]]]
    separators = _SEPARATORS[1:] if kind is IdentifierClass.DATES else _SEPARATORS
    plain = {
        value,
        *(value.replace("-", separator) for separator in ("", " ", ".", "/")),
        *(separator.join(order) for order in orders for separator in separators),
    }
    encoded = {quote(form, safe="") for form in plain} | {json.dumps(form)[1:-1] for form in plain}
    in_base64 = {form for alignment in range(3) for form in _base64_forms(value, alignment)}
    forms = {form.lower() for form in plain | encoded | in_base64}
    return {form for form in forms if len(form) >= (_SHORTEST_NUMBER if form.isdigit() else _SHORTEST)}


def _base64_forms(value: str, alignment: int) -> set[str]:
    """What stays the same of a value's base64 (RFC 4648) when `alignment` bytes, and any, stand around it."""
    content = value.encode()
    bits = 8 * alignment
    first, last = -(-bits // 6), (bits + 8 * len(content)) // 6
    padded = bytes(alignment) + content + bytes(3)
    return {encode(padded).decode()[first:last] for encode in (base64.b64encode, base64.urlsafe_b64encode)}
