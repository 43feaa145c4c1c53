import json
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from small_platform import MODEL, small_protocol

from clinical_assets.governance.signatures import Decision, Signature, Statement, store
from clinical_assets.lifecycle.automation import (
    MONTH,
    REPORTS_PER_TICK,
    RETRAINING,
    TRIGGER,
    retraining_when_drifted,
)
from clinical_assets.resources.platform import HomeResource

SHIFT, STABLE, FAULT = "population_shift", "stable", "data_fault"
SENSOR = retraining_when_drifted(small_protocol())
SILENT_SENSOR = retraining_when_drifted(small_protocol(silent_months=1))


class Hospital:
    """The records of one model, as its sensor sees them."""

    def __init__(self, root: Path) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.home = HomeResource(root=str(root), raw=str(root))
        self.sensor = SENSOR
        self.cursor: str | None = None

    def report(self, month: str, verdict: str = SHIFT, champion: int = 1) -> None:
        self._materialised(
            "drift_report",
            month,
            {
                "drift/verdict": verdict,
                "drift/reason": f"age_band moved in {month}",
                "drift/champion_version": champion,
            },
        )

    def candidate(self, version: int, *, silent_months_left: int, may_pass: bool = True) -> None:
        metadata = {
            **{"version": version, "report_sha256": "4" * 64, "silent_months_left": silent_months_left},
            **{"may_pass": may_pass, "features_through": "2024-06-01"},
        }
        self._materialised("validation_report", None, metadata)

    def sign(self, version: int, decision: Decision) -> None:
        signed_at = "2026-01-01T00:00:00+00:00"
        statement = Statement(MODEL, version, "", "", "", decision, "", "mlops", "dr-mlops", signed_at)
        store(Signature(statement, ""), self.home.open().sign_offs)

    def release(self, version: int) -> None:
        self._materialised("release", None, {"version": version})

    def retraining(self, status: dg.DagsterRunStatus, month: str | None = None) -> dg.DagsterRun:
        """A retraining, for drift where there is a month, else by the calendar."""
        trigger = {TRIGGER: "drift", MONTH: f"{month}-01"} if month else {TRIGGER: "calendar"}
        run = dg.DagsterRun(job_name=f"{MODEL}_retraining", status=status, tags={RETRAINING: MODEL, **trigger})
        return self.instance.add_run(run)

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        """One look of the sensor, which keeps its cursor."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources={"home": self.home})
        result = self.sensor(context)
        assert isinstance(result, dg.SensorResult | dg.SkipReason)
        if isinstance(result, dg.SensorResult):
            self.cursor = result.cursor
        return result

    def asked(self) -> list[dg.RunRequest]:
        """The retrainings that one look asks for."""
        result = self.tick()
        return list(result.run_requests or ()) if isinstance(result, dg.SensorResult) else []

    def skipped(self) -> str:
        """Why one look asks for nothing."""
        result = self.tick()
        reason = result if isinstance(result, dg.SkipReason) else result.skip_reason
        assert isinstance(reason, dg.SkipReason)
        return reason.skip_message or ""

    def pending(self) -> list[str]:
        return [notice["month"] for notice in json.loads(self.cursor or "{}").get("pending", [])]

    def _materialised(self, asset: str, partition: str | None, metadata: dict[str, Any]) -> None:
        key = dg.AssetKey([MODEL, asset])
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, metadata=metadata))


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    hospital = Hospital(tmp_path)
    hospital.release(1)
    return hospital


def test_the_sensor_runs_by_default_and_looks_every_few_seconds() -> None:
    assert SENSOR.default_status is dg.DefaultSensorStatus.RUNNING
    assert (SENSOR.minimum_interval_seconds or 0) <= 10


def test_without_a_report_nothing_is_asked_for(hospital: Hospital) -> None:
    assert hospital.skipped() == f"no drift report of {MODEL} since the last look"


def test_a_shift_asks_for_one_retraining_that_says_why(hospital: Hospital) -> None:
    hospital.report("2024-06")
    [request] = hospital.asked()
    assert request.run_key == "readmission|2024-06|v1"
    assert request.tags[TRIGGER] == "drift"
    assert date.fromisoformat(request.tags[MONTH]) == date(2024, 6, 1)
    assert request.tags["clinical/reason"] == "2024-06 population_shift: age_band moved in 2024-06"
    assert request.job_name in (None, f"{MODEL}_retraining")


@pytest.mark.parametrize("verdict", [STABLE, FAULT, "cannot_tell"])
def test_any_other_verdict_asks_for_nothing_and_the_reason_says_what_was_seen(hospital: Hospital, verdict: str) -> None:
    hospital.report("2024-06", verdict)
    assert hospital.skipped() == f"2024-06 {verdict}: age_band moved in 2024-06"
    assert hospital.skipped() == f"no drift report of {MODEL} since the last look"


def test_every_new_report_is_seen_and_not_the_newest_alone(hospital: Hospital) -> None:
    hospital.report("2024-06", SHIFT)
    hospital.report("2024-07", STABLE)
    hospital.report("2024-08", FAULT)
    [request] = hospital.asked()
    assert request.run_key == "readmission|2024-06|v1"
    assert request.tags["clinical/reason"].startswith("2024-07 stable: ")


def test_more_reports_than_one_look_takes_are_stepped_through(hospital: Hospital) -> None:
    hospital.report("2024-06", SHIFT)
    for _ in range(REPORTS_PER_TICK + 5):
        hospital.report("2024-05", STABLE)
    assert len(hospital.asked()) == 1
    first = json.loads(hospital.cursor or "{}")["storage_id"]
    hospital.tick()
    assert json.loads(hospital.cursor or "{}")["storage_id"] > first
    hospital.retraining(dg.DagsterRunStatus.SUCCESS, "2024-06")
    hospital.tick()
    assert isinstance(hospital.tick(), dg.SkipReason)


def test_several_shifted_months_ask_for_one_retraining_for_the_newest(hospital: Hospital) -> None:
    for month in ("2024-06", "2024-07", "2024-08"):
        hospital.report(month)
    assert [request.run_key for request in hospital.asked()] == ["readmission|2024-08|v1"]


def test_a_month_reported_twice_counts_once_and_its_last_verdict_holds(hospital: Hospital) -> None:
    hospital.report("2024-06", SHIFT)
    hospital.report("2024-06", STABLE)
    assert hospital.asked() == []
    hospital.report("2024-06", SHIFT)
    hospital.report("2024-06", SHIFT)
    assert len(hospital.asked()) == 1


def test_asking_again_before_the_run_has_started_makes_no_second_run(hospital: Hospital) -> None:
    """The run key is the same, and Dagster starts one run a key."""
    hospital.report("2024-06")
    keys = {request.run_key for _ in range(3) for request in hospital.asked()}
    assert keys == {"readmission|2024-06|v1"}


def test_a_cursor_that_is_lost_makes_no_second_run_key(hospital: Hospital) -> None:
    hospital.report("2024-06")
    before = [request.run_key for request in hospital.asked()]
    hospital.cursor = None
    assert [request.run_key for request in hospital.asked()] == before


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
@pytest.mark.parametrize("month", ["2024-05", None])
def test_at_most_one_retraining_is_in_flight_whoever_started_it(
    hospital: Hospital, status: dg.DagsterRunStatus, month: str | None
) -> None:
    hospital.retraining(status, month)
    hospital.report("2024-06")
    assert hospital.skipped() == "1 shifted months wait: a retraining is in flight"
    assert hospital.pending() == ["2024-06-01"]


def test_a_notice_in_the_cool_down_stays_pending_and_is_met_when_it_is_over(hospital: Hospital) -> None:
    hospital.retraining(dg.DagsterRunStatus.SUCCESS, "2024-05")
    hospital.report("2024-06")
    assert hospital.skipped() == (
        "1 shifted months wait: the last retraining for drift was for 2024-05, 31 days before 2024-06, "
        "and the cool-down is 80 days"
    )
    assert hospital.pending() == ["2024-06-01"]
    hospital.report("2024-07", STABLE)
    assert hospital.asked() == []
    assert hospital.pending() == ["2024-06-01"]
    hospital.report("2024-08", STABLE)
    assert [request.run_key for request in hospital.asked()] == ["readmission|2024-06|v1"]


@pytest.fixture
def silent(hospital: Hospital) -> Hospital:
    """A hospital whose protocol asks for a silent month, with a candidate that has not run it yet."""
    hospital.sensor = SILENT_SENSOR
    hospital.candidate(2, silent_months_left=1)
    hospital.report("2024-06")
    return hospital


def test_while_a_candidate_runs_in_silence_or_awaits_its_signatures_no_other_is_trained(silent: Hospital) -> None:
    waits = "1 shifted months wait: version 2 runs in silence or awaits its signatures"
    assert silent.skipped() == waits
    silent.candidate(2, silent_months_left=0)
    assert silent.skipped() == waits
    assert silent.pending() == ["2024-06-01"]


def test_once_it_is_rejected_the_notice_that_waited_is_met(silent: Hospital) -> None:
    assert silent.asked() == []
    silent.sign(2, "reject")
    assert [request.run_key for request in silent.asked()] == ["readmission|2024-06|v1"]


def test_once_it_is_released_the_notice_that_waited_is_about_the_version_before(silent: Hospital) -> None:
    assert silent.asked() == []
    silent.release(2)
    assert silent.skipped().endswith("was about version 1; version 2 has been released since")


def test_a_candidate_that_cannot_pass_is_not_waited_for(silent: Hospital) -> None:
    silent.candidate(2, silent_months_left=1, may_pass=False)
    assert len(silent.asked()) == 1


def test_where_no_silent_month_is_asked_for_a_candidate_is_not_waited_for(silent: Hospital) -> None:
    silent.sensor = SENSOR
    assert len(silent.asked()) == 1


def test_a_retraining_by_the_calendar_starts_no_cool_down(hospital: Hospital) -> None:
    hospital.retraining(dg.DagsterRunStatus.SUCCESS)
    hospital.report("2024-06")
    assert len(hospital.asked()) == 1


def test_a_retraining_that_ended_is_not_asked_for_again(hospital: Hospital) -> None:
    hospital.report("2024-06")
    assert len(hospital.asked()) == 1
    hospital.retraining(dg.DagsterRunStatus.SUCCESS, "2024-06")
    assert hospital.skipped() == "2024-06 population_shift was retrained for, 2024-06"
    assert hospital.pending() == []
    assert hospital.skipped() == f"no drift report of {MODEL} since the last look"


def test_a_shift_from_the_version_before_the_release_is_dropped(hospital: Hospital) -> None:
    hospital.report("2024-06", champion=1)
    hospital.release(2)
    assert hospital.skipped().endswith("was about version 1; version 2 has been released since")
    assert hospital.pending() == []


def test_a_retraining_that_failed_is_tried_once_more_under_its_own_key(hospital: Hospital) -> None:
    hospital.report("2024-06")
    keys = [request.run_key for request in hospital.asked()]
    hospital.retraining(dg.DagsterRunStatus.FAILURE, "2024-06")
    keys += [request.run_key for request in hospital.asked()]
    hospital.retraining(dg.DagsterRunStatus.CANCELED, "2024-06")
    assert hospital.skipped() == "2024-06: 2 retrainings failed; see the incidents"
    assert keys == ["readmission|2024-06|v1", "readmission|2024-06|v1|retry 1"]
    assert isinstance(hospital.tick(), dg.SkipReason)


def test_the_runs_of_another_model_do_not_count(hospital: Hospital) -> None:
    other = {RETRAINING: "sepsis", TRIGGER: "drift", MONTH: "2024-06-01"}
    hospital.instance.add_run(
        dg.DagsterRun(job_name="sepsis_retraining", status=dg.DagsterRunStatus.STARTED, tags=other)
    )
    hospital.report("2024-06")
    assert len(hospital.asked()) == 1
