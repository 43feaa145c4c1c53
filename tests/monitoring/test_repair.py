from collections.abc import Sequence
from datetime import date

import pytest

from clinical_assets.monitoring.repair import DriftNotice, RepairDecision, RetrainingHistory, decide_repair
from clinical_assets.protocol import Verdict

JANUARY, FEBRUARY, MARCH, APRIL, JUNE = (date(2025, month, 1) for month in (1, 2, 3, 4, 6))
NOTHING_YET = RetrainingHistory(in_flight=False, last_month=None, failed_months=())


def notice(month: date, verdict: Verdict = Verdict.POPULATION_SHIFT, version: int = 1) -> DriftNotice:
    return DriftNotice(month, version, verdict, "age_band PSI 0.31 over 0.12")


def decide(
    notices: Sequence[DriftNotice],
    history: RetrainingHistory = NOTHING_YET,
    champion: int | None = 1,
    newest: date = APRIL,
    cool_down_days: int = 80,
    awaited: int | None = None,
) -> RepairDecision:
    return decide_repair(notices, champion, newest, cool_down_days, history, awaited)


@pytest.mark.parametrize("verdict", [Verdict.POPULATION_SHIFT, Verdict.CONCEPT_SHIFT])
def test_a_shift_calls_for_a_retraining_with_its_reason(verdict: Verdict) -> None:
    decision = decide([notice(MARCH, verdict)])
    assert decision.retrain_for == notice(MARCH, verdict)
    assert decision.reasons == (f"2025-03 {verdict.value}: age_band PSI 0.31 over 0.12",)


@pytest.mark.parametrize("verdict", [Verdict.STABLE, Verdict.DATA_FAULT, Verdict.CANNOT_TELL])
def test_no_other_verdict_ever_calls_for_one_nor_stays_pending(verdict: Verdict) -> None:
    decision = decide([notice(MARCH, verdict), notice(APRIL, verdict)])
    assert decision.retrain_for is None
    assert decision.pending == ()
    assert decision.reasons == tuple(
        f"{m} {verdict.value}: age_band PSI 0.31 over 0.12" for m in ("2025-03", "2025-04")
    )


def test_every_verdict_is_decided_upon() -> None:
    asked = {verdict for verdict in Verdict if decide([notice(MARCH, verdict)]).retrain_for}
    assert asked == {Verdict.POPULATION_SHIFT, Verdict.CONCEPT_SHIFT}


def test_no_notice_no_repair() -> None:
    assert decide([]) == RepairDecision(None, (), ())


def test_all_notices_together_call_for_one_retraining_for_the_newest() -> None:
    notices = [notice(MARCH), notice(JANUARY), notice(APRIL, Verdict.DATA_FAULT), notice(FEBRUARY)]
    decision = decide(notices)
    assert decision.retrain_for == notice(MARCH)
    assert decision.pending == (notice(JANUARY), notice(FEBRUARY), notice(MARCH))


def test_the_order_in_which_notices_come_does_not_matter() -> None:
    notices = [notice(MARCH), notice(JANUARY), notice(FEBRUARY, Verdict.STABLE)]
    assert decide(notices) == decide(notices[::-1])


def test_a_retraining_in_flight_is_waited_for_and_nothing_is_forgotten() -> None:
    decision = decide([notice(FEBRUARY), notice(MARCH)], RetrainingHistory(True, None, ()))
    assert decision.retrain_for is None
    assert decision.pending == (notice(FEBRUARY), notice(MARCH))
    assert decision.reasons == ("2 shifted months wait: a retraining is in flight",)


def test_while_a_candidate_is_awaited_none_is_trained_and_nothing_is_forgotten() -> None:
    waiting = decide([notice(FEBRUARY), notice(MARCH)], awaited=2)
    assert waiting.retrain_for is None
    assert waiting.reasons == ("2 shifted months wait: version 2 runs in silence or awaits its signatures",)
    assert decide(waiting.pending).retrain_for == notice(MARCH)
    assert decide(waiting.pending, champion=2).pending == ()


def test_the_cool_down_runs_on_the_calendar_of_the_data_to_the_day() -> None:
    """From January to April are 90 days, however fast or slowly the months were replayed."""
    history = RetrainingHistory(False, JANUARY, ())
    waiting = decide([notice(APRIL)], history, cool_down_days=91)
    assert waiting.retrain_for is None
    assert waiting.pending == (notice(APRIL),)
    assert waiting.reasons == (
        "1 shifted months wait: the last retraining for drift was for 2025-01, 90 days before 2025-04, "
        "and the cool-down is 91 days",
    )
    assert decide([notice(APRIL)], history, cool_down_days=90).retrain_for == notice(APRIL)


def test_a_notice_that_waited_is_retrained_for_when_the_cool_down_has_passed() -> None:
    history = RetrainingHistory(False, JANUARY, ())
    waiting = decide([notice(FEBRUARY)], history, newest=FEBRUARY)
    assert waiting.retrain_for is None
    later = decide(waiting.pending, history, newest=JUNE)
    assert later.retrain_for == notice(FEBRUARY)


def test_without_an_earlier_retraining_there_is_no_cool_down() -> None:
    assert decide([notice(JANUARY)], newest=JANUARY, cool_down_days=10_000).retrain_for == notice(JANUARY)


@pytest.mark.parametrize("month", [JANUARY, FEBRUARY])
def test_what_a_finished_retraining_has_met_is_dropped(month: date) -> None:
    decision = decide([notice(month)], RetrainingHistory(False, FEBRUARY, ()), newest=JUNE)
    assert decision == RepairDecision(None, (f"{month:%Y-%m} population_shift was retrained for, 2025-02",), ())


def test_what_another_version_has_superseded_is_dropped() -> None:
    decision = decide([notice(MARCH, version=1)], champion=2)
    assert decision.retrain_for is None
    assert decision.pending == ()
    assert decision.reasons == ("2025-03 population_shift was about version 1; version 2 has been released since",)


def test_a_superseded_notice_does_not_take_a_valid_one_with_it() -> None:
    decision = decide([notice(FEBRUARY, version=2), notice(MARCH, version=1)], champion=2)
    assert decision.retrain_for == notice(FEBRUARY, version=2)
    assert decision.pending == (notice(FEBRUARY, version=2),)


def test_a_failed_retraining_is_tried_once_more_and_then_left_to_people() -> None:
    again = decide([notice(MARCH)], RetrainingHistory(False, None, (MARCH,)))
    assert again.retrain_for == notice(MARCH)
    given_up = decide([notice(MARCH)], RetrainingHistory(False, None, (MARCH, MARCH)))
    assert given_up == RepairDecision(None, ("2025-03: 2 retrainings failed; see the incidents",), ())


def test_failures_for_an_earlier_month_do_not_count_against_a_later_one() -> None:
    decision = decide([notice(APRIL)], RetrainingHistory(False, None, (MARCH, MARCH)))
    assert decision.retrain_for == notice(APRIL)


def test_the_same_notices_give_the_same_decision_again() -> None:
    notices = [notice(JANUARY), notice(MARCH)]
    first = decide(notices)
    assert decide(first.pending) == first
    assert decide([*first.pending, *notices]).retrain_for == first.retrain_for


def test_the_chain_of_notice_retraining_and_release_comes_to_rest() -> None:
    """Drift that stands for months is retrained for once; a release ends it, and a refusal does not start it again."""
    asked = decide([notice(MARCH)])
    assert asked.retrain_for is not None
    in_flight = decide(asked.pending, RetrainingHistory(True, None, ()))
    refused = decide(in_flight.pending, RetrainingHistory(False, MARCH, ()))
    released = decide(in_flight.pending, RetrainingHistory(False, MARCH, ()), champion=2)
    assert [x.retrain_for for x in (in_flight, refused, released)] == [None] * 3
    assert in_flight.pending == (notice(MARCH),)
    assert refused.pending == released.pending == ()
