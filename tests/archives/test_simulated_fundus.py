from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clinical_assets.archives.calendar import spread_over_months
from clinical_assets.archives.retinamnist import RETINAMNIST, read_images
from clinical_assets.archives.simulated_fundus import (
    GRADE_SHARE,
    IMAGES_BEFORE_SHIFT,
    SIMULATED_DRIFT,
    SPLIT_SIZES,
    draw_images,
    write_simulated_archive,
)
from clinical_assets.defs.retinopathy.cohort import HANDHELD_FROM
from clinical_assets.monitoring.image_statistics import measure_images


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return draw_images(seed=5)


@pytest.fixture(scope="module")
def statistics(drawn: tuple[np.ndarray, np.ndarray]) -> pl.DataFrame:
    return measure_images(drawn[1])


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path: Path) -> None:
    first, again, other = (
        write_simulated_archive(tmp_path / name, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["retinamnist.npz"]


def test_the_file_has_the_publishers_layout_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    archive = RETINAMNIST.open(RETINAMNIST.simulate(tmp_path, seed=1))
    images = read_images(archive)
    assert archive.data_origin == "simulated"
    assert {split: int((images.published_split == split).sum()) for split in SPLIT_SIZES} == SPLIT_SIZES


def test_before_the_shift_grades_are_as_frequent_as_in_the_published_archive(drawn: tuple) -> None:
    grade = drawn[0][:IMAGES_BEFORE_SHIFT]
    assert np.bincount(grade) / len(grade) == pytest.approx(np.asarray(GRADE_SHARE), abs=0.04)


def test_the_higher_the_grade_the_more_there_is_to_see(drawn: tuple, statistics: pl.DataFrame) -> None:
    detail = statistics.with_columns(grade=pl.Series(drawn[0])).head(IMAGES_BEFORE_SHIFT)
    by_grade = detail.group_by("grade").agg(pl.col("sharpness").median()).sort("grade")["sharpness"]
    assert (by_grade.diff().drop_nulls() > 0).all()


def test_grades_can_be_learnt_but_not_without_error(drawn: tuple, statistics: pl.DataFrame) -> None:
    grade, values = drawn[0][:IMAGES_BEFORE_SHIFT], statistics.to_numpy()[:IMAGES_BEFORE_SHIFT]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(values[:1000], grade[:1000])
    probability = model.predict_proba(values[1000:])
    aurocs = [roc_auc_score(grade[1000:] == level, probability[:, level]) for level in range(5)]
    assert 0.80 < np.mean(aurocs) < 0.98


def test_the_known_drift_starts_in_its_month_and_not_before(drawn: tuple, statistics: pl.DataFrame) -> None:
    ageing, camera = SIMULATED_DRIFT
    assert camera.month == HANDHELD_FROM
    monthly = (
        statistics.with_columns(grade=pl.Series(drawn[0]), month=spread_over_months(len(statistics)).dt.date())
        .group_by(pl.col("month").dt.month_start())
        .agg(pl.col("blue_share", "grade").mean())
        .sort("month")
    )
    reference = monthly.filter(pl.col("month") < date(2025, 1, 1))
    later = monthly.filter(pl.col("month") >= date(2025, 1, 1))
    shifted = later["month"] >= ageing.month
    for column, direction in (("blue_share", -1), ("grade", 1)):
        moved = direction * (later[column] - reference[column].mean()) / reference[column].std()
        assert (moved.filter(~shifted).abs() < 3.5).all()
        assert (moved.filter(shifted) > 1.0).all()
