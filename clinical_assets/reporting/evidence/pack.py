"""The evidence pack of a version: its documents, and the index that hashes them.

Belongs here: which documents there are, under which names. Does not belong here: what stands in them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clinical_assets.reporting.evidence.bill_of_materials import bill_of_materials
from clinical_assets.reporting.evidence.change_plan import change_plan
from clinical_assets.reporting.evidence.checklist import Checklist
from clinical_assets.reporting.evidence.difference import difference_in_words
from clinical_assets.reporting.evidence.facts import Evidence
from clinical_assets.reporting.evidence.model_card import model_card, model_card_page
from clinical_assets.reporting.evidence.source_attributes import source_attributes
from clinical_assets.reporting.evidence.tripod_ai import tripod_ai

INDEX = "index.json"
MODEL_CARD, MODEL_CARD_PAGE = "model_card.xml", "model_card.html"


class EvidenceError(ValueError):
    """An evidence pack is missing or was changed; the message names the file and the remedy."""


def evidence_documents(evidence: Evidence) -> dict[str, str]:
    """Every document by its file name; the index, which hashes all others, is the last."""
    card = model_card(evidence)
    lists: dict[str, Checklist] = {
        "source_attributes": source_attributes(evidence),
        "tripod_ai": tripod_ai(evidence),
        "change_plan": change_plan(evidence),
    }
    documents = {MODEL_CARD: card, MODEL_CARD_PAGE: model_card_page(card, evidence)}
    for name, checklist in lists.items():
        documents |= {f"{name}.json": checklist.to_json(), f"{name}.md": checklist.to_markdown()}
    documents |= {
        "bom.cdx.json": bill_of_materials(evidence.environment, evidence.archive_pin),
        "difference.md": difference_in_words(evidence),
        "protocol.json": evidence.protocol.canonical_json + "\n",
    }
    return documents | {INDEX: _index(evidence, documents, lists)}


def read_evidence(folder: Path) -> dict[str, Any]:
    """The index of the evidence in a folder, once every document has proved unchanged.

    Raises EvidenceError naming every document that is missing, changed or not in the index.
    """
    path = folder / INDEX
    if not path.is_file():
        raise EvidenceError(f"there is no evidence in {folder}; materialise the version's validation_report")
    try:
        index = json.loads(path.read_text())
        expected: dict[str, str] = index["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{path} is no index ({error}); materialise the version's validation_report") from error
    found = {x.name: hashlib.sha256(x.read_bytes()).hexdigest() for x in folder.iterdir() if x.name != INDEX}
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} was changed" for name, digest in expected.items() if found.get(name, digest) != digest]
    faults += [f"{name} is not in the index" for name in found if name not in expected]
    if faults:
        raise EvidenceError(f"{folder} is not as it was written: {'; '.join(sorted(faults))}; restore it")
    return index


def _index(evidence: Evidence, documents: Mapping[str, str], lists: Mapping[str, Checklist]) -> str:
    version = evidence.version
    written = {
        "model": version.model,
        "version": version.version,
        "artefact_sha256": version.artefact_sha256,
        "protocol_sha256": version.protocol_sha256,
        "data_origin": version.data_origin,
        "archive_pin": asdict(evidence.archive_pin) if evidence.archive_pin else None,
        "written_at": evidence.created_at.isoformat(timespec="seconds"),
        "caution": evidence.caution,
        "completeness": {name: {"asked": len(x.answers), "filled": x.filled} for name, x in lists.items()},
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(documents.items())},
    }
    return json.dumps(written, indent=2, ensure_ascii=False) + "\n"
