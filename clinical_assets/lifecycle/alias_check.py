"""Whether what is live is what was released, for as long as it may be: two checks and a look that read the ledger.

Belongs here: what is compared, and what follows. Does not belong here: the ledger, how often one looks
(model_watch.py), and the refusal to score (the IO manager of model versions, which hands on no champion that the ledger
does not know).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.governance.ledger import last_of, valid_until
from clinical_assets.lifecycle.champion_move import (
    VERSION_IS_LIVE,
    Platform,
    intent_path,
    settle,
    version_is_live,
)
from clinical_assets.lifecycle.incidents import open_incident
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.lifecycle.questions.answer import Request
from clinical_assets.protocol import AUTOMATION, ModelProtocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.ledger import (
    PATIENCE_SECONDS,
    AtWorkError,
    exclusive,
    mismatch,
    read_ledger,
    remedy,
)
from clinical_assets.resources.outward_gate import reporting
from clinical_assets.resources.platform import HomeResource, RegistryResource
from clinical_assets.resources.registry import Registry


def alias_checks(protocol: ModelProtocol) -> list[Any]:
    """The checks of one model's release: that the alias is the ledger's tells, that a version is live lets score.

    The second is blocking, so that SCORING knows it, and warns alone, so that it fails no run.
    """

    @dg.asset_check(asset=[protocol.model, "release"])
    @reporting
    def champion_is_the_ledger_s(
        home: HomeResource, lake: LakeResource, registry: RegistryResource
    ) -> dg.AssetCheckResult:
        """The registry's champion is the version that the ledger says is live, with the same files."""
        found = find_mismatch(home.open(), lake.open(), registry.open(), protocol.model)
        live = last_of(read_ledger(lake.open(), protocol.model))
        return dg.AssetCheckResult(
            passed=not found,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={"by_the_ledger": live.version if live else "nothing is live", "mismatch": found or "none"},
        )

    @dg.asset_check(asset=[protocol.model, "release"], name=VERSION_IS_LIVE, blocking=True)
    @reporting
    def a_version_is_live(lake: LakeResource) -> dg.AssetCheckResult:
        """A version is live by the ledger; while it was withdrawn or its days are over, nothing is scored by itself."""
        found = version_is_live(protocol.model, read_ledger(lake.open(), protocol.model))
        return dg.AssetCheckResult(passed=found.passed, severity=found.severity, metadata=found.metadata)

    return [champion_is_the_ledger_s, a_version_is_live]


@dataclass(frozen=True, slots=True)
class ChampionLook:
    """What one look at a model's champion found.

    `told` is the mismatch that people were told of, `request` what is due in a run, `expires_at` when the release's
    days are over by the protocol.
    """

    reason: str
    told: str = ""
    request: Request | None = None
    expires_at: datetime | None = None


def look_at_champion(at: Platform, protocol: ModelProtocol, told: str, now: datetime) -> ChampionLook:
    """Compare the champion with the ledger, and have Dagster know what is live; what takes long is asked for.

    A mismatch that stands is told once: `told` is the one that people know of.
    """
    model = protocol.model
    if request := _interrupted(at, model):
        return ChampionLook("a release, rollback or withdrawal was interrupted", told, request)
    try:
        found = find_mismatch(at.home, at.lake, at.registry, model, patience_seconds=0.0)
    except AtWorkError as error:
        return ChampionLook(str(error), told)
    if found:
        if found != told:
            AuditTrail(at.home.audit).record(
                "alias_mismatch", actor=AUTOMATION, target=model, outcome="failure", reason=found
            )
            what = f"{found}; {remedy(at.lake, model)}"
            open_incident(at.lake, at.home, Breach(model, Cause.UNVERIFIED_ALIAS, found, what), actor=AUTOMATION)
        return ChampionLook(found, found)
    live = last_of(read_ledger(at.lake, model))
    expires_at = valid_until(live, protocol.release_valid_days) if live and protocol.release_valid_days else None
    if live and expires_at and now >= expires_at:
        key = f"{model}|expiry|{live.number}"
        return ChampionLook(
            f"the days of version {live.version} are over",
            request=Request(f"{model}_champion_upkeep", key, {TRIGGER: "expiry"}),
            expires_at=expires_at,
        )
    settled = settle(at, model)
    words = "Dagster now knows what is live" if settled else f"the champion of {model} is the ledger's"
    return ChampionLook(words, expires_at=expires_at)


def _interrupted(at: Platform, model: str) -> Request | None:
    """The run that finishes an interrupted act; None where there is none, or it is at work."""
    try:
        written = intent_path(at.home, model).stat().st_mtime_ns
        with exclusive(at.home, model, patience_seconds=0.0):
            pass
    except (FileNotFoundError, AtWorkError):
        return None
    return Request(f"{model}_champion_upkeep", f"{model}|interrupted|{written}", {TRIGGER: "interruption"})


def find_mismatch(
    home: Home, lake: Lake, registry: Registry, model: str, patience_seconds: float = PATIENCE_SECONDS
) -> str:
    """How the champion differs from the ledger's, once no release or rollback is at work; empty where it does not.

    Raises AtWorkError where one is, for longer than the patience.
    """
    if not mismatch(registry, read_ledger(lake, model), model):
        return ""
    with exclusive(home, model, patience_seconds):
        return mismatch(registry, read_ledger(lake, model), model)
