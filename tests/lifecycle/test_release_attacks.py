"""Ways to get an unapproved model live, each tried on a real small platform, and each refused for its own reason."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from small_platform import MODEL, ROLES, Developed, small_protocol

from clinical_assets.governance.signatures import SignatureError, create_key
from clinical_assets.governance.signers import Signer, add_signer, revoke_signer
from clinical_assets.lifecycle.release import ReleaseError, release
from clinical_assets.protocol import ModelProtocol, ModelVersion, ProtocolError
from clinical_assets.resources.registry import RegistryError


@pytest.fixture
def signed(candidate: Developed) -> Iterator[Developed]:
    """The candidate with both approvals, and a signers file that a test may spoil."""
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role)
    signers = candidate.platform.home.signers
    before = signers.read_bytes()
    yield candidate
    signers.write_bytes(before)


def refused(
    at: Developed, words: str, version: ModelVersion | None = None, protocol: ModelProtocol | None = None
) -> None:
    """The release asset itself says no, for this reason; the champion stays."""
    with pytest.raises((ReleaseError, RegistryError, ProtocolError), match=words):
        release(
            dg.build_asset_context(),
            protocol=protocol or at.platform.protocol,
            trained_model=version or at.candidate,
            **at.platform.resources,
        )
    assert at.platform.registry.champion(MODEL) == at.champion


def sign_off_files(at: Developed) -> list[Path]:
    return sorted((at.platform.home.sign_offs / MODEL / "v2").glob("*.json"))


def retag(at: Developed, version: int, name: str, value: str) -> None:
    """Change what MLflow says of a version, past the platform."""
    from mlflow import MlflowClient

    MlflowClient(at.platform.home.registry_uri).set_model_version_tag(MODEL, str(version), name, value)


def test_who_trained_it_cannot_approve_it(candidate: Developed) -> None:
    home = candidate.platform.home
    key = home.keys / "trainer.pem"
    if not key.exists():
        add_signer(home.signers, Signer("trainer", ("mlops",), create_key(key, None), demo=False, users=("tina",)))
    candidate.platform.sign(candidate.candidate, "mlops", signer="trainer")
    candidate.platform.sign(candidate.candidate, "clinical_lead")
    before = candidate.candidate.trained_by
    retag(candidate, 2, "trained_by", "user:tina")
    try:
        trained_by_tina = candidate.platform.registry.challenger(MODEL)
        refused(
            candidate, "no valid approval as mlops .trainer launched the run that trained version 2", trained_by_tina
        )
    finally:
        retag(candidate, 2, "trained_by", before)


def test_a_person_at_a_terminal_who_trains_is_written_down_as_such(developed: Developed) -> None:
    """These tests launch their runs themselves, so an account stands with both versions."""
    assert developed.champion.trained_by.startswith("user:")
    assert developed.candidate.trained_by == developed.champion.trained_by


def test_a_key_revoked_after_it_signed_voids_the_approval(signed: Developed) -> None:
    revoke_signer([signed.platform.home.signers], "dr-clinical_lead", "left the house", datetime.now(UTC))
    refused(signed, "no valid approval as clinical_lead .dr-clinical_lead's key was revoked on .*: left the house")


def test_a_signer_who_is_no_longer_in_the_file_does_not_count(signed: Developed) -> None:
    signers = signed.platform.home.signers
    signers.write_text(signers.read_text().replace("[dr-mlops]", "[dr-nobody]"))
    refused(signed, "no valid approval as mlops .dr-mlops is not in the signers file")


@pytest.mark.parametrize("field", ["decision", "reason", "signer", "artefact_sha256", "signed_at"])
def test_a_signature_file_edited_by_one_byte_does_not_count(signed: Developed, field: str) -> None:
    [path] = [path for path in sign_off_files(signed) if path.name.startswith("clinical_lead")]
    content = json.loads(path.read_text())
    value = content["statement"][field]
    content["statement"][field] = value[:-1] + chr(ord(value[-1]) ^ 1)
    path.write_text(json.dumps(content))
    with pytest.raises((ReleaseError, SignatureError), match=r"no valid approval as clinical_lead|is damaged"):
        release(
            dg.build_asset_context(),
            protocol=signed.platform.protocol,
            trained_model=signed.candidate,
            **signed.platform.resources,
        )
    assert signed.platform.registry.champion(MODEL) == signed.champion


def test_a_signature_copied_from_another_version_does_not_count(candidate: Developed) -> None:
    candidate.platform.sign(candidate.candidate, "mlops")
    earlier = candidate.platform.home.sign_offs / MODEL / "v1"
    [approval] = earlier.glob("clinical_lead-*.json")
    shutil.copy(approval, candidate.platform.home.sign_offs / MODEL / "v2" / approval.name)
    refused(candidate, "no valid approval as clinical_lead .it is for readmission version 1")


def test_a_protocol_loosened_after_training_is_refused(signed: Developed) -> None:
    loosened = small_protocol(acceptance=[{"metric": "auroc", "at_least": 0.001}])
    refused(signed, r"was made under protocol \w{12}, now \w{12} is in force", protocol=loosened)


def test_the_files_of_another_version_in_the_store_are_refused(signed: Developed) -> None:
    """Swapped as a whole: the files are sound, and not those that were signed."""
    registry = signed.platform.registry
    swapped, others = registry.files(signed.candidate), registry.files(signed.champion)
    kept = swapped.with_name("kept")
    swapped.rename(kept)
    shutil.copytree(others, swapped)
    try:
        refused(signed, "readmission version 2: .* was changed or damaged")
    finally:
        shutil.rmtree(swapped)
        kept.rename(swapped)


def test_files_swapped_together_with_what_mlflow_says_of_them_are_refused(signed: Developed) -> None:
    """Who can write to the store can write to MLflow too; the signatures name the files that were approved."""
    registry = signed.platform.registry
    swapped, others = registry.files(signed.candidate), registry.files(signed.champion)
    kept = swapped.with_name("kept")
    swapped.rename(kept)
    shutil.copytree(others, swapped)
    retag(signed, 2, "artefact_sha256", signed.champion.artefact_sha256)
    try:
        refused(signed, "the model files changed after signing", registry.version(MODEL, 2))
    finally:
        retag(signed, 2, "artefact_sha256", signed.candidate.artefact_sha256)
        shutil.rmtree(swapped)
        kept.rename(swapped)
