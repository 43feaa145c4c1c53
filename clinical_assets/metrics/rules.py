"""Alert rules, made from the protocols: each compares series with series, and says in plain words what to do.

Belongs here: what is worth waking somebody for. Does not belong here: any limit (they are series, `model_figures` and
`platform_figures`), and how files are written.

The only numbers in a rule are 0 and 1, for what is or is not; how long something may last before it is told is the
rule's `for`. A figure counts as beyond its limit where its whole interval is, as in a judgement; one that is withheld
or undefined is NaN, and no comparison with it is true. Rules keep platforms that one Prometheus watches apart, by
`instance`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clinical_assets.governance.incidents import Severity
from clinical_assets.governance.small_cells import OVERALL
from clinical_assets.metrics.model_figures import (
    ACCEPTANCE,
    AT_LEAST,
    AT_MOST,
    ESTIMATED,
    ESTIMATED_LOSS,
    EVERY_SUBGROUP,
    MONITORING,
    REALISED,
    ROLLBACK_GUARD,
)
from clinical_assets.metrics.platform_figures import AUDIT_LAG, EXPIRY_NOTICE, OUTBOX_WAIT
from clinical_assets.protocol import Limit, ModelProtocol, Verdict

JOB = "clinical"
"""The name under which the scrape configuration has the exporter."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule: a condition in PromQL, how soon somebody must look, and what that person does."""

    name: str
    condition: str
    severity: Severity
    summary: str
    action: str
    command: str
    lasting: str = ""

    def written(self, **labels: str) -> dict[str, Any]:
        """As it stands in a rules file; labels without a value are left out."""
        waits = {"for": self.lasting} if self.lasting else {}
        annotations = {"summary": self.summary, "description": self.action, "runbook": self.command}
        own = {"severity": self.severity.value} | {name: value for name, value in labels.items() if value}
        return {"alert": self.name, "expr": self.condition, **waits, "labels": own, "annotations": annotations}


def rule_groups(protocols: Sequence[ModelProtocol]) -> dict[str, Any]:
    """The content of a rules file: a group for the platform, and one a model."""
    of_models = [
        {
            "name": f"clinical-{protocol.model}",
            "rules": [
                alert.written(model=protocol.model, owner=", ".join(protocol.owners)) for alert in alerts_of(protocol)
            ],
        }
        for protocol in protocols
    ]
    platform = {"name": "clinical-platform", "rules": [alert.written() for alert in platform_alerts()]}
    return {"groups": [platform, *of_models]}


def alerts_of(protocol: ModelProtocol) -> Iterator[Alert]:
    """The alerts of one model, as its protocol asks for them."""
    yield from _alerts_of_what_is_live(protocol)
    yield from _alerts_of_months(protocol)
    yield from _alerts_of_limits(protocol)


def _alerts_of_what_is_live(protocol: ModelProtocol) -> Iterator[Alert]:
    model, title = protocol.model, protocol.title
    yield Alert(
        "ClinicalNoModelLive",
        f'clinical_model_live{{model="{model}"}} == 0'
        f' and on (instance, model) clinical_model_releases{{model="{model}"}} > 0',
        Severity.AT_ONCE,
        f"{title}: no version is live, and nothing is scored",
        "Find out who took the last version out of service and why; tell the wards; put a proven version back, or have "
        "a candidate signed.",
        f'clinical ledger {model}; clinical rollback {model} --to VERSION --reason "..."',
    )
    yield Alert(
        "ClinicalSignatureExpiring",
        f'clinical_signature_expires_timestamp_seconds{{model="{model}"}} - time()'
        f' < on (instance) group_left () clinical_platform_limit_seconds{{limit="{EXPIRY_NOTICE}"}}',
        Severity.THIS_WEEK,
        f"{title}: the approval of version {{{{ $labels.version }}}} as {{{{ $labels.role }}}} expires before it is "
        "released",
        "Ask the roles that have not signed yet to sign or refuse; an expired approval must be given again.",
        f"clinical sign {model} {{{{ $labels.version }}}} --role ROLE",
    )
    if protocol.release_valid_days is not None:
        yield Alert(
            "ClinicalReleaseExpiring",
            f'clinical_release_expires_timestamp_seconds{{model="{model}"}} - time()'
            f' < on (instance) group_left () clinical_platform_limit_seconds{{limit="{EXPIRY_NOTICE}"}}',
            Severity.THIS_WEEK,
            f"{title}: what is live goes out of service by its protocol soon",
            "Have a candidate trained and signed before that day; otherwise nothing is scored from then on.",
            f"clinical ledger {model}",
        )


def _alerts_of_months(protocol: ModelProtocol) -> Iterator[Alert]:
    model, title = protocol.model, protocol.title
    yield Alert(
        "ClinicalDataFault",
        f'clinical_drift_verdict{{model="{model}",verdict="{Verdict.DATA_FAULT}"}} == 1',
        Severity.TODAY,
        f"{title}: the newest month's data are faulty; nothing is retrained for it",
        "Read the incident: it names the column. Have the data corrected at their source, and do not trust this "
        "month's scores until then.",
        "clinical incident list",
    )
    yield Alert(
        "ClinicalConceptShift",
        f'clinical_drift_verdict{{model="{model}",verdict="{Verdict.CONCEPT_SHIFT}"}} == 1',
        Severity.TODAY,
        f"{title}: the outcome given the risk has moved, by outcomes that are known",
        "Read the drift report and the repair plan of the month; a candidate is made where a repair is shown to help, "
        "and needs your signatures.",
        f"clinical status; clinical sign {model} VERSION --role ROLE",
    )
    yield Alert(
        "ClinicalSensitivityFallen",
        f'clinical_sensitivity_alarm{{model="{model}"}} == 1',
        Severity.TODAY,
        f"{title}: sensitivity has fallen since the release ({{{{ $labels.subgroup }}}})",
        "Tell the clinical lead that cases of this group are missed; read the incident, then recalibrate, move the "
        "threshold, or roll back.",
        f'clinical incident list; clinical rollback {model} --reason "..."',
    )
    yield Alert(
        "ClinicalDataStale",
        f'clinical_newest_month_timestamp_seconds{{model="{model}"}}'
        f' < on (instance, model) clinical_due_month_timestamp_seconds{{model="{model}"}}',
        Severity.TODAY,
        f"{title}: the month that is due has not arrived",
        "Ask whoever sends the data; look for a failed run of the intake.",
        "clinical status; clinical incident list",
    )


def _alerts_of_limits(protocol: ModelProtocol) -> Iterator[Alert]:
    model, title = protocol.model, protocol.title
    for scope, subgroup, named in ((OVERALL, "=", "Metric"), (EVERY_SUBGROUP, "!=", "Subgroup")):
        limits = [limit for limit in protocol.acceptance if limit.in_every_subgroup == (scope == EVERY_SUBGROUP)]
        for bound, word in ((AT_LEAST, "Below"), (AT_MOST, "Above")):
            if any(_has_bound(limit, bound) for limit in limits):
                yield Alert(
                    f"Clinical{named}{word}Limit",
                    _beyond(model, bound, REALISED, f'subgroup{subgroup}"{OVERALL}"', scope, ACCEPTANCE),
                    Severity.TODAY,
                    f"{title}: {{{{ $labels.metric }}}} ({{{{ $labels.subgroup }}}}) of the newest month with known "
                    f"outcomes is {word.lower()} its limit, with its whole interval",
                    "Compare with the validation report the version was released on, tell the clinical lead, and "
                    "decide on a repair or on rolling back.",
                    f'clinical status; clinical rollback {model} --reason "..."',
                )
    yield Alert(
        "ClinicalEstimatedLoss",
        _beyond(model, AT_MOST, ESTIMATED, f'metric="{ESTIMATED_LOSS}",subgroup="{OVERALL}"', OVERALL, MONITORING),
        Severity.TODAY,
        f"{title}: more discrimination is lost than the protocol tolerates, by the estimate before outcomes are known",
        "Read the drift report of the month and the repair plan; outcomes will tell whether the estimate holds.",
        "clinical status; clinical incident list",
    )
    if guard := protocol.rollback_guard:
        yield Alert(
            "ClinicalRollbackFloor",
            _beyond(
                model, AT_LEAST, REALISED, f'metric="{guard.metric}",subgroup="{OVERALL}"', OVERALL, ROLLBACK_GUARD
            ),
            Severity.AT_ONCE,
            f"{title}: {guard.metric} is below the floor from which the platform rolls back by itself",
            "See that the version before is live again; if it is not, roll back by hand.",
            f'clinical ledger {model}; clinical rollback {model} --reason "..."',
        )


def _beyond(model: str, bound: str, state: str, which: str, scope: str, source: str) -> str:
    """The condition that the whole interval of a figure lies beyond a limit of the protocol."""
    end, than = ("high", "<") if bound == AT_LEAST else ("low", ">")
    return (
        f'clinical_model_metric_{end}{{model="{model}",state="{state}",{which}}}'
        f" {than} on (instance, model, metric) group_left ()"
        f' clinical_model_limit{{model="{model}",bound="{bound}",scope="{scope}",source="{source}"}}'
    )


def _has_bound(limit: Limit, bound: str) -> bool:
    return (limit.at_least if bound == AT_LEAST else limit.at_most) is not None


def platform_alerts() -> Iterator[Alert]:
    """The alerts of the platform as a whole."""
    yield from _alerts_of_incidents()
    yield from _alerts_of_work()
    yield from _alerts_of_watching()


def _alerts_of_incidents() -> Iterator[Alert]:
    what = "{{ $labels.cause }} of {{ $labels.model }}"
    yield Alert(
        "ClinicalIncidentAtOnce",
        f'clinical_incidents_open{{severity="{Severity.AT_ONCE}",state="open"}} > 0',
        Severity.AT_ONCE,
        f"An incident that cannot wait is open and unacknowledged: {what}",
        "Acknowledge it, read its page, and do what stands there first.",
        'clinical incident list; clinical incident ack INCIDENT --text "..."',
    )
    yield Alert(
        "ClinicalIncidentUnacknowledged",
        "time() - clinical_incident_unacknowledged_since_timestamp_seconds"
        " > on (instance, severity) group_left () clinical_incident_acknowledge_within_seconds",
        Severity.TODAY,
        f"An incident is open and nobody has acknowledged it in time: {what}",
        "Acknowledge it, read its page, and do what stands there first.",
        'clinical incident list; clinical incident ack INCIDENT --text "..."',
    )


def _alerts_of_work() -> Iterator[Alert]:
    yield Alert(
        "ClinicalDaemonSilent",
        'dagster_daemon_healthy{required="true"} == 0',
        Severity.TODAY,
        "Dagster's daemon {{ $labels.daemon_type }} gives no sign of life: no month is carried, nobody is told",
        "Start the daemon again and read its log; what it missed it takes up by itself.",
        "make dev; clinical status",
        lasting="2m",
    )
    yield Alert(
        "ClinicalSensorFailing",
        'dagster_sensor_last_tick_status{status="failure"} == 1',
        Severity.TODAY,
        "The sensor {{ $labels.sensor_name }} fails whenever it looks",
        "Read its last look in Dagster's UI, under Automation.",
        "make dev",
        lasting="10m",
    )
    yield Alert(
        "ClinicalAuditHeadStopped",
        "max by (instance) (dagster_asset_last_materialization_timestamp_seconds)"
        " - on (instance) clinical_audit_head_timestamp_seconds"
        f' > on (instance) clinical_platform_limit_seconds{{limit="{AUDIT_LAG}"}}',
        Severity.AT_ONCE,
        "Assets are materialised, and the audit trail does not grow",
        "Verify the trail; it names the first record that is not to be trusted. Stop the daemon until it is whole.",
        "clinical audit verify",
    )
    yield Alert(
        "ClinicalOutboxStuck",
        "time() - clinical_outbox_oldest_timestamp_seconds"
        f' > on (instance) clinical_platform_limit_seconds{{limit="{OUTBOX_WAIT}"}}',
        Severity.TODAY,
        "A notice to people is not delivered",
        "Send it by hand and see what it says of its channel.",
        "clinical incident notify",
    )
    yield Alert(
        "ClinicalSignerKeyExpiring",
        "clinical_signer_key_expires_timestamp_seconds - time()"
        f' < on (instance) group_left () clinical_platform_limit_seconds{{limit="{EXPIRY_NOTICE}"}}',
        Severity.THIS_WEEK,
        "A key of the role {{ $labels.role }} expires; signatures with it will not count",
        "Have its holder make a new key and have it entered among the signers.",
        "clinical keys list; clinical keys new NAME --role {{ $labels.role }}",
    )


def _alerts_of_watching() -> Iterator[Alert]:
    yield Alert(
        "ClinicalExporterFailing",
        "clinical_exporter_last_scrape_success == 0",
        Severity.TODAY,
        "The exporter cannot compute its figures; those it shows are old",
        "Read the exporter's log; see whether the home answers.",
        "clinical status; clinical metrics --once",
        lasting="1m",
    )
    yield Alert(
        "ClinicalExporterSilent",
        f'up{{job="{JOB}"}} == 0 or absent(up{{job="{JOB}"}})',
        Severity.TODAY,
        "The exporter does not answer: nothing of the platform is watched",
        "Start it again.",
        "clinical metrics",
        lasting="1m",
    )
