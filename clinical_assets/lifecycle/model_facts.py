"""How the facts that a model's questions are asked of are read, from Dagster's records and the folder of signatures.

Belongs here: the reading. Does not belong here: the questions, and when one looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
from dagster._core.events.log import EventLogEntry

from clinical_assets.governance.incidents import Breach
from clinical_assets.governance.ledger import last_of
from clinical_assets.governance.signatures import Signature, SignatureError, read_signatures
from clinical_assets.lifecycle.automation import (
    champion_version,
    month_of,
    recorded,
    repair_history,
    waiting_candidate,
)
from clinical_assets.lifecycle.champion_move import Platform
from clinical_assets.lifecycle.questions.facts import ModelFacts, NewPlan
from clinical_assets.monitoring.hard_floor import fallen_below
from clinical_assets.monitoring.repair_request import RepairNotice
from clinical_assets.protocol import ModelProtocol, Repair
from clinical_assets.resources.home import Home
from clinical_assets.resources.ledger import read_ledger

REPORTS_PER_LOOK = 60


@dataclass(frozen=True, slots=True)
class NewReports:
    """The materialisations of one asset since the last look, and how far this look has come; no more than a look takes.

    `more` where there are others still.
    """

    entries: tuple[EventLogEntry, ...]
    seen: int
    more: bool

    @classmethod
    def of(cls, instance: dg.DagsterInstance, model: str, asset: str, after: int) -> "NewReports":
        """Those after an event, oldest first: every one, and not the newest alone."""
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey([model, asset]), after_storage_id=after),
            limit=REPORTS_PER_LOOK,
            ascending=True,
        ).records
        entries = tuple(record.event_log_entry for record in records)
        return cls(entries, records[-1].storage_id if records else after, len(records) == REPORTS_PER_LOOK)


def read_facts(
    at: Platform,
    protocol: ModelProtocol,
    reports: Mapping[str, tuple[EventLogEntry, ...]],
    pending: tuple[RepairNotice, ...] = (),
) -> ModelFacts:
    """All that the questions of one model are asked of; `reports` are the new ones by asset, oldest first."""
    model, instance = protocol.model, at.instance
    waiting = waiting_candidate(instance, model)
    candidate = (waiting.skip_message or "") if isinstance(waiting, dg.SkipReason) else waiting
    plans = tuple(NewPlan(notice_of(entry), breach_of(entry, model)) for entry in reports.get("repair_plan", ()))
    fallen, fallen_by = _fallen(at, protocol)
    version = 0 if isinstance(candidate, str) else candidate.version
    changed = time_of_signatures(at.home, model, version)
    return ModelFacts(
        protocol=protocol,
        today=datetime.now(UTC).date(),
        champion=champion_version(instance, model),
        candidate=candidate,
        signatures=_signatures(at.home, model, version) if version else (),
        signatures_changed=changed,
        newest_features=_newest_month(instance, model, "features"),
        newest_plan=_newest_month(instance, model, "repair_plan") if plans or pending else None,
        plans=plans,
        pending=pending,
        history=repair_history(instance, model),
        drift_reports=reports.get("drift_report", ()),
        performance_reports=reports.get("performance_report", ()),
        fallen=fallen,
        fallen_by=fallen_by,
    )


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


def fallen_champion(at: Platform, protocol: ModelProtocol) -> str:
    """How the champion broke its protocol's floor in the newest ripe month; empty where it did not, or has none."""
    table = f"{protocol.model}.performance_report"
    if protocol.rollback_guard is None or not at.lake.exists(table):
        return ""
    live = last_of(read_ledger(at.lake, protocol.model))
    return fallen_below(at.lake.read(table), protocol.rollback_guard, live.version) if live else ""


def time_of_signatures(home: Home, model: str, version: int) -> int:
    """When a signature on a version was last added, in nanoseconds; 0 where there is none, or no version."""
    return time_of(home.sign_offs / model / f"v{version}") if version else 0


def time_of(path: Path) -> int:
    """When a file or folder last changed, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _fallen(at: Platform, protocol: ModelProtocol) -> tuple[str, int]:
    if protocol.rollback_guard is None:
        return "", 0
    key = dg.AssetKey([protocol.model, "performance_report"])
    newest = at.instance.fetch_materializations(key, limit=1).records
    return (fallen_champion(at, protocol), newest[0].storage_id) if newest else ("", 0)


def _signatures(home: Home, model: str, version: int) -> tuple[Signature, ...] | SignatureError:
    try:
        return tuple(read_signatures(home.sign_offs, model, version))
    except SignatureError as error:
        return error


def _newest_month(instance: dg.DagsterInstance, model: str, asset: str) -> date | None:
    partitions = instance.get_materialized_partitions(dg.AssetKey([model, asset]))
    return month_of(max(partitions)) if partitions else None
