"""Is anything breached? Drift with harm, a group's sensitivity that has fallen, data that do not arrive.

Belongs here: which report tells of a breach. Does not belong here: any statistic, repair plans (repair_due.py), and how
an incident is opened.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import dagster as dg
from dagster._core.events.log import EventLogEntry

from clinical_assets.archives.calendar import LAST_MONTH
from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.lifecycle.incidents import month_of_run
from clinical_assets.lifecycle.questions.answer import Answer
from clinical_assets.lifecycle.questions.facts import ModelFacts
from clinical_assets.protocol import ModelProtocol, Verdict, month_before

SHIFTS = (Verdict.POPULATION_SHIFT, Verdict.CONCEPT_SHIFT)
GRACE_DAYS = 10
"""A month's data are due when it is over, and late from this day of the next month on."""


def anything_breached(facts: ModelFacts) -> Answer:
    """Every breach that the reports since the last look tell of, and that no month has arrived."""
    found: list[Breach] = []
    for report in facts.drift_reports:
        found += breaches_of_drift(report, facts.protocol)
    for report in facts.performance_reports:
        found += breaches_of_performance(report, facts.protocol)
    if late := breach_of_lateness(facts.protocol, facts.newest_features, facts.today):
        found.append(late)
    told = ", ".join(sorted({breach.cause.value for breach in found}))
    return Answer(f"breaches of {facts.model}: {told or 'none'}", breaches=tuple(found))


def breaches_of_drift(entry: EventLogEntry, protocol: ModelProtocol) -> Iterator[Breach]:
    """Harm where the patients or the outcome shifted, and the estimated loss is beyond what the protocol tolerates.

    Faulty data are no harm of drift: their incident comes from the repair plan.
    """
    metadata = _metadata(entry)
    verdict, severity = Verdict(str(metadata["drift/verdict"])), metadata["severity"]
    tolerated = protocol.monitoring.tolerated_loss
    if verdict in SHIFTS and isinstance(severity, float) and severity > tolerated:
        what = f"estimated loss of AUROC {severity:.3f}, and {tolerated:g} is tolerated. {metadata['drift/reason']}"
        yield _breach(entry, protocol, Cause.DRIFT_WITH_HARM, "champion", what)


def breaches_of_performance(entry: EventLogEntry, protocol: ModelProtocol) -> Iterator[Breach]:
    """The groups whose sensitivity has fallen, by the alarm of the performance report; each is a cause of its own."""
    told = str(_metadata(entry)["sensitivity_has_fallen_in"])
    for group in told.split(", ") if told != "no group" else ():
        what = f"the sensitivity of {group} has fallen since the release, by the evidence of the performance report"
        yield _breach(entry, protocol, Cause.SUBGROUP_SENSITIVITY, group, what)


def breach_of_lateness(protocol: ModelProtocol, newest: date | None, today: date) -> Breach | None:
    """Data that do not arrive, of a model in production: the month that was due by the calendar on the wall.

    A demonstration replays a calendar of the past, on which no month is late, however long the replay pauses. A model
    that has no month yet is not in service. The last month of the platform's own calendar is the last that can be due.
    """
    due = due_month(protocol, today)
    if due is None or newest is None:
        return None
    if newest >= due:
        return None
    what = f"the newest month is {newest:%Y-%m}, and {due:%Y-%m} was due by day {GRACE_DAYS} of the month after it"
    return Breach(protocol.model, Cause.STALE_DATA, "features", what, due)


def due_month(protocol: ModelProtocol, today: date) -> date | None:
    """The newest month whose data are due by the calendar on the wall; None for a demonstration."""
    if protocol.environment != "production":
        return None
    over = month_before(today)
    return min(over if today.day >= GRACE_DAYS else month_before(over), LAST_MONTH)


def _breach(entry: EventLogEntry, protocol: ModelProtocol, cause: Cause, subject: str, what: str) -> Breach:
    materialization = entry.asset_materialization
    return Breach(
        model=protocol.model,
        cause=cause,
        subject=subject,
        what=what,
        month=month_of_run(materialization.partition if materialization else None),
        run_id=entry.run_id,
        job=f"{protocol.model}_month",
        step=materialization.asset_key.path[-1] if materialization else "",
        seen_at=datetime.fromtimestamp(entry.timestamp, UTC),
    )


def _metadata(entry: EventLogEntry) -> dict[str, object]:
    materialization = entry.asset_materialization
    if materialization is None:
        raise dg.DagsterInvariantViolationError("only a materialisation records metadata")
    return {name: value.value for name, value in materialization.metadata.items()}
