import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.known_identifiers import KnownIdentifiers
from clinical_assets.governance.leak_scan import LeakScanner
from clinical_assets.governance.line_search import LineSearch
from clinical_assets.governance.readable_content import Content
from clinical_assets.resources.lake_io_manager import LakeIOManager
from clinical_assets.resources.outward_gate import MARK, WithheldError, reporting, search_log_lines, searched
from clinical_assets.resources.platform import ModelVersionIOManager, ProtocolIOManager

SEED = bytes(range(32))
NAME = "Mr. Ashby"


@pytest.fixture(autouse=True)
def home_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "keys" / "pseudonym.key"
    key.parent.mkdir()
    key.write_bytes(SEED)
    key.chmod(0o600)
    monkeypatch.setenv("CLINICAL_HOME", str(tmp_path))


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What a handler gets to see of a logger whose lines are searched."""
    make, lines = logging.getLogRecordFactory(), []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger, kept = logging.getLogger("a ward"), Kept()
    logger.addHandler(kept)
    search_log_lines()
    search_log_lines()
    yield lines
    logger.removeHandler(kept)
    logging.setLogRecordFactory(make)


@reporting
def reports(**metadata: Any) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata=metadata)


@reporting
def fails(text: str) -> None:
    try:
        raise KeyError(text)
    except KeyError as error:
        raise ValueError("the feed cannot be read") from error


@pytest.mark.parametrize("canary", canaries(SEED), ids=lambda canary: canary.identifier_class.value)
def test_metadata_with_an_identifier_stop_the_step_and_the_error_does_not_repeat_it(canary: object) -> None:
    value = canary.value  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(WithheldError, match="reports: its metadata note holds an identifier") as refused:
        reports(patients=400, note=dg.MetadataValue.md(f"| who |\n|---|\n| {value} |"))
    assert value.lower() not in str(refused.value).lower()


def test_an_error_with_an_identifier_is_replaced_with_all_that_stands_behind_it() -> None:
    with pytest.raises(
        WithheldError, match=r"fails: ValueError in test_outward_gate.py:\d+; its text held"
    ) as replaced:
        fails(NAME)
    behind = (replaced.value.__cause__, replaced.value.__context__)
    assert behind == (None, None)
    assert NAME not in str(replaced.value)


def test_an_error_without_one_comes_as_it_is() -> None:
    with pytest.raises(ValueError, match="the feed cannot be read"):
        fails("column lactate_mmol_l")


def test_each_output_of_a_step_with_several_passes_the_gate() -> None:
    @reporting
    def several() -> Iterator[dg.Output[int]]:
        yield dg.Output(1, output_name="first", metadata={"alerted_patients": 3})
        yield dg.Output(2, output_name="second", metadata={"who": NAME})

    steps = several()
    assert next(steps).metadata["alerted_patients"] == dg.MetadataValue.text("fewer than 11")
    with pytest.raises(WithheldError, match="metadata who holds an identifier"):
        next(steps)


@pytest.mark.parametrize(
    ("name", "count", "shown"),
    [
        ("patients", 3, "fewer than 11"),
        ("test_rows", 10, "fewer than 11"),
        ("patients", 0, 0),
        ("patients", 11, 11),
        ("model_version", 3, 3),
        ("dagster/column_count", 3, 3),
    ],
)
def test_a_count_of_one_to_ten_people_is_not_reported(name: str, count: int, shown: object) -> None:
    assert searched("a test", {name: count})[name] == shown


def test_a_figure_is_passed_over_and_what_stands_beside_it_is_not() -> None:
    figure = f"![drift](data:image/png;base64,{'iVBORw0KGgo' * 40})"
    assert searched("a test", {"evidence": figure}) == {"evidence": figure}
    with pytest.raises(WithheldError):
        searched("a test", {"evidence": f"{figure} of {NAME}"})


def test_a_log_line_with_an_identifier_is_withheld_and_the_others_are_not(log_lines: list[str]) -> None:
    logger = logging.getLogger("a ward")
    logger.warning("%s rows of %s", 12, "2025-05")
    logger.warning("the chart of %s is empty", NAME)
    assert log_lines == ["12 rows of 2025-05", "a line was withheld: it held an identifier (names)"]


def test_a_traceback_with_an_identifier_is_not_logged(log_lines: list[str]) -> None:
    try:
        raise KeyError(NAME)
    except KeyError:
        logging.getLogger("a ward").exception("a row was left out")
    assert NAME not in log_lines[0]
    assert "withheld" in log_lines[0]


@pytest.mark.parametrize("text", [*(f"it says {each.value} there" for each in canaries(SEED)), "12 rows of 2025-05"])
def test_a_line_is_searched_as_what_is_stored_is(text: str) -> None:
    known = KnownIdentifiers.of((each.identifier_class, each.value) for each in canaries(SEED))
    stored = LeakScanner(known, b"salt").search([Content("a place", pl.Series([text]), len(text))])
    assert set(LineSearch(known).kinds_in(text)) == {leak.identifier_class for leak in stored}


def test_a_line_whose_arguments_do_not_fit_is_logging_s_own_trouble(log_lines: list[str]) -> None:
    record = logging.getLogRecordFactory()("a ward", logging.INFO, "a file", 1, "%d rows of %d", ("two",), None)
    assert record.msg == "%d rows of %d"
    hidden = logging.getLogRecordFactory()("a ward", logging.INFO, "a file", 1, "%d rows", (NAME,), None)
    assert "withheld" in hidden.getMessage()


def test_what_a_run_leaves_in_dagster_holds_neither_a_name_nor_a_small_count(log_lines: list[str]) -> None:
    @dg.asset
    @reporting
    def visits(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        context.log.info(f"the chart of {NAME} is empty")
        return dg.MaterializeResult(metadata={"patients": 3, "why": "3 of 60 patients have no chart"})

    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([visits], instance=instance).run_id
        left = "\n".join(str(entry) for entry in instance.all_logs(run))
    assert NAME not in left
    assert "a line was withheld" in left
    assert "IntMetadataValue(value=3)" not in left
    assert "3 of 60 patients" not in left
    assert left.count("fewer than 11") >= 2


def test_where_errors_are_redacted_their_text_reaches_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster's own switch, without which nothing is loaded under Dagster+."""
    monkeypatch.setenv("DAGSTER_REDACT_USER_CODE_ERRORS", "1")

    @dg.asset
    @reporting
    def visits() -> None:
        raise ValueError("lactate of bed seven")

    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([visits], instance=instance, raise_on_error=False).run_id
        left = "\n".join(str(entry) for entry in instance.all_logs(run))
    assert "STEP_FAILURE" in left
    assert "bed seven" not in left


@pytest.mark.parametrize("manager", [LakeIOManager, ModelVersionIOManager, ProtocolIOManager])
def test_every_io_manager_reports_through_the_gate(manager: type[dg.ConfigurableIOManager]) -> None:
    assert hasattr(manager.handle_output, MARK)
    assert hasattr(manager.load_input, MARK)
