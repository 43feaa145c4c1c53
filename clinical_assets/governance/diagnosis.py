"""The diagnosis of an incident, as a plain value that the page, the terminal and the runbook show alike.

Belongs here: what a diagnosis consists of, what to do first for each cause, and who owns it. Does not belong here: how
it is gathered from the lake, and any statistic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from clinical_assets.governance.incidents import Cause, Incident, IncidentEvent
from clinical_assets.governance.notices import TOLD
from clinical_assets.governance.small_cells import is_small
from clinical_assets.protocol import Judgement, ModelProtocol

ACTIONS = {
    Cause.FAILED_RUN: (
        "Read the error of the failed step in the run's page, and mend what it names.",
        "Launch the same job again for the same month; a later success is this incident's validation.",
    ),
    Cause.FIX_DATA: (
        "Ask the owner of the source system what changed in the columns below, and from when on.",
        "Until it is mended, tell the ward that the model's alerts for these rows are not to be relied on.",
        "Once the source is mended, launch the month's job again; its verdict is this incident's validation.",
    ),
    Cause.ROLL_BACK: (
        "Compare the champion with the earlier release in the month's repair plan.",
        'Put the earlier release back: clinical rollback {model} --reason "..."',
    ),
    Cause.DRIFT_WITH_HARM: (
        "See which groups of patients changed, below, and whether the change will stay.",
        "A candidate is trained by itself where the repair plan calls for one: read its report and sign or reject it.",
        'If harm cannot wait, put the earlier release back: clinical rollback {model} --reason "..."',
    ),
    Cause.SUBGROUP_SENSITIVITY: (
        "See below whose sensitivity fell, against the release, and tell the clinical lead which patients are missed.",
        "Decide whether the ward watches this group without the model until a candidate is released.",
        'If the version before served this group better, put it back: clinical rollback {model} --reason "..."',
    ),
    Cause.STALE_DATA: (
        "Ask the owner of the source system whether the month's extract was written, and where.",
        "Until it arrives nothing is scored or watched: tell the ward.",
    ),
    Cause.UNVERIFIED_ALIAS: (
        "Find out who moved the alias: clinical ledger {model}, and the registry's own log.",
        'Put back what was released: clinical rollback {model} --reason "..."',
    ),
    Cause.PHI_LEAK: (
        "Nothing is published until it is gone: run clinical phi-scan to see in which store it stands.",
        "Remove it at its source, then from the store; tell the privacy officer, who judges whether it is a breach "
        "(45 CFR 164.402).",
    ),
    Cause.ROLLBACK: (
        "Say why the version that was put aside is not to be released again, or retrain.",
        "Watch the first months of the version put back: clinical status",
    ),
    Cause.WITHDRAWAL: (
        "Tell the ward that no alerts come from this model.",
        "Have a candidate signed and released, or put a version back: "
        'clinical rollback {model} --to VERSION --reason "..."',
    ),
}


@dataclass(frozen=True, slots=True)
class Link:
    """One asset of the month, in the order of the lineage: whether it is as it should be, what was seen, which run."""

    asset: str
    judgement: Judgement
    what: str
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class MovedColumn:
    """A column that the month's drift report flags: its strongest statistic against what chance explains.

    `faulty` is one whose change cannot be a change of the patients.
    """

    column: str
    statistic: str
    value: float | None
    critical: float | None
    faulty: bool


@dataclass(frozen=True, slots=True)
class QualityFault:
    """A fault of the month's data beside its rate before; `rows` is how many were looked at, None where too few."""

    column: str
    subgroup: str
    fault: str
    rate: float
    rate_before: float | None
    rows: int | None


@dataclass(frozen=True, slots=True)
class GroupSensitivity:
    """A group's sensitivity in the last ripe month and since the release, beside the release's; `n` as `rows` above."""

    subgroup: str
    value: float | None
    value_so_far: float | None
    baseline: float | None
    n: int | None
    alarmed: bool


@dataclass(frozen=True, slots=True)
class LiveVersion:
    """The version that is live, since when, by which kind of act, and what it was trained on."""

    version: int
    live_from: datetime
    kind: str
    trained_through: date
    data_origin: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that is known of an incident at `gathered_at`, in the order in which a person on call needs it.

    `faults` are those of the incident's signatures, by the number of the event; `lineage` is empty where the incident
    is of no month; `nothing_live` says why `live` is None.
    """

    incident: Incident
    events: tuple[IncidentEvent, ...]
    faults: dict[int, str]
    gathered_at: datetime
    demo: bool
    title: str
    owners: tuple[str, ...]
    actions: tuple[str, ...]
    live: LiveVersion | None
    nothing_live: str
    month: date | None
    verdict: str
    severity: float | None
    tolerated_loss: float | None
    drift_reason: str
    plan: str
    lineage: tuple[Link, ...]
    columns: tuple[MovedColumn, ...]
    quality: tuple[QualityFault, ...]
    groups: tuple[GroupSensitivity, ...]
    groups_month: date | None
    data_origin: str

    @property
    def first_abnormal(self) -> Link | None:
        """The first asset of the lineage that is not as it should be."""
        return next((link for link in self.lineage if link.judgement is Judgement.FAIL), None)


def actions_for(incident: Incident) -> tuple[str, ...]:
    """What to do first, by the cause alone."""
    return tuple(sentence.format(model=incident.model) for sentence in ACTIONS[incident.cause])


def owners_of(protocols: Sequence[ModelProtocol]) -> tuple[str, ...]:
    """Who must act: the owners and the signing roles of the protocols concerned, and those who are told."""
    named = [name for protocol in protocols for name in (*protocol.owners, *protocol.sign_off.roles)]
    return tuple(dict.fromkeys([*named, *TOLD]))


def shown_count(n: int | None) -> int | None:
    """A count as it may be shown; None where it is too small."""
    return None if is_small(n) else n
