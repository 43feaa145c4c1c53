"""What the platform does by itself about what is live, in a run: finish what was interrupted, guard the floor, expire.

Belongs here: the job, and that each act is decided anew in its run. Does not belong here: who asks for the run
(model_watch.py), the rule of the floor (monitoring/hard_floor.py), and how what is live changes (champion_move.py).
"""

import dagster as dg

from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.governance.ledger import LedgerError, LedgerKind
from clinical_assets.learning.estimator import LearningError
from clinical_assets.lifecycle.champion_move import Platform, recover
from clinical_assets.lifecycle.incidents import MODEL, open_incident
from clinical_assets.lifecycle.model_facts import fallen_champion
from clinical_assets.lifecycle.rollback import roll_back
from clinical_assets.lifecycle.withdrawal import withdraw_when_expired
from clinical_assets.protocol import AUTOMATION, ModelProtocol
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import HomeResource, RegistryResource
from clinical_assets.resources.registry import RegistryError


def upkeep_job(protocol: ModelProtocol) -> dg.JobDefinition:
    """The job of one model that does what is due about its champion, and nothing where nothing is."""
    name = f"{protocol.model}_champion_upkeep"

    @dg.op(name=f"{name}_op", description=f"Does what is due about the champion of {protocol.model}.")
    def upkeep(
        context: dg.OpExecutionContext, home: HomeResource, lake: LakeResource, registry: RegistryResource
    ) -> None:
        context.log.info(keep_up(Platform(home.open(), lake.open(), registry.open(), context.instance), protocol))

    @dg.job(
        name=name,
        description="What is due about the champion: an interrupted act is finished, a broken floor rolled back, a "
        "release whose days are over taken out of service",
        tags={MODEL: protocol.model},
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        upkeep()

    return job


def keep_up(at: Platform, protocol: ModelProtocol) -> str:
    """Do what is due about a model's champion, each act decided anew; tells what was done."""
    done = [recover(at, protocol.model), roll_back_by_guard(at, protocol), withdraw_when_expired(at, protocol)]
    return "; ".join(filter(None, done)) or f"nothing was due about the champion of {protocol.model}"


def roll_back_by_guard(at: Platform, protocol: ModelProtocol) -> str:
    """Roll back where the champion has fallen under its protocol's floor; tells what was done, empty where it has not.

    Where there is nothing to go back to, or the earlier version is not what it was, people are told.
    """
    fallen = fallen_champion(at, protocol)
    if not fallen or (guard := protocol.rollback_guard) is None:
        return ""
    try:
        done = roll_back(at, protocol, None, fallen, AUTOMATION, LedgerKind.GUARD)
    except (LearningError, LedgerError, RegistryError) as error:
        told = f"{fallen}, and the guard could not roll back: {error}"
        breach = Breach(protocol.model, Cause.ROLL_BACK, subject=f"guard on {guard.metric}", what=told)
        open_incident(at.lake, at.home, breach, actor=AUTOMATION)
        return told
    return f"{fallen}: version {done.entry.version} is live again after {done.seconds:.0f} s"
