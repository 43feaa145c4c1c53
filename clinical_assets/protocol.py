"""The package's vocabulary: the protocol of a model, its limits, findings, judgements and verdicts, as frozen values.

Belongs here: what every other module speaks of. Does not belong here: how anything is computed, stored or shown.
"""

import hashlib
import importlib
import json
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DottedPath = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]

DEFS = Path(__file__).parent / "defs"

ALERT = "alert"
SILENT_MONTHS = "silent_months"

AUTOMATION, UNKNOWN_PERSON = "automation", "unknown"
"""Who acted, where no person did, and where nobody wrote down who did."""


class ProtocolError(ValueError):
    """A protocol cannot be used as it stands; the message names the file, the field and the remedy."""


class Judgement(StrEnum):
    """What a finding says about a limit; only `PASS` is a pass."""

    PASS = "pass"
    FAIL = "fail"
    CANNOT_TELL = "cannot_tell"
    NOT_APPLICABLE = "not_applicable"


class Verdict(StrEnum):
    """What one month's data say, compared with the champion's own training data."""

    STABLE = "stable"
    DATA_FAULT = "data_fault"
    POPULATION_SHIFT = "population_shift"
    CONCEPT_SHIFT = "concept_shift"
    CANNOT_TELL = "cannot_tell"


class Repair(StrEnum):
    """What is to be done about a month, the smallest first; all but the first two and the last make a candidate."""

    NONE = "none"
    FIX_DATA = "fix_data"
    RECALIBRATE_INTERCEPT = "recalibrate_intercept"
    RECALIBRATE_SLOPE = "recalibrate_slope"
    MOVE_THRESHOLD = "move_threshold"
    RETRAIN = "retrain"
    ROLL_BACK = "roll_back"

    @property
    def needs_candidate(self) -> bool:
        """Whether a new version is made, which goes through evaluation, report and signatures."""
        return self not in (Repair.NONE, Repair.FIX_DATA, Repair.ROLL_BACK)


@dataclass(frozen=True, slots=True)
class Finding:
    """A measured value with its 95 % interval and the number of rows it rests on; `None` where it is undefined."""

    metric: str
    subgroup: str
    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered version of a model and the hashes that bind it to its files and its protocol.

    `trained_by` is who launched the run: a signer's name, `user:<account>`, or `automation`.
    """

    model: str
    version: int
    run_id: str
    artefact_sha256: str
    protocol_sha256: str
    threshold: float
    trained_through: date
    lake_snapshot: int
    data_origin: str
    further_thresholds: tuple[tuple[str, float], ...] = ()
    trained_by: str = UNKNOWN_PERSON

    @property
    def thresholds(self) -> dict[str, float]:
        """Every threshold by its name: `alert`, from which a unit is alerted, and those an assessment adds."""
        return {ALERT: self.threshold, **dict(self.further_thresholds)}


@dataclass(frozen=True, slots=True)
class ArchivePin:
    """Which archive rows came from, by the hospital's own Git: a pin, its hashes, and the commit it stands in.

    `file` is the pin's place in the working tree; `commit` says so in words where the pin is not committed as it is.
    """

    file: str
    md5: str
    sha256: str
    commit: str

    def in_words(self) -> str:
        """The pin in a phrase."""
        return f"pinned by {self.file} (SHA-256 {self.sha256}, MD5 {self.md5}; Git commit {self.commit})"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(_Frozen):
    """The outcome that is predicted, and how long after the index time it can be known.

    A graded outcome counts as an event, such as referable disease, from `event_from` on; a binary one from 1.
    """

    column: str
    kind: Literal["binary", "graded"] = "binary"
    event_from: int = Field(default=1, ge=1)
    ripe_after_days: int = Field(ge=0)

    @model_validator(mode="after")
    def _grades_alone_have_a_cut(self) -> Self:
        if self.kind == "binary" and self.event_from != 1:
            raise ValueError("outcome: a binary outcome is an event from 1 on; leave event_from out, or say graded")
        return self

    def is_event(self, rows: pl.DataFrame) -> pl.Series:
        """1 where the outcome of a row is an event, 0 where not, null where it is not known."""
        return (rows[self.column] >= self.event_from).cast(pl.Int8).alias("event")


class Retraining(_Frozen):
    """When the model is retrained: on a calendar, and how long after a retraining for drift at the earliest again."""

    cadence: Literal["monthly", "quarterly", "yearly"]
    cool_down_days: int = Field(ge=0)


class OperatingPoint(_Frozen):
    """The share of units, or of patients, that may be alerted; its threshold is chosen on the calibration split only.

    Of patients, one counts who is alerted at least once.
    """

    alerted_fraction: Fraction
    of: Literal["units", "patients"] = "units"


class Limit(_Frozen):
    """One thing a candidate must reach: a floor, a ceiling, or non-inferiority to a released version."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    not_worse_than: Literal["champion", "first_release"] | None = None
    by: float | None = Field(default=None, gt=0.0)
    in_every_subgroup: bool = False

    @model_validator(mode="after")
    def _one_kind_of_limit(self) -> Self:
        if self.not_worse_than is None:
            if self.by is not None or (self.at_least is None and self.at_most is None):
                raise ValueError(f"limit on {self.metric}: give at_least, at_most, or not_worse_than with by")
        elif self.by is None or self.at_least is not None or self.at_most is not None or self.in_every_subgroup:
            raise ValueError(f"limit on {self.metric}: not_worse_than takes `by` and nothing else")
        return self

    def in_words(self) -> str:
        """The limit as a reader of the report sees it."""
        if self.not_worse_than is not None:
            return f"not worse than the {self.not_worse_than.replace('_', ' ')} by more than {self.by:g}"
        bounds = [f"at least {self.at_least:g}"] if self.at_least is not None else []
        bounds += [f"at most {self.at_most:g}"] if self.at_most is not None else []
        return " and ".join(bounds) + (" in every subgroup" if self.in_every_subgroup else "")


@dataclass(frozen=True, slots=True)
class JudgedLimit:
    """A limit beside the finding it was judged by, and the judgement with its reason."""

    limit: Limit
    subgroup: str
    finding: Finding | None
    judgement: Judgement
    reason: str

    @property
    def blocks_release(self) -> bool:
        """Whether this judgement alone keeps the candidate from being released."""
        return self.judgement in (Judgement.FAIL, Judgement.CANNOT_TELL)


class Monitoring(_Frozen):
    """How drift is watched: which columns, the error rate of its alarms, and how much harm is tolerated.

    `headline` leads the figures of a month. `tolerated_loss` is of the AUROC of single rows' events, which
    can be estimated for every kind of model. Observed over expected may lie between 1 / (1 + x) and 1 + x with x the
    `tolerated_miscalibration`. A month is `stable` only where a shift of `smallest_shift_sd` would have been seen.
    `watched` are columns of `features`; every feature where none is named. The model's own outputs are always watched.
    `device` is the column whose every value must have been seen in training: one row of another alarms at once.
    """

    false_alarms_per_year: Fraction = 0.05
    headline: str
    tolerated_loss: float = Field(gt=0.0)
    tolerated_miscalibration: Fraction = 0.1
    smallest_shift_sd: float = Field(default=0.2, gt=0.0)
    watched: tuple[str, ...] = ()
    device: str | None = None


class PublishedCohort(_Frozen):
    """The function that gives an archive's rows as published, and the column that names the split each belongs to.

    `split` is the one that an external validation scores where it is not told otherwise.
    """

    cohort: DottedPath
    split_column: str
    split: str


class Replay(_Frozen):
    """How the demonstration plays a model back: on which share of the archive's patients."""

    share_of_patients: float = Field(default=1.0, gt=0.0, le=1.0)


class SignOff(_Frozen):
    """Which roles must sign a candidate, each by another person, and for how many days a signature holds."""

    roles: tuple[str, ...] = Field(min_length=1)
    valid_days: int = Field(gt=0)


class RollbackGuard(_Frozen):
    """The hard floor of a realised metric: a ripe month whose whole 95 % interval lies under it is rolled back from."""

    metric: str
    at_least: float


class ModelCard(_Frozen):
    """What only people know of a model, for its card and its evidence; what is left out is said to be missing.

    `demonstration` marks a card whose developer, contact and the like are examples and no hospital's.
    """

    demonstration: bool = False
    developer: str | None = None
    contact: str | None = None
    funding: str | None = None
    competing_interests: str | None = None
    third_parties: str | None = None
    stakeholders: str | None = None
    patient_involvement: str | None = None
    availability: str | None = None
    regulatory_status: str | None = None
    risk_level: str | None = None
    intended_users: str | None = None
    decision_role: str | None = None
    how_to_use: str | None = None
    population: str | None = None
    eligibility: str | None = None
    rationale: str | None = None
    health_inequalities: str | None = None
    out_of_scope: str | None = None
    limitations: str | None = None
    biases: str | None = None
    fairness_approach: str | None = None
    treatments: str | None = None
    missing_data: str | None = None
    sample_size: str | None = None
    ethics_approval: str | None = None
    patient_disclosure: str | None = None
    registration: str | None = None
    data_sharing: str | None = None
    code_sharing: str | None = None
    outcome_studies: str | None = None
    next_steps: str | None = None
    keywords: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


class WrittenProtocol(_Frozen):
    """A protocol as it stands in `defs/<model>/defs.yaml`; the model's name is the folder's."""

    title: str
    intended_use: str
    owners: tuple[str, ...] = ()
    archive: DottedPath | None = None
    data_origin: str | None = None
    cohort: DottedPath
    published: PublishedCohort | None = None
    faults: DottedPath | None = None
    features: DottedPath | None = None
    feature_descriptions: DottedPath | None = None
    unit: str
    patient: str
    index_time: str
    outcome: Outcome
    not_features: tuple[str, ...] = ()
    estimator: DottedPath
    estimator_settings: dict[str, bool | int | float | str] = Field(default_factory=dict)
    assessment: DottedPath = "clinical_assets.evaluation.binary_risk.BINARY_RISK"
    exhibits: tuple[DottedPath, ...] = ()
    images_identifiable: bool = True
    transported_across: str | None = None
    development_months: int = Field(ge=1)
    evaluation_months: int = Field(ge=1)
    retraining: Retraining
    operating_point: OperatingPoint
    subgroups: tuple[str, ...] = ()
    minimum_n: int = Field(ge=1)
    acceptance: tuple[Limit, ...] = Field(min_length=1)
    silent_months: int = Field(default=0, ge=0)
    monitoring: Monitoring
    sign_off: SignOff
    rollback_guard: RollbackGuard | None = None
    # Left out where it is not said, so that protocols from before it keep their hash.
    release_valid_days: int | None = Field(default=None, ge=1, exclude_if=lambda days: days is None)
    replay: Replay = Replay()
    model_card: ModelCard = ModelCard()
    environment: Literal["demo", "production"]

    @model_validator(mode="after")
    def _rows_have_an_origin(self) -> Self:
        if (self.archive is None) == (self.data_origin is None):
            raise ValueError(
                "give archive or, where the cohort function fetches its rows itself, data_origin: real:<publisher>"
            )
        return self


class ModelProtocol(WrittenProtocol):
    """The plan that governs one clinical model: what it is for, on whom, how it is trained, its limits, who signs."""

    model: str = Field(pattern=r"^[a-z][a-z0-9_]*$")

    @property
    def canonical_json(self) -> str:
        """The protocol as one line, the same for equal protocols; kept with every version that was made under it."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def sha256(self) -> str:
        """The hash that names this exact protocol in every model, report and signature."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits of acceptance, and that of the silent months where the protocol asks for any."""
        silent = (Limit(metric=SILENT_MONTHS, at_least=self.silent_months),) if self.silent_months else ()
        return (*self.acceptance, *silent)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns of `features` and `training_set` that identify or label a row and are never estimator input."""
        return (
            self.unit,
            self.patient,
            self.index_time,
            self.outcome.column,
            "outcome_known_on",
            "month",
            "split",
            "data_origin",
            "protocol_sha256",
        )

    def feature_columns(self, columns: list[str]) -> list[str]:
        """The columns the estimator sees, in the order in which the table has them."""
        excluded = {*self.key_columns, *self.not_features}
        return [column for column in columns if column not in excluded]

    def watched_columns(self, columns: list[str]) -> list[str]:
        """The columns of `features` that are profiled and compared month by month."""
        device = [self.monitoring.device] if self.monitoring.device else []
        return list(dict.fromkeys([*device, *(self.monitoring.watched or self.feature_columns(columns))]))


def load_object(path: str) -> Any:
    """The object a dotted path names; raises ProtocolError where there is none."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ProtocolError(f"{path}: {error}; name a function or class of an importable module") from error


def protocol_names() -> list[str]:
    """The models that have a protocol in this installation, in alphabetical order."""
    return sorted(path.parent.name for path in DEFS.glob("*/defs.yaml"))


def read_protocol(model: str) -> ModelProtocol:
    """The protocol of a model, from `defs/<model>/defs.yaml`; raises ProtocolError with the file and the field."""
    path = DEFS / model / "defs.yaml"
    if not path.is_file():
        raise ProtocolError(f"there is no model {model!r}; the models are: {', '.join(protocol_names())}")
    try:
        return ModelProtocol.model_validate(yaml.safe_load(path.read_text())["attributes"] | {"model": model})
    except (yaml.YAMLError, KeyError, TypeError, ValidationError) as error:
        raise ProtocolError(f"{path}: {error}") from error


def last_day(month: date) -> date:
    """The last day of a month."""
    return month_after(month) - timedelta(days=1)


def month_before(month: date) -> date:
    """The first day of the month before."""
    return (month.replace(day=1) - timedelta(days=1)).replace(day=1)


def month_after(month: date) -> date:
    """The first day of the next month."""
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1)
