"""Safe Harbor de-identification (45 CFR 164.514(b)(2)) as a declaration: each column of a feed, and what becomes of it.

Belongs here: the rules, which identifier they may be used for, and their application. Does not belong here: which
columns a feed has, where its rows are kept.

What this reaches, honestly. Identifiers (A) to (R) are dropped, pooled or replaced. Three things stay that the letter
of the rule does not give away freely: the month in which the platform received a row (an element of a date), times
shifted by whole weeks (beside the month, the four or five days of the same weekday remain possible), and pseudonyms
(keyed, but derived from a record number: 164.514(c)). Whoever hands the rows beyond the covered entity needs an
expert's determination, 164.514(b)(1), or treats them as a limited data set under an agreement, 164.514(e).
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.pseudonyms import pseudonymise

RESTRICTED_ZIP3 = frozenset(
    {
        *("036", "059", "063", "102", "203", "556", "692", "790", "821"),
        *("823", "830", "831", "878", "879", "884", "890", "893"),
    }
)
"""The 17 three-digit ZIP areas of 20,000 people or fewer, by the census of 2000.

As listed in HHS, Guidance Regarding Methods for De-identification of Protected Health Information, 26 November 2012.
"""

OLDEST_AGE_YEARS = 90
"""Higher ages become this one: a single category of age 90 or older."""

FURTHEST_SHIFT_WEEKS = 26
LONGEST_CODE = 250
"""Characters; longer text is prose, and prose may name anybody."""

_SHIFT = "weeks shifted"


class SafeHarborError(ValueError):
    """Rows cannot be de-identified as declared; the message names the column and the remedy, never a value."""


class Rule(StrEnum):
    """What is done to a column.

    `KEEP` says that the column tells nothing of who the patient is; no date, image or long text passes under it.
    `IMAGE` keeps an image of which the protocol states that it identifies nobody. `BATCH_MONTH` keeps the first of the
    month in which the platform received a row; `MONTH_END` makes a day the last one of its month, so that what is
    known by the end of a month stays known by then. `SHIFT` moves a time by the patient's own weeks.
    """

    KEEP = "keep"
    DROP = "drop"
    PSEUDONYM = "pseudonym"
    POOL_AGE = "pool_age"
    BIRTH_YEAR = "birth_year"
    ZIP3 = "zip3"
    SHIFT = "shift"
    BATCH_MONTH = "batch_month"
    MONTH_END = "month_end"
    IMAGE = "image"


_RENAMED = {Rule.BIRTH_YEAR: "birth_year", Rule.ZIP3: "zip3"}
DEMOGRAPHICS = tuple(_RENAMED.values())
"""What rules make of a birth date and a ZIP code: shown to analysts, never shown to an estimator."""

_ALLOWED = {
    IdentifierClass.GEOGRAPHIC: {Rule.DROP, Rule.ZIP3},
    IdentifierClass.DATES: {
        *(Rule.DROP, Rule.POOL_AGE, Rule.BIRTH_YEAR, Rule.SHIFT, Rule.BATCH_MONTH, Rule.MONTH_END),
    },
    IdentifierClass.MRN: {Rule.DROP, Rule.PSEUDONYM},
    IdentifierClass.PHOTOGRAPH: {Rule.DROP, Rule.IMAGE},
    IdentifierClass.OTHER_UNIQUE: {Rule.DROP, Rule.PSEUDONYM},
}
"""Of every other class nothing stays: its one rule is `DROP`."""


@dataclass(frozen=True, slots=True)
class DeclaredColumn:
    """A column of a feed, the kind of identifier it holds (None: none), and what is done to it."""

    column: str
    identifier: IdentifierClass | None
    rule: Rule

    def __post_init__(self) -> None:
        allowed = {Rule.KEEP, Rule.DROP}
        if self.identifier is not None:
            allowed = _ALLOWED.get(self.identifier, {Rule.DROP})
        if self.rule not in allowed:
            what = f"an identifier, {self.identifier}" if self.identifier else "no identifier"
            raise SafeHarborError(
                f"column {self.column} is declared as {what}, to which the rule {self.rule} does not belong; "
                f"declare one of {', '.join(sorted(allowed))}"
            )


def de_identify(
    feed: pl.DataFrame,
    declaration: Sequence[DeclaredColumn],
    *,
    patient: str,
    month: str,
    key: bytes,
    shift_key: bytes,
) -> pl.DataFrame:
    """The rows of a feed with nothing left of the 18 identifiers; as many rows, in the same order.

    Args:
        feed: rows with direct identifiers.
        declaration: exactly one entry for each column of `feed`.
        patient: the column that names the patient, by whom dates are shifted.
        month: the column with the first day of the month in which the platform received the row.
        key: 32 bytes, of the pseudonyms.
        shift_key: 32 bytes, of the weeks by which dates are moved; it stays when the pseudonyms' key is renewed.

    Returns:
        the columns not dropped, under their names, except that a birth date becomes `birth_year` (null where it tells
        of 90 years or more) and a ZIP code `zip3` (`000` where too few live there).

    Raises SafeHarborError for a column that is not declared, declared twice or missing, and for one whose type or
    values its rule cannot treat.
    """
    _check_declared(feed, declaration)
    for item in declaration:
        _check_treatable(feed[item.column], item.rule)
    shifted = feed.with_columns(shift_weeks(feed[patient], shift_key).alias(_SHIFT))
    kept = shifted.select(_treated(item, feed.schema[item.column], month) for item in declaration if _stays(item))
    return pseudonymise(kept, [item.column for item in declaration if item.rule is Rule.PSEUDONYM], key)


def shift_weeks(patients: pl.Series, key: bytes) -> pl.Series:
    """By how many weeks each patient's dates are moved: -26 to 26, never 0, the same at every call with this key.

    Whole weeks keep the weekday and the hour of the day; one shift a patient keeps every interval.
    """
    hexadecimal = pseudonymise(patients.alias("patient").to_frame(), ["patient"], key)["patient"]
    drawn = hexadecimal.str.slice(0, 8).str.to_integer(base=16) % (2 * FURTHEST_SHIFT_WEEKS) - FURTHEST_SHIFT_WEEKS
    return drawn + (drawn >= 0).cast(pl.Int64)


def derive_shift_key(key: bytes) -> bytes:
    """The key of the shifts that goes with the first key of the pseudonyms, and tells neither of the other's values."""
    return hmac.digest(key, b"clinical-assets date shift", hashlib.sha256)


def _stays(item: DeclaredColumn) -> bool:
    return item.rule is not Rule.DROP


def _check_declared(feed: pl.DataFrame, declaration: Sequence[DeclaredColumn]) -> None:
    declared = Counter(item.column for item in declaration)
    if undeclared := [column for column in feed.columns if column not in declared]:
        raise SafeHarborError(
            f"the feed has columns that no declaration names: {', '.join(undeclared)}; declare for each which "
            "identifier it holds and what is done to it, in the cohort's contract"
        )
    if missing := [column for column in declared if column not in feed.columns]:
        raise SafeHarborError(f"the feed lacks declared columns: {', '.join(missing)}; take them from the declaration")
    if twice := [column for column, times in declared.items() if times > 1]:
        raise SafeHarborError(f"declared more than once: {', '.join(twice)}; keep one entry a column")


def _check_treatable(values: pl.Series, rule: Rule) -> None:
    """Raise SafeHarborError where a rule cannot treat a column's type or values."""
    name, kind = values.name, values.dtype
    problem = ""
    match rule:
        case Rule.KEEP if kind.is_temporal() or kind.is_nested() or kind == pl.Binary:
            problem = f"is {kind}, which may identify a patient; declare its identifier and another rule"
        case Rule.KEEP if kind == pl.String and (prose := int((values.str.len_chars() > LONGEST_CODE).sum())):
            problem = f"has {prose:,} values longer than {LONGEST_CODE} characters: free text is dropped"
        case Rule.POOL_AGE if kind == pl.String:
            above = int((_youngest(values) > OLDEST_AGE_YEARS).sum())
            problem = f"has {above:,} values in age bands above {OLDEST_AGE_YEARS}; give one band from 90 on" * bool(
                above
            )
        case Rule.POOL_AGE if not kind.is_numeric():
            problem = f"is {kind}; an age is a number of years or a band of them"
        case Rule.ZIP3:
            wrong = values.len() if kind != pl.String else int((~values.str.contains(r"^\d{5}(-\d{4})?$")).sum())
            problem = f"has {wrong:,} values that are no ZIP code of 5 or 9 digits; correct or empty them" * bool(wrong)
        case Rule.BATCH_MONTH if kind != pl.Date or int((values.dt.day() != 1).sum()):
            problem = "holds other days than the first of a month; give the month in which the row was received"
        case Rule.MONTH_END if kind != pl.Date:
            problem = f"is {kind}; give a date"
        case Rule.SHIFT | Rule.BIRTH_YEAR if kind != pl.Date and not isinstance(kind, pl.Datetime):
            problem = f"is {kind}; give a date or a time"
        case Rule.IMAGE if kind != pl.Binary:
            problem = f"is {kind}; an image is binary"
    if problem:
        raise SafeHarborError(f"column {name} {problem}")


def _treated(item: DeclaredColumn, kind: pl.DataType, month: str) -> pl.Expr:
    column = pl.col(item.column)
    match item.rule:
        case Rule.POOL_AGE if kind != pl.String:
            return column.clip(upper_bound=OLDEST_AGE_YEARS)
        case Rule.BIRTH_YEAR:
            turns = pl.col(month).dt.year() - column.dt.year()
            return pl.when(turns < OLDEST_AGE_YEARS).then(column.dt.year()).alias(_RENAMED[item.rule])
        case Rule.ZIP3:
            area = column.str.slice(0, 3)
            return pl.when(area.is_in(sorted(RESTRICTED_ZIP3))).then(pl.lit("000")).otherwise(area).alias("zip3")
        case Rule.SHIFT:
            return (column + pl.duration(weeks=pl.col(_SHIFT))).cast(kind)
        case Rule.MONTH_END:
            return column.dt.month_end()
    return column


def _youngest(bands: pl.Series) -> pl.Series:
    """The first number of each age band, years."""
    return bands.str.extract(r"(\d+)").cast(pl.Int64)
