"""The families of figures that `/metrics` shows, and one sample of one: a name, labels and a number.

Belongs here: every name and label that leaves, so that rules, boards and tests speak of no other. Does not belong here:
where a value comes from, and how a page is served.

Moments are Unix seconds and ages are taken by whoever asks (`time() - x`): an age that was computed once would stand
still while the exporter cannot compute. No label names a patient, a unit or a person.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True, slots=True)
class Family:
    """A figure by its name, with what it says and the labels that tell one of its series from another."""

    name: str
    says: str
    labels: tuple[str, ...] = ()
    kind: Kind = "gauge"

    def at(self, value: float, **labels: object) -> "Sample":
        """One sample of it; raises ValueError where the labels are not the family's."""
        if tuple(sorted(labels)) != tuple(sorted(self.labels)):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        return Sample(self, tuple(str(labels[name]) for name in self.labels), float(value))


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of a family; `values` are those of its labels, in their order."""

    family: Family
    values: tuple[str, ...]
    value: float

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels with their values."""
        return dict(zip(self.family.labels, self.values, strict=True))


_FAMILIES: list[Family] = []


def _family(name: str, says: str, *labels: str, kind: Kind = "gauge") -> Family:
    family = Family(name, says, labels, kind)
    _FAMILIES.append(family)
    return family


ACTIVE_RUNS = _family(
    "dagster_active_runs", "Runs of Dagster that are queued or at work", "job_name", "location", "status"
)
COMPLETED_RUNS = _family(
    "dagster_completed_runs",
    "Runs of Dagster that ended, since its records began",
    *("job_name", "location", "status"),
    kind="counter",
)
DAEMON_HEALTHY = _family(
    "dagster_daemon_healthy",
    "Whether a daemon of Dagster has given a sign of life within the limit daemon_heartbeat",
    *("daemon_type", "required"),
)
DAEMON_HEARTBEAT = _family(
    "dagster_daemon_last_heartbeat_timestamp_seconds", "When a daemon last gave a sign of life", "daemon_type"
)
ASSET_MATERIALISED = _family(
    "dagster_asset_last_materialization_timestamp_seconds", "When an asset was last materialised", "asset_key"
)
SENSOR_STATUS = _family(
    "dagster_sensor_status", "Whether a sensor is running or stopped, as 1", "sensor_name", "location", "status"
)
SENSOR_TICK_STATUS = _family(
    "dagster_sensor_last_tick_status", "How a sensor's last look ended, as 1", "sensor_name", "location", "status"
)
SENSOR_TICK = _family(
    "dagster_sensor_last_tick_timestamp_seconds", "When a sensor last looked", "sensor_name", "location"
)

MODEL_PROTOCOL = _family(
    "clinical_model_protocol_info", "A model with its protocol, as 1", "model", "environment", "protocol_sha256"
)
MODEL_INFO = _family(
    "clinical_model_info",
    "The version that is live by the ledger, as 1",
    *("model", "version", "artefact_sha256", "data_origin"),
)
MODEL_LIVE = _family("clinical_model_live", "Whether a version of the model is live by the ledger", "model")
MODEL_LIVE_SINCE = _family("clinical_model_live_since_timestamp_seconds", "Since when it is", "model", "version")
MODEL_RELEASES = _family("clinical_model_releases", "Releases of the model that the ledger holds", "model")
RELEASE_EXPIRES = _family(
    "clinical_release_expires_timestamp_seconds", "When what is live goes out of service by its protocol", "model"
)
CANDIDATE_WAITING = _family(
    "clinical_candidate_waiting", "Whether a candidate that was signed at least once is not released", "model"
)
SIGNATURE_EXPIRES = _family(
    "clinical_signature_expires_timestamp_seconds",
    "When the approval of a candidate that is not released ceases to count",
    *("model", "version", "role"),
)
SIGNER_KEY_EXPIRES = _family(
    "clinical_signer_key_expires_timestamp_seconds", "When the first key of a role expires", "role"
)

MODEL_METRIC = _family(
    "clinical_model_metric",
    "A figure of the newest month: estimated before outcomes are known, or realised once they matured",
    *("model", "metric", "subgroup", "state"),
)
MODEL_METRIC_LOW = _family(
    "clinical_model_metric_low", "The lower end of its 95 % interval", "model", "metric", "subgroup", "state"
)
MODEL_METRIC_HIGH = _family(
    "clinical_model_metric_high", "The upper end of its 95 % interval", "model", "metric", "subgroup", "state"
)
METRIC_MONTH = _family(
    "clinical_model_metric_month_timestamp_seconds", "The first day of the month it is of", "model", "state"
)
MODEL_LIMIT = _family(
    "clinical_model_limit",
    "What the protocol asks of a figure: of a release (acceptance), month by month (monitoring), or the floor below "
    "which it is rolled back from (rollback_guard)",
    *("model", "metric", "bound", "scope", "source"),
)
SENSITIVITY_ALARM = _family(
    "clinical_sensitivity_alarm",
    "Whether a group's sensitivity has fallen since the release, by the newest matured month; NaN: nobody can tell",
    *("model", "subgroup"),
)
DRIFT_VERDICT = _family("clinical_drift_verdict", "Whether this is the verdict of the newest month", "model", "verdict")
DRIFT_MONTH = _family("clinical_drift_month_timestamp_seconds", "The first day of the month it is of", "model")
REPAIR_PLANNED = _family(
    "clinical_repair_planned", "Whether this is the repair planned for the newest month", "model", "repair"
)
ALERTS_PER_1000 = _family(
    "clinical_alerts_per_1000",
    "Units alerted of 1,000 in the newest month; NaN where a small count is withheld",
    "model",
)
SCORED_ROWS = _family("clinical_scored_rows", "Units scored in the newest month", "model")
SCORING_SECONDS = _family(
    "clinical_scoring_seconds_per_1000_rows", "How long scoring 1,000 units of the newest month took", "model"
)
SCORING_RATE = _family("clinical_scoring_rows_per_second", "Units of the newest month scored in a second", "model")
NEWEST_MONTH = _family(
    "clinical_newest_month_timestamp_seconds", "The first day of the newest month that has data", "model"
)
DUE_MONTH = _family(
    "clinical_due_month_timestamp_seconds",
    "The first day of the month whose data are due by the wall's calendar; of models in production alone",
    "model",
)

INCIDENTS_OPEN = _family(
    "clinical_incidents_open", "Incidents that are not closed", "model", "severity", "cause", "state"
)
INCIDENTS_BY_SEVERITY = _family("clinical_incidents_open_by_severity", "Incidents that are not closed", "severity")
INCIDENT_UNACKNOWLEDGED = _family(
    "clinical_incident_unacknowledged_since_timestamp_seconds",
    "When the oldest incident was opened that nobody has acknowledged",
    *("model", "severity", "cause"),
)
ACKNOWLEDGE_WITHIN = _family(
    "clinical_incident_acknowledge_within_seconds", "How soon somebody must acknowledge an incident", "severity"
)
AUDIT_RECORDS = _family("clinical_audit_records", "Records of the audit trail, by its signed head")
AUDIT_HEAD = _family("clinical_audit_head_timestamp_seconds", "When the newest of them was written")
OUTBOX_PENDING = _family("clinical_outbox_pending", "Notices that some receiver does not have yet")
OUTBOX_OLDEST = _family("clinical_outbox_oldest_timestamp_seconds", "Since when the oldest of them waits")
LAKE_SNAPSHOT = _family("clinical_lake_snapshot", "The lake's newest commit")
PLATFORM_LIMIT = _family("clinical_platform_limit_seconds", "The platform's own limits of time", "limit")
BUILD_INFO = _family("clinical_build_info", "The platform's version, as 1", "version")

EXPORTER_SUCCESS = _family(
    "clinical_exporter_last_scrape_success", "Whether the last computation went well; else the figures are older"
)
EXPORTER_COMPUTED = _family(
    "clinical_exporter_last_success_timestamp_seconds", "When the figures of this page were computed"
)
EXPORTER_SECONDS = _family("clinical_exporter_computation_seconds", "How long the last computation took")
EXPORTER_STARTED = _family("clinical_exporter_start_timestamp_seconds", "When the exporter was started")

FAMILIES: tuple[Family, ...] = tuple(_FAMILIES)
"""Every family, in the order of the page."""


def shown_name(family: Family) -> str:
    """The name under which Prometheus keeps the family: a counter's ends in `_total`."""
    return f"{family.name}_total" if family.kind == "counter" else family.name
