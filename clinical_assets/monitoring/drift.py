"""One batch against the champion's own training data: evidence per column, and what it amounts to.

Belongs here: which comparisons are made and the verdict on them. Does not belong here: the statistics (`evidence`).
The monitor is stateless: every check stands alone, and its error rate is shared out over the looks of a year.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import polars as pl

from clinical_assets.monitoring.column_reference import (
    ColumnReference,
    DriftError,
    NumberReference,
    is_category,
    learn_column,
    missing_rate,
)
from clinical_assets.monitoring.evidence import (
    UNTESTABLE,
    Evidence,
    effective_size,
    population_stability_index,
    size_needed,
    weigh_distribution,
    weigh_novelty,
    weigh_rate_change,
)
from clinical_assets.protocol import Monitoring, Verdict

DEFAULT_POLICY = Monitoring(headline="auroc", tolerated_loss=0.02)

COMPARISONS_PER_COLUMN = 3
"""Distribution, missing rate, novelty."""

FAULTY_MISSING_RISE = 0.5
"""A rise of the missing rate against the reference above which values are taken to be lost, not rare."""

FAULTY_UNSEEN_RATE = 0.05
"""The share of rows in categories never seen above which the coding is taken to have changed."""

FAULTY_OUT_OF_RANGE_RATE = 0.01
"""The share of values beyond the widened reference range above which they are taken to be another quantity or unit."""

SUSPECTED_UNIT_FACTOR = 2.0
"""A change of the median by at least this factor, which undoes the shift when divided out, means a new unit."""

MOSTLY_DISTINCT = 0.5
"""A text column with more distinct values than this share of its rows is an identifier or free text."""


@dataclass(frozen=True, slots=True)
class ColumnEvidence:
    """One comparison of one column: what was found, what chance explains, what matters, whether both are exceeded."""

    column: str
    statistic: str
    value: float | None
    critical: float | None
    evidence: float | None
    flagged: bool
    chance: float | None
    relevant: float
    reference_missing_rate: float
    batch_missing_rate: float
    n: int


COLUMNS_SCHEMA = pl.Schema(
    {
        "column": pl.String,
        "statistic": pl.String,
        "value": pl.Float64,
        "critical": pl.Float64,
        "evidence": pl.Float64,
        "flagged": pl.Boolean,
        "chance": pl.Float64,
        "relevant": pl.Float64,
        "reference_missing_rate": pl.Float64,
        "batch_missing_rate": pl.Float64,
        "n": pl.Int64,
    }
)


@dataclass(frozen=True, slots=True)
class DriftReport:
    """One batch against the reference.

    `severity` is the largest ratio of a value to its critical value: above 1, a column is flagged. `columns` has one
    row a comparison, strongest evidence (-log10 of the p-value) first; `critical` is the larger of `chance` and
    `relevant`. `n_effective` counts independent rows, `n_needed` how many a verdict of stable takes (`None`: the
    reference is too small).
    """

    verdict: Verdict
    severity: float
    reason: str
    columns: pl.DataFrame
    faults: tuple[str, ...]
    n: int
    n_effective: float
    n_needed: int | None


@dataclass(frozen=True, slots=True)
class DriftMonitor:
    """What is kept of the champion's training data, and the policy by which a batch is compared with it."""

    references: tuple[ColumnReference, ...]
    policy: Monitoring
    n_reference: int
    n_reference_effective: float
    alpha: float
    patient: str | None
    risk: str

    @classmethod
    def fit(
        cls,
        reference: pl.DataFrame,
        policy: Monitoring = DEFAULT_POLICY,
        columns: Sequence[str] | None = None,
        looks_per_year: int = 12,
        patient: str | None = None,
        risk: str = "predicted_risk",
    ) -> Self:
        """The monitor of a reference: the champion's training rows, with a column of its own predicted risks.

        The yearly false-alarm rate of the policy is divided by the looks of a year and the comparisons of a look
        (Bonferroni). Rows of one patient are not independent: with `patient`, all rows are kept and sample sizes are
        reduced by the design effect. (One row a patient would compare a year's last stay with a month's.)

        Args:
            reference: One row per prediction unit.
            policy: The error rate and the smallest movements that matter.
            columns: What to watch; by default each number, boolean and text that is not mostly distinct, but `patient`.
            looks_per_year: How many batches are checked in a year.
            patient: The column that says which rows belong together; by default every row stands alone.
            risk: The column of predicted risks; it alone suffices for a population shift.

        Raises:
            DriftError: If the reference is empty, lacks a column, or a named column cannot be compared.
        """
        if reference.is_empty():
            raise DriftError("the reference has no rows; fit the monitor on the champion's training data")
        wanted = list(columns) if columns is not None else _watchable(reference, patient)
        named = [*wanted, *([patient] if patient else [])]
        if absent := sorted(set(named) - set(reference.columns)):
            raise DriftError(f"the reference lacks the columns {absent}; it has {len(reference.columns)} others")
        if not wanted:
            raise DriftError("the reference has no column to watch; name them by `columns`")
        return cls(
            references=tuple(learn_column(reference[column]) for column in wanted),
            policy=policy,
            n_reference=len(reference),
            n_reference_effective=_independent_rows(reference, patient),
            alpha=policy.false_alarms_per_year / (looks_per_year * COMPARISONS_PER_COLUMN * len(wanted)),
            patient=patient,
            risk=risk,
        )

    def check(self, batch: pl.DataFrame) -> DriftReport:
        """The batch against the reference; a watched column that is absent counts as wholly missing.

        Raises:
            DriftError: If the batch lacks the patient column, or a column has become text where it was a number.
        """
        if self.patient is not None and self.patient not in batch.columns:
            raise DriftError(
                f"the batch lacks the patient column {self.patient!r}, by which its rows were to be grouped"
            )
        n_effective = _independent_rows(batch, self.patient)
        rows: list[ColumnEvidence] = []
        faults: list[str] = []
        for reference in self.references if len(batch) else ():
            series = self._column_of(batch, reference)
            evidence = self._compare(reference, series, n_effective / len(batch))
            rows += evidence
            faults += self._find_faults(reference, series, evidence)
        columns = pl.DataFrame(rows, schema=COLUMNS_SCHEMA).sort(
            "evidence", "value", "column", descending=[True, True, False], nulls_last=True
        )
        n_needed = self._size_needed()
        verdict, reason = self._judge(columns, tuple(faults), n_effective, n_needed)
        severity = columns.select((pl.col("value") / pl.col("critical")).max()).item()
        return DriftReport(
            verdict=verdict,
            severity=severity if severity is not None else 0.0,
            reason=f"{reason} ({_describe_size(len(batch), n_effective)})",
            columns=columns,
            faults=tuple(faults),
            n=len(batch),
            n_effective=n_effective,
            n_needed=n_needed,
        )

    def _column_of(self, batch: pl.DataFrame, reference: ColumnReference) -> pl.Series:
        if reference.column not in batch.columns:
            return pl.Series(reference.column, [None] * len(batch), dtype=pl.Null)
        series = batch[reference.column]
        was_number = isinstance(reference, NumberReference)
        comparable = series.dtype.is_numeric() if was_number else is_category(series.dtype)
        if not comparable and series.dtype != pl.Null:
            raise DriftError(
                f"column {reference.column!r} was {'a number' if was_number else 'text'} in the reference and is "
                f"{series.dtype} in the batch; give it the type the features have"
            )
        return series

    def _compare(self, reference: ColumnReference, series: pl.Series, weight: float) -> list[ColumnEvidence]:
        """The comparisons of one column; `weight` is how many independent rows a row of the batch is worth."""
        reference_weight = self.n_reference_effective / self.n_reference
        counts = reference.count(series)
        n_reference, n_batch = reference_weight * float(reference.counts.sum()), weight * float(counts.sum())
        distribution = weigh_distribution(reference.counts, counts, n_reference, n_batch, self.alpha)
        batch_missing = missing_rate(series)
        missing = weigh_rate_change(
            reference.missing_rate, batch_missing, self.n_reference_effective, weight * len(series), self.alpha
        )
        novel_rate = reference.novel_rate(series)
        novelty = (
            weigh_novelty(novel_rate, reference.novel_in_reference, n_reference, n_batch, self.alpha)
            if novel_rate is not None
            else UNTESTABLE
        )
        number = isinstance(reference, NumberReference)
        if reference.column == self.policy.device:
            novelty = replace(novelty, value=novel_rate, chance=0.5 / len(series))  # half a row: one row is beyond it
        comparisons = [
            ("psi", distribution, self.policy.relevant_psi),
            ("missing_rate_change", missing, self.policy.relevant_missing_rate_change),
            ("out_of_range_rate", novelty, FAULTY_OUT_OF_RANGE_RATE)
            if number
            else ("unseen_rate", novelty, 0.0 if reference.column == self.policy.device else FAULTY_UNSEEN_RATE),
        ]
        return [
            _weigh_relevance(reference, statistic, found, relevant, batch_missing, len(series))
            for statistic, found, relevant in comparisons
        ]

    def _find_faults(self, reference: ColumnReference, series: pl.Series, evidence: list[ColumnEvidence]) -> list[str]:
        """What can hardly be a change of the patients: values lost, never seen, out of range, or in another unit."""
        distribution, missing, novelty = evidence
        column = reference.column
        beyond_chance = missing.value is not None and missing.chance is not None and missing.value > missing.chance
        rise = missing.batch_missing_rate - missing.reference_missing_rate
        if beyond_chance and missing.batch_missing_rate == 1.0:
            return [f"{column} is wholly missing (reference {_percent(missing.reference_missing_rate)} missing)"]
        if beyond_chance and rise > FAULTY_MISSING_RISE:
            return [
                f"{column} is missing in {_percent(missing.batch_missing_rate)} of rows "
                f"(reference {_percent(missing.reference_missing_rate)})"
            ]
        if column == self.risk:
            return []
        if novelty.flagged and isinstance(reference, NumberReference):
            low, high = reference.widened
            return [
                f"{column} lies outside {low:g} to {high:g}, thrice the reference's range, in "
                f"{_percent(novelty.value)} of rows{self._suspect_unit(reference, series)}"
            ]
        if novelty.flagged and column == self.policy.device:
            return [f"{column}: {_percent(novelty.value)} of rows come from a device never seen in training"]
        if novelty.flagged:
            return [f"{column} has categories the reference never had in {_percent(novelty.value)} of rows"]
        if distribution.flagged and isinstance(reference, NumberReference) and self._suspect_unit(reference, series):
            return [f"{column} moved as a whole{self._suspect_unit(reference, series)}"]
        return []

    def _suspect_unit(self, reference: NumberReference, series: pl.Series) -> str:
        """The factor that undoes the shift, in words; nothing where there is none."""
        ratio = reference.median_ratio(series)
        if ratio is None or 1 / SUSPECTED_UNIT_FACTOR < ratio < SUSPECTED_UNIT_FACTOR:
            return ""
        rest = population_stability_index(reference.counts, reference.count(series, factor=ratio))
        return (
            f"; its median is {ratio:.3g} times the reference's: another unit?"
            if rest < self.policy.relevant_psi
            else ""
        )

    def _size_needed(self) -> int | None:
        bins = max(int(np.count_nonzero(reference.counts)) for reference in self.references)
        return size_needed(self.policy.relevant_psi, bins, self.n_reference_effective, self.alpha)

    def _judge(
        self, columns: pl.DataFrame, faults: tuple[str, ...], n_effective: float, n_needed: int | None
    ) -> tuple[Verdict, str]:
        if columns.is_empty():
            return Verdict.CANNOT_TELL, "The batch has no rows"
        if faults:
            return Verdict.DATA_FAULT, f"Faulty data: {'; '.join(faults)}"
        flagged = columns.filter("flagged")
        moved = flagged["column"].unique()
        named = "; ".join(_describe(row) for row in flagged.head(3).iter_rows(named=True))
        if self.risk in moved or len(moved) >= self.policy.minimum_drifted_columns:
            return Verdict.POPULATION_SHIFT, f"{len(moved)} of {len(self.references)} columns moved: {named}"
        if n_needed is None:
            return (
                Verdict.CANNOT_TELL,
                f"The reference of {self.n_reference:,} rows is too small for a PSI of {self.policy.relevant_psi:g}",
            )
        if n_effective < n_needed:
            return (
                Verdict.CANNOT_TELL,
                f"Too few rows to show a PSI of {self.policy.relevant_psi:g}: it takes {n_needed:,} independent ones",
            )
        if len(moved):
            return (
                Verdict.STABLE,
                f"{len(moved)} columns moved, {self.policy.minimum_drifted_columns} are needed to matter: {named}",
            )
        largest = columns.filter(statistic="psi").sort("value", descending=True, nulls_last=True).row(0, named=True)
        return Verdict.STABLE, f"No column moved beyond chance and relevance; the furthest is {_describe(largest)}"


def _watchable(reference: pl.DataFrame, patient: str | None) -> list[str]:
    return [
        series.name
        for series in reference
        if series.name != patient
        and (
            series.dtype.is_numeric()
            or (is_category(series.dtype) and series.n_unique() <= max(2, MOSTLY_DISTINCT * len(series)))
        )
    ]


def _independent_rows(frame: pl.DataFrame, patient: str | None) -> float:
    if patient is None:
        return float(len(frame))
    return effective_size(frame[patient].value_counts()["count"].to_numpy())


def _weigh_relevance(
    reference: ColumnReference, statistic: str, found: Evidence, relevant: float, batch_missing_rate: float, n: int
) -> ColumnEvidence:
    critical = max(found.chance, relevant) if found.chance is not None else None
    return ColumnEvidence(
        column=reference.column,
        statistic=statistic,
        value=found.value,
        critical=critical,
        evidence=found.evidence,
        flagged=found.value is not None and critical is not None and found.value > critical,
        chance=found.chance,
        relevant=relevant,
        reference_missing_rate=reference.missing_rate,
        batch_missing_rate=batch_missing_rate,
        n=n,
    )


def _describe(row: dict[str, str | float]) -> str:
    if row["statistic"] == "missing_rate_change":
        return (
            f"{row['column']} missing in {_percent(row['batch_missing_rate'])} of rows, "
            f"was {_percent(row['reference_missing_rate'])}"
        )
    if row["value"] is None:
        return f"{row['column']} (too few values to compare)"
    return f"{row['column']} (PSI {row['value']:.3f}, alarm above {row['critical']:.3f})"


def _describe_size(n: int, n_effective: float) -> str:
    return f"{n:,} rows" if n_effective == n else f"{n:,} rows, worth {n_effective:,.0f} independent ones"


def _percent(share: float | str | None) -> str:
    return f"{float(share or 0.0):.1%}".replace("%", " %")
