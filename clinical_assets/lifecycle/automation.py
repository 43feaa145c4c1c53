"""The jobs and the calendar of one model, as functions the stamp calls, and what the records of their runs say.

Belongs here: what a run is made of, and readers of Dagster's records. Does not belong here: when a run is asked for
otherwise than by the calendar (model_watch.py, months_flow.py), and any statistic.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
from dagster._core.events.log import EventLogEntry

from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.lifecycle.incidents import MODEL
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.monitoring.repair_request import RepairHistory
from clinical_assets.protocol import ModelProtocol

MONTH = "clinical/month"
RETRAINING, SILENT = "clinical/retraining", "clinical/silent_run"
NEWEST_RELEASED = "newest_released"
"""What a materialisation of `release` tells of all versions released so far: a rollback makes an older one live."""
NOTHING_LIVE = "none"
"""The version that a materialisation of `release` tells once the live one was withdrawn."""

INTAKE = ("identified_feed", "dataset", "data_quality", "features")
MONTHLY = (
    *INTAKE,
    "predictions",
    "scored_history",
    "profile",
    "estimated_performance",
    "drift_report",
    "performance_report",
    "repair_plan",
)
DEVELOPMENT_CHAIN = ("protocol", "training_set", "trained_model", "evaluation", "silent_run", "validation_report")
SILENT_MONTH = ("silent_run", "validation_report")
RELEASE = ("sign_off", "release", "release_pin")
ASSETS = (*MONTHLY, *DEVELOPMENT_CHAIN, *RELEASE)
"""Every asset of a model that is made in a run."""
IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def jobs(protocol: ModelProtocol) -> list[Any]:
    """The jobs of one model: a month's intake, a whole month, a retraining, a release, a look at ripened outcomes."""
    model = protocol.model

    def job(name: str, assets: tuple[str, ...], description: str, **tags: str) -> Any:
        return dg.define_asset_job(
            f"{model}_{name}",
            dg.AssetSelection.assets(*([model, asset] for asset in assets)),
            description=description,
            tags={MODEL: model, **tags},
            executor_def=dg.in_process_executor,
        )

    return [
        job("intake", INTAKE, "A month's rows, from the archive to what the estimator sees"),
        job("month", MONTHLY, "A whole month: rows, scores, profile, drift, performance"),
        job("ripening", ("performance_report",), "What a month's ripened outcomes say of the champion"),
        job("retraining", DEVELOPMENT_CHAIN, "A new candidate with its validation report", **{RETRAINING: model}),
        job("silent_month", SILENT_MONTH, "What a candidate says of months that have arrived since, shown to nobody"),
        job("release", RELEASE, "The release of a signed candidate"),
        job("sign_off", ("sign_off",), "The signatures on a candidate that is not released"),
    ]


def schedules(protocol: ModelProtocol) -> list[dg.ScheduleDefinition]:
    """The protocol's calendar of retraining."""
    months = {"monthly": "*", "quarterly": "1,4,7,10", "yearly": "1"}[protocol.retraining.cadence]
    return [
        dg.ScheduleDefinition(
            name=f"{protocol.model}_retraining_{protocol.retraining.cadence}",
            job_name=f"{protocol.model}_retraining",
            cron_schedule=f"0 8 2 {months} *",
            tags={TRIGGER: "calendar"},
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=f"Retrains {protocol.model} {protocol.retraining.cadence}, as its protocol says.",
        )
    ]


@dataclass(frozen=True, slots=True)
class WaitingCandidate:
    """The newest candidate, which is not the champion, and the report that is to be signed."""

    version: int
    report_sha256: str
    silent_months_left: int
    may_pass: bool
    features_through: date


def waiting_candidate(instance: dg.DagsterInstance, model: str) -> WaitingCandidate | dg.SkipReason:
    """The newest candidate where one waits for signatures, else why none does."""
    report = instance.get_latest_materialization_event(dg.AssetKey([model, "validation_report"]))
    if report is None:
        return dg.SkipReason(f"{model} has no candidate yet")
    candidate = int(recorded(report, "version"))
    if candidate == champion_version(instance, model):
        return dg.SkipReason(f"version {candidate} is the champion")
    if candidate <= newest_released(instance, model):
        return dg.SkipReason(
            f"version {candidate} was rolled back or withdrawn; have it signed anew and materialise {model}/release, "
            "or train anew"
        )
    return WaitingCandidate(
        version=candidate,
        report_sha256=str(recorded(report, "report_sha256")),
        silent_months_left=int(recorded(report, "silent_months_left")),
        may_pass=bool(recorded(report, "may_pass")),
        features_through=date.fromisoformat(recorded(report, "features_through")),
    )


def recorded(entry: EventLogEntry, name: str) -> Any:
    """A value from the metadata of a materialisation."""
    materialization = entry.asset_materialization
    if materialization is None:
        raise dg.DagsterInvariantViolationError("only a materialisation records metadata")
    return materialization.metadata[name].value


def month_of(partition: str) -> date:
    """The first day of a partition's month."""
    return MONTHS.time_window_for_partition_key(partition).start.date()


def champion_version(instance: dg.DagsterInstance, model: str) -> int | None:
    """The version that is live, or None."""
    entry = instance.get_latest_materialization_event(dg.AssetKey([model, "release"]))
    version = recorded(entry, "version") if entry else NOTHING_LIVE
    return None if version == NOTHING_LIVE else int(version)


def newest_released(instance: dg.DagsterInstance, model: str) -> int:
    """The highest version that was ever released, whatever is live since; 0 where none was."""
    entry = instance.get_latest_materialization_event(dg.AssetKey([model, "release"]))
    if entry is None:
        return 0
    names = entry.asset_materialization.metadata if entry.asset_materialization else {}
    return int(recorded(entry, NEWEST_RELEASED if NEWEST_RELEASED in names else "version"))


def newest_month(instance: dg.DagsterInstance, model: str, asset: str) -> date:
    """The newest month of which there is a monthly asset."""
    partitions = instance.get_materialized_partitions(dg.AssetKey([model, asset]))
    return month_of(max(partitions))


def repair_history(instance: dg.DagsterInstance, model: str) -> RepairHistory:
    """What the run records say of the repairs so far, and whether any candidate is being made."""
    runs = instance.get_runs(dg.RunsFilter(tags={RETRAINING: model, TRIGGER: "repair"}))
    months = {run.run_id: date.fromisoformat(run.tags[MONTH]) for run in runs}
    finished = [run.run_id for run in runs if run.status is dg.DagsterRunStatus.SUCCESS]
    failed = [run.run_id for run in runs if run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)]
    return RepairHistory(
        in_flight=bool(instance.get_runs(dg.RunsFilter(tags={RETRAINING: model}, statuses=IN_FLIGHT), limit=1)),
        last_month=max((months[run_id] for run_id in finished), default=None),
        failed_months=tuple(months[run_id] for run_id in failed),
    )
