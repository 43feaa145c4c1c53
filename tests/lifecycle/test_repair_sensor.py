from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from small_platform import MODEL, small_protocol
from watched_model import WatchedModel

from clinical_assets.lifecycle.automation import MONTH, RETRAINING, TRIGGER
from clinical_assets.lifecycle.conditions import REPAIR
from clinical_assets.lifecycle.model_facts import REPORTS_PER_LOOK
from clinical_assets.lifecycle.model_watch import Seen
from clinical_assets.lifecycle.questions.repair_due import repair_due

RETRAIN, NONE, FIX = "retrain", "none", "fix_data"


class Hospital(WatchedModel):
    """The records of one model's repairs."""

    def plan(self, month: str, repair: str = RETRAIN, champion: int = 1, columns: str = "age_band") -> None:
        self.materialised(
            "repair_plan",
            month,
            **{
                "repair/repair": repair,
                "repair/reason": f"discrimination fell in {month}",
                "repair/champion_version": champion,
                "repair/columns": columns,
            },
        )

    def retraining(self, status: dg.DagsterRunStatus, month: str | None = None) -> dg.DagsterRun:
        """A retraining, as a repair where there is a month, else by the calendar."""
        trigger = {TRIGGER: "repair", MONTH: f"{month}-01"} if month else {TRIGGER: "calendar"}
        run = dg.DagsterRun(job_name=f"{MODEL}_retraining", status=status, tags={RETRAINING: MODEL, **trigger})
        return self.instance.add_run(run)

    def retrainings(self) -> list[dg.RunRequest]:
        """The retrainings that one look asks for."""
        return [request for request in self.ask().requests if request.job_name == f"{MODEL}_retraining"]

    def skipped(self) -> str:
        """Why one look asks for nothing."""
        answer = self.asked(repair_due, "retraining")
        assert isinstance(answer, str)
        return answer

    def seen(self) -> int:
        """The newest repair plan that was looked at."""
        return Seen.read(self.cursor).reports["repair_plan"]

    def pending(self) -> list[str]:
        return [notice.month.isoformat() for notice in Seen.read(self.cursor).pending]


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    hospital = Hospital(tmp_path, small_protocol())
    hospital.released(1)
    return hospital


def test_without_a_report_nothing_is_asked_for(hospital: Hospital) -> None:
    assert hospital.skipped() == f"no repair plan of {MODEL} since the last look"


def test_a_shift_asks_for_one_retraining_that_says_why(hospital: Hospital) -> None:
    hospital.plan("2024-06")
    [request] = hospital.retrainings()
    assert request.run_key == "readmission|2024-06|v1"
    assert request.tags[TRIGGER] == "repair"
    assert request.tags[REPAIR] == RETRAIN
    assert date.fromisoformat(request.tags[MONTH]) == date(2024, 6, 1)
    assert request.tags["clinical/reason"] == "2024-06 retrain: discrimination fell in 2024-06"
    assert request.job_name in (None, f"{MODEL}_retraining")


@pytest.mark.parametrize("repair", [NONE, FIX, "roll_back"])
def test_any_other_plan_asks_for_nothing_and_the_reason_says_what_was_planned(hospital: Hospital, repair: str) -> None:
    hospital.plan("2024-06", repair)
    assert hospital.skipped() == f"2024-06 {repair}: discrimination fell in 2024-06"
    assert hospital.skipped() == f"no repair plan of {MODEL} since the last look"


def test_every_new_report_is_seen_and_not_the_newest_alone(hospital: Hospital) -> None:
    hospital.plan("2024-06")
    hospital.plan("2024-07", NONE)
    hospital.plan("2024-08", FIX)
    [request] = hospital.retrainings()
    assert request.run_key == "readmission|2024-06|v1"
    assert request.tags["clinical/reason"].startswith("2024-07 none: ")


def test_more_reports_than_one_look_takes_are_stepped_through(hospital: Hospital) -> None:
    hospital.plan("2024-06")
    for _ in range(REPORTS_PER_LOOK + 5):
        hospital.plan("2024-05", NONE)
    assert len(hospital.retrainings()) == 1
    first = hospital.seen()
    hospital.ask()
    assert hospital.seen() > first
    hospital.retraining(dg.DagsterRunStatus.SUCCESS, "2024-06")
    hospital.ask()
    assert hospital.skipped() == f"no repair plan of {MODEL} since the last look"


def test_several_shifted_months_ask_for_one_retraining_for_the_newest(hospital: Hospital) -> None:
    for month in ("2024-06", "2024-07", "2024-08"):
        hospital.plan(month)
    assert [request.run_key for request in hospital.retrainings()] == ["readmission|2024-08|v1"]


def test_a_month_reported_twice_counts_once_and_its_last_verdict_holds(hospital: Hospital) -> None:
    hospital.plan("2024-06")
    hospital.plan("2024-06", NONE)
    assert hospital.retrainings() == []
    hospital.plan("2024-06")
    hospital.plan("2024-06")
    assert len(hospital.retrainings()) == 1


def test_asking_again_before_the_run_has_started_makes_no_second_run(hospital: Hospital) -> None:
    """The run key is the same, and Dagster starts one run a key."""
    hospital.plan("2024-06")
    keys = {request.run_key for _ in range(3) for request in hospital.retrainings()}
    assert keys == {"readmission|2024-06|v1"}


def test_a_cursor_that_is_lost_makes_no_second_run_key(hospital: Hospital) -> None:
    hospital.plan("2024-06")
    before = [request.run_key for request in hospital.retrainings()]
    hospital.cursor = None
    assert [request.run_key for request in hospital.retrainings()] == before


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
@pytest.mark.parametrize("month", ["2024-05", None])
def test_at_most_one_retraining_is_in_flight_whoever_started_it(
    hospital: Hospital, status: dg.DagsterRunStatus, month: str | None
) -> None:
    hospital.retraining(status, month)
    hospital.plan("2024-06")
    assert hospital.skipped() == "1 repairs wait: a candidate is being made"
    assert hospital.pending() == ["2024-06-01"]


def test_a_notice_in_the_cool_down_stays_pending_and_is_met_when_it_is_over(hospital: Hospital) -> None:
    hospital.retraining(dg.DagsterRunStatus.SUCCESS, "2024-05")
    hospital.plan("2024-06")
    assert hospital.skipped() == (
        "1 repairs wait: the last one was for 2024-05, 31 days before 2024-06, and the cool-down is 80 days"
    )
    assert hospital.pending() == ["2024-06-01"]
    hospital.plan("2024-07", NONE)
    assert hospital.retrainings() == []
    assert hospital.pending() == ["2024-06-01"]
    hospital.plan("2024-08", NONE)
    assert [request.run_key for request in hospital.retrainings()] == ["readmission|2024-06|v1"]


@pytest.fixture
def silent(hospital: Hospital) -> Hospital:
    """A hospital whose protocol asks for a silent month, with a candidate that has not run it yet."""
    hospital.protocol = small_protocol(silent_months=1)
    hospital.reported(2, left=1)
    hospital.plan("2024-06")
    return hospital


def test_while_a_candidate_runs_in_silence_or_awaits_its_signatures_no_other_is_trained(silent: Hospital) -> None:
    waits = "1 repairs wait: version 2 runs in silence or awaits its signatures"
    assert silent.skipped() == waits
    silent.reported(2)
    assert silent.skipped() == waits
    assert silent.pending() == ["2024-06-01"]


def test_once_it_is_rejected_the_notice_that_waited_is_met(silent: Hospital) -> None:
    assert silent.retrainings() == []
    silent.sign("mlops", 2, "reject")
    assert [request.run_key for request in silent.retrainings()] == ["readmission|2024-06|v1"]


def test_once_it_is_released_the_notice_that_waited_is_about_the_version_before(silent: Hospital) -> None:
    assert silent.retrainings() == []
    silent.released(2)
    assert silent.skipped().endswith("was about version 1; version 2 has been released since")


def test_a_candidate_that_cannot_pass_is_not_waited_for(silent: Hospital) -> None:
    silent.reported(2, left=1, may_pass=False)
    assert len(silent.retrainings()) == 1


def test_where_no_silent_month_is_asked_for_a_candidate_is_not_waited_for(silent: Hospital) -> None:
    silent.protocol = small_protocol()
    assert len(silent.retrainings()) == 1


def test_a_retraining_by_the_calendar_starts_no_cool_down(hospital: Hospital) -> None:
    hospital.retraining(dg.DagsterRunStatus.SUCCESS)
    hospital.plan("2024-06")
    assert len(hospital.retrainings()) == 1


def test_a_retraining_that_ended_is_not_asked_for_again(hospital: Hospital) -> None:
    hospital.plan("2024-06")
    assert len(hospital.retrainings()) == 1
    hospital.retraining(dg.DagsterRunStatus.SUCCESS, "2024-06")
    assert hospital.skipped() == "2024-06 retrain was done, for 2024-06"
    assert hospital.pending() == []
    assert hospital.skipped() == f"no repair plan of {MODEL} since the last look"


def test_a_shift_from_the_version_before_the_release_is_dropped(hospital: Hospital) -> None:
    hospital.plan("2024-06", champion=1)
    hospital.released(2)
    assert hospital.skipped().endswith("was about version 1; version 2 has been released since")
    assert hospital.pending() == []


def test_a_retraining_that_failed_is_tried_once_more_under_its_own_key(hospital: Hospital) -> None:
    hospital.plan("2024-06")
    keys = [request.run_key for request in hospital.retrainings()]
    hospital.retraining(dg.DagsterRunStatus.FAILURE, "2024-06")
    keys += [request.run_key for request in hospital.retrainings()]
    hospital.retraining(dg.DagsterRunStatus.CANCELED, "2024-06")
    assert hospital.skipped() == "2024-06: 2 repairs failed; see the incidents"
    assert keys == ["readmission|2024-06|v1", "readmission|2024-06|v1|retry 1"]
    assert hospital.retrainings() == []


def test_the_runs_of_another_model_do_not_count(hospital: Hospital) -> None:
    other = {RETRAINING: "sepsis", TRIGGER: "repair", MONTH: "2024-06-01"}
    hospital.instance.add_run(
        dg.DagsterRun(job_name="sepsis_retraining", status=dg.DagsterRunStatus.STARTED, tags=other)
    )
    hospital.plan("2024-06")
    assert len(hospital.retrainings()) == 1


def test_faulty_data_open_one_incident_that_names_the_column_and_never_a_retraining(hospital: Hospital) -> None:
    hospital.plan("2024-06", FIX, columns="urea_nitrogen_mg_dl")
    hospital.plan("2024-07", FIX, columns="urea_nitrogen_mg_dl")
    assert hospital.retrainings() == []
    [incident] = hospital.incidents()
    assert incident.cause == FIX
    assert incident.error == "discrimination fell in 2024-06"
    assert (incident.observations, incident.last_month) == (2, date(2024, 7, 1))
    hospital.plan("2024-08", FIX, columns="lactate_mmol_l")
    assert hospital.retrainings() == []
    assert len(hospital.incidents()) == 2
