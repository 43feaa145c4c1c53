"""When things happen by themselves: jobs, schedules and sensors of one model, as functions the stamp calls.

Belongs here: what starts a run, and when. Does not belong here: any statistic; a sensor reads verdicts and records.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
from dagster._core.events.log import EventLogEntry
from pydantic import TypeAdapter

from clinical_assets.governance.incidents import Breach
from clinical_assets.governance.signatures import last_words, read_signatures
from clinical_assets.lifecycle.breaches import incident_when_breached
from clinical_assets.lifecycle.conditions import REPAIR
from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.lifecycle.incidents import MODEL, open_incident
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.monitoring.repair_request import RepairHistory, RepairNotice, request_repair
from clinical_assets.protocol import ModelProtocol, Repair
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import HomeResource

MONTH = "clinical/month"
RETRAINING, SILENT = "clinical/retraining", "clinical/silent_run"
PLANS_PER_TICK = 60
SENSOR_SECONDS = 5
NEWEST_RELEASED = "newest_released"
"""What a materialisation of `release` tells of all versions released so far: a rollback makes an older one live."""
NOTHING_LIVE = "none"
"""The version that a materialisation of `release` tells once the live one was withdrawn."""

INTAKE = ("identified_feed", "dataset", "data_quality", "features")
MONTHLY = (
    *INTAKE,
    "predictions",
    "profile",
    "estimated_performance",
    "drift_report",
    "performance_report",
    "repair_plan",
)
DEVELOPMENT_CHAIN = ("protocol", "training_set", "trained_model", "evaluation", "silent_run", "validation_report")
SILENT_MONTH = ("silent_run", "validation_report")
NOTICES = TypeAdapter(list[RepairNotice])
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
        job("release", ("sign_off", "release"), "The release of a signed candidate"),
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


def sensors(protocol: ModelProtocol) -> list[dg.SensorDefinition]:
    """What watches one model: its months, its repair plans, its signatures."""
    return [
        dg.AutomationConditionSensorDefinition(
            f"{protocol.model}_months_flow",
            target=dg.AssetSelection.groups(protocol.model),
            default_status=dg.DefaultSensorStatus.RUNNING,
            run_tags={MODEL: protocol.model, TRIGGER: "automation"},
        ),
        repair_when_due(protocol),
        *([silent_run_when_month_arrived(protocol)] if protocol.silent_months else []),
        release_when_signed(protocol),
        record_when_rejected(protocol),
        incident_when_breached(protocol),
    ]


def repair_when_due(protocol: ModelProtocol) -> dg.SensorDefinition:
    """The sensor that steps through every new repair plan and asks for the one candidate that the plans call for.

    Its cursor holds how far it has looked, and the notices that no repair has met yet.
    """
    model = protocol.model

    @dg.sensor(
        name=f"{model}_repair_when_due",
        job_name=f"{model}_retraining",
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Steps through every new repair plan of {model} and asks for the candidate that is due.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, home: HomeResource, lake: LakeResource
    ) -> dg.SensorResult | dg.SkipReason:
        cursor = json.loads(context.cursor or '{"storage_id": 0, "pending": []}')
        instance = context.instance
        plans = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey([model, "repair_plan"]), after_storage_id=cursor["storage_id"]),
            limit=PLANS_PER_TICK,
            ascending=True,
        ).records
        pending = NOTICES.validate_python(cursor["pending"])
        if not plans and not pending:
            return dg.SkipReason(f"no repair plan of {model} since the last look")
        for plan in plans:
            if breach := breach_of(plan.event_log_entry, model):
                open_incident(lake.open(), home.open(), breach)
        notices = {notice.month: notice for notice in [*pending, *(notice_of(x.event_log_entry) for x in plans)]}
        history = repair_history(instance, model)
        decision = request_repair(
            list(notices.values()),
            champion_version(instance, model),
            newest_month(instance, model, "repair_plan"),
            protocol.retraining.cool_down_days,
            history,
            awaited_candidate(instance, home.open(), protocol),
        )
        remaining = {
            "storage_id": plans[-1].storage_id if plans else cursor["storage_id"],
            "pending": [asdict(notice) for notice in decision.pending],
        }
        reason = "; ".join(decision.reasons)
        if (due := decision.due) is None:
            return dg.SensorResult(skip_reason=dg.SkipReason(reason), cursor=json.dumps(remaining, default=str))
        attempt = history.failed_months.count(due.month)
        context.log.info(f"repairing {model}: {reason}")
        request = dg.RunRequest(
            run_key=f"{model}|{due.month:%Y-%m}|v{due.champion_version}" + (f"|retry {attempt}" if attempt else ""),
            tags={
                MODEL: model,
                TRIGGER: "repair",
                REPAIR: due.repair.value,
                MONTH: due.month.isoformat(),
                "clinical/reason": reason[:500],
            },
        )
        return dg.SensorResult(run_requests=[request], cursor=json.dumps(remaining, default=str))

    return sensor


def silent_run_when_month_arrived(protocol: ModelProtocol) -> dg.SensorDefinition:
    """The sensor that has the newest candidate score each month that arrives, in silence, as long as it must."""
    model = protocol.model

    @dg.sensor(
        name=f"{model}_silent_run_when_month_arrived",
        job_name=f"{model}_silent_month",
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Has the newest candidate of {model} score new months, shown to nobody, before it may be signed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        candidate = waiting_candidate(context.instance, model)
        if isinstance(candidate, dg.SkipReason):
            return candidate
        if not candidate.silent_months_left:
            return dg.SkipReason(f"version {candidate.version} has run its silent months")
        newest = newest_month(context.instance, model, "features")
        if newest <= candidate.features_through:
            return dg.SkipReason(
                f"version {candidate.version} has {candidate.silent_months_left} silent months to run, and none has "
                f"arrived since {candidate.features_through:%Y-%m}"
            )
        return dg.RunRequest(
            run_key=f"{model}|v{candidate.version}|silent|{newest:%Y-%m}",
            tags={MODEL: model, TRIGGER: "month", SILENT: str(candidate.version)},
        )

    return sensor


def release_when_signed(protocol: ModelProtocol) -> dg.SensorDefinition:
    """The sensor that asks for the release of the newest candidate once every role has approved it."""
    model = protocol.model

    @dg.sensor(
        name=f"{model}_release_when_signed",
        job_name=f"{model}_release",
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Asks for the release of the newest candidate of {model} once every role has signed it.",
    )
    def sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.RunRequest | dg.SkipReason:
        candidate = waiting_candidate(context.instance, model)
        if isinstance(candidate, dg.SkipReason):
            return candidate
        signatures = read_signatures(home.open().sign_offs, model, candidate.version)
        words = last_words(signatures)
        if rejected := sorted(word.signer for word in words if word.decision == "reject"):
            return dg.SkipReason(f"version {candidate.version} was rejected by {', '.join(rejected)}")
        approved = {word.role for word in words}
        if missing := [role for role in protocol.sign_off.roles if role not in approved]:
            return dg.SkipReason(f"version {candidate.version} waits for approval as {', '.join(missing)}")
        # One more signature, or a new report, is a reason to try again; the same ones are not.
        signed = max(signature.statement.signed_at for signature in signatures)
        return dg.RunRequest(
            run_key=f"{model}|v{candidate.version}|{candidate.report_sha256[:12]}|{len(signatures)}|{signed}",
            tags={MODEL: model, TRIGGER: "signatures"},
        )

    return sensor


def record_when_rejected(protocol: ModelProtocol) -> dg.SensorDefinition:
    """The sensor that has the signatures on a rejected candidate recorded, since no release will."""
    model = protocol.model

    @dg.sensor(
        name=f"{model}_record_when_rejected",
        job_name=f"{model}_sign_off",
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Records the signatures on the newest candidate of {model} when somebody has rejected it.",
    )
    def sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.RunRequest | dg.SkipReason:
        candidate = waiting_candidate(context.instance, model)
        if isinstance(candidate, dg.SkipReason):
            return candidate
        signatures = read_signatures(home.open().sign_offs, model, candidate.version)
        if all(word.decision == "approve" for word in last_words(signatures)):
            return dg.SkipReason(f"nobody has rejected version {candidate.version}")
        return dg.RunRequest(
            run_key=f"{model}|v{candidate.version}|rejected|{len(signatures)}",
            tags={MODEL: model, TRIGGER: "signatures"},
        )

    return sensor


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


def awaited_candidate(instance: dg.DagsterInstance, home: Home, protocol: ModelProtocol) -> int | None:
    """The candidate that runs its silent months, or has and may be signed: until it is decided on, none is trained."""
    candidate = waiting_candidate(instance, protocol.model)
    if not protocol.silent_months or isinstance(candidate, dg.SkipReason) or not candidate.may_pass:
        return None
    words = last_words(read_signatures(home.sign_offs, protocol.model, candidate.version))
    return None if any(word.decision == "reject" for word in words) else candidate.version


def recorded(entry: EventLogEntry, name: str) -> Any:
    """A value from the metadata of a materialisation."""
    materialization = entry.asset_materialization
    if materialization is None:
        raise dg.DagsterInvariantViolationError("only a materialisation records metadata")
    return materialization.metadata[name].value


def notice_of(entry: EventLogEntry) -> RepairNotice:
    """A repair plan's materialisation, as the rule of repair sees it."""
    materialization = entry.asset_materialization
    return RepairNotice(
        month=month_of(str(materialization.partition if materialization else None)),
        champion_version=int(recorded(entry, "repair/champion_version")),
        repair=Repair(recorded(entry, "repair/repair")),
        reason=str(recorded(entry, "repair/reason")),
    )


def breach_of(entry: EventLogEntry, model: str) -> Breach | None:
    """The breach that a repair plan tells of where people must act: mend the data, or roll back."""
    notice = notice_of(entry)
    if notice.repair not in (Repair.FIX_DATA, Repair.ROLL_BACK):
        return None
    return Breach.of_plan(
        model,
        notice.repair,
        columns=str(recorded(entry, "repair/columns")),
        run_id=entry.run_id,
        reason=notice.reason,
        month=notice.month,
        seen_at=datetime.fromtimestamp(entry.timestamp, UTC),
    )


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
