"""A small intensive care: five months of a simulated archive, with a second hospital, and what is wrong in its data."""

import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from small_platform import ROLES, SmallPlatform

from clinical_assets.archives import simulated_icu
from clinical_assets.archives.physionet2019 import COLUMNS, admission_times
from clinical_assets.lifecycle import candidate, development
from clinical_assets.lifecycle.automation import WaitingCandidate, waiting_candidate
from clinical_assets.lifecycle.champion_move import Platform
from clinical_assets.lifecycle.model_facts import read_facts
from clinical_assets.lifecycle.questions.answer import Answer
from clinical_assets.lifecycle.questions.silent_month_due import silent_month_due
from clinical_assets.lifecycle.release import ReleaseError, release
from clinical_assets.protocol import ModelProtocol, ModelVersion, read_protocol
from clinical_assets.resources.home import Home

ICU = "sepsis"
ICU_MONTHS = tuple(date(2025, month, 1) for month in range(4, 9))
"""Hospital B joins in the second, and in the fifth hospital A reports urea nitrogen in another unit."""

IMPOSSIBLE_FIO2 = -50.0
PATIENTS = {"A": 960, "B": 320}
FEW_RESAMPLES = 20


def icu_protocol(**changes: Any) -> ModelProtocol:
    """The sepsis protocol with few trees, few months, and limits that any candidate meets."""
    small = {
        "estimator_settings": {
            **{"label_trees": 10, "weighted_trees": 10, "learning_rate": 0.2, "leaves": 4},
            **{"minimum_leaf": 20, "l2": 1.0, "feature_fraction": 0.2},
        },
        "development_months": 3,
        "evaluation_months": 3,
        "operating_point": {"alerted_fraction": 0.3, "of": "patients"},
        "subgroups": ("sex", "site"),
        "minimum_n": 20,
        "acceptance": [{"metric": "auroc", "at_least": 0.01}],
    }
    return ModelProtocol.model_validate(read_protocol(ICU).model_dump() | small | changes)


def write_icu_archive(folder: Path) -> Path:
    """The publisher's two zips, with many septic patients, an impossible FiO2 in each month, and a broken file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_icu, "PATIENTS", PATIENTS)
        patch.setattr(simulated_icu, "SEPTIC_LOG_ODDS", {"A": -0.5, "B": -0.5})
        hours = simulated_icu.draw_hours(seed=4).filter(pl.col("month").is_in(ICU_MONTHS))
        first_of_site = (pl.int_range(pl.len()).over("month", "site") == 0) & (pl.col("site") == "B")
        spoilt = hours.with_columns(FiO2=pl.when(first_of_site).then(IMPOSSIBLE_FIO2).otherwise("FiO2"))
        patch.setattr(simulated_icu, "draw_hours", lambda _: spoilt)
        archive = simulated_icu.write_simulated_archive(folder / "physionet2019", seed=4)
    with zipfile.ZipFile(archive / "training_setB.zip", "a") as packed:
        packed.writestr(f"training_setB/{broken_patient()}.psv", "|".join(COLUMNS[:-1]) + "\n")
    return archive


def broken_patient() -> str:
    """The name of a patient of hospital B who would have been admitted in the third month."""
    names = pl.Series([f"p{number}" for number in range(190_000, 190_100)])
    months = admission_times(names, pl.Series(["B"] * len(names))).dt.date().dt.month_start()
    return names.filter(months == ICU_MONTHS[2])[0]


@dataclass(frozen=True)
class Report:
    """What a validation report said, and what followed from it."""

    rows: pl.DataFrame
    silent: pl.DataFrame
    waiting: WaitingCandidate
    asked: Answer
    refused: str


@dataclass(frozen=True)
class SilentMonth:
    """A candidate before and after the month that it must score in silence, which is then released."""

    platform: SmallPlatform
    instance: dg.DagsterInstance
    version: ModelVersion
    trained: Report
    arrived: tuple[Answer, ...]
    seen: Report


def run_a_silent_month(home: Home, instance: dg.DagsterInstance) -> dict[str, Any]:
    """Three months arrive, a candidate is trained and signed too early, the fourth arrives, then the fifth."""
    platform = SmallPlatform.at(home, write_icu_archive(home.raw), icu_protocol())
    with pytest.MonkeyPatch.context() as patch:
        for module in (candidate, development):
            patch.setattr(module, "RESAMPLES", FEW_RESAMPLES)
        platform.run_together("intake", ICU_MONTHS[:3], instance)
        platform.run("retraining", instance=instance)
        version = platform.registry.challenger(ICU)
        trained = report_on(platform, instance, version)
        platform.run("intake", ICU_MONTHS[3], instance)
        arrived = tuple(ask(platform, instance) for _ in range(2))
        platform.run("silent_month", instance=instance)
        seen = report_on(platform, instance, version)
        for role in ROLES:
            platform.sign(version, role)
        platform.run("release", instance=instance)
        platform.run("month", ICU_MONTHS[4], instance)
    return {"version": version, "trained": trained, "arrived": arrived, "seen": seen}


def ask(platform: SmallPlatform, instance: dg.DagsterInstance) -> Answer:
    """Whether a silent month is due at this moment."""
    at = Platform(platform.home, platform.lake, platform.registry, instance)
    return silent_month_due(read_facts(at, platform.protocol, {}))


def report_on(platform: SmallPlatform, instance: dg.DagsterInstance, version: ModelVersion) -> Report:
    """The newest report on a version; where it was not signed yet it is signed, and each time a release is tried."""
    rows = platform.lake.read(f"{ICU}.validation_report", where={"version": version.version})
    if not list(platform.home.sign_offs.glob(f"{ICU}/*/*")):
        for role in ROLES:
            platform.sign(version, role)
    with pytest.raises(ReleaseError) as refused:
        release(dg.build_asset_context(), protocol=platform.protocol, trained_model=version, **platform.resources)
    waiting = waiting_candidate(instance, ICU)
    assert isinstance(waiting, WaitingCandidate)
    silent = platform.lake.read(f"{ICU}.silent_run", where={"version": version.version})
    return Report(rows, silent, waiting, ask(platform, instance), str(refused.value))
