"""Audit records as events of the Open Cybersecurity Schema Framework (OCSF, schema.ocsf.io), version 1.6.0.

Belongs here: which class of event each action is, and what goes into which attribute. Does not belong here: what is
recorded, and how events are sent.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clinical_assets.governance.audit_trail import AuditRecord

OCSF_VERSION = "1.6.0"
PRODUCT = "clinical-assets"

ENTITY_MANAGEMENT, API_ACTIVITY, DATASTORE_ACTIVITY = 3004, 6003, 6005
OTHER = 99
_READ, _UPDATE, _WRITE = 1, 2, 5  # of datastore activity
_CREATE, _CHANGE, _DISABLE, _ACTIVATE, _DEACTIVATE = 1, 3, 9, 10, 11  # of entity management
_INFORMATIONAL, _MEDIUM, _HIGH = 1, 3, 4
_OPERATIONAL = 5


@dataclass(frozen=True, slots=True)
class EventClass:
    """A class of OCSF's and one of its activities, by their numbers."""

    class_uid: int
    activity_id: int = OTHER


EVENT_CLASSES = {
    "materialise": EventClass(DATASTORE_ACTIVITY, _WRITE),
    "publish": EventClass(DATASTORE_ACTIVITY, _UPDATE),
    "publish_refused": EventClass(DATASTORE_ACTIVITY, _UPDATE),
    "read_identified": EventClass(DATASTORE_ACTIVITY, _READ),
    "reidentify": EventClass(DATASTORE_ACTIVITY, _READ),
    "sign": EventClass(ENTITY_MANAGEMENT),
    "reject": EventClass(ENTITY_MANAGEMENT),
    "release": EventClass(ENTITY_MANAGEMENT, _ACTIVATE),
    "release_refused": EventClass(ENTITY_MANAGEMENT, _ACTIVATE),
    "rollback": EventClass(ENTITY_MANAGEMENT, _ACTIVATE),
    "rollback_refused": EventClass(ENTITY_MANAGEMENT, _ACTIVATE),
    "withdraw": EventClass(ENTITY_MANAGEMENT, _DEACTIVATE),
    "withdraw_refused": EventClass(ENTITY_MANAGEMENT, _DEACTIVATE),
    "alias_mismatch": EventClass(ENTITY_MANAGEMENT),
    "key_created": EventClass(ENTITY_MANAGEMENT, _CREATE),
    "key_revoked": EventClass(ENTITY_MANAGEMENT, _DISABLE),
    "key_rotated": EventClass(ENTITY_MANAGEMENT, _CHANGE),
    "incident_opened": EventClass(ENTITY_MANAGEMENT, _CREATE),
    "incident_changed": EventClass(ENTITY_MANAGEMENT, _CHANGE),
    "checkpoint": EventClass(API_ACTIVITY),
    "torn_line": EventClass(API_ACTIVITY),
    "run_failed": EventClass(API_ACTIVITY),
    "refused": EventClass(API_ACTIVITY),
    "reproduce": EventClass(API_ACTIVITY),
    "pin": EventClass(ENTITY_MANAGEMENT, _CREATE),
}
"""The class and activity of every word of the trail; one that is not here is API activity, other."""


def ocsf_event(record: AuditRecord) -> dict[str, Any]:
    """One record as an OCSF event: entity management (3004), API activity (6003) or datastore activity (6005).

    What the schema has no attribute for stands in `unmapped`: snapshot, details, and both hashes of the chain. Records
    do not name a machine: the endpoint is the service. Severity is ours: informational, medium for what failed, high
    for an alias that nobody released.
    """
    mapped = EVENT_CLASSES.get(record.action, EventClass(API_ACTIVITY))
    event = {
        "class_uid": mapped.class_uid,
        "category_uid": mapped.class_uid // 1000,
        "activity_id": mapped.activity_id,
        "activity_name": record.action,
        "type_uid": mapped.class_uid * 100 + mapped.activity_id,
        "time": _milliseconds(record.at),
        "severity_id": _severity(record),
        "status_id": 1 if record.outcome == "success" else 2,
        "message": f"{record.actor}: {record.action} {record.target}",
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": PRODUCT, "vendor_name": PRODUCT, "version": version(PRODUCT)},
            "log_name": "audit",
            "uid": str(record.number),
            "sequence": record.number,
            "original_time": record.at,
        },
        "actor": _actor(record.actor),
        "unmapped": {
            "snapshot": record.snapshot,
            "details": dict(record.details),
            "previous_sha256": record.previous_sha256,
            "sha256": hashlib.sha256(record.canonical()).hexdigest(),
        },
    }
    if record.reason:
        event["status_detail"] = record.reason
    if mapped.class_uid == ENTITY_MANAGEMENT:
        return event | {"entity": {"name": record.target, "type_id": OTHER, "type": "governed object"}}
    event["src_endpoint"] = {"svc_name": PRODUCT}
    if mapped.class_uid == API_ACTIVITY:
        return event | {"api": {"operation": record.target}}
    return event | {"database": {"name": PRODUCT, "type_id": _OPERATIONAL}, "table": {"name": record.target}}


def ocsf_line(record: AuditRecord) -> bytes:
    """The event of a record as one line of JSON in UTF-8, without its end."""
    return json.dumps(ocsf_event(record), ensure_ascii=False).encode()


def export_ocsf(records: Iterable[AuditRecord], path: Path) -> int:
    """Write records as OCSF events to `path`, one JSON object a line, whole or not at all; gives their number.

    The file is its owner's alone. Raises OSError where it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    written = 0
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for record in records:
                file.write(ocsf_line(record) + b"\n")
                written += 1
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return written


def _milliseconds(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1000)


def _severity(record: AuditRecord) -> int:
    if record.action == "alias_mismatch":
        return _HIGH
    return _INFORMATIONAL if record.outcome == "success" else _MEDIUM


def _actor(actor: str) -> dict[str, Any]:
    kind, _, name = actor.rpartition(":")
    if kind == "run":
        return {"app_name": "dagster", "app_uid": name}
    return {"user": {"name": name}, "app_name": PRODUCT}
