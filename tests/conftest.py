"""What every test may use: the real archives, where there are any."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def raw_archives() -> Path:
    """The folder of the publishers' archives, named by CLINICAL_RAW; without it, tests are skipped, but not in CI."""
    raw = Path(os.environ.get("CLINICAL_RAW") or "data/raw")
    if not raw.is_dir() or not any(raw.iterdir()):
        if os.environ.get("CI"):
            pytest.fail(f"no real archives in {raw}, and in CI no test on them may be skipped")
        pytest.skip("no real archives: set CLINICAL_RAW to the folder that holds them")
    return raw.resolve()
