"""What a question is answered with: a run that is asked for, or why none is, and what people are to be told.

Belongs here: the shape of an answer. Does not belong here: any question.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from clinical_assets.governance.incidents import Breach
from clinical_assets.monitoring.repair_request import RepairNotice


@dataclass(frozen=True, slots=True)
class Request:
    """A run of one of the model's jobs; `key` names what it is for, and Dagster starts one run a key.

    `counts_attempts` where the question itself counts runs that failed, and has written it into the key.
    """

    job: str
    key: str
    tags: Mapping[str, str] = field(default_factory=dict)
    counts_attempts: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one question; `pending` are the repair notices that no repair has met yet."""

    reason: str
    request: Request | None = None
    breaches: tuple[Breach, ...] = ()
    pending: tuple[RepairNotice, ...] = ()
