"""Evidently and NannyML themselves report rows that we hand over: in their environment, closed off, and in private."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from clinical_assets.lifecycle.peer_reports import (
    PEERS,
    TOOLS,
    HandedOver,
    ask_peer,
    handed_over,
    peer_python,
)

# Dagster warns of its own Pipes.
pytestmark = pytest.mark.filterwarnings("ignore:Function `PipesMessageReader:dagster.PreviewWarning")

DRIFTED = {"creatinine", "unit"}


@pytest.fixture(scope="session")
def python(program: Callable[[str], str]) -> Path:
    """The Python of the peers' environment, named by CLINICAL_PEERS."""
    return Path(program(os.environ[PEERS])).absolute() if os.environ.get(PEERS) else Path(program(f"${PEERS}"))


def encounters(rng: np.random.Generator, rows: int, moved: bool = False) -> pl.DataFrame:
    """Encounters with missing values, of which two columns are others once they moved."""
    creatinine = rng.lognormal(0.8 if moved else 0, 0.5, rows)
    return pl.DataFrame(
        {
            "age": rng.normal(62, 15, rows),
            "creatinine": np.where(rng.random(rows) < 0.2, np.nan, creatinine),
            "sex": rng.choice(["Female", "Male"], rows),
            "unit": rng.choice(["medical", "surgical"], rows, p=[0.2, 0.8] if moved else [0.7, 0.3]),
            "risk": rng.beta(2, 15, rows),
        }
    ).with_columns(pl.col("creatinine").fill_nan(None))


@pytest.fixture(scope="session")
def rows() -> HandedOver:
    rng = np.random.default_rng(3)
    return HandedOver(encounters(rng, 6_000), encounters(rng, 900, moved=True), "simulated")


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tool_itself_finds_what_moved_and_writes_its_page(
    tool: str, python: Path, rows: HandedOver, tmp_path: Path
) -> None:
    said: dict[str, Any] = {}
    mode: list[int] = []

    @dg.asset
    def of_month(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with handed_over(rows, tmp_path) as at:
            said.update(ask_peer(context, tool, python, rows, at))
            mode.append(stat.S_IMODE((at / "report.html").stat().st_mode))
            said["html"] = (at / "report.html").read_text()
        return dg.MaterializeResult()

    assert dg.materialize([of_month]).success
    columns = {column["column"]: column for column in said["columns"]}
    assert columns.keys() == set(rows.batch.columns)
    assert {name for name, column in columns.items() if column["drifted"]} == DRIFTED
    assert all(column["method"] and column["score"] >= 0 for column in said["columns"])
    assert said["version"] in Path("benchmarks/peers.txt").read_text()
    assert "plotly" in said["html"].lower()
    assert mode == [0o600]
    assert list(tmp_path.iterdir()) == []


def test_their_environment_has_none_of_this_package(python: Path) -> None:
    command = [str(python), "-I", "-c", "import clinical_assets"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(Path.cwd())})
    assert "No module named 'clinical_assets'" in done.stderr


def test_it_is_found_by_its_setting(python: Path) -> None:
    assert peer_python() == python
