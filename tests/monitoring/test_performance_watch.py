from datetime import date
from itertools import product

import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation.calibration import calibration_slope, from_logit, observed_expected_ratio
from clinical_assets.evaluation.discrimination import auroc
from clinical_assets.evaluation.sample import Sample
from clinical_assets.monitoring.performance import PerformanceError
from clinical_assets.monitoring.performance_watch import (
    accumulate_from_any_month,
    subgroup_alarms,
    watch_performance,
)
from clinical_assets.protocol import Finding

THRESHOLD = 0.2
WARDS = tuple(f"w{number}" for number in range(8))


def draw_scored(rng: np.random.Generator, patients: int, months: int, spread: float = 1.0) -> pl.DataFrame:
    log_odds = rng.normal(-2.0, 1.0, (months, patients))
    risk = from_logit(log_odds).ravel()
    return pl.DataFrame(
        {
            "event": (rng.random(risk.size) < from_logit(-2.0 + spread * (log_odds + 2.0)).ravel()).astype(np.int8),
            "risk": risk,
            "alerted": risk >= THRESHOLD,
            "patient": np.arange(risk.size),
            "month": [date(2025, month + 1, 1) for month in range(months) for _ in range(patients)],
        }
    )


def draw_wards(rng: np.random.Generator, months: int, fallen: str | None = None, falls_in: int = 4) -> pl.DataFrame:
    """Eight wards with about 40 events a month each; sensitivity .80, and .55 in the fallen one."""
    frames = []
    for month, ward in product(range(1, months + 1), WARDS):
        events = rng.poisson(40)
        sensitivity = 0.55 if ward == fallen and month >= falls_in else 0.80
        event = np.arange(events + 160) < events
        frames.append(
            pl.DataFrame(
                {
                    "event": event.astype(np.int8),
                    "alerted": rng.random(event.size) < np.where(event, sensitivity, 0.15),
                    "month": date(2025, month, 1),
                    "ward": ward,
                }
            )
        )
    return pl.concat(frames).with_row_index("patient")


def sensitivity_at_release(subgroup: str, value: float, events: int) -> Finding:
    half_width = 1.96 * np.sqrt(value * (1 - value) / events)
    return Finding("sensitivity", subgroup, value, float(value - half_width), float(value + half_width), events * 5)


WARDS_AT_RELEASE = [sensitivity_at_release("overall", 0.8, 2_400)] + [
    sensitivity_at_release(f"ward={ward}", 0.8, 300) for ward in WARDS
]


def test_a_fall_of_one_subgroup_in_eight_is_found_while_the_overall_figure_looks_fine() -> None:
    alarms = subgroup_alarms(draw_wards(np.random.default_rng(1), 10, "w3"), WARDS_AT_RELEASE, ["ward"])
    alarmed = alarms.filter("alarmed")
    assert alarmed["subgroup"].unique().to_list() == ["ward=w3"]
    assert date(2025, 4, 1) < alarmed["month"][0] <= date(2025, 9, 1)
    assert alarmed["began"][-1] == date(2025, 4, 1)


def test_a_year_without_a_fall_raises_no_alarm() -> None:
    rng = np.random.default_rng(2)
    alarmed = [subgroup_alarms(draw_wards(rng, 12), WARDS_AT_RELEASE, ["ward"])["alarmed"].any() for _ in range(8)]
    assert not any(alarmed)


def test_a_baseline_of_few_events_does_not_turn_its_own_luck_into_an_alarm() -> None:
    rng = np.random.default_rng(3)
    lucky = [sensitivity_at_release("overall", 0.8, 2_400), sensitivity_at_release("ward=w1", 0.93, 40)]
    alarms = subgroup_alarms(draw_wards(rng, 12), lucky, ["ward"])
    assert not alarms["alarmed"].any()


def test_a_group_without_a_baseline_is_listed_and_never_called_fine() -> None:
    alarms = subgroup_alarms(draw_wards(np.random.default_rng(4), 2), WARDS_AT_RELEASE[:4], ["ward"])
    unknown = alarms.filter(subgroup="ward=w7")
    assert unknown["alarmed"].to_list() == [None, None]
    assert unknown["log10_evidence"].null_count() == 2


def test_a_baseline_interval_without_width_tells_nothing() -> None:
    perfect = [Finding("sensitivity", "overall", 1.0, 1.0, 1.0, 50)]
    alarms = subgroup_alarms(draw_wards(np.random.default_rng(5), 2), perfect, [])
    assert alarms["alarmed"].null_count() == 2


def test_bounds_hold_at_every_look_of_a_year() -> None:
    rng = np.random.default_rng(6)
    missed = 0
    for _ in range(60):
        event = np.ones(12 * 15, dtype=np.int8)
        rows = pl.DataFrame(
            {
                "event": event,
                "alerted": rng.random(event.size) < 0.7,
                "patient": np.arange(event.size),
                "month": [date(2025, month, 1) for month in range(1, 13) for _ in range(15)],
            }
        )
        watched = watch_performance(rows, [], metrics=["sensitivity"])
        missed += not watched.select(((pl.col("low") <= 0.7) & (pl.col("high") >= 0.7)).all()).item()
    assert missed <= 6


def test_bounds_of_ranking_and_calibration_hold_at_every_look() -> None:
    rng = np.random.default_rng(7)
    whole = draw_scored(rng, 300_000, 1)
    truth = watch_performance(whole, [], metrics=["auroc"])["value"][0]
    missed = dict.fromkeys(("auroc", "observed_expected_ratio", "calibration_slope"), 0)
    for _ in range(40):
        watched = watch_performance(draw_scored(rng, 200, 6), [], metrics=list(missed))
        for metric in missed:
            right = truth if metric == "auroc" else 1.0
            kept = watched.filter(metric=metric).select(((pl.col("low") < right) & (pl.col("high") > right)).all())
            missed[metric] += not kept.item()
    assert max(missed.values()) <= 5


def test_values_are_those_of_the_evaluation() -> None:
    rows = draw_scored(np.random.default_rng(8), 500, 3).with_columns(pl.col("risk").round(2))
    watched = watch_performance(rows, [])
    sample = Sample.of(
        rows["event"].to_numpy().astype(np.float64),
        rows["risk"].to_numpy(),
        rows["alerted"].to_numpy().astype(np.float64),
        np.arange(rows.height),
    )
    for metric in (auroc, observed_expected_ratio, calibration_slope):
        so_far = watched.filter(metric=metric.__name__)["value_so_far"][-1]
        assert so_far == pytest.approx(float(metric(sample, np.ones((1, rows.height)))[0]))
    events = rows.filter(event=1)
    assert watched.filter(metric="sensitivity")["value_so_far"][-1] == pytest.approx(events["alerted"].mean())
    assert watched.filter(metric="ppv")["value"][-1] == pytest.approx(
        rows.filter("alerted", month=date(2025, 3, 1))["event"].mean()
    )


def test_rows_repeated_within_a_patient_do_not_narrow_any_bound() -> None:
    rows = draw_scored(np.random.default_rng(9), 400, 3)
    once, thrice = watch_performance(rows, []), watch_performance(pl.concat([rows] * 3), [])
    width = pl.col("high") - pl.col("low")
    assert np.all(thrice.select(width).to_numpy() >= once.select(width).to_numpy() - 1e-9)


def test_a_fall_is_below_the_baseline_only_beyond_both_intervals() -> None:
    rows = draw_scored(np.random.default_rng(10), 1_500, 4, spread=0.2)
    sure, unsure = Finding("auroc", "overall", 0.75, 0.73, 0.77, 9), Finding("auroc", "overall", 0.75, 0.4, 0.9, 9)
    assert watch_performance(rows, [sure], metrics=["auroc"])["below_baseline"][-1]
    assert not watch_performance(rows, [unsure], metrics=["auroc"])["below_baseline"][-1]
    assert watch_performance(rows, [], metrics=["auroc"])["below_baseline"].null_count() == 4


def test_alarms_in_time_alone_count_where_the_rows_say_which_were() -> None:
    rows = draw_wards(np.random.default_rng(11), 1).with_columns(found=pl.lit(0, pl.Int8))
    watched = watch_performance(rows, [], metrics=["sensitivity", "ppv"])
    assert watched.filter(metric="sensitivity")["value"][0] == 0.0
    assert watched.filter(metric="ppv")["value"][0] > 0.0


def test_a_month_without_an_event_has_no_value_and_no_invented_bound() -> None:
    rows = draw_scored(np.random.default_rng(12), 50, 2).with_columns(event=pl.lit(0, pl.Int8))
    watched = watch_performance(rows, [])
    undefined = watched.filter(pl.col("metric").is_in(["auroc", "calibration_slope", "sensitivity"]))
    assert undefined["value"].null_count() == undefined.height
    assert undefined["low"].null_count() == undefined.height
    assert watched.filter(metric="observed_expected_ratio")["low"].null_count() == 2


def test_a_fair_bet_accumulates_to_one_on_average_at_every_look() -> None:
    outcomes = list(product([np.log(1.9), np.log(0.1)], repeat=4))
    evidence = np.array([np.exp(accumulate_from_any_month(np.array([path])).log_evidence) for path in outcomes])
    assert evidence.mean(axis=0) == pytest.approx(np.ones(4))


def test_evidence_of_a_later_year_starts_anew() -> None:
    quiet, loud = np.zeros((1, 14)), np.zeros((1, 14))
    loud[0, 13] = np.log(1_000)
    assert accumulate_from_any_month(quiet).log_evidence == pytest.approx(np.zeros(14))
    found = accumulate_from_any_month(loud)
    assert found.log_evidence[-1] > np.log(160)


def test_rows_that_cannot_be_watched_are_refused() -> None:
    rows = draw_scored(np.random.default_rng(13), 20, 1)
    with pytest.raises(PerformanceError, match=r"lack the columns \['ward'\]"):
        subgroup_alarms(rows, [], ["ward"])
    with pytest.raises(PerformanceError, match=r"metrics \['utility'\] cannot be watched"):
        watch_performance(rows, [], metrics=["utility"])
    with pytest.raises(PerformanceError, match="alerted: 20 of 20 rows have none"):
        watch_performance(rows.with_columns(alerted=pl.lit(None, pl.Boolean)), [])
