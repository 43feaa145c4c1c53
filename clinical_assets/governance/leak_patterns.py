"""Patterns: what an identifier of each of the 18 kinds looks like in text, and which columns' names announce one.

Belongs here: the patterns, and what each cannot see. Does not belong here: what text is searched, and values known to
be identifiers (known_identifiers.py).

A clean platform must give no hit, since one hit stops publication. Hence a pattern asks for a shape that nothing else
has, or for a word beside the value that says what it is. What no pattern sees: a bare name, town, plate, account or
serial number without such a word; a date without one (dates of care look alike); anything spelt out in words, in
another script or inside pixels; text that is encrypted or compressed by other means than zip, gzip or Parquet, in
UTF-16, or in base64 (of known identifiers base64 is seen). For those stand the known identifiers.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from clinical_assets.governance.direct_identifiers import IdentifierClass


@dataclass(frozen=True, slots=True)
class Pattern:
    """A shape of an identifier: a regular expression whose first group is the identifier, and a test it must pass.

    The expression is one of Rust's engine: no look-around, so that its time is linear in the text.
    """

    identifier_class: IdentifierClass
    name: str
    expression: str
    confirm: Callable[[str], bool] | None = None


def passes_luhn(text: str) -> bool:
    """Whether the digits of a text end with their check digit (ISO/IEC 7812-1): cards, accounts, IMEI."""
    digits = [int(character) for character in text if character.isdigit()][::-1]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Whether a text is an account number with a right checksum (ISO 13616, remainder 1 modulo 97)."""
    compact = re.sub(r"[ -]", "", text).upper()
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def is_vin(text: str) -> bool:
    """Whether 17 characters are a vehicle's number with a right check digit (49 CFR 565.15)."""
    values = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", (*range(1, 9), *range(1, 6), 7, 9, *range(2, 10)), strict=True))
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    if text.isdigit() or text.isalpha():
        return False
    total = sum(
        (int(letter) if letter.isdigit() else values[letter]) * weight
        for letter, weight in zip(text, weights, strict=True)
    )
    return text[8] == "0123456789X"[total % 11]


def is_foreign_address(text: str) -> bool:
    """Whether a text is an IP address of another machine: neither this one's loopback nor 'any'."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


_GIVEN = (
    "James|Mary|Robert|Patricia|John|Jennifer|Michael|Linda|David|Elizabeth|William|Barbara|Richard|Susan|Joseph|"
    "Jessica|Thomas|Karen|Charles|Sarah|Daniel|Nancy|Matthew|Lisa|Anthony|Margaret|Mark|Sandra|Donald|Ashley|Steven|"
    "Emily|Andrew|Donna|Paul|Michelle|Joshua|Carol|Kenneth|Amanda|Kevin|Dorothy|George|Rebecca|Timothy|Deborah|"
    "Edward|Stephanie|Maria|Jose|Juan|Carlos|Ana|Luis|Carmen|Rosa"
)
_FAMILY = (
    "Smith|Johnson|Williams|Brown|Jones|Garcia|Miller|Davis|Rodriguez|Martinez|Hernandez|Lopez|Gonzalez|Wilson|"
    "Anderson|Thomas|Taylor|Moore|Jackson|Martin|Lee|Perez|Thompson|White|Harris|Sanchez|Clark|Ramirez|Lewis|"
    "Robinson|Walker|Young|Allen|King|Wright|Scott|Torres|Nguyen|Hill|Flores|Green|Adams|Nelson|Baker|Hall|Rivera|"
    "Campbell|Mitchell|Carter|Roberts"
)
_STREET = "Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Terrace|Place|Highway|Hwy"
_STATE = (
    "A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY]"
)
_DATE = r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|[A-Z][a-z]+ \d{1,2},? \d{4}|\d{1,2} [A-Z][a-z]+ \d{4}"
_PHONE = r"\+?\(?\d[\d ().-]{5,16}\d"
_TOP_LEVEL = "com|org|net|edu|gov|mil|int|info|io|health|uk|de|fr|es|it|nl|ca|au|us|eu|ch|at|be|se|no|dk|fi|ie|in|br|mx"
# Between a word and the value it announces: quotes, colons, equal signs and blanks, as in JSON within JSON.
_SAYS = r"""(?:[ _-]?(?:no\.?|nr|num|number|id|code))?(?:\\*["'])?[ \t]*[:=#]?[ \t]*(?:is )?(?:\\*["'])?"""
_MUST_SAY = r"""(?:[ _-]?(?:no\.?|nr|num|number|id|code))?(?:\\*["'])?[ \t]*[:=#][ \t]*(?:\\*["'])?"""
_CODE = r"[A-Z]{0,4}[- ]?\d[\dA-Z-]{4,16}"


def _announced(words: str, value: str, says: str = _SAYS) -> str:
    return rf"(?:^|[^A-Za-z0-9])(?i:{words}){says}({value})(?:[^A-Za-z0-9]|$)"


def _standing_alone(value: str) -> str:
    return rf"(?:^|[^A-Za-z0-9_.+-])({value})(?:[^A-Za-z0-9_-]|$)"


_C = IdentifierClass
PATTERNS = (
    Pattern(
        _C.NAMES,
        "announced name",
        _announced(
            r"patient|patient[ _]name|(?:first|last|given|family|full|maiden)[ _]?name|surname|next[ _]of[ _]kin",
            r"[A-Z][a-z]+(?:[- ,]+[A-Z][a-z.]+)+",
            r"""(?:\\*["'])?[ \t]*[:=][ \t]*(?:\\*["'])?""",
        ),
    ),
    Pattern(_C.NAMES, "title and name", r"(?:^|[^A-Za-z])((?:Mr|Mrs|Ms|Miss)\.? [A-Z][a-z]+)"),
    Pattern(_C.NAMES, "frequent name", _standing_alone(rf"(?:{_GIVEN}) (?:[A-Z]\. )?(?:{_FAMILY})")),
    Pattern(
        _C.GEOGRAPHIC,
        "street address",
        rf"(?:^|[^A-Za-z0-9.])(\d{{1,5}} (?:[NSEW]\.? )?(?:[A-Z][a-z]+ ){{1,3}}(?:{_STREET}))(?:[^A-Za-z]|$)",
    ),
    Pattern(_C.GEOGRAPHIC, "state and ZIP code", _standing_alone(rf"(?:{_STATE}),? \d{{5}}(?:-\d{{4}})?")),
    Pattern(_C.GEOGRAPHIC, "announced ZIP code", _announced("zip|zip[ _]?code|postal[ _]?code", r"\d{5}(?:-\d{4})?")),
    Pattern(
        _C.DATES,
        "announced date of birth or death",
        _announced(
            r"dob|d\.o\.b\.|date[ _-]?of[ _-]?birth|birth[ _-]?date|born(?: on)?|died(?: on)?|date[ _-]?of[ _-]?death",
            _DATE,
        ),
    ),
    Pattern(
        _C.DATES,
        "age of 90 or more",
        r"(?:^|[^A-Za-z_])(?i:aged?)[ :=]{1,3}((?:9\d|1[01]\d))(?:[^\d.,%)]|$)",
    ),
    Pattern(
        _C.DATES,
        "age of 90 or more in words",
        r"(?:^|[^0-9.])((?:9\d|1[01]\d)[- ](?i:years?[- ]old|y/?o))(?:[^A-Za-z]|$)",
    ),
    Pattern(
        _C.TELEPHONE,
        "telephone number",
        _standing_alone(r"(?:\+?1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])[2-9]\d{2}[.-]\d{4}"),
    ),
    Pattern(_C.TELEPHONE, "announced telephone number", _announced(r"tel|tel\.|phone|telephone|mobile|cell", _PHONE)),
    Pattern(_C.FAX, "announced fax number", _announced(r"fax|facsimile", _PHONE)),
    Pattern(
        _C.EMAIL,
        "e-mail address",
        rf"(?:^|[^A-Za-z0-9._%+-])([A-Za-z0-9._%+-]{{3,}}@[A-Za-z0-9-]{{2,}}(?:\.[A-Za-z0-9-]+)*\.(?:{_TOP_LEVEL}))"
        r"(?:[^A-Za-z0-9-]|$)",
    ),
    Pattern(_C.SSN, "social security number", _standing_alone(r"\d{3}-\d{2}-\d{4}")),
    Pattern(_C.SSN, "announced social security number", _announced(r"ssn|social[ _]security", r"\d{3} ?\d{2} ?\d{4}")),
    Pattern(_C.MRN, "medical record number", _standing_alone(r"MRN[- ]?\d{5,12}")),
    Pattern(_C.MRN, "announced record number", _announced(r"mrn|medical[ _]record|patient[ _]?nbr", _CODE, _MUST_SAY)),
    Pattern(
        _C.HEALTH_PLAN,
        "announced plan number",
        _announced(
            r"member|subscriber|beneficiary|(?:health|insurance)[ _]?plan|insurance|policy|medicare|medicaid|hicn|mbi",
            _CODE,
            _MUST_SAY,
        ),
    ),
    Pattern(
        _C.HEALTH_PLAN,
        "Medicare beneficiary identifier",
        _standing_alone(
            r"[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-[AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-[AC-HJKMNP-RT-Y]{2}\d{2}"
        ),
    ),
    Pattern(_C.ACCOUNT, "card number", _standing_alone(r"[3-6]\d{3}-\d{4}-\d{4}-\d{4}"), passes_luhn),
    Pattern(_C.ACCOUNT, "IBAN", _standing_alone(r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?"), is_iban),
    Pattern(_C.ACCOUNT, "announced account number", _announced(r"account|acct|iban|card", _CODE, _MUST_SAY)),
    Pattern(
        _C.ACCOUNT,
        "announced card number",
        _announced(r"account|acct|card", r"\d{4} \d{4} \d{4} \d{4}"),
        passes_luhn,
    ),
    Pattern(
        _C.LICENCE,
        "announced licence number",
        _announced(r"licen[cs]e|driver'?s?[ _]licen[cs]e|certificate|dea|npi", _CODE, _MUST_SAY),
    ),
    Pattern(_C.VEHICLE, "vehicle identification number", _standing_alone(r"[A-HJ-NPR-Z0-9]{17}"), is_vin),
    Pattern(
        _C.VEHICLE,
        "announced plate",
        _announced(
            r"(?:licen[cs]e|number|vehicle)[ _]?plate|plate|vehicle|registration",
            r"[A-Z]{1,7}[- ]?\d[A-Z0-9-]{1,7}",
            _MUST_SAY,
        ),
    ),
    Pattern(
        _C.DEVICE, "MAC address", _standing_alone(r"(?i:[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5})")
    ),
    Pattern(
        _C.DEVICE,
        "announced device number",
        _announced(r"serial|s/n|imei|udi|pacemaker|device|device[ _]serial", _CODE, _MUST_SAY),
    ),
    Pattern(
        _C.URL,
        "address of a person's page",
        r"(?i)(https?://[^\s\"'<>\\]*/(?:patients?|persons?|people|profiles?|users?|members?|~)[/=?][^\s\"'<>\\]{2,})",
    ),
    Pattern(
        _C.URL, "address with a person's name in it", r"(?i)(https?://(?:people|patient|person|my)\.[^\s\"'<>\\]{4,})"
    ),
    Pattern(
        _C.IP_ADDRESS,
        "IPv4 address",
        # After ==, >= and the like stands a version of a package.
        r"(?:^|[^A-Za-z0-9_.+=-]|[A-Za-z_]=)((?:\d{1,3}\.){3}\d{1,3})(?:[^A-Za-z0-9_.-]|\.?$|\. )",
        is_foreign_address,
    ),
    Pattern(
        _C.IP_ADDRESS,
        "IPv6 address",
        r"(?:^|[^A-Za-z0-9:.])([23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{4,34})(?:[^0-9A-Za-z:]|$)",
        is_foreign_address,
    ),
    Pattern(
        _C.BIOMETRIC,
        "announced biometric",
        _announced(
            r"finger[ _-]?print(?:[ _]template)?|voice[ _-]?print"
            r"|iris(?:[ _]code)?|retina(?:l)?[ _]scan|face[ _](?:template|embedding)"
            r"|biometric(?:[ _]template)?",
            r"[A-Za-z0-9+/=]*\d[A-Za-z0-9+/=-]{7,}",
            _MUST_SAY,
        ),
    ),
    Pattern(
        _C.PHOTOGRAPH,
        "photograph's file name",
        _standing_alone(r"(?:IMG|DSC|DSCN|DCIM|PXL)_?\d{4,}[\w-]*\.(?i:jpe?g|heic|png)"),
    ),
    Pattern(
        _C.PHOTOGRAPH, "announced photograph", r"(?i)((?:photo|portrait|face|selfie)[\w -]*\.(?:jpe?g|heic|png|tiff?))"
    ),
    Pattern(
        _C.OTHER_UNIQUE,
        "announced number of another kind",
        _announced(r"passport|national[ _]id|nhs|employee|student|badge|barcode|rfid", _CODE, _SAYS),
    ),
)

COLUMN_NAMES: dict[IdentifierClass, str] = {
    _C.NAMES: r"(?:first|last|given|family|full|maiden|patient|birth)_?name|surname|next_of_kin",
    _C.GEOGRAPHIC: r"address|street|city|town|zip|zip_?code|post_?code|postal_?code|latitude|longitude",
    _C.DATES: r"dob|birth_?date|date_of_birth|birthday|death_?date|date_of_death",
    _C.TELEPHONE: r"tel|telephone|phone|mobile|telephone_number|phone_number",
    _C.FAX: r"fax|fax_number",
    _C.EMAIL: r"e_?mail|e_?mail_address",
    _C.SSN: r"ssn|social_security(?:_number)?",
    _C.MRN: r"mrn|medical_record(?:_number)?|patient_nbr|encounter_nbr",
    _C.HEALTH_PLAN: r"health_plan(?:_(?:id|number))?|member_id|subscriber_id|beneficiary|policy_number|medicare_id",
    _C.ACCOUNT: r"account(?:_(?:id|number))?|iban|card_number",
    _C.LICENCE: r"licen[cs]e(?:_(?:id|number))?|certificate_number|drivers_licen[cs]e|npi",
    _C.VEHICLE: r"(?:licen[cs]e_)?plate|vin|vehicle(?:_(?:id|number|plate))?",
    _C.DEVICE: r"device(?:_(?:id|serial))|serial(?:_number)?|imei|mac_address|udi",
    _C.URL: r"url|homepage|web_?page",
    _C.IP_ADDRESS: r"ip|ip_address",
    _C.BIOMETRIC: r"finger_?print_(?:id|template)|voice_?print|iris(?:_code)?|face_template|biometric(?:_\w+)?",
    _C.PHOTOGRAPH: r"photo|photograph|portrait|face_image",
    _C.OTHER_UNIQUE: r"notes?|free_text|clinical_note|comments?|remarks|narrative|passport|national_id|nhs_number",
}
"""Names that a column with values must not have, per kind: whole names, in lower case."""


def announced_by_column(name: str) -> IdentifierClass | None:
    """The kind of identifier that a column's name announces, if any."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return next((kind for kind, names in COLUMN_NAMES.items() if re.fullmatch(names, plain)), None)
