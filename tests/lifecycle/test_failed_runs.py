from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_shared.error import SerializableErrorInfo

from clinical_assets.lifecycle.automation import MODEL
from clinical_assets.lifecycle.home_watch import Seen, home_watch
from clinical_assets.lifecycle.incidents import EVENT_TABLE, INCIDENT_TABLE, describe_error
from clinical_assets.resources.lake import LakeError
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import HomeResource

SECRET = "patient 8222157"


@pytest.fixture
def home(tmp_path: Path) -> HomeResource:
    return HomeResource(root=str(tmp_path), raw=str(tmp_path))


def lake_of(home: HomeResource) -> LakeResource:
    return LakeResource(catalogue=str(home.open().lake_catalogue), data=str(home.open().lake_data))


def fail_with(error: Exception, home: HomeResource, tags: dict[str, str] | None = None) -> dict[str, Any]:
    """The incident in which the sensor records that a step raised this."""

    @dg.op
    def step() -> None:
        raise error

    @dg.job
    def month() -> None:
        step()

    with dg.DagsterInstance.ephemeral() as instance:
        result = month.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
        seen = Seen(events=0).written()
        home_watch(
            dg.build_sensor_context(instance=instance, cursor=seen, resources={"home": home, "lake": lake_of(home)})
        )
    lake = lake_of(home).open()
    [name] = lake.read(EVENT_TABLE, where={"run_id": result.run_id})["incident_id"]
    [row] = lake.read(INCIDENT_TABLE, where={"incident_id": name}).to_dicts()
    return row


def test_a_failed_run_opens_an_incident_with_its_step_and_our_words(home: HomeResource) -> None:
    row = fail_with(LakeError("readmission.features has no rows for 2024-05"), home, {MODEL: "readmission"})
    assert (row["model"], row["job"], row["step"]) == ("readmission", "month", "step")
    assert row["error"].endswith("LakeError: readmission.features has no rows for 2024-05")
    assert (row["cause"], row["state"]) == ("failed_run", "open")


def test_a_library_s_words_may_quote_a_row_and_are_not_kept(home: HomeResource) -> None:
    row = fail_with(ValueError(f"could not convert {SECRET}"), home)
    assert row["error"] == "ValueError (its message is kept in the run's log alone)"
    assert row["model"] == "platform"
    assert SECRET not in str(row)


def test_our_words_are_kept_where_a_library_s_error_led_to_them(home: HomeResource) -> None:
    ours = LakeError("there is no table readmission.features")
    ours.__cause__ = ValueError(SECRET)
    row = fail_with(ours, home)
    assert row["error"].endswith("LakeError: there is no table readmission.features")
    assert SECRET not in str(row)


def test_the_same_step_with_the_same_class_of_error_is_one_incident_and_another_class_another(
    home: HomeResource,
) -> None:
    first, second = (fail_with(LakeError(words), home) for words in ("first", "second"))
    third = fail_with(ValueError("third"), home)
    assert first["incident_id"] == second["incident_id"] != third["incident_id"]
    assert second["observations"] == 2
    assert lake_of(home).open().read(INCIDENT_TABLE).height == 2


def test_a_failed_month_is_named(home: HomeResource) -> None:
    assert fail_with(LakeError("no rows"), home, {"dagster/partition": "2024-05"})["first_month"] == date(2024, 5, 1)
    assert fail_with(ValueError("x"), home, {"dagster/partition": "0123456789ab"})["first_month"] is None


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
