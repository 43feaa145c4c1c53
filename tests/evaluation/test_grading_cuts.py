from itertools import combinations_with_replacement

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from clinical_assets.evaluation.grading import choose_grade_cuts, grade_by_cuts
from clinical_assets.evaluation.sample import EvaluationError


def kappa(expected: np.ndarray, grade: np.ndarray, cuts: tuple[float, ...]) -> float:
    return float(cohen_kappa_score(grade, grade_by_cuts(expected, cuts), weights="quadratic"))


def noisy_grades(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    grade = random.choice(5, rows, p=[0.45, 0.12, 0.19, 0.18, 0.06])
    return np.clip(0.6 * grade + 0.5 + random.normal(0, 0.7, rows), 0, 4), grade


@pytest.mark.parametrize("seed", range(3))
def test_no_other_cuts_have_a_greater_kappa(seed: int) -> None:
    expected, grade = noisy_grades(rows=9, seed=seed)
    best = kappa(expected, grade, choose_grade_cuts(expected, grade))
    every = [kappa(expected, grade, cuts) for cuts in combinations_with_replacement([*np.sort(expected), 9.0], 4)]
    assert best == pytest.approx(max(every), abs=1e-12)


def test_chosen_cuts_beat_rounding_where_the_expected_grades_are_drawn_together() -> None:
    expected, grade = noisy_grades(rows=600, seed=1)
    cuts = choose_grade_cuts(expected, grade)
    assert list(cuts) == sorted(cuts)
    assert kappa(expected, grade, cuts) > kappa(expected, grade, (0.5, 1.5, 2.5, 3.5)) + 0.02


def test_the_order_of_the_units_does_not_matter() -> None:
    expected, grade = noisy_grades(rows=200, seed=2)
    assert choose_grade_cuts(expected[::-1], grade[::-1]) == choose_grade_cuts(expected, grade)


def test_units_of_equal_expected_grade_get_one_grade() -> None:
    cuts = choose_grade_cuts([1.0, 1.0, 1.0, 1.0, 3.0], [0, 0, 1, 4, 4])
    assert len(set(grade_by_cuts([1.0] * 4, cuts))) == 1


def test_separable_grades_are_all_right_and_a_cut_lies_half_way() -> None:
    cuts = choose_grade_cuts([0.1, 0.9, 2.1, 2.9, 3.9], [0, 1, 2, 3, 4])
    assert cuts == pytest.approx((0.5, 1.5, 2.5, 3.4))
    assert grade_by_cuts([0.1, 0.9, 2.1, 2.9, 3.9], cuts).tolist() == [0, 1, 2, 3, 4]


def test_a_value_at_a_cut_has_the_grade_above() -> None:
    assert grade_by_cuts([0.49, 0.5, 1.5, 9.0], (0.5, 0.5, 1.5, 2.0)).tolist() == [0, 2, 3, 4]


def test_grades_that_never_occur_are_never_given() -> None:
    cuts = choose_grade_cuts([0.2, 0.4, 3.0, 3.5], [1, 1, 3, 3])
    assert grade_by_cuts([0.2, 0.4, 3.0, 3.5], cuts).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("expected", "grade", "message"),
    [
        ([], [], r"expected_grade has shape \(0,\)"),
        ([0.5, np.nan], [0, 1], "finite number a unit"),
        ([0.5, 1.0], [0], r"grade has shape \(1,\)"),
        ([0.5, 1.0], [0, 5], "grade: 1 of 2 rows are no grade from 0 to 4"),
        ([0.5, 1.0], [2, 2], "all 2 units have grade 2; kappa needs two different grades"),
    ],
)
def test_units_from_which_no_cut_follows_are_refused(expected: list[float], grade: list[int], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        choose_grade_cuts(expected, grade)


def test_cuts_that_descend_are_refused() -> None:
    with pytest.raises(EvaluationError, match="do not ascend"):
        grade_by_cuts([0.5], (1.5, 0.5, 2.5, 3.5))
