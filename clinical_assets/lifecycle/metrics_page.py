"""What `/metrics` shows of one home, read from the lake, the files of the home, and Dagster's records.

Belongs here: the reading, and what of it is read again. Does not belong here: what a figure means (metrics/), when it
is computed (metrics/exporter.py), and the server.

Nothing is written, and no act is finished that was interrupted: whoever watches must not disturb. Of the lake only the
tables of models that changed since the last look are read, and of those the newest months alone, so that a look costs
the same in the tenth year.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from importlib.metadata import version

import dagster as dg
import polars as pl

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.ledger import LedgerEntry, entries_of
from clinical_assets.governance.signatures import Signature, read_signatures
from clinical_assets.governance.signers import read_signers
from clinical_assets.lifecycle.dagster_figures import dagster_figures
from clinical_assets.lifecycle.incidents import INCIDENT_TABLE
from clinical_assets.lifecycle.questions.breaches import due_month
from clinical_assets.metrics import model_figures, platform_figures, series
from clinical_assets.metrics.series import Sample
from clinical_assets.protocol import ModelProtocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.ledger import LEDGER_TABLE
from clinical_assets.resources.outbox import pending_notices
from clinical_assets.resources.shown_lake import read_shown_months

_METRIC_COLUMNS = ("month", "model_version", "metric", "subgroup", "value", "low", "high")
_INCIDENT_COLUMNS = ("model", "severity", "cause", "state", "opened_at")


@dataclass(slots=True)
class MetricsPage:
    """Reads all figures of a home, again and again; remembers what the lake said until it changes."""

    home: Home
    lake: Lake
    instance: dg.DagsterInstance
    protocols: Sequence[ModelProtocol]
    _snapshot: int = -1
    _of_tables: dict[str, list[Sample]] = field(default_factory=dict)
    _incidents: list[Sample] = field(default_factory=list)
    _ledger: Mapping[str, list[LedgerEntry]] = field(default_factory=dict)

    def read(self) -> list[Sample]:
        """Every figure of the home as it is now; raises what the reading raises."""
        self._look_at_lake()
        return [
            *dagster_figures(self.instance, time.time()),
            *self._of_every_model(),
            *self._incidents,
            *self._of_files(),
            *platform_figures.limit_figures(),
            series.LAKE_SNAPSHOT.at(self._snapshot),
            series.BUILD_INFO.at(1, version=version("clinical-assets")),
        ]

    def _of_every_model(self) -> Iterator[Sample]:
        today = datetime.now(UTC).date()
        for protocol in self.protocols:
            yield from model_figures.protocol_figures(protocol)
            yield from model_figures.ledger_figures(protocol, self._ledger.get(protocol.model, []))
            for name in _READERS:
                yield from self._of_tables.get(f"{protocol.model}.{name}", ())
            if due := due_month(protocol, today):
                yield from model_figures.due_month_figures(protocol.model, due)

    def _look_at_lake(self) -> None:
        newest = self.lake.latest_snapshot()
        if newest == self._snapshot:
            return
        changed, tables = self.lake.changed_since(self._snapshot), set(self.lake.tables())
        if LEDGER_TABLE in changed or self._snapshot < 0:
            self._ledger = _entries_by_model(self.lake) if LEDGER_TABLE in tables else {}
        if INCIDENT_TABLE in changed or self._snapshot < 0:
            self._incidents = list(platform_figures.incident_figures(self._read_incidents(tables)))
        for protocol in self.protocols:
            for name, read in _READERS.items():
                table = f"{protocol.model}.{name}"
                if table in changed and table in tables:
                    self._of_tables[table] = list(read(self.lake, protocol))
        self._snapshot = newest

    def _read_incidents(self, tables: set[str]) -> pl.DataFrame:
        if INCIDENT_TABLE not in tables:
            return pl.DataFrame(schema=dict.fromkeys(_INCIDENT_COLUMNS, pl.String))
        return self.lake.read(INCIDENT_TABLE, columns=_INCIDENT_COLUMNS)

    def _of_files(self) -> Iterator[Sample]:
        trail = AuditTrail(self.home.audit)
        if trail.head_path.exists():
            head = trail.read_head()
            yield from platform_figures.audit_figures(head.records, datetime.fromisoformat(head.at))
        pending = [self.home.outbox / f"{name}.txt" for name in pending_notices(self.home.outbox)]
        posted = [datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in pending if path.exists()]
        yield from platform_figures.outbox_figures(posted)
        for protocol in self.protocols:
            candidate, signatures = self._newest_signed(protocol.model)
            entries = self._ledger.get(protocol.model, [])
            yield from platform_figures.signature_figures(protocol, candidate, signatures, entries)
        yield from platform_figures.signer_figures(read_signers(self.home.signer_files))

    def _newest_signed(self, model: str) -> tuple[int, list[Signature]]:
        """The newest version that anybody signed, 0 where there is none, and the signatures on it."""
        versions = [int(path.name[1:]) for path in (self.home.sign_offs / model).glob("v[0-9]*")]
        newest = max(versions, default=0)
        return newest, read_signatures(self.home.sign_offs, model, newest) if newest else []


def _entries_by_model(lake: Lake) -> dict[str, list[LedgerEntry]]:
    """The ledger of every model in one reading; raises LedgerError with the first entry that is not to be trusted."""
    rows = lake.read(LEDGER_TABLE)
    return {str(model): entries_of(own) for (model,), own in rows.group_by("model")}


def _of_features(lake: Lake, protocol: ModelProtocol) -> Iterator[Sample]:
    yield from model_figures.newest_month_figures(protocol.model, _newest(lake, protocol, "features"))


def _of_predictions(lake: Lake, protocol: ModelProtocol) -> Iterator[Sample]:
    column, newest = "latency_ms_per_1000", _newest(lake, protocol, "predictions")
    scored = lake.read(f"{protocol.model}.predictions", month=newest, columns=[column])
    latency = scored[column].max()
    took = latency if isinstance(latency, float) else None
    yield from model_figures.scoring_figures(protocol.model, scored.height, took)


def _of_estimates(lake: Lake, protocol: ModelProtocol) -> Iterator[Sample]:
    table = "estimated_performance"
    months = [_newest(lake, protocol, table)]
    yield from model_figures.estimate_figures(
        protocol, read_shown_months(lake, protocol.model, table, months, _METRIC_COLUMNS)
    )


def _of_performance(lake: Lake, protocol: ModelProtocol) -> Iterator[Sample]:
    """The newest month whose outcomes have matured, which is not older than they take to."""
    table, columns = "performance_report", (*_METRIC_COLUMNS, "status", "alarmed")
    at_most = protocol.outcome.ripe_after_days // 28 + 3
    months = lake.months(f"{protocol.model}.{table}")[-at_most:]
    shown = read_shown_months(lake, protocol.model, table, months, columns)
    matured = shown.filter(pl.col("status") == "ripe")
    yield from model_figures.realised_figures(protocol, matured.filter(pl.col("month") == pl.col("month").max()))


def _of_drift(lake: Lake, protocol: ModelProtocol) -> Iterator[Sample]:
    month, verdict = _word_of_newest(lake, protocol, "drift_report", "verdict")
    yield from model_figures.verdict_figures(protocol.model, month, verdict)


def _of_plans(lake: Lake, protocol: ModelProtocol) -> Iterator[Sample]:
    _, repair = _word_of_newest(lake, protocol, "repair_plan", "repair")
    yield from model_figures.repair_figures(protocol.model, repair)


_READERS: Mapping[str, Callable[[Lake, ModelProtocol], Iterator[Sample]]] = {
    "features": _of_features,
    "predictions": _of_predictions,
    "estimated_performance": _of_estimates,
    "performance_report": _of_performance,
    "drift_report": _of_drift,
    "repair_plan": _of_plans,
}
"""How each table of a model is read, once it is there and has changed."""


def _newest(lake: Lake, protocol: ModelProtocol, table: str) -> date:
    return lake.months(f"{protocol.model}.{table}")[-1]


def _word_of_newest(lake: Lake, protocol: ModelProtocol, table: str, column: str) -> tuple[date, str]:
    """The newest month of a table, and what a column says that is the same in each of its rows."""
    month = _newest(lake, protocol, table)
    [word] = lake.read(f"{protocol.model}.{table}", month=month, columns=[column])[column].unique().to_list()
    return month, word
