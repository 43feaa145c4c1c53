"""What takes long to make is made once, by whichever process of the tests needs it first; each works on a copy.

A home can be copied and moved: nothing in it says where it lies.
"""

import fcntl
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def kept(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> tuple[Path, T]:
    """A folder of this process's own as `make` filled it, and what it returned."""
    own = factory.mktemp(name)
    with made_once(factory, name, make) as (master, value):
        # Not by this process: closing another handle of a catalogue would drop the locks of its engine.
        subprocess.run(["cp", "-r", f"{master}/.", own], check=True)
    return own, value


@contextmanager
def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> Iterator[tuple[Path, T]]:
    """The folder that all processes of these tests copy, and what was returned when it was made."""
    base = factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    master, returned = shared / f"{name}-made-once", shared / f"{name}-made-once.pickle"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not returned.exists():
            shutil.rmtree(master, ignore_errors=True)
            master.mkdir()
            returned.write_bytes(pickle.dumps(make(master)))
        yield master, pickle.loads(returned.read_bytes())
