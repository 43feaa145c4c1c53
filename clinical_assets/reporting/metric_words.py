"""How a metric is called, what it means and how its value is written, for each kind of assessment.

Belongs here: words and number formats. Does not belong here: which metrics are shown, and where.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from clinical_assets.protocol import Finding, ModelProtocol
from clinical_assets.reporting.withheld import SMALL_COUNT, WITHHELD, WithheldFinding

Style = Literal["number", "share", "per_100", "hours", "whole", "fine", "difference"]

SILENT, TRANSPORTED, MINUS, AT = "silent_", "transported_", "_minus_", "_at_"

NET_BENEFIT = re.compile(r"net_benefit(?P<of_all>_of_all)?_at_(?P<percent>\d+)_percent")
"""Net benefit of the model, or of alerting everyone, at a threshold probability of so many per cent."""

UTILITY = "utility"

POINT_NAMES = {"alert": "alert budget", UTILITY: "utility-optimal threshold"}


@dataclass(frozen=True, slots=True)
class MetricWords:
    """A metric's name, a line on how to read it, how its values are written, and the part of a report it stands in."""

    name: str
    meaning: str = ""
    style: Style = "number"
    part: str = ""

    def write(self, value: float | None) -> str:
        """A value as a reader sees it; an undefined one is called so."""
        if value is None:
            return "undefined"
        if self.style == "share":
            return f"{100 * value:.1f} %"
        if self.style == "difference":
            return f"{value:+.4f}".replace("-", "−")
        digits = {"whole": 0, "per_100": 1, "hours": 1, "fine": 4}.get(self.style, 3)
        return f"{value:.{digits}f}".replace("-", "−")

    def write_value(self, finding: Finding) -> str:
        """The value of a finding as a reader sees it; one that is withheld is called so."""
        return WITHHELD if isinstance(finding, WithheldFinding) else self.write(finding.value)

    def write_interval(self, finding: Finding) -> str:
        """The 95 % interval of a finding as a reader sees it, or nothing where it has none."""
        if isinstance(finding, WithheldFinding):
            return SMALL_COUNT
        if finding.low is None or finding.high is None:
            return ""
        return f"{self.write(finding.low)} to {self.write(finding.high)}"


ANY = {
    "auroc": MetricWords(
        "AUROC", "how often one with the outcome has the higher risk of two; 0.5 is chance, 1 is perfect"
    ),
    "average_precision": MetricWords(
        "Average precision", "positive predictive value, averaged over all thresholds; compare with the outcome rate"
    ),
    "brier": MetricWords("Brier score", "mean squared error of the risk; lower is better"),
    "calibration_slope": MetricWords("Calibration slope", "1 is right; below 1, risks are too extreme"),
    "calibration_intercept": MetricWords("Calibration intercept", "0 is right; above 0, risks are too low overall"),
    "expected_calibration_error": MetricWords(
        "Expected calibration error", "mean distance of risk and observed rate; 0 is right"
    ),
    "observed_expected_ratio": MetricWords("Observed / expected", "events seen for each one predicted; 1 is right"),
    "sensitivity": MetricWords("Sensitivity", "share of those with the outcome that is flagged", "share"),
    "specificity": MetricWords("Specificity", "share of those without the outcome that is not flagged", "share"),
    "ppv": MetricWords("Positive predictive value", "share of the flagged that has the outcome", "share"),
    "alerts_per_100": MetricWords("Alerts per 100", "flagged in every 100", "per_100"),
    "prevalence": MetricWords("Outcome rate", "share that has the outcome", "share"),
    "sensitivity_gap": MetricWords("Sensitivity gap", "largest less smallest sensitivity among the groups of one kind"),
    "normalized_utility": MetricWords("Normalised utility", "0 is never alarming, 1 the best alarms"),
    "accuracy": MetricWords("Accuracy", "share that is predicted right", "share"),
    "quadratic_weighted_kappa": MetricWords(
        "Quadratic weighted kappa", "agreement beyond chance, errors weighed by their square; 1 is perfect"
    ),
    "silent_months": MetricWords(
        "Silent months", "months that arrived after training, scored and shown to nobody", "whole"
    ),
}

_HOURS = "Risk of an hour"
_ALL_GRADES, _REFERABLE, _CALIBRATION = (
    "All grades",
    "Referable disease",
    "Calibration of the risk of referable disease",
)

OF_ASSESSMENT = {
    "HOURLY_ALARMS": {
        **{
            name: replace(ANY[name], part=_HOURS)
            for name in (
                "brier",
                "calibration_slope",
                "calibration_intercept",
                "expected_calibration_error",
                "observed_expected_ratio",
            )
        },
        "auroc": MetricWords(
            "AUROC",
            "of two hours, one of them labelled, how often that one has the higher risk; 0.5 is chance, 1 is perfect",
            part=_HOURS,
        ),
        "average_precision": MetricWords(
            "Average precision",
            "share of alarmed hours that is labelled, averaged over all thresholds; compare with the hours labelled",
            part=_HOURS,
        ),
        "prevalence": MetricWords(
            "Hours labelled", "share of all hours that is labelled, from 6 h before onset on", "share", _HOURS
        ),
        "sensitivity": MetricWords(
            "Sensitivity by onset", "share of the septic patients who are alerted at or before onset", "share"
        ),
        "ppv": MetricWords(
            "Positive predictive value", "share of the patients alerted at least once who become septic", "share"
        ),
        "patients_alerted_per_100": MetricWords(
            "Patients alerted per 100", "patients alerted at least once in their stay", "per_100"
        ),
        "alerts_per_100_patient_days": MetricWords(
            "Alerts per 100 patient-days", "an alert begins where an alarmed hour follows a silent one", "per_100"
        ),
        "lead_time_h_median": MetricWords(
            "Lead time, median, h", "from first alert to onset, of the septic patients alerted by onset", "hours"
        ),
        "lead_time_h_quartile_1": MetricWords(
            "Lead time, first quartile, h", "three of four of these patients are alerted earlier", "hours"
        ),
        "lead_time_h_quartile_3": MetricWords(
            "Lead time, third quartile, h", "one of four of these patients is alerted earlier", "hours"
        ),
        "normalized_utility": MetricWords(
            "Normalised utility",
            "of the PhysioNet/CinC Challenge 2019: 0 is never alarming, 1 the best alarms, below 0 worse than silence",
        ),
        "sensitivity_gap": MetricWords(
            "Sensitivity gap",
            "largest less smallest sensitivity by onset among the groups of one kind, at the alert budget",
            part="Between groups of patients",
        ),
    },
    "DISEASE_GRADES": {
        **{
            name: replace(ANY[name], part=_CALIBRATION)
            for name in (
                "brier",
                "calibration_slope",
                "calibration_intercept",
                "expected_calibration_error",
                "observed_expected_ratio",
            )
        },
        "auroc": MetricWords(
            "Macro AUROC",
            "AUROC of each grade against all others, averaged over the grades; 0.5 is chance, 1 is perfect",
            part=_ALL_GRADES,
        ),
        "accuracy": MetricWords("Accuracy", "share whose most probable grade is the true one", "share", _ALL_GRADES),
        "quadratic_weighted_kappa": MetricWords(
            "Quadratic weighted kappa",
            "agreement of predicted and true grade beyond chance, errors weighed by their square; 1 is perfect",
            part=_ALL_GRADES,
        ),
        "referable_auroc": MetricWords(
            "AUROC, referable",
            "how often one with referable disease has the higher risk of two; 0.5 is chance, 1 is perfect",
            part=_REFERABLE,
        ),
        "referable_average_precision": MetricWords(
            "Average precision, referable",
            "positive predictive value, averaged over all thresholds; compare with the referable rate",
            part=_REFERABLE,
        ),
        "sensitivity": MetricWords(
            "Sensitivity", "share of those with referable disease that is referred", "share", _REFERABLE
        ),
        "specificity": MetricWords(
            "Specificity", "share of those without referable disease that is not referred", "share", _REFERABLE
        ),
        "ppv": MetricWords(
            "Positive predictive value", "share of the referred that has referable disease", "share", _REFERABLE
        ),
        "alerts_per_100": MetricWords("Referred per 100", "referred in every 100", "per_100", _REFERABLE),
        "prevalence": MetricWords("Referable rate", "share that has referable disease", "share", _REFERABLE),
        "sensitivity_gap": replace(ANY["sensitivity_gap"], part=_REFERABLE),
    },
}

OF_OPERATING_POINT = (
    "sensitivity",
    "ppv",
    "patients_alerted_per_100",
    "alerts_per_100_patient_days",
    "lead_time_h_quartile_1",
    "lead_time_h_median",
    "lead_time_h_quartile_3",
    "normalized_utility",
)
"""The metrics that stand side by side where a version has several operating points, in this order."""

FLAGGED = {"HOURLY_ALARMS": "alerted", "DISEASE_GRADES": "referred"}


def describe_metric(metric: str, protocol: ModelProtocol) -> MetricWords:
    """The words for a metric under the protocol's assessment; one that is not known is called by its own name.

    A difference (`_minus_`), a silent or transported figure, one at another operating point (`_at_`) and a net benefit
    are described by the metric they are of.
    """
    if MINUS in metric:
        base, _, reference = metric.partition(MINUS)
        name = f"{describe_metric(base, protocol).name} less that of the {reference.replace('_', ' ')}"
        return MetricWords(name, style="difference")
    known = OF_ASSESSMENT.get(_assessment_name(protocol), {}).get(metric) or ANY.get(metric)
    if known is not None:
        return known
    if found := NET_BENEFIT.fullmatch(metric):
        of_all = " of alerting everyone" if found["of_all"] else ""
        return MetricWords(f"Net benefit{of_all} at {found['percent']} %", style="fine")
    for prefix in (SILENT, TRANSPORTED):
        if metric.startswith(prefix):
            return describe_metric(metric.removeprefix(prefix), protocol)
    base, at, point = metric.rpartition(AT)
    if at and point in POINT_NAMES:
        words = describe_metric(base, protocol)
        return replace(words, name=f"{words.name}, at the {POINT_NAMES[point]}")
    return MetricWords(metric.replace("_", " "))


def flagged_word(protocol: ModelProtocol) -> str:
    """What is said of a unit or patient whose risk reaches the threshold: flagged, alerted or referred."""
    return FLAGGED.get(_assessment_name(protocol), "flagged")


def plural_unit(protocol: ModelProtocol) -> str:
    """What the rows are called: encounters, hours, images."""
    return f"{protocol.unit.removesuffix('_id').replace('_', ' ')}s"


def in_words(subgroup: str) -> str:
    """A subgroup `column=level` as a reader sees it."""
    return subgroup.replace("=", ": ")


def _assessment_name(protocol: ModelProtocol) -> str:
    return protocol.assessment.rpartition(".")[2]
