from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl
import pytest

from clinical_assets.evaluation.calibration import from_logit
from clinical_assets.evaluation.findings import evaluate
from clinical_assets.monitoring.estimated_performance import (
    CannotEstimateError,
    EstimatedPerformance,
    EstimationError,
    PerformanceReference,
    estimate_loss,
    score_estimate,
)
from clinical_assets.monitoring.expected_figures import ESTIMATED_METRICS
from clinical_assets.protocol import Finding

THRESHOLD = 0.3
WARDS = np.array(["medical", "surgical"])


def draw_rows(rng: np.random.Generator, patients: int, surgical: float = 0.3, rows_each: int = 1) -> pl.DataFrame:
    """Scored rows whose risk is right on medical wards, and hardly better than none on surgical ones."""
    ward = (rng.random(patients) < surgical).astype(np.int64)
    level = rng.normal(-1.2, 1.0, patients)
    risk = from_logit(level)
    truth = from_logit(np.where(ward == 1, -0.9 + 0.1 * level, level))
    patient = np.repeat(np.arange(patients), rows_each)
    event = (rng.random(patients) < truth).astype(np.int8)
    return pl.DataFrame(
        {
            "patient_id": [f"p{number}" for number in patient],
            "ward": WARDS[ward[patient]],
            "risk": risk[patient],
            "alerted": risk[patient] >= THRESHOLD,
            "event": event[patient],
        }
    )


def keep(rows: pl.DataFrame, covariates: tuple[str, ...] = ("ward",), minimum_n: int = 200) -> PerformanceReference:
    return PerformanceReference.fit(
        rows,
        outcome_event="event",
        patient="patient_id",
        covariates=covariates,
        subgroups=("ward",),
        minimum_n=minimum_n,
    )


def realise(rows: pl.DataFrame) -> list[Finding]:
    return evaluate(
        rows["event"], rows["risk"], rows["patient_id"], THRESHOLD, rows.select("ward"), minimum_n=200, resamples=0
    )


def value(estimate: EstimatedPerformance, metric: str, subgroup: str = "overall") -> float:
    finding = estimate.find(metric, subgroup)
    assert finding is not None
    assert finding.value is not None
    return finding.value


def width(estimate: EstimatedPerformance, metric: str = "auroc") -> float:
    finding = estimate.find(metric)
    assert finding is not None
    assert finding.low is not None
    assert finding.high is not None
    return finding.high - finding.low


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def reference(rng: np.random.Generator) -> PerformanceReference:
    return keep(draw_rows(rng, 6_000))


def test_the_loss_of_a_batch_of_other_patients_is_foreseen_without_their_outcomes(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    batch = draw_rows(rng, 6_000, surgical=0.9)
    estimate = reference.estimate(batch.drop("event"))
    came_true = {finding.metric: finding for finding in realise(batch) if finding.subgroup == "overall"}
    assert estimate.followed > 0.8
    for metric in ("auroc", "sensitivity", "ppv"):
        assert value(estimate, metric) == pytest.approx(came_true[metric].value, abs=0.04)
    before = keep(draw_rows(rng, 6_000)).estimate(draw_rows(rng, 6_000))
    assert value(before, "auroc") - value(estimate, "auroc") > 0.1


def test_what_is_counted_exactly_is_exact(rng: np.random.Generator, reference: PerformanceReference) -> None:
    batch = draw_rows(rng, 1_000)
    estimate = reference.estimate(batch)
    finding = estimate.find("alerts_per_100")
    assert finding is not None
    alerts = 100 * batch["alerted"].to_numpy().mean()
    assert (finding.value, finding.low, finding.high) == pytest.approx((alerts, alerts, alerts))


def test_where_all_are_alerted_the_sensitivity_is_known_and_by_a_reference_without_alerts_it_is_not(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    batch = draw_rows(rng, 1_000)
    everybody = reference.estimate(batch.with_columns(alerted=pl.lit(value=True))).find("sensitivity")
    assert everybody is not None
    assert (everybody.value, everybody.low, everybody.high) == (1.0, 1.0, 1.0)
    blind = keep(draw_rows(rng, 6_000).with_columns(alerted=pl.lit(value=False)))
    unknown = blind.estimate(batch).find("sensitivity")
    assert unknown is not None
    assert unknown.value is None


def test_nineteen_intervals_of_twenty_hold_what_comes_true(rng: np.random.Generator) -> None:
    covered = [
        score_estimate(keep(draw_rows(rng, 1_500)).estimate(batch).findings, realise(batch))
        for batch in (draw_rows(rng, 800, surgical=0.6) for _ in range(60))
    ]
    scores = pl.concat(covered).filter(pl.col("metric") != "alerts_per_100")
    share = scores["covered"].to_numpy().mean()
    assert 0.92 < share < 0.985


def test_rows_of_one_patient_are_no_evidence_of_their_own(rng: np.random.Generator) -> None:
    single, repeated = (keep(draw_rows(rng, 1_500, rows_each=rows)) for rows in (1, 12))
    alone, copied = (draw_rows(np.random.default_rng(1), 400, rows_each=rows) for rows in (1, 12))
    once, twelvefold = single.estimate(alone), repeated.estimate(copied)
    assert width(twelvefold) == pytest.approx(width(once), rel=0.3)


def draw_chronic(rng: np.random.Generator, patients: int, rows_each: int = 20) -> pl.DataFrame:
    """Hours of patients whose own level the risk follows, though their own level says nothing of their outcome."""
    level = np.repeat(rng.normal(0.0, 1.5, patients), rows_each)
    hour = rng.normal(-1.0, 1.0, patients * rows_each)
    risk = from_logit(hour + level)
    patient = np.repeat(np.arange(patients), rows_each)
    return pl.DataFrame(
        {
            "patient_id": [f"p{number}" for number in patient],
            "ward": "medical",
            "risk": risk,
            "alerted": risk >= THRESHOLD,
            "event": (rng.random(len(risk)) < from_logit(hour)).astype(np.int8),
        }
    )


def test_a_spread_of_risks_that_never_came_true_from_patient_to_patient_is_not_believed(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    assert reference.estimate(draw_rows(rng, 2_000)).followed > 0.8
    chronic = keep(draw_chronic(rng, 1_000)).estimate(draw_chronic(rng, 200))
    assert chronic.followed < 0.5
    assert f"{chronic.followed:.0%} is believed" in chronic.note


def test_the_estimate_has_the_risks_own_error_removed(rng: np.random.Generator) -> None:
    rows = draw_rows(rng, 12_000, surgical=0.0).with_columns(risk=pl.col("risk") / 2)
    first, second = rows.head(6_000), rows.tail(6_000)
    estimate = keep(first).estimate(second.drop("event"))
    assert value(estimate, "observed_expected_ratio") == pytest.approx(2.0, abs=0.15)


def test_subgroups_have_their_own_estimates_and_one_that_the_reference_hardly_knows_has_none(
    rng: np.random.Generator,
) -> None:
    reference = keep(draw_rows(rng, 4_000, surgical=0.5))
    batch = draw_rows(rng, 2_000, surgical=0.5)
    estimate = reference.estimate(batch)
    assert value(estimate, "auroc", "ward=medical") > value(estimate, "auroc", "ward=surgical") + 0.1
    few = keep(draw_rows(rng, 2_000, surgical=0.02)).estimate(batch)
    unknown = few.find("auroc", "ward=surgical")
    assert unknown is not None
    assert (unknown.value, unknown.low, unknown.high) == (None, None, None)


def test_rows_of_a_kind_never_seen_make_the_estimate_invalid(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    batch = draw_rows(rng, 1_000).with_columns(ward=pl.when(pl.col("risk") > 0.2).then(pl.lit("new")).otherwise("ward"))
    assert "ward that the reference does not know" in str(reference.estimate(batch).invalid_because)
    assert reference.estimate(draw_rows(rng, 1_000)).invalid_because is None


def test_a_suspected_concept_shift_is_carried_on_to_the_loss(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    estimate = reference.estimate(draw_rows(rng, 1_000), invalid_because="outcome given risk moved in March")
    assert estimate.invalid_because == "outcome given risk moved in March"
    assert estimate_loss(reference, estimate, "auroc").invalid_because == "outcome given risk moved in March"


def test_a_shift_to_patients_that_the_reference_hardly_knows_widens_the_interval(rng: np.random.Generator) -> None:
    reference = keep(draw_rows(rng, 1_500, surgical=0.02))
    near, far = (reference.estimate(draw_rows(rng, 1_000, surgical=share)) for share in (0.02, 1.0))
    assert width(far) > 1.3 * width(near)


def test_the_loss_is_in_missed_cases_and_extra_alerts(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    same = estimate_loss(reference, reference.estimate(draw_rows(rng, 6_000)), "auroc")
    other = estimate_loss(reference, reference.estimate(draw_rows(rng, 6_000, surgical=0.9)), "auroc")
    assert same.loss is not None
    assert other.loss is not None
    assert other.low is not None
    assert abs(same.loss) < 0.03
    assert other.loss > 0.1
    assert other.low < other.loss
    assert abs(same.missed_per_1000) < 20 < other.missed_per_1000
    more_alerts = draw_rows(rng, 2_000).with_columns(alerted=pl.lit(value=True))
    assert estimate_loss(reference, reference.estimate(more_alerts), "ppv").extra_alerts_per_1000 > 500


def test_a_metric_that_needs_outcomes_is_refused(rng: np.random.Generator, reference: PerformanceReference) -> None:
    with pytest.raises(EstimationError, match="normalized_utility cannot be estimated without outcomes"):
        estimate_loss(reference, reference.estimate(draw_rows(rng, 500)), "normalized_utility")


def test_an_estimate_is_scored_by_what_came_true() -> None:
    estimated = [Finding("auroc", "overall", 0.8, 0.7, 0.9, 50), Finding("ppv", "overall", 0.3, 0.2, 0.4, 50)]
    estimated += [Finding("sensitivity", "overall", None, None, None, 50)]
    realised = [Finding("auroc", "overall", 0.72, None, None, 50), Finding("ppv", "overall", 0.5, None, None, 50)]
    scores = score_estimate(estimated, [*realised, Finding("sensitivity", "overall", 0.4, None, None, 50)])
    assert scores["metric"].to_list() == ["auroc", "ppv"]
    assert scores["estimate_error"].to_list() == pytest.approx([0.08, -0.2])
    assert scores["covered"].to_list() == [True, False]


def test_the_same_batch_gives_the_same_estimate(rng: np.random.Generator, reference: PerformanceReference) -> None:
    batch = draw_rows(rng, 1_000, surgical=0.5)
    assert reference.estimate(batch) == reference.estimate(batch)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.drop("ward"), r"lacks the columns \['ward'\]"),
        (lambda rows: rows.clear(), "no rows"),
        (lambda rows: rows.with_columns(risk=pl.col("risk") * 9), "are no probability"),
        (lambda rows: rows.with_columns(alerted=pl.lit(None, pl.Boolean)), "alerted is missing in 500 of 500 rows"),
        (lambda rows: rows.with_columns(patient_id=pl.lit(None, pl.String)), "500 of 500 rows have none"),
    ],
)
def test_what_cannot_be_estimated_is_named(
    rng: np.random.Generator,
    reference: PerformanceReference,
    spoil: Callable[[pl.DataFrame], pl.DataFrame],
    message: str,
) -> None:
    with pytest.raises(EstimationError, match=message):
        reference.estimate(spoil(draw_rows(rng, 500)))


def test_a_reference_without_enough_outcomes_is_refused(rng: np.random.Generator) -> None:
    rows = draw_rows(rng, 500)
    with pytest.raises(EstimationError, match=r"of one kind, .* the reference has 0 patients"):
        keep(rows.with_columns(event=pl.lit(0)))
    with pytest.raises(EstimationError, match="500 of 500 reference rows have no outcome"):
        keep(rows.with_columns(event=pl.lit(None, pl.Int8)))


def test_every_metric_is_given_for_every_group(rng: np.random.Generator, reference: PerformanceReference) -> None:
    estimate = reference.estimate(draw_rows(rng, 3_000))
    groups = ("overall", "ward=medical", "ward=surgical")
    assert [(x.subgroup, x.metric) for x in estimate.findings] == [(g, m) for g in groups for m in ESTIMATED_METRICS]


def further(reference: PerformanceReference, rows: pl.DataFrame, month: date) -> pl.DataFrame:
    """Matured rows of a month, with what the reference made of them when they were scored."""
    return rows.with_columns(reference.expect(rows), reference.unknown_levels(rows), month=pl.lit(month))


def test_months_that_matured_are_judged_by_the_regression_of_the_release_in_whatever_order(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    months = [further(reference, draw_rows(rng, 1_000), date(2025, month, 1)) for month in (1, 2)]
    batch = draw_rows(rng, 1_000)
    together = reference.with_matured(pl.concat(months))
    one_by_one = reference.with_matured(months[0]).with_matured(months[1])
    assert together.regression is reference.regression
    assert together.estimate(batch) == one_by_one.estimate(batch)
    assert together.overall.patients > reference.overall.patients
    assert width(together.estimate(batch)) < width(reference.estimate(batch))
    assert reference.with_matured(months[0].clear()) is reference


def test_what_matured_months_realised_moves_the_estimate(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    fewer = draw_rows(rng, 6_000).with_columns(
        event=pl.when(pl.int_range(pl.len()) % 2 == 0).then("event").otherwise(0).cast(pl.Int8)
    )
    estimate = reference.with_matured(further(reference, fewer, date(2025, 1, 1))).estimate(draw_rows(rng, 2_000))
    before = reference.estimate(draw_rows(rng, 2_000))
    moved = value(estimate, "observed_expected_ratio") / value(before, "observed_expected_ratio")
    assert moved == pytest.approx(0.75, abs=0.08)


def test_matured_rows_without_an_outcome_or_an_expectation_are_refused(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    rows = further(reference, draw_rows(rng, 100), date(2025, 1, 1))
    with pytest.raises(EstimationError, match="100 of 100 matured rows have no outcome, or no expectation"):
        reference.with_matured(rows.with_columns(expected_event=pl.lit(None, pl.Float64)))
    with pytest.raises(EstimationError, match=r"matured rows lacks the columns \['expected_event'\]"):
        reference.with_matured(rows.drop("expected_event"))


def test_a_level_that_a_matured_month_has_is_no_longer_unknown(
    rng: np.random.Generator, reference: PerformanceReference
) -> None:
    batch = draw_rows(rng, 1_000).with_columns(ward=pl.lit("new"))
    assert reference.unknown_levels(batch)[0].to_list() == ["ward=new"]
    assert reference.estimate(batch).invalid_because is not None
    known = reference.with_matured(further(reference, batch, date(2025, 1, 1)))
    assert known.estimate(batch).invalid_because is None


def test_the_observed_over_expected_of_a_level_that_falls_is_that_of_the_latest_months(
    rng: np.random.Generator,
) -> None:
    def draw(month: int, kept: float) -> pl.DataFrame:
        rows = draw_rows(rng, 2_000, surgical=0.0)
        event = rows["event"].to_numpy() * (rng.random(rows.height) < kept)
        return rows.with_columns(pl.Series("event", event.astype(np.int8)), month=date(2025, month, 1))

    def estimate(month: date | None) -> EstimatedPerformance:
        reference = PerformanceReference.fit(
            pl.concat([draw(1, 1.0), draw(2, 1.0)]),
            outcome_event="event",
            patient="patient_id",
            covariates=("ward",),
            subgroups=(),
            minimum_n=200,
            month="month",
        )
        months = [draw(2 + step, 1.0 - 0.08 * step) for step in range(1, 7)]
        matured = pl.concat([rows.with_columns(reference.expect(rows)) for rows in months])
        return reference.with_matured(matured, month="month").estimate(draw(9, 0.5), month=month)

    standing, followed = estimate(None), estimate(date(2025, 9, 1))
    assert value(standing, "observed_expected_ratio") > 0.7
    assert value(followed, "observed_expected_ratio") < 0.62
    assert width(followed, "observed_expected_ratio") > width(standing, "observed_expected_ratio")


def test_the_regression_expects_on_its_own_rows_what_they_realised(rng: np.random.Generator) -> None:
    for seed in range(20):
        rows = draw_chronic(np.random.default_rng(seed), 60, rows_each=30)
        overall = keep(rows).overall
        assert overall.expected.values[3] == pytest.approx(overall.realised.values[3], rel=1e-3)


def test_a_regression_without_a_maximum_estimates_nothing_and_says_why(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinical_assets.monitoring.covariates.NEWTON_STEPS", 1)
    with pytest.raises(CannotEstimateError, match="performance without outcomes cannot be told: the regression"):
        keep(draw_rows(rng, 2_000))
