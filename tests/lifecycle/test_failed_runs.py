from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_shared.error import SerializableErrorInfo

from clinical_assets.lifecycle.automation import MODEL
from clinical_assets.lifecycle.incidents import INCIDENT_TABLE, describe_error, incident_on_failure
from clinical_assets.resources.lake import LakeError
from clinical_assets.resources.lake_io_manager import LakeResource

SECRET = "patient 8222157"


@pytest.fixture
def lake(tmp_path: Path) -> LakeResource:
    return LakeResource(catalogue=str(tmp_path / "lake" / "catalogue.sqlite"), data=str(tmp_path / "lake" / "data"))


def fail_with(error: Exception, lake: LakeResource, tags: dict[str, str] | None = None) -> dict[str, Any]:
    """The incident that the sensor opens where a step raised this."""

    @dg.op
    def step() -> None:
        raise error

    @dg.job
    def month() -> None:
        step()

    with dg.DagsterInstance.ephemeral() as instance:
        result = month.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
        event = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
        context = dg.build_run_status_sensor_context(
            sensor_name="incident_on_failure",
            dagster_event=event,
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            resources={"lake": lake},
        )
        incident_on_failure(context.for_run_failure())
    [row] = lake.open().read(INCIDENT_TABLE, where={"run_id": result.run_id}).to_dicts()
    return row


def test_a_failed_run_opens_an_incident_with_its_step_and_our_words(lake: LakeResource) -> None:
    row = fail_with(LakeError("readmission.features has no rows for 2024-05"), lake, {MODEL: "readmission"})
    assert (row["model"], row["job"], row["step"]) == ("readmission", "month", "step")
    assert row["error"].endswith("LakeError: readmission.features has no rows for 2024-05")
    assert (row["cause"], row["state"]) == ("failed_run", "open")


def test_a_library_s_words_may_quote_a_row_and_are_not_kept(lake: LakeResource) -> None:
    row = fail_with(ValueError(f"could not convert {SECRET}"), lake)
    assert row["error"] == "ValueError (its message is kept in the run's log alone)"
    assert row["model"] == "platform"
    assert SECRET not in str(row)


def test_our_words_are_kept_where_a_library_s_error_led_to_them(lake: LakeResource) -> None:
    ours = LakeError("there is no table readmission.features")
    ours.__cause__ = ValueError(SECRET)
    row = fail_with(ours, lake)
    assert row["error"].endswith("LakeError: there is no table readmission.features")
    assert SECRET not in str(row)


def test_incidents_add_up(lake: LakeResource) -> None:
    first, second = (fail_with(LakeError(words), lake) for words in ("first", "second"))
    assert first["incident_id"] != second["incident_id"]
    assert lake.open().read(INCIDENT_TABLE).height == 2


def error(message: str, cls_name: str, cause: SerializableErrorInfo | None = None) -> SerializableErrorInfo:
    return SerializableErrorInfo(message, [], cls_name, cause)


def test_the_cause_is_told_and_not_the_wrapper_around_it() -> None:
    ours = error("clinical_assets.resources.lake.LakeError: no month\n", "LakeError")
    wrapped = error("DagsterExecutionStepExecutionError: ...", "DagsterExecutionStepExecutionError", ours)
    assert describe_error(wrapped) == "clinical_assets.resources.lake.LakeError: no month"


def test_an_error_of_ours_that_a_library_s_caused_shows_no_word_of_the_library() -> None:
    library = error(f"polars.exceptions.ComputeError: {SECRET}\n", "ComputeError")
    ours = error("clinical_assets.archives.archive.ArchiveError: bad value\n", "ArchiveError", library)
    assert describe_error(ours) == "clinical_assets.archives.archive.ArchiveError: bad value"


def test_without_an_error_nothing_is_told() -> None:
    assert describe_error(None) == ""
    assert describe_error(error("boom", "")) == "an error (its message is kept in the run's log alone)"
