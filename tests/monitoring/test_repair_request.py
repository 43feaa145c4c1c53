from collections.abc import Sequence
from datetime import date

import pytest

from clinical_assets.monitoring.repair_request import RepairHistory, RepairNotice, RepairRequest, request_repair
from clinical_assets.protocol import Repair

JANUARY, FEBRUARY, MARCH, APRIL, JUNE = (date(2025, month, 1) for month in (1, 2, 3, 4, 6))
NOTHING_YET = RepairHistory(in_flight=False, last_month=None, failed_months=())


def notice(month: date, repair: Repair = Repair.RETRAIN, version: int = 1) -> RepairNotice:
    return RepairNotice(month, version, repair, "age_band PSI 0.31 over 0.12")


def decide(
    notices: Sequence[RepairNotice],
    history: RepairHistory = NOTHING_YET,
    champion: int | None = 1,
    newest: date = APRIL,
    cool_down_days: int = 80,
    awaited: int | None = None,
) -> RepairRequest:
    return request_repair(notices, champion, newest, cool_down_days, history, awaited)


CANDIDATES = [Repair.RECALIBRATE_INTERCEPT, Repair.RECALIBRATE_SLOPE, Repair.MOVE_THRESHOLD, Repair.RETRAIN]


@pytest.mark.parametrize("repair", CANDIDATES)
def test_a_plan_that_needs_a_candidate_calls_for_one_with_its_reason(repair: Repair) -> None:
    decision = decide([notice(MARCH, repair)])
    assert decision.due == notice(MARCH, repair)
    assert decision.reasons == (f"2025-03 {repair.value}: age_band PSI 0.31 over 0.12",)


@pytest.mark.parametrize("repair", [Repair.NONE, Repair.FIX_DATA, Repair.ROLL_BACK])
def test_no_other_plan_ever_calls_for_one_nor_stays_pending(repair: Repair) -> None:
    decision = decide([notice(MARCH, repair), notice(APRIL, repair)])
    assert decision.due is None
    assert decision.pending == ()
    assert decision.reasons == tuple(f"{m} {repair.value}: age_band PSI 0.31 over 0.12" for m in ("2025-03", "2025-04"))


def test_every_repair_is_decided_upon() -> None:
    asked = {repair for repair in Repair if decide([notice(MARCH, repair)]).due}
    assert asked == set(CANDIDATES)


def test_no_notice_no_repair() -> None:
    assert decide([]) == RepairRequest(None, (), ())


def test_all_notices_together_call_for_one_candidate_that_of_the_newest() -> None:
    notices = [notice(MARCH), notice(JANUARY), notice(APRIL, Repair.FIX_DATA), notice(FEBRUARY)]
    decision = decide(notices)
    assert decision.due == notice(MARCH)
    assert decision.pending == (notice(JANUARY), notice(FEBRUARY), notice(MARCH))


def test_the_order_in_which_notices_come_does_not_matter() -> None:
    notices = [notice(MARCH), notice(JANUARY), notice(FEBRUARY, Repair.NONE)]
    assert decide(notices) == decide(notices[::-1])


def test_a_candidate_in_the_making_is_waited_for_and_nothing_is_forgotten() -> None:
    decision = decide([notice(FEBRUARY), notice(MARCH)], RepairHistory(True, None, ()))
    assert decision.due is None
    assert decision.pending == (notice(FEBRUARY), notice(MARCH))
    assert decision.reasons == ("2 repairs wait: a candidate is being made",)


def test_while_a_candidate_is_awaited_none_is_trained_and_nothing_is_forgotten() -> None:
    waiting = decide([notice(FEBRUARY), notice(MARCH)], awaited=2)
    assert waiting.due is None
    assert waiting.reasons == ("2 repairs wait: version 2 runs in silence or awaits its signatures",)
    assert decide(waiting.pending).due == notice(MARCH)
    assert decide(waiting.pending, champion=2).pending == ()


def test_the_cool_down_runs_on_the_calendar_of_the_data_to_the_day() -> None:
    """From January to April are 90 days, however fast or slowly the months were replayed."""
    history = RepairHistory(False, JANUARY, ())
    waiting = decide([notice(APRIL)], history, cool_down_days=91)
    assert waiting.due is None
    assert waiting.pending == (notice(APRIL),)
    assert waiting.reasons == (
        "1 repairs wait: the last one was for 2025-01, 90 days before 2025-04, and the cool-down is 91 days",
    )
    assert decide([notice(APRIL)], history, cool_down_days=90).due == notice(APRIL)


def test_a_notice_that_waited_is_met_when_the_cool_down_has_passed() -> None:
    history = RepairHistory(False, JANUARY, ())
    waiting = decide([notice(FEBRUARY)], history, newest=FEBRUARY)
    assert waiting.due is None
    later = decide(waiting.pending, history, newest=JUNE)
    assert later.due == notice(FEBRUARY)


def test_without_an_earlier_repair_there_is_no_cool_down() -> None:
    assert decide([notice(JANUARY)], newest=JANUARY, cool_down_days=10_000).due == notice(JANUARY)


@pytest.mark.parametrize("month", [JANUARY, FEBRUARY])
def test_what_a_finished_repair_has_met_is_dropped(month: date) -> None:
    decision = decide([notice(month)], RepairHistory(False, FEBRUARY, ()), newest=JUNE)
    assert decision == RepairRequest(None, (f"{month:%Y-%m} retrain was done, for 2025-02",), ())


def test_what_another_version_has_superseded_is_dropped() -> None:
    decision = decide([notice(MARCH, version=1)], champion=2)
    assert decision.due is None
    assert decision.pending == ()
    assert decision.reasons == ("2025-03 retrain was about version 1; version 2 has been released since",)


def test_a_superseded_notice_does_not_take_a_valid_one_with_it() -> None:
    decision = decide([notice(FEBRUARY, version=2), notice(MARCH, version=1)], champion=2)
    assert decision.due == notice(FEBRUARY, version=2)
    assert decision.pending == (notice(FEBRUARY, version=2),)


def test_a_failed_repair_is_tried_once_more_and_then_left_to_people() -> None:
    again = decide([notice(MARCH)], RepairHistory(False, None, (MARCH,)))
    assert again.due == notice(MARCH)
    given_up = decide([notice(MARCH)], RepairHistory(False, None, (MARCH, MARCH)))
    assert given_up == RepairRequest(None, ("2025-03: 2 repairs failed; see the incidents",), ())


def test_failures_for_an_earlier_month_do_not_count_against_a_later_one() -> None:
    decision = decide([notice(APRIL)], RepairHistory(False, None, (MARCH, MARCH)))
    assert decision.due == notice(APRIL)


def test_the_same_notices_give_the_same_decision_again() -> None:
    notices = [notice(JANUARY), notice(MARCH)]
    first = decide(notices)
    assert decide(first.pending) == first
    assert decide([*first.pending, *notices]).due == first.due


def test_the_chain_of_notice_candidate_and_release_comes_to_rest() -> None:
    """Drift that stands for months is repaired once; a release ends it, and a refusal does not start it again."""
    asked = decide([notice(MARCH)])
    assert asked.due is not None
    in_flight = decide(asked.pending, RepairHistory(True, None, ()))
    refused = decide(in_flight.pending, RepairHistory(False, MARCH, ()))
    released = decide(in_flight.pending, RepairHistory(False, MARCH, ()), champion=2)
    assert [x.due for x in (in_flight, refused, released)] == [None] * 3
    assert in_flight.pending == (notice(MARCH),)
    assert refused.pending == released.pending == ()
