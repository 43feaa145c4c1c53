from collections import Counter

import dagster as dg
from small_platform import MODEL, Developed

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.audit_verification import read_records, verify_trail


def materialised(instance: dg.DagsterInstance) -> Counter[tuple[str, str]]:
    """Run and asset with its partition, of everything that Dagster saw materialised."""
    seen: Counter[tuple[str, str]] = Counter()
    for key in instance.all_asset_keys():
        for record in instance.fetch_materializations(key, limit=1_000).records:
            partition = f" [{record.partition_key}]" if record.partition_key else ""
            seen[f"run:{record.run_id}", f"{key.to_user_string()}{partition}"] += 1
    return seen


def targets_of(target: str) -> list[str]:
    """The asset, once a partition: a run that made several months at once is one record."""
    asset, _, partitions = target.removesuffix("]").partition(" [")
    return [f"{asset} [{partition}]" for partition in partitions.split(", ")] if partitions else [asset]


def test_whatever_dagster_saw_materialised_stands_in_the_audit_trail(developed: Developed) -> None:
    records = list(read_records(AuditTrail(developed.platform.home.audit)))
    recorded = Counter(
        (record.actor, target)
        for record in records
        if record.action == "materialise"
        for target in targets_of(record.target)
    )
    seen = materialised(developed.instance)

    assert seen - recorded == Counter()
    assert {target for _, target in seen} >= {f"{MODEL}/release", f"{MODEL}/protocol", f"{MODEL}/trained_model"}


def test_a_release_is_recorded_by_its_own_name_and_the_trail_is_whole(developed: Developed) -> None:
    trail = AuditTrail(developed.platform.home.audit)

    assert any(record.action == "release" and record.target.startswith(MODEL) for record in read_records(trail))
    assert verify_trail(trail).is_whole
