"""Another tool reports a month on request: closed off, of rows without identifiers, its verdicts beside ours."""

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_platform import MODEL, MONTHS, Developed
from typer.testing import CliRunner, Result

from clinical_assets.cli import app
from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.audit_verification import read_records
from clinical_assets.lifecycle.peer_reports import (
    PEER_REPORT,
    PEERS,
    HandedOver,
    PeerError,
    beside_ours,
    handed_over,
    peer_python,
    peers_folder,
    rows_to_hand_over,
)
from clinical_assets.reporting.shown_tables import SHOWN_TABLES
from clinical_assets.resources.lake import LakeError

MONTH = f"{MONTHS[4]:%Y-%m}"

pytestmark = pytest.mark.filterwarnings("ignore:Function `PipesMessageReader:dagster.PreviewWarning")

PYTHON = """#!{python}
import runpy, sys
sys.path.insert(0, {tools!r})
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

EVIDENTLY = """
import os, socket, sys
from pathlib import Path

def Report(metrics, include_tests):
    return Snapshot()

class DataDefinition:
    def __init__(self, numerical_columns, categorical_columns):
        self.columns = numerical_columns + categorical_columns

class Dataset:
    @staticmethod
    def from_pandas(rows, definition):
        assert list(rows.columns).sort() == definition.columns.sort()
        return rows

class Snapshot:
    def run(self, now, before):
        self.now = now
        return self

    def save_html(self, path):
        refused = []
        for call in (lambda: socket.create_connection(("127.0.0.1", 9)), lambda: socket.getaddrinfo("example.org", 80)):
            try:
                call()
            except OSError as error:
                refused.append(type(error).__name__)
        print("row values", file=sys.stdout)
        print("row values", file=sys.stderr)
        modes = sorted(oct(file.stat().st_mode & 0o777) for file in Path(path).parent.glob("*.parquet"))
        Path(path).write_text(repr([sorted(os.environ), refused, modes, oct(Path(path).parent.stat().st_mode & 0o777)]))

    def dict(self):
        metrics, tests = [], []
        for name in self.now.columns:
            params = {"column": name, "method": "a distance", "threshold": 0.1}
            metrics.append({"id": name, "value": 0.2 if name == "sex" else 0.05})
            tests.append({"metric_config": {"metric_id": name, "params": params},
                          "status": "FAIL" if name == "sex" else "SUCCESS"})
        tests.append({"metric_config": {"metric_id": "share", "params": {}}, "status": "SUCCESS"})
        return {"metrics": metrics, "tests": tests}
"""


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which something called evidently says that sex drifted, and tries what it may not."""
    tools = tmp_path / "tools"
    (tools / "evidently").mkdir(parents=True)
    (tools / "evidently" / "__init__.py").write_text(EVIDENTLY)
    (tools / "evidently" / "presets.py").write_text("def DataDriftPreset():\n    return None\n")
    (tools / "evidently-9.9.dist-info").mkdir()
    (tools / "evidently-9.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: evidently\nVersion: 9.9\n"
    )
    python = tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable, tools=str(tools)))
    python.chmod(0o755)
    monkeypatch.setenv(PEERS, str(python))
    return python


@pytest.fixture
def typed(developed: Developed, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A terminal on this home."""
    monkeypatch.setenv("CLINICAL_HOME", str(developed.platform.home.root))
    monkeypatch.setenv("CLINICAL_RAW", str(developed.platform.home.raw))

    def invoke(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == code, result.output
        return result

    return invoke


def report(developed: Developed, tool: str = "evidently") -> Any:
    platform = developed.platform
    return platform.run(f"{tool}_report_on_request", MONTHS[4], developed.instance, raise_on_error=False)


def test_its_verdicts_stand_beside_ours_and_its_page_in_a_private_folder(developed: Developed, peers: Path) -> None:
    platform, folder = developed.platform, peers_folder(developed.platform.home, MODEL)
    assert report(developed).success
    kept = platform.lake.read(f"{MODEL}.{PEER_REPORT}")
    sex = kept.row(by_predicate=pl.col("column") == "sex", named=True)
    assert (sex["tool"], sex["tool_version"], sex["report"]) == ("evidently", "9.9", f"evidently {MONTH}")
    assert (sex["drifted"], sex["score"], sex["tool_threshold"]) == (True, 0.2, 0.1)
    ours = platform.lake.read(f"{MODEL}.drift_report", month=MONTHS[4]).filter(column="sex")
    assert sex["flagged"] == ours.select((pl.col("flagged") | pl.col("faulty")).any()).item()
    assert sex["agreement"] == ("agree" if sex["flagged"] else "disagree")
    [page] = folder.iterdir()
    assert page.name == f"evidently_{MONTH}.html"
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    *_, last = read_records(AuditTrail(platform.home.audit))
    assert last.target == f"{MODEL}/evidently_report [{MONTH}]"


def test_it_sees_none_of_our_settings_opens_no_connection_and_prints_nowhere(
    developed: Developed, peers: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLINICAL_DATABASE", "a secret")
    assert report(developed).success
    [page] = peers_folder(developed.platform.home, MODEL).iterdir()
    environment, refused, modes, folder = eval(page.read_text())
    assert not [name for name in environment if name.startswith(("CLINICAL", "DAGSTER_HOME", "PYTHON"))]
    assert {"DO_NOT_TRACK", "NML_DISABLE_USAGE_LOGGING"} <= set(environment)
    assert refused == ["ConnectionForbiddenError"] * 2
    assert (modes, folder) == (["0o600", "0o600"], "0o700")
    assert "row values" not in "".join(capfd.readouterr())


def test_a_second_report_takes_the_place_of_the_first_and_of_no_other_tool_s(developed: Developed, peers: Path) -> None:
    lake, table = developed.platform.lake, f"{MODEL}.{PEER_REPORT}"
    assert report(developed).success
    first = lake.read(table)
    others = first.with_columns(report=pl.lit(f"nannyml {MONTH}"), tool=pl.lit("nannyml"))
    lake.write_table(table, others, author="a test", message="another tool", replace_by="report")
    assert report(developed).success
    assert dict(lake.read(table)["tool"].value_counts().iter_rows()) == {
        "evidently": first.height,
        "nannyml": first.height,
    }


def test_a_tool_that_is_not_there_fails_in_one_line_and_leaves_no_row(
    developed: Developed, peers: Path, typed: Callable[..., Result]
) -> None:
    error = typed("report", "nannyml", MODEL, "--period", MONTH, code=1).stderr
    assert error.splitlines()[-1].startswith("clinical: nannyml made no report (ModuleNotFoundError at ")
    assert not list(peers_folder(developed.platform.home, MODEL).glob(".rows-*"))


def test_a_terminal_shows_where_the_two_disagree(
    developed: Developed, peers: Path, typed: Callable[..., Result]
) -> None:
    said = typed("report", "evidently", MODEL, "--period", MONTH).stdout
    assert "it shows exact small counts" in said
    assert "not compared" in said
    told = json.loads(typed("report", "evidently", MODEL, "--period", MONTH, "--json").stdout)
    assert {row["column"]: row["drifted"] for row in told["columns"]}["sex"] is True
    assert Path(told["page"]).exists()


@pytest.mark.parametrize("named", ["", "/nowhere/python", "/tmp"])
def test_without_their_environment_one_line_says_how_to_get_it_and_all_else_goes_on(
    named: str, typed: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PEERS, named)
    error = typed("report", "evidently", MODEL, "--period", MONTH, code=1).stderr
    assert error.startswith(f"clinical: {PEERS} ")
    assert "uv pip install --python peers/bin/python" in error
    assert error.count("\n") == 1
    assert MODEL in typed("status", "--json").stdout
    with pytest.raises(PeerError, match=r"benchmarks/peers\.txt"):
        peer_python()


@pytest.mark.parametrize(("words", "code", "said"), [
    (("evidently", MODEL, "--period", "2024-01..2024-02"), 2, "more than one month"),
    (("evidently", MODEL, "--period", "May"), 2, "names no months"),
    (("whylabs", MODEL, "--period", MONTH), 2, "whylabs"),
    (("evidently", MODEL, "--period", "2024-01"), 1, "has no rows for 2024-01"),
])  # fmt: skip
def test_what_cannot_be_reported_is_refused(
    words: tuple[str, ...], code: int, said: str, peers: Path, typed: Callable[..., Result]
) -> None:
    assert said in typed("report", *words, code=code).stderr


def test_what_is_handed_over_names_no_patient_and_holds_the_whole_training_set(developed: Developed) -> None:
    platform = developed.platform
    rows = rows_to_hand_over(platform.lake, platform.registry, platform.protocol, MONTHS[4])
    assert rows.batch.columns == rows.reference.columns
    assert {"risk", "alerted", "sex"} <= set(rows.batch.columns)
    assert not set(rows.batch.columns) & {*platform.protocol.key_columns, "data_origin"}
    assert (
        rows.reference.height == developed.platform.lake.read(f"{MODEL}.scored_training", where={"version": 1}).height
    )
    assert rows.batch.height == platform.lake.read(f"{MODEL}.predictions", month=MONTHS[4]).height
    assert "sex" in rows.categories
    assert "risk" not in rows.categories
    with pytest.raises(LakeError):
        rows_to_hand_over(platform.lake, platform.registry, platform.protocol, MONTHS[0])


def test_rows_are_gone_whatever_happens_and_those_of_killed_processes_at_the_next_report(tmp_path: Path) -> None:
    frame = pl.DataFrame({"risk": [0.1]})
    left = tmp_path / ".rows-999999999-left"
    left.mkdir()
    working = tmp_path / f".rows-{os.getpid()}-working"
    working.mkdir()
    with pytest.raises(KeyboardInterrupt), handed_over(HandedOver(frame, frame, "simulated"), tmp_path) as at:
        assert stat.S_IMODE(at.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in at.iterdir()} == {0o600}
        assert not left.exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [working]


def test_a_column_that_only_one_of_the_two_looked_at_is_not_said_to_agree(developed: Developed) -> None:
    lake = developed.platform.lake
    said = [{"column": "nowhere", "method": "m", "score": 1.0, "threshold": 0.1, "drifted": True}]
    rows = HandedOver(pl.DataFrame({"nowhere": [1.0]}), pl.DataFrame({"nowhere": [1.0, None]}), "simulated")
    both = beside_ours(said, lake, MODEL, MONTHS[4], rows)
    assert both["agreement"].unique().to_list() == ["not compared"]
    assert both.filter(column="nowhere").select("n", "n_null").row(0) == (2, 1)
    assert both.filter(column="sex").select("drifted", "score").row(0) == (None, None)


def test_a_score_that_rests_on_a_few_rows_is_withheld_from_analysts() -> None:
    n, n_null = [10, 11, 900, 900, 900], [0, 0, 895, 4, 300]
    report = pl.DataFrame({"n": n, "n_null": n_null, "score": [0.5] * 5, "tool_threshold": [0.1] * 5})
    shown = SHOWN_TABLES[PEER_REPORT].show({PEER_REPORT: report})
    assert shown["n"].to_list() == [None, 11, 900, 900, 900]
    assert shown["n_null"].to_list() == [None, 0, None, None, 300]
    assert shown["score"].to_list() == [None, 0.5, None, 0.5, 0.5]
    assert shown["suppressed"].to_list() == [True, False, True, True, False]
