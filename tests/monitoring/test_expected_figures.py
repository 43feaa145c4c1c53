import numpy as np
import pytest

from clinical_assets.evaluation.findings import METRICS
from clinical_assets.evaluation.sample import Sample
from clinical_assets.monitoring.expected_figures import OUTCOME_METRICS, ExpectedFigures, from_scale, to_scale


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def draw_units(rng: np.random.Generator, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Risk with ties, alert, a probability other than the risk, and an outcome drawn with it."""
    risk = rng.beta(1, 4, n).round(2)
    probability = np.clip(risk * 1.3 + 0.02, 0, 1)
    return risk, (risk >= 0.3).astype(np.float64), probability, (rng.random(n) < probability).astype(np.float64)


def measure(risk: np.ndarray, alerted: np.ndarray, outcome: np.ndarray) -> list[float]:
    sample = Sample.of(outcome, risk, alerted, np.arange(len(risk)))
    return [float(METRICS[metric](sample, np.ones((1, sample.n)))[0]) for metric in OUTCOME_METRICS]


def test_with_outcomes_in_place_of_probabilities_the_figures_are_the_realised_ones(rng: np.random.Generator) -> None:
    risk, alerted, _, outcome = draw_units(rng)
    figures = ExpectedFigures.of(risk, alerted, outcome)
    assert figures.values.tolist() == pytest.approx(measure(risk, alerted, outcome))
    assert figures.missed_per_1000 == pytest.approx(1_000 * np.mean(outcome * (1 - alerted)))


def test_expected_figures_are_the_mean_of_those_of_drawn_outcomes(rng: np.random.Generator) -> None:
    risk, alerted, probability, _ = draw_units(rng)
    expected = ExpectedFigures.of(risk, alerted, probability).values
    outcomes = (rng.random((2_000, len(risk))) < probability).astype(np.float64)
    realised = [ExpectedFigures.of(risk, alerted, outcome).values for outcome in outcomes]
    assert expected.tolist() == pytest.approx(np.mean(realised, axis=0).tolist(), rel=0.01)


def test_what_an_outcome_adds_is_the_slope_of_every_figure(rng: np.random.Generator) -> None:
    risk, alerted, probability, _ = draw_units(rng, 3_000)
    figures, step = ExpectedFigures.of(risk, alerted, probability), 1e-3 * rng.random(3_000)
    moved = ExpectedFigures.of(risk, alerted, probability + step).values - figures.values
    assert moved.tolist() == pytest.approx((step @ figures.of_outcome).tolist(), rel=0.02)


def test_what_units_add_sums_to_nothing_and_its_squares_to_the_variance(rng: np.random.Generator) -> None:
    drawn = [ExpectedFigures.of(risk, alerted, y) for risk, alerted, _, y in (draw_units(rng, 500) for _ in range(800))]
    assert np.abs(drawn[0].of_unit.sum(axis=0)).max() < 1e-9
    said = np.mean([np.sum(figures.of_unit**2, axis=0) for figures in drawn], axis=0)
    assert said.tolist() == pytest.approx(np.var([figures.values for figures in drawn], axis=0).tolist(), rel=0.15)


def test_the_scale_leads_back_to_the_values() -> None:
    values = np.array([0.7, 0.2, 0.05, 1.3])
    assert from_scale(to_scale(values)).tolist() == pytest.approx(values.tolist())


def test_a_figure_without_a_denominator_is_undefined() -> None:
    nobody = ExpectedFigures.of(np.array([0.1, 0.2]), np.zeros(2), np.array([0.3, 0.4]))
    assert np.isnan(nobody.values[2])
    assert nobody.values[1] == 0
    assert np.isnan(ExpectedFigures.of(np.array([0.1, 0.2]), np.zeros(2), np.zeros(2)).values[0])
