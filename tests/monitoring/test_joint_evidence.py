import io
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinical_assets.archives.handheld_camera import photograph
from clinical_assets.archives.retinamnist import RETINAMNIST, read_images
from clinical_assets.monitoring.column_reference import DriftError
from clinical_assets.monitoring.image_statistics import measure_images
from clinical_assets.monitoring.joint_evidence import (
    COLUMN_MOVEMENTS_SCHEMA,
    FEWEST_CLASSIFIED_UNITS,
    STATE_SCHEMA,
    JointEvidence,
    JointReference,
    JointState,
)

ALARM = math.log(400)
"""One process of twenty, within 5 % a year."""


def draw(
    rng: np.random.Generator, units: int, columns: int = 20, correlation: float = 0.0, missing: float = 0.0
) -> pl.DataFrame:
    values = rng.normal(size=(units, columns))
    values[:, 1] = correlation * values[:, 0] + math.sqrt(1 - correlation**2) * values[:, 1]
    values[rng.random(values.shape) < missing] = np.nan
    return pl.DataFrame(values, schema=[f"lab_{number}" for number in range(columns)])


def fit(units: pl.DataFrame, seed: int = 0, looks_per_year: int = 12) -> JointReference:
    reference = JointReference.fit(units, units.columns, seed=seed, looks_per_year=looks_per_year)
    assert reference is not None
    return reference


def take_looks(
    reference: JointReference, looks: list[pl.DataFrame], state: JointState | None = None
) -> tuple[JointState, list[JointEvidence]]:
    state, first = reference.look(looks[0], state)
    found = [first]
    for units in looks[1:]:
        state, evidence = reference.look(units, state)
        found.append(evidence)
    return state, found


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def test_a_changed_correlation_is_found_at_once_and_only_its_two_columns_are_named(rng: np.random.Generator) -> None:
    _, evidence = fit(draw(rng, 6000)).look(draw(rng, 3000, correlation=0.5))
    assert evidence.log_evidence > ALARM
    assert set(evidence.moved) == {"lab_0", "lab_1"}
    furthest = evidence.columns.row(0, named=True)
    assert furthest["movement"] == "correlation"
    assert {furthest["column"], furthest["other_column"]} == {"lab_0", "lab_1"}


def test_a_correlation_too_weak_for_one_look_adds_up_over_looks(rng: np.random.Generator) -> None:
    _, found = take_looks(fit(draw(rng, 6000)), [draw(rng, 100, correlation=0.5) for _ in range(8)])
    assert found[0].log_evidence < ALARM < found[-1].log_evidence
    assert found[-1].settled_log_evidence > found[-1].cross_fitted_log_evidence


def test_many_columns_that_moved_a_little_are_found_together(rng: np.random.Generator) -> None:
    _, evidence = fit(draw(rng, 6000)).look(draw(rng, 600).with_columns(pl.all() + 0.12))
    assert evidence.log_evidence > ALARM


def test_a_settled_classifier_learns_no_more_and_ranks_every_later_unit(rng: np.random.Generator) -> None:
    state, _ = take_looks(fit(draw(rng, 400)), [draw(rng, units) for units in (30, 40, 50)])
    assert [settled.moments.units for settled in state.settled] == [30, 70]
    assert [settled.counts.sum(axis=1).tolist() for settled in state.settled] == [[90, 90], [50, 50]]


def test_a_wider_column_is_named_by_its_spread(rng: np.random.Generator) -> None:
    _, evidence = fit(draw(rng, 6000)).look(draw(rng, 2000).with_columns(pl.col("lab_7") * 1.5))
    assert evidence.moved == ("lab_7",)
    assert evidence.columns.row(0, named=True)["movement"] == "spread"


@pytest.mark.parametrize(
    ("units", "columns", "reference_units", "decimals", "missing"),
    [(10, 6, 120, 0, 0.0), (40, 20, 400, 3, 0.5), (300, 6, 200, 0, 0.3)],
    ids=["ties", "more columns than in a fold, half missing", "more units than the reference"],
)
def test_years_without_drift_rarely_alarm(
    units: int, columns: int, reference_units: int, decimals: int, missing: float
) -> None:
    """At a level of 20 %, 4 of 20 years may alarm in the mean; more than 11 do so once in ten thousand times."""
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng([seed, units])
        drawn = [
            draw(rng, n, columns, missing=missing).with_columns(pl.all().round(decimals))
            for n in (reference_units, *[units] * 4)
        ]
        _, found = take_looks(fit(drawn[0], looks_per_year=4), drawn[1:])
        alarms += max(evidence.log_evidence for evidence in found) >= math.log(5)
    assert alarms <= 11


def test_a_reference_hardly_larger_than_its_columns_does_not_alarm() -> None:
    """Units from which a covariance was learned look nearer than new ones do: those are ranked among others."""
    alarms = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = np.cumsum(rng.normal(size=(340, 20)), axis=1)
        units = pl.DataFrame(values, schema=[f"hour_{number}" for number in range(20)])
        _, found = take_looks(fit(units[:100], looks_per_year=4), [units[first : first + 60] for first in (100, 160)])
        alarms += found[-1].log_evidence >= math.log(5)
    assert alarms <= 6


def test_another_camera_is_found_within_fifty_images(tmp_path: Path) -> None:
    pixels = read_images(RETINAMNIST.open(RETINAMNIST.simulate(tmp_path, seed=1))).pixels[:700]
    former, stay, swapped = pixels[:640], pixels[640:690], photograph(pixels[640:690])
    reference = fit(measure_images(former))
    unchanged, changed = (
        take_looks(reference, [measure_images(images[first : first + 10]) for first in range(0, 50, 10)])[1]
        for images in (stay, swapped)
    )
    assert max(found.log_evidence for found in unchanged) < ALARM < changed[-1].log_evidence


def test_a_restart_between_two_looks_changes_nothing(rng: np.random.Generator) -> None:
    units, looks = draw(rng, 1000), [draw(rng, 80) for _ in range(5)]
    state, _ = take_looks(fit(units), looks[:3])
    stored = io.BytesIO()
    state.to_frame().write_parquet(stored)
    stored.seek(0)
    restored = JointState.from_frame(pl.read_parquet(stored))
    (straight, expected), (resumed, found) = (take_looks(fit(units), looks[3:], kept) for kept in (state, restored))
    assert resumed.to_frame().equals(straight.to_frame())
    assert [evidence.log_evidence for evidence in found] == [evidence.log_evidence for evidence in expected]
    assert found[-1].columns.equals(expected[-1].columns)


def test_a_year_ends_after_its_looks_and_the_next_begins_with_nothing(rng: np.random.Generator) -> None:
    reference = fit(draw(rng, 1000), looks_per_year=2)
    state, found = take_looks(reference, [draw(rng, 200, correlation=0.9)] * 2)
    assert found[-1].log_evidence > ALARM
    again, evidence = reference.look(draw(rng, 200), state)
    assert (again.looks, again.moments.units) == (1, 200)
    assert evidence.log_evidence < ALARM


def test_a_look_of_few_patients_leaves_no_sums_in_which_they_could_be_read(rng: np.random.Generator) -> None:
    state, evidence = fit(draw(rng, 400)).look(draw(rng, FEWEST_CLASSIFIED_UNITS - 1))
    assert not state.moments.products.any()
    assert state.settled == ()
    assert state.distance_counts.sum() == FEWEST_CLASSIFIED_UNITS - 1
    assert evidence.columns.schema == COLUMN_MOVEMENTS_SCHEMA
    assert evidence.columns.is_empty()


def test_the_state_is_small_whatever_the_number_of_units(rng: np.random.Generator) -> None:
    reference = fit(draw(rng, 400))
    few, many = (reference.look(draw(rng, units))[0].to_frame() for units in (50, 5000))
    assert few.schema == many.schema == STATE_SCHEMA
    assert few.estimated_size() == many.estimated_size()


def test_a_look_without_units_changes_no_evidence_of_the_distance(rng: np.random.Generator) -> None:
    reference = fit(draw(rng, 400))
    state, _ = reference.look(draw(rng, 60))
    _, evidence = reference.look(draw(rng, 60).clear(), state)
    assert evidence.distance_log_evidence == pytest.approx(reference.weigh(state).distance_log_evidence)


def test_missing_values_are_neither_high_nor_low(rng: np.random.Generator) -> None:
    reference = fit(draw(rng, 2000, columns=4, missing=0.4))
    _, evidence = reference.look(draw(rng, 1000, columns=4, missing=0.4).fill_nan(None))
    assert evidence.log_evidence < ALARM
    assert evidence.moved == ()


def test_monotone_changes_of_scale_and_infinite_values_are_taken(rng: np.random.Generator) -> None:
    units, look = draw(rng, 800, columns=4), draw(rng, 200, columns=4, correlation=0.8)
    _, plain = fit(units).look(look)
    _, scaled = fit(units.select(pl.all().exp())).look(look.select(pl.all().exp()))
    assert scaled.columns["column"].to_list()[:2] == plain.columns["column"].to_list()[:2]
    _, infinite = fit(units).look(look.with_columns(lab_2=pl.lit(math.inf)))
    assert infinite.columns.row(0, named=True)["column"] == "lab_2"
    assert infinite.log_evidence > ALARM


@pytest.mark.parametrize(
    "units",
    [
        draw(np.random.default_rng(0), 99),
        draw(np.random.default_rng(0), 200).with_columns(pl.all().exclude("lab_0") * 0 + 1),
        draw(np.random.default_rng(0), 200).with_columns(pl.all().exclude("lab_0").cast(pl.String)),
        draw(np.random.default_rng(0), 200, columns=2).with_columns(lab_1=pl.lit(None, dtype=pl.Float64)),
    ],
    ids=["few units", "constants", "text", "never present"],
)
def test_what_cannot_be_weighed_together_has_no_reference(units: pl.DataFrame) -> None:
    assert JointReference.fit(units, units.columns, seed=0) is None


def test_truth_values_are_weighed_as_numbers(rng: np.random.Generator) -> None:
    units = draw(rng, 600, columns=3).with_columns(ventilated=pl.col("lab_0") > 0)
    reference = fit(units)
    assert "ventilated" in reference.columns
    _, evidence = reference.look(units.with_columns(pl.col("ventilated").reverse()))
    assert {"lab_0", "ventilated"} == set(evidence.moved)


def test_a_column_that_is_absent_or_text_is_named_with_the_remedy(rng: np.random.Generator) -> None:
    units = draw(rng, 200, columns=3)
    with pytest.raises(DriftError, match=r"reference lacks the columns \['lab_9'\]"):
        JointReference.fit(units, ["lab_0", "lab_9"], seed=0)
    with pytest.raises(DriftError, match=r"look lacks the columns \['lab_1'\].*leave it out"):
        fit(units).look(units.drop("lab_1"))
    with pytest.raises(DriftError, match=r"'lab_1': 'String'.*restore their types"):
        fit(units).look(units.cast({"lab_1": pl.String}))


def test_the_state_of_another_reference_is_refused(rng: np.random.Generator) -> None:
    state, _ = fit(draw(rng, 200, columns=3)).look(draw(rng, 50, columns=3))
    with pytest.raises(DriftError, match="3 columns and the reference 4"):
        fit(draw(rng, 200, columns=4)).look(draw(rng, 50, columns=4), state)
    with pytest.raises(DriftError, match="0 rows"):
        JointState.from_frame(state.to_frame().clear())
