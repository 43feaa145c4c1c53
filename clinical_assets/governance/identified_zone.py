"""The identified zone: the months of a feed as it arrives, encrypted, in a folder that its owner alone may enter.

Belongs here: how identified rows lie on the disk, and that nobody reads them unrecorded. Does not belong here: what
makes them de-identified (safe_harbor.py).

One file a month, Parquet within AES-256-GCM (NIST SP 800-38D), with a key of its own. A lake would not do: DuckLake
keeps the least and greatest value of every column in clear in its catalogue, and here these are names and numbers of
patients. The file's model and month are authenticated with it, so that an edited, renamed or exchanged one is refused.
"""

import io
import os
import secrets
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.pseudonyms import create_secret, read_secret

_MAGIC = b"clinical-assets identified 1\n"
_NONCE_BYTES = 12


class IdentifiedZoneError(RuntimeError):
    """Identified rows cannot be read; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class IdentifiedZone:
    """The zone in `folder`, its key in the file `key`; every reading is recorded in `audit`."""

    folder: Path
    key: Path
    audit: AuditTrail

    def path(self, model: str, month: date) -> Path:
        """The file of one month."""
        return self.folder / model / f"{month:%Y-%m}.identified"

    def write(self, model: str, month: date, rows: pl.DataFrame) -> Path:
        """Keep a month's identified rows, in place of earlier ones, whole or not at all."""
        packed = io.BytesIO()
        rows.write_parquet(packed)
        sealed = self._encrypt(packed.getvalue(), _name(model, month))
        return write_private(self.path(model, month), sealed)

    def read(self, model: str, month: date, *, actor: str, reason: str) -> pl.DataFrame:
        """A month's identified rows; recorded before they are handed out, and so is a failure.

        Raises IdentifiedZoneError where there is none, or it was changed or is another month's.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        path = self.path(model, month)
        fault, packed = "", b""
        if path.is_file():
            nonce, ciphertext = _parted(path.read_bytes())
            try:
                packed = AESGCM(read_secret(self.key)).decrypt(nonce, ciphertext, _MAGIC + _name(model, month))
            except InvalidTag:
                fault = f"{path} was changed, is of another month, or has another key; materialise it again"
        else:
            fault = f"there is no identified feed of {model} for {month:%Y-%m}; materialise {model}/identified_feed"
        self.audit.record(
            "read_identified",
            actor=actor,
            target=f"{model}/identified_feed/{month:%Y-%m}",
            outcome="failure" if fault else "success",
            reason=reason,
        )
        if fault:
            raise IdentifiedZoneError(fault)
        return pl.read_parquet(io.BytesIO(packed))

    def _encrypt(self, content: bytes, name: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _MAGIC + nonce + AESGCM(create_secret(self.key)).encrypt(nonce, content, _MAGIC + name)


def write_private(path: Path, content: bytes) -> Path:
    """Write a file that its owner alone may read, whole or not at all, in folders that its owner alone may enter."""
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _parted(content: bytes) -> tuple[bytes, bytes]:
    """The nonce and the ciphertext of a file; what is too short or of another kind gives some that open nothing."""
    start = len(_MAGIC)
    sealed = content[start:] if content.startswith(_MAGIC) else b""
    return sealed[:_NONCE_BYTES].ljust(_NONCE_BYTES, b"\0"), sealed[_NONCE_BYTES:]


def _name(model: str, month: date) -> bytes:
    return f"{model}/{month:%Y-%m}".encode()
