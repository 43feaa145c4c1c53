"""Stored profiles are drawn from a terminal, against the training set, and handed to whylogs."""

import json
import stat
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_platform import MODEL, MONTHS, Developed
from typer.testing import CliRunner, Result

from clinical_assets.cli import app
from clinical_assets.lifecycle.candidate import read_training_rows
from clinical_assets.lifecycle.stored_profiles import alarmed_columns, compare_stored_profiles, profile_training_set
from clinical_assets.resources.lake import LakeError

MONTH = f"{MONTHS[4]:%Y-%m}"


@pytest.fixture
def typed(developed: Developed, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A terminal on this home."""
    monkeypatch.setenv("CLINICAL_HOME", str(developed.platform.home.root))
    monkeypatch.setenv("CLINICAL_RAW", str(developed.platform.home.raw))

    def invoke(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_the_training_set_is_profiled_as_a_month_is(developed: Developed) -> None:
    platform = developed.platform
    training = profile_training_set(platform.lake, platform.protocol, developed.champion)
    rows = read_training_rows(platform.lake, platform.protocol, developed.champion.lake_snapshot)
    [month] = compare_stored_profiles(platform.lake, platform.protocol, [MONTHS[4]], [], None).months
    opened, of_month = training.opened(), month.opened()
    assert opened.columns.keys() == of_month.columns.keys() >= {"risk", "alerted"}
    assert {column.n for column in opened.columns.values()} == {rows.height}
    assert opened.patients == rows["patient_id"].n_unique() < rows.height
    scored = platform.lake.read(f"{MODEL}.predictions", month=MONTHS[4])
    assert of_month.patients == scored["patient_id"].n_unique()


def test_a_page_and_files_for_whylogs_are_written_from_a_terminal(
    developed: Developed, typed: Any, tmp_path: Path
) -> None:
    page, bins = tmp_path / "new" / "profile.html", tmp_path / "bins"
    told = json.loads(
        typed(
            "profile",
            MODEL,
            "--periods",
            MONTH,
            "--against",
            "training",
            "--out",
            str(page),
            "--bins",
            str(bins),
            "--json",
        ).stdout
    )
    assert (told["periods"], told["against"]) == (MONTH, "training set of version 1")
    assert "training set of version 1" in page.read_text()
    assert len(told["bins"]) == 2
    assert stat.S_IMODE(bins.stat().st_mode) == 0o700
    import whylogs

    for path in map(Path, told["bins"]):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        view = whylogs.read(str(path)).view()
        assert view is not None
        assert "risk" in view.get_columns()
    [of_month] = [path for path in told["bins"] if MONTH in path]
    view = whylogs.read(of_month).view()
    stored = developed.platform.lake.read(f"{MODEL}.profile", month=MONTHS[4])
    assert view is not None
    counted = view.to_pandas()["counts/n"]
    assert counted.to_dict() == dict(stored.select("column", "n").iter_rows())


def test_without_months_all_are_drawn_and_without_against_they_are_held_against_themselves(
    typed: Any, tmp_path: Path
) -> None:
    told = json.loads(typed("profile", MODEL, "--out", str(tmp_path / "page.html"), "--json").stdout)
    assert (told["periods"], told["against"], told["moved"]) == (MONTH, None, [])
    said = typed("profile", MODEL, "--out", str(tmp_path / "page.html")).stdout
    assert "0 of 55 columns moved further than chance explains" in said
    assert "what is different" not in said


@pytest.mark.parametrize(("words", "code", "said"), [
    (("--periods", "2025-13"), 2, "names no months"),
    (("--periods", "2024-05..2024-04"), 2, "names no months"),
    (("--periods", "1999-01"), 1, "has no rows for 1999-01"),
    (("--version", "1"), 1, "--version says whose training set is meant"),
    (("--against", "training", "--version", "9"), 1, "9"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_one_line(
    words: tuple[str, ...], code: int, said: str, typed: Any, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    error = typed("profile", MODEL, "--out", str(page), *words, code=code).stderr
    assert said in error
    assert not page.exists()


def test_a_month_that_was_never_profiled_says_so(developed: Developed) -> None:
    platform = developed.platform
    with pytest.raises(LakeError, match="materialise 2024-01 first"):
        compare_stored_profiles(platform.lake, platform.protocol, [MONTHS[0]], [], None)


def test_alarms_of_the_drift_report_are_told_by_column(developed: Developed) -> None:
    platform = developed.platform
    report = platform.lake.read(f"{MODEL}.drift_report", month=MONTHS[4])
    flagged = set(report.filter(pl.col("flagged") | pl.col("faulty"))["column"])
    told = alarmed_columns(platform.lake, MODEL, [MONTHS[4]])
    assert set(told) == flagged
    assert alarmed_columns(platform.lake, MODEL, [MONTHS[0]]) == {}
    assert alarmed_columns(platform.lake, "never_run", [MONTHS[0]]) == {}
