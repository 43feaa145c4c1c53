import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from clinical_assets.resources.handed_on import HANDED_ON, HandedOn
from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.lake_io_manager import Batch, LakeIOManager, LakeResource

# Dagster warns of its own use of it when a resource is nested in an IO manager.
pytestmark = [
    pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Specifying a partitions_def on an AssetCheckSpec:dagster.PreviewWarning"),
]

MONTHS = dg.MonthlyPartitionsDefinition(start_date="2025-01", end_date="2025-05", fmt="%Y-%m")
JANUARY, FEBRUARY, MARCH = date(2025, 1, 1), date(2025, 2, 1), date(2025, 3, 1)
OF_TOY = dg.AssetIn(key_prefix="toy")


def stays(month: date) -> pl.DataFrame:
    return pl.DataFrame({"stay_id": ["a", "b"], "month": [month, month], "days": [3, month.month]})


@dg.asset(key_prefix="toy", partitions_def=MONTHS)
def features(context: dg.AssetExecutionContext) -> pl.DataFrame:
    """One row a stay."""
    return pl.concat(stays(datetime.strptime(f"{key}-01", "%Y-%m-%d").date()) for key in context.partition_keys)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "catalogue.sqlite"), tmp_path / "data")


def materialise(
    lake: Lake,
    *assets: Any,
    only: list[dg.AssetsDefinition] | None = None,
    month: str | None = None,
    months: tuple[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    resource = LakeResource(catalogue=lake.catalogue, data=str(lake.data))
    between = (
        {"dagster/asset_partition_range_start": months[0], "dagster/asset_partition_range_end": months[1]}
        if months
        else {}
    )
    return dg.materialize(
        assets,
        selection=only,
        partition_key=month,
        tags=between,
        resources={"io_manager": LakeIOManager(lake=resource, audit=str(lake.data.parent / "audit"))},
    )


def lose_all_files(lake: Lake) -> None:
    for file in lake.data.rglob("*.parquet"):
        file.unlink()


def test_a_later_step_and_a_check_of_the_run_get_the_frame_without_reading_the_lake(lake: Lake) -> None:
    seen: dict[str, Any] = {}

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, deps=[features])
    def lost() -> None:
        lose_all_files(lake)

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": OF_TOY}, deps=[lost])
    def in_polars(features: pl.DataFrame) -> None:
        seen["polars"] = features

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": OF_TOY}, deps=[lost])
    def in_pandas(features: pd.DataFrame) -> None:
        seen["pandas"] = features

    @dg.asset_check(asset=features, partitions_def=MONTHS, additional_deps=[lost])
    def checked(features: pl.DataFrame) -> dg.AssetCheckResult:
        seen["check"] = features
        return dg.AssetCheckResult(passed=True)

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": OF_TOY})
    def another_run(features: pl.DataFrame) -> None:
        raise AssertionError("must not be reached")

    materialise(lake, features, lost, in_polars, in_pandas, checked, month="2025-02")
    assert_frame_equal(seen["polars"], stays(FEBRUARY))
    assert_frame_equal(seen["check"], stays(FEBRUARY))
    assert seen["pandas"]["days"].tolist() == [3, 2]
    with pytest.raises(LakeError, match="Cannot open file"):
        materialise(lake, features, another_run, only=[another_run], month="2025-02")


def test_what_is_handed_on_is_exactly_what_a_read_gives(lake: Lake) -> None:
    moment = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    local = moment.replace(tzinfo=None)
    written = pl.DataFrame(
        {
            "month": [JANUARY, JANUARY],
            "sex": pl.Series(["f", None], dtype=pl.Categorical),
            "band": pl.Series(["old", None], dtype=pl.Enum(["young", "old"])),
            "u16": pl.Series([1, None], dtype=pl.UInt16),
            "f32": pl.Series([-0.0, float("nan")], dtype=pl.Float32),
            "bytes": [b"\x00\xff", None],
            "in_utc": pl.Series([moment, None], dtype=pl.Datetime("us", "UTC")),
            "in_ms": pl.Series([local, None], dtype=pl.Datetime("ms")),
            "in_ns": pl.Series([local, None], dtype=pl.Datetime("ns")),
            "amount": pl.Series([Decimal("1.20"), None], dtype=pl.Decimal(10, 2)),
            "list": [[1.0, None], None],
            "pair": [{"low": 0.1, "n": 3}, None],
        }
    )
    lake.write_month("toy.kinds", JANUARY, written.select(reversed(written.columns)), author="", message="")
    seen: list[pl.DataFrame] = []

    @dg.asset(key_prefix="toy", partitions_def=MONTHS)
    def kinds() -> pl.DataFrame:
        return written.with_columns(added=pl.lit("x"))

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"kinds": OF_TOY})
    def later(kinds: pl.DataFrame) -> None:
        lose_all_files(lake)
        seen.append(kinds)

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"kinds": OF_TOY})
    def reading(kinds: pl.DataFrame) -> None:
        seen.append(kinds)

    materialise(lake, kinds, month="2025-01")
    materialise(lake, kinds, reading, only=[reading], month="2025-01")
    materialise(lake, kinds, later, month="2025-01")
    read, handed_on = seen
    assert_frame_equal(handed_on, read, check_row_order=False, check_exact=True)
    assert handed_on.schema["sex"] == pl.String


def test_a_frame_of_the_run_is_what_the_run_wrote_also_after_another_commit_to_the_same_month(lake: Lake) -> None:
    seen: list[list[int]] = []

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, deps=[features])
    def somebody_else() -> None:
        lake.write_month(
            "toy.features",
            FEBRUARY,
            stays(FEBRUARY).with_columns(days=pl.lit(99)).cast({"days": pl.Int64}),
            author="",
            message="",
        )

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": OF_TOY}, deps=[somebody_else])
    def later(features: pl.DataFrame) -> None:
        seen.append(sorted(features["days"]))

    materialise(lake, features, somebody_else, later, month="2025-02")
    materialise(lake, features, somebody_else, later, only=[later], month="2025-02")
    assert seen == [[2, 3], [99, 99]]


def test_an_input_pinned_to_a_snapshot_is_read_though_the_run_wrote_the_month(lake: Lake) -> None:
    lake.write_month("toy.features", FEBRUARY, stays(FEBRUARY).head(1), author="", message="")
    pinned, seen = lake.latest_snapshot(), []

    @dg.asset(
        key_prefix="toy",
        partitions_def=MONTHS,
        ins={"features": dg.AssetIn(key_prefix="toy", metadata={"lake/version": pinned})},
    )
    def as_it_was(features: pl.DataFrame) -> None:
        seen.append(features.height)

    materialise(lake, features, as_it_was, month="2025-02")
    assert seen == [1]


def test_a_table_of_which_the_run_wrote_a_part_is_read_as_a_whole(lake: Lake) -> None:
    seen: dict[str, Any] = {}
    findings = [pl.DataFrame({"version": [1], "value": [0.6]}), pl.DataFrame({"version": [2], "value": [0.7]})]

    @dg.asset(key_prefix="toy", metadata={"lake/replace_by": "version"})
    def evaluation() -> pl.DataFrame:
        return findings.pop(0)

    @dg.asset(key_prefix="toy", ins={"evaluation": OF_TOY})
    def report(evaluation: pl.DataFrame) -> None:
        seen["versions"] = sorted(evaluation["version"])

    window = dg.TimeWindowPartitionMapping(start_offset=-1)

    @dg.asset(
        key_prefix="toy",
        partitions_def=MONTHS,
        ins={"features": dg.AssetIn(key_prefix="toy", partition_mapping=window)},
    )
    def two_months(features: pl.DataFrame) -> None:
        seen["months"] = sorted(features["month"].unique())

    for _ in range(2):
        materialise(lake, evaluation, report)
    materialise(lake, features, month="2025-01")
    materialise(lake, features, two_months, month="2025-02")
    assert seen == {"versions": [1, 2], "months": [JANUARY, FEBRUARY]}


def test_a_whole_table_is_handed_on_too(lake: Lake) -> None:
    seen: list[int] = []

    @dg.asset(key_prefix="toy")
    def split() -> pl.DataFrame:
        return pl.DataFrame({"x": [1, 2]})

    @dg.asset(key_prefix="toy", ins={"split": OF_TOY})
    def later(split: pl.DataFrame) -> None:
        lose_all_files(lake)
        split.drop_in_place("x")

    @dg.asset(key_prefix="toy", ins={"split": OF_TOY}, deps=[later])
    def latest(split: pl.DataFrame) -> None:
        seen.extend(split["x"])

    materialise(lake, split, later, latest)
    assert seen == [1, 2], "and no step changes what the next one gets"


def test_a_step_gets_the_columns_it_asks_for_from_memory_and_from_the_lake(lake: Lake) -> None:
    seen: list[list[str]] = []
    some = dg.AssetIn(key_prefix="toy", metadata={"lake/columns": ["days", "stay_id"]})
    none = dg.AssetIn(key_prefix="toy", metadata={"lake/columns": ["days", "age"]})

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": some})
    def slim(features: pl.DataFrame) -> None:
        seen.append(features.columns)

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": none})
    def asks_for_more(features: pl.DataFrame) -> None:
        raise AssertionError("must not be reached")

    materialise(lake, features, slim, month="2025-01")
    materialise(lake, features, slim, only=[slim], month="2025-01")
    assert seen == [["days", "stay_id"]] * 2
    for only in (None, [asks_for_more]):
        with pytest.raises(LakeError, match=r"toy.features: no column age; it has stay_id, month, days"):
            materialise(lake, features, asks_for_more, only=only, month="2025-01")


def test_a_run_of_several_months_is_one_commit_and_hands_its_months_on(lake: Lake) -> None:
    seen: list[pl.DataFrame] = []

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": OF_TOY})
    def later(features: pl.DataFrame) -> None:
        lose_all_files(lake)
        seen.append(features)

    lake.write_month("toy.features", date(2025, 4, 1), stays(date(2025, 4, 1)), author="", message="")
    before = lake.latest_snapshot()
    result = materialise(lake, features, later, months=("2025-01", "2025-03"))

    assert lake.latest_snapshot() == before + 1
    assert lake.months("toy.features") == [JANUARY, FEBRUARY, MARCH, date(2025, 4, 1)]
    assert_frame_equal(seen[0], pl.concat(map(stays, (JANUARY, FEBRUARY, MARCH))), check_row_order=False)
    assert {
        str(event.metadata["lake/snapshot"].value) for event in result.asset_materializations_for_node("toy__features")
    } == {str(before + 1)}


def test_a_run_of_several_months_that_leaves_one_out_writes_none(lake: Lake) -> None:
    @dg.asset(name="features", key_prefix="toy", partitions_def=MONTHS)
    def incomplete() -> pl.DataFrame:
        return stays(JANUARY)

    with pytest.raises(LakeError, match=r"toy.features: no rows for month 2025-02"):
        materialise(lake, incomplete, months=("2025-01", "2025-02"))
    assert not lake.exists("toy.features")


OUTPUTS = {
    "predictions": dg.AssetOut(key=["toy", "predictions"], description="One row a stay."),
    "findings": dg.AssetOut(key=["toy", "findings"]),
}


def batch_of(month: date) -> Batch:
    findings = pl.DataFrame({"month": [month] * 11, "value": [0.5] * 11})
    of_month = pl.concat([stays(month)] * 6)
    return Batch({"toy.predictions": of_month, "toy.findings": findings}, {"toy.predictions": {"days": "Stay (days)"}})


def test_the_outputs_of_a_step_are_one_commit(lake: Lake) -> None:
    seen: list[pl.DataFrame] = []

    @dg.multi_asset(outs=OUTPUTS, partitions_def=MONTHS)
    def month_end() -> tuple[Batch, Batch]:
        batch = batch_of(FEBRUARY)
        return batch, batch

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"predictions": OF_TOY, "findings": OF_TOY})
    def later(predictions: pl.DataFrame, findings: pl.DataFrame) -> None:
        lose_all_files(lake)
        seen.extend([predictions, findings])

    before = lake.latest_snapshot()
    result = materialise(lake, month_end, later, month="2025-02")

    assert lake.latest_snapshot() == before + 1
    told = {
        event.metadata["lake/table"].value: event.metadata
        for event in result.asset_materializations_for_node("month_end")
    }
    assert {table: metadata["dagster/row_count"].value for table, metadata in told.items()} == {
        "toy.predictions": 12,
        "toy.findings": 11,
    }
    assert {str(metadata["lake/snapshot"].value) for metadata in told.values()} == {str(before + 1)}
    described = lake.descriptions()["toy.predictions"]
    assert (described.comment, described.columns[2].comment) == ("One row a stay.", "Stay (days)")
    assert [frame.height for frame in seen] == [12, 11]


def test_a_batch_without_the_frame_of_an_output_or_with_one_of_another_step_is_refused(lake: Lake) -> None:
    frames = {"toy.predictions": stays(FEBRUARY), "toy.others": stays(FEBRUARY)}

    @dg.multi_asset(outs=OUTPUTS, partitions_def=MONTHS)
    def month_end() -> tuple[Batch, Batch]:
        batch = Batch(dict(frames))
        return batch, batch

    with pytest.raises(LakeError, match=r"toy.others: the step that wrote the batch has no such output"):
        materialise(lake, month_end, month="2025-02")
    assert lake.tables() == []
    del frames["toy.others"]
    with pytest.raises(LakeError, match=r"toy.findings: the batch holds no frame for it, only for toy.predictions"):
        materialise(lake, month_end, month="2025-02")


# argv: catalogue, data folder; is killed after the commit of a batch, before Dagster knows of its second output.
KILLED = """
import os, signal, sys
from pathlib import Path
import dagster as dg
from clinical_assets.resources.lake import Lake
from test_handed_on import FEBRUARY, MONTHS, OUTPUTS, batch_of, materialise

@dg.multi_asset(outs=OUTPUTS, partitions_def=MONTHS)
def month_end():
    batch = batch_of(FEBRUARY)
    yield dg.Output(batch, output_name="predictions")
    os.kill(os.getpid(), signal.SIGKILL)

materialise(Lake(sys.argv[1], Path(sys.argv[2])), month_end, month="2025-02")
"""


def test_a_kill_between_the_commit_and_dagster_s_events_leaves_all_tables_of_the_batch(lake: Lake) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, lake.catalogue, str(lake.data)],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        timeout=120,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert lake.read("toy.predictions", month=FEBRUARY).height == 12
    assert lake.read("toy.findings", month=FEBRUARY).height == 11


def test_nothing_of_a_run_is_kept_when_it_has_ended(lake: Lake) -> None:
    seen: list[bool] = []

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": OF_TOY})
    def later(context: dg.AssetExecutionContext, features: pl.DataFrame) -> None:
        seen.append(HANDED_ON.take(context.run.run_id, lake.catalogue, "toy.features", [FEBRUARY]) is not None)

    result = materialise(lake, features, later, month="2025-02")
    assert seen == [True]
    assert HANDED_ON.take(result.run_id, lake.catalogue, "toy.features", [FEBRUARY]) is None


def test_frames_are_of_one_run_one_lake_and_one_table() -> None:
    kept = HandedOn()
    kept.keep("run-1", "lake", "toy.features", stays(JANUARY), [JANUARY])
    assert kept.take("run-1", "lake", "toy.features", [JANUARY]) is not None
    assert kept.take("run-1", "elsewhere", "toy.features", [JANUARY]) is None
    assert kept.take("run-1", "lake", "toy.others", [JANUARY]) is None
    assert kept.take("run-1", "lake", "toy.features", None) is None
    kept.keep("run-2", "lake", "toy.features", stays(FEBRUARY), [FEBRUARY])
    assert kept.take("run-1", "lake", "toy.features", [JANUARY]) is None
    assert kept.take("run-2", "lake", "toy.features", [JANUARY, FEBRUARY]) is None


def test_a_month_from_before_a_column_came_is_not_handed_on_without_it() -> None:
    kept = HandedOn()
    kept.keep("run-1", "lake", "toy.features", stays(JANUARY), [JANUARY])
    kept.keep("run-1", "lake", "toy.features", stays(FEBRUARY).with_columns(age=70), [FEBRUARY])
    assert kept.take("run-1", "lake", "toy.features", [JANUARY]) is None
    assert kept.take("run-1", "lake", "toy.features", [FEBRUARY]) is not None


def test_there_is_room_for_so_much_and_the_oldest_frames_go_first() -> None:
    kept = HandedOn(most_bytes=int(2.5 * stays(JANUARY).estimated_size()))
    for month in (JANUARY, FEBRUARY, MARCH):
        kept.keep("run-1", "lake", "toy.features", stays(month), [month])
    there = [kept.take("run-1", "lake", "toy.features", [month]) is not None for month in (JANUARY, FEBRUARY, MARCH)]
    assert there == [False, True, True]
    kept.keep("run-1", "lake", "toy.features", pl.concat([stays(MARCH)] * 9), [MARCH])
    assert kept.take("run-1", "lake", "toy.features", [MARCH]) is None, "too large, and the older frame is gone"
