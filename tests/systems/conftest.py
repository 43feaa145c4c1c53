"""What tests beside other systems may use: those systems, each found or said to be missing."""

import os
import shutil
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Where a program is; a test that needs a missing one is skipped, but in CI it fails."""

    def find(name: str) -> str:
        if (found := shutil.which(name)) is not None:
            return found
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and in CI no test of it may be skipped")
        pytest.skip(f"{name} is not installed")

    return find
