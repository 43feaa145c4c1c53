import numpy as np
import pytest

from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.operating_point import choose_threshold


def test_the_threshold_alerts_exactly_the_share_when_no_risks_are_equal() -> None:
    risk = np.random.default_rng(0).permutation(np.linspace(0.01, 0.99, 1000))
    assert (risk >= choose_threshold(risk, 0.1)).sum() == 100


def test_equal_risks_are_alerted_together_and_never_beyond_the_share() -> None:
    risk = np.array([0.9, 0.5, 0.5, 0.5, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1])
    assert choose_threshold(risk, 0.3) == 0.9
    assert choose_threshold(risk, 0.4) == 0.5


def test_a_share_that_is_not_exact_in_binary_is_kept() -> None:
    assert choose_threshold(np.arange(100) / 100, 0.29) == 0.71


@pytest.mark.parametrize(
    ("risk", "allowed"), [([], "0 units"), ([0.1] * 9, "0 units"), ([0.3] * 20, "2 units, and 20")]
)
def test_where_no_unit_may_be_alerted_there_is_no_threshold(risk: list[float], allowed: str) -> None:
    with pytest.raises(LearningError, match=allowed):
        choose_threshold(np.array(risk), 0.1)
