from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation.calibration import from_logit, logit
from clinical_assets.monitoring import concept
from clinical_assets.monitoring.concept import (
    ConceptEvidence,
    ConceptReference,
    fit_concept_references,
    weigh_concept,
)
from clinical_assets.monitoring.performance import PerformanceError
from clinical_assets.protocol import Monitoring

POLICY = Monitoring(headline="auroc", tolerated_loss=0.02)


def weigh(
    rows: pl.DataFrame, reference: pl.DataFrame, policy: Monitoring, subgroups: Sequence[str] = (), minimum_n: int = 1
) -> ConceptEvidence:
    """The evidence of rows against the calibration of reference rows."""
    references = fit_concept_references(reference, policy.tolerated_miscalibration, subgroups, minimum_n)
    return weigh_concept(rows, references, policy, subgroups, minimum_n)


def draw_month(
    rng: np.random.Generator, patients: int, month: int, shift: float = 0.0, slope: float = 1.0, site: str = "A"
) -> pl.DataFrame:
    """Stays of one month; an event often brings the patient back in the same month, as a readmission does."""
    log_odds = rng.normal(-2.0, 0.8, patients)
    patient = np.arange(patients) + 1_000_000 * month + 100_000 * ord(site)
    event = rng.random(patients) < from_logit(-2.0 + shift + slope * (log_odds + 2.0))
    again = (event & (rng.random(patients) < 0.7)) | (rng.random(patients) < 0.05)
    second = log_odds[again] + rng.normal(0, 0.3, again.sum())
    second_event = rng.random(again.sum()) < from_logit(-2.0 + shift + slope * (second + 2.0))
    return pl.DataFrame(
        {
            "event": np.r_[event, second_event].astype(np.int8),
            "risk": from_logit(np.r_[log_odds, second]),
            "patient": np.r_[patient, patient[again]],
            "month": date(2025, month, 1),
            "site": site,
        }
    )


def draw_stream(
    rng: np.random.Generator, patients: int, months: int, moves_in: int = 99, shift: float = 0.0, slope: float = 1.0
) -> pl.DataFrame:
    return pl.concat(
        draw_month(rng, patients, month, shift, slope) if month >= moves_in else draw_month(rng, patients, month)
        for month in range(1, months + 1)
    )


def test_a_year_without_a_shift_is_not_called_moved() -> None:
    rng = np.random.default_rng(1)
    moved = [weigh(draw_stream(rng, 400, 12), draw_month(rng, 1_500, 1), POLICY).moved for _ in range(20)]
    assert sum(moved) <= 2


def test_a_shift_within_the_tolerance_is_not_called_moved() -> None:
    rng = np.random.default_rng(2)
    reference = draw_month(rng, 8_000, 1)
    assert not weigh(draw_stream(rng, 3_000, 8, 1, shift=0.08), reference, POLICY).moved


def test_patients_whose_event_brings_them_back_are_not_taken_for_a_shift() -> None:
    rng = np.random.default_rng(3)
    reference = draw_month(rng, 20_000, 1)
    evidence = weigh(draw_stream(rng, 4_000, 6), reference, POLICY)
    assert reference["patient"].is_duplicated().sum() > 2_000
    assert not evidence.moved
    assert evidence.ruled_out


def test_events_that_became_more_likely_are_found_with_the_month_it_began() -> None:
    rng = np.random.default_rng(4)
    evidence = weigh(draw_stream(rng, 2_000, 8, 4, shift=0.6), draw_month(rng, 6_000, 1), POLICY)
    shift, _, over_expected = evidence.shift
    assert evidence.moved
    assert evidence.began == date(2025, 4, 1)
    assert evidence.alarmed_on is not None
    assert date(2025, 4, 1) <= evidence.alarmed_on <= date(2025, 6, 1)
    assert shift.low is not None
    assert shift.high is not None
    assert shift.low < 0.6 < shift.high
    assert over_expected.low is not None
    assert over_expected.low > 1.1
    assert "has moved" in evidence.reason


def test_risks_that_say_less_than_they_did_are_found_though_the_rate_is_the_same() -> None:
    rng = np.random.default_rng(5)
    evidence = weigh(draw_stream(rng, 3_000, 8, 3, slope=0.4), draw_month(rng, 10_000, 1), POLICY)
    assert evidence.moved
    assert evidence.shift[1].high is not None
    assert evidence.shift[1].high < 0.8


def test_a_shift_of_one_subgroup_is_found_while_the_whole_stays_silent() -> None:
    rng = np.random.default_rng(6)
    sites = ["A", "B", "C", "D", "E", "F", "G", "H"]
    reference = pl.concat(draw_month(rng, 2_000, 1, site=site) for site in sites)
    rows = pl.concat(
        draw_month(rng, 700, month, 1.0 if site == "C" and month >= 3 else 0.0, site=site)
        for month in range(1, 8)
        for site in sites
    )
    evidence = weigh(rows, reference, POLICY, ["site"])
    alarmed = evidence.groups.drop_nulls("alarmed_on")["subgroup"].to_list()
    assert alarmed == ["site=C"]
    assert evidence.subgroup == "site=C"
    assert "for site=C" in evidence.reason


def test_an_alarm_stands_after_the_months_have_recovered() -> None:
    rng = np.random.default_rng(7)
    months = [draw_month(rng, 3_000, month, 1.0 if month in (2, 3) else 0.0) for month in range(1, 8)]
    reference = draw_month(rng, 6_000, 1)
    early, late = (weigh(pl.concat(months[:upto]), reference, POLICY) for upto in (3, 7))
    assert early.moved
    assert late.alarmed_on == early.alarmed_on


def test_a_reference_of_too_few_events_cannot_tell() -> None:
    rng = np.random.default_rng(8)
    reference = draw_month(rng, 400, 1).filter(pl.col("event") == 0).head(200)
    evidence = weigh(draw_stream(rng, 500, 2, 1, shift=1.0), reference, POLICY)
    assert not evidence.moved
    assert not evidence.ruled_out
    assert evidence.log10_evidence is None
    assert "cannot be told" in evidence.reason


def test_a_subgroup_the_reference_has_not_seen_is_listed_without_evidence() -> None:
    rng = np.random.default_rng(9)
    rows = pl.concat([draw_month(rng, 400, 1), draw_month(rng, 400, 1, site="B")])
    groups = weigh(rows, draw_month(rng, 2_000, 1), POLICY, ["site"], minimum_n=100).groups
    assert groups.filter(subgroup="site=B")["log10_evidence"].to_list() == [None]
    assert groups.filter(subgroup="site=A")["log10_evidence"].null_count() == 0


def test_few_ripe_rows_rule_nothing_out() -> None:
    rng = np.random.default_rng(10)
    evidence = weigh(draw_stream(rng, 60, 1), draw_month(rng, 2_000, 1), POLICY)
    assert not evidence.moved
    assert not evidence.ruled_out
    assert "cannot be told yet" in evidence.reason


def test_a_month_without_any_event_is_weighed() -> None:
    rng = np.random.default_rng(11)
    rows = draw_month(rng, 1_500, 1).with_columns(event=pl.lit(0, pl.Int8))
    evidence = weigh(rows, draw_month(rng, 4_000, 1), POLICY)
    assert evidence.moved
    assert evidence.shift[2].value == 0.0
    assert "0.00 of the events expected" in evidence.reason


def test_the_evidence_is_never_more_than_that_against_any_calibration_tolerated() -> None:
    rng = np.random.default_rng(12)
    reference_rows = draw_month(rng, 4_000, 1)
    reference = ConceptReference.fit(
        reference_rows["event"], reference_rows["risk"], reference_rows["patient"], reference_rows["month"], 0.1
    )
    assert reference is not None
    low, high = reference.tolerated(0.02)
    rows = draw_month(rng, 2_000, 2, shift=0.5).sort("patient")
    stream = concept._Stream(
        rows["event"].to_numpy().astype(np.float64),
        logit(rows["risk"].to_numpy()) - reference.centre,
        rows["patient"].to_numpy(),
        np.zeros(rows.height, dtype=np.int64),
    )
    evidence = concept._log_evidence_of_month(stream, reference, low, high)
    moved = np.array([reference.intercept, 0.0]) + concept.ALTERNATIVES * np.array([1.0, reference.slope])
    for intercept in np.linspace(low[0], high[0], 5):
        for slope in np.linspace(low[1], high[1], 5):
            ratio, _ = concept._log_ratio(stream, moved, np.array([[intercept, slope]]))
            assert np.all(evidence <= ratio + 1e-9)
    assert evidence.max() > 3


def test_rows_without_a_needed_column_or_month_are_refused() -> None:
    rng = np.random.default_rng(13)
    rows = draw_month(rng, 100, 1)
    with pytest.raises(PerformanceError, match=r"reference rows lack the columns \['risk'\]"):
        weigh(rows, rows.drop("risk"), POLICY)
    with pytest.raises(PerformanceError, match=r"month: .* rows have none"):
        weigh(rows.with_columns(month=pl.lit(None, pl.Date)), rows, POLICY)
    with pytest.raises(PerformanceError, match="month is of type String"):
        weigh(rows.with_columns(pl.col("month").cast(pl.String)), rows, POLICY)
