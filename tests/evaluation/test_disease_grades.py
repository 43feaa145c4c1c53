import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation.disease_grades import DISEASE_GRADES
from clinical_assets.evaluation.grading import compare_grading, evaluate_grading
from clinical_assets.protocol import ModelProtocol, OperatingPoint, Outcome, read_protocol

GRADES = 5


@pytest.fixture(scope="module")
def protocol() -> ModelProtocol:
    return read_protocol("readmission").model_copy(
        update={
            "patient": "patient",
            "outcome": Outcome(column="grade", kind="graded", event_from=2, ripe_after_days=0),
            "operating_point": OperatingPoint(alerted_fraction=0.3),
            "subgroups": ("camera",),
            "minimum_n": 20,
        }
    )


def make_images(n: int = 300, seed: int = 1) -> tuple[pl.DataFrame, np.ndarray]:
    """Images of known grade, and probabilities that know a little of it and are too low on the whole."""
    random = np.random.default_rng(seed)
    grade = random.choice(GRADES, n, p=[0.45, 0.12, 0.19, 0.18, 0.06])
    probability = random.dirichlet([4, 1, 1, 1, 1], n) + 0.3 * np.eye(GRADES)[grade]
    images = pl.DataFrame(
        {
            "patient": [f"p{number // 2}" for number in range(n)],
            "grade": pl.Series(grade, dtype=pl.Int8),
            "camera": ["old", "new", "new"] * (n // 3),
        }
    )
    return images, probability / probability.sum(axis=1, keepdims=True)


def test_a_probability_a_grade_is_a_column_and_the_risk_is_that_of_referable_disease(protocol: ModelProtocol) -> None:
    tabulated = DISEASE_GRADES.tabulate(np.array([[0.5, 0.2, 0.1, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0, 1.0]]), protocol)
    assert tabulated.columns == ["risk", *(f"probability_{grade}" for grade in range(GRADES))]
    assert tabulated["risk"].to_list() == pytest.approx([0.3, 1.0])
    assert tabulated["probability_1"].to_list() == [0.2, 0.0]


def test_thresholds_are_the_alert_and_a_cut_before_each_grade_but_the_first(protocol: ModelProtocol) -> None:
    images, probability = make_images()
    thresholds = DISEASE_GRADES.choose_thresholds(
        images.hstack(DISEASE_GRADES.tabulate(probability, protocol)), protocol
    )
    assert list(thresholds) == ["alert", *(f"grade_from_{grade}" for grade in range(1, GRADES))]
    cuts = [thresholds[f"grade_from_{grade}"] for grade in range(1, GRADES)]
    assert cuts == sorted(cuts)
    assert all(type(value) is float for value in thresholds.values())


def test_the_thresholds_of_calibration_decide_other_images(protocol: ModelProtocol) -> None:
    probability = np.array([[1, 0, 0, 0, 0], [0.4, 0.6, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0.4, 0.6]], dtype=float)
    cuts = {"grade_from_1": 0.6, "grade_from_2": 1.5, "grade_from_3": 2.1, "grade_from_4": 3.7}
    decided = DISEASE_GRADES.decide(DISEASE_GRADES.tabulate(probability, protocol), {"alert": 0.9, **cuts})
    assert decided["predicted_grade"].to_list() == [0, 1, 2, 3]
    assert decided["alerted"].to_list() == [False, False, True, True]
    assert decided["threshold"].to_list() == [0.9] * 4
    lenient = DISEASE_GRADES.decide(
        DISEASE_GRADES.tabulate(probability, protocol), {"alert": 1.0, **cuts, "grade_from_4": 3.5}
    )
    assert lenient["predicted_grade"].to_list() == [0, 1, 2, 4]


def test_chosen_cuts_agree_better_with_the_graders_than_rounding_does(protocol: ModelProtocol) -> None:
    images, probability = make_images()
    tabulated = images.hstack(DISEASE_GRADES.tabulate(probability, protocol))
    chosen = DISEASE_GRADES.choose_thresholds(tabulated, protocol)
    rounding = {"alert": chosen["alert"], **{f"grade_from_{grade}": grade - 0.5 for grade in range(1, GRADES)}}
    kappa = {}
    for name, thresholds in (("chosen", chosen), ("rounding", rounding)):
        measured = DISEASE_GRADES.measure(DISEASE_GRADES.decide(tabulated, thresholds), protocol, 0)
        (kappa[name],) = (
            f.value for f in measured if f.metric == "quadratic_weighted_kappa" and f.subgroup == "overall"
        )
    assert kappa["chosen"] > kappa["rounding"]


def test_the_alert_keeps_to_the_share_of_the_protocol(protocol: ModelProtocol) -> None:
    images, probability = make_images()
    tabulated = images.hstack(DISEASE_GRADES.tabulate(probability, protocol))
    decided = DISEASE_GRADES.decide(tabulated, DISEASE_GRADES.choose_thresholds(tabulated, protocol))
    assert decided["alerted"].mean() == 0.3


def test_decided_images_are_measured_and_compared_as_graded(protocol: ModelProtocol) -> None:
    images, probability = make_images()
    tabulated = images.hstack(DISEASE_GRADES.tabulate(probability, protocol))
    thresholds = DISEASE_GRADES.choose_thresholds(tabulated, protocol)
    decided = DISEASE_GRADES.decide(tabulated, thresholds)
    grade, predicted = images["grade"].to_numpy(), decided["predicted_grade"].to_numpy()
    measured = DISEASE_GRADES.measure(decided, protocol, 20)
    assert measured == evaluate_grading(
        grade, probability, predicted, images["patient"], thresholds["alert"], images.select("camera"), 20, resamples=20
    )
    assert {finding.subgroup for finding in measured} == {"overall", "camera=new", "camera=old"}
    _, other = make_images(seed=2)
    reference = DISEASE_GRADES.decide(DISEASE_GRADES.tabulate(other, protocol), thresholds)
    other_grade = reference["predicted_grade"].to_numpy()
    compared = DISEASE_GRADES.compare(decided, reference, "champion", protocol)
    assert compared == compare_grading(grade, probability, predicted, other, other_grade, images["patient"], "champion")


def test_the_disease_that_is_referred_begins_where_the_protocol_says(protocol: ModelProtocol) -> None:
    severe = protocol.model_copy(
        update={"outcome": Outcome(column="grade", kind="graded", event_from=4, ripe_after_days=0)}
    )
    images, probability = make_images()
    tabulated = DISEASE_GRADES.tabulate(probability, severe)
    assert tabulated["risk"].to_list() == pytest.approx(probability[:, 4].tolist())
    cuts = {f"grade_from_{grade}": grade - 0.5 for grade in range(1, GRADES)}
    decided = DISEASE_GRADES.decide(images.hstack(tabulated), {"alert": 0.2, **cuts})
    measured = {(f.metric, f.subgroup): f.value for f in DISEASE_GRADES.measure(decided, severe, 0)}
    assert measured["prevalence", "overall"] == pytest.approx((images["grade"] == 4).mean())
