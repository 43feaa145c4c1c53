from datetime import date

import polars as pl

from clinical_assets.reporting.shown_tables import SHOWN_TABLES

JANUARY, FEBRUARY, MARCH = date(2025, 1, 1), date(2025, 2, 1), date(2025, 3, 1)


def shown(name: str, **tables: pl.DataFrame) -> pl.DataFrame:
    return SHOWN_TABLES[name].show(tables)


def performance(month: date, subgroup: str, n: int, found: int) -> list[dict[str, object]]:
    common = {"month": month, "model_version": 1, "subgroup": subgroup, "n": n, "low": 0.0, "high": 1.0}
    values = {"prevalence": 0.5, "alerts_per_100": 50.0, "sensitivity": found / (n // 2), "ppv": found / (n // 2)}
    of_month = [{**common, "metric": name, "value": value} for name, value in values.items()]
    event = {
        **common,
        "metric": "event_sensitivity",
        "value": found / (n // 2),
        "estimated": 0.4,
        "estimate_low": 0.3,
        "estimate_high": 0.5,
        "estimate_error": 0.1,
        "estimate_covered": True,
        "value_so_far": 0.5,
        "low_so_far": 0.4,
        "high_so_far": 0.6,
        "baseline": 0.5,
        "below_baseline": False,
        "alarmed": False,
    }
    return [*of_month, event]


def test_a_hidden_month_cannot_be_told_from_the_figures_since_release() -> None:
    found = {JANUARY: 50, FEBRUARY: 6, MARCH: 50}
    rows = [row for month, patients in found.items() for row in performance(month, "overall", 200, patients)]
    report = pl.DataFrame(rows, infer_schema_length=None)
    event = shown("performance_report", performance_report=report).filter(metric="event_sensitivity").sort("month")
    assert event["value"].is_null().to_list() == [False, True, False]
    assert event["estimate_error"].is_null().to_list() == [False, True, False]
    assert event["value_so_far"].is_null().to_list() == [False, True, True]
    assert event["estimated"].is_null().to_list() == [False, False, False]
    assert event["suppressed"].to_list() == [False, True, True]


def test_a_baseline_is_withheld_with_the_figure_of_the_release() -> None:
    report = pl.DataFrame(performance(JANUARY, "overall", 200, 50), infer_schema_length=None)
    released = pl.DataFrame(
        {
            "version": [1] * 4,
            "metric": ["prevalence", "alerts_per_100", "sensitivity", "ppv"],
            "subgroup": ["overall"] * 4,
            "value": [0.5, 50.0, 0.08, 0.08],
            "n": [200] * 4,
        }
    )
    event = shown("performance_report", performance_report=report, evaluation=released).filter(
        metric="event_sensitivity"
    )
    assert event["baseline"].to_list() == [None]
    assert event["value"].to_list() == [0.5]


def test_a_limit_is_withheld_by_what_else_was_measured_of_its_version() -> None:
    findings = pl.DataFrame(
        {
            "version": [1] * 5,
            "metric": ["auroc", "auroc", "auroc", "auroc", "prevalence"],
            "subgroup": ["overall", "sex=F", "sex=M", "sex=X", "overall"],
            "value": [0.8, 0.8, 0.8, 0.8, 0.3],
            "n": [500, 250, 242, 8, 500],
        }
    )
    report = pl.DataFrame(
        {
            "version": [1, 1],
            "metric": ["auroc", "auroc"],
            "subgroup": ["overall", "sex=F"],
            "value": [0.8, 0.81],
            "low": [0.7, 0.7],
            "high": [0.9, 0.9],
            "n": [500, 250],
            "judgement": ["pass", "pass"],
            "reason": ["auroc is 0.8", "auroc is 0.81 on 250 rows"],
        }
    )
    whole, group = shown("validation_report", validation_report=report, evaluation=findings).iter_rows(named=True)
    assert (whole["value"], whole["reason"], whole["suppressed"]) == (0.8, "auroc is 0.8", False)
    assert (group["value"], group["low"], group["n"], group["judgement"]) == (None, None, None, "pass")
    assert "0.81" not in group["reason"]


def test_rates_of_few_rows_are_taken_out_of_a_drift_report_and_its_sentences() -> None:
    report = pl.DataFrame(
        {
            "column": ["a", "a", "b", "camera"],
            "statistic": ["psi", "missing_rate_change", "out_of_range_rate", "unseen_rate"],
            "value": [0.1, 0.05, 0.2, 0.07],
            "evidence": [1.0, 2.0, 3.0, 4.0],
            "batch_missing_rate": [0.05, 0.05, 0.0, 0.0],
            "n": [100, 100, 100, 100],
            "reason": ["camera: 7 of 100 rows are new"] * 4,
            "fault": [None] * 4,
        },
        schema_overrides={"fault": pl.String},
    )
    table = shown("drift_report", drift_report=report)
    assert table["batch_missing_rate"].to_list() == [None, None, 0.0, 0.0]
    assert table["value"].to_list() == [0.1, None, 0.2, None]
    assert table["suppressed"].to_list() == [True, True, False, True]
    assert set(table["reason"]) == {"camera: fewer than 11 of 100 rows are new"}


def test_a_profile_hides_few_missing_few_yes_and_few_rows() -> None:
    columns = {
        "column": ["few missing", "few yes", "age", "few rows"],
        "n": [100, 100, 100, 9],
        "n_null": [4, 0, 0, 0],
        "missing_rate": [0.04, 0.0, 0.0, 0.0],
        "mean": [50.0, 0.03, 0.03, 2.0],
        "stddev": [1.0] * 4,
        "minimum": [0.0] * 4,
        "maximum": [99.0, 1.0, 1.0, 3.0],
        "distinct_estimate": [80.0, 2.0, 77.0, 3.0],
        "most_frequent_rate": [0.5, 0.97, 0.05, 0.5],
        "most_frequent": ["x"] * 4,
    }
    summaries = dict.fromkeys(("quantile_05", "median", "quantile_95"), [1.0] * 4)
    table = shown("profile", profile=pl.DataFrame({**columns, **summaries}))
    assert table["n_null"].to_list() == [None, 0, 0, None]
    assert table["missing_rate"].to_list() == [None, 0.0, 0.0, None]
    assert table["mean"].to_list() == [50.0, None, 0.03, None]
    assert table["most_frequent_rate"].to_list() == [0.5, None, None, None]
    assert table["n"].to_list() == [100, 100, 100, None]


def test_records_are_summed_and_not_named_and_a_site_cannot_be_subtracted() -> None:
    faults = pl.DataFrame(
        {
            "month": [JANUARY] * 5,
            "column": ["heart_rate"] * 3 + ["file"] * 2,
            "subgroup": ["overall", "site=A", "site=B", "overall", "overall"],
            "fault": ["implausible"] * 3 + ["quarantined"] * 2,
            "reason": ["above 300"] * 3 + ["cut off"] * 2,
            "place": [None, None, None, "p000017.psv", "p000018.psv"],
            "affected": [64, 60, 4, 1, 1],
            "rows": [5000, 3000, 2000, 1, 1],
        }
    )
    table = shown("data_quality", data_quality=faults)
    assert "place" not in table.columns
    assert table["affected"].to_list() == [64, None, None, None]
    assert table["rows"].to_list() == [5000, 3000, 2000, None]
    assert table["suppressed"].to_list() == [False, True, True, True]


def test_a_repair_tried_on_few_rows_shows_no_benefit() -> None:
    plan = pl.DataFrame(
        {
            "rung": ["retrain", "none"],
            "benefit": [0.1, 0.2],
            "low": [0.0, 0.0],
            "high": [1.0, 1.0],
            "n": [9, 400],
            "reason": ["9 of 80 patients have the event", "none"],
        }
    )
    table = shown("repair_plan", repair_plan=plan)
    assert table["benefit"].to_list() == [None, 0.2]
    assert table["reason"][0] == "fewer than 11 of 80 patients have the event"
