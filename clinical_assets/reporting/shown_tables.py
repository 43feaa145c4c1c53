"""The aggregate tables as they leave the platform: what each shows of small counts, and how it says what it withholds.

Belongs here: which columns of which table rest on which count. Does not belong here: the rule itself
(`governance.small_cells`), publishing, and tables with a row a unit: those are de-identified, not aggregated, and stay.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from clinical_assets.governance.small_cells import (
    SMALLEST_SHOWN,
    SUPPRESSED,
    hide_counts_in,
    suppress_small_cells,
    withhold,
)
from clinical_assets.reporting.shown_findings import EVENT, withheld_of, withhold_findings
from clinical_assets.reporting.withheld import WHY_WITHHELD

SUPPRESSED_COMMENT = (
    f"True where a value was taken out, because it tells a count of 1 to {SMALLEST_SHOWN - 1} or would give one away"
)

_INTERVAL = ("value", "low", "high")
_SO_FAR = ("value_so_far", "low_so_far", "high_so_far")
_OF_MONTH = ("month", "model_version")
_SHARES_OF_ROWS = ("unseen_rate", "out_of_range_rate")
_MISSING_RATE = "missing_rate_change"

Tables = Mapping[str, pl.DataFrame]
"""The exact tables of one model, by their names; those that were never written are not among them."""


@dataclass(frozen=True, slots=True)
class ShownTable:
    """How one aggregate table is shown: a function of the model's exact tables, and those of them that it looks at."""

    show: Callable[[Tables], pl.DataFrame]
    looks_at: tuple[str, ...]


def show_evaluation(tables: Tables) -> pl.DataFrame:
    """The findings of every version."""
    return _show_findings(tables["evaluation"], ("version",))


def show_silent_run(tables: Tables) -> pl.DataFrame:
    """The findings of every version's silent months."""
    return _show_findings(tables["silent_run"], ("version",))


def show_validation_report(tables: Tables) -> pl.DataFrame:
    """Every judged limit; what is withheld follows from all findings of the version, and the judgement stands."""
    report = tables["validation_report"]
    findings = pl.concat(
        [tables[name].select("version", "metric", "subgroup", "value", "n") for name in ("evaluation", "silent_run")]
        if "silent_run" in tables
        else [tables["evaluation"].select("version", "metric", "subgroup", "value", "n")]
    )
    shown = withhold_findings(report, withheld_of(findings, ("version",)), _INTERVAL)
    return shown.with_columns(reason=pl.when(SUPPRESSED).then(pl.lit(WHY_WITHHELD)).otherwise("reason"))


def show_estimated_performance(tables: Tables) -> pl.DataFrame:
    """The estimates of every month."""
    return _with_words(_show_findings(tables["estimated_performance"], _OF_MONTH), "invalid_because")


def show_performance_report(tables: Tables) -> pl.DataFrame:
    """What every month achieved.

    Figures since the release are withheld from the first month on in which that of the month is: two of them, with the
    months between, would tell it. So is the baseline, where that of the release is.
    """
    report = tables["performance_report"]
    withheld = withheld_of(report, _OF_MONTH)
    shown = withhold_findings(report, withheld, (*_INTERVAL, "estimate_error", "estimate_covered"))
    of_n = withheld.filter("n_hidden").drop("n_hidden")
    shown = withhold(shown, of_n, ("estimated", "estimate_low", "estimate_high"))
    first = withheld.group_by("model_version", "metric", "subgroup").agg(pl.col("month").min().alias("since"))
    later = report.join(first, on=["model_version", "metric", "subgroup"]).filter(pl.col("month") >= pl.col("since"))
    told = later.filter(pl.col("value_so_far").is_not_null() | pl.col("below_baseline").is_not_null())
    shown = withhold(shown, told.select("month", "model_version", "metric", "subgroup"), (*_SO_FAR, "below_baseline"))
    if "evaluation" not in tables:
        return shown
    released = withheld_of(tables["evaluation"], ("version",)).select(
        pl.col("version").alias("model_version"), (pl.lit(EVENT) + pl.col("metric")).alias("metric"), "subgroup"
    )
    return withhold(shown, released, ("baseline", "below_baseline"))


def show_drift_report(tables: Tables) -> pl.DataFrame:
    """Every comparison of a column, without the rates that tell few rows."""
    report = tables["drift_report"]
    rate, n = pl.col("batch_missing_rate"), pl.col("n")
    few_rows = _is_small(n)
    few_missing = _tells_few(rate, n)
    few_unseen = pl.col("statistic").is_in(_SHARES_OF_ROWS) & _tells_few(pl.col("value"), n)
    statistic_of_missing = (pl.col("statistic") == _MISSING_RATE) & few_missing
    shown = _blank(report, few_rows, ("n", "value", "evidence", "batch_missing_rate"))
    shown = _blank(shown, few_missing, ("batch_missing_rate",), report)
    shown = _blank(shown, few_unseen | statistic_of_missing, ("value", "evidence"), report)
    return _with_words(_with_words(shown, "reason"), "fault")


def show_repair_plan(tables: Tables) -> pl.DataFrame:
    """Every repair that was considered."""
    plan = tables["repair_plan"]
    shown = _blank(plan, _is_small(pl.col("n")), ("n", "benefit", "low", "high"))
    return _with_words(shown, "reason")


def show_peer_report(tables: Tables) -> pl.DataFrame:
    """What other tools say of every column of a month, without scores that rest on few rows."""
    report = tables["peer_report"]
    n, n_null = pl.col("n"), pl.col("n_null")
    few_values = _is_small(n - n_null)
    shown = _blank(report, _is_small(n), ("n", "n_null", "score", "tool_threshold"))
    shown = _blank(shown, few_values | _is_small(n_null), ("n_null",), report)
    return _blank(shown, few_values, ("score", "tool_threshold"), report)


def show_profile(tables: Tables) -> pl.DataFrame:
    """Every column's summary of a month, without what tells few rows: of a 0/1 column the mean does."""
    profile = tables["profile"]
    n, n_null = pl.col("n"), pl.col("n_null")
    summaries = ("mean", "stddev", "minimum", "maximum", "quantile_05", "median", "quantile_95", "distinct_estimate")
    few_null = _is_small(n_null) | _is_small(n - n_null)
    is_yes_or_no = (pl.col("minimum") == 0) & (pl.col("maximum") == 1) & (pl.col("distinct_estimate").round() == 2)
    few_yes = is_yes_or_no & _tells_few(pl.col("mean"), n - n_null)
    few_most_frequent = _tells_few(pl.col("most_frequent_rate"), n)
    shown = _blank(
        profile, _is_small(n), ("n", "n_null", "missing_rate", *summaries, "most_frequent", "most_frequent_rate")
    )
    shown = _blank(shown, few_null, ("n_null", "missing_rate"), profile)
    shown = _blank(shown, few_yes, ("mean", "stddev", "most_frequent_rate"), profile)
    return _blank(shown, few_most_frequent, ("most_frequent_rate",), profile)


def show_data_quality(tables: Tables) -> pl.DataFrame:
    """Every fault of a month with the rows it affects; those that name a single record are summed, without its name."""
    kept = [name for name in tables["data_quality"].columns if name not in ("place", "affected", "rows")]
    summed = (
        tables["data_quality"]
        .group_by(kept, maintain_order=True)
        .agg(pl.col("affected").sum(), pl.col("rows").max())
        .select(name for name in tables["data_quality"].columns if name != "place")
    )
    within = ("month", "column", "fault", "reason")
    shown = summed.with_columns(unaffected=pl.col("rows") - pl.col("affected"))
    shown = suppress_small_cells(shown, "rows", within, also=("affected",))
    shown = suppress_small_cells(shown, "unaffected", within, also=("affected",)).drop("unaffected")
    return _with_words(suppress_small_cells(shown, "affected", within), "reason")


SHOWN_TABLES: Mapping[str, ShownTable] = {
    "evaluation": ShownTable(show_evaluation, ("evaluation",)),
    "silent_run": ShownTable(show_silent_run, ("silent_run",)),
    "validation_report": ShownTable(show_validation_report, ("validation_report", "evaluation", "silent_run")),
    "estimated_performance": ShownTable(show_estimated_performance, ("estimated_performance",)),
    "performance_report": ShownTable(show_performance_report, ("performance_report", "evaluation")),
    "drift_report": ShownTable(show_drift_report, ("drift_report",)),
    "repair_plan": ShownTable(show_repair_plan, ("repair_plan",)),
    "peer_report": ShownTable(show_peer_report, ("peer_report",)),
    "profile": ShownTable(show_profile, ("profile",)),
    "data_quality": ShownTable(show_data_quality, ("data_quality",)),
}
"""The aggregate tables of a model, by name; every other table is shown as it is."""


def _show_findings(table: pl.DataFrame, key: tuple[str, ...]) -> pl.DataFrame:
    return withhold_findings(table, withheld_of(table, key), _INTERVAL)


def _is_small(count: pl.Expr) -> pl.Expr:
    return count.is_between(1, SMALLEST_SHOWN - 1)


def _tells_few(share: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """Whether a share of a known whole tells a small count, of those it is of or of the rest."""
    part = (share * whole).round()
    return _is_small(part) | _is_small(whole - part)


def _blank(
    frame: pl.DataFrame, where: pl.Expr, columns: tuple[str, ...], exact: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Null in some columns where a condition holds, on the exact table of the same rows; `suppressed` says so."""
    is_hidden = (frame if exact is None else exact).select(where.fill_null(False).alias("hidden")).to_series()
    before = frame if SUPPRESSED in frame.columns else frame.with_columns(pl.lit(False).alias(SUPPRESSED))
    return before.with_columns(
        *(pl.when(is_hidden).then(None).otherwise(pl.col(name)).alias(name) for name in columns),
        (pl.col(SUPPRESSED) | is_hidden).alias(SUPPRESSED),
    )


def _with_words(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """The sentences of a column with their small counts reworded."""
    told = frame[column].drop_nulls().unique()
    reworded = {text: hide_counts_in(text) for text in told}
    return frame.with_columns(pl.col(column).replace(reworded)) if reworded else frame
