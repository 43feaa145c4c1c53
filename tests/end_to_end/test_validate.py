import json
import zipfile
from pathlib import Path

import polars as pl
import pytest
from replayed_home import MODEL, ReplayedHome, clinical

from clinical_assets.archives.diabetes130 import CODES_FILE, DATA_FILE, DIABETES130

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

FILES = ["evaluation.csv", "evaluation.json", "predictions.parquet", "report.html"]
METRICS = {
    *("auroc", "average_precision", "brier", "expected_calibration_error", "observed_expected_ratio"),
    *("calibration_slope", "sensitivity", "ppv"),
}


@pytest.fixture(autouse=True)
def home(replayed: ReplayedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_HOME", str(replayed.home.root))


def identifiers_in(folder: Path, archive: Path) -> list[str]:
    """The identifiers of the archive that stand in a table of predictions."""
    with zipfile.ZipFile(archive) as packed:
        member = next(name for name in packed.namelist() if name.endswith(DATA_FILE))
        rows = pl.read_csv(packed.read(member), columns=["encounter_id", "patient_nbr"], infer_schema=False)
    known = {*rows["encounter_id"], *rows["patient_nbr"]}
    predictions = pl.read_parquet(folder / "predictions.parquet")
    return [x for name in ("encounter_id", "patient_id") for x in predictions[name] if x in known]


def check_contract(folder: Path, told: str, origin: str, version: int) -> dict[str, float]:
    """What DESIGN.md promises of an external validation; returns the overall figures."""
    assert sorted(path.name for path in folder.iterdir()) == FILES
    written = json.loads((folder / "evaluation.json").read_text())
    assert json.loads(told) == written
    assert {"model", "version", "data_origin", "protocol", "findings"} <= set(written)
    assert (written["model"], written["version"], written["data_origin"]) == (MODEL, version, origin)
    assert {tuple(finding) for finding in written["findings"]} == {("metric", "subgroup", "value", "low", "high", "n")}
    overall = {x["metric"]: x for x in written["findings"] if x["subgroup"] == "overall"}
    assert set(overall) >= METRICS
    assert all(x["low"] <= x["value"] <= x["high"] for x in overall.values() if x["low"] is not None)
    columns = {x["subgroup"].partition("=")[0] for x in written["findings"]} - {"overall"}
    assert columns == {"age_band", "sex", "ethnicity", "admission_source"}

    table = pl.read_csv(folder / "evaluation.csv")
    assert table.height == len(written["findings"])
    predictions = pl.read_parquet(folder / "predictions.parquet")
    assert set(predictions.columns) >= {"encounter_id", "patient_id", "risk", "prediction", "outcome"}
    assert predictions["risk"].is_between(0, 1).all()
    assert set(predictions["prediction"]) == {0, 1}
    assert overall["auroc"]["n"] == predictions.filter(~pl.col("seen_in_training")).height
    page = (folder / "report.html").read_text()
    assert origin in page
    assert 'src="http' not in page
    return {name: finding["value"] for name, finding in overall.items()}


def test_the_homes_own_archive_is_validated_on_patients_never_learnt_from(replayed: ReplayedHome) -> None:
    assert replayed.validation.exit_code == 0
    figures = check_contract(replayed.validated, replayed.validation.stdout, "simulated", replayed.champion)
    assert 0.6 < figures["auroc"] < 0.8
    predictions = pl.read_parquet(replayed.validated / "predictions.parquet")
    assert 0 < predictions["seen_in_training"].sum() < predictions.height


def test_no_identifier_of_the_archive_is_written_by_a_validation(replayed: ReplayedHome) -> None:
    assert identifiers_in(replayed.validated, replayed.archive) == []


def test_the_real_archive_is_validated(replayed: ReplayedHome, raw_archives: Path, tmp_path: Path) -> None:
    source = DIABETES130.find(raw_archives)
    assert source is not None
    done = clinical("validate", MODEL, "--source", str(source), "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0
    figures = check_contract(tmp_path / "out", done.stdout, DIABETES130.open(source).data_origin, replayed.champion)
    assert figures["auroc"] < 0.72
    assert identifiers_in(tmp_path / "out", source) == []


def refused(source: Path, out: Path) -> str:
    """What a validation says that must end in one line and write nothing."""
    done = clinical("validate", MODEL, "--source", str(source), "--out", str(out))
    assert done.exit_code == 1
    assert not out.exists()
    told = done.stderr.strip().splitlines()
    assert told[-1].startswith("clinical: ")
    return told[-1]


def test_a_truncated_zip_is_refused_and_nothing_is_written(replayed: ReplayedHome, tmp_path: Path) -> None:
    whole = replayed.archive.read_bytes()
    (tmp_path / "dataset_diabetes.zip").write_bytes(whole[: len(whole) // 2])
    told = refused(tmp_path / "dataset_diabetes.zip", tmp_path / "out")
    assert "not a zip, or a truncated, damaged or encrypted one" in told


def test_a_zip_with_damaged_rows_is_refused_and_nothing_is_written(replayed: ReplayedHome, tmp_path: Path) -> None:
    damaged = bytearray(replayed.archive.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 64] = bytes(64)
    (tmp_path / "dataset_diabetes.zip").write_bytes(damaged)
    assert "dataset_diabetes.zip" in refused(tmp_path / "dataset_diabetes.zip", tmp_path / "out")


def test_a_foreign_category_is_named_and_nothing_is_written(replayed: ReplayedHome, tmp_path: Path) -> None:
    with zipfile.ZipFile(replayed.archive) as packed:
        (tmp_path / CODES_FILE).write_bytes(packed.read(f"dataset_diabetes/{CODES_FILE}"))
        rows = pl.read_csv(packed.read(f"dataset_diabetes/{DATA_FILE}"), infer_schema=False).head(4)
    rows.with_columns(gender=pl.lit("F")).write_csv(tmp_path / DATA_FILE)
    assert "column gender, value 'F'" in refused(tmp_path, tmp_path / "out")


def test_an_archive_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere.zip", tmp_path / "out")


def test_a_version_that_is_not_there_is_refused_with_those_that_are(replayed: ReplayedHome, tmp_path: Path) -> None:
    done = clinical(
        *("validate", MODEL, "--source", str(replayed.archive), "--out", str(tmp_path / "out"), "--version", "9")
    )
    assert done.exit_code == 1
    assert "readmission has no version 9; the registry holds: 1, 2" in done.stderr
    assert not (tmp_path / "out").exists()
