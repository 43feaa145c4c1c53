"""The command `clinical`: what people do with a platform from a terminal.

Belongs here: which modules hold its verbs. Does not belong here: any verb.
"""

import typer

from clinical_assets.cli import (
    audit,
    evidence,
    incident,
    leak_scan,
    ledger,
    metrics,
    platform,
    privacy,
    profile,
    report,
    signing,
)
from clinical_assets.governance.audit_trail import AuditTrail, person_at_terminal
from clinical_assets.governance.outbound import guard_outbound
from clinical_assets.resources.home import Home

app = typer.Typer(help="Run clinical models as governed assets.", no_args_is_help=True, add_completion=False)
for verbs in (platform, signing, ledger, evidence, audit, incident, profile, report, privacy, leak_scan, metrics):
    app.add_typer(verbs.app)


@app.callback()
def before_any_verb() -> None:
    """Run clinical models as governed assets."""
    guard_outbound(AuditTrail(Home.from_environment().audit), person_at_terminal())
