"""Pseudonyms: keyed hashes that replace the identifiers of patients and encounters before anything is stored.

Belongs here: the key, and how an identifier becomes a pseudonym. Does not belong here: which columns identify anybody.
"""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import duckdb
import polars as pl

KEY_BYTES = 32
KEY_VARIABLE = "CLINICAL_PSEUDONYM_KEY"
PSEUDONYM_HEX_DIGITS = 32
_BLOCK_BYTES = 64  # of SHA-256


class PseudonymError(ValueError):
    """Identifiers cannot be replaced; the message names the column or the key file and the remedy, never a value."""


def load_or_create_key(path: Path) -> bytes:
    """The secret key of 32 bytes, from CLINICAL_PSEUDONYM_KEY (64 hex digits) or from the file, made if there is none.

    The file is made whole, with mode 0600, so that of two processes that start together both get the same key. Raises
    PseudonymError for a key of another length and for a file that others than its owner may read or write.
    """
    if next_key(path).exists():
        raise PseudonymError(
            f"a rotation of {path} was begun and not finished; finish it with `clinical keys rotate-pseudonyms`"
        )
    if (given := os.environ.get(KEY_VARIABLE)) is not None:
        return _key_from_hex(given)
    return create_secret(path)


def next_key(path: Path) -> Path:
    """Where the key lies that a rotation is about to put in the place of the one at `path`."""
    return path.with_name(f"{path.name}.next")


def refuse_key_in_environment() -> None:
    """Raise PseudonymError where the key comes from the environment, which a rotation cannot change."""
    if KEY_VARIABLE in os.environ:
        raise PseudonymError(
            f"{KEY_VARIABLE} is set, and a rotation cannot change it; write its 32 bytes to the key file, unset it, "
            "rotate, and set it from the new file"
        )


def create_secret(path: Path) -> bytes:
    """The 32 bytes in a key file, which is made if there is none; raises PseudonymError as `read_secret` does."""
    if not path.exists():
        _create_key(path)
    return read_secret(path)


def read_secret(path: Path) -> bytes:
    """The 32 bytes in a key file; raises PseudonymError where it is missing, open to others or of another length."""
    if not path.exists():
        raise PseudonymError(f"there is no key {path}; restore it from its backup")
    if path.stat().st_mode & 0o077:
        raise PseudonymError(f"{path} is open to others than its owner; find out who read it, then chmod 600 it")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise PseudonymError(
            f"{path} holds {len(key)} bytes, not {KEY_BYTES}; restore it from its backup: "
            "with a new key no new row could be linked to a patient already stored"
        )
    return key


def pseudonymise(frame: pl.DataFrame, columns: Sequence[str], key: bytes) -> pl.DataFrame:
    """The frame with the values of some columns replaced by pseudonyms; null stays null.

    A pseudonym is the first 128 bits of HMAC-SHA256 (RFC 2104) of the value's text in UTF-8, as 32 lower-case hex
    digits: the number 5 and the text "5" are the same patient.

    Args:
        frame: any rows.
        columns: text or integer columns of `frame`.
        key: 32 bytes.

    Raises PseudonymError for an absent column, for one that is neither text nor integer, and for a key of other length.
    """
    if len(key) != KEY_BYTES:
        raise PseudonymError(f"the key has {len(key)} bytes, not {KEY_BYTES}; take it from load_or_create_key")
    if missing := [column for column in columns if column not in frame.columns]:
        raise PseudonymError(f"there are no columns {missing} to pseudonymise; the rows have {frame.columns}")
    for column in columns:
        if frame[column].dtype != pl.String and not frame[column].dtype.is_integer():
            raise PseudonymError(f"column {column} is {frame[column].dtype}; an identifier is text or an integer")
    return frame.with_columns(_hash(frame[column].cast(pl.String), key) for column in columns)


def _hash(identifiers: pl.Series, key: bytes) -> pl.Series:
    padded = key.ljust(_BLOCK_BYTES, b"\0")
    inner, outer = (bytes(byte ^ mask for byte in padded) for mask in (0x36, 0x5C))
    query = f"""
        SELECT identifier, left(sha256($outer || unhex(sha256($inner || encode(identifier)))), {PSEUDONYM_HEX_DIGITS})
        FROM identifiers"""
    with duckdb.connect(
        config={"autoload_known_extensions": "false", "autoinstall_known_extensions": "false"}
    ) as engine:
        engine.register("identifiers", identifiers.drop_nulls().unique().to_frame("identifier").to_arrow())
        known = engine.execute(query, {"outer": outer, "inner": inner}).pl()
    return identifiers.replace_strict(known.to_series(0), known.to_series(1), return_dtype=pl.String)


def _key_from_hex(given: str) -> bytes:
    try:
        key = bytes.fromhex(given)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise PseudonymError(f"{KEY_VARIABLE} is not {2 * KEY_BYTES} hex digits; correct or unset it")
    return key


def _create_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # Another process was first: its key is the key.
    finally:
        draft.unlink()
