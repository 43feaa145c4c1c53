"""A small report, as a lifecycle or `clinical validate` would fill it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation import calibration_curve, compare, evaluate, judge
from clinical_assets.protocol import ModelVersion, read_protocol
from clinical_assets.reporting.validation_report import ValidationReport


def build_report(seed: int = 0, rows: int = 3000) -> ValidationReport:
    protocol = read_protocol("readmission").model_copy(update={"minimum_n": 100})
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-2.4, 0.9, rows)
    risk = 1 / (1 + np.exp(-log_odds))
    outcome = (rng.random(rows) < risk).astype(int)
    weaker = 1 / (1 + np.exp(-(log_odds + rng.normal(0, 0.8, rows))))
    patient = pl.Series([f"p{number}" for number in rng.integers(0, rows * 2 // 3, rows)])
    subgroups = pl.DataFrame(
        {
            "age_band": rng.choice(["18-44", "45-64", "65-79", "80+"], rows),
            "sex": rng.choice(["Female", "Male"], rows),
            "ethnicity": rng.choice(
                ["African American", "Caucasian", "Hispanic", "Other"], rows, p=[0.2, 0.7, 0.05, 0.05]
            ),
            "admission_source": rng.choice(["emergency", "referral", "transfer"], rows),
        }
    )
    threshold = float(np.quantile(risk, 0.9))
    findings = [
        *evaluate(outcome, risk, patient, threshold, subgroups, protocol.minimum_n, resamples=40),
        *compare(outcome, risk, weaker, patient, resamples=40),
    ]
    version = ModelVersion(
        model="readmission",
        version=3,
        run_id="0f3c9a",
        artefact_sha256="a1" * 32,
        protocol_sha256=protocol.sha256,
        threshold=threshold,
        trained_through=date(2024, 12, 1),
        lake_snapshot=17,
        data_origin="real:uci-diabetes130",
    )
    cohort = pl.DataFrame(
        {
            "split": ["train", "evaluation"],
            "rows": [40_000, rows],
            "patients": [29_000, patient.n_unique()],
            "events": [4_400, int(outcome.sum())],
            "first_month": [date(2024, 1, 1), date(2025, 1, 1)],
            "last_month": [date(2024, 12, 1), date(2025, 6, 1)],
        }
    )
    return ValidationReport(
        kind="candidate",
        protocol=protocol,
        version=version,
        findings=findings,
        calibration=calibration_curve(outcome, risk),
        cohort=cohort,
        data_origin="real:uci-diabetes130",
        created_at=datetime(2025, 7, 3, 9, 30, tzinfo=UTC),
        judged=judge(protocol.acceptance, findings, protocol.minimum_n, frozenset({"champion"})),
        champion_version=2,
        lake_snapshot=21,
        calendar_note="The archive has no dates: its months are a replay calendar.",
    )


@pytest.fixture(scope="session")
def report() -> ValidationReport:
    return build_report()


@pytest.fixture(scope="session")
def changed(report: ValidationReport) -> Callable[..., ValidationReport]:
    return lambda **changes: replace(report, **changes)
