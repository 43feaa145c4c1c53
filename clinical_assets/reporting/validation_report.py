"""The report on one version of a model, as a page that a clinical lead reads and signs or refuses.

Belongs here: choosing and wording what is shown. Does not belong here: figures a finding does not hold, judgement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import polars as pl

from clinical_assets.archives.handheld_camera import SIMULATED_PREFIX
from clinical_assets.governance.small_cells import SMALLEST_SHOWN, shown_count
from clinical_assets.protocol import (
    ALERT,
    SILENT_MONTHS,
    Finding,
    JudgedLimit,
    Judgement,
    ModelProtocol,
    ModelVersion,
)
from clinical_assets.reporting.exhibits.exhibit import Cell, Exhibit, Table
from clinical_assets.reporting.exhibits.site_transport import TITLE as TRANSPORT_TITLE
from clinical_assets.reporting.figures import calibration_figure, subgroup_forest, to_svg
from clinical_assets.reporting.metric_words import (
    AT,
    MINUS,
    NET_BENEFIT,
    OF_OPERATING_POINT,
    POINT_NAMES,
    SILENT,
    TRANSPORTED,
    describe_metric,
    flagged_word,
    in_words,
    plural_unit,
)
from clinical_assets.reporting.pages import page_environment
from clinical_assets.reporting.shown_counts import pool_calibration, show_cohort
from clinical_assets.reporting.shown_findings import suppress_findings, suppress_judged
from clinical_assets.reporting.withheld import WithheldFinding, shown_n

FOREST_METRICS = ("normalized_utility", "auroc", "quadratic_weighted_kappa", "sensitivity")

JUDGEMENT_WORDS = {
    Judgement.PASS: ("✓", "met"),
    Judgement.FAIL: ("✕", "not met"),
    Judgement.CANNOT_TELL: ("?", "cannot tell"),
    Judgement.NOT_APPLICABLE: ("–", "not applicable"),
}


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """All that a report shows.

    `cohort` has the columns split, rows, patients, events, first_month and last_month (dates, or null); `calibration`
    those of `evaluation.calibration_curve`. `judged` is empty for an external validation without limits. `data_origin`
    is that of the rows measured, which need not be those the version was trained on. `lake_snapshot` is the one they
    were read from. `calendar_note` says what the months mean where they are no calendar's. `exhibits` are those that
    the protocol names, in its order. `evidence_sha256` is that of the index of the evidence pack.
    """

    kind: Literal["candidate", "external_validation"]
    protocol: ModelProtocol
    version: ModelVersion
    findings: Sequence[Finding]
    calibration: pl.DataFrame
    cohort: pl.DataFrame
    data_origin: str
    created_at: datetime
    judged: Sequence[JudgedLimit] = ()
    champion_version: int | None = None
    lake_snapshot: int | None = None
    calendar_note: str | None = None
    exhibits: Sequence[Exhibit] = ()
    evidence_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class _LimitRow:
    """One limit as the table shows it; one on every subgroup is one row, with the groups that do not meet it below."""

    metric: str
    wanted: str
    measured: str
    judgement: Judgement
    symbol: str
    word: str
    reason: str
    exceptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The headline of the report."""

    tone: Literal["pass", "fail", "neutral"]
    symbol: str
    sentence: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Hundred:
    """What happens to a hundred units, or patients, at the alert threshold, in whole ones.

    `missed` is None where only the flagged are known by their outcome: of the rest no more is said.
    """

    of: str
    flagged_word: str
    flagged_with: int
    flagged_without: int
    missed: int | None
    found: str | None

    @property
    def flagged(self) -> int:
        return self.flagged_with + self.flagged_without

    @property
    def with_outcome(self) -> int:
        return self.flagged_with + (self.missed or 0)

    @property
    def rest(self) -> int:
        return 100 - self.flagged - (self.missed or 0)


@dataclass(frozen=True, slots=True)
class _Measured:
    """A finding in words."""

    name: str
    meaning: str
    value: str
    interval: str
    n: str


@dataclass(frozen=True, slots=True)
class _Part:
    """The findings on one subject: those overall, or a row for each subgroup."""

    title: str
    overall: tuple[_Measured, ...] = ()
    metrics: tuple[str, ...] = ()
    subgroups: tuple[tuple[str, str, tuple[_Measured | None, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class _Sorted:
    """The findings by where they stand in the report."""

    main: tuple[Finding, ...]
    differences: tuple[Finding, ...]
    net_benefit: tuple[Finding, ...]
    silent: tuple[Finding, ...]
    transported: tuple[Finding, ...]

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> "_Sorted":
        differences = tuple(finding for finding in findings if MINUS in finding.metric)
        others = [finding for finding in findings if MINUS not in finding.metric]
        net_benefit = tuple(finding for finding in others if NET_BENEFIT.fullmatch(finding.metric))
        silent = tuple(finding for finding in others if finding.metric.startswith(SILENT))
        transported = tuple(finding for finding in others if finding.metric.startswith(TRANSPORTED))
        elsewhere = {*net_benefit, *silent, *transported}
        main = tuple(finding for finding in others if finding not in elsewhere)
        return cls(main, differences, net_benefit, silent, transported)


def render(report: ValidationReport) -> str:
    """The report as one self-contained HTML page: styles and figures inside, no script, nothing fetched."""
    environment = page_environment()
    environment.filters["shown_count"] = shown_count
    protocol = report.protocol
    findings = suppress_findings(report.findings)
    calibration = pool_calibration(report.calibration)
    limits = _limit_rows(suppress_judged(report.judged, report.findings), protocol)
    found = _Sorted.of(findings)
    overall = [finding for finding in found.main if finding.subgroup == "overall"]
    points = _operating_points(overall, report.version)
    unseen_transport = () if TRANSPORT_TITLE in {exhibit.title for exhibit in report.exhibits} else found.transported
    return environment.get_template("validation_report.html").render(
        report=report,
        protocol=protocol,
        version=report.version,
        unit=plural_unit(protocol),
        outcome=_outcome(report, limits),
        warnings=_warnings(report),
        limits=limits,
        hundred=_of_a_hundred(overall, protocol),
        sizes=" or ".join(dict.fromkeys(map(shown_n, overall))),
        operating_points=_operating_point_table(overall, points, report),
        overall=_overall_parts([finding for finding in overall if finding.metric not in points], protocol),
        net_benefit=_net_benefit_table(found.net_benefit, protocol),
        silent=_silent_table(found, protocol),
        silent_months=next((finding for finding in report.findings if finding.metric == SILENT_MONTHS), None),
        transported=_subgroup_parts(unseen_transport, {}, protocol),
        subgroups=_subgroup_parts(found.main, points, protocol),
        differences=[_in_words(finding, protocol) for finding in found.differences],
        calibration_svg=to_svg(calibration_figure(calibration)) if len(calibration) else None,
        calibration_pooled=len(calibration) < len(report.calibration),
        withheld=any(isinstance(finding, WithheldFinding) for finding in findings),
        smallest_shown=SMALLEST_SHOWN,
        forests=[
            (describe_metric(metric, protocol).name, to_svg(subgroup_forest(findings, metric)))
            for metric in FOREST_METRICS
            if any(x.metric == metric and x.subgroup != "overall" and x.value is not None for x in findings)
        ],
        cohort=show_cohort(report.cohort),
    )


def _outcome(report: ValidationReport, limits: Sequence[_LimitRow]) -> _Outcome:
    counted = [row for row in limits if row.judgement is not Judgement.NOT_APPLICABLE]
    if not counted:
        if report.kind == "external_validation":
            return _Outcome("neutral", "i", "External validation: measured, not judged against limits.", ())
        return _Outcome("fail", "?", "DOES NOT PASS: no limit was judged.", ())
    met = [row for row in counted if row.judgement is Judgement.PASS]
    short = [row for row in counted if row.judgement is not Judgement.PASS]
    if short:
        reasons = tuple(f"{row.metric} {row.word}: {row.measured}, must be {row.wanted}. {row.reason}" for row in short)
        return _Outcome("fail", "✕", f"DOES NOT PASS: {len(met)} of {len(counted)} limits met.", reasons)
    return _Outcome("pass", "✓", f"PASSES {len(met)} of {len(counted)} limits.", ())


def _warnings(report: ValidationReport) -> list[tuple[str, str]]:
    """What a reader must know before any figure: a heading and a sentence each."""
    warnings: list[tuple[str, str]] = []
    for origin, what in dict.fromkeys(
        [
            (report.data_origin, "The figures below were measured"),
            (report.version.data_origin, "This version was trained"),
        ]
    ):
        if origin.startswith("simulated"):
            warnings.append(("Simulated data", f"{what} on simulated patients: that says nothing about real ones."))
        elif origin.endswith(":modified"):
            warnings.append(
                (
                    "Modified archive",
                    f"{what} on {origin}: its checksum is not the one the publisher gives (a part of the archive, or a "
                    "corrected file). Figures may differ from those on the published archive.",
                )
            )
    if report.version.protocol_sha256 != report.protocol.sha256:
        warnings.append(("Another protocol", "This version was trained under a protocol that has been changed since."))
    if any(f"={SIMULATED_PREFIX}" in finding.subgroup for finding in report.findings):
        warnings.append(
            (
                "Simulated camera",
                f"There is no camera whose name starts with {SIMULATED_PREFIX}: a program altered those images.",
            )
        )
    if report.protocol.environment == "demo":
        warnings.append(
            ("Demonstration environment", "Signatures here release nothing to patients. Not for clinical use.")
        )
    return warnings


def _limit_rows(judged: Sequence[JudgedLimit], protocol: ModelProtocol) -> list[_LimitRow]:
    groups: dict[str, list[JudgedLimit]] = {}
    for item in judged:
        groups.setdefault(item.limit.model_dump_json(), []).append(item)
    return [_limit_row(items, protocol) for items in groups.values()]


def _limit_row(items: Sequence[JudgedLimit], protocol: ModelProtocol) -> _LimitRow:
    worst_first = (Judgement.FAIL, Judgement.CANNOT_TELL, Judgement.PASS, Judgement.NOT_APPLICABLE)
    ordered = sorted(items, key=lambda item: worst_first.index(item.judgement))
    worst = ordered[0]
    symbol, word = JUDGEMENT_WORDS[worst.judgement]
    exceptions: tuple[str, ...] = ()
    if worst.limit.in_every_subgroup:
        met = sum(item.judgement is Judgement.PASS for item in items)
        values = [item.finding for item in items if item.finding is not None and item.finding.value is not None]
        ends = sorted(values, key=lambda finding: finding.value or 0.0)
        measured = f"{_in_words(ends[0], protocol).value} to {_in_words(ends[-1], protocol).value}" if ends else "–"
        reason = f"{met} of {len(items)} subgroups meet it."
        exceptions = tuple(_exception(item, protocol) for item in ordered if item.judgement is not Judgement.PASS)
    else:
        measured = _with_interval(worst.finding, protocol)
        # A value and its limit speak for themselves; a comparison, or a refusal to judge, needs its reason.
        plain = worst.limit.not_worse_than is None and worst.judgement is not Judgement.CANNOT_TELL
        told = plain and worst.finding is not None and not isinstance(worst.finding, WithheldFinding)
        reason = f"n {worst.finding.n:,}." if told and worst.finding is not None else worst.reason
    return _LimitRow(
        metric=describe_metric(worst.limit.metric, protocol).name,
        wanted=worst.limit.in_words(),
        measured=measured,
        judgement=worst.judgement,
        symbol=symbol,
        word=word,
        reason=reason,
        exceptions=exceptions,
    )


def _exception(item: JudgedLimit, protocol: ModelProtocol) -> str:
    word = JUDGEMENT_WORDS[item.judgement][1]
    detail = _with_interval(item.finding, protocol) if item.judgement is Judgement.FAIL else item.reason
    return f"{in_words(item.subgroup)}, {word}: {detail}"


def _with_interval(finding: Finding | None, protocol: ModelProtocol) -> str:
    if finding is None:
        return "–"
    found = _in_words(finding, protocol)
    return f"{found.value} ({found.interval})" if found.interval else found.value


def _of_a_hundred(overall: Sequence[Finding], protocol: ModelProtocol) -> _Hundred | None:
    values = {finding.metric: finding.value for finding in overall}
    word, ppv = flagged_word(protocol), values.get("ppv")
    if "patients_alerted_per_100" in values:
        patients = values["patients_alerted_per_100"]
        if patients is None or ppv is None:
            return None
        flagged_with = round(patients * ppv)
        sensitivity = values.get("sensitivity")
        found = None if sensitivity is None else f"{round(100 * sensitivity)}"
        return _Hundred("patients", word, flagged_with, round(patients) - flagged_with, None, found)
    alerts, prevalence = values.get("alerts_per_100"), values.get("prevalence")
    if alerts is None or ppv is None or prevalence is None:
        return None
    flagged_with = round(alerts * ppv)
    flagged_without = round(alerts) - flagged_with
    # Rounded apart, the three could add up to more than a hundred.
    missed = min(max(0, round(100 * prevalence) - flagged_with), 100 - round(alerts))
    return _Hundred(plural_unit(protocol), word, flagged_with, flagged_without, missed, None)


def _operating_points(overall: Sequence[Finding], version: ModelVersion) -> dict[str, tuple[str, str]]:
    """The metric and the operating point that each finding's name stands for; empty where there is one point only."""
    measured = {finding.metric for finding in overall}
    further = [point for point in version.thresholds if any(name.endswith(f"{AT}{point}") for name in measured)]
    other = next((point for point in further if point != ALERT), None)
    if other is None:
        return {}
    points: dict[str, tuple[str, str]] = {}
    for metric in OF_OPERATING_POINT:
        bare = other if f"{metric}{AT}{ALERT}" in measured else ALERT
        names = {metric: bare} | {f"{metric}{AT}{point}": point for point in further}
        points |= {name: (metric, point) for name, point in names.items() if name in measured}
    return points


def _operating_point_table(
    overall: Sequence[Finding], points: dict[str, tuple[str, str]], report: ValidationReport
) -> Table | None:
    if not points:
        return None
    found = {points[finding.metric]: finding for finding in overall if finding.metric in points}
    columns = [point for point in report.version.thresholds if any(place == point for _, place in found)]
    heading = (
        Cell("Operating point"),
        *(
            Cell(
                f"At the {POINT_NAMES.get(point, point)}", f"risk from {_percent(report.version.thresholds[point])} on"
            )
            for point in columns
        ),
    )
    rows = tuple(
        (
            Cell((words := describe_metric(metric, report.protocol)).name, words.meaning),
            *(_cell(found.get((metric, point)), report.protocol) for point in columns),
        )
        for metric in dict.fromkeys(metric for metric, _ in points.values())
    )
    return Table("", heading, rows)


def _net_benefit_table(findings: Sequence[Finding], protocol: ModelProtocol) -> Table | None:
    """A row for each threshold probability: the model beside alerting everyone."""
    places = {finding: NET_BENEFIT.fullmatch(finding.metric) for finding in findings}
    found = {(match["percent"], bool(match["of_all"])): finding for finding, match in places.items() if match}
    if not found:
        return None
    heading = (Cell("Net benefit for each one, at a threshold of"), Cell("This model"), Cell("Alerting everyone"))
    rows = tuple(
        (Cell(f"{percent} %"), *(_cell(found.get((percent, of_all)), protocol) for of_all in (False, True)))
        for percent in dict.fromkeys(percent for percent, _ in found)
    )
    return Table("Alerting no one is worth 0.", heading, rows)


def _silent_table(found: _Sorted, protocol: ModelProtocol) -> Table | None:
    """The figures of the silent months beside those of the test rows."""
    tested = {finding.metric: finding for finding in found.main if finding.subgroup == "overall"}
    rows = tuple(
        (
            Cell(describe_metric(finding.metric, protocol).name),
            _cell(finding, protocol),
            _cell(tested.get(finding.metric.removeprefix(SILENT)), protocol),
        )
        for finding in found.silent
        if finding.metric != SILENT_MONTHS
    )
    return Table("", (Cell("Metric"), Cell("Silent months"), Cell("Test patients")), rows) if rows else None


def _cell(finding: Finding | None, protocol: ModelProtocol) -> Cell:
    if finding is None:
        return Cell("–")
    found = _in_words(finding, protocol)
    return Cell(found.value, found.interval or "no interval")


def _overall_parts(findings: Sequence[Finding], protocol: ModelProtocol) -> list[_Part]:
    parts = dict.fromkeys(describe_metric(finding.metric, protocol).part for finding in findings)
    return [
        _Part(
            title,
            tuple(
                _in_words(finding, protocol)
                for finding in findings
                if describe_metric(finding.metric, protocol).part == title
            ),
        )
        for title in parts
    ]


def _subgroup_parts(
    findings: Sequence[Finding], points: dict[str, tuple[str, str]], protocol: ModelProtocol
) -> list[_Part]:
    """A table of all subgroups for each part of the metrics, and for each operating point."""
    inside = [finding for finding in findings if finding.subgroup != "overall"]
    titles: dict[str, list[Finding]] = {}
    for finding in inside:
        if finding.metric in points:
            point = points[finding.metric][1]
            title = f"At the {POINT_NAMES.get(point, point)}"
        else:
            title = describe_metric(finding.metric, protocol).part
        titles.setdefault(title, []).append(finding)
    return [_subgroup_part(title, group, points, protocol) for title, group in titles.items()]


def _subgroup_part(
    title: str, inside: Sequence[Finding], points: dict[str, tuple[str, str]], protocol: ModelProtocol
) -> _Part:
    metrics = list(dict.fromkeys(finding.metric for finding in inside))
    by_place = {(finding.subgroup, finding.metric): finding for finding in inside}
    rows: list[tuple[str, str, tuple[_Measured | None, ...]]] = []
    for subgroup in dict.fromkeys(finding.subgroup for finding in inside):
        cells = [by_place.get((subgroup, metric)) for metric in metrics]
        largest = max((cell for cell in cells if cell is not None), key=lambda cell: cell.n)
        measured = tuple(_in_words(cell, protocol) if cell is not None else None for cell in cells)
        rows.append((in_words(subgroup), shown_n(largest), measured))
    names = tuple(describe_metric(points.get(metric, (metric, ""))[0], protocol).name for metric in metrics)
    return _Part(title, metrics=names, subgroups=tuple(rows))


def _in_words(finding: Finding, protocol: ModelProtocol) -> _Measured:
    words = describe_metric(finding.metric, protocol)
    return _Measured(
        name=words.name,
        meaning=words.meaning,
        value=words.write_value(finding),
        interval=words.write_interval(finding),
        n=shown_n(finding),
    )


def _percent(risk: float) -> str:
    return f"{100 * risk:.1f} %"
