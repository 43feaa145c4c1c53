"""Sign-offs: statements about one exact model version, signed by named people with their Ed25519 keys.

Belongs here: keys, statements, and whether the signatures at hand suffice. Does not belong here: who may sign
(signers), who asks for a signature, and what follows from it.
"""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clinical_assets.governance.signers import Signer
from clinical_assets.protocol import UNKNOWN_PERSON, ModelProtocol, ModelVersion

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Decision = Literal["approve", "reject"]


class SignatureError(ValueError):
    """A key or a signature cannot be used; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signer says of one exact version: every hash that the decision rests on, the decision and its reason."""

    model: str
    version: int
    artefact_sha256: str
    report_sha256: str
    protocol_sha256: str
    decision: Decision
    reason: str
    role: str
    signer: str
    signed_at: str

    def canonical(self) -> bytes:
        """The bytes that are signed: JSON with sorted keys and no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Signature:
    """A statement with the signer's Ed25519 signature in hexadecimal."""

    statement: Statement
    signature: str


def create_key(path: Path, passphrase: str | None) -> str:
    """Write a new Ed25519 private key, readable by its owner alone, and return the public key in hexadecimal.

    Raises SignatureError where the file exists already.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    except FileExistsError as error:
        raise SignatureError(f"{path} exists already; a key is never overwritten: move it away first") from error
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def sign(statement: Statement, key_path: Path, passphrase: str | None) -> Signature:
    """The statement, signed with the key at `key_path`; raises SignatureError where the key cannot be opened."""
    return Signature(statement, sign_message(statement.canonical(), key_path, passphrase))


def sign_message(message: bytes, key_path: Path, passphrase: str | None) -> str:
    """The signature over a message with the key at `key_path`, in 128 hex digits; raises SignatureError as `sign`."""
    return open_key(key_path, passphrase).sign(message).hex()


def open_key(key_path: Path, passphrase: str | None) -> "Ed25519PrivateKey":
    """The private key at `key_path`; raises SignatureError where it is missing, stays locked or is of another kind."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not key_path.is_file():
        raise SignatureError(f"there is no key {key_path}; make one with `clinical keys new NAME --role ROLE`")
    try:
        key = load_pem_private_key(key_path.read_bytes(), passphrase.encode() if passphrase else None)
    except (ValueError, TypeError) as error:
        raise SignatureError(f"{key_path} cannot be opened: wrong or missing passphrase, or a damaged file") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{key_path} holds no Ed25519 key; make one with `clinical keys new NAME --role ROLE`")
    return key


def is_genuine(signature: Signature, signer: Signer) -> bool:
    """Whether the signature is this signer's, over exactly this statement."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer.public_key))
        key.verify(bytes.fromhex(signature.signature), signature.statement.canonical())
    except (InvalidSignature, ValueError):
        return False
    return True


def store(signature: Signature, folder: Path) -> Path:
    """Write a signature as a JSON file below `folder/<model>/v<version>/`, whole or not at all; gives its path."""
    statement = signature.statement
    target = folder / statement.model / f"v{statement.version}"
    target.mkdir(parents=True, exist_ok=True)
    name = f"{statement.role}-{uuid.uuid4().hex[:12]}.json"
    temporary = target / f".{name}"
    temporary.write_text(json.dumps(asdict(signature), indent=2, sort_keys=True) + "\n")
    return temporary.replace(target / name)


def read_signatures(folder: Path, model: str, version: int) -> list[Signature]:
    """All signatures on one version, oldest first; raises SignatureError with the name of a file that is damaged."""
    signatures = []
    for path in sorted((folder / model / f"v{version}").glob("[!.]*.json")):
        try:
            content = json.loads(path.read_text())
            signature = Signature(Statement(**content["statement"]), str(content["signature"]))
            signatures.append((_moment(signature), signature))
        except (ValueError, KeyError, TypeError) as error:
            raise SignatureError(f"{path} is damaged ({type(error).__name__}); restore it or sign again") from error
    # Within one second a rejection comes last, so that it is the last word.
    signatures.sort(key=lambda dated: (dated[0], dated[1].statement.decision == "reject"))
    return [signature for _, signature in signatures]


def _moment(signature: Signature) -> datetime:
    moment = datetime.fromisoformat(signature.statement.signed_at)
    if moment.tzinfo is None:
        raise ValueError("signed_at needs a time zone")
    return moment


@dataclass(frozen=True, slots=True)
class CheckedSignature:
    """A signature and the reason why it does not count towards a release; an empty reason where it counts."""

    signature: Signature
    demo: bool
    fault: str


def check_signatures(
    signatures: Sequence[Signature],
    signers: dict[str, Signer],
    version: ModelVersion,
    report_sha256: str,
    protocol: ModelProtocol,
    at: datetime,
) -> list[CheckedSignature]:
    """Each signature with what is wrong with it, at the moment `at`, for exactly this version, report and protocol."""
    checked = []
    for signature in signatures:
        signer = signers.get(signature.statement.signer)
        fault = _fault(signature, signer, version, report_sha256, protocol, at)
        checked.append(CheckedSignature(signature, bool(signer and signer.demo), fault))
    return checked


def _fault(
    signature: Signature,
    signer: Signer | None,
    version: ModelVersion,
    report_sha256: str,
    protocol: ModelProtocol,
    at: datetime,
) -> str:
    statement = signature.statement
    if signer is None:
        return f"{statement.signer} is not in the signers file"
    if not is_genuine(signature, signer):
        return f"the signature is not {signer.name}'s, or the statement was changed after signing"
    if statement.role not in signer.roles:
        return f"{signer.name} does not hold the role {statement.role}"
    if fault := signer.fault_of_key(at):
        return fault
    if fault := fault_of_trainer(signer, version):
        return fault
    if signer.demo and protocol.environment == "production":
        return f"{signer.name} is a demonstration signer, and the protocol's environment is production"
    if (statement.model, statement.version) != (version.model, version.version):
        return f"it is for {statement.model} version {statement.version}"
    for name, signed, actual in (
        ("model files", statement.artefact_sha256, version.artefact_sha256),
        ("validation report", statement.report_sha256, report_sha256),
        ("protocol", statement.protocol_sha256, protocol.sha256),
    ):
        if signed != actual:
            return f"the {name} changed after signing ({signed[:12]} was signed, {actual[:12]} is at hand)"
    signed_at = _moment(signature)
    if at > signed_at + timedelta(days=protocol.sign_off.valid_days):
        return f"it expired {protocol.sign_off.valid_days} days after {statement.signed_at}"
    if signed_at > at + timedelta(minutes=5):
        return f"it is dated in the future ({statement.signed_at})"
    return ""


def fault_of_trainer(signer: Signer, version: ModelVersion) -> str:
    """Why a signer may not judge a version for having trained it, or since nobody knows who did; else empty."""
    if version.trained_by == UNKNOWN_PERSON:
        return f"it is not recorded who trained version {version.version}; train it again"
    if version.trained_by in (signer.name, *(f"user:{user}" for user in signer.users)):
        return f"{signer.name} launched the run that trained version {version.version}; somebody else must judge it"
    return ""


def last_words(signatures: Sequence[Signature]) -> list[Statement]:
    """The last statement of each signer, of signatures in order of time; an earlier one no longer counts."""
    return list({signature.statement.signer: signature.statement for signature in signatures}.values())


def missing_for_release(checked: Sequence[CheckedSignature], protocol: ModelProtocol) -> list[str]:
    """What still stands between the signatures at hand and a release; an empty list where they suffice.

    Each role must have approved, each by another person, and the last word of no valid signer may be a rejection.
    """
    words = last_words([item.signature for item in checked if not item.fault])
    reasons = [f"{s.signer} ({s.role}) rejected it: {s.reason}" for s in words if s.decision == "reject"]
    for role in protocol.sign_off.roles:
        if not any(s.role == role and s.decision == "approve" for s in words):
            faults = [item.fault for item in checked if item.fault and item.signature.statement.role == role]
            reasons.append(f"no valid approval as {role}" + (f" ({'; '.join(faults)})" if faults else ""))
    return reasons


def now() -> str:
    """The present moment in UTC, as it stands in a statement."""
    return datetime.now(UTC).isoformat(timespec="seconds")
