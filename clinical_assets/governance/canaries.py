"""Canaries: identifiers of a person who does not exist, planted where identifiers may stand so that a leak is certain.

Belongs here: what they are, one of each of the 18 kinds, and how they follow from a secret. Does not belong here: where
they are planted (the identified feed), and how they are searched (leak_scan.py).
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import date, timedelta

from clinical_assets.governance.direct_identifiers import IdentifierClass

_SYLLABLES = ("vor", "qua", "zel", "thry", "mox", "jul", "wyn", "kraz", "peb", "ylo", "fex", "gwi", "hud", "nax", "ost")
_FIRST_BIRTH_DATE = date(1901, 1, 1)


@dataclass(frozen=True, slots=True)
class Canary:
    """One invented identifier, of one of the 18 kinds, as a hospital would write it."""

    identifier_class: IdentifierClass
    value: str


@dataclass(frozen=True, slots=True)
class _Draws:
    """Numbers that follow from a secret and a name: HMAC-SHA256 (RFC 2104), so that none tells another."""

    seed: bytes

    def number(self, name: str, below: int) -> int:
        return int.from_bytes(hmac.digest(self.seed, f"canary|{name}".encode(), hashlib.sha256)[:8], "big") % below

    def digits(self, name: str, count: int) -> str:
        return f"{self.number(name, 10**count):0{count}d}"

    def hexadecimal(self, name: str, count: int) -> str:
        return hmac.digest(self.seed, f"canary|{name}".encode(), hashlib.sha256).hex()[:count]

    def word(self, name: str, syllables: int) -> str:
        return "".join(_SYLLABLES[self.number(f"{name}{n}", len(_SYLLABLES))] for n in range(syllables))


def canaries(seed: bytes) -> tuple[Canary, ...]:
    """One canary of each kind, in the regulation's order; the same seed gives the same person.

    None can be a real person's: the SSN lies in the ranges never issued (9xx), telephone and fax in 555-01xx, which is
    kept for fiction, the e-mail and the URL under example.org (RFC 2606), the IP in 2001:db8::/32 (RFC 3849), and the
    birth date before 1920.
    """
    draws = _Draws(seed)
    given, family = draws.word("given", 3).capitalize(), draws.word("family", 4).capitalize()
    born = _FIRST_BIRTH_DATE + timedelta(days=draws.number("born", 18 * 365))
    ssn = 900_000_000 + draws.number("ssn", 99_000_000)
    handle = f"{given}.{family}".lower()
    street = f"{100 + draws.number('house', 9900)} {draws.word('street', 3).capitalize()} Street"
    town = f"{draws.word('town', 3).capitalize()}, ZZ {draws.digits('zip', 5)}-{draws.digits('zip4', 4)}"
    groups = ":".join(draws.hexadecimal(f"ip{n}", 4) for n in range(6))
    values = {
        IdentifierClass.NAMES: f"{given} {family}",
        IdentifierClass.GEOGRAPHIC: f"{street}, {town}",
        IdentifierClass.DATES: born.isoformat(),
        IdentifierClass.TELEPHONE: f"({200 + draws.number('area', 700)}) 555-01{draws.digits('telephone', 2)}",
        IdentifierClass.FAX: f"({200 + draws.number('fax area', 700)}) 555-01{draws.digits('fax', 2)}",
        IdentifierClass.EMAIL: f"{handle}@example.org",
        IdentifierClass.SSN: f"{ssn // 1_000_000}-{ssn // 10_000 % 100:02d}-{ssn % 10_000:04d}",
        IdentifierClass.MRN: f"MRN-{draws.digits('mrn', 10)}",
        IdentifierClass.HEALTH_PLAN: f"HP{draws.digits('health plan', 11)}",
        IdentifierClass.ACCOUNT: f"AC{draws.digits('account', 12)}",
        IdentifierClass.LICENCE: f"DL{draws.digits('licence', 10)}",
        IdentifierClass.VEHICLE: f"{draws.word('plate', 2).upper()}-{draws.digits('plate', 5)}",
        IdentifierClass.DEVICE: f"SN{draws.digits('device', 12)}",
        IdentifierClass.URL: f"https://people.example.org/{handle}",
        IdentifierClass.IP_ADDRESS: f"2001:db8:{groups}",
        IdentifierClass.BIOMETRIC: f"FPT{draws.hexadecimal('biometric', 40)}",
        IdentifierClass.PHOTOGRAPH: f"face_{draws.hexadecimal('photograph', 24)}.jpg",
        IdentifierClass.OTHER_UNIQUE: f"PASSPORT-{draws.digits('other', 10)}",
    }
    return tuple(Canary(identifier_class, values[identifier_class]) for identifier_class in IdentifierClass)
