"""Who is behind a pseudonym: a table that exists only sealed, each month for the privacy officers of that day.

Belongs here: sealing for a signer's public key, and opening with the private one. Does not belong here: who asks, why,
and the record of it.

A month is encrypted with AES-256-GCM under a key drawn for it alone, and that key is sealed for every privacy officer:
X25519 with a key drawn for the sealing, HKDF-SHA256, AES-256-GCM. The officer's X25519 key is the Ed25519 key of the
signers file on the other curve (RFC 7748 section 4.1, RFC 8032 section 5.1.5), as age does it for SSH keys. So the
platform writes what it cannot read back, and only a private key that is locked with a passphrase opens it.
"""

import hashlib
import io
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import polars as pl

from clinical_assets.governance.identified_zone import write_private
from clinical_assets.governance.signers import Signer

PRIVACY_OFFICER = "privacy_officer"

_PURPOSE = b"clinical-assets reidentification 1"
_ENDING = ".reidentification"
_PRIME = 2**255 - 19
_KEY_BYTES, _NONCE_BYTES = 32, 12


class ReidentificationError(RuntimeError):
    """A pseudonym cannot be resolved; the message names the file and the remedy, never the person."""


@dataclass(frozen=True, slots=True)
class Reidentified:
    """Who is behind a pseudonym: the medical record number, of which origin, in which models' months it stands."""

    pseudonym: str
    mrn: str
    data_origin: str
    found_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReidentificationTable:
    """The sealed tables below `folder`, one file a model and month."""

    folder: Path

    def write(self, model: str, month: date, rows: pl.DataFrame, officers: Sequence[Signer]) -> Path | None:
        """Seal a month's `pseudonym`, `mrn` and `data_origin` for each officer; None, and no file, without officers."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        path = self.folder / model / f"{month:%Y-%m}{_ENDING}"
        if not officers:
            path.unlink(missing_ok=True)
            return None
        packed = io.BytesIO()
        rows.select("pseudonym", "mrn", "data_origin").write_parquet(packed)
        key, nonce = secrets.token_bytes(_KEY_BYTES), secrets.token_bytes(_NONCE_BYTES)
        sealed = {officer.public_key: _seal(key, officer.public_key).hex() for officer in officers}
        header = json.dumps({"table": f"{model}/{month:%Y-%m}", "sealed": sealed}, sort_keys=True).encode()
        body = AESGCM(key).encrypt(nonce, packed.getvalue(), header)
        return write_private(path, header + b"\n" + nonce + body)

    def find(self, pseudonym: str, private_key: bytes) -> Reidentified:
        """The person behind a pseudonym, by the 32 bytes of an officer's Ed25519 private key.

        Raises ReidentificationError where no table is sealed for this key, one was changed, or none has the pseudonym.
        """
        own = _public_half(private_key)
        found: list[tuple[str, str, str]] = []
        opened = 0
        paths = sorted(self.folder.glob(f"*/*{_ENDING}"))
        for path in paths:
            table = _open(path, own, private_key)
            if table is None:
                continue
            opened += 1
            rows = table.filter(pl.col("pseudonym") == pseudonym).select("mrn", "data_origin").unique()
            found += [(*row, f"{path.parent.name}/{path.stem}") for row in rows.iter_rows()]
        if not opened:
            raise ReidentificationError(
                f"none of {len(paths)} sealed tables in {self.folder} is for this key; a table is sealed for the "
                f"{PRIVACY_OFFICER}s of its day: materialise the dataset again"
            )
        if not found:
            raise ReidentificationError(f"the pseudonym stands in none of {opened} tables that this key opens")
        if len({mrn for mrn, _, _ in found}) > 1:
            raise ReidentificationError("the tables name different persons for the pseudonym; materialise them again")
        return Reidentified(pseudonym, found[0][0], found[0][1], tuple(place for _, _, place in found))


def officers_of(signers: Iterable[Signer], at: datetime) -> list[Signer]:
    """The signers for whom tables are sealed: privacy officers whose key is neither expired nor revoked."""
    return [signer for signer in signers if PRIVACY_OFFICER in signer.roles and not signer.fault_of_key(at)]


def hash_pseudonym(pseudonym: str) -> str:
    """What a record says of a pseudonym that was resolved: its SHA-256, 64 hex digits."""
    return hashlib.sha256(pseudonym.encode()).hexdigest()


def _open(path: Path, own: str, private_key: bytes) -> pl.DataFrame | None:
    """A table, or None where it is not sealed for this key."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header, _, rest = path.read_bytes().partition(b"\n")
    changed = ReidentificationError(f"{path} was changed or exchanged; materialise the dataset of its month again")
    try:
        stated = json.loads(header)
        if stated["table"] != f"{path.parent.name}/{path.stem}":
            raise changed
        if own not in stated["sealed"]:
            return None
        key = _unseal(bytes.fromhex(stated["sealed"][own]), private_key)
        packed = AESGCM(key).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header)
    except (InvalidTag, ValueError, KeyError, TypeError) as error:
        raise changed from error
    return pl.read_parquet(io.BytesIO(packed))


def _seal(key: bytes, ed25519_public: str) -> bytes:
    """A key for the holder of an Ed25519 key: the drawn public key, a nonce, and the encrypted key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    drawn = X25519PrivateKey.generate()
    drawn_public, theirs = drawn.public_key().public_bytes_raw(), _on_other_curve(bytes.fromhex(ed25519_public))
    shared = drawn.exchange(X25519PublicKey.from_public_bytes(theirs))
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return drawn_public + nonce + AESGCM(_derive(shared, drawn_public, theirs)).encrypt(nonce, key, _PURPOSE)


def _unseal(sealed: bytes, private_key: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    drawn_public, nonce = sealed[:_KEY_BYTES], sealed[_KEY_BYTES : _KEY_BYTES + _NONCE_BYTES]
    own = X25519PrivateKey.from_private_bytes(hashlib.sha512(private_key).digest()[:_KEY_BYTES])
    shared = own.exchange(X25519PublicKey.from_public_bytes(drawn_public))
    derived = _derive(shared, drawn_public, own.public_key().public_bytes_raw())
    return AESGCM(derived).decrypt(nonce, sealed[_KEY_BYTES + _NONCE_BYTES :], _PURPOSE)


def _derive(shared: bytes, drawn_public: bytes, theirs: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=_PURPOSE + drawn_public + theirs).derive(shared)


def _on_other_curve(ed25519_public: bytes) -> bytes:
    """The X25519 public key that belongs to an Ed25519 one: u = (1 + y) / (1 - y), RFC 7748 section 4.1."""
    y = int.from_bytes(ed25519_public, "little") & (2**255 - 1)
    return ((1 + y) * pow(1 - y, -1, _PRIME) % _PRIME).to_bytes(_KEY_BYTES, "little")


def _public_half(private_key: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw().hex()
