from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from small_icu import ICU, ICU_MONTHS, Report, SilentMonth, ask
from small_platform import MODEL, Developed, small_protocol
from watched_model import WatchedModel

from clinical_assets.evaluation import judge
from clinical_assets.governance.signatures import Decision
from clinical_assets.lifecycle.candidate import measure_silent_months, silent_months_left
from clinical_assets.lifecycle.model_facts import read_facts
from clinical_assets.lifecycle.questions.silent_month_due import silent_month_due
from clinical_assets.protocol import SILENT_MONTHS, Finding, Judgement, ModelProtocol

SILENT = small_protocol(silent_months=2)


def judged(report: Report) -> dict[str, str]:
    return dict(report.rows.select("metric", "judgement").iter_rows())


def figures(report: Report) -> dict[str, float | None]:
    return dict(report.silent.select("metric", "value").iter_rows())


def test_months_that_were_there_when_a_candidate_was_trained_do_not_count(silent_month: SilentMonth) -> None:
    assert figures(silent_month.trained) == {SILENT_MONTHS: 0.0}
    assert silent_month.trained.silent["n"].to_list() == [0]
    assert silent_month.trained.waiting.silent_months_left == 1


def test_a_month_that_arrives_later_counts_and_is_measured(silent_month: SilentMonth) -> None:
    found = figures(silent_month.seen)
    assert found[SILENT_MONTHS] == 1.0
    assert silent_month.seen.waiting.silent_months_left == 0
    hours = silent_month.platform.lake.read(f"{ICU}.features", month=ICU_MONTHS[3])
    assert silent_month.seen.silent.filter(metric=SILENT_MONTHS)["n"].item() == hours.height
    assert {"silent_auroc", "silent_normalized_utility"} <= set(found)


def test_of_a_silent_month_only_ripe_outcomes_are_measured(silent_month: SilentMonth) -> None:
    hours = silent_month.platform.lake.read(f"{ICU}.features", month=ICU_MONTHS[3])
    ripe = hours.filter(pl.col("outcome_known_on") <= date(2025, 7, 31)).height
    assert 0 < ripe < hours.height
    assert silent_month.seen.silent.filter(metric="silent_auroc")["n"].item() == ripe


def test_before_its_silent_month_a_report_cannot_pass_though_every_other_limit_is_met(
    silent_month: SilentMonth,
) -> None:
    assert judged(silent_month.trained) == {"auroc": Judgement.PASS, SILENT_MONTHS: Judgement.FAIL}
    assert judged(silent_month.seen) == {"auroc": Judgement.PASS, SILENT_MONTHS: Judgement.PASS}
    assert silent_month.trained.waiting.may_pass
    assert silent_month.seen.waiting.may_pass


def test_without_its_silent_month_a_candidate_is_refused_even_with_every_signature(silent_month: SilentMonth) -> None:
    assert f"{SILENT_MONTHS} (overall): " in silent_month.trained.refused
    assert "no valid approval" not in silent_month.trained.refused


def test_signatures_on_the_report_from_before_do_not_release_what_the_silent_month_showed(
    silent_month: SilentMonth,
) -> None:
    assert SILENT_MONTHS not in silent_month.seen.refused
    assert "the validation report changed after signing" in silent_month.seen.refused


def test_after_its_silent_month_a_candidate_that_is_signed_anew_is_released(silent_month: SilentMonth) -> None:
    assert silent_month.platform.registry.champion(ICU) == silent_month.version
    scored = silent_month.platform.lake.read(f"{ICU}.predictions")
    assert scored["month"].unique().to_list() == [ICU_MONTHS[4]]


def test_nobody_is_shown_what_a_candidate_says_in_silence(silent_month: SilentMonth) -> None:
    """Findings are kept, and neither scores nor alerts of a unit."""
    kept = silent_month.platform.lake.read(f"{ICU}.silent_run")
    assert not {"hour_id", "patient_id", "risk", "alerted"} & set(kept.columns)
    assert ICU_MONTHS[3] not in silent_month.platform.lake.months(f"{ICU}.predictions")


def test_a_silent_run_is_asked_for_once_a_month_and_never_after_the_last(silent_month: SilentMonth) -> None:
    before = silent_month.trained.asked
    assert before.request is None
    assert before.reason == "version 1 has 1 silent months to run, and none has arrived since 2025-06"
    first, second = (answer.request for answer in silent_month.arrived)
    assert first is not None
    assert second is not None
    assert first.key == second.key == f"{ICU}|v1|silent|2025-07"
    assert first.tags["clinical/silent_run"] == "1"
    after = silent_month.seen.asked
    assert after.request is None
    assert after.reason == "version 1 has run its silent months"


def test_a_released_version_runs_no_silent_month(silent_month: SilentMonth) -> None:
    answer = ask(silent_month.platform, silent_month.instance)
    assert (answer.request, answer.reason) == (None, "version 1 is the champion")


def test_a_protocol_without_silent_months_asks_for_none(candidacy: "Candidacy") -> None:
    candidacy.reported(1, left=0)
    candidacy.arrived("2024-06")
    candidacy.protocol = small_protocol()
    assert candidacy.run_key() is None


def test_months_are_counted_from_the_snapshot_that_a_version_was_trained_on(developed: Developed) -> None:
    """The fifth month came after version 1 and before version 2."""
    platform = developed.platform
    counted = {
        version.version: measure_silent_months(platform.lake, platform.registry, SILENT, version)[0]
        for version in (developed.champion, developed.candidate)
    }
    fifth = platform.lake.read(f"{MODEL}.features", month=date(2024, 5, 1)).height
    assert counted[1] == Finding(SILENT_MONTHS, "overall", 1.0, None, None, fifth)
    assert counted[2] == Finding(SILENT_MONTHS, "overall", 0.0, None, None, 0)


@pytest.mark.parametrize("rows", [4, 4000])
@pytest.mark.parametrize(("run", "left", "judgement"), [(0, 2, "fail"), (1, 1, "fail"), (2, 0, "pass"), (3, 0, "pass")])
def test_as_many_silent_months_must_be_run_as_the_protocol_says_however_few_patients_they_have(
    run: int, left: int, judgement: str, rows: int
) -> None:
    found = [Finding(SILENT_MONTHS, "overall", float(run), None, None, run * rows)]
    assert silent_months_left(found, SILENT) == left
    of_months = [x for x in judge(SILENT.limits, found, 20, frozenset()) if x.limit.metric == SILENT_MONTHS]
    assert [item.judgement for item in of_months] == [judgement]


class Candidacy(WatchedModel):
    """One candidate with its report."""

    def arrived(self, month: str) -> None:
        self.materialised("features", month)

    def decided(self, decision: Decision) -> None:
        self.sign("mlops", 1, decision)

    def run_key(self) -> str | None:
        answer = self.asked(silent_month_due, "silent_month")
        return answer.run_key if isinstance(answer, dg.RunRequest) else None

    def awaited(self, protocol: ModelProtocol = SILENT) -> int | None:
        return read_facts(self.at, protocol, {}).awaited_candidate()


@pytest.fixture
def candidacy(tmp_path: Path) -> Candidacy:
    return Candidacy(tmp_path, SILENT)


def test_each_month_is_asked_for_under_its_own_key(candidacy: Candidacy) -> None:
    assert candidacy.run_key() is None
    candidacy.reported(1, left=2)
    candidacy.arrived("2024-05")
    assert candidacy.run_key() is None
    candidacy.arrived("2024-06")
    assert candidacy.run_key() == candidacy.run_key() == f"{MODEL}|v1|silent|2024-06"
    candidacy.arrived("2024-07")
    assert candidacy.run_key() == f"{MODEL}|v1|silent|2024-07"
    candidacy.reported(1, left=0)
    assert candidacy.run_key() is None


@pytest.mark.parametrize("left", [2, 0])
def test_a_candidate_that_may_pass_is_awaited_until_it_is_decided_on(candidacy: Candidacy, left: int) -> None:
    assert candidacy.awaited() is None
    candidacy.reported(1, left=left)
    assert candidacy.awaited() == 1
    candidacy.decided("approve")
    assert candidacy.awaited() == 1


def test_a_candidate_that_cannot_pass_or_was_rejected_is_not_awaited(candidacy: Candidacy) -> None:
    candidacy.reported(1, left=1, may_pass=False)
    assert candidacy.awaited() is None
    candidacy.reported(1, left=1)
    candidacy.decided("reject")
    assert candidacy.awaited() is None


def test_where_a_protocol_asks_for_no_silent_month_no_candidate_is_awaited(candidacy: Candidacy) -> None:
    candidacy.reported(1, left=0)
    assert candidacy.awaited(small_protocol()) is None
