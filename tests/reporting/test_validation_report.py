import html
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from clinical_assets.evaluation import judge
from clinical_assets.protocol import Limit
from clinical_assets.reporting.exhibits.exhibit import Cell, Exhibit, Gallery, Picture, Table
from clinical_assets.reporting.validation_report import ValidationReport, render

Changed = Callable[..., ValidationReport]

ALL_RELEASED = frozenset({"champion"})


def judged_by(report: ValidationReport, *limits: Limit, minimum_n: int = 100) -> ValidationReport:
    return replace(report, judged=judge(limits, report.findings, minimum_n, ALL_RELEASED))


def text(page: str) -> str:
    shown = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(shown))


@pytest.fixture(scope="module")
def page(report: ValidationReport) -> str:
    return render(report)


class Tags(HTMLParser):
    """The elements left open, and every address an element would fetch."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def test_a_page_is_whole_has_no_script_and_fetches_nothing(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "link" not in tags.seen
    assert all(address.startswith("#") for address in tags.fetched)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_a_page_with_every_kind_of_exhibit_is_whole_and_fetches_nothing(hourly_report: ValidationReport) -> None:
    picture = Picture("data:image/png;base64,AAAA", ("a line", "another"))
    table = Table("a caption", (Cell("name"), Cell("value", "n 4")), ((Cell("row"), Cell("1", "2", 0.5, framed=True)),))
    exhibit = Exhibit("A title", "How to read it.", "<svg></svg>", (table,), (Gallery("Pictures", (picture,)),))
    tags = Tags()
    tags.feed(render(replace(hourly_report, exhibits=[exhibit])))
    assert tags.open == []
    assert "data:image/png;base64,AAAA" in tags.fetched
    assert all(address.startswith(("#", "data:")) for address in tags.fetched)


def test_a_candidate_that_meets_all_limits_passes_and_tells_how_to_sign(report: ValidationReport, page: str) -> None:
    shown = text(page)
    assert "✓ PASSES 5 of 5 limits." in shown
    assert "DOES NOT PASS" not in shown
    for role in report.protocol.sign_off.roles:
        assert f'clinical sign readmission 3 --role {role} --decision approve|reject --reason "..."' in shown


def test_a_limit_not_met_is_in_the_headline_with_its_value(report: ValidationReport) -> None:
    shown = text(render(judged_by(report, Limit(metric="auroc", at_least=0.5), Limit(metric="auroc", at_least=0.9))))
    assert "✕ DOES NOT PASS: 1 of 2 limits met." in shown
    assert re.search(r"AUROC not met: 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\), must be at least 0\.9", shown)


def test_what_cannot_be_told_does_not_pass(report: ValidationReport) -> None:
    shown = text(render(judged_by(report, Limit(metric="auroc", at_least=0.5), minimum_n=10_000)))
    assert "DOES NOT PASS: 0 of 1 limits met." in shown
    assert "? cannot tell" in shown


def test_a_candidate_without_any_judgement_does_not_pass(changed: Changed) -> None:
    assert "DOES NOT PASS: no limit was judged." in text(render(changed(judged=())))


def test_a_limit_that_does_not_apply_is_shown_and_not_counted(report: ValidationReport) -> None:
    limits = [Limit(metric="auroc", at_least=0.5), Limit(metric="auroc", not_worse_than="first_release", by=0.01)]
    shown = text(render(judged_by(report, *limits)))
    assert "PASSES 1 of 1 limits." in shown
    assert "– not applicable" in shown


def test_each_subgroup_that_misses_its_limit_is_named(report: ValidationReport) -> None:
    limit = Limit(metric="sensitivity", at_least=0.99, in_every_subgroup=True)
    shown = text(render(judged_by(report, limit)))
    subgroups = {finding.subgroup for finding in report.findings if finding.subgroup != "overall"}
    assert subgroups
    for subgroup in subgroups:
        assert f"{subgroup.replace('=', ': ')}, not met:" in shown


@pytest.mark.parametrize(
    ("origin", "warning"),
    [("simulated", "Simulated data."), ("real:uci-diabetes130:modified", "Modified archive.")],
)
def test_data_that_are_not_the_published_ones_are_announced(changed: Changed, origin: str, warning: str) -> None:
    assert warning in text(render(changed(data_origin=origin)))


def test_published_data_carry_no_warning_but_the_demonstrations(page: str) -> None:
    shown = text(page)
    assert "Simulated data." not in shown
    assert "Modified archive." not in shown
    assert "Demonstration environment." in shown


def test_a_version_trained_under_another_protocol_is_announced(
    report: ValidationReport, changed: Changed, page: str
) -> None:
    shown = text(render(changed(version=replace(report.version, protocol_sha256="0" * 64))))
    assert "Another protocol." in shown
    assert "Another protocol." not in text(page)


def test_a_hundred_units_add_up(page: str) -> None:
    shown = text(page)
    found = re.search(
        r"Of 100 encounters, (\d+) are flagged; (\d+) of these \1 have the outcome. (\d+) of the 100", shown
    )
    assert found is not None
    flagged, flagged_with, with_outcome = map(int, found.groups())
    parts = {name: int(n) for name, n in re.findall(r"(has the outcome|does not|missed|neither): (\d+)", shown)}
    assert sum(parts.values()) == 100
    assert parts["has the outcome"] == flagged_with
    assert parts["has the outcome"] + parts["does not"] == flagged
    assert parts["has the outcome"] + parts["missed"] == with_outcome


def test_an_undefined_operating_point_is_said_and_not_invented(report: ValidationReport, changed: Changed) -> None:
    findings = [replace(f, value=None, low=None, high=None) if f.metric == "ppv" else f for f in report.findings]
    shown = text(render(changed(findings=findings)))
    assert "Of 100" not in shown
    assert "cannot be put in plain numbers" in shown
    assert "undefined" in shown


def test_an_external_validation_asks_for_no_signature(report: ValidationReport, changed: Changed) -> None:
    findings = [finding for finding in report.findings if "_minus_" not in finding.metric]
    shown = text(render(changed(kind="external_validation", judged=(), findings=findings, champion_version=None)))
    assert "External validation: measured, not judged against limits." in shown
    assert "clinical sign" not in shown
    assert "Limits of the protocol" not in shown


def test_a_first_release_has_nothing_to_be_compared_with(report: ValidationReport, changed: Changed) -> None:
    findings = [finding for finding in report.findings if "_minus_" not in finding.metric]
    shown = text(render(changed(findings=findings, champion_version=None)))
    assert "No version has been released yet" in shown


def test_every_hash_snapshot_and_run_is_on_the_page(report: ValidationReport, page: str) -> None:
    shown = text(page)
    for item in (report.version.artefact_sha256, report.protocol.sha256, report.version.run_id, "21", "Jan 2025"):
        assert item in shown
    assert "replay calendar" in shown


def test_text_of_the_protocol_cannot_become_markup(report: ValidationReport, changed: Changed) -> None:
    protocol = report.protocol.model_copy(update={"intended_use": "<script>alert(1)</script>"})
    assert "<script>" not in render(changed(protocol=protocol))


def test_a_report_without_curve_or_subgroups_is_still_whole(report: ValidationReport, changed: Changed) -> None:
    findings = [finding for finding in report.findings if finding.subgroup == "overall"]
    empty = report.calibration.clear()
    page = render(changed(findings=findings, calibration=empty, cohort=pl.DataFrame(schema=report.cohort.schema)))
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "All findings by subgroup" not in text(page)
