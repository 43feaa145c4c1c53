import html
import re
from dataclasses import replace

import polars as pl
import pytest

from clinical_assets.protocol import Finding, ModelProtocol
from clinical_assets.reporting.exhibits import transport
from clinical_assets.reporting.metric_words import describe_metric
from clinical_assets.reporting.validation_report import ValidationReport, render


def section(page: str, heading: str) -> str:
    """The words of the section of a heading, which must be on the page once."""
    found = [part for part in re.findall(r"<section>(.*?)</section>", page, re.DOTALL) if f"<h2>{heading}</h2>" in part]
    assert len(found) == 1, heading
    return words(found[0])


def words(markup: str) -> str:
    shown = re.sub(r"<style>.*?</style>|<[^>]+>", " ", markup, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(shown))


@pytest.fixture(scope="module")
def page(hourly_report: ValidationReport) -> str:
    return render(hourly_report)


TRANSPORTED = Finding("transported_auroc", "site=B", 0.777, 0.75, 0.8, 4_000)
SILENT = (
    Finding("silent_months", "overall", 2.0, None, None, 1_234),
    Finding("silent_auroc", "overall", 0.654, 0.6, 0.7, 1_234),
)


def test_two_operating_points_stand_side_by_side(page: str) -> None:
    shown = section(page, "At the operating points")
    assert "At the alert budget risk from 6.0 % on At the utility-optimal threshold risk from 2.0 % on" in shown
    for row in (
        r"Sensitivity by onset .* 66\.0 % .* 82\.0 %",
        r"Patients alerted per 100 .* 18\.0 16\.2 to 19\.8 36\.0",
        r"Lead time, first quartile, h .* 5\.0 4\.5 to 5\.5 –",
        r"Normalised utility .* 0\.330 .* 0\.430",
    ):
        assert re.search(row, shown), row


def test_a_figure_of_an_operating_point_is_not_repeated_among_the_others(page: str) -> None:
    others = section(page, "At the operating points").partition("All else measured")[2]
    assert "AUROC" in others
    assert "Sensitivity by onset" not in others
    assert "utility" not in others


def test_a_hundred_patients_are_alerted_not_a_hundred_hours(page: str) -> None:
    shown = words(page)
    assert "Of 100 patients, 18 are alerted at least once; 5 of these 18 have the outcome." in shown
    assert "Of every 100 patients with the outcome, 66 are alerted by its onset." in shown
    assert "not alerted: 82" in shown
    assert "missed:" not in shown


def test_alerts_of_patients_that_are_undefined_are_not_put_in_numbers(hourly_report: ValidationReport) -> None:
    findings = [replace(f, value=None) if f.metric == "ppv" else f for f in hourly_report.findings]
    shown = words(render(replace(hourly_report, findings=findings)))
    assert "Of 100" not in shown
    assert "cannot be put in plain numbers" in shown


def test_a_transported_finding_never_stands_in_the_main_table(hourly_report: ValidationReport) -> None:
    page = render(replace(hourly_report, findings=[*hourly_report.findings, TRANSPORTED]))
    assert "0.777" in section(page, "Trained without the site")
    assert page.count("0.777") == 1


def test_a_transported_finding_stands_once_where_an_exhibit_shows_it(
    hourly_report: ValidationReport, hourly_protocol: ModelProtocol
) -> None:
    findings = [*hourly_report.findings, TRANSPORTED]
    exhibit = transport(pl.DataFrame({"site": ["A", "B"]}), hourly_protocol, findings)
    page = render(replace(hourly_report, findings=findings, exhibits=[exhibit]))
    assert "0.777" in section(page, "Transport to a site not trained on")
    assert page.count("0.777") == 1


def test_silent_months_stand_beside_the_test_patients_and_nowhere_else(hourly_report: ValidationReport) -> None:
    page = render(replace(hourly_report, findings=[*hourly_report.findings, *SILENT]))
    shown = section(page, "Silent months")
    assert "2 months have arrived since this version was trained: 1,234 hours, scored and shown to no one." in shown
    assert "AUROC 0.654 0.600 to 0.700 0.850" in shown
    assert page.count("0.654") == 1


def test_a_silent_month_that_is_asked_for_and_has_not_come_is_said(page: str) -> None:
    shown = section(page, "Silent months")
    assert "No month has arrived since this version was trained" in shown
    assert "asks for 1 or more" in shown


def test_a_protocol_without_silent_months_has_no_such_section(report: ValidationReport) -> None:
    assert "Silent months" not in words(render(report))


def test_net_benefit_stands_beside_that_of_alerting_everyone(hourly_report: ValidationReport) -> None:
    pair = [
        Finding("net_benefit_at_5_percent", "overall", 0.0103, 0.008, 0.012, 4_000),
        Finding("net_benefit_of_all_at_5_percent", "overall", -0.0363, -0.04, -0.03, 4_000),
    ]
    shown = section(
        render(replace(hourly_report, findings=[*hourly_report.findings, *pair])), "At the operating points"
    )
    assert "5 % 0.0103 0.0080 to 0.0120 −0.0363 −0.0400 to −0.0300" in shown


def test_subgroups_of_two_operating_points_are_two_tables(page: str) -> None:
    shown = section(page, "All findings by subgroup")
    first, second = shown.index("At the alert budget"), shown.index("At the utility-optimal threshold")
    assert shown.index("Risk of an hour") < first < second
    assert "66.0 %" in shown[first:second]
    assert "82.0 %" in shown[second:]


@pytest.fixture
def graded_report(report: ValidationReport, graded_protocol: ModelProtocol) -> ValidationReport:
    values = {
        "auroc": 0.77,
        "accuracy": 0.55,
        "quadratic_weighted_kappa": 0.61,
        "specificity": 0.67,
        "referable_auroc": 0.83,
        "sensitivity": 0.87,
        "ppv": 0.7,
        "alerts_per_100": 50.0,
        "prevalence": 0.44,
    }
    findings = [
        Finding(metric, subgroup, value, 0.9 * value, 1.1 * value, 400)
        for subgroup in ("overall", "camera=simulated-handheld")
        for metric, value in values.items()
    ]
    thresholds = (("grade_from_1", 0.5), ("grade_from_2", 1.4))
    version = replace(report.version, model="retinopathy", threshold=0.31, further_thresholds=thresholds)
    no_curve = report.calibration.clear()
    return replace(
        report, protocol=graded_protocol, version=version, findings=findings, judged=(), calibration=no_curve
    )


def test_images_are_referred_for_grades_from_the_cut_on(graded_report: ValidationReport) -> None:
    shown = words(render(graded_report))
    assert "Of 100 images, 50 are referred; 35 of these 50 have the outcome." in shown
    assert "The outcome is grade of 2 or more" in shown


def test_cut_points_of_grades_are_no_operating_point_and_are_on_the_page(graded_report: ValidationReport) -> None:
    shown = words(render(graded_report))
    assert "At the operating points" not in shown
    assert "alert 0.31, grade_from_1 0.5, grade_from_2 1.4" in shown


def test_a_simulated_camera_is_announced(graded_report: ValidationReport, report: ValidationReport) -> None:
    assert "Simulated camera." in words(render(graded_report))
    assert "Simulated camera." not in words(render(report))


def test_the_same_metric_means_another_thing_under_another_assessment(
    report: ValidationReport, hourly_protocol: ModelProtocol, graded_protocol: ModelProtocol
) -> None:
    meanings = {
        describe_metric("sensitivity", protocol).meaning
        for protocol in (report.protocol, hourly_protocol, graded_protocol)
    }
    assert len(meanings) == 3
    assert describe_metric("auroc", graded_protocol).name == "Macro AUROC"


@pytest.mark.parametrize(
    ("metric", "name", "written"),
    [
        ("sensitivity_at_utility", "Sensitivity by onset, at the utility-optimal threshold", "25.0 %"),
        ("silent_patients_alerted_per_100", "Patients alerted per 100", "0.2"),
        ("transported_normalized_utility", "Normalised utility", "0.250"),
        ("normalized_utility_minus_first_release", "Normalised utility less that of the first release", "+0.2500"),
        ("net_benefit_of_all_at_10_percent", "Net benefit of alerting everyone at 10 %", "0.2500"),
        ("a_metric_of_a_clinic", "a metric of a clinic", "0.250"),
        ("share_at_home", "share at home", "0.250"),
    ],
)
def test_a_metric_is_described_by_the_one_it_is_of(
    metric: str, name: str, written: str, hourly_protocol: ModelProtocol
) -> None:
    described = describe_metric(metric, hourly_protocol)
    assert (described.name, described.write(0.25)) == (name, written)
    assert described.write(None) == "undefined"
