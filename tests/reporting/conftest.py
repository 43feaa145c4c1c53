"""A small report, as a lifecycle or `clinical validate` would fill it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation import calibration_curve, compare, evaluate, judge
from clinical_assets.protocol import Finding, ModelProtocol, ModelVersion, read_protocol
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


@pytest.fixture(scope="session")
def hourly_protocol() -> ModelProtocol:
    """A protocol of hourly alarms across sites, with one silent month."""
    return ModelProtocol.model_validate(
        read_protocol("readmission").model_dump()
        | {
            "model": "sepsis",
            "unit": "hour_id",
            "index_time": "observed_at",
            "outcome": {"column": "sepsis_6h", "ripe_after_days": 2},
            "assessment": "clinical_assets.evaluation.hourly_alarms.HOURLY_ALARMS",
            "operating_point": {"alerted_fraction": 0.18, "of": "patients"},
            "subgroups": ["site"],
            "transported_across": "site",
            "silent_months": 1,
            "minimum_n": 2,
        }
    )


@pytest.fixture(scope="session")
def graded_protocol() -> ModelProtocol:
    """A protocol of graded images that are not identifiable, across cameras."""
    readmission = read_protocol("readmission").model_dump()
    return ModelProtocol.model_validate(
        readmission
        | {
            "model": "retinopathy",
            "unit": "image_id",
            "index_time": "captured_at",
            "outcome": {"column": "grade", "kind": "graded", "event_from": 2, "ripe_after_days": 21},
            "assessment": "clinical_assets.evaluation.disease_grades.DISEASE_GRADES",
            "images_identifiable": False,
            "subgroups": ["camera"],
            "minimum_n": 2,
            "monitoring": readmission["monitoring"] | {"device": "camera"},
        }
    )


@pytest.fixture(scope="session")
def hourly_findings() -> list[Finding]:
    """Two operating points, overall and at two sites."""
    values = {
        "auroc": 0.85,
        "prevalence": 0.018,
        "sensitivity": 0.66,
        "ppv": 0.28,
        "patients_alerted_per_100": 18.0,
        "alerts_per_100_patient_days": 31.0,
        "lead_time_h_median": 12.0,
        "lead_time_h_quartile_1": 5.0,
        "lead_time_h_quartile_3": 30.0,
        "normalized_utility_at_alert": 0.33,
        "normalized_utility": 0.43,
        "sensitivity_at_utility": 0.82,
        "ppv_at_utility": 0.16,
        "patients_alerted_per_100_at_utility": 36.0,
        "alerts_per_100_patient_days_at_utility": 92.0,
        "lead_time_h_median_at_utility": 21.0,
    }
    return [
        Finding(metric, subgroup, value, 0.9 * value, 1.1 * value, 4_000)
        for subgroup in ("overall", "site=A", "site=B")
        for metric, value in values.items()
    ]


@pytest.fixture(scope="session")
def hourly_report(
    report: ValidationReport, hourly_protocol: ModelProtocol, hourly_findings: list[Finding]
) -> ValidationReport:
    version = replace(report.version, model="sepsis", threshold=0.06, further_thresholds=(("utility", 0.02),))
    no_curve = report.calibration.clear()
    return replace(
        report, protocol=hourly_protocol, version=version, findings=hourly_findings, judged=(), calibration=no_curve
    )
