import polars as pl

from clinical_assets.lifecycle.candidate import PLACE, _in_order


def test_rows_read_some_months_at_a_time_stand_as_the_training_set_was_drawn() -> None:
    read = pl.DataFrame({PLACE: [2, 0, 1], "unit": ["c", "a", "b"], "risk": [0.3, 0.1, 0.2]})
    assert _in_order(read).equals(pl.DataFrame({"unit": ["a", "b", "c"], "risk": [0.1, 0.2, 0.3]}))
