"""What findings say about the limits of a protocol: pass, fail, cannot tell, or not applicable, each with its reason.

Belongs here: the rules of judging. Does not belong here: any measuring, and what follows from a judgement.
"""

from collections.abc import Sequence

from clinical_assets.protocol import SILENT_MONTHS, Finding, JudgedLimit, Judgement, Limit

HIGHER_IS_BETTER = frozenset(
    {
        "auroc",
        "average_precision",
        "sensitivity",
        "ppv",
        "specificity",
        "normalized_utility",
        "normalized_utility_at_alert",
        "sensitivity_at_utility",
        "ppv_at_utility",
        "net_benefit_at_1_percent",
        "net_benefit_at_2_percent",
        "net_benefit_at_5_percent",
        "net_benefit_at_10_percent",
        "accuracy",
        "quadratic_weighted_kappa",
        "referable_auroc",
        "referable_average_precision",
    }
)
LOWER_IS_BETTER = frozenset(
    {
        "brier",
        "expected_calibration_error",
        "sensitivity_gap",
        "alerts_per_100",
        "patients_alerted_per_100",
        "patients_alerted_per_100_at_utility",
        "alerts_per_100_patient_days",
        "alerts_per_100_patient_days_at_utility",
    }
)


def judge(
    limits: Sequence[Limit],
    findings: Sequence[Finding],
    minimum_n: int,
    available_references: frozenset[str] = frozenset(),
) -> list[JudgedLimit]:
    """Every limit beside the finding it is judged by, in the order of the limits.

    A floor or ceiling is judged on the measured value; one for every subgroup gives one judgement a subgroup found.
    `not_worse_than` is judged on the paired difference: it passes when the whole 95 % interval is on the right side of
    the margin, fails when the value is not, and cannot be told in between (non-inferiority; CONSORT extension, Piaggio
    2012). A finding that is missing, undefined, or rests on fewer than `minimum_n` rows cannot tell. A reference not
    among `available_references`, because no such version was released yet, makes its limit not applicable.
    """
    judged: list[JudgedLimit] = []
    for limit in limits:
        if limit.not_worse_than is not None:
            judged.append(_judge_against_reference(limit, findings, minimum_n, available_references))
        elif limit.in_every_subgroup:
            judged += _judge_subgroups(limit, findings, minimum_n)
        else:
            judged.append(_judge_value(limit, "overall", _find(findings, limit.metric, "overall"), minimum_n))
    return judged


def _find(findings: Sequence[Finding], metric: str, subgroup: str) -> Finding | None:
    return next((finding for finding in findings if (finding.metric, finding.subgroup) == (metric, subgroup)), None)


def _judge_subgroups(limit: Limit, findings: Sequence[Finding], minimum_n: int) -> list[JudgedLimit]:
    found = [finding for finding in findings if finding.metric == limit.metric and finding.subgroup != "overall"]
    if not found:
        reason = f"{limit.metric} was measured in no subgroup; no subgroup has {minimum_n:,} rows, or none is named"
        return [JudgedLimit(limit, "every subgroup", None, Judgement.CANNOT_TELL, reason)]
    return [_judge_value(limit, finding.subgroup, finding, minimum_n) for finding in found]


def _judge_value(limit: Limit, subgroup: str, finding: Finding | None, minimum_n: int) -> JudgedLimit:
    value, obstacle = _usable_value(limit.metric, finding, minimum_n)
    if value is None or finding is None:
        return JudgedLimit(limit, subgroup, finding, Judgement.CANNOT_TELL, obstacle)
    reached = (limit.at_least is None or value >= limit.at_least) and (limit.at_most is None or value <= limit.at_most)
    reason = f"{_in_words(finding)}; it must be {limit.in_words()}"
    return JudgedLimit(limit, subgroup, finding, Judgement.PASS if reached else Judgement.FAIL, reason)


def _judge_against_reference(
    limit: Limit, findings: Sequence[Finding], minimum_n: int, available_references: frozenset[str]
) -> JudgedLimit:
    reference, margin = str(limit.not_worse_than), float(limit.by or 0.0)
    named = reference.replace("_", " ")
    if reference not in available_references:
        reason = f"there is no {named} yet to compare with"
        return JudgedLimit(limit, "overall", None, Judgement.NOT_APPLICABLE, reason)
    difference = f"{limit.metric}_minus_{reference}"
    finding = _find(findings, difference, "overall")
    value, obstacle = _usable_value(difference, finding, minimum_n)
    if value is None or finding is None:
        return JudgedLimit(limit, "overall", finding, Judgement.CANNOT_TELL, obstacle)
    if limit.metric in HIGHER_IS_BETTER:
        gain, least_gain = value, finding.low
    elif limit.metric in LOWER_IS_BETTER:
        gain, least_gain = -value, None if finding.high is None else -finding.high
    else:
        reason = f"{limit.metric} is not better when higher or lower; give it at_least and at_most"
        return JudgedLimit(limit, "overall", finding, Judgement.CANNOT_TELL, reason)
    measured = _in_words(finding)
    if gain < -margin:
        judgement, reason = Judgement.FAIL, f"{measured}: worse than the {named} by more than {margin:g}"
    elif least_gain is None:
        judgement, reason = Judgement.CANNOT_TELL, f"{measured}: without an interval it cannot be called not worse"
    elif least_gain < -margin:
        judgement = Judgement.CANNOT_TELL
        reason = f"{measured}: the interval reaches beyond the margin of {margin:g}; more rows are needed"
    else:
        judgement = Judgement.PASS
        reason = f"{measured}: the whole interval is within {margin:g} of the {named} or better"
    return JudgedLimit(limit, "overall", finding, judgement, reason)


def _usable_value(metric: str, finding: Finding | None, minimum_n: int) -> tuple[float | None, str]:
    """The value to judge, or None with the reason why there is none."""
    if finding is None:
        return None, f"{metric} was not measured"
    if finding.value is None:
        return None, f"{metric} is undefined on these {finding.n:,} rows"
    # Months are counted, not estimated: a small hospital's count as well.
    if finding.n < minimum_n and metric != SILENT_MONTHS:
        return None, f"{metric} rests on {finding.n:,} rows; at least {minimum_n:,} are needed"
    return finding.value, ""


def _in_words(finding: Finding) -> str:
    interval = ""
    if finding.low is not None and finding.high is not None:
        interval = f" (95 % interval {finding.low:.4g} to {finding.high:.4g})"
    return f"{finding.metric} is {finding.value:.4g}{interval} on {finding.n:,} rows"
