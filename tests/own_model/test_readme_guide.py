"""The guide of the README is followed to the letter, in a copy of the package; the repository stays as it is."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from clinical_assets.cli import app
from clinical_assets.resources.home import PROJECT

MODEL = "breast_cancer"
MOST_LINES = 25
KEY = "00" * 32
"""The pseudonym key decides which patient is in which split; a fixed one makes every run the same."""


@dataclass(frozen=True)
class Guide:
    """The section of the README: its text, and each file it gives in full by its path in the project."""

    text: str
    files: dict[str, str]


@dataclass(frozen=True)
class FollowedGuide:
    """A copy of the project with the guide's files in it, and what came of the run."""

    project: Path
    environment: dict[str, str]
    came_of_it: dict[str, Any]


@pytest.fixture(scope="module")
def guide() -> Guide:
    section = (PROJECT / "README.md").read_text().split("\n## Bring your own model\n")[1].split("\n## ")[0]
    files = re.findall(r"`(clinical_assets/defs/[\w/.]+)`;[^`]+```(?:yaml|python)\n(.+?)```", section, re.DOTALL)
    return Guide(section, dict(files))


@pytest.fixture(scope="module")
def followed(guide: Guide, tmp_path_factory: pytest.TempPathFactory) -> FollowedGuide:
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(
        PROJECT / "clinical_assets", project / "clinical_assets", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "workspace.yaml"):
        shutil.copy(PROJECT / name, project / name)
    for path, content in guide.files.items():
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).with_name("__init__.py").touch()
        (project / path).write_text(content)
    environment = {
        **os.environ,
        "PYTHONPATH": str(project),
        "PYTHONWARNINGS": "ignore",  # other packages' own, as in the daemon's processes
        "CLINICAL_HOME": str(project / "home"),
        "CLINICAL_RAW": str(project / "no_archives"),
        "CLINICAL_PSEUDONYM_KEY": KEY,
        "COLUMNS": "400",
    }
    environment.pop("DAGSTER_HOME", None)
    script = Path(__file__).with_name("guided_run.py")
    printed = run(project, environment, sys.executable, str(script), MODEL).stdout
    return FollowedGuide(project, environment, json.loads(printed))


def run(project: Path, environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_the_guide_is_one_yaml_and_one_function_of_at_most_25_lines(guide: Guide) -> None:
    folder = f"clinical_assets/defs/{MODEL}"
    assert list(guide.files) == [f"{folder}/defs.yaml", f"{folder}/cohort.py"]
    assert guide.text.count("```") == 2 * (len(guide.files) + 1), "two files and the commands"
    *imports, function = ast.parse(guide.files[f"{folder}/cohort.py"]).body
    assert all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in imports)
    assert isinstance(function, ast.FunctionDef)
    assert function.end_lineno is not None
    assert function.end_lineno - function.lineno + 1 <= MOST_LINES


def test_the_protocol_of_the_guide_differs_from_the_others_in_values_alone(guide: Guide) -> None:
    written = yaml.safe_load(guide.files[f"clinical_assets/defs/{MODEL}/defs.yaml"])
    others = [yaml.safe_load(path.read_text()) for path in (PROJECT / "clinical_assets" / "defs").glob("*/defs.yaml")]
    known = {name for other in others for name in other["attributes"]} | {"data_origin"}
    assert {other["type"] for other in others} == {written["type"]}
    assert written["attributes"].keys() <= known


def test_dg_finds_the_new_model_beside_the_others(followed: FollowedGuide) -> None:
    dg = str(Path(sys.executable).with_name("dg"))
    done = run(followed.project, followed.environment, dg, "check", "defs")
    assert "All definitions loaded successfully." in done.stdout + done.stderr


def test_the_run_is_of_the_copy_and_the_repository_has_no_fourth_model(followed: FollowedGuide) -> None:
    assert followed.came_of_it["package"] == str(followed.project / "clinical_assets")
    assert not (PROJECT / "clinical_assets" / "defs" / MODEL).exists()


def test_the_candidate_meets_its_limits_in_a_report_that_people_can_read(followed: FollowedGuide) -> None:
    assert followed.came_of_it["judgements"] == ["pass", "pass", "not_applicable"]
    report = Path(followed.came_of_it["report"])
    assert report == followed.project / "home" / "reports" / MODEL / "v1" / "validation_report.html"
    told = report.read_text()
    assert "Malignant breast mass" in told
    assert "real:scikit-learn" in told


def test_the_model_goes_live_by_the_signatures_of_every_role(followed: FollowedGuide) -> None:
    assert followed.came_of_it["champion_before_signatures"] is None
    assert followed.came_of_it["signed"] == [["clinical_lead", "approve", True], ["mlops", "approve", True]]
    assert followed.came_of_it["champion"] == 1
    assert followed.came_of_it["data_origin"] == "real:scikit-learn"


def test_the_month_after_is_scored_and_compared(followed: FollowedGuide) -> None:
    assert followed.came_of_it["rows_taken_in"] == sum(row * 24 // 569 <= 12 for row in range(569))
    assert followed.came_of_it["scored_months"] == ["2025-01"]
    risks = followed.came_of_it["risks"]
    assert len(risks) == sum(row * 24 // 569 == 12 for row in range(569))
    assert min(risks) > 0.0
    assert max(risks) < 1.0
    assert len(followed.came_of_it["verdicts"]) == 1
    assert followed.came_of_it["checks_passed"]


def test_the_demonstration_of_one_model_names_the_models_where_there_is_none_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(app, ["demo", "--model", MODEL], catch_exceptions=False)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"clinical: there is no model '{MODEL}'; the models are: readmission, ")
    assert not (tmp_path / "home").exists()
