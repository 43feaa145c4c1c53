"""What is shown of one model: its protocol's limits, what is live, and what its newest months say.

Belongs here: which figure becomes which series. Does not belong here: reading tables, and which small counts are
withheld: frames come as they may be shown (`reporting.shown_tables`), and a null is NaN: withheld, or not defined.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime

import polars as pl

from clinical_assets.governance.ledger import LedgerEntry, LedgerKind, last_of, valid_until
from clinical_assets.governance.small_cells import OVERALL, is_small
from clinical_assets.metrics import series
from clinical_assets.metrics.series import Sample
from clinical_assets.protocol import Limit, ModelProtocol, Repair, Verdict

ESTIMATED, REALISED = "estimated", "realised"
AT_LEAST, AT_MOST = "at_least", "at_most"
ACCEPTANCE, MONITORING, ROLLBACK_GUARD = "acceptance", "monitoring", "rollback_guard"
EVERY_SUBGROUP = "every_subgroup"
ESTIMATED_LOSS = "loss_of_auroc"
_CALIBRATION = "observed_expected_ratio"
_WITH_AN_ALARM = "sensitivity"
_OF_EVENTS = "event_"
_ALERTS = "alerts_per_100"
ESTIMATED_METRICS = ("auroc", _WITH_AN_ALARM, "ppv", _CALIBRATION)
"""What is estimated of every model before outcomes are known."""


def protocol_figures(protocol: ModelProtocol) -> Iterator[Sample]:
    """The model's name and plan, and every limit of it as a series, so that no alert rule holds a number."""
    model = protocol.model
    yield series.MODEL_PROTOCOL.at(
        1, model=model, environment=protocol.environment, protocol_sha256=protocol.sha256[:12]
    )
    strictest: dict[tuple[str, str, str, str], float] = {}
    for metric, bound, scope, source, value in _limits(protocol):
        key, stricter = (metric, bound, scope, source), min if bound == AT_MOST else max
        strictest[key] = stricter(strictest.get(key, value), value)
    for (metric, bound, scope, source), value in strictest.items():
        yield series.MODEL_LIMIT.at(value, model=model, metric=metric, bound=bound, scope=scope, source=source)


def _limits(protocol: ModelProtocol) -> Iterator[tuple[str, str, str, str, float]]:
    for limit in protocol.limits:
        scope = EVERY_SUBGROUP if limit.in_every_subgroup else OVERALL
        for bound, value in _bounds(limit):
            yield limit.metric, bound, scope, ACCEPTANCE, value
    watched = protocol.monitoring
    yield ESTIMATED_LOSS, AT_MOST, OVERALL, MONITORING, watched.tolerated_loss
    yield _CALIBRATION, AT_MOST, OVERALL, MONITORING, 1 + watched.tolerated_miscalibration
    yield _CALIBRATION, AT_LEAST, OVERALL, MONITORING, 1 / (1 + watched.tolerated_miscalibration)
    if guard := protocol.rollback_guard:
        yield guard.metric, AT_LEAST, OVERALL, ROLLBACK_GUARD, guard.at_least


def _bounds(limit: Limit) -> Iterator[tuple[str, float]]:
    if limit.at_least is not None:
        yield AT_LEAST, limit.at_least
    if limit.at_most is not None:
        yield AT_MOST, limit.at_most
    if limit.not_worse_than is not None and limit.by is not None:
        yield f"not_worse_than_{limit.not_worse_than}", limit.by


def ledger_figures(protocol: ModelProtocol, entries: Sequence[LedgerEntry]) -> Iterator[Sample]:
    """What is live by the ledger, since when, and until when where the protocol sets an end."""
    model, live = protocol.model, last_of(entries)
    releases = sum(entry.kind is LedgerKind.RELEASE for entry in entries)
    yield series.MODEL_RELEASES.at(releases, model=model)
    yield series.MODEL_LIVE.at(live is not None, model=model)
    if live is None:
        return
    yield series.MODEL_INFO.at(
        1,
        model=model,
        version=live.version,
        artefact_sha256=live.artefact_sha256[:12],
        data_origin=live.data_origin,
    )
    yield series.MODEL_LIVE_SINCE.at(live.live_from.timestamp(), model=model, version=live.version)
    if until := valid_until(live, protocol.release_valid_days):
        yield series.RELEASE_EXPIRES.at(until.timestamp(), model=model)


def estimate_figures(protocol: ModelProtocol, shown: pl.DataFrame) -> Iterator[Sample]:
    """The estimates of one month, and how many units it alerted; `shown` is that month of `estimated_performance`."""
    newest = shown.filter(pl.col("model_version") == pl.col("model_version").max())
    yield from _metrics(protocol, ESTIMATED, newest)
    for row in newest.filter(pl.col("metric") == _ALERTS, pl.col("subgroup") == OVERALL).iter_rows(named=True):
        per_1000 = math.nan if row["value"] is None else 10 * row["value"]
        yield series.ALERTS_PER_1000.at(per_1000, model=protocol.model)


def realised_figures(protocol: ModelProtocol, shown: pl.DataFrame) -> Iterator[Sample]:
    """What one matured month achieved, and whose sensitivity has fallen; `shown` is its `performance_report`."""
    newest = shown.filter(pl.col("model_version") == pl.col("model_version").max())
    yield from _metrics(protocol, REALISED, newest)
    watched = newest.filter(pl.col("metric") == _OF_EVENTS + _WITH_AN_ALARM).sort("subgroup")
    for subgroup, alarmed in watched.select("subgroup", "alarmed").rows():
        alarm = math.nan if alarmed is None else alarmed
        yield series.SENSITIVITY_ALARM.at(alarm, model=protocol.model, subgroup=subgroup)


def shown_metrics(protocol: ModelProtocol) -> frozenset[str]:
    """The figures that are shown: the headline, those with a limit, and those every kind of model is watched by."""
    limited = (metric for metric, *_ in _limits(protocol))
    return frozenset((*ESTIMATED_METRICS, ESTIMATED_LOSS, protocol.monitoring.headline, *limited))


def _metrics(protocol: ModelProtocol, state: str, shown: pl.DataFrame) -> Iterator[Sample]:
    """Of subgroups only what has a limit or an alarm in every one of them, so that series stay few."""
    in_subgroups = {limit.metric for limit in protocol.limits if limit.in_every_subgroup} | {_WITH_AN_ALARM}
    kept = shown.filter(
        pl.col("metric").is_in(list(shown_metrics(protocol))),
        (pl.col("subgroup") == OVERALL) | pl.col("metric").is_in(list(in_subgroups)),
    )
    for row in kept.sort("metric", "subgroup").iter_rows(named=True):
        labels = {"metric": row["metric"], "subgroup": row["subgroup"], "state": state}
        for family, column in (
            (series.MODEL_METRIC, "value"),
            (series.MODEL_METRIC_LOW, "low"),
            (series.MODEL_METRIC_HIGH, "high"),
        ):
            value = math.nan if row[column] is None else row[column]
            yield family.at(value, model=protocol.model, **labels)
    if shown.height:
        yield series.METRIC_MONTH.at(seconds(shown["month"].max()), model=protocol.model, state=state)


def verdict_figures(model: str, month: date, verdict: str) -> Iterator[Sample]:
    """The verdict of a month: 1 for the one that it is, 0 for every other."""
    for each in Verdict:
        yield series.DRIFT_VERDICT.at(each == verdict, model=model, verdict=each.value)
    yield series.DRIFT_MONTH.at(seconds(month), model=model)


def repair_figures(model: str, repair: str) -> Iterator[Sample]:
    """The repair planned for a month: 1 for the one that it is, 0 for every other."""
    for each in Repair:
        yield series.REPAIR_PLANNED.at(each == repair, model=model, repair=each.value)


def scoring_figures(model: str, rows: int, latency_ms_per_1000: float | None) -> Iterator[Sample]:
    """How many units the newest month scored, unless a small count, and how long that took."""
    if not is_small(rows):
        yield series.SCORED_ROWS.at(rows, model=model)
    if latency_ms_per_1000:
        yield series.SCORING_SECONDS.at(latency_ms_per_1000 / 1_000, model=model)
        yield series.SCORING_RATE.at(1e6 / latency_ms_per_1000, model=model)


def newest_month_figures(model: str, newest: date) -> Iterator[Sample]:
    """Of which month the newest data are."""
    yield series.NEWEST_MONTH.at(seconds(newest), model=model)


def due_month_figures(model: str, due: date) -> Iterator[Sample]:
    """Of which month data are due by now; of a model in production."""
    yield series.DUE_MONTH.at(seconds(due), model=model)


def seconds(day: object) -> float:
    """The Unix seconds of the beginning of a day, UTC."""
    if not isinstance(day, date):
        raise TypeError(f"a day is expected, not {type(day).__name__}")
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
