"""The protocol's guard: a rollback that the platform does by itself, where realised performance breaks a hard floor.

Belongs here: the sensor. Does not belong here: the rule (monitoring/hard_floor.py), and how a rollback is done.
"""

import dagster as dg

from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.governance.ledger import LedgerError, LedgerKind, last_of
from clinical_assets.learning.estimator import LearningError
from clinical_assets.lifecycle.champion_move import Platform
from clinical_assets.lifecycle.incidents import open_incident
from clinical_assets.lifecycle.rollback import roll_back
from clinical_assets.monitoring.hard_floor import fallen_below
from clinical_assets.protocol import AUTOMATION, ModelProtocol, RollbackGuard
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.platform import HomeResource, RegistryResource
from clinical_assets.resources.registry import RegistryError

SECONDS_BETWEEN_LOOKS = 60


def guard_sensors(protocol: ModelProtocol) -> list[dg.SensorDefinition]:
    """The guard of a model whose protocol has one."""
    return [guard_sensor(protocol, protocol.rollback_guard)] if protocol.rollback_guard else []


def guard_sensor(protocol: ModelProtocol, guard: RollbackGuard) -> dg.SensorDefinition:
    """The sensor that rolls back where the newest ripe month of the champion lies under the floor.

    Its cursor holds the performance report it looked at last. Where there is nothing to go back to, or the earlier
    version is not what it was, people are told.
    """
    model = protocol.model

    @dg.sensor(
        name=f"{model}_rollback_guard",
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets([model, "release"]),
        description=f"Rolls {model} back where its realised {guard.metric} lies wholly under {guard.at_least:g}.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, home: HomeResource, lake: LakeResource, registry: RegistryResource
    ) -> dg.SkipReason:
        reports = context.instance.fetch_materializations(dg.AssetKey([model, "performance_report"]), limit=1).records
        if not reports or context.cursor == str(reports[0].storage_id):
            return dg.SkipReason(f"no performance report of {model} since the last look")
        at = Platform(home.open(), lake.open(), registry.open(), context.instance)
        live = last_of(read_ledger(at.lake, model))
        fallen = fallen_below(at.lake.read(f"{model}.performance_report"), guard, live.version) if live else ""
        told = fallen or f"the newest ripe month of {model} is not wholly under {guard.at_least:g}"
        if fallen:
            try:
                done = roll_back(at, protocol, None, fallen, AUTOMATION, LedgerKind.GUARD)
                told = f"{fallen}: version {done.entry.version} is live again after {done.seconds:.0f} s"
            except (LearningError, LedgerError, RegistryError) as error:
                told = f"{fallen}, and the guard could not roll back: {error}"
                breach = Breach(model, Cause.ROLL_BACK, subject=f"guard on {guard.metric}", what=told)
                open_incident(at.lake, at.home, breach, actor=AUTOMATION)
        context.update_cursor(str(reports[0].storage_id))
        return dg.SkipReason(told)

    return sensor
