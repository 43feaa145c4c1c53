"""Taking a version out of service: whole or not at all, written down, and nothing is scored until one is live again."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from champion_moves import audited, live_everywhere, platform_of, published_as_live, sign
from killed_act import STEPS_OF_ROLLBACK, die
from small_platform import MODEL, MONTHS, Developed, small_protocol

from clinical_assets.cli import platform as platform_verbs
from clinical_assets.governance.ledger import FIRST, LedgerEntry, LedgerError, LedgerKind, ledger_table
from clinical_assets.lifecycle.alias_check import look_at_champion
from clinical_assets.lifecycle.automation import champion_version, newest_released, waiting_candidate
from clinical_assets.lifecycle.champion_move import (
    VERSION_IS_LIVE,
    Platform,
    ReleaseError,
    intent_path,
    recover,
    settle,
)
from clinical_assets.lifecycle.champion_upkeep import keep_up
from clinical_assets.lifecycle.model_facts import NewReports, read_facts
from clinical_assets.lifecycle.questions.repair_due import repair_due
from clinical_assets.lifecycle.release_act import release_version
from clinical_assets.lifecycle.rollback import roll_back
from clinical_assets.lifecycle.withdrawal import withdraw
from clinical_assets.resources.ledger import LEDGER_TABLE, mismatch, read_ledger, remedy
from clinical_assets.resources.registry import CHAMPION, FIRST_RELEASE

WHO_AND_WHY = r"version 2 was withdrawn on \d{4}-\d\d-\d\d \d\d:\d\d UTC by user:ann: it did harm"


@pytest.fixture
def withdrawn(twice_released: Platform) -> Platform:
    """Version 1 was live, then version 2, and nothing is."""
    withdraw(twice_released, MODEL, "it did harm", "user:ann")
    return twice_released


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as fresh:
        yield fresh


def check_of(instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    """The last word on whether a version is live."""
    key = dg.AssetCheckKey(dg.AssetKey([MODEL, "release"]), VERSION_IS_LIVE)
    record = instance.get_latest_asset_check_evaluation_record(key)
    assert record
    assert record.evaluation
    return record.evaluation


def test_a_withdrawn_version_is_live_nowhere_and_it_is_written_down(withdrawn: Platform) -> None:
    at = withdrawn
    *_, release, entry = read_ledger(at.lake, MODEL)
    assert live_everywhere(at) == {None}
    assert published_as_live(at) == []
    assert (entry.kind, entry.version, entry.previous_version) == (LedgerKind.WITHDRAWAL, 2, 2)
    assert (entry.actor, entry.reason, entry.run_id) == ("user:ann", "it did harm", "")
    assert (entry.approvals, entry.report_sha256) == (release.approvals, release.report_sha256)
    [record] = [x for x in audited(at, "withdraw") if x["details"]["entry_sha256"] == entry.sha256]
    assert (record["actor"], record["reason"], record["outcome"]) == ("user:ann", "it did harm", "success")
    opened = at.lake.read("governance.incident", where={"cause": "withdrawal", "state": "open"})
    assert opened["error"].to_list() == ["withdrawal from version 2 to nothing by user:ann: it did harm"]
    assert opened["severity"].to_list() == ["today"]
    first = at.registry.find(MODEL, FIRST_RELEASE)
    assert first
    assert first.version == 1
    assert not intent_path(at.home, MODEL).exists()


def test_a_withdrawn_version_scores_nothing_and_says_what_to_do(candidate: Developed, withdrawn: Platform) -> None:
    scored = withdrawn.lake.months(f"{MODEL}.predictions")
    words = f"{WHO_AND_WHY}; nothing is scored until .* `clinical rollback {MODEL} --to N --reason"
    with pytest.raises(LedgerError, match=words):
        candidate.platform.run("month", MONTHS[0], withdrawn.instance)
    assert withdrawn.lake.months(f"{MODEL}.predictions") == scored


def test_months_scored_before_still_ripen(candidate: Developed, withdrawn: Platform) -> None:
    assert candidate.platform.run("ripening", MONTHS[4], withdrawn.instance).success


def test_dagster_knows_that_nothing_is_live_who_said_so_and_why(candidate: Developed, withdrawn: Platform) -> None:
    instance = withdrawn.instance
    assert champion_version(instance, MODEL) is None
    assert newest_released(instance, MODEL) == 2
    told = check_of(instance)
    assert (told.passed, told.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(told.metadata["live"].value).endswith("by user:ann: it did harm")
    assert not settle(withdrawn, MODEL), "what is told is not told again"
    roll_back(withdrawn, candidate.platform.protocol, 1, "needed", "user:ann")
    assert check_of(instance).passed


def test_a_release_checks_by_itself_that_a_version_is_live(candidate: Developed, instance: dg.DagsterInstance) -> None:
    sign(candidate)
    done = candidate.platform.run("release", instance=instance)
    [checked] = [x for x in done.get_asset_check_evaluations() if x.check_name == VERSION_IS_LIVE]
    assert checked.passed
    assert check_of(instance).passed


def test_no_repair_of_a_withdrawn_version_is_asked_for(candidate: Developed, twice_released: Platform) -> None:
    platform = candidate.platform
    with dg.DagsterInstance.ephemeral() as instance:
        withdraw(platform_of(platform, instance), MODEL, "it did harm", "user:ann")
        plan = {"champion_version": 2, "repair": "retrain", "reason": "drift", "columns": ""}
        metadata = {f"repair/{name}": said for name, said in plan.items()}
        key, month = dg.AssetKey([MODEL, "repair_plan"]), f"{MONTHS[4]:%Y-%m}"
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=month, metadata=metadata))
        at = platform_of(platform, instance)
        plans = NewReports.of(instance, MODEL, "repair_plan", 0).entries
        asked = repair_due(read_facts(at, platform.protocol, {"repair_plan": plans}))
        assert asked.request is None
        assert "was about version 2; nothing is live now" in asked.reason


def test_the_sensors_do_not_take_a_withdrawn_version_for_a_new_candidate(withdrawn: Platform) -> None:
    metadata = {"version": 2, "report_sha256": "", "silent_months_left": 0, "may_pass": True, "features_through": ""}
    key = dg.AssetKey([MODEL, "validation_report"])
    withdrawn.instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))
    waiting = waiting_candidate(withdrawn.instance, MODEL)
    assert isinstance(waiting, dg.SkipReason)
    assert "version 2 was rolled back or withdrawn" in (waiting.skip_message or "")


def test_who_puts_a_version_back_says_which(candidate: Developed, withdrawn: Platform) -> None:
    words = f"{MODEL}: nothing is live; name with --to the version to put back; released were: 1, 2"
    with pytest.raises(LedgerError, match=words):
        roll_back(withdrawn, candidate.platform.protocol, None, "needed", "user:ann")
    assert live_everywhere(withdrawn) == {None}
    done = roll_back(withdrawn, candidate.platform.protocol, 2, "needed", "user:ann")
    assert live_everywhere(withdrawn) == {2}
    assert published_as_live(withdrawn) == [(2, "rollback")]
    assert (done.entry.version, done.entry.previous_version, done.smoke_rows) == (2, None, 64)


def test_a_withdrawn_version_is_released_again_on_new_signatures_alone(
    candidate: Developed, withdrawn: Platform
) -> None:
    protocol = candidate.platform.protocol
    with pytest.raises(
        ReleaseError, match=r"it was rolled back or withdrawn on .* no approval as mlops was given since"
    ):
        release_version(withdrawn, protocol, candidate.candidate, "again")
    assert live_everywhere(withdrawn) == {None}
    sign(candidate, signed_at=(datetime.now(UTC) + timedelta(seconds=2)).isoformat())
    entry = release_version(withdrawn, protocol, candidate.candidate, "again")
    settle(withdrawn, MODEL)
    assert (entry.kind, entry.version, entry.previous_version) == (LedgerKind.RELEASE, 2, None)
    assert live_everywhere(withdrawn) == {2}
    with pytest.raises(LedgerError, match="nothing was live when version 2 was released; name with --to"):
        roll_back(withdrawn, protocol, None, "a drill", "user:ann")


def test_a_withdrawal_needs_a_reason_and_something_live(twice_released: Platform) -> None:
    at, refusals = twice_released, len(audited(twice_released, "withdraw_refused"))
    with pytest.raises(LedgerError, match="a withdrawal needs a reason"):
        withdraw(at, MODEL, "  ", "user:ann")
    assert live_everywhere(at) == {2}
    withdraw(at, MODEL, "it did harm", "user:ann")
    with pytest.raises(LedgerError, match=f"nothing of {MODEL} is live by the ledger; there is nothing to withdraw"):
        withdraw(at, MODEL, "it did harm", "user:ann")
    assert len(audited(at, "withdraw_refused")) == refusals + 2


def test_a_withdrawal_ends_an_alias_that_was_moved_past_the_platform(
    candidate: Developed, twice_released: Platform
) -> None:
    candidate.platform.set_alias(CHAMPION, candidate.champion)
    assert withdraw(twice_released, MODEL, "it did harm", "user:ann").version == 2
    assert live_everywhere(twice_released) == {None}


def test_an_alias_pointed_at_a_withdrawn_version_scores_nothing(candidate: Developed, withdrawn: Platform) -> None:
    candidate.platform.set_alias(CHAMPION, candidate.candidate)
    words = f"champion of {MODEL} is version 2, and by the ledger nothing is live: {WHO_AND_WHY}"
    with pytest.raises(LedgerError, match=rf"{words}; nothing is scored with it: delete the alias `champion`"):
        candidate.platform.run("month", MONTHS[0], withdrawn.instance)
    with pytest.raises(LedgerError, match=words):
        withdraw(withdrawn, MODEL, "again", "user:ann")
    assert f"or put a version back with `clinical rollback {MODEL} --to N" in remedy(withdrawn.lake, MODEL)
    roll_back(withdrawn, candidate.platform.protocol, 1, "put back", "user:ann")
    assert not mismatch(withdrawn.registry, read_ledger(withdrawn.lake, MODEL), MODEL)


def backdate(at: Platform, days: int) -> list[LedgerEntry]:
    """The ledger as if all of it had happened so many days earlier."""
    moved, before = list[LedgerEntry](), FIRST
    for entry in read_ledger(at.lake, MODEL):
        moved.append(replace(entry, live_from=entry.live_from - timedelta(days=days), previous_sha256=before))
        before = moved[-1].sha256
    at.lake.write_table(LEDGER_TABLE, ledger_table(moved), author="a test", message="backdated")
    return moved


def look(at: Platform, candidate: Developed, days: int | None) -> str:
    """One look under a protocol that allows a release so many days, and the run that it asks for, if any."""
    protocol = small_protocol(release_valid_days=days)
    found = look_at_champion(at, protocol, "", datetime.now(UTC))
    return keep_up(at, protocol) if found.request else found.reason


def test_a_release_whose_days_are_over_is_taken_out_of_service(candidate: Developed, twice_released: Platform) -> None:
    at, before = twice_released, backdate(twice_released, 30)
    look(at, candidate, None)
    look(at, candidate, 31)
    assert live_everywhere(at) == {2}
    assert read_ledger(at.lake, MODEL) == before
    words = "the protocol allows a release 30 days of service, and they are over"
    assert look(at, candidate, 30) == f"version 2 is out of service: {words}"
    last = read_ledger(at.lake, MODEL)[-1]
    assert live_everywhere(at) == {None}
    assert (last.kind, last.version, last.actor, last.reason) == (LedgerKind.EXPIRY, 2, "automation", words)
    opened = at.lake.read("governance.incident", where={"cause": "withdrawal", "state": "open"})
    assert (opened["error"][0], opened["changed_by"][0]) == (
        f"expiry from version 2 to nothing by automation: {words}",
        "automation",
    )
    assert look(at, candidate, 30) == f"the champion of {MODEL} is the ledger's", "it is done once"


def test_the_days_begin_anew_with_a_rollback(candidate: Developed, twice_released: Platform) -> None:
    at = twice_released
    backdate(at, 30)
    roll_back(at, candidate.platform.protocol, 1, "a drill", "user:ann")
    look(at, candidate, 30)
    assert live_everywhere(at) == {1}


def test_status_says_until_when_a_version_is_live_and_why_none_is(
    candidate: Developed, twice_released: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = twice_released
    until = read_ledger(at.lake, MODEL)[-1].live_from + timedelta(days=90)
    assert "until" not in platform_verbs.model_state(at.lake, at.registry, MODEL)["live_since"]
    monkeypatch.setattr(platform_verbs, "read_protocol", lambda _: small_protocol(release_valid_days=90))
    state = platform_verbs.model_state(at.lake, at.registry, MODEL)
    assert state["live_since"].endswith(f"UTC until {until:%Y-%m-%d}")
    withdraw(at, MODEL, "it did harm", "user:ann")
    state = platform_verbs.model_state(at.lake, at.registry, MODEL)
    assert (state["champion"], state["live_since"], state["newest_candidate"]) == (None, None, "2 (withdrawn)")
    assert state["live_by"].startswith("version 2 was withdrawn on ")


# Its steps are a rollback's, which is killed after each of them; here, before and after each that does something else.
@pytest.mark.parametrize("last_words", ["intent written", "alias moved", "incident opened", "intent dropped"])
def test_a_killed_withdrawal_leaves_the_old_or_the_new(
    candidate: Developed, twice_released: Platform, last_words: str
) -> None:
    at = twice_released
    assert die(at.home, candidate.platform.protocol, 2, last_words, LedgerKind.WITHDRAWAL) == -signal.SIGKILL
    told = recover(at, MODEL)
    before = STEPS_OF_ROLLBACK.index(last_words) < STEPS_OF_ROLLBACK.index("alias moved")
    assert live_everywhere(at) == ({2} if before else {None})
    assert ("dropped" if before else "finished" if last_words != "intent dropped" else "") in told
    assert not intent_path(at.home, MODEL).exists()
    if not before:
        last = read_ledger(at.lake, MODEL)[-1]
        assert not check_of(at.instance).passed
        assert len([x for x in audited(at, "withdraw") if x["details"]["entry_sha256"] == last.sha256]) == 1
        assert at.lake.read("governance.incident", where={"cause": "withdrawal", "state": "open"}).height == 1
