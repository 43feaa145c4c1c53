"""A platform on which all is well, and what must be otherwise for each alert to fire, as series for promtool."""

import math
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from clinical_assets.metrics import model_figures, platform_figures, series
from clinical_assets.metrics.series import Family, Sample, shown_name
from clinical_assets.protocol import SILENT_MONTHS, ModelProtocol, Verdict

LONG = 20
"""Minutes that a situation lasts; longer than any rule waits."""

Series = dict[str, float | None]
"""The series by name and labels; None for one that ceases to be."""


def named(family: Family, **labels: str) -> str:
    """A series as promtool writes it."""
    written = ",".join(
        f'{name}="{value}"' for name, value in ({"instance": "home", "job": "clinical"} | labels).items()
    )
    return f"{shown_name(family)}{{{written}}}"


def of(samples: list[Sample]) -> Series:
    return {named(x.family, **x.labels): x.value for x in samples}


def all_is_well(protocol: ModelProtocol) -> Series:
    """One model within its limits, and a platform at work; one figure is withheld, which is no alarm."""
    model = protocol.model
    samples = [
        *model_figures.protocol_figures(protocol),
        *platform_figures.limit_figures(),
        *model_figures.verdict_figures(model, date(1970, 1, 1), Verdict.STABLE),
        series.MODEL_LIVE.at(1, model=model),
        series.MODEL_RELEASES.at(1, model=model),
        series.NEWEST_MONTH.at(0, model=model),
        series.DUE_MONTH.at(0, model=model),
        series.SENSITIVITY_ALARM.at(0, model=model, subgroup="sex=female"),
        series.DAEMON_HEALTHY.at(1, daemon_type="SENSOR", required="true"),
        series.DAEMON_HEALTHY.at(0, daemon_type="SCHEDULER", required="false"),
        series.SENSOR_TICK_STATUS.at(1, sensor_name="home_watch", location="here", status="skipped"),
        series.ASSET_MATERIALISED.at(0, asset_key=f"{model}/features"),
        series.AUDIT_HEAD.at(0),
        series.SIGNATURE_EXPIRES.at(1e9, model=model, version="2", role="mlops"),
        series.RELEASE_EXPIRES.at(1e9, model=model),
        series.SIGNER_KEY_EXPIRES.at(1e9, role="mlops"),
        series.INCIDENTS_OPEN.at(1, model=model, severity="at_once", cause="roll_back", state="acknowledged"),
        series.EXPORTER_SUCCESS.at(1),
    ]
    told = of(samples) | {'up{instance="home",job="clinical"}': 1.0}
    for limit in protocol.acceptance:
        low = limit.at_least if limit.at_least is not None else -1.0
        high = limit.at_most if limit.at_most is not None else low + 1
        for subgroup in ("overall", "sex=female"):
            if limit.metric != SILENT_MONTHS and limit.not_worse_than is None:
                told |= interval(protocol, limit.metric, subgroup, low - 0.1, high + 0.1)
    told |= interval(protocol, "loss_of_auroc", "overall", -0.1, 0.1, "estimated")
    return told | interval(protocol, "auroc", "sex=unknown", math.nan, math.nan)


def interval(
    protocol: ModelProtocol, metric: str, subgroup: str, low: float, high: float, state: str = "realised"
) -> Series:
    labels = {"model": protocol.model, "metric": metric, "subgroup": subgroup, "state": state}
    return {named(series.MODEL_METRIC_LOW, **labels): low, named(series.MODEL_METRIC_HIGH, **labels): high}


def _verdict(protocol: ModelProtocol, verdict: Verdict) -> Series:
    return of(list(model_figures.verdict_figures(protocol.model, date(1970, 1, 1), verdict)))


def _incident(protocol: ModelProtocol, severity: str) -> dict[str, str]:
    return {"model": protocol.model, "severity": severity, "cause": "fix_data"}


SITUATIONS: Mapping[str, Callable[[ModelProtocol], Series]] = {
    "ClinicalNoModelLive": lambda p: {named(series.MODEL_LIVE, model=p.model): 0},
    "ClinicalDataFault": lambda p: _verdict(p, Verdict.DATA_FAULT),
    "ClinicalConceptShift": lambda p: _verdict(p, Verdict.CONCEPT_SHIFT),
    "ClinicalSensitivityFallen": lambda p: {named(series.SENSITIVITY_ALARM, model=p.model, subgroup="sex=female"): 1},
    "ClinicalDataStale": lambda p: {named(series.DUE_MONTH, model=p.model): 86_400},
    "ClinicalMetricBelowLimit": lambda p: interval(p, "auroc", "overall", 0.3, 0.4),
    "ClinicalMetricAboveLimit": lambda p: interval(p, "brier", "overall", 0.8, 0.9),
    "ClinicalSubgroupBelowLimit": lambda p: interval(p, "ppv", "sex=female", 0.01, 0.02),
    "ClinicalSubgroupAboveLimit": lambda p: interval(p, "ppv", "sex=female", 0.96, 0.99),
    "ClinicalEstimatedLoss": lambda p: interval(p, "loss_of_auroc", "overall", 0.1, 0.2, "estimated"),
    "ClinicalRollbackFloor": lambda p: interval(p, "sensitivity", "overall", 0.01, 0.02),
    "ClinicalSignatureExpiring": lambda p: {
        named(series.SIGNATURE_EXPIRES, model=p.model, version="2", role="mlops"): 86_400
    },
    "ClinicalReleaseExpiring": lambda p: {named(series.RELEASE_EXPIRES, model=p.model): 86_400},
    "ClinicalIncidentAtOnce": lambda p: {named(series.INCIDENTS_OPEN, **_incident(p, "at_once"), state="open"): 1},
    "ClinicalIncidentUnacknowledged": lambda p: {
        named(series.INCIDENT_UNACKNOWLEDGED, **_incident(p, "today")): -9 * 3_600
    },
    "ClinicalDaemonSilent": lambda _: {named(series.DAEMON_HEALTHY, daemon_type="SENSOR", required="true"): 0},
    "ClinicalSensorFailing": lambda _: {
        named(series.SENSOR_TICK_STATUS, sensor_name="home_watch", location="here", status="failure"): 1
    },
    "ClinicalAuditHeadStopped": lambda p: {named(series.ASSET_MATERIALISED, asset_key=f"{p.model}/features"): 301},
    "ClinicalOutboxStuck": lambda _: {named(series.OUTBOX_OLDEST): 0},
    "ClinicalSignerKeyExpiring": lambda _: {named(series.SIGNER_KEY_EXPIRES, role="mlops"): 86_400},
    "ClinicalExporterFailing": lambda _: {named(series.EXPORTER_SUCCESS): 0},
    "ClinicalExporterSilent": lambda _: {'up{instance="home",job="clinical"}': 0},
}
"""What is otherwise where an alert must fire."""

BARELY: Mapping[str, Callable[[ModelProtocol], Series]] = {
    "no release yet": lambda p: {
        named(series.MODEL_LIVE, model=p.model): 0,
        named(series.MODEL_RELEASES, model=p.model): 0,
    },
    "a population shift": lambda p: _verdict(p, Verdict.POPULATION_SHIFT),
    "a month of which nobody can tell": lambda p: _verdict(p, Verdict.CANNOT_TELL),
    "an interval that still holds the limit": lambda p: interval(p, "auroc", "overall", 0.3, 0.66),
    "a loss that is not shown": lambda p: interval(p, "loss_of_auroc", "overall", 0.01, 0.2, "estimated"),
    "an incident just opened": lambda p: {named(series.INCIDENT_UNACKNOWLEDGED, **_incident(p, "today")): 0},
    "an audit trail a moment behind": lambda p: {
        named(series.ASSET_MATERIALISED, asset_key=f"{p.model}/features"): 299
    },
    "figures that are withheld": lambda p: interval(p, "auroc", "overall", math.nan, math.nan),
}
"""What is otherwise and no alarm."""


def promtool_test(
    rules: str, protocol: ModelProtocol, changes: Series, alerts: list[tuple[str, str]]
) -> dict[str, Any]:
    """A test of promtool's: under these changes exactly these alerts fire, by name and model, and no other."""
    told = {name: value for name, value in (all_is_well(protocol) | changes).items() if value is not None}
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": _written(value)} for name, value in told.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname, model) (ALERTS{alertstate="firing"})',
                "eval_time": f"{LONG}m",
                "exp_samples": [{"labels": _alert(name, model), "value": 1} for name, model in alerts],
            }
        ],
    }


def _alert(name: str, model: str) -> str:
    of_model = f',model="{model}"' if model else ""
    return f'{{alertname="{name}"{of_model}}}'


def _written(value: float) -> str:
    """The same value every minute, in promtool's notation."""
    return " ".join(["NaN"] * (LONG + 1)) if math.isnan(value) else f"{value}+0x{LONG}"
