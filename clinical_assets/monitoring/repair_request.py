"""What follows from repair plans: at most one run for a new candidate, with its reason, or why there is none.

Belongs here: the rule from plans to a request. Does not belong here: any statistic, and how a run is started.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from clinical_assets.protocol import Repair

MAXIMUM_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class RepairNotice:
    """One repair plan as the rule sees it: the month, the version that it is about, the repair with its reason."""

    month: date
    champion_version: int
    repair: Repair
    reason: str


@dataclass(frozen=True, slots=True)
class RepairHistory:
    """What was repaired so far, from the run records: never from what a sensor remembers.

    `last_month` is the newest month that a finished repair was for, `failed_months` has one entry a failed run.
    """

    in_flight: bool
    last_month: date | None
    failed_months: tuple[date, ...]


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """One notice to be met now, or none; why, in sentences with numbers; and the notices not yet met."""

    due: RepairNotice | None
    reasons: tuple[str, ...]
    pending: tuple[RepairNotice, ...]


def request_repair(
    notices: Sequence[RepairNotice],
    champion_version: int | None,
    newest_month: date,
    cool_down_days: int,
    history: RepairHistory,
    awaited_candidate: int | None = None,
) -> RepairRequest:
    """The one new candidate that the notices call for: that of the newest month.

    The cool-down runs on the calendar of the data, from the month of the last repair to the newest month planned for. A
    notice stays pending until a repair for its month or a later one has finished, or another version has been released
    since: so a run that is killed is tried again, and a notice in the cool-down is not forgotten. While a candidate
    that has met its limits runs its silent months, or waits for its signatures after them, notices wait for what is
    decided on it.
    """
    reasons: list[str] = []
    called_for: list[RepairNotice] = []
    for notice in sorted(notices, key=lambda notice: notice.month):
        if not notice.repair.needs_candidate:
            reasons.append(f"{notice.month:%Y-%m} {notice.repair.value}: {notice.reason}")
        elif notice.champion_version != champion_version:
            reasons.append(
                f"{notice.month:%Y-%m} {notice.repair.value} was about version {notice.champion_version}; "
                + (f"version {champion_version} has been released since" if champion_version else "nothing is live now")
            )
        elif history.last_month is not None and notice.month <= history.last_month:
            reasons.append(f"{notice.month:%Y-%m} {notice.repair.value} was done, for {history.last_month:%Y-%m}")
        else:
            called_for.append(notice)
    if not called_for:
        return RepairRequest(None, tuple(reasons), ())
    latest, pending, waiting = called_for[-1], tuple(called_for), f"{len(called_for)} repairs wait"
    if history.in_flight:
        return RepairRequest(None, (*reasons, f"{waiting}: a candidate is being made"), pending)
    if awaited_candidate is not None:
        reason = f"{waiting}: version {awaited_candidate} runs in silence or awaits its signatures"
        return RepairRequest(None, (*reasons, reason), pending)
    if history.last_month is not None and (days := (newest_month - history.last_month).days) < cool_down_days:
        reason = (
            f"{waiting}: the last one was for {history.last_month:%Y-%m}, {days} days before {newest_month:%Y-%m}, "
            f"and the cool-down is {cool_down_days} days"
        )
        return RepairRequest(None, (*reasons, reason), pending)
    if (attempts := history.failed_months.count(latest.month)) >= MAXIMUM_ATTEMPTS:
        reason = f"{latest.month:%Y-%m}: {attempts} repairs failed; see the incidents"
        return RepairRequest(None, (*reasons, reason), ())
    return RepairRequest(latest, (*reasons, f"{latest.month:%Y-%m} {latest.repair.value}: {latest.reason}"), pending)
