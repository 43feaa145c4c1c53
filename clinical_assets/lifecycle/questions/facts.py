"""What the questions of a model are asked of: a small value, read once a look.

Belongs here: the facts, and what follows from them alone. Does not belong here: how they are read (model_facts.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from dagster._core.events.log import EventLogEntry

from clinical_assets.governance.incidents import Breach
from clinical_assets.governance.signatures import Signature, SignatureError, Statement, last_words
from clinical_assets.lifecycle.automation import WaitingCandidate
from clinical_assets.monitoring.repair_request import RepairHistory, RepairNotice
from clinical_assets.protocol import ModelProtocol

NO_REPAIRS = RepairHistory(in_flight=False, last_month=None, failed_months=())


@dataclass(frozen=True, slots=True)
class NewPlan:
    """A repair plan since the last look: as the rule of repair sees it, and the breach that people must act on."""

    notice: RepairNotice
    breach: Breach | None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """All that the questions of one model are asked of.

    `candidate` is the one that waits for signatures, or why none does; `signatures` are those on it, or the error that
    names a damaged file, and `signatures_changed` the time of their folder in nanoseconds. `fallen` says how the
    champion broke its protocol's floor by the report `fallen_by`, or is empty. Plans and reports are those since the
    last look, notices those that no repair has met yet.
    """

    protocol: ModelProtocol
    today: date
    champion: int | None
    candidate: WaitingCandidate | str
    signatures: tuple[Signature, ...] | SignatureError = ()
    signatures_changed: int = 0
    newest_features: date | None = None
    newest_plan: date | None = None
    plans: tuple[NewPlan, ...] = ()
    pending: tuple[RepairNotice, ...] = ()
    history: RepairHistory = NO_REPAIRS
    drift_reports: tuple[EventLogEntry, ...] = ()
    performance_reports: tuple[EventLogEntry, ...] = ()
    fallen: str = ""
    fallen_by: int = 0

    @property
    def model(self) -> str:
        """The model's name."""
        return self.protocol.model

    def signed(self) -> tuple[Signature, ...]:
        """The signatures on the candidate; raises SignatureError where a file of one is damaged."""
        if isinstance(self.signatures, SignatureError):
            raise self.signatures
        return self.signatures

    def latest_decisions(self) -> Sequence[Statement]:
        """The latest decision of each signer on the candidate; raises SignatureError as `signed` does."""
        return last_words(self.signed())

    def awaited_candidate(self) -> int | None:
        """The candidate that runs its silent months, or has and may be signed; none is trained until it is decided."""
        candidate = self.candidate
        if not self.protocol.silent_months or isinstance(candidate, str) or not candidate.may_pass:
            return None
        rejected = any(word.decision == "reject" for word in self.latest_decisions())
        return None if rejected else candidate.version
