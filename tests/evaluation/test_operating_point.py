import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation.operating_point import choose_alert_threshold, choose_threshold
from clinical_assets.evaluation.sample import EvaluationError
from clinical_assets.protocol import ModelProtocol, OperatingPoint, read_protocol


@pytest.fixture(scope="module")
def quarter_of_patients() -> ModelProtocol:
    point = OperatingPoint(alerted_fraction=0.25, of="patients")
    return read_protocol("readmission").model_copy(update={"patient": "patient", "operating_point": point})


def test_the_threshold_alerts_exactly_the_share_when_no_risks_are_equal() -> None:
    risk = np.random.default_rng(0).permutation(np.linspace(0.01, 0.99, 1000))
    assert (risk >= choose_threshold(risk, 0.1)).sum() == 100


def test_equal_risks_are_alerted_together_and_never_beyond_the_share() -> None:
    risk = np.array([0.9, 0.5, 0.5, 0.5, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1])
    assert choose_threshold(risk, 0.3) == 0.9
    assert choose_threshold(risk, 0.4) == 0.5


def test_a_share_that_is_not_exact_in_binary_is_kept() -> None:
    assert choose_threshold(np.arange(100) / 100, 0.29) == 0.71


@pytest.mark.parametrize(
    ("risk", "allowed"), [([], "0 units"), ([0.1] * 9, "0 units"), ([0.3] * 20, "2 units, and 20")]
)
def test_where_no_unit_may_be_alerted_there_is_no_threshold(risk: list[float], allowed: str) -> None:
    with pytest.raises(EvaluationError, match=allowed):
        choose_threshold(np.array(risk), 0.1)


def test_a_share_of_patients_counts_those_ever_alerted(quarter_of_patients: ModelProtocol) -> None:
    """Of four patients one may be alerted, however many hours that takes."""
    rows = pl.DataFrame({"patient": list("aaaabbccdd"), "risk": [0.9, 0.8, 0.7, 0.6, 0.1, 0.5, 0.4, 0.3, 0.2, 0.2]})
    threshold = choose_alert_threshold(rows, quarter_of_patients)
    assert threshold == 0.9
    assert rows.filter(pl.col("risk") >= threshold)["patient"].unique().to_list() == ["a"]


def test_a_share_of_patients_is_another_threshold_than_that_of_units(quarter_of_patients: ModelProtocol) -> None:
    rows = pl.DataFrame({"patient": list("abcdabcd"), "risk": [0.8, 0.7, 0.6, 0.5, 0.1, 0.1, 0.1, 0.1]})
    of_units = quarter_of_patients.model_copy(update={"operating_point": OperatingPoint(alerted_fraction=0.25)})
    assert choose_alert_threshold(rows, quarter_of_patients) == 0.8
    assert choose_alert_threshold(rows, of_units) == 0.7


def test_patients_of_equal_highest_risk_are_alerted_together_or_not_at_all(quarter_of_patients: ModelProtocol) -> None:
    rows = pl.DataFrame({"patient": list("aabbcd"), "risk": [0.9, 0.1, 0.2, 0.9, 0.3, 0.4]})
    with pytest.raises(EvaluationError, match="25 of 4 patients: that is 1 patients, and 2 share the highest risk"):
        choose_alert_threshold(rows, quarter_of_patients)
