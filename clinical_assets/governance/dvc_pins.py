"""Pins: small files in the hospital's own Git that say which bytes a file or folder has, in DVC's format.

Belongs here: what a pin says, reading it, and comparing bytes with it; DVC itself is not needed. Does not belong here:
where pins lie, Git (resources/pinned_tree.py), and the `dvc` tool, which moves the bytes (resources/dvc_tool.py).

Source: DVC 3. A pin `NAME.dvc` stands beside NAME. Of a file it has the MD5; of a folder the MD5 of a JSON list of MD5
and relative path of every file, sorted by path. Beside it, under `meta`, which DVC keeps and does not read, we write
the SHA-256: MD5 alone proves nothing against somebody who means harm.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SUFFIX = ".dvc"
MOST_NAMED = 1000
"""A folder of more files is pinned as a whole: no list of its files stands in the pin."""
IGNORED = frozenset({".git", ".hg", ".dvc"})
"""What DVC leaves out of a folder."""

_CHUNK_BYTES = 1 << 20
_NEEDED = frozenset({"md5", "size", "hash", "path"})
_KNOWN = _NEEDED | {"nfiles", "isexec", "desc", "type", "labels", "remote", "push", "meta"}


class PinError(RuntimeError):
    """A pin is damaged, or something is not what its pin says; the message names file, both hashes and the remedy."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file or a folder holds; `files` are the SHA-256 of a folder's files by relative path, None of a file.

    `md5` is DVC's; `size` is in bytes; `sha256` is that of the file, or over the sorted names and hashes of a folder.
    """

    md5: str
    size: int
    sha256: str
    files: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """What a pin says; `sha256` is None where DVC alone wrote it, `files` where none are listed."""

    file: Path
    md5: str
    size: int
    nfiles: int | None
    sha256: str | None
    files: Mapping[str, str] | None = None

    @property
    def data(self) -> Path:
        """The file or folder that is pinned, beside its pin."""
        return self.file.with_suffix("")

    @property
    def remedy(self) -> str:
        """What to do where the bytes are not those that are pinned."""
        return f"put back what is pinned (`dvc pull --force {self.file.name}` has it), or pin it again and commit that"


def contents_of(path: Path) -> Contents:
    """Size and hashes of a file or a folder; raises PinError where there is neither, or a folder holds no file."""
    if path.is_file():
        md5, sha256 = _hash(path)
        return Contents(md5, path.stat().st_size, sha256)
    if not path.exists():
        raise PinError(f"{path} is not there; pull it with dvc, or restore it")
    found = {
        place.as_posix(): file for file in path.rglob("*") if not IGNORED & {*(place := file.relative_to(path)).parts}
    }
    files = {name: file for name, file in sorted(found.items()) if file.is_file()}
    if not files:
        raise PinError(f"{path} holds no file; an empty folder cannot be pinned")
    hashes = {name: _hash(file) for name, file in files.items()}
    listed = json.dumps([{"md5": md5, "relpath": name} for name, (md5, _) in hashes.items()], sort_keys=True)
    sha256s = {name: sha256 for name, (_, sha256) in hashes.items()}
    return Contents(
        md5=f"{hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest()}.dir",
        size=sum(file.stat().st_size for file in files.values()),
        sha256=_hash_of_list(sha256s),
        files=sha256s,
    )


def pin_text(name: str, contents: Contents) -> str:
    """The pin of what is called `name`, as DVC and we read it."""
    out: dict[str, Any] = {"md5": contents.md5, "size": contents.size}
    meta: dict[str, Any] = {"sha256": contents.sha256}
    if contents.files is not None:
        out["nfiles"] = len(contents.files)
        if len(contents.files) <= MOST_NAMED:
            meta["files"] = dict(contents.files)
    out |= {"hash": "md5", "path": name, "meta": meta}
    return yaml.safe_dump({"outs": [out]}, sort_keys=False, allow_unicode=True, width=1000)


def read_pin(file: Path) -> Pin:
    """What a pin says, ours or one that `dvc add` wrote; raises PinError for one that is damaged, naming the fault."""
    try:
        written = yaml.safe_load(file.read_text())
    except OSError as error:
        raise PinError(f"{file} cannot be read ({error.strerror}); restore it with `git checkout`") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError):
        raise _damaged(file, "it is no YAML") from None
    outs = written.get("outs") if isinstance(written, dict) and set(written) == {"outs"} else None
    if not isinstance(outs, list) or len(outs) != 1 or not isinstance(outs[0], dict):
        raise _damaged(file, "it does not hold one entry under `outs`, and nothing else")
    out = outs[0]
    if wrong := sorted(map(str, (_NEEDED - set(out)) | (set(out) - _KNOWN))):
        raise _damaged(file, f"{', '.join(wrong)} is missing or unknown")
    md5, size, nfiles, meta = out["md5"], out["size"], out.get("nfiles"), out.get("meta", {})
    if out["hash"] != "md5" or not _is_hex(str(md5).removesuffix(".dir"), 32):
        raise _damaged(file, "md5 is no hash of DVC 3")
    if not _is_count(size) or (not _is_count(nfiles) if str(md5).endswith(".dir") else nfiles is not None):
        raise _damaged(file, "size or nfiles is no number that fits")
    if out["path"] != file.name.removesuffix(SUFFIX):
        raise _damaged(file, f"path is {out['path']}, which is not what lies beside it under this name")
    if "meta" in out and not (isinstance(meta, dict) and {"sha256"} <= set(meta) <= {"sha256", "files"}):
        raise _damaged(file, "meta does not hold sha256, files, and nothing else")
    sha256, files = meta.get("sha256"), meta.get("files")
    if "meta" in out and not _is_hex(sha256, 64):
        raise _damaged(file, "meta.sha256 is no SHA-256")
    if files is not None and not (_is_list(files) and nfiles == len(files) and _hash_of_list(files) == sha256):
        raise _damaged(file, "meta.files is not what meta.sha256 is the hash of")
    return Pin(file, md5, size, nfiles, sha256, files)


def verify(pin: Pin, path: Path) -> Contents:
    """What is at `path`, which is what is pinned, under its name; raises PinError where it is not."""
    if path.name != pin.data.name:
        raise PinError(f"{path} is not what {pin.file} pins, which is called {pin.data.name}; {pin.remedy}")
    found = contents_of(path)
    if found.files is not None and pin.files is not None:
        for name in sorted({*found.files, *pin.files}):
            if found.files.get(name) != pin.files.get(name):
                raise _differs(pin, path / name, "sha256", pin.files.get(name), found.files.get(name))
    if pin.sha256 is not None and found.sha256 != pin.sha256:
        raise _differs(pin, path, "sha256", pin.sha256, found.sha256)
    nfiles = None if found.files is None else len(found.files)
    for what, pinned, there in (
        ("md5", pin.md5, found.md5),
        ("size", pin.size, found.size),
        ("nfiles", pin.nfiles, nfiles),
    ):
        if pinned != there:
            raise _differs(pin, path, what, pinned, there)
    return found


def _differs(pin: Pin, path: Path, what: str, pinned: object, found: object) -> PinError:
    return PinError(
        f"{path} is not what {pin.file} pins: {what} {pinned or 'none (no such file)'} is pinned, and "
        f"{found or 'none (it is not there)'} was found; {pin.remedy}"
    )


def _damaged(file: Path, fault: str) -> PinError:
    return PinError(f"{file} is damaged: {fault}; restore it with `git checkout -- {file.name}`")


def _hash(path: Path) -> tuple[str, str]:
    """MD5 and SHA-256 of a file, which is read once."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            md5.update(chunk)
            sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()


def _hash_of_list(files: Mapping[str, str]) -> str:
    """The SHA-256 over the sorted names and hashes of a folder's files, as `sha256sum` writes them."""
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()


def _is_hex(text: object, digits: int) -> bool:
    return isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", text) is not None


def _is_list(files: object) -> bool:
    return isinstance(files, dict) and all(isinstance(x, str) for pair in files.items() for x in pair)


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
