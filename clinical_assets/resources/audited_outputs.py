"""How a materialisation gets into the audit trail: by the IO manager that keeps it, else by the asset itself.

Belongs here: what is recorded of an output. Does not belong here: the trail (governance/audit_trail.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

from clinical_assets.governance.audit_trail import AuditTrail, Scalar, run_actor

LAUNCHERS = ("clinical/person", "dagster/sensor_name", "dagster/schedule_name", "user", "clinical/trigger")
"""Tags of a run that say who launched it, the most telling first."""


def record_materialisation(
    audit: str, context: dg.OutputContext, *, snapshot: int | None = None, details: Mapping[str, Scalar] | None = None
) -> None:
    """Record that a run materialised an asset: asset key and partition, lake snapshot, and who launched the run.

    `audit` is the folder of the trail. Raises AuditError where nothing can be recorded: the step fails then, although
    its output is kept already, and a new run writes and records both anew.
    """
    partition = ", ".join(context.asset_partition_keys) if context.has_asset_partitions else None
    _record(Path(audit), context.asset_key, partition, context.step_context.dagster_run, snapshot, details or {})


def record_kept(
    audit: Path,
    asset: dg.AssetKey,
    run: dg.DagsterRun,
    *,
    partitions: Sequence[str] = (),
    details: Mapping[str, Scalar] | None = None,
) -> None:
    """Record that a run materialised an asset that hands no value to an IO manager, since it keeps its output itself.

    `audit` is the folder of the trail. Raises AuditError where nothing can be recorded: the step fails then.
    """
    _record(audit, asset, ", ".join(partitions) or run.tags.get("dagster/partition"), run, None, details or {})


def _record(
    audit: Path,
    asset: dg.AssetKey,
    partition: str | None,
    run: dg.DagsterRun,
    snapshot: int | None,
    details: Mapping[str, Scalar],
) -> None:
    launcher = next((f"{tag} {run.tags[tag]}" for tag in LAUNCHERS if tag in run.tags), None)
    AuditTrail(audit).record(
        "materialise",
        actor=run_actor(run.run_id),
        target=f"{asset.to_user_string()} [{partition}]" if partition else asset.to_user_string(),
        snapshot=snapshot,
        details={"launched_by": launcher, **details},
    )
