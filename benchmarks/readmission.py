"""How well the readmission model does on the whole real archive: `python -m benchmarks.readmission [--quick]`.

Belongs here: protocols that others publish figures for, and our own figures beside them. Does not belong here: anything
the package needs. The archive is looked for below CLINICAL_RAW, or data/raw.

Patient-grouped 5-fold: the fold of a patient is fixed by a hash of the identifier; of the other four folds, nine in
ten patients train and one in ten calibrates. One encounter a patient, 70/30: the first encounter of each patient, as in
the data set's use by TabArena (Erickson 2025), with a random 30 % of patients for the test.
"""

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from clinical_assets.archives.diabetes130 import DIABETES130
from clinical_assets.defs.readmission.cohort import all_encounters, encounter_features
from clinical_assets.evaluation import evaluate
from clinical_assets.evaluation.operating_point import choose_threshold
from clinical_assets.learning.boosting import BoostedRisk
from clinical_assets.learning.splits import patient_buckets
from clinical_assets.protocol import ModelProtocol, read_protocol

HISTORY = (
    "earlier_encounters_90d",
    "earlier_readmissions_90d",
    "earlier_days_in_hospital_90d",
    "last_readmitted_30d",
    "last_days_in_hospital",
    "days_since_last_discharge",
)
FOLDS = 5
HEADINGS = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "brier": "Brier",
    "expected_calibration_error": "ECE",
    "observed_expected_ratio": "O:E",
    "calibration_slope": "slope",
    "sensitivity": "sens.",
    "ppv": "PPV",
}
LEAK_FROM_AUROC = 0.72
PUBLISHED_ONE_ENCOUNTER = "published: AutoGluon, two hours, .6844; LightGBM .673"


@dataclass(frozen=True, slots=True)
class Target:
    """What a protocol should reach on the complete archive."""

    metric: str
    at_least: float = -np.inf
    at_most: float = np.inf

    def in_words(self, value: float) -> str:
        """The value beside the target."""
        bound = f"at least {self.at_least:.3f}" if np.isfinite(self.at_least) else f"at most {self.at_most:.3f}"
        reached = self.at_least <= value <= self.at_most
        return f"{HEADINGS[self.metric]} {value:.4f}, target {bound}: {'reached' if reached else 'SHORT'}"


def run(title: str, splits: Iterator[pl.DataFrame], protocol: ModelProtocol, targets: tuple[Target, ...] = ()) -> None:
    """Fit and evaluate on each split of a protocol, and print every fold, mean and standard deviation."""
    print(
        f"\n{title}\n{'':6}" + "".join(f"{heading:>9}" for heading in HEADINGS.values()) + f"{'rows':>9}{'fit, s':>8}"
    )
    measured: list[list[float]] = []
    for number, training_set in enumerate(splits, start=1):
        started = time.perf_counter()
        model = BoostedRisk.fit(training_set, protocol)
        seconds = time.perf_counter() - started
        calibrate, test = (training_set.filter(pl.col("split") == split) for split in ("calibrate", "test"))
        threshold = choose_threshold(model.predict(calibrate), protocol.operating_point.alerted_fraction)
        outcome, patient = test[protocol.outcome.column].to_numpy(), test[protocol.patient]
        found = evaluate(outcome, model.predict(test), patient, threshold, pl.DataFrame(), 1, resamples=0)
        value = {finding.metric: np.nan if finding.value is None else finding.value for finding in found}
        measured.append([value[metric] for metric in HEADINGS])
        print(
            f"{number:<6}" + "".join(f"{x:9.4f}" for x in measured[-1]) + f"{test.height:9,}{seconds:8.1f}", flush=True
        )
    mean = dict(zip(HEADINGS, np.mean(measured, axis=0), strict=True))
    print(f"{'mean':6}" + "".join(f"{x:9.4f}" for x in mean.values()))
    if len(measured) > 1:
        print(f"{'SD':6}" + "".join(f"{x:9.4f}" for x in np.std(measured, axis=0, ddof=1)))
    for target in targets:
        print(f"  {target.in_words(mean[target.metric])}")
    if mean["auroc"] >= LEAK_FROM_AUROC:
        print(f"  AUROC {mean['auroc']:.4f}: nothing honest reaches {LEAK_FROM_AUROC} here; look for the leak")


def grouped_folds(features: pl.DataFrame, patient: str, folds: int) -> Iterator[pl.DataFrame]:
    """The rows with their split, once for each of the first `folds` of five folds of patients."""
    bucket = patient_buckets(features[patient])
    for fold in range(folds):
        yield features.with_columns(
            split=pl.when(bucket % FOLDS == fold)
            .then(pl.lit("test"))
            .when(bucket // FOLDS % 10 == 0)
            .then(pl.lit("calibrate"))
            .otherwise(pl.lit("train"))
        )


def first_encounters(features: pl.DataFrame, patient: str, repetitions: int) -> Iterator[pl.DataFrame]:
    """The first encounter of each patient with its split, once a repetition: 63 % train, 7 % calibrate, 30 % test."""
    first = features.unique(patient, keep="first", maintain_order=True)
    for seed in range(repetitions):
        place = np.random.default_rng(seed).permutation(first.height) / first.height
        yield first.with_columns(
            split=pl.Series(np.select([place < 0.63, place < 0.70], ["train", "calibrate"], "test"))
        )


def main() -> None:
    """Print the figures of every protocol."""
    parser = argparse.ArgumentParser(description="Figures of the readmission model on the real archive.")
    parser.add_argument("--quick", action="store_true", help="one fold of each protocol")
    quick = parser.parse_args().quick
    raw = Path(os.environ.get("CLINICAL_RAW", "data/raw"))
    path = DIABETES130.find(raw)
    if path is None:
        parser.error(f"there is no {DIABETES130.name} archive below {raw}; fetch it or set CLINICAL_RAW")
    archive = DIABETES130.open(path)
    protocol = read_protocol("readmission")
    encounters = all_encounters(archive)
    features = encounter_features(encounters)
    protocol = protocol.model_copy(update={"not_features": (*protocol.not_features, "death_or_hospice")})
    without_history = protocol.model_copy(update={"not_features": (*protocol.not_features, *HISTORY)})
    eligible = features.filter(~pl.col("death_or_hospice"))
    folds, repetitions = (1, 1) if quick else (FOLDS, 3)
    print(
        f"{archive.data_origin}, sha256 {archive.sha256[:12]}: {features.height:,} encounters of "
        f"{features[protocol.patient].n_unique():,} patients\n{protocol.estimator_settings}"
    )
    run(
        "A. All encounters, patient-grouped 5-fold, with history",
        grouped_folds(features, protocol.patient, folds),
        protocol,
        (
            Target("auroc", at_least=0.695),
            Target("average_precision", at_least=0.245),
            Target("expected_calibration_error", at_most=0.010),
        ),
    )
    run(
        "B. All encounters, patient-grouped 5-fold, without history",
        grouped_folds(features, protocol.patient, folds),
        without_history,
        (Target("auroc", at_least=0.683),),
    )
    run(
        "C. No death or hospice (the clinical cohort), patient-grouped 5-fold, with history",
        grouped_folds(eligible, protocol.patient, folds),
        protocol,
        (Target("auroc", at_least=0.688), Target("expected_calibration_error", at_most=0.010)),
    )
    run(
        f"D. One encounter a patient, 70/30, without history ({PUBLISHED_ONE_ENCOUNTER})",
        first_encounters(features, protocol.patient, repetitions),
        without_history,
    )


if __name__ == "__main__":
    main()
