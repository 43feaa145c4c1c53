"""The runbook as assets, partitioned by incident: diagnosis, decision, repair or rollback, validation, closure.

Belongs here: what must have happened for each step to count, and which steps are to be recorded. Does not belong here:
what opens an incident, when one looks (home_watch.py), and the diagnosis itself.

A step is materialised when it has happened: the first by the platform, the others by what people, or a repair, did. A
step that has not happened raises, so that the catalogue never shows it as done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from clinical_assets.governance.incidents import (
    PLATFORM,
    Cause,
    Event,
    Incident,
    IncidentError,
    IncidentEvent,
    incidents_of,
)
from clinical_assets.lifecycle.diagnosis import write_page
from clinical_assets.lifecycle.incidents import MODEL, history_of, read_events
from clinical_assets.reporting.incident_page import first_abnormal_in_words
from clinical_assets.resources.audited_outputs import record_kept
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.platform import HomeResource

INCIDENTS = dg.DynamicPartitionsDefinition(name="incident")
GROUP = "runbook"
STEPS = ("diagnosis", "decision", "repair_or_rollback", "validation", "closure")
PLANNED = (Cause.FIX_DATA, Cause.ROLL_BACK)
"""Causes that a repair plan decided on already."""


@dataclass(frozen=True, slots=True)
class StepTaken:
    """That a step of the runbook has happened: what, by whom, when, and by which run or ledger entry, if any."""

    what: str
    by: str
    at: datetime
    evidence: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """As the catalogue shows it."""
        shown = {"what": self.what, "by": self.by, "at": self.at.astimezone(UTC).isoformat(timespec="seconds")}
        return shown | ({"evidence": self.evidence} if self.evidence else {})


def find_decision(history: Sequence[IncidentEvent]) -> StepTaken | None:
    """What was decided: by the repair plan that opened the incident, or by the person who took it on."""
    first = history[0]
    if first.cause in PLANNED:
        return StepTaken(f"{first.cause.value.replace('_', ' ')}: {first.text}", "repair_plan", first.at, first.run_id)
    taken = [x for x in history if x.event in (Event.ACKNOWLEDGED, Event.MITIGATED, Event.CLOSED)]
    return StepTaken(taken[0].text, f"{taken[0].actor} ({taken[0].role})", taken[0].at) if taken else None


def find_repair(history: Sequence[IncidentEvent], lake: Lake) -> StepTaken | None:
    """What ended the harm: the person's word for it, and the change of the live version since the opening, if any."""
    incident = Incident.of(history)
    mitigated = [x for x in history if x.event is Event.MITIGATED]
    if not mitigated:
        return None
    entries = read_ledger(lake, incident.model) if incident.model != PLATFORM else []
    moved = [entry for entry in entries if incident.opened_at <= entry.live_from <= mitigated[-1].at]
    evidence = f"{moved[-1].kind.value} of version {moved[-1].version}, {moved[-1].sha256}" if moved else ""
    return StepTaken(mitigated[-1].text, f"{mitigated[-1].actor} ({mitigated[-1].role})", mitigated[-1].at, evidence)


def find_validation(history: Sequence[IncidentEvent], instance: dg.DagsterInstance) -> StepTaken | None:
    """The run that shows that the cause is gone: of the incident's own job, ended well since the mitigation.

    None while there is none, or where the cause was seen again since.
    """
    incident = Incident.of(history)
    since = incident.mitigated_at
    if since is None or any(x.event is Event.OBSERVED and x.at > since for x in history):
        return None
    filters = dg.RunsFilter(
        job_name=incident.job or f"{incident.model}_month",
        statuses=[dg.DagsterRunStatus.SUCCESS],
        created_after=since,
    )
    records = instance.get_run_records(filters, limit=1)
    if not records:
        return None
    run = records[0].dagster_run
    ended = datetime.fromtimestamp(records[0].end_time or since.timestamp(), UTC)
    return StepTaken(f"{run.job_name} ended well, and the cause was not seen again", "automation", ended, run.run_id)


def find_closure(history: Sequence[IncidentEvent]) -> StepTaken | None:
    """The closing, with root cause and action."""
    closed = [x for x in history if x.event is Event.CLOSED]
    if not closed:
        return None
    what = f"root cause: {closed[-1].root_cause}; action: {closed[-1].action}"
    return StepTaken(what, f"{closed[-1].actor} ({closed[-1].role})", closed[-1].at)


@dg.asset(partitions_def=INCIDENTS, kinds={"html"})
def diagnosis(context: dg.AssetExecutionContext, home: HomeResource, lake: LakeResource) -> dg.MaterializeResult:
    """What is known of the incident: verdict, faults, groups, the first abnormal asset; its page is written."""
    record_kept(home.open().audit, context.asset_key, context.run)
    found = write_page(lake.open(), home.open(), context.partition_key)
    return dg.MaterializeResult(
        metadata={
            "page": dg.MetadataValue.path(home.open().incident_page(context.partition_key)),
            "cause": found.incident.cause.value,
            "model": found.incident.model,
            "first_abnormal": first_abnormal_in_words(found),
            "actions": dg.MetadataValue.md("\n".join(f"- {action}" for action in found.actions)),
            "owners": ", ".join(found.owners),
        }
    )


@dg.asset(partitions_def=INCIDENTS, deps=["diagnosis"], kinds={"python"})
def decision(context: dg.AssetExecutionContext, home: HomeResource, lake: LakeResource) -> dg.MaterializeResult:
    """What is to be done about the incident, as the repair plan or a person decided."""
    record_kept(home.open().audit, context.asset_key, context.run)
    history = history_of(lake.open(), home.open(), context.partition_key)
    return _taken(find_decision(history), history, "nobody has decided: clinical incident ack")


@dg.asset(partitions_def=INCIDENTS, deps=["decision"], kinds={"python"})
def repair_or_rollback(
    context: dg.AssetExecutionContext, home: HomeResource, lake: LakeResource
) -> dg.MaterializeResult:
    """What ended the harm, as a person says, and the release or rollback since, where there was one."""
    record_kept(home.open().audit, context.asset_key, context.run)
    history = history_of(lake.open(), home.open(), context.partition_key)
    return _taken(find_repair(history, lake.open()), history, "nobody has ended the harm: clinical incident mitigate")


@dg.asset(partitions_def=INCIDENTS, deps=["repair_or_rollback"], kinds={"python"})
def validation(context: dg.AssetExecutionContext, home: HomeResource, lake: LakeResource) -> dg.MaterializeResult:
    """The run since the mitigation that shows that the cause is gone."""
    record_kept(home.open().audit, context.asset_key, context.run)
    history = history_of(lake.open(), home.open(), context.partition_key)
    return _taken(find_validation(history, context.instance), history, "no run since shows that the cause is gone")


@dg.asset(partitions_def=INCIDENTS, deps=["repair_or_rollback"], kinds={"ed25519"})
def closure(context: dg.AssetExecutionContext, home: HomeResource, lake: LakeResource) -> dg.MaterializeResult:
    """Why it happened and what was done, signed by the person who closed it, and whether a run had validated that."""
    record_kept(home.open().audit, context.asset_key, context.run)
    history = history_of(lake.open(), home.open(), context.partition_key)
    taken = _taken(find_closure(history), history, "it is not closed: clinical incident close")
    validated = find_validation(history, context.instance)
    write_page(lake.open(), home.open(), context.partition_key)
    return dg.MaterializeResult(metadata={**(taken.metadata or {}), "validated": validated.what if validated else "no"})


def steps_due(history: Sequence[IncidentEvent], lake: Lake, instance: dg.DagsterInstance) -> tuple[str, ...]:
    """The steps of the runbook that have happened, in order."""
    happened = {
        "diagnosis": True,
        "decision": find_decision(history) is not None,
        "repair_or_rollback": find_repair(history, lake) is not None,
        "validation": find_validation(history, instance) is not None,
        "closure": find_closure(history) is not None,
    }
    return tuple(step for step in STEPS if happened[step])


@dataclass(frozen=True, slots=True)
class RunbookLook:
    """The runs that record steps, the incidents that have no partition yet, and how many are not closed."""

    requests: tuple[dg.RunRequest, ...]
    new: tuple[str, ...]
    unclosed: int
    reason: str


def look_at_incidents(instance: dg.DagsterInstance, lake: Lake, home: Home) -> RunbookLook:
    """Ask for the steps of each incident that have happened and are not recorded yet."""
    incidents = incidents_of(read_events(lake, home))
    recorded = {step: instance.get_materialized_partitions(dg.AssetKey([GROUP, step])) for step in STEPS}
    unclosed = {name: history for name, history in incidents.items() if name not in recorded["closure"]}
    requests = []
    for name, history in unclosed.items():
        due = [x for x in steps_due(history, lake, instance) if name not in recorded[x]]
        if due:
            requests.append(
                dg.RunRequest(
                    run_key=f"{name}|{','.join(due)}",
                    job_name=GROUP,
                    partition_key=name,
                    asset_selection=[dg.AssetKey([GROUP, step]) for step in due],
                    tags={MODEL: history[0].model},
                )
            )
    known = set(instance.get_dynamic_partitions("incident"))
    new = tuple(request.partition_key for request in requests if request.partition_key not in known)
    reason = f"{len(incidents)} incidents; " + (
        f"steps of {len(requests)} are recorded" if requests else "every step that has happened is recorded"
    )
    return RunbookLook(tuple(requests), tuple(key for key in new if key), len(unclosed), reason)


def _taken(step: StepTaken | None, history: Sequence[IncidentEvent], otherwise: str) -> dg.MaterializeResult:
    if step is None:
        raise IncidentError(f"incident {history[0].incident_id}: {otherwise} {history[0].incident_id}")
    return dg.MaterializeResult(metadata=step.metadata)
