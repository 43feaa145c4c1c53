from datetime import UTC, datetime

import polars as pl

from clinical_assets.governance.incidents import INCIDENT_DESCRIPTIONS, Incident, incident_table


def incident(run_id: str = "run-1", **changes: str) -> Incident:
    given = {"model": "readmission", "job": "readmission_month", "step": "readmission__dataset", "error": "no archive"}
    return Incident.of_failed_run(run_id=run_id, **given | changes)


def test_one_failed_run_is_one_incident_and_another_run_another() -> None:
    assert incident().incident_id == incident(error="told otherwise").incident_id
    assert incident().incident_id != incident("run-2").incident_id


def test_an_incident_is_open_and_says_run_job_step_and_error() -> None:
    before = datetime.now(UTC)
    opened = incident()
    assert (opened.cause, opened.state) == ("failed_run", "open")
    assert (opened.run_id, opened.job, opened.step) == ("run-1", "readmission_month", "readmission__dataset")
    assert opened.error == "no archive"
    assert before <= opened.opened_at <= datetime.now(UTC)


def test_a_table_of_incidents_has_a_row_each_and_every_column_is_described() -> None:
    table = incident_table([incident(), incident("run-2")])
    assert table["run_id"].to_list() == ["run-1", "run-2"]
    assert table.schema["opened_at"] == pl.Datetime("us", "UTC")
    assert set(table.columns) == set(INCIDENT_DESCRIPTIONS)
