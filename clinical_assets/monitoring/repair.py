"""What follows from verdicts: at most one retraining, with its reason, or the reason why there is none.

Belongs here: the rule from verdicts to a repair. Does not belong here: any statistic, and how a run is started.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from clinical_assets.protocol import Verdict

RETRAINING_VERDICTS = frozenset({Verdict.POPULATION_SHIFT, Verdict.CONCEPT_SHIFT})
MAXIMUM_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class DriftNotice:
    """One drift report as the rule sees it: the month, the version that it judged, and the verdict with its reason."""

    month: date
    champion_version: int
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class RetrainingHistory:
    """What was retrained for drift so far, from the run records: never from what a sensor remembers.

    `last_month` is the newest month that a finished retraining was for, `failed_months` has one entry a failed run.
    """

    in_flight: bool
    last_month: date | None
    failed_months: tuple[date, ...]


@dataclass(frozen=True, slots=True)
class RepairDecision:
    """Retrain for one notice, or nothing; why, in sentences with numbers; and the notices not yet met."""

    retrain_for: DriftNotice | None
    reasons: tuple[str, ...]
    pending: tuple[DriftNotice, ...]


def decide_repair(
    notices: Sequence[DriftNotice],
    champion_version: int | None,
    newest_month: date,
    cool_down_days: int,
    history: RetrainingHistory,
    awaited_candidate: int | None = None,
) -> RepairDecision:
    """The smallest repair that the notices call for, at most one retraining for all of them.

    The cool-down runs on the calendar of the data, from the month of the last retraining for drift to the newest month
    reported. A notice stays pending until a retraining for its month or a later one has finished, or another version
    has been released since: so a run that is killed is tried again, and a notice in the cool-down is not forgotten.
    While a candidate that has met its limits runs its silent months, or waits for its signatures after them, notices
    wait for what is decided on it.
    """
    reasons: list[str] = []
    shifted: list[DriftNotice] = []
    for notice in sorted(notices, key=lambda notice: notice.month):
        if notice.verdict not in RETRAINING_VERDICTS:
            reasons.append(f"{notice.month:%Y-%m} {notice.verdict.value}: {notice.reason}")
        elif notice.champion_version != champion_version:
            reasons.append(
                f"{notice.month:%Y-%m} {notice.verdict.value} was about version {notice.champion_version}; "
                f"version {champion_version} has been released since"
            )
        elif history.last_month is not None and notice.month <= history.last_month:
            reasons.append(f"{notice.month:%Y-%m} {notice.verdict.value} was retrained for, {history.last_month:%Y-%m}")
        else:
            shifted.append(notice)
    if not shifted:
        return RepairDecision(None, tuple(reasons), ())
    latest, pending = shifted[-1], tuple(shifted)
    if history.in_flight:
        reason = f"{len(shifted)} shifted months wait: a retraining is in flight"
        return RepairDecision(None, (*reasons, reason), pending)
    if awaited_candidate is not None:
        reason = (
            f"{len(shifted)} shifted months wait: version {awaited_candidate} runs in silence or awaits its signatures"
        )
        return RepairDecision(None, (*reasons, reason), pending)
    if history.last_month is not None and (days := (newest_month - history.last_month).days) < cool_down_days:
        reason = (
            f"{len(shifted)} shifted months wait: the last retraining for drift was for {history.last_month:%Y-%m}, "
            f"{days} days before {newest_month:%Y-%m}, and the cool-down is {cool_down_days} days"
        )
        return RepairDecision(None, (*reasons, reason), pending)
    if (attempts := history.failed_months.count(latest.month)) >= MAXIMUM_ATTEMPTS:
        reason = f"{latest.month:%Y-%m}: {attempts} retrainings failed; see the incidents"
        return RepairDecision(None, (*reasons, reason), ())
    return RepairDecision(latest, (*reasons, f"{latest.month:%Y-%m} {latest.verdict.value}: {latest.reason}"), pending)
