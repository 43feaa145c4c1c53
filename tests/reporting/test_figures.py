import base64
import sys
from collections.abc import Sequence
from xml.etree import ElementTree

import polars as pl
import pytest

from clinical_assets.protocol import Finding
from clinical_assets.reporting.figures import (
    calibration_figure,
    drift_bars,
    subgroup_forest,
    to_png_data_uri,
    to_svg,
)
from clinical_assets.reporting.validation_report import ValidationReport


@pytest.fixture
def evidence() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "column": ["payer_code", "age", "sex", "weight"],
            "statistic": ["missing_rate_change", "psi", "unseen_rate", "psi"],
            "value": [0.5, 0.02, 0.0, None],
            "critical": [0.2, 0.1, 0.05, None],
            "flagged": [True, False, False, False],
        }
    )


def words(svg: str) -> Sequence[str]:
    return [text for element in ElementTree.fromstring(svg).iter() if (text := (element.text or "").strip())]


def test_a_drift_figure_marks_what_is_flagged_and_leaves_out_what_was_not_compared(evidence: pl.DataFrame) -> None:
    written = words(to_svg(drift_bars(evidence)))
    assert "▲ payer_code, missing rate" in written
    assert "age, PSI" in written
    assert "0.50 / 0.20" in written
    assert not any("weight" in word for word in written)


def test_a_figure_is_drawn_where_nothing_could_be_compared(evidence: pl.DataFrame) -> None:
    assert "no column could be compared" in words(to_svg(drift_bars(evidence.clear())))
    assert "auroc was not measured" in words(to_svg(subgroup_forest([], "auroc")))


def test_a_subgroup_without_a_value_is_listed_as_undefined() -> None:
    findings = [
        Finding("auroc", "sex=Female", None, None, None, 60),
        Finding("auroc", "overall", 0.7, 0.6, 0.8, 300),
        Finding("auroc", "sex=Male", 0.71, None, None, 240),
        Finding("brier", "sex=Other", 0.1, None, None, 70),
    ]
    written = words(to_svg(subgroup_forest(findings, "auroc")))
    assert {"overall", "sex: Female", "undefined", "0.700", "0.710", "300"} <= set(written)
    assert "sex: Other" not in written


def test_a_dollar_in_a_category_is_no_formula() -> None:
    findings = [Finding("auroc", "income=$<10k to $20k", 0.7, 0.6, 0.8, 300)]
    assert "income: $<10k to $20k" in words(to_svg(subgroup_forest(findings, "auroc")))


def test_a_figure_is_the_same_each_time_and_asks_for_nothing_from_outside(report: ValidationReport) -> None:
    first, second = (to_svg(calibration_figure(report.calibration)) for _ in range(2))
    assert first == second
    assert first.startswith("<svg")
    assert 'href="http' not in first


def test_a_picture_for_markdown_is_a_png(report: ValidationReport) -> None:
    kind, _, content = to_png_data_uri(calibration_figure(report.calibration)).partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content).startswith(b"\x89PNG")


def test_no_global_figure_is_left_behind(report: ValidationReport) -> None:
    to_svg(subgroup_forest(report.findings, "auroc"))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
