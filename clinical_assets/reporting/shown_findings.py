"""Findings as they leave the platform: a figure that rests on a small count is withheld, and says so.

Belongs here: which counts each metric tells, and what becomes of a finding that would tell a small one. Does not belong
here: the rule (`governance.small_cells`), and how a withheld finding is drawn.

A share of a known number tells a count: with n, the outcome rate tells the events, the alerts per 100 the alerted, and
sensitivity and predictive value both tell those found, those missed and those alerted for nothing. So each is withheld
where one of these is small, or would be given away by the total; whatever else is measured of outcomes is withheld
where the events, or those without, are few. The counts are of units, as n is: where a patient has many units (hours),
fewer patients may stand behind them than a finding says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from clinical_assets.governance.small_cells import hidden_shares, hidden_subgroups, withhold
from clinical_assets.protocol import SILENT_MONTHS, Finding, JudgedLimit
from clinical_assets.reporting.metric_words import AT, MINUS, NET_BENEFIT, SILENT, TRANSPORTED
from clinical_assets.reporting.withheld import WHY_WITHHELD, WithheldFinding

EVENT = "event_"

_POPULATIONS = (SILENT, TRANSPORTED, EVENT)
_COUNTS_ALERTED, _COUNTS_FOUND = ("alerts_per_100",), ("sensitivity", "ppv", "specificity")
_GAP = "sensitivity_gap"


@dataclass(frozen=True, slots=True)
class _Metric:
    """A metric's name taken apart: of which rows, what, at which operating point."""

    population: str
    base: str
    point: str

    @classmethod
    def of(cls, name: str) -> "_Metric":
        if name == SILENT_MONTHS:
            return cls(name, name, "")  # of all rows scored, not of the ripe ones alone
        population = next((prefix for prefix in _POPULATIONS if name.startswith(prefix)), "")
        bare = name.removeprefix(population)
        if MINUS in bare or NET_BENEFIT.fullmatch(bare):
            return cls(population, bare, "")
        base, _, point = bare.partition(AT)
        return cls(population, base, point)


@dataclass(frozen=True, slots=True)
class _Hidden:
    """The subgroups of one population whose counts are hidden, of each operating point."""

    n: frozenset[str]
    events: frozenset[str]
    correct: frozenset[str]
    alerted: dict[str, frozenset[str]]
    found: dict[str, frozenset[str]]

    def hides(self, metric: _Metric, subgroup: str) -> bool:
        if metric.base == SILENT_MONTHS:
            return subgroup in self.n
        if metric.base in _COUNTS_ALERTED:
            return subgroup in self.alerted[metric.point]
        if metric.base in _COUNTS_FOUND:
            return subgroup in self.found[metric.point]
        if metric.base == _GAP:
            return subgroup in self.n or bool(self.found.get(metric.point, frozenset()))
        if metric.base == "accuracy":
            return subgroup in self.correct
        return subgroup in self.events


def withheld_of(findings: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The rows whose value is withheld (columns `key`, `metric`, `subgroup`, and `n_hidden` where n is too).

    `findings` has `metric`, `subgroup`, `value` and `n`, and `key`, which tells one set of findings from another.
    """
    sets: dict[tuple[object, ...], list[tuple[str, str, float | None, int | None]]] = {}
    for row in findings.select(*key, "metric", "subgroup", "value", "n").iter_rows():
        sets.setdefault(row[:-4], []).append(row[-4:])
    found = [(*of, *withheld) for of, rows in sets.items() for withheld in _withheld(rows)]
    schema = {**findings.select(*key, "metric", "subgroup").schema, "n_hidden": pl.Boolean}
    return pl.DataFrame(found, schema=schema, orient="row").unique(maintain_order=True)


def suppress_findings(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of one set of rows, each that would tell a small count being a `WithheldFinding` in its place."""
    rows = [(finding.metric, finding.subgroup, finding.value, finding.n) for finding in findings]
    withheld = {(metric, subgroup): n_hidden for metric, subgroup, n_hidden in _withheld(rows)}
    return [
        _withhold(finding, withheld[finding.metric, finding.subgroup])
        if (finding.metric, finding.subgroup) in withheld
        else finding
        for finding in findings
    ]


def suppress_judged(judged: Sequence[JudgedLimit], findings: Sequence[Finding]) -> list[JudgedLimit]:
    """Judged limits beside the suppressed findings; the judgement stands, made on the exact figures.

    `findings` are all of the version, since what is hidden of one follows from the others.
    """
    withheld = {
        (finding.metric, finding.subgroup): finding
        for finding in suppress_findings(findings)
        if isinstance(finding, WithheldFinding)
    }
    return [
        item
        if item.finding is None or (item.finding.metric, item.finding.subgroup) not in withheld
        else JudgedLimit(
            item.limit,
            item.subgroup,
            withheld[item.finding.metric, item.finding.subgroup],
            item.judgement,
            WHY_WITHHELD,
        )
        for item in judged
    ]


def withhold_findings(table: pl.DataFrame, withheld: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """A table of findings with the columns null that tell what `withheld_of` found, `n` where that is hidden."""
    shown = withhold(table, withheld.drop("n_hidden"), columns)
    return withhold(shown, withheld.filter("n_hidden").drop("n_hidden"), ("n",))


def _withhold(finding: Finding, n_hidden: bool) -> WithheldFinding:
    n = 0 if n_hidden else finding.n
    return WithheldFinding(finding.metric, finding.subgroup, None, None, None, n, shows_n=not n_hidden)


def _withheld(rows: Sequence[tuple[str, str, float | None, int | None]]) -> list[tuple[str, str, bool]]:
    """Metric and subgroup of each finding of one set that is withheld, and whether its n is hidden."""
    metrics = {name: _Metric.of(name) for name, *_ in rows}
    hidden = {
        population: _hidden_counts(rows, metrics, population)
        for population in {metric.population for metric in metrics.values()}
    }
    return [
        (name, subgroup, subgroup in hidden[metrics[name].population].n)
        for name, subgroup, *_ in rows
        if hidden[metrics[name].population].hides(metrics[name], subgroup)
    ]


def _hidden_counts(
    rows: Sequence[tuple[str, str, float | None, int | None]], metrics: dict[str, _Metric], population: str
) -> _Hidden:
    values: dict[tuple[str, str, str], float] = {}
    n: dict[str, int] = {}
    for name, subgroup, value, count in rows:
        metric = metrics[name]
        # Rows of the event are the rows themselves: their outcome rate is that of the whole set.
        of_this = metric.population == population or (population == EVENT and metric.base == "prevalence")
        if of_this and count is not None:
            if metric.population == population:
                n[subgroup] = max(count, n.get(subgroup, 0))
            if value is not None:
                values[metric.base, metric.point, subgroup] = value
    events = {of: round(values["prevalence", "", of] * n[of]) for of in n if ("prevalence", "", of) in values}
    correct = {of: round(values["accuracy", "", of] * n[of]) for of in n if ("accuracy", "", of) in values}
    hidden_n = hidden_subgroups(n)
    hidden_events = hidden_n | hidden_shares(n, events)
    alerted: dict[str, frozenset[str]] = {}
    found: dict[str, frozenset[str]] = {}
    for point in {metric.point for metric in metrics.values() if metric.population == population}:
        alerts = _parts(values, "alerts_per_100", point, n, per=100)
        hits = _parts(values, "ppv", point, alerts) | _parts(values, "sensitivity", point, events)
        spared = _parts(values, "specificity", point, {of: n[of] - number for of, number in events.items()})
        alerted[point] = hidden_n | hidden_shares(n, alerts)
        misses = hidden_shares(events, hits) | hidden_shares(alerts, hits)
        found[point] = hidden_events | alerted[point] | misses | hidden_subgroups(hits) | hidden_subgroups(spared)
    return _Hidden(hidden_n, hidden_events, hidden_events | hidden_shares(n, correct), alerted, found)


def _parts(
    values: dict[tuple[str, str, str], float], metric: str, point: str, wholes: dict[str, int], per: int = 1
) -> dict[str, int]:
    return {
        of: round(values[metric, point, of] * whole / per)
        for of, whole in wholes.items()
        if (metric, point, of) in values
    }
