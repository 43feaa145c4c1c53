from collections.abc import Callable
from datetime import date

import dataframely as dy
import polars as pl
import pytest

from clinical_assets.archives.archive import ArchiveError, MonthWindow, contract_of, describe_columns


class Described(dy.Schema):
    """A contract that says what its column means."""

    dose_mg = dy.Float64(description="Dose, mg")


class Silent(dy.Schema):
    """A contract that does not."""

    dose_mg = dy.Float64(description="Dose, mg")
    route = dy.String()


def promising_cohort() -> dy.DataFrame[Described]:
    return Described.validate(pl.DataFrame({"dose_mg": [1.0]}))


def free_cohort() -> pl.DataFrame:
    return pl.DataFrame()


def careless_cohort() -> list[pl.DataFrame]:
    return []


def silent_cohort():  # noqa: ANN201
    return pl.DataFrame()


def test_the_window_of_a_month_ends_where_the_next_begins() -> None:
    assert MonthWindow.of_month(date(2024, 12, 17)) == MonthWindow(date(2024, 12, 1), date(2025, 1, 1))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (date(2024, 1, 2), date(2024, 2, 1)),
        (date(2024, 1, 1), date(2024, 1, 31)),
        (date(2024, 2, 1), date(2024, 2, 1)),
        (date(2024, 3, 1), date(2024, 2, 1)),
    ],
)
def test_a_window_is_made_of_whole_months_in_order(start: date, end: date) -> None:
    with pytest.raises(ArchiveError, match="first days of two months"):
        MonthWindow(start, end)


def test_the_contract_is_found_in_what_a_cohort_function_returns() -> None:
    assert contract_of(promising_cohort) is Described


def test_a_cohort_that_says_so_keeps_no_contract_and_describes_no_column() -> None:
    assert contract_of(promising_cohort) is Described
    assert contract_of(free_cohort) is None
    assert describe_columns(None) == {}


@pytest.mark.parametrize("cohort", [careless_cohort, silent_cohort])
def test_a_cohort_that_promises_no_rows_at_all_is_refused_by_name(cohort: Callable[[], object]) -> None:
    with pytest.raises(ArchiveError, match=rf"{cohort.__name__}: annotate the return as dy.DataFrame"):
        contract_of(cohort)


def test_descriptions_come_in_the_order_of_the_contract() -> None:
    assert describe_columns(Described) == {"dose_mg": "Dose, mg"}


def test_a_column_without_description_is_refused() -> None:
    with pytest.raises(ArchiveError, match="route"):
        describe_columns(Silent)
