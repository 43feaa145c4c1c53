from datetime import date
from typing import Any

import polars as pl
import pytest

from clinical_assets.monitoring.hard_floor import fallen_below
from clinical_assets.protocol import RollbackGuard

GUARD = RollbackGuard(metric="auroc", at_least=0.6)


def report(**changes: Any) -> pl.DataFrame:
    """A month wholly under the floor, with one value changed; and an earlier month that was well over it."""
    bad = {
        **{"month": date(2025, 6, 1), "model_version": 2, "metric": "auroc", "subgroup": "overall"},
        **{"value": 0.5, "low": 0.45, "high": 0.55, "n": 900, "status": "ripe"},
    }
    good = bad | {"month": date(2025, 5, 1), "value": 0.7, "low": 0.65, "high": 0.75}
    return pl.DataFrame([good, bad | changes])


def test_a_ripe_month_wholly_under_the_floor_breaks_it() -> None:
    assert fallen_below(report(), GUARD, 2) == (
        "in 2025-06 the realised auroc was 0.500 [0.450, 0.550] of 900 rows, wholly under the floor of 0.6"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"high": 0.6},
        {"high": None},
        {"value": None},
        {"status": "partly_ripe"},
        {"metric": "brier"},
        {"subgroup": "sex=female"},
        {"model_version": 1},
    ],
    ids=str,
)
def test_anything_less_certain_does_not(changes: dict[str, Any]) -> None:
    assert fallen_below(report(**changes), GUARD, 2) == ""


def test_without_any_ripe_month_nothing_is_said() -> None:
    assert fallen_below(report().clear(), GUARD, 2) == ""
