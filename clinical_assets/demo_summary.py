"""What a demonstration shows at its end: month by month what was seen and done, and what was put in beside it.

Belongs here: the tables on the terminal, read from the lake and the run records. Does not belong here: the replay.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from textwrap import shorten
from typing import Any

import dagster as dg
import polars as pl
from rich.box import SIMPLE
from rich.table import Table

from clinical_assets.archives.archive import PublishedArchive
from clinical_assets.governance.small_cells import SUPPRESSED
from clinical_assets.lifecycle.automation import MONTH, RETRAINING, recorded
from clinical_assets.lifecycle.conditions import REPAIR
from clinical_assets.lifecycle.launch import TRIGGER
from clinical_assets.lifecycle.month_report import HARM
from clinical_assets.protocol import ModelProtocol, load_object
from clinical_assets.reporting.withheld import WITHHELD
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.shown_lake import read_shown

NOT_FOUND = "not found as such"
FORMS = ("{:+.3f}", "{:+.0f}", "{:+.0f}")


def months_table(lake: Lake, instance: dg.DagsterInstance, protocol: ModelProtocol) -> Table:
    """Month by month, what was seen of one model, what it costs, what was planned and what was done about it."""
    model = protocol.model
    worst_first = ("faulty", "evidence", "value")
    drift = read_shown(lake, model, "drift_report").sort(*worst_first, descending=True, nulls_last=True)
    overall = read_shown(lake, model, "performance_report").filter(subgroup="overall")
    figures = {(row["month"], row["metric"]): row for row in overall.iter_rows(named=True)}
    harm: dict[date, dict[str, float | None]] = defaultdict(dict)
    for row in read_shown(lake, model, "estimated_performance").filter(subgroup="overall").iter_rows(named=True):
        harm[row["month"]][row["metric"]] = row["value"]
    plans = dict(lake.read(f"{model}.repair_plan").select("month", "repair").unique().iter_rows())
    done = repairs(instance, model)
    table = Table(
        title=f"{protocol.title} on {drift['data_origin'][0]}: what was seen, and what was done",
        caption="Estimated before any outcome was known, beyond the version's own test: AUROC lost, and of 1,000 units "
        "the events missed and the alerts. Beside the estimated AUROC the one that came true.",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("month", no_wrap=True)
    table.add_column("live", no_wrap=True)
    table.add_column("verdict", max_width=10)
    table.add_column("what moved most (columns)", overflow="fold", max_width=28)
    for heading in ("lost", "missed", "alerts", "estimated", "AUROC", "O:E"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("repair", max_width=20)
    for (month,), rows in sorted(drift.group_by("month", maintain_order=True), key=lambda item: item[0]):
        flagged = rows.filter("flagged")
        moved = flagged.row(0, named=True) if flagged.height else None
        auroc, ratio = (figures.get((month, f"event_{x}")) for x in ("auroc", "observed_expected_ratio"))
        told = rows["severity"][0] is not None
        table.add_row(
            f"{month:%Y-%m}",
            f"v{rows['champion_version'][0]}",
            rows["verdict"][0].replace("_", " "),
            f"{movement_in_words(moved)} ({flagged['column'].n_unique()})" if moved else "-",
            *(harm_in_words(harm[month]) if told else ("?", "?", "?")),
            f"{auroc['estimated']:.3f}" if auroc and auroc["estimated"] is not None else "?",
            value_or_status(auroc),
            value_or_status(ratio),
            done.get(month) or plans.get(month, "").replace("_", " "),
        )
    return table


def harm_in_words(loss: Mapping[str, float | None]) -> tuple[str, ...]:
    """What a month's drift is estimated to cost: AUROC, and of 1,000 units events missed and alerts."""
    auroc, missed, alerts = (loss.get(metric) for metric in HARM)
    return tuple("?" if x is None else form.format(x) for form, x in zip(FORMS, (auroc, missed, alerts), strict=True))


def value_or_status(row: Mapping[str, Any] | None) -> str:
    """A realised figure, or why there is none."""
    if row is not None and row["value"] is None and row[SUPPRESSED]:
        return WITHHELD
    if row is None or (row["value"] is None and row["status"] == "ripe"):
        return "undefined"
    return "unripe" if row["value"] is None else f"{row['value']:.2f}"


def movement_in_words(row: Mapping[str, Any]) -> str:
    """The movement of one column, short."""
    if row["value"] is None and row[SUPPRESSED]:
        return f"{row['column']} {row['statistic'].replace('_', ' ')} {WITHHELD}"
    if row["statistic"] == "missing_rate_change":
        return f"{row['column']} missing {row['reference_missing_rate']:.0%} -> {row['batch_missing_rate']:.0%}"
    value = "" if row["value"] is None else f" {row['value']:.2f}"
    return f"{row['column']} {row['statistic'].replace('_', ' ')}{value}"


def repairs(instance: dg.DagsterInstance, model: str) -> dict[date, str]:
    """What each repair came to, by the month that called for it."""
    trained = instance.fetch_materializations(dg.AssetKey([model, "trained_model"]), limit=1000).records
    versions = {record.run_id: int(recorded(record.event_log_entry, "version")) for record in trained}
    releases = instance.fetch_materializations(dg.AssetKey([model, "release"]), limit=1000).records
    released = {int(recorded(record.event_log_entry, "version")) for record in releases}
    words: dict[date, str] = {}
    for run in instance.get_runs(dg.RunsFilter(tags={RETRAINING: model, TRIGGER: "repair"})):
        version = versions.get(run.run_id)
        outcome = "released" if version in released else "not released"
        what = run.tags[REPAIR].replace("_", " ")
        told = f"{what}: v{version} {outcome}" if version else f"{what}: {run.status.value.lower()}"
        words[date.fromisoformat(run.tags[MONTH])] = told
    return words


def found_table(lake: Lake, protocol: ModelProtocol) -> Table | None:
    """What a simulated archive puts in beside what was found, and how many months late; None of any other data."""
    verdicts = lake.read(f"{protocol.model}.drift_report", columns=["month", "verdict", "reason", "data_origin"])
    if protocol.archive is None or verdicts["data_origin"][0] != "simulated":
        return None
    published: PublishedArchive = load_object(protocol.archive)
    months = verdicts.unique("month").sort("month")
    table = Table(title=f"{protocol.title}: what was put in beside what was found", box=SIMPLE)
    table.add_column("since", no_wrap=True)
    for heading in ("put in", "what it is", "found", "months late", "what the month said"):
        table.add_column(heading, overflow="fold")
    for drift in published.known_drift():
        after = months.filter(pl.col("month") >= drift.month)
        found = after.filter(verdict=drift.verdict.value).head(1)
        seen = (found if found.height else after).head(1)
        late = (
            (found["month"][0].year - drift.month.year) * 12 + found["month"][0].month - drift.month.month
            if found.height
            else None
        )
        table.add_row(
            f"{drift.month:%Y-%m}",
            drift.verdict.value.replace("_", " "),
            drift.what,
            NOT_FOUND if late is None else drift.verdict.value.replace("_", " "),
            "-" if late is None else str(late),
            shorten(f"{seen['verdict'][0].replace('_', ' ')}: {seen['reason'][0]}", 180) if seen.height else "-",
        )
    return table
