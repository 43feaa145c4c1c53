"""When a run that failed, or never started, is asked for again: under a key of its own, after a pause, so many times.

Belongs here: the rule, and the reading of the earlier runs of one request. Does not belong here: what is asked for, and
repairs, whose rule counts for itself (monitoring/repair_request.py).

Dagster starts one run a key, whatever becomes of it; a key that failed would be lost for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG

from clinical_assets.lifecycle.incidents import class_of_error

PAUSES = (timedelta(seconds=30), timedelta(minutes=2))
MOST_ATTEMPTS = len(PAUSES) + 1
REFUSAL = "ReleaseError"
"""What a release says that may not be: no failure, and the same again until somebody signs anew."""
_FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """A run of the same request; `ended_at` is None while it waits or works."""

    run_id: str
    ended_at: datetime | None = None
    failed: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """The number of the attempt to be made now, from 0, or None and why; when to look again; the last run, if given up.

    A request is given up when its last attempt has failed.
    """

    number: int | None
    reason: str = ""
    again_at: datetime | None = None
    given_up: EarlierRun | None = None


def next_attempt(runs: Sequence[EarlierRun], now: datetime) -> Attempt:
    """Which attempt of a request is due, by its runs so far."""
    if any(run.ended_at is None for run in runs):
        return Attempt(None, "its run is at work")
    if any(not run.failed for run in runs):
        return Attempt(None, "its run has ended well")
    if any(run.refused for run in runs):
        return Attempt(None, "it was refused")
    if not runs:
        return Attempt(0)
    last = max(runs, key=lambda run: run.ended_at or now)
    if len(runs) >= MOST_ATTEMPTS:
        return Attempt(None, f"{len(runs)} runs of it failed, and it is not asked for again", given_up=last)
    due = (last.ended_at or now) + PAUSES[len(runs) - 1]
    if now < due:
        return Attempt(None, f"run {len(runs)} of at most {MOST_ATTEMPTS} failed; the next one waits", again_at=due)
    return Attempt(len(runs), f"run {len(runs)} of at most {MOST_ATTEMPTS} failed")


def key_of_attempt(key: str, number: int) -> str:
    """The run key of an attempt at a request."""
    return f"{key}|retry {number}" if number else key


def earlier_runs(instance: dg.DagsterInstance, key: str) -> list[EarlierRun]:
    """The runs of every attempt at a request, by their run keys."""
    keys = [key_of_attempt(key, number) for number in range(MOST_ATTEMPTS)]
    return [_earlier(instance, x) for x in instance.get_run_records(dg.RunsFilter(tags={RUN_KEY_TAG: keys}))]


def _earlier(instance: dg.DagsterInstance, record: dg.RunRecord) -> EarlierRun:
    run = record.dagster_run
    if not run.is_finished:
        return EarlierRun(run.run_id)
    # A run that never started may have no time of its end.
    ended = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp
    failed = run.status in _FAILED
    return EarlierRun(run.run_id, ended, failed, failed and _was_refused(instance, run.run_id))


def _was_refused(instance: dg.DagsterInstance, run_id: str) -> bool:
    failures = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    events = [record.event_log_entry.dagster_event for record in failures]
    errors = [event.step_failure_data.error for event in events if event is not None]
    return any(class_of_error(error) == REFUSAL for error in errors)
