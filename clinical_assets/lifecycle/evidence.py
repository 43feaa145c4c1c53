"""The evidence pack of a version, gathered from the lake and the registry, written and read again.

Belongs here: fetching, and the folder. Does not belong here: what the documents say (`reporting.evidence`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from clinical_assets.archives.archive import contract_of, describe_columns
from clinical_assets.learning.recipe import Recipe
from clinical_assets.lifecycle.candidate import FINDING_SCHEMA, count_splits
from clinical_assets.protocol import Finding, JudgedLimit, ModelProtocol, ModelVersion, load_object
from clinical_assets.reporting.evidence.facts import Evidence, VersionFacts
from clinical_assets.reporting.evidence.pack import INDEX, EvidenceError, evidence_documents
from clinical_assets.resources.column_descriptions import describe_column
from clinical_assets.resources.home import hash_file, write_atomically
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry


def gather_evidence(
    protocol: ModelProtocol,
    version: ModelVersion,
    findings: Sequence[Finding],
    judged: Sequence[JudgedLimit],
    cohort: pl.DataFrame,
    previous: ModelVersion | None,
    lake: Lake,
    registry: Registry,
) -> Evidence:
    """All that a version's documents say, with the release it is compared with where there is one.

    Raises EvidenceError where the version was registered without its recipe.
    """
    recipe = registry.recipe(version)
    if recipe is None or recipe.environment is None:
        raise EvidenceError(
            f"{version.model} version {version.version} was registered without its recipe, so that it cannot be said "
            "how it was made; train a new candidate"
        )
    return Evidence(
        candidate=VersionFacts(protocol, version, findings, cohort),
        judged=judged,
        inputs=describe_inputs(protocol, registry.load(version, protocol.estimator).feature_names),
        made_by=recipe.repair,
        environment=recipe.environment,
        created_at=datetime.now(UTC),
        archive_pin=recipe.archive_pin,
        previous=released_facts(previous, protocol, registry.recipe(previous), lake) if previous else None,
    )


def released_facts(version: ModelVersion, now: ModelProtocol, recipe: Recipe | None, lake: Lake) -> VersionFacts:
    """A released version with its figures, its training set and, where it was kept, its protocol."""
    protocol = recipe.protocol(version) if recipe else now
    evaluated = lake.read(f"{version.model}.evaluation", where={"version": version.version})
    columns = ["split", protocol.patient, protocol.outcome.column, "month"]
    rows = lake.read(f"{version.model}.training_set", snapshot=version.lake_snapshot, columns=columns)
    return VersionFacts(
        protocol=protocol,
        version=version,
        findings=[Finding(**row) for row in evaluated.select(*FINDING_SCHEMA).to_dicts()],
        cohort=count_splits(rows, protocol),
        protocol_kept=recipe is not None,
    )


def describe_inputs(protocol: ModelProtocol, names: Sequence[str]) -> dict[str, str]:
    """The columns an estimator reads, each with what it means."""
    descriptions = describe_columns(contract_of(load_object(protocol.cohort)))
    if protocol.feature_descriptions:
        descriptions |= load_object(protocol.feature_descriptions)()
    return {name: descriptions.get(name) or describe_column(name) or "" for name in names}


def write_evidence(evidence: Evidence, folder: Path) -> str:
    """Write every document into a version's folder, the index last; gives the index's sha256."""
    for name, text in evidence_documents(evidence).items():
        write_atomically(folder / name, text)
    return hash_file(folder / INDEX)
