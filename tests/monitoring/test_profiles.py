import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal

from clinical_assets.monitoring import profile_frame, profiles
from clinical_assets.monitoring.profiles import (
    ProfileError,
    deserialise,
    merge,
    profile_table,
    restore,
    serialise,
    summarise,
)

if TYPE_CHECKING:
    from whylogs.core import DatasetProfileView

COMPARED = (
    [f"counts/{name}" for name in ("n", "null", "nan", "inf")]
    + [f"types/{name}" for name in ("integral", "fractional", "boolean", "string", "object", "tensor")]
    + [f"distribution/{name}" for name in ("n", "min", "max", "mean", "stddev")]
    + ["cardinality/est", "ints/min", "ints/max"]
)


def log_with_whylogs(frame: pl.DataFrame) -> "DatasetProfileView":
    profiles._prepare_whylogs()
    import whylogs

    # An infinite value has no variance, of which whylogs lets NumPy warn.
    with np.errstate(invalid="ignore"):
        logged = whylogs.log(frame.to_pandas()).view()
    assert logged is not None
    return logged


def frequent_items(view: "DatasetProfileView", column: str) -> dict[str, int]:
    metric: Any = view.get_columns()[column].get_metric("frequent_items")
    return {item.value: item.est for item in metric.strings}


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
            "infinite": [float("inf") if row == 30 else float(row) for row in range(rows)],
            "site": pl.Series(["A", "B", "B"] * (rows // 3), dtype=pl.Categorical),
            "small": pl.Series([1] * rows, dtype=pl.UInt8),
            "price": pl.Series(["1.5", "2.5", None] * (rows // 3)).cast(pl.Decimal(10, 2)),
        }
    )


def test_a_profile_equals_what_whylogs_makes_of_the_pandas_frame(frame: pl.DataFrame) -> None:
    view = profile_frame(frame)
    ours = view.to_pandas()
    logged = log_with_whylogs(frame)
    theirs = logged.to_pandas()
    assert set(ours.columns) == set(theirs.columns)
    for column in COMPARED:
        assert_allclose(
            ours.loc[frame.columns, column].astype(float),
            theirs.loc[frame.columns, column].astype(float),
            err_msg=column,
        )
    for column in ("sex", "insulin", "insulin_or_null", "stays", "site", "price"):
        assert frequent_items(view, column) == frequent_items(logged, column), column
    assert frequent_items(view, "sex") == {"F": 20, "M": 20}


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


@pytest.mark.parametrize("filtered", [False, True])
def test_a_lazy_frame_in_batches_equals_the_whole(
    frame: pl.DataFrame, filtered: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    frame = frame.with_columns(null_at_the_end=pl.Series([*range(59), None]))
    frame.write_parquet(tmp_path / "month.parquet")
    table = pl.scan_parquet(tmp_path / "month.parquet")
    if filtered:
        frame, table = frame.filter(pl.col("lab") > 0), table.filter(pl.col("lab") > 0)
    whole = profile_frame(frame)
    monkeypatch.setattr(profiles, "ROWS_AT_A_TIME", 7)
    batched = profile_frame(table)
    pd.testing.assert_frame_equal(batched.to_pandas()[COMPARED], whole.to_pandas()[COMPARED])
    assert frequent_items(batched, "sex") == frequent_items(whole, "sex") != {}


def test_batches_of_every_size_stay_within_the_stated_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows = 30_000
    frame = pl.DataFrame(
        {
            "lab": rng.gamma(2.0, size=rows),
            "number": rng.integers(0, 2**40, rows),
            "code": rng.integers(0, 5_000, rows).astype(str),
        }
    )
    for batch_rows in (1_000, rows):
        monkeypatch.setattr(profiles, "ROWS_AT_A_TIME", batch_rows)
        columns = profile_frame(frame.lazy()).get_columns()
        for name in frame.columns:
            cardinality: Any = columns[name].get_metric("cardinality")
            # Three of the sketch's own standard errors.
            assert cardinality.get_lower_bound(3) <= frame[name].n_unique() <= cardinality.get_upper_bound(3)
        for name in ("lab", "number"):
            distribution: Any = columns[name].get_metric("distribution")
            ranks = [(frame[name] <= distribution.get_quantile(q)).mean() for q in (0.05, 0.5, 0.95)]
            assert ranks == pytest.approx([0.05, 0.5, 0.95], abs=0.0028)
            assert distribution.stddev == pytest.approx(frame[name].std(), rel=1e-12)


def test_whylogs_reads_our_profile_and_merges_it_with_its_own(frame: pl.DataFrame) -> None:
    frame = frame.drop("infinite")
    ours = deserialise(serialise(profile_frame(frame)))
    logged = log_with_whylogs(frame)
    twice = ours.merge(logged).to_pandas()
    once = ours.to_pandas()
    assert_allclose(twice.loc["lab", "counts/n"], 120)
    for unchanged in ("distribution/mean", "distribution/min", "distribution/max", "distribution/median"):
        assert_allclose(twice.loc["lab", unchanged], once.loc["lab", unchanged])
    assert frequent_items(ours.merge(logged), "sex") == {"F": 40, "M": 40}


@pytest.mark.parametrize("rows_each", [1, 40])
@pytest.mark.parametrize("batch_rows", [500, 2**18])
def test_an_identifier_left_in_by_mistake_is_not_kept_by_name(
    rows_each: int, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "ROWS_AT_A_TIME", batch_rows)
    patients = pl.Series("patient_id", [f"patient-{number}" for number in range(2_000) for _ in range(rows_each)])
    view = profile_frame(pl.LazyFrame({"patient_id": patients, "ward": ["surgery"] * len(patients)}))
    assert b"patient-" not in serialise(view)
    assert frequent_items(view, "ward") == {"surgery": len(patients)}
    assert summarise(view).filter(column="patient_id")["distinct_estimate"].item() == pytest.approx(2_000, rel=0.05)


def test_a_frequent_value_among_many_rare_ones_is_kept() -> None:
    texts = ["no finding"] * 9_000 + [f"see letter {number}" for number in range(1_000)]
    assert frequent_items(profile_frame(pl.DataFrame({"finding": texts})), "finding") == {"no finding": 9_000}


def test_long_texts_are_cut_before_they_are_counted() -> None:
    start = "x" * 128
    view = profile_frame(pl.DataFrame({"note": [start + "a", start + "b", "short"]}))
    assert frequent_items(view, "note") == {start: 2, "short": 1}


def test_the_same_table_gives_the_same_sketches(frame: pl.DataFrame) -> None:
    first, second = (profile_table(profile_frame(frame)).drop("profile") for _ in range(2))
    assert_frame_equal(first, second, check_exact=True)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_frame_without_rows_has_a_profile_without_rows(frame: pl.DataFrame, lazy: bool) -> None:
    empty = frame.clear()
    summary = summarise(profile_frame(empty.lazy() if lazy else empty))
    assert summary["column"].to_list() == sorted(frame.columns)
    assert summary["n"].sum() == 0
    assert summary["mean"].is_null().all()


def test_what_cannot_be_profiled_is_named(frame: pl.DataFrame) -> None:
    with pytest.raises(ProfileError, match="'codes' holds List"):
        profile_frame(pl.DataFrame({"codes": [[1, 2], [3]]}))
    with pytest.raises(ProfileError, match="'stay_id' holds UInt64 numbers too large for 64 bits"):
        profile_frame(pl.DataFrame({"stay_id": pl.Series([1, 2**64 - 1], dtype=pl.UInt64)}))
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
