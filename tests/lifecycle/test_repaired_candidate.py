"""A repair's candidate: the champion with another calibration or threshold, never a model that has learnt anew."""

import numpy as np
import polars as pl
import pytest
from small_platform import MODEL, Developed

from clinical_assets.learning.recalibration import RecalibratedEstimator
from clinical_assets.lifecycle.candidate import make_estimator, read_training_rows
from clinical_assets.lifecycle.conditions import REPAIR
from clinical_assets.protocol import ModelVersion, ProtocolError, Repair
from clinical_assets.resources.registry import CHALLENGER


@pytest.fixture
def rows(candidate: Developed) -> pl.DataFrame:
    platform = candidate.platform
    return read_training_rows(platform.lake, platform.protocol, candidate.candidate.lake_snapshot)


def make(candidate: Developed, rows: pl.DataFrame, repair: Repair) -> tuple[object, pl.DataFrame]:
    base = None if repair is Repair.RETRAIN else candidate.platform.registry.champion(MODEL)
    return make_estimator(rows, candidate.platform.protocol, repair, base, candidate.platform.registry)


@pytest.mark.parametrize("repair", [Repair.RECALIBRATE_INTERCEPT, Repair.RECALIBRATE_SLOPE])
def test_a_recalibration_keeps_the_ranks_of_the_champion_and_mends_the_mean(
    candidate: Developed, rows: pl.DataFrame, repair: Repair
) -> None:
    platform = candidate.platform
    estimator, recent = make(candidate, rows, repair)
    assert isinstance(estimator, RecalibratedEstimator)
    champion = platform.registry.load(candidate.champion, platform.protocol.estimator)
    before, after = champion.predict(recent), estimator.predict(recent)
    assert np.array_equal(np.argsort(before, kind="stable"), np.argsort(after, kind="stable"))
    assert after.mean() == pytest.approx(platform.protocol.outcome.is_event(recent).mean(), abs=1e-4)


def test_a_repair_is_fitted_on_months_the_champion_has_not_learnt_from_and_never_on_test_patients(
    candidate: Developed, rows: pl.DataFrame
) -> None:
    _, recent = make(candidate, rows, Repair.MOVE_THRESHOLD)
    assert recent.filter(pl.col("month") <= candidate.champion.trained_through).is_empty()
    assert "test" not in recent["split"]


def test_too_few_recent_rows_are_refused_with_their_number(candidate: Developed, rows: pl.DataFrame) -> None:
    old = rows.filter(pl.col("month") <= candidate.champion.trained_through)
    with pytest.raises(ProtocolError, match=r"recalibrate_slope rests on 0 ripe rows since .* wait for more outcomes"):
        make(candidate, old, Repair.RECALIBRATE_SLOPE)


def test_a_recalibrated_candidate_goes_through_evaluation_and_report_like_any_other(candidate: Developed) -> None:
    platform = candidate.platform
    result = platform.run("retraining", instance=candidate.instance, tags={REPAIR: "recalibrate_intercept"})
    made: ModelVersion = platform.registry.challenger(MODEL)
    try:
        [trained] = result.asset_materializations_for_node("trained_model")
        assert trained.metadata["made_by"].value == "recalibrate_intercept"
        assert platform.lake.read(f"{MODEL}.validation_report", where={"version": made.version}).height > 0
        compared = platform.lake.read(f"{MODEL}.evaluation", where={"version": made.version, "subgroup": "overall"})
        [gain] = compared.filter(metric="auroc_minus_champion")["value"]
        assert gain == pytest.approx(0.0, abs=1e-6)
        loaded = platform.registry.load(made, platform.protocol.estimator)
        assert isinstance(loaded, RecalibratedEstimator)
    finally:
        platform.set_alias(CHALLENGER, candidate.candidate)
