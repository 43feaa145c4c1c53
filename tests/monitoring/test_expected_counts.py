import numpy as np
import pytest

from clinical_assets.evaluation.findings import METRICS
from clinical_assets.evaluation.sample import Sample
from clinical_assets.monitoring.expected_counts import ESTIMATED_METRICS, ExpectedCounts


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def draw_units(rng: np.random.Generator, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Risk with ties, alert, a probability other than the risk, and an outcome drawn with it."""
    risk = rng.beta(1, 4, n).round(2)
    probability = np.clip(risk * 1.3 + 0.02, 0, 1)
    return risk, (risk >= 0.3).astype(np.float64), probability, (rng.random(n) < probability).astype(np.float64)


def measure(risk: np.ndarray, alerted: np.ndarray, outcome: np.ndarray) -> dict[str, float]:
    sample = Sample.of(outcome, risk, alerted, np.arange(len(risk)))
    return {metric: float(METRICS[metric](sample, np.ones((1, sample.n)))[0]) for metric in ESTIMATED_METRICS}


def test_with_outcomes_in_place_of_probabilities_the_metrics_are_the_realised_ones(rng: np.random.Generator) -> None:
    risk, alerted, _, outcome = draw_units(rng)
    counts = ExpectedCounts.of(risk, alerted, outcome)
    assert counts.values() == pytest.approx(measure(risk, alerted, outcome))
    assert counts.missed_per_1000 == pytest.approx(1_000 * np.mean(outcome * (1 - alerted)))


def test_moved_by_what_came_true_the_expected_metrics_are_exactly_the_realised_ones(rng: np.random.Generator) -> None:
    risk, alerted, probability, outcome = draw_units(rng)
    counts = ExpectedCounts.of(risk, alerted, probability)
    moved = counts.move(risk, alerted, outcome - probability).sum(axis=0, keepdims=True)
    found = {metric: float(values[0]) for metric, values in counts.moved_values(moved).items()}
    assert found == pytest.approx(measure(risk, alerted, outcome))


def test_expected_metrics_are_the_mean_of_those_of_drawn_outcomes(rng: np.random.Generator) -> None:
    risk, alerted, probability, _ = draw_units(rng)
    expected = ExpectedCounts.of(risk, alerted, probability).values()
    outcomes = (rng.random((2_000, len(risk))) < probability).astype(np.float64)
    realised = [ExpectedCounts.of(risk, alerted, outcome).values() for outcome in outcomes]
    for metric in ESTIMATED_METRICS:
        assert expected[metric] == pytest.approx(np.mean([values[metric] for values in realised]), rel=0.01)


def test_a_metric_without_a_denominator_is_undefined() -> None:
    nobody = ExpectedCounts.of(np.array([0.1, 0.2]), np.zeros(2), np.array([0.3, 0.4]))
    assert np.isnan(nobody.values()["ppv"])
    assert nobody.values()["sensitivity"] == 0
    assert np.isnan(ExpectedCounts.of(np.array([0.1, 0.2]), np.zeros(2), np.zeros(2)).values()["auroc"])
