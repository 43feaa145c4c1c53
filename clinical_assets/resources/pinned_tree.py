"""The folder of the hospital's Git working tree in which pins stand: of raw archives, and of releases.

Belongs here: where each pin lies, writing it, and the Git commit it stands in. Does not belong here: what a pin says
(governance/dvc_pins.py), and what a release rests on (lifecycle/pinned_release.py). A person commits, never we.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from clinical_assets.governance.dvc_pins import SUFFIX, Pin, PinError, contents_of, pin_text, read_pin, verify
from clinical_assets.protocol import ArchivePin
from clinical_assets.resources.dvc_tool import pull

VARIABLE = "CLINICAL_PINS"
NOT_SET = f"{VARIABLE} is not set: it names a folder of the hospital's Git working tree, in which pins stand"


@dataclass(frozen=True, slots=True)
class PinnedTree:
    """`archives/<name>/<file>.dvc` or `archives/<name>.dvc`, and `releases/<model>/v<N>.dvc`, below `root`."""

    root: Path

    @classmethod
    def from_environment(cls) -> "PinnedTree | None":
        """The folder that CLINICAL_PINS names, None where it is unset; raises PinError where that is no folder."""
        if not (written := os.environ.get(VARIABLE)):
            return None
        root = Path(written).resolve()
        if not root.is_dir():
            raise PinError(f"{VARIABLE} names {root}, which is no folder; clone the hospital's Git there, or unset it")
        return cls(root)

    @property
    def archives(self) -> Path:
        """The folder of archives, laid out as CLINICAL_RAW is, and their pins."""
        return self.root / "archives"

    def release(self, model: str, version: int) -> Path:
        """The folder of what a release rests on; its pin stands beside it."""
        return self.root / "releases" / model / f"v{version}"

    def archive_pin(self, name: str) -> Pin | None:
        """The pin of the archive of this name, if any; raises PinError where it is damaged, or there are several."""
        found = [*self.archives.glob(f"{name}{SUFFIX}"), *sorted((self.archives / name).glob(f"*{SUFFIX}"))]
        if len(found) > 1:
            names = ", ".join(str(file.relative_to(self.root)) for file in found)
            raise PinError(f"{self.root} pins the archive {name} {len(found)} times ({names}); leave one of them")
        return read_pin(found[0]) if found else None

    def release_pin(self, model: str, version: int) -> Pin | None:
        """The pin of a release, if any; raises PinError where it is damaged."""
        file = pin_file_of(self.release(model, version))
        return read_pin(file) if file.exists() else None

    def pin_archive(self, name: str, path: Path) -> Pin:
        """Pin the archive of this name as it lies at `path`, which is copied into the working tree unless it is there.

        Raises PinError where it is pinned as another file or folder already.
        """
        target = self.archives / name if path.name == name else self.archives / name / path.name
        other = self.archive_pin(name)
        if other is not None and other.data != target:
            raise PinError(f"{name} is pinned by {other.file} already; remove that with `git rm`, then pin it again")
        if path.resolve() != target.resolve():
            _copy(path, target)
        return self.pin(target)

    def pin(self, data: Path) -> Pin:
        """Write the pin of a file or folder of the working tree, and have Git ignore the bytes, as `dvc add` does."""
        from clinical_assets.resources.home import write_atomically

        file, ignored = pin_file_of(data), data.parent / ".gitignore"
        write_atomically(file, pin_text(data.name, contents_of(data)))
        lines = ignored.read_text().splitlines() if ignored.exists() else []
        if f"/{data.name}" not in lines:
            write_atomically(ignored, "\n".join([*lines, f"/{data.name}"]) + "\n")
        return read_pin(file)

    def bring(self, pin: Pin) -> Path:
        """What is pinned, pulled where it is missing, and verified; raises PinError where that cannot be."""
        if not pin.data.exists():
            pull(self.root, pin.file)
        verify(pin, pin.data)
        return pin.data

    def place_of(self, pin: Pin) -> str:
        """Where a pin stands below the root, the same on every machine."""
        return pin.file.relative_to(self.root).as_posix()

    def record_of(self, pin: Pin) -> ArchivePin:
        """What lineage and evidence keep of an archive's pin."""
        sha256 = pin.sha256 or "not stated, DVC alone wrote the pin"
        return ArchivePin(self.place_of(pin), pin.md5, sha256, self.commit_of(pin))

    def commit_of(self, pin: Pin) -> str:
        """The commit of the working tree, and whether the pin stands in it as it is; in words where Git cannot tell."""
        asked = ("status", "--porcelain=v2", "--branch", "--ignored", "--untracked-files=all", "--", str(pin.file))
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *asked], capture_output=True, text=True, check=False, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"cannot tell: git does not run ({type(error).__name__})"
        if done.returncode:
            return f"cannot tell: {(done.stderr.strip() or 'git failed').splitlines()[0]}"
        lines = done.stdout.splitlines()
        head = next(line.split()[-1] for line in lines if line.startswith("# branch.oid"))
        is_as_committed = all(line.startswith("#") for line in lines)
        if is_as_committed:
            return head
        return "not committed" if head == "(initial)" else f"{head}, without the pin as it is: not committed"


def pin_file_of(data: Path) -> Path:
    """The pin of a file or folder, beside it."""
    return data.with_name(f"{data.name}{SUFFIX}")


def _copy(path: Path, target: Path) -> None:
    """Put a copy of a file or folder at `target`, in place of what is there."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(path, draft) if path.is_dir() else shutil.copy2(path, draft)
    if target.is_dir():
        shutil.rmtree(target)
    draft.replace(target)
