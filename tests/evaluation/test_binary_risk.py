import numpy as np
import polars as pl
import pytest
from scored_cohort import ScoredCohort

from clinical_assets.evaluation import EvaluationError, compare, evaluate
from clinical_assets.evaluation.binary_risk import BINARY_RISK
from clinical_assets.protocol import ModelProtocol, OperatingPoint, Outcome, read_protocol


@pytest.fixture(scope="module")
def protocol() -> ModelProtocol:
    return read_protocol("readmission").model_copy(
        update={
            "patient": "patient",
            "outcome": Outcome(column="readmitted", ripe_after_days=30),
            "operating_point": OperatingPoint(alerted_fraction=0.1),
            "subgroups": ("sex", "site"),
            "minimum_n": 20,
        }
    )


@pytest.fixture
def rows(scored: ScoredCohort) -> pl.DataFrame:
    return scored.subgroups.with_columns(readmitted=scored.outcome, patient=scored.patient)


def test_one_risk_a_unit_is_the_risk(protocol: ModelProtocol) -> None:
    tabulated = BINARY_RISK.tabulate(np.array([0.1, 0.25]), protocol)
    assert tabulated.schema == {"risk": pl.Float64}
    assert tabulated["risk"].to_list() == [0.1, 0.25]


def test_the_threshold_is_that_of_calibration_whatever_it_decides(protocol: ModelProtocol) -> None:
    calibrate = BINARY_RISK.tabulate(np.linspace(0.01, 0.5, 50), protocol)
    thresholds = BINARY_RISK.choose_thresholds(calibrate, protocol)
    assert thresholds == {"alert": pytest.approx(0.46)}
    decided = BINARY_RISK.decide(BINARY_RISK.tabulate(np.array([0.9, thresholds["alert"], 0.45]), protocol), thresholds)
    assert decided["alerted"].to_list() == [True, True, False]
    assert decided["threshold"].to_list() == [thresholds["alert"]] * 3


def test_too_few_calibration_units_are_refused(protocol: ModelProtocol) -> None:
    with pytest.raises(EvaluationError, match="of 9 units: that is 0 units"):
        BINARY_RISK.choose_thresholds(BINARY_RISK.tabulate(np.linspace(0, 1, 9), protocol), protocol)


def test_decided_rows_are_measured_at_their_threshold(
    protocol: ModelProtocol, scored: ScoredCohort, rows: pl.DataFrame
) -> None:
    decided = BINARY_RISK.decide(rows.hstack(BINARY_RISK.tabulate(scored.risk, protocol)), {"alert": 0.3})
    measured = BINARY_RISK.measure(decided, protocol, 20)
    assert measured == evaluate(scored.outcome, scored.risk, scored.patient, 0.3, scored.subgroups, 20, resamples=20)
    (sensitivity,) = (f.value for f in measured if (f.metric, f.subgroup) == ("sensitivity", "overall"))
    assert sensitivity == pytest.approx(np.mean(decided.filter(pl.col("readmitted") == 1)["alerted"].to_numpy()))


def test_a_comparison_is_of_the_risks_of_both(
    protocol: ModelProtocol, scored: ScoredCohort, rows: pl.DataFrame
) -> None:
    candidate = rows.hstack(BINARY_RISK.tabulate(scored.risk, protocol))
    reference = BINARY_RISK.tabulate(np.full(len(rows), 0.2), protocol)
    compared = BINARY_RISK.compare(candidate, reference, "champion", protocol)
    assert compared == compare(scored.outcome, scored.risk, reference["risk"], scored.patient, "champion")
    assert {finding.metric for finding in compared} >= {"auroc_minus_champion"}


def test_a_graded_outcome_is_an_event_from_its_grade_on(protocol: ModelProtocol) -> None:
    graded = protocol.model_copy(
        update={
            "outcome": Outcome(column="grade", kind="graded", event_from=2, ripe_after_days=0),
            "subgroups": (),
        }
    )
    decided = pl.DataFrame(
        {"patient": list("abcd"), "grade": [0, 1, 2, 4], "risk": [0.1, 0.2, 0.8, 0.9], "threshold": [0.5] * 4}
    )
    measured = {finding.metric: finding.value for finding in BINARY_RISK.measure(decided, graded, 0)}
    assert (measured["prevalence"], measured["sensitivity"], measured["ppv"]) == (0.5, 1.0, 1.0)
