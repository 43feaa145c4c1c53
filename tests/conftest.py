"""What every test may use: the real archives, where there are any; and which tests of `make test` begin."""

import os
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).parent
ONE_HOME = "end_to_end"
"""The folder whose tests look at one home, on which a daemon has worked for minutes."""
LONGEST_FIRST = ("end_to_end", "own_model", "lifecycle", "test_notebook.py")


class OneProcessAFile(LoadScopeScheduling):
    """Which tests run one after another in the same process: those of a file, and those end to end."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return ONE_HOME if Path(file).parts[1] == ONE_HOME else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneProcessAFile:
    """How tests are shared out where they run in several processes."""
    return OneProcessAFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In several processes the longest work begins first."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: [item.path.is_relative_to(TESTS / name) for name in LONGEST_FIRST], reverse=True)


@pytest.fixture(scope="session")
def raw_archives() -> Path:
    """The folder of the publishers' archives, named by CLINICAL_RAW; without it, tests are skipped, but not in CI."""
    raw = Path(os.environ.get("CLINICAL_RAW") or "data/raw")
    if not raw.is_dir() or not any(raw.iterdir()):
        if os.environ.get("CI"):
            pytest.fail(f"no real archives in {raw}, and in CI no test on them may be skipped")
        pytest.skip("no real archives: set CLINICAL_RAW to the folder that holds them")
    return raw.resolve()
