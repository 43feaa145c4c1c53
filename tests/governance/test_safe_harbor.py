from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.safe_harbor import (
    FURTHEST_SHIFT_WEEKS,
    LONGEST_CODE,
    RESTRICTED_ZIP3,
    DeclaredColumn,
    Rule,
    SafeHarborError,
    de_identify,
    derive_shift_key,
    shift_weeks,
)

KEY = bytes(range(32))
MARCH = date(2025, 3, 1)
PATIENT = DeclaredColumn("patient", IdentifierClass.MRN, Rule.PSEUDONYM)
MONTH = DeclaredColumn("month", IdentifierClass.DATES, Rule.BATCH_MONTH)
CANARY = "canary of this class"


def feed_of(**columns: Sequence[Any] | pl.Series) -> pl.DataFrame:
    rows = len(next(iter(columns.values())))
    return pl.DataFrame({"patient": [f"MRN{row}" for row in range(rows)], "month": [MARCH] * rows, **columns})


def freed(feed: pl.DataFrame, *further: DeclaredColumn) -> pl.DataFrame:
    return de_identify(
        feed, (PATIENT, MONTH, *further), patient="patient", month="month", key=KEY, shift_key=derive_shift_key(KEY)
    )


def only(column: str, rule: Rule, values: Sequence[Any] | pl.Series, kind: IdentifierClass | None) -> pl.DataFrame:
    return freed(feed_of(**{column: values}), DeclaredColumn(column, kind, rule))


@pytest.mark.parametrize("kind", IdentifierClass)
def test_an_identifier_of_each_of_the_18_classes_is_gone(kind: IdentifierClass) -> None:
    out = only("secret", Rule.DROP, [CANARY], kind)
    assert out.columns == ["patient", "month"]
    assert CANARY not in str(out.to_dicts())


def test_the_18_classes_stand_in_the_regulation_s_order() -> None:
    assert [kind.letter for kind in IdentifierClass] == list("ABCDEFGHIJKLMNOPQR")


@pytest.mark.parametrize("kind", IdentifierClass)
def test_no_identifier_may_be_declared_as_kept(kind: IdentifierClass) -> None:
    with pytest.raises(SafeHarborError, match="column secret is declared as an identifier"):
        DeclaredColumn("secret", kind, Rule.KEEP)


@pytest.mark.parametrize("rule", [Rule.PSEUDONYM, Rule.SHIFT, Rule.ZIP3, Rule.POOL_AGE, Rule.IMAGE])
def test_of_names_nothing_may_stay_under_any_rule(rule: Rule) -> None:
    with pytest.raises(SafeHarborError, match="declare one of drop"):
        DeclaredColumn("name", IdentifierClass.NAMES, rule)


def test_an_undeclared_column_never_passes() -> None:
    with pytest.raises(SafeHarborError, match="no declaration names: nickname;") as refused:
        freed(feed_of(nickname=[CANARY]))
    assert CANARY not in str(refused.value)


def test_a_declared_column_that_is_absent_or_declared_twice_is_refused() -> None:
    with pytest.raises(SafeHarborError, match="lacks declared columns: fax"):
        freed(feed_of(n=[1]), keep("n"), DeclaredColumn("fax", IdentifierClass.FAX, Rule.DROP))
    with pytest.raises(SafeHarborError, match="declared more than once: month"):
        freed(feed_of(n=[1]), keep("n"), MONTH)


def test_patients_become_keyed_pseudonyms_the_same_ones_at_every_call() -> None:
    one, again = freed(feed_of(n=[1, 2]), keep("n")), freed(feed_of(n=[1, 2]), keep("n"))
    assert one["patient"].to_list() == again["patient"].to_list()
    assert one["patient"].str.contains("^[0-9a-f]{32}$").all()
    assert one["n"].to_list() == [1, 2]


def keep(column: str) -> DeclaredColumn:
    return DeclaredColumn(column, None, Rule.KEEP)


def test_ages_of_90_and_more_are_one_category() -> None:
    pooled = only("age", Rule.POOL_AGE, [17.5, 89.9, 90.0, 90.1, 104.0, None], IdentifierClass.DATES)
    assert pooled["age"].to_list() == [17.5, 89.9, 90.0, 90.0, 90.0, None]


def test_an_age_band_above_90_is_refused() -> None:
    bands = ["[80-90)", "[90-100)"]
    assert only("age", Rule.POOL_AGE, bands, IdentifierClass.DATES)["age"].to_list() == bands
    with pytest.raises(SafeHarborError, match="column age has 1 values in age bands above 90"):
        only("age", Rule.POOL_AGE, ["[80-90)", "[100-110)"], IdentifierClass.DATES)


def test_of_a_birth_date_the_year_stays_unless_it_tells_of_90_years() -> None:
    born = [date(1980, 7, 9), date(1936, 1, 1), date(1935, 12, 31), date(1920, 5, 5), None]
    out = only("birth_date", Rule.BIRTH_YEAR, born, IdentifierClass.DATES)
    assert out["birth_year"].to_list() == [1980, 1936, None, None, None]
    assert "birth_date" not in out.columns


def test_there_are_17_restricted_zip_areas_and_each_becomes_000() -> None:
    assert len(RESTRICTED_ZIP3) == 17
    restricted = sorted(RESTRICTED_ZIP3)
    out = only("zip", Rule.ZIP3, [f"{area}12" for area in restricted], IdentifierClass.GEOGRAPHIC)
    assert out["zip3"].unique().to_list() == ["000"]
    assert "zip" not in out.columns


def test_of_another_zip_code_three_digits_stay() -> None:
    out = only("zip", Rule.ZIP3, ["60614", "60614-1234", None], IdentifierClass.GEOGRAPHIC)
    assert out["zip3"].to_list() == ["606", "606", None]


@pytest.mark.parametrize("wrong", ["6061", "ABCDE", "606144", "10 Elm Street", "606141234"])
def test_what_is_no_zip_code_is_refused_without_its_value(wrong: str) -> None:
    with pytest.raises(SafeHarborError, match="column zip has 1 values that are no ZIP code") as refused:
        only("zip", Rule.ZIP3, ["60614", wrong], IdentifierClass.GEOGRAPHIC)
    assert wrong not in str(refused.value)


def test_a_patient_s_dates_move_together_by_whole_weeks_and_every_interval_is_kept() -> None:
    seen = [datetime(2025, 3, 3, 14, 7, tzinfo=UTC) + timedelta(days=days) for days in range(6)]
    feed = feed_of(seen=seen).with_columns(patient=pl.Series(["a", "b", "a", "b", "a", "b"]))
    out = freed(feed, DeclaredColumn("seen", IdentifierClass.DATES, Rule.SHIFT))
    moved = out["seen"] - feed["seen"]
    by_patient = [moved.gather([0, 2, 4]).unique(), moved.gather([1, 3, 5]).unique()]
    assert [len(shifts) for shifts in by_patient] == [1, 1]
    assert by_patient[0][0] != by_patient[1][0]
    assert out["seen"].dt.weekday().to_list() == feed["seen"].dt.weekday().to_list()
    assert out["seen"].dt.time().to_list() == feed["seen"].dt.time().to_list()
    assert out.schema["seen"] == feed.schema["seen"]


def test_nobody_s_dates_stay_where_they_were_or_move_by_more_than_half_a_year() -> None:
    weeks = shift_weeks(pl.Series([f"patient {number}" for number in range(5_000)]), KEY)
    assert set(weeks) == set(range(-FURTHEST_SHIFT_WEEKS, FURTHEST_SHIFT_WEEKS + 1)) - {0}


def test_without_the_key_the_shift_cannot_be_told_and_the_pseudonym_does_not_give_it_away() -> None:
    patients = pl.Series([f"patient {number}" for number in range(500)])
    assert (shift_weeks(patients, KEY) == shift_weeks(patients, bytes(32))).sum() < 50
    pseudonyms = freed(feed_of(n=range(500)).with_columns(patient=patients), keep("n"))["patient"]
    assert (shift_weeks(patients, derive_shift_key(KEY)) == shift_weeks(pseudonyms, KEY)).sum() < 50
    assert (shift_weeks(patients, derive_shift_key(KEY)) == shift_weeks(patients, KEY)).sum() < 50


def test_what_is_known_by_the_end_of_a_month_is_still_known_by_then_and_not_before() -> None:
    days = [date(2025, 3, 1), date(2025, 3, 31), date(2025, 4, 1), date(2024, 2, 5)]
    out = only("known_on", Rule.MONTH_END, days, IdentifierClass.DATES)["known_on"]
    assert out.to_list() == [date(2025, 3, 31), date(2025, 3, 31), date(2025, 4, 30), date(2024, 2, 29)]
    for end in (date(2025, 2, 28), date(2025, 3, 31), date(2025, 4, 30)):
        assert [day <= end for day in out] == [day <= end for day in days]


def test_the_batch_month_must_be_a_month() -> None:
    feed = feed_of(n=[1]).with_columns(month=pl.Series([date(2025, 3, 2)]))
    with pytest.raises(SafeHarborError, match="column month holds other days than the first"):
        freed(feed, keep("n"))


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([MARCH]),
        pl.Series([datetime(2025, 3, 1, tzinfo=UTC)]),
        pl.Series([timedelta(days=1)]),
        pl.Series([b"pixels"]),
        pl.Series([["a"]]),
        pl.Series(["x" * (LONGEST_CODE + 1)]),
    ],
    ids=["date", "time", "duration", "image", "list", "prose"],
)
def test_no_date_image_list_or_prose_passes_as_telling_nothing(values: pl.Series) -> None:
    with pytest.raises(SafeHarborError, match=r"column thing (is|has)"):
        only("thing", Rule.KEEP, values, None)


@pytest.mark.parametrize(
    ("rule", "kind", "values"),
    [
        (Rule.SHIFT, IdentifierClass.DATES, ["2025-03-01"]),
        (Rule.BIRTH_YEAR, IdentifierClass.DATES, [1980]),
        (Rule.MONTH_END, IdentifierClass.DATES, ["2025-03-01"]),
        (Rule.POOL_AGE, IdentifierClass.DATES, [MARCH]),
        (Rule.ZIP3, IdentifierClass.GEOGRAPHIC, [60614]),
        (Rule.IMAGE, IdentifierClass.PHOTOGRAPH, ["face.jpg"]),
    ],
)
def test_a_rule_refuses_a_type_it_cannot_treat(rule: Rule, kind: IdentifierClass, values: list[Any]) -> None:
    with pytest.raises(SafeHarborError, match="column thing"):
        only("thing", rule, values, kind)
