import dagster as dg
import pytest

from clinical_assets.lifecycle.incidents import MODEL
from clinical_assets.lifecycle.months_flow import RANGE_START, is_month_at_work


@pytest.mark.parametrize(
    ("tags", "status", "expected"),
    [
        ({MODEL: "sepsis", "dagster/partition": "2025-01"}, dg.DagsterRunStatus.STARTED, True),
        ({MODEL: "sepsis", RANGE_START: "2024-01"}, dg.DagsterRunStatus.STARTED, True),
        ({MODEL: "sepsis"}, dg.DagsterRunStatus.STARTED, False),
        ({MODEL: "readmission", "dagster/partition": "2025-01"}, dg.DagsterRunStatus.STARTED, False),
        ({MODEL: "sepsis", "dagster/partition": "2025-01"}, dg.DagsterRunStatus.SUCCESS, False),
    ],
)
def test_conditions_wait_for_a_run_of_the_model_s_months_alone(
    tags: dict[str, str], status: dg.DagsterRunStatus, expected: bool
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_run(dg.DagsterRun(job_name="a_job", status=status, tags=tags))
        assert is_month_at_work(instance, "sepsis") is expected
