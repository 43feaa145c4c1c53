import polars as pl

from clinical_assets.protocol import Finding, JudgedLimit, Judgement, Limit
from clinical_assets.reporting.shown_findings import suppress_findings, suppress_judged, withheld_of, withhold_findings
from clinical_assets.reporting.withheld import WithheldFinding, shown_n


def measured(
    subgroup: str, n: int, *, events: int, alerted: int, found: int, population: str = "", auroc: float = 0.8
) -> list[Finding]:
    values = {
        "auroc": auroc,
        "prevalence": events / n,
        "alerts_per_100": 100 * alerted / n,
        "sensitivity": found / events,
        "ppv": found / alerted,
    }
    return [Finding(f"{population}{name}", subgroup, value, 0.0, 1.0, n) for name, value in values.items()]


def withheld(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(x.metric, x.subgroup) for x in suppress_findings(findings) if isinstance(x, WithheldFinding)}


def everything(*subgroups: str) -> set[tuple[str, str]]:
    metrics = ("auroc", "prevalence", "alerts_per_100", "sensitivity", "ppv")
    return {(metric, subgroup) for metric in metrics for subgroup in subgroups}


OVERALL = measured("overall", 1000, events=300, alerted=200, found=120)


def test_figures_of_many_are_shown_as_they_are() -> None:
    findings = [*OVERALL, *measured("sex=F", 500, events=150, alerted=100, found=60)]
    findings += measured("sex=M", 500, events=150, alerted=100, found=60)
    assert suppress_findings(findings) == findings


def test_a_group_of_few_is_withheld_with_another_of_its_kind_and_their_n() -> None:
    findings = [*OVERALL, *measured("sex=F", 600, events=180, alerted=120, found=70)]
    findings += measured("sex=M", 392, events=110, alerted=75, found=46)
    findings += measured("sex=other", 8, events=4, alerted=2, found=1)
    assert everything("sex=F", "sex=other") <= withheld(findings)
    by_place = {(x.metric, x.subgroup): x for x in suppress_findings(findings)}
    assert shown_n(by_place["auroc", "sex=other"]) == shown_n(by_place["auroc", "sex=F"]) == "withheld"
    assert shown_n(by_place["auroc", "sex=M"]) == "392"


def test_few_events_take_all_that_rests_on_them_and_leave_the_alerts() -> None:
    findings = [*OVERALL, *measured("site=A", 500, events=293, alerted=60, found=50)]
    findings += measured("site=B", 500, events=7, alerted=140, found=70)
    hidden = withheld(findings)
    assert ("auroc", "site=B") in hidden
    assert ("prevalence", "site=A") in hidden
    assert ("alerts_per_100", "site=A") not in hidden


def test_few_found_and_few_missed_take_sensitivity_and_predictive_value_alone() -> None:
    few_found = measured("overall", 1000, events=300, alerted=200, found=10)
    assert withheld(few_found) == {("sensitivity", "overall"), ("ppv", "overall")}
    few_missed = measured("overall", 1000, events=100, alerted=300, found=93)
    assert withheld(few_missed) == {("sensitivity", "overall"), ("ppv", "overall")}
    few_false_alerts = measured("overall", 1000, events=300, alerted=205, found=200)
    assert withheld(few_false_alerts) == {("sensitivity", "overall"), ("ppv", "overall")}


def test_a_gap_goes_where_one_of_its_ends_does() -> None:
    gap = Finding("sensitivity_gap", "overall", 0.3, 0.1, 0.5, 1000)
    assert ("sensitivity_gap", "overall") not in withheld([*OVERALL, gap])
    groups = measured("sex=F", 500, events=150, alerted=100, found=112 - 100)
    assert ("sensitivity_gap", "overall") in withheld(
        [*OVERALL, gap, *groups, *measured("sex=M", 500, events=150, alerted=100, found=4)]
    )


def test_specificity_may_not_tell_what_sensitivity_would() -> None:
    spared = Finding("specificity", "overall", 600 / 700, 0.8, 0.9, 1000)
    few_found = [*measured("overall", 1000, events=300, alerted=105, found=5), spared]
    assert ("specificity", "overall") in withheld(few_found)


def test_the_silent_and_the_transported_are_rows_of_their_own() -> None:
    silent = measured("overall", 9, events=3, alerted=2, found=1, population="silent_")
    months = Finding("silent_months", "overall", 2.0, None, None, 5000)
    assert withheld([*OVERALL, *silent, months]) == {(x.metric, "overall") for x in [*silent, months] if x.n == 9}


def test_a_judgement_stands_and_its_reason_tells_nothing() -> None:
    findings = measured("overall", 1000, events=100, alerted=300, found=93)
    sensitivity = next(x for x in findings if x.metric == "sensitivity")
    told = JudgedLimit(
        Limit(metric="sensitivity", at_least=0.9), "overall", sensitivity, Judgement.PASS, "it is 0.93 on 100"
    )
    [shown] = suppress_judged([told], findings)
    assert shown.judgement is Judgement.PASS
    assert shown.finding is not None
    assert shown.finding.value is None
    assert "0.93" not in shown.reason


def test_a_table_of_several_versions_is_judged_version_by_version() -> None:
    many, few = (
        measured("overall", 1000, events=300, alerted=200, found=120),
        measured("overall", 50, events=20, alerted=15, found=4),
    )
    rows = [(version, x.metric, x.subgroup, x.value, x.n) for version, found in ((1, many), (2, few)) for x in found]
    table = pl.DataFrame(rows, schema=["version", "metric", "subgroup", "value", "n"], orient="row")
    shown = withhold_findings(table, withheld_of(table, ["version"]), ["value"])
    assert shown.filter(version=1)["suppressed"].sum() == 0
    assert set(shown.filter("suppressed")["metric"]) == {"sensitivity", "ppv"}
    assert shown.filter("suppressed")["value"].null_count() == 2
    assert shown.filter("suppressed")["n"].to_list() == [50, 50]
