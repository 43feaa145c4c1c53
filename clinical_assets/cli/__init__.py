"""The command `clinical`: what people do with a platform from a terminal.

Belongs here: which modules hold its verbs. Does not belong here: any verb.
"""

import typer

from clinical_assets.cli import platform, signing

app = typer.Typer(help="Run clinical models as governed assets.", no_args_is_help=True, add_completion=False)
for verbs in (platform, signing):
    app.add_typer(verbs.app)
