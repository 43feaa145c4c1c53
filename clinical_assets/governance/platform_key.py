"""The platform's own signing key: with it the platform vouches for what it wrote itself, not for what people decided.

Belongs here: the Ed25519 key, what it signs, and whether a signature is the platform's. Does not belong here: the keys
of people (signatures), and what is worth signing.
"""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

KEY_FILE = "platform.pem"
PUBLIC_KEY_FILE = "platform.pub"


class PlatformKeyError(RuntimeError):
    """The platform's key cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class PlatformKey:
    """An Ed25519 key (RFC 8032): the public half in 64 hex digits, the private half (32 bytes) out of every print."""

    public_key: str
    private_key: bytes = field(repr=False)

    def sign(self, message: bytes) -> str:
        """The signature over a message of any length, in 128 hex digits."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.private_key).sign(message).hex()


def platform_key(folder: Path) -> PlatformKey:
    """The key in `folder`/platform.pem, made if there is none, with its public half in platform.pub beside it.

    The file is made whole, with mode 0600, so that of two processes that start together both get the same key. Raises
    PlatformKeyError for a file that others than its owner may read or write, for one that holds no Ed25519 key, and
    for a public half that is not this key's.
    """
    path = folder / KEY_FILE
    if not path.exists():
        _create(path, _new_private_key())
    if path.stat().st_mode & 0o077:
        raise PlatformKeyError(f"{path} is open to others than its owner; find out who read it, then chmod 600 it")
    private = _read_private_key(path)
    key = PlatformKey(_public_half(private), private)
    beside = folder / PUBLIC_KEY_FILE
    if not beside.exists():
        _create(beside, f"{key.public_key}\n".encode())
    if public_key(folder) != key.public_key:
        raise PlatformKeyError(
            f"{beside} is not the public half of {path}: one of the two was exchanged; restore both from their backup"
        )
    return key


def public_key(folder: Path) -> str:
    """The public half of the key in a folder, in 64 hex digits; raises PlatformKeyError where there is none."""
    path = folder / PUBLIC_KEY_FILE
    if not path.is_file():
        raise PlatformKeyError(f"there is no {path}: the platform has signed nothing yet, or the file was removed")
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not _is_hex(text, digits=64):
        raise PlatformKeyError(f"{path} does not hold 64 hex digits; restore it from its backup")
    return text


def is_platform_signature(public_key: str, message: bytes, signature: str) -> bool:
    """Whether `signature` (128 hex digits) over `message` was made with the private half of `public_key`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    # fromhex() takes capitals and blanks too: one signature in several spellings would hide an edit.
    if not _is_hex(public_key, digits=64) or not _is_hex(signature, digits=128):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), message)
    except InvalidSignature:
        return False
    return True


def _is_hex(text: object, digits: int) -> bool:
    return isinstance(text, str) and len(text) == digits and set(text) <= set("0123456789abcdef")


def _new_private_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_private_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise PlatformKeyError(f"{path} cannot be opened as an unlocked key; restore it from its backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PlatformKeyError(f"{path} holds no Ed25519 key; restore it from its backup")
    return key.private_bytes_raw()


def _public_half(private_key: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw().hex()


def _create(path: Path, content: bytes) -> None:
    """Write a file whole, readable by its owner alone, unless another process was first."""
    try:
        _write(path, content)
    except OSError as error:
        raise PlatformKeyError(f"{path} cannot be written: {error.strerror}; see to its disk and rights") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # Its key is the key.
    finally:
        draft.unlink()
