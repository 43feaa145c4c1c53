"""Which figure becomes which series: limits, what is live, months, incidents, signatures."""

import math
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from clinical_assets.governance.signatures import Signature, Statement
from clinical_assets.governance.signers import Signer
from clinical_assets.metrics import model_figures, platform_figures, series
from clinical_assets.metrics.series import FAMILIES, Sample
from clinical_assets.protocol import ModelProtocol, protocol_names, read_protocol

NOW = datetime(2026, 3, 14, 2, tzinfo=UTC)


def plan(**changes: object) -> ModelProtocol:
    return ModelProtocol.model_validate(read_protocol("readmission").model_dump() | changes)


def found(samples: list[Sample], family: series.Family, **labels: str) -> list[float]:
    return [x.value for x in samples if x.family is family and labels.items() <= dict(x.labels).items()]


def test_no_family_has_a_label_that_could_hold_a_patient_or_a_person() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    labels = {label for family in FAMILIES for label in family.labels}
    assert not labels & {"patient", "patient_id", "unit", "encounter_id", "signer", "actor", "user", "name", "run_id"}


def test_a_label_too_many_or_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="clinical_model_live has the labels"):
        series.MODEL_LIVE.at(1)
    with pytest.raises(ValueError, match="clinical_audit_records has the labels"):
        series.AUDIT_RECORDS.at(1, model="x")


@pytest.mark.parametrize("model", protocol_names())
def test_every_limit_of_a_protocol_is_a_series(model: str) -> None:
    protocol = read_protocol(model)
    samples = list(model_figures.protocol_figures(protocol))
    for limit in protocol.limits:
        scope = "every_subgroup" if limit.in_every_subgroup else "overall"
        labels = {"model": model, "metric": limit.metric, "scope": scope, "source": "acceptance"}
        for bound in ("at_least", "at_most"):
            asked = getattr(limit, bound)
            assert asked is None or found(samples, series.MODEL_LIMIT, bound=bound, **labels) == [asked]
        if limit.not_worse_than:
            bound = f"not_worse_than_{limit.not_worse_than}"
            assert found(samples, series.MODEL_LIMIT, bound=bound, **labels) == [limit.by]
    tolerated = {"metric": "loss_of_auroc", "bound": "at_most", "source": "monitoring"}
    assert found(samples, series.MODEL_LIMIT, **tolerated) == [protocol.monitoring.tolerated_loss]


def test_of_two_limits_on_the_same_figure_the_stricter_is_the_series() -> None:
    limits = [
        {"metric": "auroc", "at_least": 0.6, "at_most": 0.9},
        {"metric": "auroc", "at_least": 0.7, "at_most": 0.95},
        {"metric": "auroc", "at_least": 0.65},
    ]
    samples = list(model_figures.protocol_figures(plan(acceptance=limits)))
    assert found(samples, series.MODEL_LIMIT, metric="auroc", bound="at_least") == [0.7]
    assert found(samples, series.MODEL_LIMIT, metric="auroc", bound="at_most") == [0.9]


def test_a_rollback_guard_is_a_limit_of_its_own() -> None:
    samples = list(model_figures.protocol_figures(plan(rollback_guard={"metric": "auroc", "at_least": 0.6})))
    assert found(samples, series.MODEL_LIMIT, source="rollback_guard", metric="auroc") == [0.6]


def month_of(**columns: object) -> pl.DataFrame:
    row = {"month": date(2025, 7, 1), "model_version": 2, "metric": "auroc", "subgroup": "overall"}
    return pl.DataFrame([row | {"value": 0.7, "low": 0.6, "high": 0.8, "alarmed": None} | columns])


def test_what_is_withheld_is_not_a_number_and_not_missing() -> None:
    samples = list(model_figures.realised_figures(plan(), month_of(value=None, low=None, high=None)))
    for family in (series.MODEL_METRIC, series.MODEL_METRIC_LOW, series.MODEL_METRIC_HIGH):
        [value] = found(samples, family, metric="auroc", state="realised")
        assert math.isnan(value)
    alerts = month_of(metric="alerts_per_100", value=None)
    [value] = found(list(model_figures.estimate_figures(plan(), alerts)), series.ALERTS_PER_1000)
    assert math.isnan(value)


def test_of_subgroups_only_what_has_a_limit_or_an_alarm_there_is_shown() -> None:
    limits = [{"metric": "auroc", "at_least": 0.6}, {"metric": "brier", "at_most": 0.6, "in_every_subgroup": True}]
    shown = pl.concat(
        [month_of(metric=metric, subgroup=subgroup) for metric in ("auroc", "brier", "sensitivity", "prevalence")
         for subgroup in ("overall", "sex=female")]
    )  # fmt: skip
    samples = list(model_figures.realised_figures(plan(acceptance=limits), shown))
    told = {(x.labels["metric"], x.labels["subgroup"]) for x in samples if x.family is series.MODEL_METRIC}
    assert told == {
        ("auroc", "overall"),
        ("brier", "overall"),
        ("brier", "sex=female"),
        ("sensitivity", "overall"),
        ("sensitivity", "sex=female"),
    }


def test_of_a_month_that_two_versions_scored_the_newer_is_shown() -> None:
    both = pl.concat([month_of(model_version=2, value=0.5), month_of(model_version=3, value=0.7)])
    assert found(list(model_figures.realised_figures(plan(), both)), series.MODEL_METRIC) == [0.7]


def test_a_groups_alarm_is_shown_and_what_nobody_can_tell_is_no_number() -> None:
    shown = pl.concat(
        [
            month_of(metric="event_sensitivity", alarmed=False),
            month_of(metric="event_sensitivity", subgroup="sex=female", alarmed=True),
            month_of(metric="event_sensitivity", subgroup="sex=male"),
        ],
        how="vertical_relaxed",
    )
    samples = list(model_figures.realised_figures(plan(), shown))
    assert math.isnan(found(samples, series.SENSITIVITY_ALARM, subgroup="sex=male")[0])
    assert found(samples, series.SENSITIVITY_ALARM, subgroup="sex=female") == [1]
    assert found(samples, series.SENSITIVITY_ALARM, subgroup="overall") == [0]


def test_a_small_number_of_units_is_no_series() -> None:
    assert found(list(model_figures.scoring_figures("m", 10, 5.0)), series.SCORED_ROWS) == []
    assert found(list(model_figures.scoring_figures("m", 11, 5.0)), series.SCORED_ROWS) == [11]
    samples = list(model_figures.scoring_figures("m", 11, 500.0))
    assert found(samples, series.SCORING_SECONDS) == [0.5]
    assert found(samples, series.SCORING_RATE) == [2_000]


def test_a_verdict_and_a_repair_are_one_of_all() -> None:
    verdicts = list(model_figures.verdict_figures("m", date(2025, 7, 1), "data_fault"))
    assert found(verdicts, series.DRIFT_VERDICT, verdict="data_fault") == [1]
    assert sum(found(verdicts, series.DRIFT_VERDICT)) == 1
    repairs = list(model_figures.repair_figures("m", "retrain"))
    assert found(repairs, series.REPAIR_PLANNED, repair="retrain") == [1]
    assert sum(found(repairs, series.REPAIR_PLANNED)) == 1


def incident(state: str, severity: str = "today", hours: int = 1) -> dict[str, object]:
    opened = NOW - timedelta(hours=hours)
    return {"model": "m", "severity": severity, "cause": "fix_data", "state": state, "opened_at": opened}


def test_open_incidents_are_counted_and_the_oldest_unacknowledged_is_dated() -> None:
    told = [incident("open", hours=3), incident("open", hours=2), incident("acknowledged", hours=9), incident("closed")]
    samples = list(platform_figures.incident_figures(pl.DataFrame(told)))
    assert found(samples, series.INCIDENTS_OPEN, state="open") == [2]
    assert found(samples, series.INCIDENTS_OPEN, state="acknowledged") == [1]
    assert found(samples, series.INCIDENTS_OPEN, state="closed") == []
    assert found(samples, series.INCIDENTS_BY_SEVERITY) == [0, 3, 0]
    assert found(samples, series.INCIDENT_UNACKNOWLEDGED) == [(NOW - timedelta(hours=3)).timestamp()]


def signed(role: str, decision: str = "approve", days_ago: int = 0) -> Signature:
    at = (NOW - timedelta(days=days_ago)).isoformat()
    said = Statement("readmission", 3, "a", "b", "c", decision, "as it says", role, f"dr-{role}", at)  # pyright: ignore[reportArgumentType]
    return Signature(said, "00")


def test_each_roles_newest_approval_of_an_unreleased_candidate_expires() -> None:
    signatures = [signed("mlops", days_ago=9), signed("mlops", days_ago=2), signed("clinical_lead", "reject")]
    samples = list(platform_figures.signature_figures(plan(), 3, signatures, []))
    assert found(samples, series.CANDIDATE_WAITING) == [1]
    expires = NOW + timedelta(days=plan().sign_off.valid_days - 2)
    assert found(samples, series.SIGNATURE_EXPIRES, role="mlops", version="3") == [expires.timestamp()]
    assert found(samples, series.SIGNATURE_EXPIRES, role="clinical_lead") == []
    nobody = list(platform_figures.signature_figures(plan(), 0, [], []))
    assert found(nobody, series.CANDIDATE_WAITING) == [0]


def test_the_first_key_of_a_role_to_expire_is_told_and_nobody_is_named() -> None:
    def key(name: str, days: int, revoked: bool = False) -> Signer:
        revoked_at = NOW if revoked else None
        return Signer(name, ("mlops",), "00", demo=False, expires_at=NOW + timedelta(days=days), revoked_at=revoked_at)

    signers = {x.name: x for x in (key("late", 90), key("soon", 9), key("gone", 1, revoked=True))}
    [sample] = platform_figures.signer_figures(signers)
    assert sample.value == (NOW + timedelta(days=9)).timestamp()
    assert dict(sample.labels) == {"role": "mlops"}


def test_the_oldest_notice_that_waits_is_dated_and_none_is_where_none_waits() -> None:
    waiting = list(platform_figures.outbox_figures([NOW, NOW - timedelta(hours=1)]))
    assert found(waiting, series.OUTBOX_PENDING) == [2]
    assert found(waiting, series.OUTBOX_OLDEST) == [(NOW - timedelta(hours=1)).timestamp()]
    assert found(list(platform_figures.outbox_figures([])), series.OUTBOX_OLDEST) == []
