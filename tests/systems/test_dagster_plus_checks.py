import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clinical_assets.resources.home import PROJECT

VALIDATE = """
import json, sys
from dagster_k8s.container_context import K8sContainerContext
context = K8sContainerContext.create_from_config(json.load(sys.stdin))
print(context.run_k8s_config.container_config["security_context"]["run_as_non_root"])
"""


@pytest.fixture(scope="session")
def plus_python() -> str:
    """The Python of an environment with dagster-k8s, which the platform's own has no use for."""
    if python := os.environ.get("CLINICAL_PLUS_PYTHON"):
        return python
    if os.environ.get("CI"):
        pytest.fail("CLINICAL_PLUS_PYTHON is not set, and in CI no test of Dagster+ may be skipped")
    pytest.skip("set CLINICAL_PLUS_PYTHON to the Python of an environment with dagster-k8s")


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """Dagster's own check of a dagster_cloud.yaml, without a connection."""
    said = {"DAGSTER_CLOUD_ORGANIZATION": "hospital", "DAGSTER_CLOUD_API_TOKEN": "none", "DAGSTER_CLOUD_URL": "none"}
    command = [Path(sys.executable).with_name("dagster-cloud"), "ci", "check", "--project-dir", folder]
    return subprocess.run(
        [*command, "--dagster-cloud-connect-check", "skip"],
        env={**os.environ, **said},
        capture_output=True,
        text=True,
        check=False,
    )


def validate(python: str, context: object) -> subprocess.CompletedProcess[str]:
    """What Dagster's agent for Kubernetes makes of a container context."""
    return subprocess.run(
        [python, "-c", VALIDATE], input=json.dumps(context), capture_output=True, text=True, check=False
    )


def test_dagster_plus_takes_the_file_as_it_is_and_none_with_a_wrong_key(tmp_path: Path) -> None:
    written = (PROJECT / "dagster_cloud.yaml").read_text()
    assert check(PROJECT).returncode == 0, check(PROJECT).stderr
    (tmp_path / "dagster_cloud.yaml").write_text(written.replace("agent_queue:", "agent_row:"))
    assert check(tmp_path).returncode != 0


def test_the_agent_makes_pods_of_it_that_run_as_nobody_s_root(plus_python: str) -> None:
    context = yaml.safe_load((PROJECT / "container_context.yaml").read_text())
    made = validate(plus_python, context)
    assert (made.returncode, made.stdout.strip()) == (0, "True"), made.stderr[-800:]
    context["k8s"]["not_a_field"] = 1
    assert "not_a_field" in validate(plus_python, context).stderr
