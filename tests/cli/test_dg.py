import os
import subprocess
import sys
from pathlib import Path

import pytest

from clinical_assets.resources.home import PROJECT

MODELS = ("readmission", "retinopathy", "sepsis")


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("check", ["All definitions loaded successfully."]),
        (
            "list",
            [
                *(f"{model}/validation_report" for model in MODELS),
                *(f"{model}_watch" for model in MODELS),
                "every_limit_is_met",
                "home_watch",
            ],
        ),
    ],
)
def test_dg_loads_every_definition(verb: str, expected: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "CLINICAL_HOME": str(tmp_path / "home"), "COLUMNS": "400"}
    environment.pop("DAGSTER_HOME", None)
    done = subprocess.run(
        [Path(sys.executable).with_name("dg"), verb, "defs"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [words for words in expected if words not in done.stdout + done.stderr] == []
    assert not (tmp_path / "home").exists()
