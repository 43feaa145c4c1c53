"""How an incident's diagnosis is gathered: from the lake's tables, the ledger, and the runs that wrote them.

Belongs here: the walk along one month's lineage to the first abnormal asset. Does not belong here: what a diagnosis
consists of (governance/diagnosis.py), and its looks.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from clinical_assets.governance.diagnosis import (
    Diagnosis,
    GroupSensitivity,
    Link,
    LiveVersion,
    MovedColumn,
    QualityFault,
    actions_for,
    owners_of,
    shown_count,
)
from clinical_assets.governance.incidents import (
    Cause,
    Incident,
    faults_of_events,
)
from clinical_assets.governance.ledger import LedgerError, last_of, why_nothing_is_live
from clinical_assets.governance.platform_key import platform_key
from clinical_assets.governance.signers import read_signers
from clinical_assets.learning.scoring import OUTPUTS
from clinical_assets.lifecycle.incidents import history_of, is_demo
from clinical_assets.monitoring.abnormal_month import unusual_rows, worse_faults
from clinical_assets.protocol import Judgement, ModelProtocol, Verdict, protocol_names, read_protocol
from clinical_assets.reporting.incident_page import render_incident
from clinical_assets.resources.home import Home, write_atomically
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.ledger import read_ledger

LINEAGE = ("dataset", "data_quality", "features", "predictions", "drift_report", "performance_report")
SHOWN_COLUMNS = 12
JOINTLY = "(jointly)"


def diagnose(lake: Lake, home: Home, incident_id: str) -> Diagnosis:
    """Everything that is known of an incident; raises IncidentError where there is none of this name."""
    history = history_of(lake, home, incident_id)
    incident = Incident.of(history)
    protocols = [read_protocol(name) for name in protocol_names() if incident.model == name]
    month = incident.first_month or _month_of_run(lake, incident)
    tables = _MonthTables(lake, incident.model, month)
    drift, quality = tables.drift, tables.of_all_months("data_quality")
    groups, groups_month = _sensitivities(tables.of_all_months("performance_report"), incident.last_month or month)
    live, nothing_live = _live_version(lake, incident.model)
    faults = worse_faults(quality, month) if month and quality.height else pl.DataFrame()
    return Diagnosis(
        incident=incident,
        events=tuple(history),
        faults=faults_of_events(history, read_signers(home.signer_files), platform_key(home.keys).public_key),
        gathered_at=datetime.now(UTC),
        demo=is_demo(incident.model),
        title=protocols[0].title if protocols else "The platform",
        owners=owners_of(protocols or [read_protocol(name) for name in protocol_names()]),
        actions=actions_for(incident),
        live=live,
        nothing_live=nothing_live,
        month=month,
        verdict=drift["verdict"][0] if drift.height else "",
        severity=drift["severity"][0] if drift.height else None,
        tolerated_loss=protocols[0].monitoring.tolerated_loss if protocols else None,
        drift_reason=drift["reason"][0] if drift.height else "",
        plan=_plan_in_words(tables.of_month("repair_plan")),
        lineage=_walk(tables, incident, faults, protocols) if month else _failed_step(incident),
        columns=_moved(drift),
        quality=tuple(_quality_fault(row) for row in faults.iter_rows(named=True)),
        groups=groups,
        groups_month=groups_month,
        data_origin=drift["data_origin"][0] if drift.height else "",
    )


def write_page(lake: Lake, home: Home, incident_id: str) -> Diagnosis:
    """Diagnose an incident and write its page anew; gives the diagnosis."""
    diagnosis = diagnose(lake, home, incident_id)
    write_atomically(home.incident_page(incident_id), render_incident(diagnosis))
    return diagnosis


class _MonthTables:
    """The tables of one model around one month; a table or a month that is not there is an empty frame."""

    def __init__(self, lake: Lake, model: str, month: date | None) -> None:
        self.month = month
        self._lake, self._model = lake, model
        self._known = {name for name in lake.tables() if name.startswith(f"{model}.")} if month else set()
        self.runs = _writing_runs(lake, model, month) if month else {}
        self.drift, self.performance = self.of_month("drift_report"), self.of_month("performance_report")

    def of_all_months(self, asset: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        table = f"{self._model}.{asset}"
        return self._lake.read(table, columns=columns) if table in self._known else pl.DataFrame()

    def of_month(self, asset: str) -> pl.DataFrame:
        table = f"{self._model}.{asset}"
        if table not in self._known or self.month is None:
            return pl.DataFrame()
        return self._lake.read(table, where={"month": self.month})

    def columns_of(self, asset: str) -> set[str]:
        if f"{self._model}.{asset}" not in self._known:
            return set()
        return set(self._lake.read(f"{self._model}.{asset}", where={"month": date.min}).columns)


def _writing_runs(lake: Lake, model: str, month: date) -> dict[str, str]:
    """The run that last wrote the month of each asset, from the lake's own commits."""
    note = pl.col("message")
    written = (
        lake.snapshots()
        .filter(note.str.starts_with("{"))
        .select(
            run=note.str.json_path_match("$.run_id"),
            asset=note.str.json_path_match("$.asset"),
            partition=note.str.json_path_match("$.partition"),
        )
        .with_columns(pl.col("asset", "partition").str.split(", "))
        .explode("asset", empty_as_null=True)
        .explode("partition", empty_as_null=True)
        .filter(pl.col("asset").str.starts_with(f"{model}/"), partition=f"{month:%Y-%m}")
    )
    return {asset.partition("/")[2]: run for asset, run in written.select("asset", "run").iter_rows()}


def _month_of_run(lake: Lake, incident: Incident) -> date | None:
    """The month that the incident's run wrote to, for incidents of an earlier version, which do not name it."""
    if incident.cause is Cause.FAILED_RUN or not incident.run_id:
        return None
    notes = lake.snapshots().filter(author=incident.run_id)["message"].str.json_path_match("$.partition").drop_nulls()
    return date.fromisoformat(f"{notes[0].partition(', ')[0]}-01") if len(notes) else None


def _walk(
    tables: _MonthTables, incident: Incident, faults: pl.DataFrame, protocols: Sequence[ModelProtocol]
) -> tuple[Link, ...]:
    judged: Mapping[str, tuple[Judgement, str]] = {
        "dataset": _judge_dataset(tables),
        "data_quality": _judge_quality(tables, faults),
        "features": _judge_columns(tables, outputs=False),
        "predictions": _judge_columns(tables, outputs=True),
        "drift_report": _judge_drift(tables.drift, protocols),
        "performance_report": _judge_performance(tables.performance),
    }
    links = [Link(asset, *judged[asset], run_id=tables.runs.get(asset, "")) for asset in LINEAGE]
    failed = incident.step.rpartition("__")[2] if incident.cause is Cause.FAILED_RUN else ""
    return tuple(
        Link(link.asset, Judgement.FAIL, incident.error, incident.run_id) if link.asset == failed else link
        for link in links
    )


def _failed_step(incident: Incident) -> tuple[Link, ...]:
    if incident.cause is not Cause.FAILED_RUN:
        return ()
    return (Link(incident.step.replace("__", "/"), Judgement.FAIL, incident.error, incident.run_id),)


def _judge_dataset(tables: _MonthTables) -> tuple[Judgement, str]:
    kept, month = tables.of_all_months("dataset", ["month"]), tables.month
    rows_of = dict(kept["month"].value_counts().iter_rows()) if kept.height else {}
    rows = rows_of.get(month)
    if rows is None or month is None:
        return Judgement.CANNOT_TELL, "there are no rows of this month"
    if unusual := unusual_rows(rows, [n for other, n in rows_of.items() if other < month]):
        return Judgement.FAIL, unusual
    if own := sorted(set(_flagged(tables)) & tables.columns_of("dataset")):
        return Judgement.FAIL, f"moved in the source itself: {_listed(own)}"
    return Judgement.PASS, f"{rows:,} rows; no column of the source moved"


def _judge_quality(tables: _MonthTables, faults: pl.DataFrame) -> tuple[Judgement, str]:
    if tables.of_month("data_quality").is_empty():
        return Judgement.CANNOT_TELL, "it was not made for this month"
    if faults.is_empty():
        return Judgement.PASS, "no fault is more frequent than in the months before"
    worst = faults.row(0, named=True)
    before = "never looked for before" if worst["rate_before"] is None else f"was {worst['rate_before']:.1%}"
    told = f"{worst['column']} {worst['fault']} in {worst['rate']:.1%}, {before}"
    others = f", and {faults.height - 1} more" if faults.height > 1 else ""
    return Judgement.FAIL, told + others


def _judge_columns(tables: _MonthTables, outputs: bool) -> tuple[Judgement, str]:
    drift = tables.drift
    if drift.is_empty():
        return Judgement.CANNOT_TELL, "no drift report compares this month"
    names = sorted(x for x in drift["column"].unique() if x != JOINTLY and bool(re.match(OUTPUTS, x)) == outputs)
    moved = [name for name in _flagged(tables) if name in names]
    if moved:
        return Judgement.FAIL, f"{len(moved)} of {len(names)} columns moved: {_listed(moved)}"
    return Judgement.PASS, f"none of {len(names)} columns moved"


def _judge_drift(drift: pl.DataFrame, protocols: Sequence[ModelProtocol]) -> tuple[Judgement, str]:
    if drift.is_empty():
        return Judgement.CANNOT_TELL, "it was not made for this month"
    verdict, severity = Verdict(drift["verdict"][0]), drift["severity"][0]
    told = f"{verdict.value.replace('_', ' ')}; the loss of AUROC cannot be estimated"
    if severity is not None:
        told = f"{verdict.value.replace('_', ' ')}; estimated loss of AUROC {severity:.3f}"
        if protocols:
            told += f", and {protocols[0].monitoring.tolerated_loss:g} is tolerated"
    if verdict is Verdict.CANNOT_TELL:
        return Judgement.CANNOT_TELL, told
    return (Judgement.PASS if verdict is Verdict.STABLE else Judgement.FAIL), told


def _judge_performance(performance: pl.DataFrame) -> tuple[Judgement, str]:
    if performance.is_empty() or performance["status"][0] == "not_ripe":
        return Judgement.CANNOT_TELL, "its outcomes cannot be known yet"
    if groups := sorted(performance.filter("alarmed")["subgroup"].unique()):
        return Judgement.FAIL, f"sensitivity has fallen: {_listed(groups)}"
    below = performance.filter("below_baseline")
    if below.height:
        metrics = [name.removeprefix("event_").replace("_", " ") for name in below["metric"].unique().sort()]
        return Judgement.FAIL, f"below what the version reached at its release: {_listed(metrics)}"
    return Judgement.PASS, "nothing lies below what the version reached at its release"


def _flagged(tables: _MonthTables) -> list[str]:
    drift = tables.drift
    return sorted(set(drift.filter(pl.col("flagged") | pl.col("faulty"))["column"]) - {JOINTLY}) if drift.height else []


def _quality_fault(row: Mapping[str, Any]) -> QualityFault:
    rows = shown_count(row["rows"])
    return QualityFault(row["column"], row["subgroup"], row["fault"], row["rate"], row["rate_before"], rows)


def _moved(drift: pl.DataFrame) -> tuple[MovedColumn, ...]:
    if drift.is_empty():
        return ()
    excess = pl.col("value").abs() / pl.col("critical").replace(0.0, None)
    strongest = (
        drift.filter(pl.col("flagged") | pl.col("faulty"), pl.col("column") != JOINTLY)
        .sort("faulty", excess, descending=True, nulls_last=True)
        .unique("column", keep="first", maintain_order=True)
        .head(SHOWN_COLUMNS)
    )
    return tuple(
        MovedColumn(row["column"], row["statistic"], row["value"], row["critical"], row["faulty"])
        for row in strongest.iter_rows(named=True)
    )


def _sensitivities(performance: pl.DataFrame, month: date | None) -> tuple[tuple[GroupSensitivity, ...], date | None]:
    """Each group's sensitivity in the last ripe month up to `month`, or in the first after it."""
    if month is None or performance.is_empty():
        return (), None
    watched = performance.filter(pl.col("alarmed").is_not_null() | (pl.col("metric") == "event_sensitivity"))
    ripe = watched.filter(pl.col("value").is_not_null())
    if ripe.is_empty():
        return (), None
    earlier = ripe.filter(pl.col("month") <= month)
    chosen = earlier["month"].max() if earlier.height else ripe["month"].min()
    rows = ripe.filter(month=chosen).sort(pl.col("subgroup") != "overall", "subgroup")
    shown = [
        GroupSensitivity(
            subgroup=row["subgroup"],
            value=row["value"] if shown_count(row["n"]) else None,
            value_so_far=row["value_so_far"],
            baseline=row["baseline"],
            n=shown_count(row["n"]),
            alarmed=bool(row["alarmed"]),
        )
        for row in rows.iter_rows(named=True)
    ]
    return tuple(shown), chosen if isinstance(chosen, date) else None


def _live_version(lake: Lake, model: str) -> tuple[LiveVersion | None, str]:
    try:
        entries = read_ledger(lake, model)
    except LedgerError as error:
        return None, str(error)
    if (last := last_of(entries)) is None:
        why = why_nothing_is_live(entries)
        return None, "nothing is live" + (f": {why}" if why else "")
    return LiveVersion(last.version, last.live_from, last.kind.value, last.trained_through, last.data_origin), ""


def _plan_in_words(plan: pl.DataFrame) -> str:
    if plan.is_empty():
        return ""
    [chosen] = plan.filter("chosen").head(1).to_dicts()
    return f"{chosen['repair'].replace('_', ' ')}: {chosen['reason']}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
