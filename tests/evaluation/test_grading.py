from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, recall_score, roc_auc_score

from clinical_assets.evaluation import EvaluationError, evaluate
from clinical_assets.evaluation.grading import METRICS, compare_grading, evaluate_grading
from clinical_assets.protocol import Finding

N = 600
NO_SUBGROUPS = pl.DataFrame()


@pytest.fixture(scope="module")
def grade() -> np.ndarray:
    return np.random.default_rng(1).choice(5, N, p=[0.45, 0.12, 0.19, 0.18, 0.06])


@pytest.fixture(scope="module")
def probability(grade: np.ndarray) -> np.ndarray:
    """Probabilities that know a little of the grade, many of them tied."""
    chance = np.round(0.85 * np.random.default_rng(2).dirichlet(np.ones(5), N) + 0.15 * np.eye(5)[grade], 1) + 0.01
    return chance / chance.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def predicted(probability: np.ndarray) -> np.ndarray:
    return (probability @ np.arange(5)).round().astype(int)


@pytest.fixture(scope="module")
def patient() -> np.ndarray:
    return np.arange(N) // 2


def by_key(findings: list[Finding]) -> dict[tuple[str, str], Finding]:
    keyed = {(finding.metric, finding.subgroup): finding for finding in findings}
    assert len(keyed) == len(findings)
    return keyed


@pytest.fixture(scope="module")
def found(
    grade: np.ndarray, probability: np.ndarray, predicted: np.ndarray, patient: np.ndarray
) -> dict[tuple[str, str], Finding]:
    cameras = pl.DataFrame({"camera": ["old", None, "new"] * (N // 3)})
    return by_key(evaluate_grading(grade, probability, predicted, patient, 0.5, cameras, 50, resamples=80))


def test_figures_of_all_grades_are_those_of_scikit_learn(
    found: dict, grade: np.ndarray, probability: np.ndarray, predicted: np.ndarray
) -> None:
    macro = np.mean([roc_auc_score(grade == level, probability[:, level]) for level in range(5)])
    assert found["auroc", "overall"].value == pytest.approx(macro)
    assert found["accuracy", "overall"].value == pytest.approx(accuracy_score(grade, probability.argmax(axis=1)))
    kappa = cohen_kappa_score(grade, predicted, weights="quadratic")
    assert found["quadratic_weighted_kappa", "overall"].value == pytest.approx(kappa)


def test_referable_disease_starts_at_moderate_retinopathy(
    found: dict, grade: np.ndarray, probability: np.ndarray
) -> None:
    risk = probability[:, 2:].sum(axis=1)
    truth, referred = grade >= 2, risk >= 0.5
    assert found["sensitivity", "overall"].value == pytest.approx(recall_score(truth, referred))
    assert found["specificity", "overall"].value == pytest.approx(recall_score(~truth, ~referred))
    assert found["referable_auroc", "overall"].value == pytest.approx(roc_auc_score(truth, risk))
    assert found["prevalence", "overall"].value == pytest.approx(truth.mean())


def test_referable_figures_are_those_of_a_binary_evaluation(
    found: dict, grade: np.ndarray, probability: np.ndarray, patient: np.ndarray
) -> None:
    binary = by_key(evaluate(grade >= 2, probability[:, 2:].sum(axis=1), patient, 0.5, NO_SUBGROUPS, 50, resamples=80))
    for name in ("brier", "expected_calibration_error", "observed_expected_ratio", "sensitivity", "ppv"):
        assert found[name, "overall"] == binary[name, "overall"]


def test_every_figure_is_found_in_every_subgroup_within_its_interval(found: dict) -> None:
    groups = {"overall", "camera=old", "camera=missing", "camera=new"}
    assert {group for _, group in found} == groups
    assert {(name, group) for name in METRICS for group in groups} <= set(found)
    for finding in found.values():
        assert finding.low is not None and finding.value is not None and finding.high is not None
        assert finding.low <= finding.value <= finding.high and finding.low < finding.high
    assert found["auroc", "camera=old"].n == 200


def test_a_subgroup_is_measured_as_if_it_were_alone(
    found: dict, grade: np.ndarray, probability: np.ndarray, predicted: np.ndarray, patient: np.ndarray
) -> None:
    old = np.arange(N) % 3 == 0
    alone = by_key(
        evaluate_grading(grade[old], probability[old], predicted[old], patient[old], 0.5, NO_SUBGROUPS, 50, resamples=0)
    )
    for name in METRICS:
        assert found[name, "camera=old"].value == pytest.approx(alone[name, "overall"].value)
        assert alone[name, "overall"].low is None


def test_a_subgroup_below_the_minimum_is_left_out(grade: np.ndarray, probability: np.ndarray) -> None:
    few = pl.DataFrame({"camera": ["new"] * 10 + ["old"] * (N - 10)})
    groups = {
        finding.subgroup
        for finding in evaluate_grading(grade, probability, grade, np.arange(N), 0.5, few, 50, resamples=0)
    }
    assert groups == {"overall", "camera=old"}


def test_where_a_grade_does_not_occur_macro_auroc_is_none_and_never_a_number(
    grade: np.ndarray, probability: np.ndarray, predicted: np.ndarray
) -> None:
    without = grade != 4
    found = by_key(
        evaluate_grading(
            grade[without], probability[without], predicted[without], np.arange(without.sum()), 0.5, NO_SUBGROUPS, 50
        )
    )
    finding = found["auroc", "overall"]
    assert (finding.value, finding.low, finding.high) == (None, None, None)
    assert found["accuracy", "overall"].value is not None


def test_agreement_on_one_grade_alone_is_no_kappa() -> None:
    found = by_key(evaluate_grading([1] * 4, np.eye(5)[[1] * 4], [1] * 4, np.arange(4), 0.5, NO_SUBGROUPS, 1))
    assert found["quadratic_weighted_kappa", "overall"].value is None
    assert found["specificity", "overall"].value == 1.0
    assert found["sensitivity", "overall"].value is None


def test_perfect_grading_has_kappa_one_and_reversed_grading_is_worse_than_chance(grade: np.ndarray) -> None:
    perfect = by_key(evaluate_grading(grade, np.eye(5)[grade], grade, np.arange(N), 0.5, NO_SUBGROUPS, 1, resamples=0))
    assert perfect["quadratic_weighted_kappa", "overall"].value == 1.0
    assert perfect["auroc", "overall"].value == 1.0
    reverse = 4 - grade
    reversed_ = by_key(
        evaluate_grading(grade, np.eye(5)[reverse], reverse, np.arange(N), 0.5, NO_SUBGROUPS, 1, resamples=0)
    )
    assert (reversed_["quadratic_weighted_kappa", "overall"].value or 0.0) < -0.5


def test_patients_and_not_images_are_drawn(grade: np.ndarray, probability: np.ndarray) -> None:
    """With ten copies of each image, the interval is as wide as without them if they belong to one patient."""

    def width(copies: int) -> float:
        repeated = (np.repeat(values, copies, axis=0) for values in (grade, probability, np.arange(N)))
        grades, chances, patients = repeated
        findings = evaluate_grading(grades, chances, grades, patients, 0.5, NO_SUBGROUPS, 50, resamples=200)
        finding = by_key(findings)["accuracy", "overall"]
        assert finding.high is not None and finding.low is not None
        return finding.high - finding.low

    assert width(10) == pytest.approx(width(1), rel=0.02)


def test_single_precision_probabilities_are_welcome(found: dict, grade: np.ndarray, probability: np.ndarray) -> None:
    single = by_key(
        evaluate_grading(grade, probability.astype(np.float32), grade, np.arange(N), 0.5, NO_SUBGROUPS, 50, resamples=0)
    )
    assert single["brier", "overall"].value == pytest.approx(found["brier", "overall"].value, abs=1e-6)


def test_a_comparison_is_the_difference_on_the_same_draws(
    found: dict, grade: np.ndarray, probability: np.ndarray, predicted: np.ndarray, patient: np.ndarray
) -> None:
    compared = by_key(
        compare_grading(grade, probability, predicted, np.full((N, 5), 0.2), np.full(N, 1), patient, resamples=80)
    )
    assert set(compared) == {
        (f"{name}_minus_champion", "overall") for name in ("auroc", "accuracy", "quadratic_weighted_kappa")
    }
    difference = compared["auroc_minus_champion", "overall"]
    assert difference.value == pytest.approx((found["auroc", "overall"].value or 0.0) - 0.5)
    # A model that knows nothing has an AUROC of exactly 0.5 in every draw: the intervals differ by that alone.
    assert difference.low == pytest.approx((found["auroc", "overall"].low or 0.0) - 0.5)


def test_a_model_compared_with_itself_differs_by_nothing(
    grade: np.ndarray, probability: np.ndarray, predicted: np.ndarray, patient: np.ndarray
) -> None:
    same = compare_grading(
        grade, probability, predicted, probability, predicted, patient, "first_release", resamples=20
    )
    assert [(finding.value, finding.low, finding.high) for finding in same] == [(0.0, 0.0, 0.0)] * 3
    assert same[0].metric == "auroc_minus_first_release"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grade": [0, 1, 2, 5]}, "grade: 1 of 4 rows are no grade from 0 to 4"),
        ({"grade": [0, 1, 2, None]}, "grade: 1 of 4 rows are no grade"),
        ({"predicted": [0, 1, 2.5, -1]}, "predicted: 2 of 4 rows are no grade"),
        ({"predicted": [0, 1, 2]}, r"predicted has shape \(3,\)"),
        ({"probability": np.full((4, 5), 0.3)}, "probability: 4 of 4 rows"),
        ({"probability": np.vstack([np.full((3, 5), 0.2), np.full(5, np.nan)])}, "probability: 1 of 4 rows"),
        ({"probability": np.array([[1.5, -0.5, 0, 0, 0]] * 4)}, "probability: 4 of 4 rows"),
        ({"probability": np.full((4, 2), 0.5)}, r"probability has shape \(4, 2\)"),
        ({"probability": np.full(4, 0.5)}, r"probability has shape \(4,\)"),
        ({"probability": np.empty((0, 5))}, r"probability has shape \(0, 5\)"),
        ({"patient": ["a", None, "b", "c"]}, "patient: 1 of 4 rows have none"),
        ({"subgroups": pl.DataFrame({"camera": ["old"]})}, "subgroups has 1 rows and grade has 4"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_how_many(changes: dict[str, Any], words: str) -> None:
    arguments = {
        "grade": [0, 1, 2, 3],
        "probability": np.full((4, 5), 0.2),
        "predicted": [0, 0, 0, 0],
        "patient": ["a", "b", "c", "d"],
        "threshold": 0.5,
        "subgroups": NO_SUBGROUPS,
        "minimum_n": 1,
    }
    with pytest.raises(EvaluationError, match=words):
        evaluate_grading(**(arguments | changes))
