import json
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.lake_io_manager import LakeIOManager, LakeResource

# Dagster warns of its own use of it when a resource is nested in an IO manager.
pytestmark = pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning")

MONTHS = dg.MonthlyPartitionsDefinition(start_date="2025-01", end_date="2025-05", fmt="%Y-%m")


def stays(month: date) -> pl.DataFrame:
    return pl.DataFrame({"stay_id": ["a", "b"], "month": [month, month], "days": [3, month.month]})


@dg.asset(
    key_prefix="toy",
    partitions_def=MONTHS,
)
def features(context: dg.AssetExecutionContext) -> dg.MaterializeResult[pl.DataFrame]:
    """One row a stay."""
    rows = stays(datetime.strptime(context.partition_key, "%Y-%m").replace(tzinfo=UTC).date())
    described = {"days": "Length of stay (days)"}
    schema = dg.TableSchema(
        [dg.TableColumn(name, str(kind), described.get(name)) for name, kind in rows.schema.items()]
    )
    return dg.MaterializeResult(value=rows, metadata={"dagster/column_schema": schema})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "catalogue.sqlite"), tmp_path / "data")


def materialise(
    lake: Lake, *assets: dg.AssetsDefinition, only: list[dg.AssetsDefinition] | None = None, month: str | None = None
) -> dg.ExecuteInProcessResult:
    resource = LakeResource(catalogue=lake.catalogue, data=str(lake.data))
    return dg.materialize(
        assets,
        selection=only,
        partition_key=month,
        resources={"io_manager": LakeIOManager(lake=resource, audit=str(lake.data.parent / "audit"))},
        raise_on_error=True,
    )


def test_a_partition_becomes_the_month_of_a_table_named_after_the_asset(lake: Lake) -> None:
    materialise(lake, features, month="2025-01")
    materialise(lake, features, month="2025-02")
    materialise(lake, features, month="2025-02")

    assert lake.tables() == ["toy.features"]
    assert_frame_equal(
        lake.read("toy.features"),
        pl.concat([stays(date(2025, 1, 1)), stays(date(2025, 2, 1))]),
        check_row_order=False,
    )


def test_a_materialisation_says_rows_columns_and_snapshot_and_the_commit_says_the_run(lake: Lake) -> None:
    result = materialise(lake, features, month="2025-01")

    [event] = result.asset_materializations_for_node("toy__features")
    assert "dagster/row_count" not in event.metadata, "two rows are a small count"
    assert event.metadata["lake/table"].value == "toy.features"
    assert event.metadata["lake/attempts"].value == 1
    assert event.metadata["lake/snapshot"].value == lake.latest_snapshot()
    schema = event.metadata["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    assert [(column.name, column.type, column.description) for column in schema.columns] == [
        ("stay_id", "String", None),
        ("month", "Date", None),
        ("days", "Int64", "Length of stay (days)"),
    ]
    commit = lake.snapshots().row(-1, named=True)
    assert commit["author"] == result.run_id
    assert json.loads(commit["message"]) == {"run_id": result.run_id, "asset": "toy/features", "partition": "2025-01"}


def test_docstring_and_descriptions_become_comments(lake: Lake) -> None:
    materialise(lake, features, month="2025-01")

    with lake.cursor() as cursor:
        tables = cursor.execute("SELECT comment FROM duckdb_tables() WHERE table_name = 'features'").fetchall()
        columns = cursor.execute("SELECT comment FROM duckdb_columns() WHERE column_name = 'days'").fetchall()
    assert tables == [("One row a stay.",)]
    assert columns == [("Length of stay (days)",)]


def test_a_month_is_handed_on_as_the_frame_that_is_asked_for(lake: Lake) -> None:
    seen: dict[str, object] = {}

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": dg.AssetIn(key_prefix="toy")})
    def in_polars(features: pl.DataFrame) -> None:
        seen["polars"] = features

    @dg.asset(key_prefix="toy", partitions_def=MONTHS, ins={"features": dg.AssetIn(key_prefix="toy")})
    def in_pandas(features: pd.DataFrame) -> pd.DataFrame:
        seen["pandas"] = features
        return features.assign(admitted_at=pd.Timestamp("2025-02-03", tz="UTC"))

    materialise(lake, features, month="2025-01")
    materialise(lake, features, in_polars, in_pandas, month="2025-02")

    february = stays(date(2025, 2, 1))
    assert isinstance(seen["polars"], pl.DataFrame)
    assert_frame_equal(seen["polars"], february)
    assert isinstance(seen["pandas"], pd.DataFrame)
    assert seen["pandas"]["days"].tolist() == [3, 2]
    assert lake.read("toy.in_pandas")["admitted_at"].to_list() == [datetime(2025, 2, 3, tzinfo=UTC)] * 2


def test_a_downstream_without_partitions_sees_every_month_written_also_from_earlier_runs(lake: Lake) -> None:
    seen: list[pl.DataFrame] = []

    @dg.asset(key_prefix="toy", ins={"features": dg.AssetIn(key_prefix="toy")})
    def training_set(features: pl.DataFrame) -> pl.DataFrame:
        seen.append(features)
        return features

    for month in ("2025-01", "2025-02"):
        materialise(lake, features, month=month)
    materialise(lake, features, training_set, only=[training_set])

    assert sorted(seen[0]["month"].unique()) == [date(2025, 1, 1), date(2025, 2, 1)]


def test_a_window_of_months_is_those_months_and_a_missing_one_is_an_error(lake: Lake) -> None:
    seen: list[pl.DataFrame] = []
    window = dg.TimeWindowPartitionMapping(start_offset=-1)

    @dg.asset(
        key_prefix="toy",
        partitions_def=MONTHS,
        ins={"features": dg.AssetIn(key_prefix="toy", partition_mapping=window)},
    )
    def two_months(features: pl.DataFrame) -> None:
        seen.append(features)

    for month in ("2025-01", "2025-02", "2025-03"):
        materialise(lake, features, month=month)
    materialise(lake, features, two_months, only=[two_months], month="2025-03")
    assert sorted(seen[0]["month"].unique()) == [date(2025, 2, 1), date(2025, 3, 1)]

    with pytest.raises(LakeError, match=r"toy.features has no rows for 2025-04; materialise 2025-04 first"):
        materialise(lake, features, two_months, only=[two_months], month="2025-04")


def test_an_input_can_be_pinned_to_an_older_snapshot(lake: Lake) -> None:
    seen: list[pl.DataFrame] = []
    materialise(lake, features, month="2025-01")
    pinned = lake.latest_snapshot()
    materialise(lake, features, month="2025-02")

    @dg.asset(key_prefix="toy", ins={"features": dg.AssetIn(key_prefix="toy", metadata={"lake/version": pinned})})
    def as_it_was(features: pl.DataFrame) -> None:
        seen.append(features)

    materialise(lake, features, as_it_was, only=[as_it_was])
    assert seen[0]["month"].unique().to_list() == [date(2025, 1, 1)]


def test_versions_given_before_stay_where_the_asset_replaces_by_version(lake: Lake) -> None:
    findings = [pl.DataFrame({"version": [1], "value": [0.6]}), pl.DataFrame({"version": [2], "value": [0.7]})]
    findings.append(pl.DataFrame({"version": [2], "value": [0.8]}))

    @dg.asset(key_prefix="toy", metadata={"lake/replace_by": "version"})
    def evaluation() -> pl.DataFrame:
        return findings.pop(0)

    for _ in range(3):
        materialise(lake, evaluation)
    assert sorted(lake.read("toy.evaluation").rows()) == [(1, 0.6), (2, 0.8)]


def test_without_it_an_unpartitioned_asset_replaces_its_table(lake: Lake) -> None:
    tables = [pl.DataFrame({"x": [1, 2]}), pl.DataFrame({"x": [3], "y": ["z"]})]

    @dg.asset(key_prefix="toy")
    def split() -> pl.DataFrame:
        return tables.pop(0)

    materialise(lake, split)
    materialise(lake, split)
    assert lake.read("toy.split").rows() == [(3, "z")]


def test_what_is_no_frame_is_refused_on_the_way_in_and_out(lake: Lake) -> None:
    @dg.asset(key_prefix="toy")
    def figures() -> dict[str, float]:
        return {"auroc": 0.7}

    @dg.asset(key_prefix="toy", ins={"features": dg.AssetIn(key_prefix="toy")})
    def as_dictionary(features: dict[str, float]) -> None:
        raise AssertionError("must not be reached")

    with pytest.raises(LakeError, match=r"toy.figures: the lake keeps Polars and pandas frames, not dict"):
        materialise(lake, figures)
    materialise(lake, features, month="2025-01")
    with pytest.raises(LakeError, match=r"toy.features: annotate the input polars.DataFrame"):
        materialise(lake, features, as_dictionary, only=[as_dictionary])


def test_an_asset_of_another_partitioning_is_refused(lake: Lake) -> None:
    @dg.asset(key_prefix="toy", partitions_def=dg.StaticPartitionsDefinition(["north", "south"]))
    def by_site() -> pl.DataFrame:
        return pl.DataFrame({"x": [1]})

    with pytest.raises(LakeError, match=r"toy.by_site: the lake keeps monthly partitions, not StaticPartitions"):
        materialise(lake, by_site, month="north")
