"""The report on one version of a model, as a page that a clinical lead reads and signs or refuses.

Belongs here: choosing and wording what is shown. Does not belong here: figures a finding does not hold, judgement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import polars as pl

from clinical_assets.protocol import Finding, JudgedLimit, Judgement, ModelProtocol, ModelVersion
from clinical_assets.reporting.figures import calibration_figure, subgroup_forest, to_svg

FOREST_METRICS = ("auroc", "sensitivity")

METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "brier": "Brier score",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "expected_calibration_error": "Expected calibration error",
    "observed_expected_ratio": "Observed / expected",
    "sensitivity": "Sensitivity",
    "ppv": "Positive predictive value",
    "alerts_per_100": "Alerts per 100",
    "prevalence": "Outcome rate",
    "sensitivity_gap": "Sensitivity gap",
    "normalized_utility": "Normalised utility",
    "accuracy": "Accuracy",
    "quadratic_weighted_kappa": "Quadratic weighted kappa",
}

METRIC_MEANINGS = {
    "auroc": "how often one with the outcome has the higher risk of two; 0.5 is chance, 1 is perfect",
    "average_precision": "positive predictive value, averaged over all thresholds; compare with the outcome rate",
    "brier": "mean squared error of the risk; lower is better",
    "calibration_slope": "1 is right; below 1, risks are too extreme",
    "calibration_intercept": "0 is right; above 0, risks are too low overall",
    "expected_calibration_error": "mean distance of risk and observed rate; 0 is right",
    "observed_expected_ratio": "events seen for each one predicted; 1 is right",
    "sensitivity": "share of those with the outcome that is flagged",
    "ppv": "share of the flagged that has the outcome",
    "alerts_per_100": "flagged in every 100",
    "prevalence": "share that has the outcome",
    "sensitivity_gap": "largest less smallest sensitivity among the groups of one kind",
}

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
    were read from. `calendar_note` says what the months mean where they are no calendar's.
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
    """What happens to a hundred units at the operating point, in whole ones."""

    flagged_with: int
    flagged_without: int
    missed: int
    neither: int

    @property
    def flagged(self) -> int:
        return self.flagged_with + self.flagged_without

    @property
    def with_outcome(self) -> int:
        return self.flagged_with + self.missed


@dataclass(frozen=True, slots=True)
class _Measured:
    """A finding in words."""

    name: str
    meaning: str
    value: str
    interval: str
    n: str


def render(report: ValidationReport) -> str:
    """The report as one self-contained HTML page: styles and figures inside, no script, nothing fetched."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("clinical_assets", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    limits = _limit_rows(report.judged)
    overall = [
        finding for finding in report.findings if finding.subgroup == "overall" and "_minus_" not in finding.metric
    ]
    return environment.get_template("validation_report.html").render(
        report=report,
        protocol=report.protocol,
        version=report.version,
        unit=_plural_unit(report.protocol),
        outcome=_outcome(report, limits),
        warnings=_warnings(report),
        limits=limits,
        hundred=_of_a_hundred(overall),
        sizes=" or ".join(dict.fromkeys(f"{finding.n:,}" for finding in overall)),
        overall=[_in_words(finding) for finding in overall],
        subgroups=_subgroup_table(report.findings),
        differences=[_in_words(finding) for finding in report.findings if "_minus_" in finding.metric],
        calibration_svg=to_svg(calibration_figure(report.calibration)) if len(report.calibration) else None,
        forests=[
            (METRIC_NAMES[metric], to_svg(subgroup_forest(report.findings, metric)))
            for metric in FOREST_METRICS
            if any(finding.metric == metric and finding.subgroup != "overall" for finding in report.findings)
        ],
        cohort=report.cohort.to_dicts(),
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
    if report.protocol.environment == "demo":
        warnings.append(
            ("Demonstration environment", "Signatures here release nothing to patients. Not for clinical use.")
        )
    return warnings


def _limit_rows(judged: Sequence[JudgedLimit]) -> list[_LimitRow]:
    groups: dict[str, list[JudgedLimit]] = {}
    for item in judged:
        groups.setdefault(item.limit.model_dump_json(), []).append(item)
    return [_limit_row(items) for items in groups.values()]


def _limit_row(items: Sequence[JudgedLimit]) -> _LimitRow:
    worst_first = (Judgement.FAIL, Judgement.CANNOT_TELL, Judgement.PASS, Judgement.NOT_APPLICABLE)
    ordered = sorted(items, key=lambda item: worst_first.index(item.judgement))
    worst = ordered[0]
    symbol, word = JUDGEMENT_WORDS[worst.judgement]
    exceptions: tuple[str, ...] = ()
    if worst.limit.in_every_subgroup:
        met = sum(item.judgement is Judgement.PASS for item in items)
        values = [item.finding for item in items if item.finding is not None and item.finding.value is not None]
        ends = sorted(values, key=lambda finding: finding.value or 0.0)
        measured = f"{_in_words(ends[0]).value} to {_in_words(ends[-1]).value}" if ends else "–"
        reason = f"{met} of {len(items)} subgroups meet it."
        exceptions = tuple(_exception(item) for item in ordered if item.judgement is not Judgement.PASS)
    else:
        measured = _with_interval(worst.finding)
        # A value and its limit speak for themselves; a comparison, or a refusal to judge, needs its reason.
        plain = worst.limit.not_worse_than is None and worst.judgement is not Judgement.CANNOT_TELL
        reason = f"n {worst.finding.n:,}." if plain and worst.finding is not None else worst.reason
    return _LimitRow(
        metric=_metric_name(worst.limit.metric),
        wanted=worst.limit.in_words(),
        measured=measured,
        judgement=worst.judgement,
        symbol=symbol,
        word=word,
        reason=reason,
        exceptions=exceptions,
    )


def _exception(item: JudgedLimit) -> str:
    word = JUDGEMENT_WORDS[item.judgement][1]
    detail = _with_interval(item.finding) if item.judgement is Judgement.FAIL else item.reason
    return f"{item.subgroup.replace('=', ': ')}, {word}: {detail}"


def _with_interval(finding: Finding | None) -> str:
    if finding is None:
        return "–"
    found = _in_words(finding)
    return f"{found.value} ({found.interval})" if found.interval else found.value


def _of_a_hundred(overall: Sequence[Finding]) -> _Hundred | None:
    values = {finding.metric: finding.value for finding in overall}
    alerts, ppv, prevalence = (values.get(name) for name in ("alerts_per_100", "ppv", "prevalence"))
    if alerts is None or ppv is None or prevalence is None:
        return None
    flagged_with = round(alerts * ppv)
    flagged_without = round(alerts) - flagged_with
    missed = max(0, round(100 * prevalence) - flagged_with)
    return _Hundred(flagged_with, flagged_without, missed, 100 - flagged_with - flagged_without - missed)


def _subgroup_table(findings: Sequence[Finding]) -> tuple[list[str], list[tuple[str, str, list[_Measured | None]]]]:
    """The names of the metrics, and for each subgroup its name, its size and its findings in that order."""
    inside = [finding for finding in findings if finding.subgroup != "overall"]
    metrics = list(dict.fromkeys(finding.metric for finding in inside))
    by_place = {(finding.subgroup, finding.metric): finding for finding in inside}
    rows: list[tuple[str, str, list[_Measured | None]]] = []
    for subgroup in dict.fromkeys(finding.subgroup for finding in inside):
        cells = [by_place.get((subgroup, metric)) for metric in metrics]
        n = max(cell.n for cell in cells if cell is not None)
        rows.append(
            (subgroup.replace("=", ": "), f"{n:,}", [_in_words(cell) if cell is not None else None for cell in cells])
        )
    return [_metric_name(metric) for metric in metrics], rows


def _in_words(finding: Finding) -> _Measured:
    interval = ""
    if finding.low is not None and finding.high is not None:
        interval = f"{_format(finding.metric, finding.low)} to {_format(finding.metric, finding.high)}"
    return _Measured(
        name=_metric_name(finding.metric),
        meaning=METRIC_MEANINGS.get(finding.metric, ""),
        value="undefined" if finding.value is None else _format(finding.metric, finding.value),
        interval=interval,
        n=f"{finding.n:,}",
    )


def _format(metric: str, value: float) -> str:
    if "_minus_" in metric:
        return f"{value:+.4f}".replace("-", "−")
    if metric in ("sensitivity", "ppv", "prevalence"):
        return f"{100 * value:.1f} %"
    digits = 1 if metric == "alerts_per_100" else 3
    return f"{value:.{digits}f}".replace("-", "−")


def _metric_name(metric: str) -> str:
    name, minus, reference = metric.partition("_minus_")
    known = METRIC_NAMES.get(name, name.replace("_", " "))
    return f"{known} less that of the {reference.replace('_', ' ')}" if minus else known


def _plural_unit(protocol: ModelProtocol) -> str:
    return f"{protocol.unit.removesuffix('_id').replace('_', ' ')}s"
