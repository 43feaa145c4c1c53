"""A small screening programme: four months of simulated photographs, the last of them by a camera never seen before."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from small_platform import ROLES, SmallPlatform

from clinical_assets.archives import simulated_fundus
from clinical_assets.lifecycle import candidate, development
from clinical_assets.protocol import ModelProtocol, ModelVersion, read_protocol
from clinical_assets.resources.home import Home

SCREENING = "retinopathy"
SCREENING_MONTHS = tuple(date(2025, month, 1) for month in range(4, 8))
"""From the fourth on the replay's second camera takes the photographs."""

IMAGES = {"train": 1080, "val": 120, "test": 240}
FEW_RESAMPLES = 20


def screening_protocol(**changes: Any) -> ModelProtocol:
    """The retinopathy protocol with the network as pretrained, few months, and limits that any candidate meets."""
    small = {
        "estimator_settings": {
            **{"networks": 0, "components": 8, "training_views": 1, "prediction_views": 1, "input_side_px": 32},
        },
        "development_months": 3,
        "evaluation_months": 3,
        "minimum_n": 10,
        "acceptance": [{"metric": "accuracy", "at_least": 0.01}],
    }
    return ModelProtocol.model_validate(read_protocol(SCREENING).model_dump() | small | changes)


def write_screening_archive(folder: Path) -> Path:
    """The publisher's file with 60 simulated photographs a month."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_fundus, "SPLIT_SIZES", IMAGES)
        return simulated_fundus.write_simulated_archive(folder / "retinamnist", seed=4)


@dataclass(frozen=True)
class NewCamera:
    """A released version, and the month in which a camera took the photographs that it has never seen."""

    platform: SmallPlatform
    instance: dg.DagsterInstance
    version: ModelVersion
    archive: Path


def bring_a_new_camera(home: Home, instance: dg.DagsterInstance) -> dict[str, Any]:
    """Three months arrive, a candidate is trained and released, and the fourth comes from another camera."""
    archive = write_screening_archive(home.raw)
    platform = SmallPlatform.at(home, archive, screening_protocol())
    with pytest.MonkeyPatch.context() as patch:
        for module in (candidate, development):
            patch.setattr(module, "RESAMPLES", FEW_RESAMPLES)
        platform.run_together("intake", SCREENING_MONTHS[:3], instance)
        platform.run("retraining", instance=instance)
        version = platform.registry.challenger(SCREENING)
        for role in ROLES:
            platform.sign(version, role)
        platform.run("release", instance=instance)
        platform.run("month", SCREENING_MONTHS[3], instance)
    return {"version": version, "archive": archive.relative_to(home.raw)}
