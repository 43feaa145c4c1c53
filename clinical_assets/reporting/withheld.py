"""A finding whose value may not leave the platform, and the words for it.

Belongs here: the value that stands in a finding's place. Does not belong here: which findings are withheld, and why.
"""

from dataclasses import dataclass

from clinical_assets.governance.small_cells import FEWER
from clinical_assets.protocol import Finding

WITHHELD = "withheld"
SMALL_COUNT = f"tells of {FEWER}"
WHY_WITHHELD = f"withheld: it rests on {FEWER}, or would give such a count away; it was judged on the exact figures"


@dataclass(frozen=True, slots=True)
class WithheldFinding(Finding):
    """A finding without its value; where `n` itself is hidden, it is 0 here and `shows_n` is false."""

    shows_n: bool = True


def shown_n(finding: Finding) -> str:
    """The number of rows a finding rests on, as a reader sees it."""
    return WITHHELD if isinstance(finding, WithheldFinding) and not finding.shows_n else f"{finding.n:,}"
