import os
import subprocess
import sys
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from clinical_assets.monitoring import profile_frame
from clinical_assets.monitoring.profiles import (
    ProfileError,
    deserialise,
    merge,
    profile_table,
    restore,
    serialise,
    summarise,
)

COMPARED = (
    [f"counts/{name}" for name in ("n", "null", "nan", "inf")]
    + [f"types/{name}" for name in ("integral", "fractional", "boolean", "string", "object", "tensor")]
    + [f"distribution/{name}" for name in ("n", "min", "max", "mean", "stddev")]
    + ["cardinality/est", "ints/min", "ints/max"]
)


@pytest.fixture
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = 60
    return pl.DataFrame(
        {
            "stays": rng.integers(0, 9, rows),
            "stays_or_null": [None if row % 7 == 0 else row for row in range(rows)],
            "lab": rng.normal(size=rows),
            "lab_or_missing": [
                None if row % 5 == 0 else float("nan") if row % 5 == 1 else row / 3 for row in range(rows)
            ],
            "sex": ["F", "M", None] * (rows // 3),
            "insulin": [True, False, True] * (rows // 3),
            "insulin_or_null": [True, False, None] * (rows // 3),
            "admitted_on": [date(2020, 1, 1)] * rows,
            "never_text": pl.Series([None] * rows, dtype=pl.String),
            "never_number": pl.Series([None] * rows, dtype=pl.Float64),
            "small": pl.Series([1] * rows, dtype=pl.UInt8),
            "price": pl.Series(["1.5", "2.5", None] * (rows // 3)).cast(pl.Decimal(10, 2)),
        }
    )


def test_a_profile_equals_what_whylogs_makes_of_the_pandas_frame(frame: pl.DataFrame) -> None:
    ours = profile_frame(frame).to_pandas()
    import whylogs

    logged = whylogs.log(frame.to_pandas()).view()
    assert logged is not None
    theirs = logged.to_pandas()
    assert set(ours.columns) == set(theirs.columns)
    for column in COMPARED:
        np.testing.assert_allclose(
            ours.loc[frame.columns, column].astype(float),
            theirs.loc[frame.columns, column].astype(float),
            err_msg=column,
        )
    counted = [
        {item.value: item.est for item in table.loc["sex", "frequent_items/frequent_strings"]}
        for table in (ours, theirs)
    ]
    assert counted[0] == counted[1] == {"F": 20, "M": 20}


def test_lazy_and_pandas_frames_give_the_same_profile(frame: pl.DataFrame) -> None:
    expected = summarise(profile_frame(frame))
    assert_frame_equal(summarise(profile_frame(frame.lazy())), expected)
    assert_frame_equal(
        summarise(profile_frame(frame.drop("price").to_pandas())), expected.filter(pl.col("column") != "price")
    )


def test_nulls_are_counted_as_nulls(frame: pl.DataFrame) -> None:
    summary = summarise(profile_frame(frame)).filter(pl.col("column").is_in(["sex", "lab_or_missing", "never_number"]))
    assert dict(summary.select("column", "n_null").iter_rows()) == {"lab_or_missing": 24, "never_number": 60, "sex": 20}
    assert summary.filter(column="sex")["missing_rate"].item() == pytest.approx(1 / 3)
    assert summary.filter(column="never_number")["mean"].item() is None


def test_a_left_out_identifier_is_nowhere_in_the_stored_profile(frame: pl.DataFrame) -> None:
    with_patient = frame.with_columns(patient_id=pl.lit("patient-4711"))
    stored = serialise(profile_frame(with_patient, without=["patient_id"]))
    assert b"patient-4711" not in stored
    assert b"patient_id" not in stored
    assert b"patient-4711" in serialise(profile_frame(with_patient))


def test_a_many_valued_column_is_summarised_without_its_most_frequent_value() -> None:
    frame = pl.DataFrame({"name": [f"name {number}" for number in range(80)] + ["name 1"] * 20})
    assert summarise(profile_frame(frame))["most_frequent"].item() is None
    assert summarise(profile_frame(frame.head(20)))["most_frequent"].item() is not None


def test_a_stored_profile_is_read_back_whole(frame: pl.DataFrame) -> None:
    as_of = datetime(2025, 3, 1, tzinfo=UTC)
    view = profile_frame(frame, as_of=as_of)
    again = deserialise(serialise(view))
    assert again.dataset_timestamp == as_of
    assert_frame_equal(summarise(again), summarise(view))


def test_a_profile_kept_as_a_table_is_restored_whole(frame: pl.DataFrame) -> None:
    view = profile_frame(frame)
    table = profile_table(view)
    assert_frame_equal(summarise(restore(table, datetime(2025, 3, 1, tzinfo=UTC))), summarise(view))
    with pytest.raises(ProfileError, match="'lab' holds no whylogs profile"):
        restore(
            table.filter(column="lab").with_columns(profile=pl.lit(b"no profile")), datetime(2025, 3, 1, tzinfo=UTC)
        )


def test_months_merge_as_if_profiled_together(frame: pl.DataFrame) -> None:
    merged = summarise(merge([profile_frame(frame.head(21)), profile_frame(frame.slice(21))]))
    whole = summarise(profile_frame(frame))
    exact = ["column", "n", "n_null", "missing_rate", "mean", "stddev", "minimum", "maximum"]
    assert_frame_equal(merged.select(exact), whole.select(exact))


@pytest.mark.parametrize("content", [b"", b"a csv", b"WHY1 but no more"])
def test_bytes_that_are_no_profile_are_refused(content: bytes) -> None:
    with pytest.raises(ProfileError, match="no whylogs profile"):
        deserialise(content)


def test_what_cannot_be_profiled_is_named(frame: pl.DataFrame) -> None:
    with pytest.raises(ProfileError, match="'codes' holds List"):
        profile_frame(pl.DataFrame({"codes": [[1, 2], [3]]}))
    with pytest.raises(ProfileError, match="patient"):
        profile_frame(frame, without=["patient"])
    with pytest.raises(ProfileError, match="no profile"):
        merge([])


def test_importing_monitoring_loads_no_heavy_library_and_profiling_sends_nothing_home() -> None:
    script = (
        "import sys, os; import clinical_assets.monitoring as m; "
        "heavy = {'whylogs', 'scipy', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules); assert not heavy, heavy; "
        "import polars as pl; m.profile_frame(pl.DataFrame({'a': [1]})); "
        "import whylogs.api.usage_stats as u; assert u._TELEMETRY_DISABLED, 'whylogs phones home'"
    )
    environment = {name: value for name, value in os.environ.items() if name != "WHYLOGS_NO_ANALYTICS"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
