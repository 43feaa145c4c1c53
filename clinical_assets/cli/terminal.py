"""What every verb of `clinical` shares: the home of the environment, one line on a refusal, JSON for programs.

Belongs here: words, exit codes (0 done, 1 refused or failed with one line why, 2 wrong usage), the console. Does not
belong here: any verb.
"""

import json
import sys
from collections.abc import Callable
from datetime import date, datetime
from functools import wraps
from typing import Annotated, Any, NoReturn, ParamSpec

import polars as pl
import typer
from rich.console import Console

from clinical_assets.archives.archive import ArchiveError
from clinical_assets.evaluation import EvaluationError
from clinical_assets.governance.audit_trail import AuditError, AuditTrail, person_at_terminal
from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.dvc_pins import PinError
from clinical_assets.governance.identified_zone import IdentifiedZoneError
from clinical_assets.governance.incidents import IncidentError
from clinical_assets.governance.known_identifiers import KnownIdentifiers
from clinical_assets.governance.leak_scan import LeakScanner
from clinical_assets.governance.ledger import LedgerError
from clinical_assets.governance.notices import NoticeError
from clinical_assets.governance.outbound import OutboundError
from clinical_assets.governance.platform_key import PlatformKeyError
from clinical_assets.governance.pseudonyms import PseudonymError, load_or_create_key
from clinical_assets.governance.readable_content import content_of_texts
from clinical_assets.governance.reidentification import ReidentificationError
from clinical_assets.governance.safe_harbor import SafeHarborError
from clinical_assets.governance.signatures import SignatureError
from clinical_assets.governance.signers import SignerError
from clinical_assets.governance.syslog_shipping import ShippingError
from clinical_assets.learning.estimator import LearningError
from clinical_assets.protocol import ProtocolError
from clinical_assets.reporting.evidence.model_card import ModelCardError
from clinical_assets.reporting.evidence.pack import EvidenceError
from clinical_assets.resources.access_rights import AccessRightsError
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.leak_search import LeakError
from clinical_assets.resources.notifiers import NotifierError
from clinical_assets.resources.registry import Registry, RegistryError

console = Console() if sys.stdout.isatty() else Console(width=120)

P = ParamSpec("P")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
REFUSALS = (
    AccessRightsError,
    ArchiveError,
    AuditError,
    EvaluationError,
    EvidenceError,
    IdentifiedZoneError,
    IncidentError,
    LakeError,
    LeakError,
    LearningError,
    NoticeError,
    NotifierError,
    LedgerError,
    ModelCardError,
    OutboundError,
    PinError,
    PlatformKeyError,
    ProtocolError,
    PseudonymError,
    RegistryError,
    ReidentificationError,
    SafeHarborError,
    SignatureError,
    ShippingError,
    SignerError,
)


class Refused(typer.Exit):
    """The end of a verb that was refused, with exit code 1 and the reason that was printed."""

    def __init__(self, why: str) -> None:
        super().__init__(1)
        self.why = why


def refuse(why: object) -> NoReturn:
    """End with exit code 1 and one line that says why."""
    line = " ".join(str(why).split())
    typer.echo(f"clinical: {line}", err=True)
    raise Refused(line)


def refuse_identifiers(home: Home, **typed: str) -> None:
    """Refuse words in which an identifier stands: what people type here is kept for ever, and told to others."""
    key = load_or_create_key(home.pseudonym_key)
    known = KnownIdentifiers.of((canary.identifier_class, canary.value) for canary in canaries(key))
    contents = [content_of_texts(option, pl.Series([words])) for option, words in typed.items()]
    if leaks := LeakScanner(known, key).search(contents):
        option = leaks[0].place.replace("_", "-")
        refuse(f"--{option} seems to hold an identifier ({leaks[0].identifier_class}); it is kept: say it without")


def one_line_on_refusal(verb: Callable[P, None]) -> Callable[P, None]:
    """A verb whose expected failures end with one line, and exit code 1."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            verb(*args, **kwargs)
        except REFUSALS as error:
            refuse(error)

    return run


def recorded_when_refused(verb: Callable[P, None]) -> Callable[P, None]:
    """A verb that changes something: the audit trail says who was refused it, of which model and version, and why."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            verb(*args, **kwargs)
        except (AuditError, PlatformKeyError):
            raise  # The trail itself cannot be written.
        except (*REFUSALS, Refused) as error:
            home = Home.from_environment()
            if home.root.exists():
                AuditTrail(home.audit).record(
                    "refused",
                    actor=person_at_terminal(),
                    target=f"clinical {verb.__name__.replace('_', ' ')}",
                    outcome="failure",
                    reason=error.why if isinstance(error, Refused) else " ".join(str(error).split()),
                    details={name: str(kwargs[name]) for name in ("model", "version") if kwargs.get(name) is not None},
                )
            raise

    return run


def print_json(value: Any) -> None:
    """Print a value as JSON, dates and times in ISO 8601."""
    typer.echo(
        json.dumps(value, indent=2, default=lambda x: x.isoformat() if isinstance(x, (date, datetime)) else str(x))
    )


def open_home() -> tuple[Home, Lake, Registry]:
    """The home that the environment names, ready to use, with its lake and its registry.

    A release or rollback that was interrupted is finished or dropped first, which is told on standard error.
    """
    home = Home.from_environment()
    home.prepare()
    lake = Lake(str(home.lake_catalogue), home.lake_data)
    registry = Registry(home.registry_uri, home.registry_artefacts)
    if any(home.acts.glob("[!.]*.json")):
        from clinical_assets.lifecycle.champion_move import recover_all

        for told in recover_all(home, lake, registry):
            typer.echo(f"clinical: {told}", err=True)
    return home, lake, registry
