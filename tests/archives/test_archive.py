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


def careless_cohort() -> pl.DataFrame:
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


def test_a_cohort_without_a_contract_is_refused_by_name() -> None:
    with pytest.raises(ArchiveError, match="careless_cohort"):
        contract_of(careless_cohort)


def test_descriptions_come_in_the_order_of_the_contract() -> None:
    assert describe_columns(Described) == {"dose_mg": "Dose, mg"}


def test_a_column_without_description_is_refused() -> None:
    with pytest.raises(ArchiveError, match="route"):
        describe_columns(Silent)
