import pytest

from clinical_assets.evaluation import judge
from clinical_assets.protocol import Finding, JudgedLimit, Judgement, Limit

CHAMPION = frozenset({"champion"})
NON_INFERIOR = Limit(metric="auroc", not_worse_than="champion", by=0.02)


def found(
    value: float | None, metric: str = "auroc", subgroup: str = "overall", n: int = 1000, **interval: float | None
) -> Finding:
    return Finding(metric, subgroup, value, interval.get("low"), interval.get("high"), n)


def judge_one(limit: Limit, *findings: Finding, references: frozenset[str] = CHAMPION) -> JudgedLimit:
    (judged,) = judge([limit], findings, minimum_n=200, available_references=references)
    assert judged.limit is limit
    assert judged.reason
    return judged


@pytest.mark.parametrize(
    ("value", "judgement"), [(0.65, Judgement.PASS), (0.7, Judgement.PASS), (0.6499, Judgement.FAIL)]
)
def test_a_floor_is_reached_at_the_floor_and_not_below(value: float, judgement: Judgement) -> None:
    assert judge_one(Limit(metric="auroc", at_least=0.65), found(value)).judgement is judgement


@pytest.mark.parametrize(
    ("value", "judgement"),
    [(0.8, Judgement.PASS), (1.25, Judgement.PASS), (0.79, Judgement.FAIL), (1.26, Judgement.FAIL)],
)
def test_a_floor_and_a_ceiling_must_both_hold(value: float, judgement: Judgement) -> None:
    limit = Limit(metric="observed_expected_ratio", at_least=0.8, at_most=1.25)
    assert judge_one(limit, found(value, "observed_expected_ratio")).judgement is judgement


def test_the_reason_gives_the_value_the_interval_and_the_limit() -> None:
    reason = judge_one(Limit(metric="auroc", at_least=0.65), found(0.64, low=0.62, high=0.66)).reason
    assert reason == "auroc is 0.64 (95 % interval 0.62 to 0.66) on 1,000 rows; it must be at least 0.65"


@pytest.mark.parametrize(
    ("findings", "reason"),
    [
        ([], "not measured"),
        ([found(0.9, "ppv")], "not measured"),
        ([found(0.9, subgroup="sex=female")], "not measured"),
        ([found(None)], "undefined on these 1,000 rows"),
        ([found(0.9, n=199)], "rests on 199 rows; at least 200 are needed"),
    ],
)
def test_what_was_not_soundly_measured_cannot_be_told_and_blocks_the_release(
    findings: list[Finding], reason: str
) -> None:
    judged = judge_one(Limit(metric="auroc", at_least=0.65), *findings)
    assert judged.judgement is Judgement.CANNOT_TELL
    assert judged.blocks_release
    assert reason in judged.reason


def test_every_subgroup_is_judged_by_itself_and_the_whole_is_not() -> None:
    limit = Limit(metric="auroc", at_least=0.6, in_every_subgroup=True)
    findings = [
        found(0.5),
        found(0.7, subgroup="sex=female"),
        found(0.55, subgroup="sex=male"),
        found(0.9, "ppv", "a=b"),
    ]
    judged = judge([limit], findings, minimum_n=200)
    assert [(j.subgroup, j.judgement) for j in judged] == [
        ("sex=female", Judgement.PASS),
        ("sex=male", Judgement.FAIL),
    ]


def test_a_subgroup_that_is_too_small_or_undefined_cannot_be_told() -> None:
    limit = Limit(metric="auroc", at_least=0.6, in_every_subgroup=True)
    judged = judge([limit], [found(0.7, subgroup="a=b", n=10), found(None, subgroup="a=c")], minimum_n=200)
    assert [j.judgement for j in judged] == [Judgement.CANNOT_TELL] * 2


def test_a_subgroup_limit_without_any_subgroup_cannot_be_told() -> None:
    judged = judge_one(Limit(metric="auroc", at_least=0.6, in_every_subgroup=True), found(0.9))
    assert judged.judgement is Judgement.CANNOT_TELL


@pytest.mark.parametrize(
    ("value", "low", "judgement"),
    [
        (0.01, -0.01, Judgement.PASS),
        (-0.01, -0.02, Judgement.PASS),
        (-0.01, -0.021, Judgement.CANNOT_TELL),
        (-0.02, -0.04, Judgement.CANNOT_TELL),
        (-0.021, -0.04, Judgement.FAIL),
        (0.01, None, Judgement.CANNOT_TELL),
    ],
)
def test_not_worse_passes_only_when_the_whole_interval_is_within_the_margin(
    value: float, low: float | None, judgement: Judgement
) -> None:
    finding = found(value, "auroc_minus_champion", low=low, high=0.05)
    assert judge_one(NON_INFERIOR, finding).judgement is judgement


@pytest.mark.parametrize(
    ("value", "high", "judgement"),
    [
        (-0.01, 0.001, Judgement.PASS),
        (0.001, 0.004, Judgement.CANNOT_TELL),
        (0.003, 0.004, Judgement.FAIL),
    ],
)
def test_a_higher_brier_score_is_worse(value: float, high: float, judgement: Judgement) -> None:
    limit = Limit(metric="brier", not_worse_than="champion", by=0.002)
    finding = found(value, "brier_minus_champion", low=-0.05, high=high)
    assert judge_one(limit, finding).judgement is judgement


def test_without_a_champion_there_is_nothing_to_be_worse_than() -> None:
    judged = judge_one(NON_INFERIOR, references=frozenset({"first_release"}))
    assert judged.judgement is Judgement.NOT_APPLICABLE
    assert not judged.blocks_release
    assert "no champion yet" in judged.reason


def test_a_champion_that_was_not_compared_with_cannot_be_told() -> None:
    assert judge_one(NON_INFERIOR, found(0.9)).judgement is Judgement.CANNOT_TELL


def test_a_difference_on_too_few_rows_cannot_be_told() -> None:
    finding = found(0.01, "auroc_minus_champion", n=100, low=0.0, high=0.02)
    assert judge_one(NON_INFERIOR, finding).judgement is Judgement.CANNOT_TELL


def test_a_metric_that_is_best_in_the_middle_has_no_worse() -> None:
    limit = Limit(metric="calibration_slope", not_worse_than="champion", by=0.1)
    finding = found(0.0, "calibration_slope_minus_champion", low=0.0, high=0.0)
    assert judge_one(limit, finding).judgement is Judgement.CANNOT_TELL


def test_limits_are_judged_in_their_order() -> None:
    limits = [Limit(metric="ppv", at_least=0.2), NON_INFERIOR, Limit(metric="auroc", at_least=0.6)]
    assert [j.limit for j in judge(limits, [found(0.7)], 200)] == limits
