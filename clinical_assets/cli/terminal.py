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

import typer
from rich.console import Console

from clinical_assets.archives.archive import ArchiveError
from clinical_assets.evaluation import EvaluationError
from clinical_assets.governance.pseudonyms import PseudonymError
from clinical_assets.governance.signatures import SignatureError
from clinical_assets.governance.signers import SignerError
from clinical_assets.learning.estimator import LearningError
from clinical_assets.protocol import ProtocolError
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake, LakeError
from clinical_assets.resources.registry import Registry, RegistryError

console = Console() if sys.stdout.isatty() else Console(width=120)

P = ParamSpec("P")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
REFUSALS = (
    ArchiveError,
    EvaluationError,
    LakeError,
    LearningError,
    ProtocolError,
    PseudonymError,
    RegistryError,
    SignatureError,
    SignerError,
)


def refuse(why: object) -> NoReturn:
    """End with exit code 1 and one line that says why."""
    typer.echo(f"clinical: {' '.join(str(why).split())}", err=True)
    raise typer.Exit(1)


def one_line_on_refusal(verb: Callable[P, None]) -> Callable[P, None]:
    """A verb whose expected failures end with one line, and exit code 1."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            verb(*args, **kwargs)
        except REFUSALS as error:
            refuse(error)

    return run


def print_json(value: Any) -> None:
    """Print a value as JSON, dates and times in ISO 8601."""
    typer.echo(
        json.dumps(value, indent=2, default=lambda x: x.isoformat() if isinstance(x, (date, datetime)) else str(x))
    )


def open_home() -> tuple[Home, Lake, Registry]:
    """The home that the environment names, ready to use, with its lake and its registry."""
    home = Home.from_environment()
    home.prepare()
    return home, Lake(str(home.lake_catalogue), home.lake_data), Registry(home.registry_uri, home.registry_artefacts)
