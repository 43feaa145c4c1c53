"""Grafana's boards, made from the protocols: one for the platform, one for who is on call, one a model.

Belongs here: which panels stand on which board, and the JSON of a board. Does not belong here: any limit, and how files
are written.

A query of a panel finds at least one series on every home that is at work: what may rightly be nothing is asked for
with a nought beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clinical_assets.governance.small_cells import OVERALL
from clinical_assets.metrics.model_figures import (
    ACCEPTANCE,
    ESTIMATED,
    ESTIMATED_LOSS,
    ESTIMATED_METRICS,
    MONITORING,
    REALISED,
)
from clinical_assets.protocol import SILENT_MONTHS, ModelProtocol
from clinical_assets.reporting.metric_words import describe_metric

SCHEMA_VERSION = 39
_COLUMNS = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """A query in PromQL, and how its series are named in the legend."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: what it shows in which unit, and what a reader needs to know of it."""

    title: str
    queries: tuple[Query, ...]
    kind: Literal["stat", "timeseries"] = "timeseries"
    unit: str = "none"
    says: str = ""
    width: int = 8
    show_name: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """A board: its file's name, its title, and its panels in reading order."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def boards(protocols: Sequence[ModelProtocol]) -> list[Board]:
    """Every board."""
    return [
        Board("platform", "Clinical platform", tuple(_platform())),
        Board("on_call", "Clinical platform: on call", tuple(_on_call())),
        *(Board(f"model_{x.model}", f"Clinical model: {x.title}", tuple(_of_model(x))) for x in protocols),
    ]


def _platform() -> Iterator[Panel]:
    yield _stat("Version of the platform", "clinical_build_info", "{{version}}", show_name=True, width=6)
    yield _stat("Figures computed", "clinical_exporter_last_scrape_success", unit="bool_yes_no", width=6)
    yield _stat("Exporter up for", "time() - clinical_exporter_start_timestamp_seconds", unit="s", width=6)
    yield _stat("Models live", "sum(clinical_model_live)", width=6)
    yield _series("Runs at work", "sum by (status) (dagster_active_runs)", "{{status}}")
    yield _series("Runs ended", "sum by (status) (dagster_completed_runs_total)", "{{status}}")
    yield _series("Verdicts of the newest months", "clinical_drift_verdict == 1", "{{model}}: {{verdict}}")
    yield _series("Daemons healthy", "dagster_daemon_healthy", "{{daemon_type}}", unit="bool_yes_no")
    heartbeat = "time() - dagster_daemon_last_heartbeat_timestamp_seconds"
    yield _series("Daemons' last sign of life", heartbeat, "{{daemon_type}}", unit="s")
    looked = "time() - dagster_sensor_last_tick_timestamp_seconds"
    yield _series("Sensors' last look", looked, "{{sensor_name}}", unit="s")
    yield _series("How the last looks ended", "count by (status) (dagster_sensor_last_tick_status)", "{{status}}")
    materialised = 'time() - dagster_asset_last_materialization_timestamp_seconds{asset_key=~".*/features"}'
    yield _series("Newest data taken in", materialised, "{{asset_key}}", unit="s", says="How long ago, by model")
    yield _series("Commits of the lake", "clinical_lake_snapshot", "snapshot")
    yield _series("Records of the audit trail", "clinical_audit_records", "records")
    yield _series("Age of the audit trail's head", "time() - clinical_audit_head_timestamp_seconds", "head", unit="s")
    yield _series("Notices not delivered", "clinical_outbox_pending", "pending")
    yield _series("Scoring", "clinical_scoring_seconds_per_1000_rows", "{{model}}", unit="s", says="For 1,000 units")
    yield _series("Throughput of scoring", "clinical_scoring_rows_per_second", "{{model}}", unit="rowsps")
    yield _series("Units scored in the newest month", "clinical_scored_rows", "{{model}}")
    yield _series("Time of computing the figures", "clinical_exporter_computation_seconds", "seconds", unit="s")


def _on_call() -> Iterator[Panel]:
    yield _stat("Alerts firing", 'count(ALERTS{alertstate="firing"}) or vector(0)', width=6)
    yield _stat(
        "Open incidents", "clinical_incidents_open_by_severity", "{{severity}}", width=6, says="Not closed, by severity"
    )
    waited = "max(time() - clinical_incident_unacknowledged_since_timestamp_seconds) or vector(0)"
    yield _stat("Longest unacknowledged", waited, unit="s", width=6)
    yield _stat("Notices not delivered", "clinical_outbox_pending", width=6)
    yield _stat("Live", "clinical_model_info", "{{model}} {{version}}", show_name=True)
    yield _stat("Verdict", "clinical_drift_verdict == 1", "{{model}}: {{verdict}}", show_name=True)
    yield _stat("Repair planned", "clinical_repair_planned == 1", "{{model}}: {{repair}}", show_name=True)
    yield _series("Daemons healthy", "dagster_daemon_healthy", "{{daemon_type}}", unit="bool_yes_no", width=12)
    yield _series(
        "Groups whose sensitivity has fallen", "sum by (model) (clinical_sensitivity_alarm)", "{{model}}", width=12
    )
    yield _stat("Candidates waiting for signatures", "sum(clinical_candidate_waiting)")
    expiring = "count(clinical_signature_expires_timestamp_seconds) or vector(0)"
    yield _stat("Approvals that will expire", expiring)
    yield _stat("Acknowledge within", "clinical_incident_acknowledge_within_seconds", "{{severity}}", unit="s")


def _of_model(protocol: ModelProtocol) -> Iterator[Panel]:
    model = f'model="{protocol.model}"'
    yield _stat("Live version", f"clinical_model_info{{{model}}}", "{{version}}", show_name=True, width=4)
    yield _stat(
        "Live for", f"time() - clinical_model_live_since_timestamp_seconds{{{model}}}", "{{version}}", unit="s", width=4
    )
    yield _stat("Verdict", f"clinical_drift_verdict{{{model}}} == 1", "{{verdict}}", show_name=True, width=4)
    yield _stat("Repair planned", f"clinical_repair_planned{{{model}}} == 1", "{{repair}}", show_name=True, width=4)
    yield _stat("Open incidents", f"sum(clinical_incidents_open{{{model}}}) or vector(0)", width=4)
    yield _stat("Candidate waiting", f"clinical_candidate_waiting{{{model}}}", unit="bool_yes_no", width=4)
    limited = (limit.metric for limit in protocol.acceptance)
    for metric in dict.fromkeys((protocol.monitoring.headline, *limited)):
        if metric != SILENT_MONTHS:
            yield _metric_panel(protocol, metric)
    yield _loss_panel(protocol)
    yield _series(
        "Sensitivity by subgroup",
        f'clinical_model_metric{{{model},metric="sensitivity",state="{REALISED}"}}',
        "{{subgroup}}",
        says="Realised; a group whose counts are small is withheld",
    )
    yield _series("Alarm of sensitivity", f"clinical_sensitivity_alarm{{{model}}}", "{{subgroup}}", unit="bool_yes_no")
    yield _series("Alerts of 1,000 units", f"clinical_alerts_per_1000{{{model}}}", "alerts")
    yield _series("Units scored in the newest month", f"clinical_scored_rows{{{model}}}", "units")
    yield _series("Scoring 1,000 units", f"clinical_scoring_seconds_per_1000_rows{{{model}}}", "seconds", unit="s")
    arrived = f'time() - dagster_asset_last_materialization_timestamp_seconds{{asset_key="{protocol.model}/features"}}'
    yield _series("Newest data taken in", arrived, "ago", unit="s")
    yield _stat("Newest month", f"clinical_newest_month_timestamp_seconds{{{model}}} * 1000", unit="dateTimeAsIso")


def _metric_panel(protocol: ModelProtocol, metric: str) -> Panel:
    """One figure: realised with its interval, estimated where that can be, and the limits of the protocol."""
    own = f'model="{protocol.model}",metric="{metric}"'
    realised = f'{own},subgroup="{OVERALL}",state="{REALISED}"'
    queries = [
        Query(f"clinical_model_metric{{{realised}}}", "realised"),
        Query(f"clinical_model_metric_low{{{realised}}}", "realised, low"),
        Query(f"clinical_model_metric_high{{{realised}}}", "realised, high"),
    ]
    if metric in ESTIMATED_METRICS:
        estimated = f'{own},subgroup="{OVERALL}",state="{ESTIMATED}"'
        queries.append(Query(f"clinical_model_metric{{{estimated}}}", "estimated"))
    if any(limit.metric == metric for limit in protocol.acceptance):
        queries.append(Query(f'clinical_model_limit{{{own},source="{ACCEPTANCE}"}}', "limit: {{bound}} ({{scope}})"))
    says = "Realised: the newest month with known outcomes, with its 95 % interval. NaN: withheld, or not defined."
    return Panel(_capitalised(describe_metric(metric, protocol).name), tuple(queries), says=says)


def _loss_panel(protocol: ModelProtocol) -> Panel:
    own = f'model="{protocol.model}",metric="{ESTIMATED_LOSS}"'
    estimated = f'{own},subgroup="{OVERALL}",state="{ESTIMATED}"'
    return Panel(
        "Estimated loss of AUROC",
        (
            *(
                Query(f"clinical_model_metric{end}{{{estimated}}}", f"estimated{says}")
                for end, says in (("", ""), ("_low", ", low"), ("_high", ", high"))
            ),
            Query(f'clinical_model_limit{{{own},source="{MONITORING}"}}', "tolerated"),
        ),
        says="Before outcomes are known",
    )


def _stat(title: str, expression: str, legend: str = "", **more: Any) -> Panel:
    return Panel(title, (Query(expression, legend),), kind="stat", **more)


def _series(title: str, expression: str, legend: str, **more: Any) -> Panel:
    return Panel(title, (Query(expression, legend),), **more)


def _capitalised(words: str) -> str:
    return words[:1].upper() + words[1:]


def board_json(board: Board) -> dict[str, Any]:
    """A board as Grafana imports it; the data source is chosen on the board."""
    panels, column, row, tallest = [], 0, 0, 0
    for number, panel in enumerate(board.panels, start=1):
        height = 5 if panel.kind == "stat" else 8
        if column + panel.width > _COLUMNS:
            column, row, tallest = 0, row + tallest, 0
        place = {"x": column, "y": row, "w": panel.width, "h": height}
        column, tallest = column + panel.width, max(tallest, height)
        panels.append(_panel_json(panel, number, place))
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": f"clinical-{board.name}".replace("_", "-")[:40],
        "title": board.title,
        "tags": ["clinical"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def _panel_json(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + place_of),
            "expr": query.expression,
            "legendFormat": query.legend,
            "datasource": _SOURCE,
        }
        for place_of, query in enumerate(panel.queries)
    ]
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
    if panel.kind == "stat":
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "textMode": "name" if panel.show_name else "value_and_name",
            "colorMode": "none",
        }
    return {
        "id": number,
        "title": panel.title,
        "type": panel.kind,
        "description": panel.says,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": options,
        "targets": targets,
    }
