"""A small archive in the publisher's layout, to be spoilt in one place at a time."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.archives.diabetes130 import CODES_FILE, DATA_FILE, DIABETES130

Publish = Callable[[pl.DataFrame], Path]


@pytest.fixture(scope="session")
def simulated_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DIABETES130.simulate(tmp_path_factory.mktemp("simulated"), seed=1)


@pytest.fixture(scope="session")
def simulated_rows(simulated_zip: Path) -> pl.DataFrame:
    with zipfile.ZipFile(simulated_zip) as packed:
        return pl.read_csv(packed.read(f"dataset_diabetes/{DATA_FILE}"), infer_schema=False)


@pytest.fixture
def four_rows(simulated_rows: pl.DataFrame) -> pl.DataFrame:
    return simulated_rows.head(4).with_columns(
        pl.Series("encounter_id", ["987001", "987002", "987003", "987004"]),
        pl.Series("patient_nbr", ["555001", "555002", "555001", "555003"]),
        pl.Series("race", ["Caucasian", "?", "Asian", "Hispanic"]),
        pl.Series("A1Cresult", ["None", ">8", "Norm", "None"]),
        pl.Series("readmitted", ["<30", "NO", ">30", "NO"]),
    )


@pytest.fixture
def publish(tmp_path: Path, simulated_zip: Path) -> Publish:
    """Write rows as the publisher's folder, with nothing in it that says that they are simulated."""

    def write(rows: pl.DataFrame) -> Path:
        folder = tmp_path / "dataset_diabetes"
        folder.mkdir(exist_ok=True)
        rows.write_csv(folder / DATA_FILE)
        with zipfile.ZipFile(simulated_zip) as packed:
            (folder / CODES_FILE).write_bytes(packed.read(f"dataset_diabetes/{CODES_FILE}"))
        return folder

    return write
