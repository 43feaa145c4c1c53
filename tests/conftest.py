"""What every test may use: the real archives, where there are any; and which tests share a process of `make test`."""

import os
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).parent
SHARED_HOMES = ("end_to_end", "lifecycle")
"""Folders whose tests share a home that takes minutes to make, the slowest first."""


class OneProcessAHome(LoadScopeScheduling):
    """Which tests run one after another in the same process: those of a file, and of a folder that shares a home."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = Path(file).parts[1]
        return folder if folder in SHARED_HOMES else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneProcessAHome:
    """How tests are shared out where they run in several processes."""
    return OneProcessAHome(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In several processes the longest work begins first."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: [item.path.is_relative_to(TESTS / name) for name in SHARED_HOMES], reverse=True)


@pytest.fixture(scope="session")
def raw_archives() -> Path:
    """The folder of the publishers' archives, named by CLINICAL_RAW; without it, tests are skipped, but not in CI."""
    raw = Path(os.environ.get("CLINICAL_RAW") or "data/raw")
    if not raw.is_dir() or not any(raw.iterdir()):
        if os.environ.get("CI"):
            pytest.fail(f"no real archives in {raw}, and in CI no test on them may be skipped")
        pytest.skip("no real archives: set CLINICAL_RAW to the folder that holds them")
    return raw.resolve()
