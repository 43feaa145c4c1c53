"""A release, a rollback or a withdrawal in a process of its own, killed with SIGKILL after one of its steps.

The processes are forked from a server that has imported what is slow to import, and done nothing yet.
"""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import dagster as dg

from clinical_assets.governance.ledger import LedgerKind
from clinical_assets.lifecycle.champion_move import Platform, move_champion
from clinical_assets.lifecycle.release_act import prepare_release
from clinical_assets.lifecycle.rollback import prepare_rollback
from clinical_assets.lifecycle.withdrawal import prepare_withdrawal
from clinical_assets.protocol import ModelProtocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.ledger import exclusive
from clinical_assets.resources.registry import Registry

STEPS_OF_RELEASE = ("intent written", "alias moved", "ledger written", "audited", "intent dropped")
STEPS_OF_ROLLBACK = (
    *STEPS_OF_RELEASE[:4],
    *("incident opened", "monitoring re-referenced", "intent dropped"),
)

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["mlflow", "sklearn", "skops.io", "killed_act"])


def die(home: Home, protocol: ModelProtocol, version: int, last_words: str, act: LedgerKind) -> int | None:
    """Let a process do the act up to this step and be killed; gives how it ended."""
    arguments = (home.root, home.raw, protocol.model_dump_json(), version, last_words, act)
    process = SERVER.Process(target=_act_and_die, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


def _act_and_die(root: Path, raw: Path, protocol_json: str, version: int, last_words: str, act: LedgerKind) -> None:
    home, protocol = Home(root, raw), ModelProtocol.model_validate_json(protocol_json)
    lake, registry = (
        Lake(str(home.lake_catalogue), home.lake_data),
        Registry(home.registry_uri, home.registry_artefacts),
    )
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance, exclusive(home, protocol.model):
        at = Platform(home, lake, registry, instance)
        if act is LedgerKind.RELEASE:
            entry = prepare_release(at, protocol, registry.version(protocol.model, version), "a-killed-run")
        elif act is LedgerKind.ROLLBACK:
            entry, _ = prepare_rollback(at, protocol, version, "a drill", "user:ann", act, False)
        else:
            entry = prepare_withdrawal(at, protocol.model, "a drill", "user:ann", act)
        for step in move_champion(at, entry):
            if step == last_words:
                os.kill(os.getpid(), signal.SIGKILL)
