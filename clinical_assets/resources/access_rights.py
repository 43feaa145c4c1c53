"""Who may read what a home keeps: secrets are their owner's alone, and a start refuses where they were open to others.

Belongs here: modes of files and folders (0600, 0700), checked and set. Does not belong here: which paths are secret,
which the home says, and encryption.
"""

import logging
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

PRIVATE_FOLDER = 0o700
_OF_OTHERS = 0o077

_log = logging.getLogger(__name__)


class AccessRightsError(RuntimeError):
    """A secret is open to others than its owner; the message names the path, its mode and the remedy."""


def make_private(folder: Path) -> None:
    """Make a folder that its owner alone can open, whatever the umask; one that was open is closed, and it is said."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=PRIVATE_FOLDER)
    except FileExistsError:
        mode = _mode(folder)
        if mode & _OF_OTHERS:
            folder.chmod(PRIVATE_FOLDER)
            _log.warning("%s was open to others than its owner (mode %04o), and was closed (0700)", folder, mode)


def refuse_open_secrets(secrets: Sequence[Path]) -> None:
    """Raise AccessRightsError where a secret, or anything below a secret folder, is open to others.

    Nothing is repaired: somebody may have read it, and a person must find out. `secrets` that are not there yet, and
    links, which have no mode of their own, are passed over.
    """
    for path in _all_below(secrets):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue  # a draft that another process has put in its place meanwhile
        if stat.S_ISLNK(found.st_mode):
            continue
        mode, wanted = stat.S_IMODE(found.st_mode), "700" if stat.S_ISDIR(found.st_mode) else "600"
        if mode & _OF_OTHERS:
            raise AccessRightsError(
                f"{path} is open to others than its owner (mode {mode:04o}); find out who read it, replace it where it "
                f"is a key that somebody may hold now, then chmod {wanted} {path}"
            )


def _all_below(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from path.rglob("*")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
