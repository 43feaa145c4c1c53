import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation import EvaluationError, evaluate, normalized_utility
from clinical_assets.evaluation.bootstrap import draw_patients
from clinical_assets.evaluation.findings import METRICS, SENSITIVITY_GAP
from clinical_assets.evaluation.grading import METRICS as GRADING_METRICS
from clinical_assets.evaluation.grading import RENAMED
from clinical_assets.evaluation.hourly_alarms import (
    AT_ALERT,
    AT_UTILITY,
    FIGURES,
    HOURLY_ALARMS,
    OF_HOURS,
    choose_utility_threshold,
    compare_hourly_alarms,
    measure_hourly_alarms,
)
from clinical_assets.evaluation.judgement import HIGHER_IS_BETTER, LOWER_IS_BETTER
from clinical_assets.evaluation.net_benefit import net_benefit
from clinical_assets.protocol import Finding, ModelProtocol, OperatingPoint, Outcome, read_protocol

ADMITTED = datetime(2024, 1, 1, tzinfo=UTC)
THRESHOLDS = {"alert": 0.7, "utility": 0.4}
NET_BENEFITS = {f"net_benefit_{of}at_{percent}_percent" for of in ("", "of_all_") for percent in (1, 2, 5, 10)}


@pytest.fixture(scope="module")
def protocol() -> ModelProtocol:
    return read_protocol("readmission").model_copy(
        update={
            "patient": "patient",
            "index_time": "observed_at",
            "outcome": Outcome(column="sepsis_6h", ripe_after_days=2),
            "operating_point": OperatingPoint(alerted_fraction=0.3, of="patients"),
            "subgroups": ("site", "sex"),
            "minimum_n": 100,
        }
    )


def make_hours(patients: int = 60, decimals: int = 2, seed: int = 3) -> pl.DataFrame:
    """Hours of patients of whom some become septic, in no order, with risks that know a little of it."""
    random = np.random.default_rng(seed)
    stays = []
    for patient in range(patients):
        length = int(random.integers(10, 60))
        first_label = int(random.integers(0, length)) if random.random() < 0.4 else length
        hour = np.arange(length)
        label = (hour >= first_label).astype(int)
        log_odds = random.normal(-1.0, 0.8) + 1.5 * (hour >= first_label - 5) + random.normal(0, 0.5, length)
        stays.append(
            pl.DataFrame(
                {
                    "patient": f"p{patient:03}",
                    "observed_at": [ADMITTED + timedelta(hours=int(each)) for each in hour],
                    "sepsis_6h": pl.Series(label, dtype=pl.Int8),
                    "site": str(random.choice(["A", "B"])),
                    "sex": [None if patient % 7 == 0 else ("female", "male")[patient % 2]] * length,
                    "risk": np.round(1 / (1 + np.exp(-log_odds)), decimals),
                },
                schema_overrides={"sex": pl.String},
            )
        )
    return pl.concat(stays).sample(fraction=1.0, shuffle=True, seed=seed)


@pytest.fixture(scope="module")
def scored() -> pl.DataFrame:
    return HOURLY_ALARMS.decide(make_hours(), THRESHOLDS)


@pytest.fixture(scope="module")
def found(scored: pl.DataFrame, protocol: ModelProtocol) -> dict[tuple[str, str], Finding]:
    return by_key(measure_hourly_alarms(scored, protocol, resamples=80))


def by_key(findings: list[Finding]) -> dict[tuple[str, str], Finding]:
    keyed = {(finding.metric, finding.subgroup): finding for finding in findings}
    assert len(keyed) == len(findings)
    return keyed


def overall(rows: pl.DataFrame, protocol: ModelProtocol) -> dict[str, float | None]:
    alone = protocol.model_copy(update={"subgroups": ()})
    return {finding.metric: finding.value for finding in measure_hourly_alarms(rows, alone, resamples=0)}


def stay(label: list[int], alarm: list[int], patient: str = "a", hours: list[int] | None = None) -> pl.DataFrame:
    """A stay whose alarms are the same at both operating points."""
    hours = hours or list(range(len(label)))
    return pl.DataFrame(
        {
            "patient": patient,
            "observed_at": [ADMITTED + timedelta(hours=hour) for hour in hours],
            "sepsis_6h": label,
            "risk": [0.9 if each else 0.1 for each in alarm],
            "alerted": [bool(each) for each in alarm],
            "alerted_at_utility": [bool(each) for each in alarm],
        }
    )


def count_by_hand(rows: pl.DataFrame, alarmed: str) -> dict[str, float]:
    """The figures of patients, stay by stay and hour by hour."""
    septic = alerted = alerted_septic = hours = alerts = 0
    lead_times = []
    for (_,), one in rows.sort("patient", "observed_at").group_by(["patient"], maintain_order=True):
        label, alarm = one["sepsis_6h"].to_list(), one[alarmed].to_list()
        hours += len(one)
        septic += 1 in label
        alerted += any(alarm)
        alerted_septic += 1 in label and any(alarm)
        alerts += sum(now and not before for before, now in zip([False, *alarm[:-1]], alarm, strict=True))
        if 1 in label and any(alarm) and alarm.index(True) <= label.index(1) + 6:
            lead_times.append(label.index(1) + 6 - alarm.index(True))
    ordered = rows.sort("patient", "observed_at")
    return {
        "sensitivity": len(lead_times) / septic,
        "ppv": alerted_septic / alerted,
        "patients_alerted_per_100": 100 * alerted / rows["patient"].n_unique(),
        "alerts_per_100_patient_days": 100 * alerts / (hours / 24),
        "lead_time_h_quartile_1": float(np.quantile(lead_times, 0.25)),
        "lead_time_h_median": float(np.quantile(lead_times, 0.5)),
        "lead_time_h_quartile_3": float(np.quantile(lead_times, 0.75)),
        "normalized_utility": normalized_utility(ordered["sepsis_6h"], ordered[alarmed], ordered["patient"]),
    }


def test_figures_of_patients_are_those_counted_by_hand(found: dict, scored: pl.DataFrame) -> None:
    by_hand = count_by_hand(scored, "alerted")
    by_hand["normalized_utility_at_alert"] = by_hand.pop("normalized_utility")
    assert {name: found[name, "overall"].value for name in AT_ALERT} == pytest.approx(by_hand, abs=1e-12)
    at_utility = count_by_hand(scored, "alerted_at_utility")
    for name in AT_UTILITY:
        assert found[name, "overall"].value == pytest.approx(at_utility[name.removesuffix("_at_utility")], abs=1e-12)


def test_figures_of_hours_are_those_of_a_binary_evaluation(found: dict, scored: pl.DataFrame) -> None:
    """With no more risks than are drawn, the intervals are the same too."""
    arrays = (scored["sepsis_6h"], scored["risk"], scored["patient"])
    binary = by_key(evaluate(*arrays, 0.7, pl.DataFrame(), 100, resamples=80))
    for name in OF_HOURS:
        ours, theirs = found[name, "overall"], binary[name, "overall"]
        assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-7)


def test_with_many_risks_values_are_exact_and_intervals_nearly_so(protocol: ModelProtocol) -> None:
    rows = HOURLY_ALARMS.decide(make_hours(patients=400, decimals=9), THRESHOLDS)
    assert rows["risk"].n_unique() > 10_000
    alone = protocol.model_copy(update={"subgroups": ()})
    ours = by_key(measure_hourly_alarms(rows, alone, resamples=40))
    theirs = by_key(evaluate(rows["sepsis_6h"], rows["risk"], rows["patient"], 0.7, pl.DataFrame(), 100, resamples=40))
    for name in OF_HOURS:
        one, other = ours[name, "overall"], theirs[name, "overall"]
        assert one.value == pytest.approx(other.value, abs=1e-12)
        assert other.low is not None and other.high is not None
        close = 0.01 * (other.high - other.low)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=close)


def test_up_to_a_thousand_events_are_ranked_exactly_in_the_draws(protocol: ModelProtocol) -> None:
    hours = make_hours(patients=400, decimals=9)
    rare = hours.filter((pl.col("sepsis_6h").max().over("patient") == 0) | pl.col("patient").str.ends_with("7"))
    assert rare["risk"].n_unique() > 5_000 and 0 < rare["sepsis_6h"].sum() < 1_000
    alone = protocol.model_copy(update={"subgroups": ()})
    ours = by_key(measure_hourly_alarms(HOURLY_ALARMS.decide(rare, THRESHOLDS), alone, resamples=40))
    theirs = by_key(evaluate(rare["sepsis_6h"], rare["risk"], rare["patient"], 0.7, pl.DataFrame(), 100, resamples=40))
    for name in ("auroc", "average_precision"):
        one, other = ours[name, "overall"], theirs[name, "overall"]
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


def test_where_all_patients_are_alike_the_interval_is_the_value_also_of_tied_risks(protocol: ModelProtocol) -> None:
    random = np.random.default_rng(1)
    label = (np.arange(4_000) >= 1_500).astype(int)
    log_odds = random.normal(label - 1.0)
    one = stay(label.tolist(), [0] * len(label)).with_columns(risk=pl.Series(1 / (1 + np.exp(-log_odds))))
    alike = pl.concat([one.with_columns(patient=pl.lit(name)) for name in "abc"])
    found = by_key(measure_hourly_alarms(alike, protocol.model_copy(update={"subgroups": ()}), resamples=10))
    for name in OF_HOURS:
        finding = found[name, "overall"]
        assert (finding.low, finding.high) == pytest.approx((finding.value, finding.value), abs=1e-9)


@pytest.mark.parametrize("group", ["overall", "site=B"])
def test_an_interval_is_that_of_cohorts_of_redrawn_patients(
    found: dict, scored: pl.DataFrame, protocol: ModelProtocol, group: str
) -> None:
    names = sorted(scored["patient"].unique())
    redrawn = []
    for block in draw_patients(len(names), len(scored), 80, seed=0):
        for times in block.astype(int):
            copies = pl.DataFrame({"patient": names, "copy": [list(range(n)) for n in times]})
            rows = scored.join(copies.explode("copy", empty_as_null=False), on="patient")
            rows = rows.with_columns(patient=pl.format("{}-{}", "patient", "copy"))
            redrawn.append(overall(rows if group == "overall" else rows.filter(site="B"), protocol))
    for name in (*AT_ALERT, *AT_UTILITY, *(NET_BENEFITS if group == "overall" else ())):
        low, high = np.nanquantile([np.nan if one[name] is None else one[name] for one in redrawn], [0.025, 0.975])
        interval = found[name, group].low, found[name, group].high
        assert interval == pytest.approx((low, high), abs=1e-9), name


def test_every_figure_is_found_in_every_large_enough_subgroup(
    found: dict, scored: pl.DataFrame, protocol: ModelProtocol
) -> None:
    groups = {"overall", "site=A", "site=B", "sex=female", "sex=male", "sex=missing"}
    once = {(name, "overall") for name in (SENSITIVITY_GAP, *NET_BENEFITS)}
    assert set(found) == {(name, group) for name in FIGURES for group in groups} | once
    assert found["auroc", "site=A"].n + found["ppv", "site=B"].n == found["ppv", "overall"].n
    smallest = found["auroc", "sex=missing"].n
    for minimum_n, large in ((smallest, groups), (smallest + 1, groups - {"sex=missing"})):
        measured = measure_hourly_alarms(scored, protocol.model_copy(update={"minimum_n": minimum_n}), resamples=0)
        assert {finding.subgroup for finding in measured} == large


@pytest.mark.parametrize("group", ["site=A", "sex=female"])
def test_a_subgroup_is_measured_as_if_it_were_alone(
    found: dict, scored: pl.DataFrame, protocol: ModelProtocol, group: str
) -> None:
    column, level = group.split("=")
    alone = overall(scored.filter(pl.col(column) == level), protocol)
    for name in FIGURES:
        assert found[name, group].value == pytest.approx(alone[name], abs=1e-7)


def test_the_gap_is_between_the_subgroups_of_the_column_where_it_is_widest(found: dict) -> None:
    gaps = []
    for column in ("site", "sex"):
        values = [f.value for (name, group), f in found.items() if name == "sensitivity" and group.startswith(column)]
        gaps.append(max(values) - min(values))
    gap = found[SENSITIVITY_GAP, "overall"]
    assert gap.value == pytest.approx(max(gaps))
    assert gap.low <= gap.value <= gap.high


def test_one_subgroup_alone_has_no_gap(scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    assert overall(scored, protocol)[SENSITIVITY_GAP] is None
    one_site = protocol.model_copy(update={"subgroups": ("site",)})
    findings = measure_hourly_alarms(scored.with_columns(site=pl.lit("A")), one_site, resamples=0)
    assert by_key(findings)[SENSITIVITY_GAP, "overall"].value is None
    too_small = protocol.model_copy(update={"minimum_n": len(scored)})
    findings = by_key(measure_hourly_alarms(scored, too_small, resamples=5))
    assert {group for _, group in findings} == {"overall"}
    assert findings[SENSITIVITY_GAP, "overall"].value is None


def test_a_patient_belongs_to_the_level_of_the_first_hour(scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    moved = scored.with_columns(
        site=pl.when(pl.col("observed_at") > ADMITTED).then(pl.lit("elsewhere")).otherwise("site")
    )
    one_column = protocol.model_copy(update={"subgroups": ("site",)})
    first, second = (measure_hourly_alarms(rows, one_column, resamples=5) for rows in (scored, moved))
    assert first == second


def test_the_order_of_rows_means_nothing(found: dict, scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    again = by_key(measure_hourly_alarms(scored.sort("risk", "patient"), protocol, resamples=0))
    assert {key: f.value for key, f in again.items()} == pytest.approx(
        {key: f.value for key, f in found.items()}, abs=1e-12
    )


@pytest.mark.parametrize(("first_alarm", "lead_time_h"), [(0, 12.0), (6, 6.0), (12, 0.0), (13, None), (20, None)])
def test_a_septic_patient_is_found_up_to_onset_and_not_after(
    protocol: ModelProtocol, first_alarm: int, lead_time_h: float | None
) -> None:
    label = [int(hour >= 6) for hour in range(24)]
    measured = overall(stay(label, [int(hour >= first_alarm) for hour in range(24)]), protocol)
    assert measured["lead_time_h_median"] == lead_time_h
    assert measured["sensitivity"] == float(lead_time_h is not None)
    assert measured["ppv"] == 1.0


def test_quartiles_of_lead_time_lie_between_patients(protocol: ModelProtocol) -> None:
    label = [int(hour >= 6) for hour in range(24)]
    stays = [stay(label, [int(hour == alarm) for hour in range(24)], f"{alarm}") for alarm in (0, 6, 20)]
    measured = overall(pl.concat(stays), protocol)
    quartiles = [measured[f"lead_time_h_{name}"] for name in ("quartile_1", "median", "quartile_3")]
    assert quartiles == pytest.approx([7.5, 9.0, 10.5])


def test_onset_goes_by_the_clock_where_an_hour_is_missing(protocol: ModelProtocol) -> None:
    label, alarm = [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]
    assert overall(stay(label, alarm, hours=[0, 1, 2, 3, 8]), protocol)["lead_time_h_median"] == 0.0
    assert overall(stay(label, alarm, hours=[0, 1, 2, 3, 9]), protocol)["sensitivity"] == 0.0


def test_an_alarm_at_onset_to_the_second_is_in_time(protocol: ModelProtocol) -> None:
    rows = stay([0] * 6 + [1] * 10, [0] * 12 + [1] * 4)
    for seconds in (0, 7, 1_201):
        shifted = rows.with_columns(pl.col("observed_at") + timedelta(seconds=seconds))
        assert overall(shifted, protocol)["sensitivity"] == 1.0


def test_an_alert_begins_after_silence_and_with_each_patient(protocol: ModelProtocol) -> None:
    rows = pl.concat([stay([0] * 12, [1, 1, 0, 1] * 3, "a"), stay([0] * 12, [1] * 12, "b")])
    assert overall(rows, protocol)["alerts_per_100_patient_days"] == 500.0


def test_what_is_undefined_is_none_and_never_a_number(protocol: ModelProtocol) -> None:
    nobody_septic = pl.concat([stay([0] * 4, [0, 1, 0, 0], "a"), stay([0] * 4, [0] * 4, "b")])
    silent = pl.concat([stay([0] * 4, [0] * 4, "a"), stay([0, 0, 1, 1], [0] * 4, "b")])
    undefined = {
        name: {
            finding.metric
            for finding in measure_hourly_alarms(rows, protocol.model_copy(update={"subgroups": ()}), resamples=20)
            if (finding.value, finding.low, finding.high) == (None, None, None)
        }
        for name, rows in (("nobody_septic", nobody_septic), ("silent", silent))
    }
    lead_times = {"lead_time_h_quartile_1", "lead_time_h_median", "lead_time_h_quartile_3"} | {
        "lead_time_h_median_at_utility"
    }
    of_patients = {"sensitivity", "sensitivity_at_utility", "normalized_utility", "normalized_utility_at_alert"}
    of_hours = {"auroc", "average_precision", "calibration_slope", "calibration_intercept"}
    assert undefined["nobody_septic"] == {*lead_times, *of_patients, *of_hours, SENSITIVITY_GAP}
    assert undefined["silent"] == {*lead_times, "ppv", "ppv_at_utility", "calibration_slope", SENSITIVITY_GAP}


@pytest.mark.parametrize("case", ["noisy", "never", "always", "early6", "late9"])
def test_figures_are_those_of_the_official_scorer(raw_archives: Path, protocol: ModelProtocol, case: str) -> None:
    expected = json.loads((raw_archives / "physionet2019" / "utility_expected.json").read_text())
    (official,) = (one for one in expected if one["case"] == case)
    cases = pl.read_csv(raw_archives / "physionet2019" / "utility_cases.csv").filter(pl.col("case") == case)
    rows = cases.with_columns(
        pl.lit(ADMITTED).alias("observed_at") + pl.duration(hours="hour"),
        sepsis_6h="label",
        risk="probability",
        alerted=pl.col("prediction") == 1,
        alerted_at_utility=pl.col("prediction") == 1,
    )
    measured = overall(rows, protocol)
    assert measured["normalized_utility"] == pytest.approx(official["normalized_utility"], abs=1e-9)
    assert measured["auroc"] == pytest.approx(official["auroc"], abs=1e-9)
    assert measured["average_precision"] == pytest.approx(official["auprc"], abs=1e-9)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_no_risk_has_a_higher_utility_than_the_chosen_one(protocol: ModelProtocol, seed: int) -> None:
    rows = make_hours(30, seed=seed)
    ordered = rows.sort("patient", "observed_at")
    by_threshold = {
        threshold: normalized_utility(ordered["sepsis_6h"], ordered["risk"] >= threshold, ordered["patient"])
        for threshold in rows["risk"].unique()
    }
    chosen = choose_utility_threshold(rows, protocol)
    assert by_threshold[chosen] == pytest.approx(max(by_threshold.values()), abs=1e-12)
    assert by_threshold[chosen] > 0


def test_where_every_alarm_costs_more_than_it_gains_the_threshold_is_never_reached(protocol: ModelProtocol) -> None:
    well = pl.concat([stay([0] * 50, [1] * 50, f"well{i}") for i in range(10)])
    septic = stay([0] * 4 + [1] * 4, [0] * 8, "septic").with_columns(risk=pl.lit(0.01))
    rows = pl.concat([well, septic])
    threshold = choose_utility_threshold(rows, protocol)
    assert threshold > 0.9
    assert not (rows["risk"] >= threshold).any()


def test_without_a_septic_patient_no_threshold_is_chosen(protocol: ModelProtocol) -> None:
    with pytest.raises(EvaluationError, match="of 1 patients of the calibration split none is septic"):
        choose_utility_threshold(stay([0] * 4, [0, 1, 0, 0]), protocol)


def test_thresholds_come_from_calibration_and_decide_other_rows(protocol: ModelProtocol) -> None:
    calibrate, test = make_hours(seed=3), make_hours(seed=4)
    thresholds = HOURLY_ALARMS.choose_thresholds(calibrate, protocol)
    assert set(thresholds) == {"alert", "utility"}
    ever = calibrate.group_by("patient").agg(pl.col("risk").max() >= thresholds["alert"])["risk"].mean()
    assert isinstance(ever, float) and 0.2 < ever <= 0.3
    decided = HOURLY_ALARMS.decide(HOURLY_ALARMS.tabulate(test["risk"].to_numpy(), protocol), thresholds)
    assert decided["alerted"].to_list() == (test["risk"] >= thresholds["alert"]).to_list()
    assert decided["alerted_at_utility"].to_list() == (test["risk"] >= thresholds["utility"]).to_list()
    assert decided["threshold"].unique().to_list() == [thresholds["alert"]]
    assert decided["utility_threshold"].unique().to_list() == [thresholds["utility"]]


def test_a_comparison_is_of_each_ones_own_thresholds(
    found: dict, scored: pl.DataFrame, protocol: ModelProtocol
) -> None:
    other = HOURLY_ALARMS.decide(
        scored.select(risk=(0.5 * pl.col("risk") + 0.2).round(1)), {"alert": 0.5, "utility": 0.3}
    )
    others = overall(scored.with_columns(other), protocol)
    compared = by_key(compare_hourly_alarms(scored, other, "champion", protocol))
    names = {"normalized_utility", "auroc", "average_precision", "sensitivity"}
    assert set(compared) == {(f"{name}_minus_champion", "overall") for name in names}
    for name in names:
        finding = compared[f"{name}_minus_champion", "overall"]
        assert finding.value == pytest.approx(found[name, "overall"].value - (others[name] or 0))
        assert finding.low is not None and finding.high is not None and finding.value is not None
        assert finding.low < finding.value < finding.high


def test_a_model_compared_with_itself_differs_by_nothing(scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    same = HOURLY_ALARMS.compare(scored, scored, "first_release", protocol)
    assert [(finding.value, finding.low, finding.high) for finding in same] == [(0.0, 0.0, 0.0)] * 4


def test_a_reference_of_other_rows_is_refused(scored: pl.DataFrame, protocol: ModelProtocol) -> None:
    with pytest.raises(EvaluationError, match="the champion 5; score both on the same rows"):
        compare_hourly_alarms(scored, scored.head(5), "champion", protocol)


def test_net_benefit_is_that_of_the_curve(found: dict, scored: pl.DataFrame) -> None:
    curve = net_benefit(scored["sepsis_6h"], scored["risk"], [0.01, 0.02, 0.05, 0.10])
    for percent, row in zip((1, 2, 5, 10), curve.iter_rows(named=True), strict=True):
        assert found[f"net_benefit_at_{percent}_percent", "overall"].value == pytest.approx(row["model"])
        assert found[f"net_benefit_of_all_at_{percent}_percent", "overall"].value == pytest.approx(row["all"])


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("observed_at", [None, ADMITTED, ADMITTED, ADMITTED], "observed_at: 1 of 4 rows have none"),
        ("observed_at", [ADMITTED] * 4, "observed_at: 3 of 4 rows repeat an hour of their patient"),
        ("observed_at", [ADMITTED.date()] * 4, "observed_at is of type Date; hourly alarms need a date and time"),
        ("sepsis_6h", [0, 1, None, None], "outcome: 2 of 4 rows are neither 0 nor 1; leave unripe rows out"),
        ("patient", ["a", None, "a", "a"], "patient: 1 of 4 rows have none"),
        ("risk", [0.1, 0.2, 0.3, 1.1], "risk: 1 of 4 rows are no probability"),
    ],
)
def test_what_is_no_hour_is_refused_with_how_many(
    protocol: ModelProtocol, column: str, values: list[object], words: str
) -> None:
    rows = stay([0, 0, 1, 1], [0, 0, 1, 1]).with_columns(pl.Series(column, values))
    with pytest.raises(EvaluationError, match=words):
        measure_hourly_alarms(rows, protocol.model_copy(update={"subgroups": ()}), 0)


def test_every_direction_of_judgement_is_of_a_metric_that_is_measured() -> None:
    measured = {*METRICS, *FIGURES, *NET_BENEFITS, SENSITIVITY_GAP, *GRADING_METRICS, *RENAMED.values()}
    assert measured >= HIGHER_IS_BETTER | LOWER_IS_BETTER
    assert not HIGHER_IS_BETTER & LOWER_IS_BETTER


def test_metrics_of_hours_are_a_choice_among_those_of_a_binary_evaluation() -> None:
    assert set(OF_HOURS) < set(METRICS)
