"""The 18 kinds of identifier that the HIPAA Safe Harbor removes, in the regulation's order and under its letters.

Belongs here: what identifies a person, by name. Does not belong here: what is done to it (safe_harbor.py), how it is
found in text (the leak scanner).
"""

from enum import StrEnum


class IdentifierClass(StrEnum):
    """A kind of identifier of the patient, or of relatives, employers or household: 45 CFR 164.514(b)(2)(i)(A)-(R)."""

    NAMES = "names"
    GEOGRAPHIC = "geographic"
    DATES = "dates"
    TELEPHONE = "telephone"
    FAX = "fax"
    EMAIL = "email"
    SSN = "ssn"
    MRN = "mrn"
    HEALTH_PLAN = "health_plan"
    ACCOUNT = "account"
    LICENCE = "licence"
    VEHICLE = "vehicle"
    DEVICE = "device"
    URL = "url"
    IP_ADDRESS = "ip_address"
    BIOMETRIC = "biometric"
    PHOTOGRAPH = "photograph"
    OTHER_UNIQUE = "other_unique"

    @property
    def letter(self) -> str:
        """The paragraph of 45 CFR 164.514(b)(2)(i) that names this kind, `A` to `R`."""
        return chr(ord("A") + list(IdentifierClass).index(self))
