"""How well the retinopathy model does on RetinaMNIST: `python -m benchmarks.retinopathy [--raw DIR] [--quick]`.

Belongs here: protocols that others publish figures for, and our own figures beside them. Does not belong here: anything
the package needs. The archive is looked for below --raw, or CLINICAL_RAW, or data/raw.

Cross-validated: five folds of the published train and val images, stratified by grade; of the other four folds, nine in
ten images train and one in ten sets the temperature. RetinaMNIST names no patient and has several images of each, so
that folds by image share patients: what is cross-validated is flattering, for us as for others. Train+val to test: the
published train images train, the published val images set the temperature, and the published test images are predicted;
once for each of three seeds. The cut-points of the predicted grade and the threshold of referral come from the
cross-validated predictions, never from test images.
"""

import argparse
import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from clinical_assets.archives.retinamnist import RETINAMNIST
from clinical_assets.defs.retinopathy.cohort import published_images
from clinical_assets.evaluation.grading import (
    REFERABLE_FROM,
    choose_grade_cuts,
    evaluate_grading,
    grade_by_cuts,
    referable_risk,
)
from clinical_assets.evaluation.operating_point import choose_threshold
from clinical_assets.learning.fundus_network import GRADES, IMAGE, FundusNetwork, FundusSettings
from clinical_assets.protocol import Finding, ModelProtocol, read_protocol

FloatArray = npt.NDArray[np.float64]

BEST: dict[str, int] = {"networks": 2, "training_views": 8, "prediction_views": 4}
"""The `estimator_settings` of the slower, better option; the protocol has the default ones."""

FOLDS = 5
SEEDS = (0, 1, 2)
PROCESSES = 2
PUBLISHED_TEST_IMAGES = 400
PUBLISHED = "best published at 28 px (Yang 2023): AUROC .7535, accuracy .5425, not by one model"
HEADINGS = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "quadratic_weighted_kappa": "QWK",
    "referable_auroc": "ref. AUROC",
    "sensitivity": "ref. sens.",
    "specificity": "ref. spec.",
    "observed_expected_ratio": "ref. O:E",
}


@dataclass(frozen=True, slots=True)
class Fit:
    """One model to be fitted and applied: its training set and the images it predicts."""

    training_set: pl.DataFrame
    unseen: pl.DataFrame
    protocol: ModelProtocol


@dataclass(frozen=True, slots=True)
class Predicted:
    """The probabilities (images x grades) that one model gave, and the seconds its fit and its prediction took."""

    probability: FloatArray
    fit_seconds: float
    predict_seconds: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The cut-points of the predicted grade and the threshold of referral, from cross-validated predictions."""

    cuts: tuple[float, ...]
    threshold: float


@dataclass(frozen=True, slots=True)
class Target:
    """What a protocol should reach, and what it reached."""

    protocol: str
    metric: str
    at_least: float
    reached: float

    def in_words(self) -> str:
        """The target beside what was reached."""
        met = "yes" if self.reached >= self.at_least else "NO, missed"
        return f"{self.protocol:26}{HEADINGS[self.metric]:10}{self.at_least:>9.3f}{self.reached:>10.4f}   {met}"


def fit_and_predict(fit: Fit) -> Predicted:
    """Fit a model on one thread and apply it to images it has not seen."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    model = FundusNetwork.fit(fit.training_set, fit.protocol)
    fitted = time.perf_counter()
    probability = model.predict(fit.unseen)
    return Predicted(probability, fitted - started, time.perf_counter() - fitted)


def folds_of(images: pl.DataFrame, folds: int) -> list[tuple[pl.DataFrame, pl.DataFrame, npt.NDArray[np.int64]]]:
    """The training set and the unseen images of the first of five folds, with the places of these among all images."""
    from sklearn.model_selection import StratifiedKFold

    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(images, images["grade"])
    made = []
    for others, unseen in list(parts)[:folds]:
        made.append((training_set_of(images[others]), images[unseen], unseen))
    return made


def training_set_of(images: pl.DataFrame) -> pl.DataFrame:
    """The images in a random order with their split: one in ten sets the temperature, the others train."""
    # Every tenth in order of grade, so that each grade is there.
    split = pl.when(pl.int_range(pl.len()) % 10 == 9).then(pl.lit("calibrate")).otherwise(pl.lit("train"))
    ordered = images.sort("grade", "image_id").with_columns(split=split)
    return ordered.sample(fraction=1.0, shuffle=True, seed=0)


def seeded(protocol: ModelProtocol, settings: Mapping[str, bool | int | float | str], seed: int) -> ModelProtocol:
    """The protocol with other settings of its estimator and a seed, for images without any other column."""
    return protocol.model_copy(update={"estimator_settings": {**settings, "seed": seed}, "not_features": ()})


def measure(images: pl.DataFrame, probability: FloatArray, point: OperatingPoint, resamples: int) -> dict[str, Finding]:
    """Every finding on images, by metric, with intervals by bootstrap over images if resamples are asked for."""
    predicted = grade_by_cuts(probability @ np.arange(GRADES), point.cuts)
    grade, patient = images["grade"].to_numpy(), images["patient_id"]
    found = evaluate_grading(
        grade, probability, predicted, patient, point.threshold, pl.DataFrame(), 1, resamples=resamples
    )
    return {finding.metric: finding for finding in found}


def value(finding: Finding) -> float:
    """The value of a finding, NaN where it is undefined."""
    return np.nan if finding.value is None else finding.value


def print_line(name: str, found: dict[str, Finding], note: str = "") -> None:
    """One line of figures."""
    print(f"{name:14}" + "".join(f"{value(found[metric]):>11.4f}" for metric in HEADINGS) + note, flush=True)


def print_intervals(found: dict[str, Finding]) -> None:
    """The 95 % bootstrap intervals below their figures."""
    for name, end in (("  95 % from", "low"), ("  95 % to", "high")):
        values = [getattr(found[metric], end) for metric in HEADINGS]
        print(f"{name:14}" + "".join(f"{np.nan if x is None else x:>11.4f}" for x in values))


def print_test(title: str, test: pl.DataFrame, predicted: list[Predicted], point: OperatingPoint) -> dict[str, float]:
    """The figures of each seed on the test images, mean and standard deviation, and the first seed's intervals."""
    print(f"\n{title}\n{'':14}" + "".join(f"{heading:>11}" for heading in HEADINGS.values()) + "      fit, s")
    measured: list[list[float]] = []
    for seed, result in zip(SEEDS, predicted, strict=False):
        found = measure(test, result.probability, point, resamples=1000 if seed == SEEDS[0] else 0)
        print_line(f"seed {seed}", found, f"{result.fit_seconds:12.1f}")
        if seed == SEEDS[0]:
            print_intervals(found)
        measured.append([value(found[metric]) for metric in HEADINGS])
    mean = np.mean(measured, axis=0)
    print(f"{'mean':14}" + "".join(f"{x:>11.4f}" for x in mean))
    if len(measured) > 1:
        print(f"{'SD':14}" + "".join(f"{x:>11.4f}" for x in np.std(measured, axis=0, ddof=1)))
    return dict(zip(HEADINGS, mean.tolist(), strict=True))


def main() -> None:
    """Print the figures of every protocol."""
    parser = argparse.ArgumentParser(description="Figures of the retinopathy model on RetinaMNIST, 28 px.")
    parser.add_argument("--raw", type=Path, default=Path(os.environ.get("CLINICAL_RAW", "data/raw")))
    parser.add_argument("--quick", action="store_true", help="two folds, one seed")
    arguments = parser.parse_args()
    path = RETINAMNIST.find(arguments.raw)
    if path is None:
        parser.error(f"there is no {RETINAMNIST.name} archive below {arguments.raw}; fetch it, or give --raw")
    archive = RETINAMNIST.open(path)
    protocol = read_protocol("retinopathy")
    columns = ("image_id", "patient_id", "captured_at", "grade", IMAGE)
    train, val, test = (published_images(archive, split).select(columns) for split in ("train", "val", "test"))
    development = pl.concat([train, val])
    split = pl.Series("split", ["train"] * train.height + ["calibrate"] * val.height)
    default = dict(protocol.estimator_settings)
    folds, seeds = (2, SEEDS[:1]) if arguments.quick else (FOLDS, SEEDS)

    parts = folds_of(development, folds)
    cross_validated = [Fit(training_set, unseen, seeded(protocol, BEST, 0)) for training_set, unseen, _ in parts]
    to_test = {
        name: [Fit(development.with_columns(split), test, seeded(protocol, settings, seed)) for seed in of]
        for name, settings, of in (("best", BEST, seeds), ("default", default, SEEDS[:1]))
    }
    print(
        f"{archive.data_origin}, sha256 {archive.sha256[:12]}: {train.height:,} train, {val.height:,} val, "
        f"{test.height:,} test images, 28 px; published are {PUBLISHED_TEST_IMAGES} test images"
        + ("" if test.height == PUBLISHED_TEST_IMAGES else ", of which this file holds a part: intervals are wider")
        + f"\nbest option {FundusSettings(**BEST)}\ndefault {FundusSettings.of(protocol)}\n{PUBLISHED}",
        flush=True,
    )
    started = time.perf_counter()
    # A fresh process each: a forked one would share the threads of a library that was already at work.
    pool = ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn"))
    results = pool.map(fit_and_predict, [*cross_validated, *to_test["best"], *to_test["default"]])
    fold_results = list(islice(results, folds))
    seen = np.concatenate([places for _, _, places in parts])
    pooled = np.concatenate([result.probability for result in fold_results])
    held_out = development[seen]
    expected, grade = pooled @ np.arange(GRADES), held_out["grade"].to_numpy()
    risk = referable_risk(pooled, REFERABLE_FROM)
    point = OperatingPoint(
        choose_grade_cuts(expected, grade), choose_threshold(risk, protocol.operating_point.alerted_fraction)
    )
    print(
        f"from the cross-validated predictions: cut-points {', '.join(f'{cut:.3f}' for cut in point.cuts)}; "
        f"referral at {point.threshold:.3f} or more, which refers {protocol.operating_point.alerted_fraction:.0%}"
    )
    print(
        f"\nA. Best option, cross-validated on train+val, {folds} of {FOLDS} folds by image (which share patients); "
        "QWK at its own cut-points is flattering"
    )
    print(f"{'':14}" + "".join(f"{heading:>11}" for heading in HEADINGS.values()) + "      fit, s")
    by_fold = [
        measure(fit.unseen, result.probability, point, 0)
        for fit, result in zip(cross_validated, fold_results, strict=True)
    ]
    for number, (found, result) in enumerate(zip(by_fold, fold_results, strict=True), start=1):
        print_line(f"fold {number}", found, f"{result.fit_seconds:12.1f}")
    table = np.array([[value(found[metric]) for metric in HEADINGS] for found in by_fold])
    print(f"{'mean':14}" + "".join(f"{x:>11.4f}" for x in table.mean(axis=0)))
    print(f"{'SD':14}" + "".join(f"{x:>11.4f}" for x in table.std(axis=0, ddof=1)))
    together = measure(held_out, pooled, point, 1000)
    print_line("all folds", together)
    print_intervals(together)

    best = print_test("B. Best option, train+val to test", test, list(islice(results, len(seeds))), point)
    print_test(
        "C. Default, one seed, train+val to test (cut-points and threshold are the best option's)",
        test,
        list(results),
        point,
    )

    pool.shutdown()
    seeds_in_words = f"mean of {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    print(f"\nBest option, 28 px; to test: {seeds_in_words}; cross-validated: all folds at once")
    print(f"{'':36}{'asked':>9}{'reached':>10}   met")
    targets = (
        Target("train+val to test", "auroc", 0.765, best["auroc"]),
        Target("train+val to test", "accuracy", 0.545, best["accuracy"]),
        Target("train+val to test", "quadratic_weighted_kappa", 0.60, best["quadratic_weighted_kappa"]),
        Target("cross-validated", "auroc", 0.785, value(together["auroc"])),
    )
    for target in targets:
        print(target.in_words())
    print(f"{time.perf_counter() - started:.0f} s in {PROCESSES} processes of one thread")


if __name__ == "__main__":
    main()
