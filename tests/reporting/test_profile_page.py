"""The page of profiles says what moved, rests on no small count, and needs nothing beside itself."""

import re
from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl
import pytest

from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.known_identifiers import KnownIdentifiers
from clinical_assets.governance.leak_scan import LeakScanner
from clinical_assets.governance.readable_content import content_of_file
from clinical_assets.governance.small_cells import is_small
from clinical_assets.monitoring.profiles import distributions, merge, profile_frame
from clinical_assets.protocol import read_protocol
from clinical_assets.reporting.profile_page import (
    ProfilePage,
    moved_columns,
    render_profile_page,
    stretches_in_words,
)
from clinical_assets.reporting.shown_profiles import (
    OTHER,
    Compared,
    Kind,
    ProfiledPeriod,
    ShownColumn,
    show_columns,
)

SCANNER = LeakScanner(
    KnownIdentifiers.of((canary.identifier_class, canary.value) for canary in canaries(bytes(32))), bytes(32)
)


def month_of(rng: np.random.Generator, n: int, older: float = 0.0, rare: int = 0) -> pl.DataFrame:
    """Encounters of a month; `rare` of them have a value that is seldom."""
    unit = rng.choice(["medical", "surgical"], n, p=[0.7, 0.3])
    unit[:rare] = "burns"
    return pl.DataFrame(
        {
            "age": rng.normal(62 + older, 15, n).round(1),
            "lactate": np.where(rng.random(n) < 0.9, np.nan, rng.lognormal(0, 0.5, n)),
            "unit": unit,
            "died": np.arange(n) < 3,
            "nothing": pl.Series([None] * n, dtype=pl.Float64),
        }
    )


def compared(frames: Sequence[pl.DataFrame], against: pl.DataFrame | None = None) -> Compared:
    views = [profile_frame(frame) for frame in frames]
    months = tuple(
        ProfiledPeriod(f"2025-{place:02}", len(frame), distributions(view))
        for place, (frame, view) in enumerate(zip(frames, views, strict=True), start=1)
    )
    whole = ProfiledPeriod("2025-01..", sum(map(len, frames)), distributions(merge(views)))
    if against is None:
        return Compared(months, whole, whole, months)
    training = ProfiledPeriod("training set of version 1", len(against), distributions(profile_frame(against)))
    return Compared(months, whole, training, (training,))


@pytest.fixture
def drifted() -> Compared:
    rng = np.random.default_rng(4)
    months = [month_of(rng, 900), month_of(rng, 900, rare=40), month_of(rng, 900, older=6, rare=4)]
    return compared(months, month_of(rng, 5_000, rare=60))


def column(shown: Sequence[ShownColumn], name: str) -> ShownColumn:
    [found] = [column for column in shown if column.name == name]
    return found


def page(of: Compared, **alarmed: Sequence[date]) -> str:
    return render_profile_page(
        ProfilePage(read_protocol("readmission"), of, "real:UCI", "The archive has no dates.", alarmed)
    )


def test_the_column_that_moved_furthest_stands_first_with_its_month_and_what_is_different(drifted: Compared) -> None:
    moved = moved_columns(show_columns(drifted))
    assert (moved[0].column, moved[0].month) == ("age", "2025-03")
    assert re.fullmatch(r"(median|\w+ quartile|\w+ percentile) [\d.]+ → [\d.]+", moved[0].words)
    assert {x.column for x in moved} == {"age"}
    written = page(drifted, age=[date(2025, 3, 1)])
    assert "of 5 columns moved further than chance explains: age." in written
    assert "alarm or fault in 2025-03" in written
    assert written.index('id="age"') < written.index('id="lactate"')


def test_nothing_moved_is_said_in_so_many_words() -> None:
    rng = np.random.default_rng(5)
    still = compared([month_of(rng, 900), month_of(rng, 900)])
    assert still.is_against_itself
    assert "None of 5 columns moved further than chance explains." in page(still)


def test_a_value_with_a_small_count_in_any_month_is_named_in_none(drifted: Compared) -> None:
    unit = column(show_columns(drifted), "unit")
    assert unit.kind is Kind.VALUES
    for period in (*unit.months, unit.whole, unit.against):
        assert "burns" not in period.shares
        assert not is_small(round(period.shares.get(OTHER, 0) * 900))
    assert "burns" not in page(drifted)


def test_a_value_that_holds_eleven_rows_or_none_in_every_month_is_named() -> None:
    rng = np.random.default_rng(6)
    shown = show_columns(compared([month_of(rng, 900), month_of(rng, 900, rare=11)], month_of(rng, 900, rare=30)))
    assert [month.shares.get("burns") for month in column(shown, "unit").months] == [None, pytest.approx(11 / 900)]


def test_three_deaths_are_shown_by_no_figure(drifted: Compared) -> None:
    died = column(show_columns(drifted), "died")
    assert all(set(month.shares) == {OTHER} for month in died.months)


def test_a_missing_rate_that_tells_a_few_rows_is_withheld_in_its_month_and_in_the_sum() -> None:
    rng = np.random.default_rng(7)
    some, few = month_of(rng, 500), month_of(rng, 500)
    some = some.with_columns(age=pl.when(pl.int_range(pl.len()) < 100).then(None).otherwise("age"))
    few = few.with_columns(age=pl.when(pl.int_range(pl.len()) < 10).then(None).otherwise("age"))
    age = column(show_columns(compared([some, few], month_of(rng, 500))), "age")
    assert [month.missing for month in age.months] == [0.2, None]
    assert (age.whole.missing, age.against.missing) == (None, 0.0)


def test_a_quantile_is_shown_only_where_eleven_values_lie_beyond_it() -> None:
    rng = np.random.default_rng(8)
    small, smaller = month_of(rng, 60), month_of(rng, 20)
    age = column(show_columns(compared([small, smaller], month_of(rng, 500))), "age")
    assert [x is not None for x in age.months[0].quantiles] == [False, True, True, True, False]
    assert age.months[1].quantiles == (None,) * 5
    assert age.months[1].moved == 0.0  # of its missing rate alone


def test_a_month_of_a_few_rows_is_withheld_and_cannot_be_subtracted() -> None:
    rng = np.random.default_rng(9)
    shown = show_columns(compared([month_of(rng, 900), month_of(rng, 8)], month_of(rng, 900)))
    age = column(shown, "age")
    assert (age.months[0].n, age.months[1].n, age.whole.n) == (900, None, None)
    assert (age.months[1].moved, age.months[1].missing) == (None, None)
    assert set(column(shown, "unit").whole.shares) == {OTHER}


def test_every_bin_of_a_histogram_holds_eleven_rows_of_both_or_none() -> None:
    rng = np.random.default_rng(10)
    of = compared([month_of(rng, 150), month_of(rng, 150)], month_of(rng, 90, older=20))
    bins = column(show_columns(of), "age").bins
    assert bins is not None
    assert len(bins.edges) == len(bins.whole) + 1 == len(bins.against) + 1 > 3
    for shares, n in ((bins.whole, 300), (bins.against, 90)):
        assert sum(shares) == pytest.approx(1)
        assert not any(is_small(round(share * n)) for share in shares)


def test_a_column_without_a_value_is_on_the_page_and_moves_nowhere(drifted: Compared) -> None:
    nothing = column(show_columns(drifted), "nothing")
    assert (nothing.kind, nothing.bins, nothing.moved) == (Kind.NEITHER, None, 0.0)


def test_the_page_is_one_file_without_script_and_the_leak_search_finds_nothing(drifted: Compared) -> None:
    written = page(drifted)
    assert "<script" not in written
    assert not re.findall(r"(?:src|href)=\"(?!#)", written)
    assert "@import" not in written
    assert "url(" not in written
    assert SCANNER.search(content_of_file("page.html", written.encode())) == []
    assert written.count('role="img"') == written.count("aria-label=") > 10
    assert "prefers-color-scheme: dark" in written


def test_what_a_value_is_called_cannot_become_markup() -> None:
    frame = pl.DataFrame({"age": [1.5, 2.5] * 40, "unit": ["<b>x</b>", "y&z"] * 40})
    written = page(compared([frame, frame]))
    assert "<b>x</b>" not in written
    assert "&lt;b&gt;x&lt;/b&gt;" in written


def test_simulated_patients_are_said_to_be_simulated(drifted: Compared) -> None:
    protocol = read_protocol("readmission")
    assert "Simulated data." in render_profile_page(ProfilePage(protocol, drifted, "simulated", "", {}))
    assert "Simulated data." not in page(drifted)


def test_months_that_follow_each_other_are_one_stretch() -> None:
    months = [date(2024, 12, 1), date(2025, 1, 1), date(2025, 3, 1)]
    assert stretches_in_words(months) == "2024-12..2025-01, 2025-03"
    assert stretches_in_words([]) == ""
