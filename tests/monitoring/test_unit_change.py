from collections.abc import Callable

import numpy as np
import pytest

from clinical_assets.monitoring.unit_change import (
    CELSIUS_FOR_FAHRENHEIT,
    FAHRENHEIT_FOR_CELSIUS,
    ReferenceDensity,
    UnitMap,
    suspect_unit_change,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]
LEVEL = 1e-5

MEASURED: list[tuple[Draw, UnitMap]] = [
    (lambda rng, n: rng.lognormal(1.9, 0.3, n).round(1), UnitMap(18.0)),
    (lambda rng, n: rng.lognormal(4.8, 0.3, n).round(), UnitMap(1 / 18)),
    (lambda rng, n: rng.normal(98.4, 1.1, n).round(1), CELSIUS_FOR_FAHRENHEIT),
    (lambda rng, n: rng.normal(37, 0.6, n).round(1), FAHRENHEIT_FOR_CELSIUS),
    (lambda rng, n: rng.lognormal(0, 0.5, n), UnitMap(88.4)),
]


def density(draw: Draw, rng: np.random.Generator) -> ReferenceDensity:
    found = ReferenceDensity.of(draw(rng, 4000), rng)
    assert found is not None
    return found


@pytest.mark.parametrize(("draw", "change"), MEASURED)
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_right_factor_is_named_for_the_whole_batch_and_for_a_third_of_it(
    draw: Draw, change: UnitMap, share: float
) -> None:
    rng = np.random.default_rng(3)
    values, changed = draw(rng, 300), np.arange(300) < 300 * share
    batch = np.where(changed, values * change.factor + change.offset, values)
    found = suspect_unit_change(density(draw, rng), batch, LEVEL)
    assert found is not None
    assert found.map == change
    assert found.share == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("draw", "change"), MEASURED)
def test_an_unchanged_batch_is_in_its_unit(draw: Draw, change: UnitMap) -> None:
    rng = np.random.default_rng(4)
    assert all(suspect_unit_change(density(draw, rng), draw(rng, 300), LEVEL) is None for _ in range(10))


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.standard_t(2, n),
        lambda rng, n: rng.normal(size=n).round(),
        lambda rng, n: np.where(rng.random(n) < 0.6, 0.0, rng.lognormal(0, 1, n)),
        lambda rng, n: rng.poisson(0.4, n).astype(float),
    ],
)
def test_heavy_tails_rounded_values_and_many_zeros_are_no_other_unit(draw: Draw) -> None:
    rng = np.random.default_rng(11)
    assert all(suspect_unit_change(density(draw, rng), draw(rng, 100), LEVEL) is None for _ in range(20))


@pytest.mark.parametrize(
    "moved",
    [
        lambda values, rng: values * 1.3,
        lambda values, rng: values + values.std(),
        lambda values, rng: np.where(rng.random(values.size) < 0.3, values * 1.5, values),
        lambda values, rng: np.where(rng.random(values.size) < 0.1, 0.0, values),
        lambda values, rng: np.where(rng.random(values.size) < 0.05, values * rng.lognormal(0, 1, values.size), values),
    ],
)
def test_other_patients_are_no_other_unit(moved: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> None:
    rng = np.random.default_rng(5)
    draw = MEASURED[1][0]
    assert all(suspect_unit_change(density(draw, rng), moved(draw(rng, 300), rng), LEVEL) is None for _ in range(5))


def test_a_factor_in_no_list_is_the_ratio_of_the_medians() -> None:
    rng = np.random.default_rng(6)
    draw = MEASURED[4][0]
    found = suspect_unit_change(density(draw, rng), 60 * draw(rng, 500), LEVEL)
    assert found is not None
    assert found.map.factor == pytest.approx(60, rel=0.15)


def test_the_suspicion_is_said_in_words_with_its_share() -> None:
    rng = np.random.default_rng(7)
    draw, change = MEASURED[3]
    found = suspect_unit_change(density(draw, rng), draw(rng, 300) * change.factor + change.offset, LEVEL)
    assert found is not None
    assert found.in_words() == "its values are degrees Fahrenheit where the reference has Celsius: another unit?"


def test_few_values_and_a_constant_reference_suspect_nothing() -> None:
    rng = np.random.default_rng(8)
    assert ReferenceDensity.of(np.ones(1000), rng) is None
    assert ReferenceDensity.of(rng.normal(size=400), rng) is None
    assert suspect_unit_change(density(MEASURED[4][0], rng), np.full(10, 88.4), LEVEL) is None
