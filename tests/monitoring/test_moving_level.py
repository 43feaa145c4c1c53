import numpy as np
import pytest

from clinical_assets.monitoring.moving_level import forecast_level


def test_a_level_that_stands_is_forecast_by_the_mean_of_its_periods() -> None:
    noise = np.full(12, 0.05**2)
    level = np.random.default_rng(1).normal(-0.1, 0.05, 12)
    found = forecast_level(range(12), level, noise, 13)
    assert found is not None
    assert found.mean == pytest.approx(level.mean(), abs=0.02)
    assert 0.05 / np.sqrt(12) < np.sqrt(found.variance) < 0.06


def test_a_level_that_moves_is_forecast_by_its_latest_periods_with_more_doubt_the_further_ahead() -> None:
    level = np.linspace(0.0, -0.5, 12)
    soon, later = (forecast_level(range(12), level, np.full(12, 0.03**2), ahead) for ahead in (12, 16))
    assert soon is not None
    assert later is not None
    assert soon.mean < -0.4
    assert soon.mean == pytest.approx(later.mean, abs=0.03)
    assert later.variance > 2 * soon.variance


def test_of_one_period_nothing_is_known_of_movement() -> None:
    assert forecast_level([3], np.array([0.2]), np.array([0.01]), 5) is None
    assert forecast_level([3, 4], np.array([0.2, np.nan]), np.array([0.01, 0.01]), 5) is None
