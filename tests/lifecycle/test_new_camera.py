import dagster as dg
import numpy as np
import polars as pl
from small_fundus import SCREENING, SCREENING_MONTHS, NewCamera

from clinical_assets.archives.handheld_camera import HANDHELD
from clinical_assets.learning.fundus_network import REPRESENTED
from clinical_assets.lifecycle.month_look import MonthLook, history_through, see_drift_report, see_scored_history
from clinical_assets.lifecycle.release import predictions
from clinical_assets.monitoring.drift import JOINTLY
from clinical_assets.monitoring.image_statistics import STATISTICS

JUNE, JULY = SCREENING_MONTHS[2:]
REPRESENTATION = {f"representation_{number}" for number in range(1, REPRESENTED + 1)}


def month_of(at: NewCamera, asset: str, month: object = JULY) -> pl.DataFrame:
    return at.platform.lake.read(f"{SCREENING}.{asset}").filter(month=month)


def test_a_camera_never_seen_in_training_is_a_data_fault_that_is_named(new_camera: NewCamera) -> None:
    assert month_of(new_camera, "features")["camera"].unique().to_list() == [HANDHELD.name]
    report = month_of(new_camera, "drift_report")
    assert report["verdict"].unique().to_list() == ["data_fault"]
    assert "camera: 100.0 % of rows come from a device never seen in training" in report["reason"][0]
    assert set(report.filter("faulty")["column"]) >= {"camera"}
    plan = month_of(new_camera, "repair_plan")
    assert plan["repair"].unique().to_list() == ["fix_data"]


def test_one_image_of_a_new_camera_in_a_month_of_the_old_one_alarms_at_once(new_camera: NewCamera) -> None:
    """All else of the image is as it was."""
    platform, resources = new_camera.platform, new_camera.platform.resources
    june = month_of(new_camera, "features", JUNE)
    asked = {"protocol": platform.protocol, "registry": resources["registry"]}
    scored = value_of(predictions(features=june, release=new_camera.version, **asked))

    def verdicts(features: pl.DataFrame) -> tuple[str, str]:
        look = MonthLook.of(platform.protocol, features, scored, platform.lake, platform.registry, "a test")
        history = history_through(look, see_scored_history(look).frame)
        report = see_drift_report(look, history, month_of(new_camera, "estimated_performance", JULY)).frame
        return report["verdict"][0], report["reason"][0]

    assert verdicts(june)[0] != "data_fault"
    first = pl.int_range(pl.len()) == 0
    verdict, reason = verdicts(june.with_columns(camera=pl.when(first).then(pl.lit("new")).otherwise("camera")))
    assert verdict == "data_fault"
    assert "Faulty data: camera: 1.7 % of rows come from a device never seen in training" in reason


def test_drift_watches_image_statistics_the_device_and_what_the_model_made_of_the_images(
    new_camera: NewCamera,
) -> None:
    watched = set(month_of(new_camera, "drift_report")["column"]) - {JOINTLY}
    assert watched == {*STATISTICS, "camera", "predicted_risk", "predicted_grade"}


def test_a_profile_holds_image_statistics_the_network_s_features_and_its_grades(new_camera: NewCamera) -> None:
    profiled = month_of(new_camera, "profile")
    assert set(profiled["column"]) == {
        *STATISTICS,
        *REPRESENTATION,
        *("camera", "risk", "alerted", "predicted_grade"),
    }
    assert profiled["n"].unique().to_list() == [month_of(new_camera, "features").height]


def test_every_image_has_a_probability_for_each_grade_and_a_referral(new_camera: NewCamera) -> None:
    scored = month_of(new_camera, "predictions")
    grades = scored.select(f"probability_{grade}" for grade in range(5))
    assert np.allclose(grades.sum_horizontal(), 1.0)
    referable = scored.select(pl.sum_horizontal("probability_2", "probability_3", "probability_4")).to_series()
    assert np.allclose(referable, scored["risk"])
    assert scored["alerted"].to_list() == (scored["risk"] >= new_camera.version.threshold).to_list()
    assert set(new_camera.version.thresholds) == {"alert", *(f"grade_from_{grade}" for grade in range(1, 5))}


def test_a_candidate_is_judged_on_grades_and_its_report_has_no_image_by_name(new_camera: NewCamera) -> None:
    measured = new_camera.platform.lake.read(f"{SCREENING}.evaluation", where={"version": 1})
    assert {"accuracy", "quadratic_weighted_kappa", "sensitivity", "specificity"} <= set(measured["metric"])
    report = new_camera.platform.home.report(SCREENING, 1).read_text()
    known = new_camera.platform.lake.read(f"{SCREENING}.features")
    assert not [name for name in known["image_id"] if name in report]


def value_of(result: object) -> pl.DataFrame:
    assert isinstance(result, dg.MaterializeResult)
    return result.value
