"""What nobody can work out from a table with its totals, who knows every number shown and the rule itself."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import polars as pl
import pytest

from clinical_assets.governance.small_cells import (
    hidden_parts,
    hidden_shares,
    hidden_subgroups,
    hide_counts_in,
    shown_count,
    suppress_small_cells,
)


def compositions(parts: int, total: int) -> Iterator[tuple[int, ...]]:
    for leading in product(range(total + 1), repeat=parts - 1):
        if sum(leading) <= total:
            yield *leading, total - sum(leading)


@pytest.mark.parametrize(
    ("listed", "unlisted", "largest"), [(1, 1, 60), (2, 0, 60), (2, 1, 45), (3, 0, 45), (4, 0, 28)]
)
def test_no_hidden_count_can_be_worked_out(listed: int, unlisted: int, largest: int) -> None:
    """In the tables that would be published alike, all of them enumerated, each hidden count takes several values."""
    for total in range(11, largest + 1):
        worlds = defaultdict[tuple[int | None, ...], list[tuple[int, ...]]](list)
        for counts in compositions(listed + unlisted, total):
            parts = counts[:listed]
            if sum(parts) == total == sum(part > 0 for part in parts):
                continue  # all ones: nothing of such a table is shown
            hidden = hidden_parts(parts, total)
            published = tuple(None if out else part for part, out in zip(parts, hidden, strict=True))
            worlds[published].append(counts)
        for published, possible in worlds.items():
            for place, shown in enumerate(published):
                if shown is None:
                    assert len({counts[place] for counts in possible}) > 1, (total, published)
                else:
                    assert not 0 < shown < 11
            if unlisted and None not in published:
                rest = total - sum(part for part in published if part is not None)
                assert not 0 < rest < 11, (total, published)


def test_the_attack_works_on_a_table_without_complementary_suppression() -> None:
    parts, total = (4, 40, 56), 100
    small_alone = [None if part < 11 else part for part in parts]
    assert total - sum(part for part in small_alone if part is not None) == 4
    assert hidden_parts(parts, total) == [True, True, False]


def test_what_is_hidden_beside_a_small_count_does_not_depend_on_sizes() -> None:
    assert hidden_parts((4, 900, 20), 924) == [True, True, False]
    assert hidden_parts((4, 20, 900), 924) == [True, True, False]


def test_two_small_counts_hide_each_other_only_where_they_hold_enough() -> None:
    assert hidden_parts((2, 1, 500), 503) == [True, True, True]
    assert hidden_parts((2, 1, 500), None) == [True, True, False]


def test_one_small_level_that_is_not_listed_takes_a_listed_one_with_it() -> None:
    assert hidden_parts((50, 60), 115) == [True, False]
    assert hidden_parts((50, 60), 121) == [False, False]


def test_nought_is_shown_and_hides_nothing() -> None:
    assert hidden_parts((0, 5, 95), 100) == [False, True, True]


def test_a_small_total_takes_all_its_parts_with_it() -> None:
    assert hidden_subgroups({"overall": 10, "sex=F": 10, "sex=M": 0}) == {"overall", "sex=F"}


def test_eleven_levels_of_one_row_each_would_tell_themselves_so_the_total_goes_too() -> None:
    counts = {f"ward={letter}": 1 for letter in "abcdefghijk"} | {"overall": 11, "sex=F": 11}
    assert hidden_subgroups(counts) == set(counts)


def test_each_grouping_is_guarded_by_itself() -> None:
    counts = {"overall": 100, "sex=F": 45, "sex=M": 55, "site=A": 97, "site=B": 3}
    assert hidden_subgroups(counts) == {"site=A", "site=B"}


def test_a_share_is_hidden_when_those_without_are_few() -> None:
    wholes = {"overall": 300, "sex=F": 100, "sex=M": 100, "sex=other": 100}
    parts = {"overall": 190, "sex=F": 95, "sex=M": 45, "sex=other": 50}
    assert hidden_shares(wholes, parts) == {"sex=F", "sex=M"}


def test_a_frame_says_what_was_suppressed_and_what_was_missing() -> None:
    frame = pl.DataFrame(
        {
            "month": [1, 1, 1, 1, 2, 2],
            "subgroup": ["overall", "sex=F", "sex=M", "sex=other", "overall", "sex=F"],
            "n": [104, 50, 50, 4, 100, 100],
            "value": [0.1, 0.2, None, 0.4, 0.5, 0.6],
        }
    )
    shown = suppress_small_cells(frame, "n", ["month"], also=["value"])
    assert shown["n"].to_list() == [104, None, 50, None, 100, 100]
    assert shown["value"].to_list() == [0.1, None, None, None, 0.5, 0.6]
    assert shown["suppressed"].to_list() == [False, True, False, True, False, False]


def test_suppressing_twice_keeps_the_first_mark() -> None:
    frame = pl.DataFrame({"subgroup": ["overall"], "n": [4], "events": [0]})
    once = suppress_small_cells(frame, "n", [])
    assert suppress_small_cells(once, "events", [])["suppressed"].to_list() == [True]


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("9 of 80 patients have the event", "fewer than 11 of 80 patients have the event"),
        ("3 records left out", "fewer than 11 records left out"),
        ("19 of 1,010 rows, v2, 0.10 of 5 columns", "19 of 1,010 rows, v2, 0.10 of 5 columns"),
        ("on 1,009 rows and 2,005 patients", "on 1,009 rows and 2,005 patients"),
        ("about 3.10 events per 1,000 rows", "about 3.10 events per 1,000 rows"),
    ],
)
def test_small_counts_in_a_sentence_are_reworded(told: str, shown: str) -> None:
    assert hide_counts_in(told) == shown


def test_a_count_is_written_or_withheld() -> None:
    assert [shown_count(n) for n in (0, 1, 10, 11, 12345)] == ["0", "fewer than 11", "fewer than 11", "11", "12,345"]
