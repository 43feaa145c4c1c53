"""The `dvc` program, which moves pinned bytes to and from the hospital's own storage; found, never installed.

Belongs here: where the program is, and the three things asked of it. Does not belong here: pins, which we read and
write ourselves (governance/dvc_pins.py). It runs in an environment of its own, since it does not fit into ours.
"""

import fcntl
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clinical_assets.governance.dvc_pins import PinError

VARIABLE = "CLINICAL_DVC"
HOW_TO_GET_IT = (
    f"the program dvc is not here: set {VARIABLE}='uvx dvc', or install it in an environment of its own "
    f"(python3 -m venv ~/dvc && ~/dvc/bin/pip install dvc) and set {VARIABLE}=~/dvc/bin/dvc"
)
TIMEOUT_SECONDS = 3600
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""What names our environment's packages to a program of another."""


def find_dvc() -> list[str] | None:
    """The command that CLINICAL_DVC names, else `dvc` on the PATH; None where there is none."""
    if written := os.environ.get(VARIABLE):
        program, *rest = shlex.split(written)
        found = shutil.which(Path(program).expanduser())
        if found is None:
            raise PinError(f"{VARIABLE} names {program}, which is no program; {HOW_TO_GET_IT}")
        return [found, *rest]
    found = shutil.which("dvc")
    return [found] if found else None


def store(root: Path, pin_file: Path) -> str:
    """Put what is pinned into DVC's cache, and push it to the default remote; tells in words how far that came.

    Raises PinError where dvc is there and fails: then the pin stands, and its bytes are in no remote.
    """
    if (dvc := find_dvc()) is None:
        return f"not pushed: {HOW_TO_GET_IT}"
    if not _is_project(root):
        return f"not pushed: {root} is no DVC project; run `dvc init` in its Git working tree"
    with one_at_a_time(root):
        _run(dvc, root, "commit", "--quiet", "--force", str(pin_file))
        remote = _ask(dvc, root, "config", "core.remote")
        if not remote:
            return "not pushed: DVC has no default remote; run `dvc remote add --default NAME ADDRESS`"
        _run(dvc, root, "push", "--quiet", str(pin_file))
    return f"pushed to the remote {remote}"


def pull(root: Path, pin_file: Path) -> None:
    """Fetch what is pinned and put it beside its pin; raises PinError without dvc, or where it fails."""
    if (dvc := find_dvc()) is None:
        raise PinError(f"{pin_file.with_suffix('')} is not there, and {HOW_TO_GET_IT}")
    with one_at_a_time(root):
        _run(dvc, root, "pull", "--quiet", str(pin_file))


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Until the block ends, no other process of ours writes in this working tree, or runs dvc, which would give up."""
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_project(root: Path) -> bool:
    return any((folder / ".dvc").is_dir() for folder in (root, *root.parents))


def _ask(dvc: list[str], root: Path, *arguments: str) -> str:
    return _call(dvc, root, arguments).stdout.strip()


def _run(dvc: list[str], root: Path, *arguments: str) -> None:
    done = _call(dvc, root, arguments)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise PinError(f"`dvc {' '.join(arguments)}` in {root} failed: {said[0] if said else 'it did not say why'}")


def _call(dvc: list[str], root: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    # DVC reports its use, and asks for newer versions, unless it is told not to; CI stands for the second.
    environment |= {"DVC_NO_ANALYTICS": "1", "CI": "1"}
    try:
        return subprocess.run(
            [*dvc, *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PinError(f"`dvc {' '.join(arguments)}` in {root} failed: {error}") from error
