"""The signers: who may sign, in which roles, by which key, until when; kept in TOML files under version control.

Belongs here: the files' entries, read, added and revoked. Does not belong here: keys' private halves, and signatures.
"""

import json
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clinical_assets.protocol import protocol_names, read_protocol

PLATFORM_ROLES = frozenset({"mlops", "clinical_lead", "on_call", "privacy_officer"})
"""The roles that the platform itself knows; a protocol may ask for others."""

NAME = re.compile(r"[A-Za-z0-9_-]+")
_REQUIRED = {"roles": list, "public_key": str, "demo": bool}
_OPTIONAL = {"users": list, "expires_at": datetime, "revoked_at": datetime, "revoked_reason": str}


class SignerError(ValueError):
    """A signers file cannot be used as it stands; the message names the file, the line, the entry and the remedy."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A person who may sign: roles, the public key in hexadecimal, and whether it is for demonstration alone.

    `users` are the person's accounts on the platform's machine: who launched a training from one of them trained that
    version. Past `expires_at` or `revoked_at` no signature of the key counts, whenever it was made.
    """

    name: str
    roles: tuple[str, ...]
    public_key: str
    demo: bool
    users: tuple[str, ...] = ()
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: str = ""

    def fault_of_key(self, at: datetime) -> str:
        """Why no signature of this key counts at a moment; empty where it does."""
        if self.revoked_at is not None and at >= self.revoked_at:
            return f"{self.name}'s key was revoked on {self.revoked_at:%Y-%m-%d}: {self.revoked_reason}"
        if self.expires_at is not None and at >= self.expires_at:
            return f"{self.name}'s key expired on {self.expires_at:%Y-%m-%d}"
        return ""


def known_roles() -> frozenset[str]:
    """The platform's own roles and those that a protocol of this installation asks to sign."""
    return PLATFORM_ROLES.union(*(read_protocol(model).sign_off.roles for model in protocol_names()))


def read_signers(paths: Sequence[Path]) -> dict[str, Signer]:
    """The signers of all files that exist, by name; raises SignerError with the file, the line and the entry."""
    signers: dict[str, Signer] = {}
    stands_at: dict[str, str] = {}
    for path in paths:
        if not path.exists():
            continue
        text = path.read_text()
        try:
            entries = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SignerError(f"{path} is not valid TOML: {error}; mend that line") from error
        for name, entry in entries.items():
            where = f"{path}, line {_line_of(name, text)}: [{name}]"
            if name in signers:
                raise SignerError(f"{where} stands in another signers file too ({stands_at[name]}); remove one")
            signer = _checked(name, entry, where)
            if shared := [other for other in signers.values() if other.public_key == signer.public_key]:
                raise SignerError(
                    f"{where} has the public key of [{shared[0].name}] ({stands_at[shared[0].name]}); each person "
                    "needs a key of their own"
                )
            signers[name], stands_at[name] = signer, where.removesuffix(f": [{name}]")
    return signers


def add_signer(path: Path, signer: Signer) -> None:
    """Append a signer to a signers file, whole or not at all; raises SignerError where the name stands there."""
    check_entry(signer)
    if signer.name in read_signers([path]):
        raise SignerError(f"{path}: [{signer.name}] stands there already")
    entry = [
        f"[{signer.name}]",
        f"roles = {json.dumps(list(signer.roles))}",
        f'public_key = "{signer.public_key}"',
        f"demo = {str(signer.demo).lower()}",
        *([f"users = {json.dumps(list(signer.users))}"] if signer.users else []),
        *([f"expires_at = {_written(signer.expires_at)}"] if signer.expires_at else []),
    ]
    _replace(path, (path.read_text() if path.exists() else "") + "\n".join(entry) + "\n\n")


def check_entry(signer: Signer) -> None:
    """Raise SignerError where a signer's name or roles could not stand in a signers file."""
    if not NAME.fullmatch(signer.name):
        raise SignerError(f"{signer.name!r} is no name of a signer; use letters, digits, _ and - alone")
    if unknown := sorted(set(signer.roles) - known_roles()):
        raise SignerError(f"{signer.name}: there is no role {', '.join(unknown)}; {_roles_in_words()}")


def revoke_signer(paths: Sequence[Path], name: str, reason: str, at: datetime) -> Path:
    """Write a revocation into the signer's entry, and return the file; a revocation is never taken back.

    Raises SignerError where there is no such signer, no reason, or a revocation already.
    """
    signers = read_signers(paths)
    if name not in signers:
        raise SignerError(f"{name} is in none of {', '.join(map(str, paths))}; the signers are: {_listed(signers)}")
    if signers[name].revoked_at:
        raise SignerError(signers[name].fault_of_key(datetime.max.replace(tzinfo=UTC)))
    if not reason.strip():
        raise SignerError("a revocation needs its reason")
    for path in paths:
        lines = path.read_text().splitlines() if path.exists() else []
        if (line := _line_of(name, "\n".join(lines))) is not None:
            revocation = [f"revoked_at = {_written(at)}", f"revoked_reason = {json.dumps(reason, ensure_ascii=False)}"]
            _replace(path, "\n".join([*lines[:line], *revocation, *lines[line:]]) + "\n")
            return path
    raise SignerError(f"{name}: the entry is not written as [{name}] on a line of its own; revoke it by hand")


def _checked(name: str, entry: Any, where: str) -> Signer:
    found = {key: type(value) for key, value in entry.items()} if isinstance(entry, dict) else {}
    optional = {key: kind for key, kind in found.items() if key not in _REQUIRED}
    if {key: found.get(key) for key in _REQUIRED} != _REQUIRED or not optional.items() <= _OPTIONAL.items():
        raise SignerError(
            f"{where} needs roles (list), public_key (string) and demo (true or false), and may have users (list), "
            "expires_at, revoked_at (times with a zone) and revoked_reason (string); it has "
            f"{', '.join(found) or 'none of them'}"
        )
    texts = [*entry["roles"], *entry.get("users", [])]
    if not entry["roles"] or not all(isinstance(text, str) and text for text in texts):
        raise SignerError(f"{where} roles and users are lists of names, and roles holds one at least")
    if unknown := sorted(set(entry["roles"]) - PLATFORM_ROLES) and sorted(set(entry["roles"]) - known_roles()):
        raise SignerError(f"{where} has the unknown role {', '.join(unknown)}; {_roles_in_words()}")
    if not re.fullmatch(r"[0-9a-f]{64}", entry["public_key"]):
        raise SignerError(f"{where} public_key must be 64 hex digits in small letters")
    if any(entry[key].tzinfo is None for key in ("expires_at", "revoked_at") if key in entry):
        raise SignerError(f"{where} expires_at and revoked_at need a time zone, as in 2026-03-14T02:00:00Z")
    if ("revoked_at" in entry) != bool(entry.get("revoked_reason")):
        raise SignerError(f"{where} revoked_at and revoked_reason belong together")
    return Signer(
        name=name,
        roles=tuple(entry["roles"]),
        public_key=entry["public_key"],
        demo=entry["demo"],
        users=tuple(entry.get("users", ())),
        expires_at=entry.get("expires_at"),
        revoked_at=entry.get("revoked_at"),
        revoked_reason=entry.get("revoked_reason", ""),
    )


def _line_of(name: str, text: str) -> int | None:
    """The number of the line on which an entry's header stands, or where the name first stands at all."""
    header = re.compile(rf"""\s*\[\s*["']?{re.escape(name)}["']?\s*\]""")
    lines = text.splitlines()
    found = [number for number, line in enumerate(lines, 1) if header.match(line)]
    return found[0] if found else next((number for number, line in enumerate(lines, 1) if name in line), None)


def _roles_in_words() -> str:
    return f"the roles are {', '.join(sorted(known_roles()))}, and those that a protocol names in sign_off"


def _listed(signers: dict[str, Signer]) -> str:
    return ", ".join(sorted(signers)) or "none"


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
