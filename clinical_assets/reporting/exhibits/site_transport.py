"""The exhibit of what a model reaches at a site that it was not trained on.

Belongs here: the table across sites. Does not belong here: training without a site, and measuring there.
"""

from collections.abc import Sequence

import polars as pl

from clinical_assets.evaluation.findings import MISSING
from clinical_assets.governance.small_cells import hidden_parts
from clinical_assets.protocol import Finding, ModelProtocol
from clinical_assets.reporting.exhibits.exhibit import Cell, Exhibit, ExhibitError, Table, require_columns
from clinical_assets.reporting.metric_words import TRANSPORTED, describe_metric, in_words, plural_unit
from clinical_assets.reporting.shown_findings import suppress_findings
from clinical_assets.reporting.withheld import WITHHELD, shown_n

TITLE = "Transport to a site not trained on"


def transport(scored: pl.DataFrame, protocol: ModelProtocol, findings: Sequence[Finding]) -> Exhibit:
    """For each level of `transported_across`: what was measured there beside what a model trained without it reaches.

    Raises ExhibitError where the protocol names no column, or the scored rows lack it.
    """
    across = protocol.transported_across
    if across is None:
        raise ExhibitError("transport: the protocol has no transported_across; name the column of the site there")
    require_columns(scored, [across], "transport")
    findings = suppress_findings(findings)
    levels = scored.group_by(pl.col(across).cast(pl.String).fill_null(MISSING)).len().sort(across)
    transported = [finding for finding in findings if finding.metric.startswith(TRANSPORTED)]
    caption = f"Test rows by {across.replace('_', ' ')}."
    if not transported:
        few = levels.height < 2
        why = (
            f"the test rows have one {across.replace('_', ' ')} only"
            if few
            else "no version was trained without one of these and measured there"
        )
        hidden = hidden_parts(levels["len"].to_list(), scored.height)
        rows = tuple(
            (Cell(level), Cell(WITHHELD if is_hidden else f"{n:,}"))
            for (level, n), is_hidden in zip(levels.iter_rows(), hidden, strict=True)
        )
        heading = (Cell(across.replace("_", " ").capitalize()), Cell(plural_unit(protocol).capitalize()))
        return Exhibit(TITLE, f"Cannot tell: {why}.", tables=(Table(caption, heading, rows),))
    here = {(finding.subgroup, finding.metric): finding for finding in findings}
    tables = tuple(
        _table(in_words(subgroup), [finding for finding in transported if finding.subgroup == subgroup], here, protocol)
        for subgroup in dict.fromkeys(finding.subgroup for finding in transported)
    )
    reading = (
        "Left, this version on the test rows of a site; right, a model trained in the same way without any row of that "
        "site. What is lost from left to right, a new site can expect to lose."
    )
    measured = {finding.subgroup for finding in transported}
    if left_out := [level for level in levels[across] if f"{across}={level}" not in measured]:
        reading += f" No model was trained without {', '.join(left_out)} and measured there."
    return Exhibit(TITLE, reading, tables=tables)


def _table(
    name: str,
    transported: Sequence[Finding],
    here: dict[tuple[str, str], Finding],
    protocol: ModelProtocol,
) -> Table:
    heading, rows = [Cell(name)], []
    pairs = [
        (here.get((finding.subgroup, finding.metric.removeprefix(TRANSPORTED))), finding) for finding in transported
    ]
    for title, column in zip(("Trained with it", "Trained without it"), zip(*pairs, strict=True), strict=True):
        sizes = dict.fromkeys(shown_n(found) for found in column if found is not None)
        heading.append(Cell(title, f"n {' or '.join(sizes)}" if sizes else "not measured"))
    for pair in pairs:
        words = describe_metric(pair[1].metric, protocol)
        cells = (
            Cell("–") if found is None else Cell(words.write_value(found), words.write_interval(found) or "no interval")
            for found in pair
        )
        rows.append((Cell(words.name), *cells))
    return Table("", tuple(heading), tuple(rows))
