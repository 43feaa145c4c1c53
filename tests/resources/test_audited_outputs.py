from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from clinical_assets.governance.audit_trail import AuditError, AuditRecord, AuditTrail
from clinical_assets.governance.audit_verification import read_records, verify_trail
from clinical_assets.resources.audited_outputs import record_kept
from clinical_assets.resources.lake_io_manager import LakeIOManager, LakeResource

# Dagster warns of its own use of it when a resource is nested in an IO manager.
pytestmark = pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning")

MONTHS = dg.MonthlyPartitionsDefinition(start_date="2025-01", end_date="2025-05", fmt="%Y-%m")

Materialise = Callable[..., dg.ExecuteInProcessResult]


@dg.asset(key_prefix="toy", partitions_def=MONTHS)
def features() -> pl.DataFrame:
    """Two stays."""
    return pl.DataFrame({"stay_id": ["a", "b"]}).with_columns(month=pl.date(2025, 1, 1))


@dg.asset(key_prefix="toy")
def summary() -> pl.DataFrame:
    """One row."""
    return pl.DataFrame({"stays": [2]})


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    return AuditTrail(tmp_path / "audit")


@pytest.fixture
def materialise(tmp_path: Path, trail: AuditTrail) -> Materialise:
    lake = LakeResource(catalogue=str(tmp_path / "catalogue.sqlite"), data=str(tmp_path / "data"))
    resources = {"io_manager": LakeIOManager(lake=lake, audit=str(trail.folder))}

    def run(asset: dg.AssetsDefinition, month: str | None = None) -> dg.ExecuteInProcessResult:
        return dg.materialize([asset], partition_key=month, resources=resources)

    return run


def only_record(trail: AuditTrail) -> AuditRecord:
    [record] = read_records(trail)
    return record


def test_a_materialisation_is_recorded_with_its_run_month_rows_and_snapshot(
    materialise: Materialise, trail: AuditTrail
) -> None:
    result = materialise(features, month="2025-01")

    record = only_record(trail)
    [event] = result.asset_materializations_for_node("toy__features")
    assert (record.action, record.actor) == ("materialise", f"run:{result.run_id}")
    assert (record.target, record.outcome) == ("toy/features [2025-01]", "success")
    assert record.snapshot == event.metadata["lake/snapshot"].value
    assert record.details == {"launched_by": None, "rows": 2}  # and no row's value
    assert verify_trail(trail).is_whole


@pytest.mark.parametrize(
    ("tags", "launcher"),
    [
        ({"dagster/sensor_name": "toy_repair"}, "dagster/sensor_name toy_repair"),
        ({"dagster/schedule_name": "monthly"}, "dagster/schedule_name monthly"),
        ({"clinical/person": "dr-lead", "dagster/sensor_name": "x"}, "clinical/person dr-lead"),
        ({}, None),
    ],
)
def test_a_record_says_who_launched_the_run(trail: AuditTrail, tags: dict[str, str], launcher: str | None) -> None:
    run = dg.DagsterRun(job_name="month", tags={**tags, "dagster/partition": "2025-01"})

    record_kept(trail.folder, dg.AssetKey(["toy", "feed"]), run, details={"data_origin": "simulated"})

    record = only_record(trail)
    assert record.details == {"launched_by": launcher, "data_origin": "simulated"}
    assert (record.actor, record.target) == (f"run:{run.run_id}", "toy/feed [2025-01]")


def test_a_run_that_cannot_be_audited_fails(materialise: Materialise, trail: AuditTrail) -> None:
    materialise(summary)
    trail.path.write_bytes(b"")

    with pytest.raises(AuditError, match="ends at record 0"):
        materialise(summary)
    assert trail.path.read_bytes() == b""
