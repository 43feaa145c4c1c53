import re
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import nbformat
import numpy as np
import polars as pl
import pytest
from nbclient import NotebookClient

from clinical_assets.defs.readmission.cohort import Encounter
from clinical_assets.evaluation import evaluate, judge
from clinical_assets.governance.ledger import FIRST, LedgerEntry, LedgerKind
from clinical_assets.governance.signatures import CheckedSignature, Signature, Statement
from clinical_assets.lifecycle.candidate import findings_table, report_table, sign_off_table
from clinical_assets.lifecycle.monitoring import performance_report
from clinical_assets.lifecycle.month_look import MonthLook, look_at_month
from clinical_assets.lifecycle.release import predictions
from clinical_assets.lifecycle.scored_training import keep_training_scores
from clinical_assets.protocol import Limit, ModelVersion, month_after, read_protocol
from clinical_assets.resources.analytics import publish_analytics
from clinical_assets.resources.home import PROJECT
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.ledger import append_entry

TOUR = PROJECT / "notebooks" / "analyst_tour.ipynb"
DECEMBER, JANUARY, FEBRUARY = date(2024, 12, 1), date(2025, 1, 1), date(2025, 2, 1)
ROWS_A_MONTH = 300
RUN: Any = {"author": "run-1", "message": "{}"}
MACHINE_PATH = re.compile(r"(?<![\w.<])/(?:tmp|home|root|work|Users|var|opt|mnt|usr)/|[A-Z]:\\\\")


class LabTestsOnly:
    """An estimator whose risk is a share of the count of laboratory tests, and which makes nothing else of a row."""

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        return rows["lab_tests"].to_numpy().astype(float) / 200

    def represent(self, rows: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame()


class OneVersion:
    """A registry with one version in it."""

    def __init__(self, version: ModelVersion) -> None:
        self.only = version

    def version(self, model: str, number: int) -> ModelVersion:
        assert (model, number) == (self.only.model, self.only.version)
        return self.only

    def load(self, version: ModelVersion, estimator: str) -> LabTestsOnly:
        return LabTestsOnly()

    def open(self) -> "OneVersion":
        return self


def month_of_rows(month: date, more_lab_tests: int) -> pl.DataFrame:
    """A month of the cohort: the columns written here, and null in all others of its contract."""
    chance = np.random.default_rng(month.toordinal())
    lab_tests = chance.integers(20, 70, ROWS_A_MONTH) + more_lab_tests
    days = (month_after(month) - month).days
    discharged = [
        datetime(month.year, month.month, 1 + row * days // ROWS_A_MONTH, 12, tzinfo=UTC) for row in range(ROWS_A_MONTH)
    ]
    written = {
        "encounter_id": [f"{month:%Y%m}{row:026d}" for row in range(ROWS_A_MONTH)],
        "patient_id": [f"{month:%Y%m}{row // 2:026d}" for row in range(ROWS_A_MONTH)],
        "discharged_at": discharged,
        "month": [month] * ROWS_A_MONTH,
        "readmitted_30d": (chance.random(ROWS_A_MONTH) < lab_tests / 200).astype(int).tolist(),
        "outcome_known_on": [day.date() + timedelta(days=30) for day in discharged],
        "age_band": np.resize(["[60-70)", "[70-80)"], ROWS_A_MONTH).tolist(),
        "sex": np.resize(["female", "male", "male"], ROWS_A_MONTH).tolist(),
        "ethnicity": ["Caucasian"] * ROWS_A_MONTH,
        "admission_source": ["referral"] * ROWS_A_MONTH,
        "lab_tests": lab_tests.tolist(),
    }
    schema = Encounter.create_empty().schema
    rows = pl.DataFrame({name: written.pop(name, [None] * ROWS_A_MONTH) for name in schema}, schema=schema)
    assert not written
    return rows.with_columns(data_origin=pl.lit("simulated"))


def publish(home: Path) -> Path:
    """A published file as the lifecycle makes it: a release, two months of it, and a candidate that was refused."""
    protocol = read_protocol("readmission").model_copy(update={"minimum_n": 100})
    lake = Lake(str(home / "lake" / "catalogue.sqlite"), home / "lake" / "data")
    at_lake: Any = LakeResource(catalogue=lake.catalogue, data=str(lake.data))
    release: dict[str, Any] = {"artefact_sha256": "a" * 64, "protocol_sha256": protocol.sha256, "threshold": 0.2}

    training = month_of_rows(DECEMBER, 0)
    drawn_at = lake.write_month("readmission.features", DECEMBER, training, **RUN).snapshot
    drawn = training.select("encounter_id", "patient_id", "discharged_at", "readmitted_30d", "month", "data_origin")
    drawn = drawn.with_columns(
        split=pl.when(pl.int_range(pl.len()) % 4 < 2).then(pl.lit("train")).otherwise(pl.lit("test")),
        protocol_sha256=pl.lit(protocol.sha256),
        features_snapshot=pl.lit(drawn_at),
    )
    snapshot = lake.write_table("readmission.training_set", drawn, **RUN).snapshot
    live, refused = (
        ModelVersion(
            "readmission",
            number,
            "run",
            **release,
            trained_through=DECEMBER,
            lake_snapshot=snapshot,
            data_origin="simulated",
        )
        for number in (1, 2)
    )
    registry: Any = OneVersion(live)
    estimator: Any = LabTestsOnly()
    keep_training_scores(lake, protocol, live, estimator, training.with_columns(drawn["split"]), "run")

    for month, more in ((DECEMBER, 0), (JANUARY, 40), (FEBRUARY, 40)):
        rows = month_of_rows(month, more)
        lake.write_month("readmission.dataset", month, rows, **RUN)
        lake.write_month("readmission.features", month, rows, **RUN)
    for month in (JANUARY, FEBRUARY):
        features = lake.read("readmission.features", months=[month])
        scored = made_by(predictions(protocol, features, live, registry))
        lake.write_month("readmission.predictions", month, scored, **RUN)
        seen = look_at_month(MonthLook.of(protocol, features, scored, lake, registry, "run"))
        for table, of in seen.items():
            lake.write_month(f"readmission.{table}", month, of.frame, **RUN)
        lake.write_together([write for of in seen.values() for write in of.beside], **RUN)
        estimated = seen["estimated_performance"].frame
        achieved = made_by(performance_report(dg.build_asset_context(), protocol, estimated, at_lake, registry))
        lake.write_month("readmission.performance_report", month, achieved, **RUN)

    for version, limit in (
        (live, Limit(metric="auroc", at_least=0.01)),
        (refused, Limit(metric="auroc", at_least=0.99)),
    ):
        findings = evaluate(
            training["readmitted_30d"],
            pl.Series(LabTestsOnly().predict(training)),
            training["patient_id"],
            version.threshold,
            training.select(protocol.subgroups),
            protocol.minimum_n,
        )
        report = report_table(
            judge([limit], findings, protocol.minimum_n, frozenset()), version, f"{version.version}" * 64
        )
        by_version = {"evaluation": findings_table(findings, version), "validation_report": report}
        if version is live:
            by_version["sign_off"] = sign_off_table([signed(version)], version)
            append_entry(lake, released(version))
        for asset, frame in by_version.items():
            lake.write_table(f"readmission.{asset}", frame, replace_by="version", **RUN)
    return publish_analytics(lake, home / "analytics.duckdb", ["readmission"]).path


def made_by(result: Any) -> pl.DataFrame:
    return result.value


def released(version: ModelVersion) -> LedgerEntry:
    return LedgerEntry(
        model=version.model,
        number=1,
        live_from=datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
        kind=LedgerKind.RELEASE,
        version=version.version,
        previous_version=None,
        reason="it meets every limit",
        actor="run:a",
        run_id="a",
        artefact_sha256=version.artefact_sha256,
        report_sha256="1" * 64,
        protocol_sha256=version.protocol_sha256,
        smoke_sha256="",
        limits=1,
        approvals=(),
        training_set_snapshot=version.lake_snapshot,
        trained_through=version.trained_through,
        data_origin=version.data_origin,
        previous_sha256=FIRST,
    )


def signed(version: ModelVersion) -> CheckedSignature:
    statement = Statement(
        model=version.model,
        version=version.version,
        artefact_sha256=version.artefact_sha256,
        report_sha256="1" * 64,
        protocol_sha256=version.protocol_sha256,
        decision="approve",
        reason="it meets every limit",
        role="clinical_lead",
        signer="dr-example",
        signed_at="2026-03-04T05:00:00+00:00",
    )
    return CheckedSignature(Signature(statement, "00"), demo=False, fault="")


def execute(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tour, run in a kernel of its own on this home: what each code cell shows, in plain text."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(home / "jupyter"))
    monkeypatch.setenv("CLINICAL_HOME", str(home))
    tour = nbformat.read(TOUR, as_version=4)
    NotebookClient(tour, timeout=120, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    return [shown(cell) for cell in tour.cells if cell.cell_type == "code"]


def shown(cell: Any) -> str:
    assert not [x for x in cell.outputs if x.output_type == "error" or x.get("name") == "stderr"], cell.outputs
    return "\n".join(x.get("text") or x["data"]["text/plain"] for x in cell.outputs)


def showing(outputs: list[str], *words: str) -> str:
    """The one output in which all these words stand."""
    found = [text for text in outputs if all(word in text for word in words)]
    assert len(found) == 1, f"{words} stand together in {len(found)} outputs of {outputs}"
    return found[0]


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("drifted"))


def test_every_question_of_the_tour_is_answered_and_the_file_is_not_touched(
    drifted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drifted.read_bytes()
    outputs = execute(drifted.parent, monkeypatch)

    assert re.search(r"simulated +900 +450 +2024-12 +2025-02", showing(outputs, "patients", "first_month"))
    months = showing(outputs, "discharges", "readmitted_percent").splitlines()
    assert [line.split()[1:4] for line in months[1:]] == [
        ["2024-12", "300", "300"],
        ["2025-01", "300", "281"],
        ["2025-02", "300", "0"],
    ]
    drift = showing(outputs, "most_of_all")
    assert re.search(r"2025-01 +1 +population_shift", drift)
    assert re.search(r"2025-02 +1 +population_shift +\d+ +\d+ +(lab_tests|predicted_risk) ", drift)
    assert re.search(r"2025-01 +1 +partly_ripe +281 +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", showing(outputs, "o_e"))
    assert re.search(r"2025-02 +1 +not_ripe +0 +None", showing(outputs, "o_e"))
    subgroups = showing(outputs, "sensitivity", "attribute")
    assert re.search(r"2 +False +sex +male +200 +0\.\d{3} \[", subgroups)
    assert re.search(r"2 +False +overall +300 +0\.\d{3} \[", subgroups)
    candidates = showing(outputs, "unmet_limits", "released_at_utc")
    assert re.search(r"1 +1 +0 +None +2024-12 +2026-03-04 05:06", candidates)
    assert re.search(r"2 +1 +1 +auroc \(overall\) at least 0\.99 +None +None", candidates)
    assert "dr-example" in showing(outputs, "clinical_lead", "approve", "it meets every limit", "2026-03-04 05:00")
    origins = showing(outputs, "readmission.profile", "governance.ledger", "rows")
    assert len(re.findall("simulated", origins)) == 16
    assert re.search(r"1 +600 +simulated +2025-01 to 2025-02", showing(outputs, "training_set_snapshot"))

    assert drifted.read_bytes() == before
    assert not drifted.with_name("analytics.duckdb.wal").exists()


def test_the_tour_says_so_where_nothing_has_drifted(
    drifted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable = shutil.copyfile(drifted, tmp_path / drifted.name)
    with duckdb.connect(stable) as connection:
        connection.execute("UPDATE readmission.drift_report SET flagged = false")
    showing(execute(tmp_path, monkeypatch), "no column was flagged in any month")


def test_the_saved_tour_was_run_whole_on_data_it_names_and_shows_no_path_of_a_machine() -> None:
    tour = nbformat.read(TOUR, as_version=4)
    code = [cell for cell in tour.cells if cell.cell_type == "code"]
    outputs = [shown(cell) for cell in code]

    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "real:UCI" in showing(outputs, "patients", "first_month")
    assert sum("image/png" in x.get("data", {}) for cell in code for x in cell.outputs) == 3
    assert not MACHINE_PATH.search(TOUR.read_text())
    assert tour.metadata.kernelspec.name == "python3"
