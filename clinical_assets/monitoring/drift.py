"""One look at a batch against the champion's own training data: evidence per column, and what it amounts to.

Belongs here: which comparisons are made, the error rate they share, and the verdict. Does not belong here: statistics
(`evidence`, `sequential_evidence`, `joint_evidence`, `unit_change`), outcomes, harm and repair.

The error rate. Four fifths of the policy's yearly false-alarm rate go to the sequential evidence: each column has a
process for its values and one for its missing ones, all columns have one together. Each is bounded by Ville's
inequality, however its year is looked at, and they share the rate by weight (Bonferroni), whatever their dependence.
One fifth goes to the faults, which are judged look by look. Once there is an alarm, the moved columns are listed by
the weighted e-BH procedure (Wang and Ramdas 2022, "False discovery rate control with e-values").
"""

import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import polars as pl

from clinical_assets.monitoring.column_reference import (
    ColumnReference,
    NumberReference,
    RowTally,
    is_category,
    learn_column,
)
from clinical_assets.monitoring.evidence import (
    UNEXPLAINED_LOOKS,
    UNTESTABLE,
    Counts,
    Evidence,
    MovementLimits,
    jensen_shannon_distance,
    limit_movement,
    population_stability_index,
    weigh_novelty,
    weigh_rate_change,
)
from clinical_assets.monitoring.joint_evidence import STATE_SCHEMA as JOINT_STATE_SCHEMA
from clinical_assets.monitoring.joint_evidence import JointEvidence, JointReference, JointState
from clinical_assets.monitoring.sequential_evidence import units_needed
from clinical_assets.monitoring.unit_change import suspect_unit_change
from clinical_assets.monitoring.units import DriftError, Frame, Sample, Units, collapse, read_batches, sample_units
from clinical_assets.protocol import Monitoring, Verdict

DEFAULT_POLICY = Monitoring(headline="auroc", tolerated_loss=0.02)

JOINTLY = "(jointly)"
"""The name under which a report's table has all columns together."""

SHARE_OF_FAULTS = 0.2
"""The part of the yearly false-alarm rate that faults may use; the rest is the sequential evidence's."""

SHARE_OF_JOINT, SHARE_OF_VALUES = 0.1, 0.75
"""Of the sequential part, what the columns together may use; of a column's part, what its values may use."""

FAULT_CHECKS_PER_COLUMN = 4
"""Missing, out of range or unseen, another unit, and one to spare."""

FAULTY_MISSING_RISE = 0.5
"""A rise of the missing rate against the reference above which values are taken to be lost, not rare."""

FAULTY_UNSEEN_RATE = 0.05
"""The share of rows in categories never seen above which the coding is taken to have changed."""

FAULTY_OUT_OF_RANGE_RATE = 0.01
"""The share of values beyond the widened reference range above which they are taken to be impossible."""

MOSTLY_DISTINCT = 0.5
"""A text column with more distinct values than this share of its rows is an identifier or free text."""

FEWEST_ROWS_TO_RECOGNISE = 10
"""Fewer rows than this, or mostly equal ones, may be those of an earlier look by chance."""

MOST_COLUMNS_TO_RECOGNISE = 5
"""So many columns, numbers first, tell the rows of a batch from those of another."""

MOST_REFERENCE_UNITS, MOST_BATCH_UNITS = 100_000, 20_000
"""So many units are kept of a larger reference, and of a larger batch, for the sequential evidence."""

COLUMNS_SCHEMA = pl.Schema(
    {
        "column": pl.String,
        "statistic": pl.String,
        "value": pl.Float64,
        "critical": pl.Float64,
        "evidence": pl.Float64,
        "flagged": pl.Boolean,
        "reference_missing_rate": pl.Float64,
        "batch_missing_rate": pl.Float64,
        "n": pl.Int64,
    }
)

STATE_SCHEMA = pl.Schema(
    {
        "reference": pl.String,
        "look": pl.Int64,
        "column": pl.String,
        "kind": pl.String,
        "counts": pl.List(pl.Float64),
        "n_units": pl.Int64,
        "fingerprint": pl.UInt64,
        "period": pl.String,
        **JOINT_STATE_SCHEMA,
    }
)
"""A row a look and process; `kind` is look, values, missing or joint. Of a patient there is no value."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One statistic of one column in one look; `critical` is what chance explains in 99 of 100 looks."""

    statistic: str
    value: float | None
    critical: float | None
    faulty: bool = False


@dataclass(frozen=True, slots=True)
class ColumnLook:
    """One column in one look: what was compared, what is faulty, and the units' counts in the urns."""

    column: str
    comparisons: tuple[Comparison, ...]
    faults: tuple[str, ...]
    values: Counts
    missing: Counts
    reference_missing_rate: float
    batch_missing_rate: float
    n: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process of evidence: its column and kind, its weight in the error rate, log e-value, and whether it alarms."""

    column: str
    kind: str
    weight: float
    log_evidence: float
    flagged: bool = False

    @property
    def weighed(self) -> float:
        """The logarithm of weight times e-value, by which processes are ranked."""
        return math.log(self.weight) + self.log_evidence


@dataclass(frozen=True, slots=True)
class DriftReport:
    """One look at a batch, and what the looks of the year so far say.

    `columns` has one row a statistic of a column, strongest evidence first. `value` and `critical` are of this look
    alone, over all rows; `critical` is what chance explains in 99 of 100 looks. `evidence` is log10 of the e-value that
    the column's values, or its missing ones, have gathered over the year's looks (0 if below 1). `flagged` marks what
    is faulty or alarmed; `moved` names those columns, the faulty first, then by evidence. `n_units` counts this look's
    units, `n_units_this_year` those of the year's looks without a fault of the whole batch, `n_needed` how many a
    verdict of stable takes (`None`: the reference is too small). `severity` is `None`: movement is not harm, and the
    loss is estimated elsewhere.
    """

    verdict: Verdict
    severity: float | None
    reason: str
    columns: pl.DataFrame
    faults: tuple[str, ...]
    moved: tuple[str, ...]
    n: int
    n_units: int
    n_units_this_year: int
    n_needed: int | None


@dataclass(slots=True)
class DriftMonitor:
    """What is kept of the champion's training data, the policy, and the evidence of the looks so far.

    `state` is a frame of `STATE_SCHEMA`, to be stored between looks; it holds counts, and no row of a patient.
    """

    references: tuple[ColumnReference, ...]
    joint: JointReference | None
    policy: Monitoring
    n_reference_units: int
    looks_per_year: int
    patient: str | None
    period: str | None
    risk: str
    embedding: tuple[str, ...]
    seed: int
    digest: str
    state: pl.DataFrame

    @classmethod
    def fit(
        cls,
        reference: Frame,
        policy: Monitoring = DEFAULT_POLICY,
        columns: Sequence[str] | None = None,
        looks_per_year: int = 12,
        patient: str | None = None,
        period: str | None = None,
        risk: str = "predicted_risk",
        embedding: Sequence[str] = (),
        seed: int = 0,
    ) -> Self:
        """The monitor of a reference: the champion's training rows, with a column of its own predicted risks.

        Args:
            reference: One row per prediction unit; a lazy frame is read in batches, in flat memory.
            policy: The yearly error rate, the smallest shift a stable month must have been able to show, the device.
            columns: What to watch; by default each number, boolean and text that is not mostly distinct, except
                `patient`, `period` and `embedding`.
            looks_per_year: How many batches are checked in a year.
            patient: The column that says which rows belong together: the unit is a patient in one look. By default
                every row stands alone.
            period: The column of the look a reference row would have been in, such as the month, so that the
                reference's patients are thinned as a batch's are.
            risk: The column of predicted risks; how it moves is never taken for faulty data.
            embedding: Further numbers that are weighed jointly, and not each by itself.
            seed: All chance comes from it, the number of the look and the column.

        Raises:
            DriftError: If the reference is empty, lacks a column, or a named column cannot be compared.
        """
        schema = reference.collect_schema()
        keys = [column for column in (patient, period) if column is not None]
        named = [*(columns or ()), *keys, *embedding]
        if absent := sorted(set(named) - set(schema.names())):
            raise DriftError(f"the reference lacks the columns {absent}; it has {len(schema)} others")
        candidates = [name for name in schema.names() if name not in {*keys, *embedding}]
        grouped_by = keys if patient is not None else []
        kept = list(columns) if columns is not None else [name for name in candidates if _may_be_watched(schema[name])]
        sample = sample_units(reference, [*kept, *embedding], grouped_by, MOST_REFERENCE_UNITS, seed)
        if not sample.n_rows:
            raise DriftError("the reference has no rows; fit the monitor on the champion's training data")
        wanted = kept if columns is not None else [name for name in kept if not _mostly_distinct(sample.rows[name])]
        if not wanted:
            raise DriftError("the reference has no column to watch; name them by `columns`")
        units = collapse(sample.rows, [*wanted, *embedding], grouped_by)
        learned = [
            learn_column(
                sample.rows[column],
                units.values[column],
                units.missing[column].to_numpy(),
                np.random.default_rng([seed, 0, zlib.crc32(column.encode())]),
            )
            for column in wanted
        ]
        tallies = _count_rows(reference, learned)
        references = tuple(column.counted(tally) for column, tally in zip(learned, tallies, strict=True))
        numbers = [column.column for column in references if isinstance(column, NumberReference)]
        return cls(
            references=references,
            joint=JointReference.fit(units.values, [*numbers, *embedding], seed, looks_per_year),
            policy=policy,
            n_reference_units=len(units),
            looks_per_year=looks_per_year,
            patient=patient,
            period=period,
            risk=risk,
            embedding=tuple(embedding),
            seed=seed,
            digest=_digest(references),
            state=STATE_SCHEMA.to_frame(),
        )

    def resume(self, state: pl.DataFrame) -> "DriftMonitor":
        """A monitor of the same reference at a stored state; an empty frame of the schema is that before any look.

        Raises:
            DriftError: If the frame is no state, or that of another reference.
        """
        if missing := sorted(set(STATE_SCHEMA) - set(state.columns)):
            raise DriftError(f"the state lacks the columns {missing}; start without one, as before the first look")
        others = state.filter(pl.col("reference") != self.digest).height
        if others:
            raise DriftError(f"{others} rows of the state belong to another reference; start again without a state")
        return replace(self, state=state.select(STATE_SCHEMA.names()).cast(STATE_SCHEMA).sort("look"))

    def check(self, batch: Frame, period: object = None) -> DriftReport:
        """One look: the batch against the reference, with the evidence of the year's earlier looks.

        A watched column that is absent counts as wholly missing. A column with a fault adds nothing to the evidence; an
        empty batch is no look. The same monitor in the same state gives the same report.

        Args:
            batch: One row per prediction unit; a lazy frame is read in batches, in flat memory.
            period: The value that the period column is to have, where the batch has one; other rows are late or early.

        Raises:
            DriftError: If the batch lacks the patient or period column, or text stands where the reference had numbers.
        """
        completed = self._complete(batch)
        watched = [reference.column for reference in self.references]
        look = self._look_number()
        grouped_by = [self.patient] if self.patient is not None else []
        sample = sample_units(completed, [*watched, *self.embedding], grouped_by, MOST_BATCH_UNITS, self.seed + look)
        if not sample.n_rows:
            return self._report_empty()
        units = collapse(sample.rows, [*watched, *self.embedding], grouped_by)
        fingerprint = self._fingerprint(completed)
        faults = self._find_batch_faults(completed, fingerprint, period)
        tallies = _count_rows(completed, self.references)
        looks = [
            self._look_at(reference, tally, units, sample, look)
            for reference, tally in zip(self.references, tallies, strict=True)
        ]
        counted = [found for found in looks if not faults and not found.faults]
        state = self._forget(look)
        joint, joint_state = self._look_jointly(state, units, usable=len(counted) == len(looks))
        seen = len(units) if not faults else 0
        self.state = pl.concat(
            [
                state.filter(pl.col("kind") != "joint"),
                self._keep(look, counted, seen, fingerprint, period),
                joint_state,
            ],
            how="diagonal",
        )
        processes = self._weigh(joint)
        return self._report(sample, len(units), looks, processes, joint, faults)

    def _complete(self, batch: Frame) -> Frame:
        schema = batch.collect_schema()
        keys = [column for column in (self.patient, self.period) if column is not None]
        if absent := sorted({*keys, *self.embedding} - set(schema.names())):
            raise DriftError(f"the batch lacks the columns {absent}, by which its rows were to be grouped or weighed")
        for reference in self.references:
            dtype = schema.get(reference.column, pl.Null())
            was_number = isinstance(reference, NumberReference)
            if dtype != pl.Null and not (dtype.is_numeric() if was_number else is_category(dtype)):
                raise DriftError(
                    f"column {reference.column!r} was {'a number' if was_number else 'text'} in the reference and is "
                    f"{dtype} in the batch; give it the type the features have"
                )
        empty = [reference for reference in self.references if schema.get(reference.column, pl.Null()) == pl.Null]
        nulls = [
            pl.lit(None, pl.Float64 if isinstance(reference, NumberReference) else pl.String).alias(reference.column)
            for reference in empty
        ]
        return batch.with_columns(nulls)

    def _look_number(self) -> int:
        last = self.state["look"].max()
        return 1 + (int(last) if isinstance(last, int) else 0)

    def _forget(self, look: int) -> pl.DataFrame:
        """The state without the evidence of an earlier year; what recognises a duplicate is kept a year long."""
        first_of_year = look - (look - 1) % self.looks_per_year
        this_year = pl.col("look") >= first_of_year
        recent = (pl.col("kind") == "look") & (pl.col("look") >= look - self.looks_per_year)
        return self.state.filter(this_year | recent)

    def _fingerprint(self, batch: Frame) -> int | None:
        """A number that all rows together have, in whatever order; `None` where equal rows would be no wonder."""
        numbers = [reference.column for reference in self.references if isinstance(reference, NumberReference)]
        categories = [reference.column for reference in self.references if not isinstance(reference, NumberReference)]
        watched = [*([self.patient] if self.patient else []), *[*numbers, *categories][:MOST_COLUMNS_TO_RECOGNISE]]
        total, rows, distinct = 0, 0, 0
        for part in read_batches(batch, watched):
            hashes = part.hash_rows(seed=self.seed)
            total = (total + int(hashes.to_numpy().sum(dtype=np.uint64))) % 2**64
            rows += len(part)
            distinct += hashes.head(10_000).n_unique() if distinct == 0 else 0
        recognisable = rows >= FEWEST_ROWS_TO_RECOGNISE and distinct > min(rows, 10_000) / 2
        return total if recognisable else None

    def _find_batch_faults(self, batch: Frame, fingerprint: int | None, period: object) -> tuple[str, ...]:
        faults: list[str] = []
        earlier = self.state.filter(kind="look")
        same = earlier.filter(pl.col("fingerprint") == fingerprint) if fingerprint is not None else earlier.clear()
        if len(same):
            faults.append(f"the batch is that of look {same['look'][-1]} again, row by row: a duplicate")
        if self.period is not None and period is not None:
            others = batch.lazy().select((pl.col(self.period) != pl.lit(period)).sum()).collect().item()
            if others:
                faults.append(f"{others:,} rows are of another {self.period} than {period}: late, or early")
        return tuple(faults)

    def _look_at(
        self, reference: ColumnReference, tally: RowTally, units: Units, sample: Sample, look: int
    ) -> ColumnLook:
        column = reference.column
        generator = np.random.default_rng([self.seed, look, zlib.crc32(column.encode())])
        placed = reference.place(units.values[column])
        n_units = sample.n_units
        limits = self._limit(reference, tally, placed, n_units, generator)
        novel_rate = reference.novel_rate(tally)
        present_units = n_units * tally.n_present / tally.n
        novelty = (
            weigh_novelty(
                novel_rate, reference.novel_in_reference, reference.values.n, present_units, UNEXPLAINED_LOOKS
            )
            if novel_rate is not None
            else UNTESTABLE
        )
        missing = weigh_rate_change(
            reference.rows.missing_rate, tally.missing_rate, self.n_reference_units, n_units, UNEXPLAINED_LOOKS
        )
        comparisons = _compare(reference, tally, limits)
        unexplained = any(_exceeds(found.value, found.critical) for found in comparisons)
        faults = self._find_missing_fault(reference, tally, missing)
        novel_fault = None if faults or column == self.risk else self._find_novel_fault(reference, tally, novelty)
        unit_fault = None
        if isinstance(reference, NumberReference) and unexplained and not faults and column != self.risk:
            unit_fault = self._find_unit_fault(reference, placed)
        faults += [fault for fault in (unit_fault or novel_fault,) if fault is not None]
        is_device = column == self.policy.device
        comparisons.append(
            Comparison(
                "out_of_range_rate" if isinstance(reference, NumberReference) else "unseen_rate",
                novelty.value if not is_device else novel_rate,
                novelty.chance if not is_device else 0.5 / tally.n,
                faulty=novel_fault is not None,
            )
        )
        lost = bool(faults) and novel_fault is None and unit_fault is None
        comparisons.append(Comparison("missing_rate_change", missing.value, missing.chance, faulty=lost))
        if unit_fault is not None:
            comparisons[0] = replace(comparisons[0], faulty=True)
        return ColumnLook(
            column=column,
            comparisons=tuple(comparisons),
            faults=tuple(faults),
            values=reference.values.count(placed, generator),
            missing=reference.missing.count(units.missing[column].to_numpy(), generator),
            reference_missing_rate=reference.rows.missing_rate,
            batch_missing_rate=tally.missing_rate,
            n=tally.n_present,
        )

    def _limit(
        self, reference: ColumnReference, tally: RowTally, placed: Counts, n_units: int, generator: np.random.Generator
    ) -> MovementLimits | None:
        """What chance explains: by permuting rows, or the sampled units where a patient has several rows."""
        positions = reference.positions_sd if isinstance(reference, NumberReference) else None
        if self.patient is None:
            return limit_movement(reference.rows.counts, tally.counts, generator, positions)
        of_units = reference.count_units(placed)
        limits = limit_movement(reference.unit_counts, of_units, generator, positions)
        present = n_units * tally.n_present / tally.n
        if limits is None or present <= of_units.sum():
            return limits
        n = reference.unit_counts.sum()
        narrowing = (1 / n + 1 / present) / (1 / n + 1 / of_units.sum())
        return MovementLimits(
            limits.population_stability_index * narrowing,
            limits.jensen_shannon_distance * math.sqrt(narrowing),
            limits.mean_difference_sd * math.sqrt(narrowing),
        )

    @property
    def _fault_level(self) -> float:
        checks = self.looks_per_year * FAULT_CHECKS_PER_COLUMN * len(self.references)
        return SHARE_OF_FAULTS * self.policy.false_alarms_per_year / checks

    @property
    def _alarm_level(self) -> float:
        return (1 - SHARE_OF_FAULTS) * self.policy.false_alarms_per_year

    @property
    def _weight_of_column(self) -> float:
        return (1 - (SHARE_OF_JOINT if self.joint is not None else 0.0)) / len(self.references)

    def _find_missing_fault(self, reference: ColumnReference, tally: RowTally, missing: Evidence) -> list[str]:
        was, now = reference.rows.missing_rate, tally.missing_rate
        beyond_chance = missing.evidence is not None and missing.evidence > -math.log10(self._fault_level)
        if not beyond_chance or now <= was:
            return []
        if now == 1.0:
            return [f"{reference.column} is wholly missing (reference {_percent(was)} missing)"]
        if now - was > FAULTY_MISSING_RISE:
            return [f"{reference.column} is missing in {_percent(now)} of rows (reference {_percent(was)})"]
        return []

    def _find_novel_fault(self, reference: ColumnReference, tally: RowTally, novelty: Evidence) -> str | None:
        rate = reference.novel_rate(tally)
        if not rate:
            return None
        if reference.column == self.policy.device:
            return f"{reference.column}: {_percent(rate)} of rows come from a device never seen in training"
        if novelty.evidence is None or novelty.evidence <= -math.log10(self._fault_level):
            return None
        if isinstance(reference, NumberReference):
            low, high = reference.widened
            if rate <= FAULTY_OUT_OF_RANGE_RATE:
                return None
            return (
                f"{reference.column} lies outside {low:g} to {high:g}, thrice the reference's range, "
                f"in {_percent(rate)} of rows"
            )
        if rate <= FAULTY_UNSEEN_RATE:
            return None
        return f"{reference.column} has categories the reference never had in {_percent(rate)} of rows"

    def _find_unit_fault(self, reference: NumberReference, placed: Counts) -> str | None:
        if reference.density is None:
            return None
        change = suspect_unit_change(reference.density, placed, self._fault_level)
        return f"{reference.column}: {change.in_words()}" if change is not None else None

    def _look_jointly(
        self, state: pl.DataFrame, units: Units, usable: bool
    ) -> tuple[JointEvidence | None, pl.DataFrame]:
        if self.joint is None:
            return None, STATE_SCHEMA.to_frame()
        kept = state.filter(kind="joint").select(JOINT_STATE_SCHEMA.names())
        before = JointState.from_frame(kept) if len(kept) else None
        if not usable:
            return (self.joint.weigh(before) if before is not None else None), state.filter(kind="joint")
        after, evidence = self.joint.look(units.values, before)
        row = after.to_frame().with_columns(
            pl.lit(self.digest).alias("reference"),
            pl.lit(self._look_number()).cast(pl.Int64).alias("look"),
            pl.lit(JOINTLY).alias("column"),
            pl.lit("joint").alias("kind"),
        )
        return evidence, row

    def _keep(
        self, look: int, counted: Sequence[ColumnLook], n_units: int, fingerprint: int | None, period: object
    ) -> pl.DataFrame:
        """The rows that this look adds to the state."""
        kinds = ["look", *(["values", "missing"] * len(counted))]
        names = [None, *(found.column for found in counted for _ in range(2))]
        counts = [None, *(urn.tolist() for found in counted for urn in (found.values, found.missing))]
        rest = [None] * (len(kinds) - 1)
        columns = {
            "reference": [self.digest] * len(kinds),
            "look": [look] * len(kinds),
            "column": names,
            "kind": kinds,
            "counts": counts,
            "n_units": [n_units, *rest],
            "fingerprint": [fingerprint, *rest],
            "period": [str(period) if period is not None else None, *rest],
        }
        return pl.DataFrame(columns, schema={name: STATE_SCHEMA[name] for name in columns})

    def _year(self) -> pl.DataFrame:
        look = self._look_number() - 1
        return self.state.filter(pl.col("look") > (look - 1) // self.looks_per_year * self.looks_per_year)

    def _weigh(self, joint: JointEvidence | None) -> list[Process]:
        """Each process with the evidence of this year's looks; the alarmed ones, if there is an alarm, by e-BH."""
        year = self._year()
        position = {look: place for place, look in enumerate(sorted(year.filter(kind="look")["look"]))}
        found = {
            (column, kind): (looks, counts)
            for column, kind, looks, counts in year.filter(pl.col("kind").is_in(["values", "missing"]))
            .group_by("column", "kind")
            .agg("look", "counts")
            .iter_rows()
        }
        share = {"values": SHARE_OF_VALUES, "missing": 1 - SHARE_OF_VALUES}
        processes: list[Process] = []
        for reference in self.references:
            for kind, urn in (("values", reference.values), ("missing", reference.missing)):
                table = np.zeros((len(position), urn.gaps.size))
                for look, counts in zip(*found.get((reference.column, kind), ((), ())), strict=True):
                    table[position[look]] = counts
                weight = self._weight_of_column * share[kind]
                processes.append(Process(reference.column, kind, weight, urn.log_evidence(table, self.looks_per_year)))
        if joint is not None:
            processes.append(Process(JOINTLY, "joint", SHARE_OF_JOINT, joint.log_evidence))
        processes.sort(key=lambda process: process.weighed, reverse=True)
        threshold = -math.log(self._alarm_level)
        if processes[0].weighed < threshold:
            return processes
        rejected = max(
            rank
            for rank, process in enumerate(processes, 1)
            if process.weighed >= threshold - math.log(rank) or rank == 1
        )
        return [replace(process, flagged=rank < rejected) for rank, process in enumerate(processes)]

    @property
    def n_needed(self) -> int | None:
        """How many units of a year's looks it takes to see the policy's smallest shift; `None` if no number does."""
        weight = self._weight_of_column * SHARE_OF_VALUES
        return units_needed(
            self.policy.smallest_shift_sd, self.n_reference_units, weight, self._alarm_level, self.looks_per_year
        )

    def _report(
        self,
        sample: Sample,
        n_units: int,
        looks: Sequence[ColumnLook],
        processes: Sequence[Process],
        joint: JointEvidence | None,
        batch_faults: tuple[str, ...],
    ) -> DriftReport:
        by_process = {(process.column, process.kind): process for process in processes}
        columns = pl.DataFrame(_rows(looks, by_process, self._alarm_level), schema=COLUMNS_SCHEMA, orient="row").sort(
            ["flagged", "evidence", "column"], descending=[True, True, False], maintain_order=True
        )
        faults = (*batch_faults, *(fault for found in looks for fault in found.faults))
        faulty = [found.column for found in looks if found.faults]
        flagged = [process for process in processes if process.flagged]
        jointly = joint.moved if joint is not None and any(process.kind == "joint" for process in flagged) else ()
        singly = [process.column for process in flagged if process.kind != "joint"]
        moved = tuple(dict.fromkeys([*faulty, *singly, *jointly]))
        seen = int(self._year()["n_units"].sum())
        verdict, reason = self._judge(columns, faults, flagged, jointly, seen)
        return DriftReport(
            verdict=verdict,
            severity=None,
            reason=f"{reason} ({_describe_size(sample.n_rows, sample.n_units)})",
            columns=columns,
            faults=faults,
            moved=moved,
            n=sample.n_rows,
            n_units=sample.n_units,
            n_units_this_year=seen,
            n_needed=self.n_needed,
        )

    def _judge(
        self,
        columns: pl.DataFrame,
        faults: tuple[str, ...],
        flagged: Sequence[Process],
        jointly: Sequence[str],
        seen: int,
    ) -> tuple[Verdict, str]:
        movement = ""
        if flagged:
            together = list(jointly)[:3]
            named = [
                _describe(columns, process) if process.kind != "joint" else _describe_jointly(process, together)
                for process in flagged[:3]
            ]
            count = len({process.column for process in flagged if process.kind != "joint"})
            movement = f"{count} of {len(self.references)} columns moved: {'; '.join(named)}"
        if faults:
            beside = f". Beside that, {movement}" if flagged else ""
            return Verdict.DATA_FAULT, f"Faulty data: {'; '.join(faults)}{beside}"
        if flagged:
            return Verdict.POPULATION_SHIFT, movement
        shift = self.policy.smallest_shift_sd
        if self.n_needed is None:
            return (
                Verdict.CANNOT_TELL,
                f"The reference of {self.n_reference_units:,} units is too small to show a shift of {shift:g} SD",
            )
        if seen < self.n_needed:
            return (
                Verdict.CANNOT_TELL,
                f"No column moved, but it takes {self.n_needed:,} units to show a shift of {shift:g} SD, "
                f"and this year's looks have {seen:,}",
            )
        return Verdict.STABLE, f"No column moved, and a shift of {shift:g} SD would have been seen"

    def _report_empty(self) -> DriftReport:
        return DriftReport(
            verdict=Verdict.CANNOT_TELL,
            severity=None,
            reason="The batch has no rows",
            columns=COLUMNS_SCHEMA.to_frame(),
            faults=(),
            moved=(),
            n=0,
            n_units=0,
            n_units_this_year=int(self._year()["n_units"].sum()),
            n_needed=self.n_needed,
        )


def _may_be_watched(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or is_category(dtype)


def _mostly_distinct(series: pl.Series) -> bool:
    return not series.dtype.is_numeric() and series.n_unique() > max(2, MOSTLY_DISTINCT * len(series))


def _count_rows(frame: Frame, references: Sequence[ColumnReference]) -> list[RowTally]:
    tallies: list[RowTally] | None = None
    for part in read_batches(frame, [reference.column for reference in references]):
        counted = [reference.count_rows(part[reference.column]) for reference in references]
        tallies = counted if tallies is None else [a + b for a, b in zip(tallies, counted, strict=True)]
    return tallies or []


def _compare(reference: ColumnReference, tally: RowTally, limits: MovementLimits | None) -> list[Comparison]:
    """The movement of the distribution, by each of its effect sizes; undefined where either side has no value."""
    defined = limits is not None and min(tally.n_present, reference.rows.n_present) > 0
    psi = population_stability_index(reference.rows.counts, tally.counts) if defined else None
    distance = jensen_shannon_distance(reference.rows.counts, tally.counts) if defined else None
    found = [
        Comparison("psi", psi, limits.population_stability_index if limits else None),
        Comparison("jensen_shannon", distance, limits.jensen_shannon_distance if limits else None),
    ]
    if isinstance(reference, NumberReference):
        shift = reference.mean_difference_sd(tally)
        critical = limits.mean_difference_sd * reference.spread if limits is not None and shift is not None else None
        found.append(Comparison("standardised_mean_difference", shift, critical))
    return found


def _rows(
    looks: Sequence[ColumnLook], processes: dict[tuple[str, str], Process], level: float
) -> list[tuple[str, str, float | None, float | None, float, bool, float | None, float | None, int | None]]:
    rows = []
    for found in looks:
        for comparison in found.comparisons:
            kind = "missing" if comparison.statistic == "missing_rate_change" else "values"
            process = processes[found.column, kind]
            rows.append(
                (
                    found.column,
                    comparison.statistic,
                    comparison.value,
                    comparison.critical,
                    _log10(process.log_evidence),
                    process.flagged or comparison.faulty,
                    found.reference_missing_rate,
                    found.batch_missing_rate,
                    found.n,
                )
            )
    if joint := processes.get((JOINTLY, "joint")):
        evidence, critical = _log10(joint.log_evidence), -math.log10(level * joint.weight)
        rows.append((JOINTLY, "joint", evidence, critical, evidence, joint.flagged, None, None, None))
    return rows


def _log10(log_evidence: float) -> float:
    return max(0.0, log_evidence / math.log(10))


def _exceeds(value: float | None, critical: float | None) -> bool:
    return value is not None and critical is not None and abs(value) > critical


def _digest(references: Sequence[ColumnReference]) -> str:
    """What tells one fitted reference from another: the urns that stored counts are counts in."""
    content = hashlib.sha256()
    for reference in references:
        content.update(reference.column.encode())
        for urn in (reference.values, reference.missing):
            for part in (urn.tied_values, urn.edges, urn.gaps):
                content.update(part.tobytes())
    return content.hexdigest()[:16]


def _describe(columns: pl.DataFrame, process: Process) -> str:
    of_column = columns.filter(column=process.column)
    if process.kind == "missing":
        now, was = of_column["batch_missing_rate"][0], of_column["reference_missing_rate"][0]
        return f"{process.column} missing in {_percent(now)} of rows, was {_percent(was)}"
    values = dict(of_column.select("statistic", "value").iter_rows())
    shift = values.get("standardised_mean_difference")
    moved = f"mean {shift:+.2f} SD, " if shift is not None else ""
    psi = f"PSI {values['psi']:.3f}, " if values["psi"] is not None else ""
    return f"{process.column} ({moved}{psi}evidence 10^{_log10(process.log_evidence):.1f})"


def _describe_jointly(process: Process, columns: Sequence[str]) -> str:
    named = f", most in {', '.join(columns)}" if columns else ""
    return f"the columns jointly (evidence 10^{_log10(process.log_evidence):.1f}{named})"


def _describe_size(n: int, n_units: int) -> str:
    return f"{n:,} rows" if n_units == n else f"{n:,} rows of {n_units:,} patients"


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
