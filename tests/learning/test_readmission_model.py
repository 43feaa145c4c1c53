from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from clinical_assets.archives.diabetes130 import DIABETES130
from clinical_assets.defs.readmission.cohort import all_encounters, encounter_features
from clinical_assets.evaluation import evaluate
from clinical_assets.learning.boosting import BoostedRisk
from clinical_assets.learning.splits import assign_splits, check_one_patient_one_split
from clinical_assets.protocol import read_protocol

LEAK_FROM_AUROC = 0.72


def test_a_small_model_of_the_real_archive_is_as_good_as_published_and_not_better(raw_archives: Path) -> None:
    path = DIABETES130.find(raw_archives)
    assert path is not None
    protocol = read_protocol("readmission")
    encounters = all_encounters(DIABETES130.open(path)).filter(~pl.col("death_or_hospice")).drop("death_or_hospice")
    training_set = assign_splits(encounter_features(encounters), protocol, as_of=date(2025, 3, 15))
    assert training_set["month"].unique().sort().to_list()[::11] == [date(2024, 2, 1), date(2025, 1, 1)]
    assert check_one_patient_one_split(training_set, protocol) == 0

    small = protocol.estimator_settings | {"iterations": 60, "learning_rate": 0.1}
    model = BoostedRisk.fit(training_set, protocol.model_copy(update={"estimator_settings": small}))
    test = training_set.filter(split="test")
    risk, outcome = model.predict(test), test["readmitted_30d"].to_numpy()
    found = {f.metric: f for f in evaluate(outcome, risk, test["patient_id"], 0.2, pl.DataFrame(), 1, resamples=50)}
    auroc, calibration_error = found["auroc"].value, found["expected_calibration_error"].value
    assert auroc is not None and calibration_error is not None
    assert 0.64 < auroc < LEAK_FROM_AUROC
    assert calibration_error < 0.03
    assert np.all((risk > 0) & (risk < 1))
