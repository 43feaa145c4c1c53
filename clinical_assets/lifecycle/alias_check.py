"""Whether what is live is what was released, for as long as it may be: two checks and a sensor that read the ledger.

Belongs here: who looks, and what follows. Does not belong here: the ledger, and the refusal to score (the IO manager of
model versions, which hands on no champion that the ledger does not know).
"""

from typing import Any

import dagster as dg

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.governance.ledger import last_of
from clinical_assets.lifecycle.champion_move import (
    VERSION_IS_LIVE,
    Platform,
    recover,
    settle,
    version_is_live,
)
from clinical_assets.lifecycle.incidents import open_incident
from clinical_assets.lifecycle.withdrawal import withdraw_when_expired
from clinical_assets.protocol import AUTOMATION, ModelProtocol
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.ledger import exclusive, mismatch, read_ledger, remedy
from clinical_assets.resources.platform import HomeResource, RegistryResource

SECONDS_BETWEEN_LOOKS = 60


def alias_checks(protocol: ModelProtocol) -> list[Any]:
    """The checks of one model's release: that the alias is the ledger's tells, that a version is live lets score.

    The second is blocking, so that SCORING knows it, and warns alone, so that it fails no run.
    """

    @dg.asset_check(asset=[protocol.model, "release"])
    def champion_is_the_ledger_s(
        home: HomeResource, lake: LakeResource, registry: RegistryResource
    ) -> dg.AssetCheckResult:
        """The registry's champion is the version that the ledger says is live, with the same files."""
        found = find_mismatch(home, lake, registry, protocol.model)
        live = last_of(read_ledger(lake.open(), protocol.model))
        return dg.AssetCheckResult(
            passed=not found,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={"by_the_ledger": live.version if live else "nothing is live", "mismatch": found or "none"},
        )

    @dg.asset_check(asset=[protocol.model, "release"], name=VERSION_IS_LIVE, blocking=True)
    def a_version_is_live(lake: LakeResource) -> dg.AssetCheckResult:
        """A version is live by the ledger; while it was withdrawn or its days are over, nothing is scored by itself."""
        found = version_is_live(protocol.model, read_ledger(lake.open(), protocol.model))
        return dg.AssetCheckResult(passed=found.passed, severity=found.severity, metadata=found.metadata)

    return [champion_is_the_ledger_s, a_version_is_live]


def alias_sensor(protocol: ModelProtocol) -> dg.SensorDefinition:
    """The sensor that looks every minute whether the alias is the ledger's, and finishes what was interrupted.

    It withdraws a version whose days under the protocol are over. Its cursor holds the mismatch it has told of: one
    that stands is told once.
    """
    model = protocol.model

    @dg.sensor(
        name=f"{model}_alias_is_watched",
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets([model, "release"]),
        description=f"Compares the champion of {model} with the ledger, and finishes a release, rollback or withdrawal "
        "that a kill interrupted; takes a release out of service once the protocol's days for it are over.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, home: HomeResource, lake: LakeResource, registry: RegistryResource
    ) -> dg.SkipReason:
        at = Platform(home.open(), lake.open(), registry.open(), context.instance)
        done = [recover(at, model)]
        if found := find_mismatch(home, lake, registry, model):
            if found != context.cursor:
                AuditTrail(at.home.audit).record(
                    "alias_mismatch", actor=AUTOMATION, target=model, outcome="failure", reason=found
                )
                what = f"{found}; {remedy(at.lake, model)}"
                open_incident(at.lake, at.home, Breach(model, Cause.UNVERIFIED_ALIAS, found, what), actor=AUTOMATION)
                context.update_cursor(found)
            return dg.SkipReason(found)
        context.update_cursor("")
        done.append(withdraw_when_expired(at, protocol))
        if settle(at, model):
            done.append("Dagster now knows what is live")
        return dg.SkipReason("; ".join(filter(None, done)) or f"the champion of {model} is the ledger's")

    return sensor


def find_mismatch(home: HomeResource, lake: LakeResource, registry: RegistryResource, model: str) -> str:
    """How the champion differs from the ledger's, once no release or rollback is at work; empty where it does not."""
    if not mismatch(registry.open(), read_ledger(lake.open(), model), model):
        return ""
    with exclusive(home.open(), model):
        return mismatch(registry.open(), read_ledger(lake.open(), model), model)
