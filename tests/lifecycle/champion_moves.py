"""What tests of rollbacks and withdrawals do, and where they look for what is live."""

import json
from typing import Any

import dagster as dg
import duckdb
from small_platform import MODEL, ROLES, Developed, SmallPlatform

from clinical_assets.cli.platform import model_state
from clinical_assets.governance.ledger import last_of
from clinical_assets.lifecycle.automation import champion_version
from clinical_assets.lifecycle.champion_move import Platform
from clinical_assets.resources.analytics import publish_analytics
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.registry import CHAMPION


def platform_of(small: SmallPlatform, instance: dg.DagsterInstance) -> Platform:
    return Platform(small.home, small.lake, small.registry, instance)


def sign(candidate: Developed, **changes: Any) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role, **changes)


def live_everywhere(at: Platform) -> set[int | None]:
    """The live version as the alias, the ledger, `clinical status` and Dagster say; one where they agree."""
    live, champion = last_of(read_ledger(at.lake, MODEL)), at.registry.find(MODEL, CHAMPION)
    return {
        champion.version if champion else None,
        live.version if live else None,
        model_state(at.lake, at.registry, MODEL)["champion"],
        champion_version(at.instance, MODEL),
    }


def published_as_live(at: Platform) -> list[tuple[int, str]]:
    """What analysts read once the file has followed."""
    publish_analytics(at.lake, at.home.analytics, [MODEL])
    with duckdb.connect(str(at.home.analytics), read_only=True) as analyst:
        query = "SELECT version, kind FROM governance.live_versions WHERE model = ? AND valid_to IS NULL"
        return analyst.execute(query, [MODEL]).fetchall()


def audited(at: Platform, action: str) -> list[dict[str, Any]]:
    lines = (at.home.audit / "audit.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["action"] == action]
