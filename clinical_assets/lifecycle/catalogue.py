"""What Dagster's catalogue shows of a materialisation: described columns, small tables, pictures.

Belongs here: the look of metadata. Does not belong here: the columns of a cohort, whose contract describes them, and how
a figure is drawn.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from clinical_assets.reporting.figures import to_png_data_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN_DESCRIPTIONS = {
    "alerted": "Whether the risk reaches the threshold of the version that scored",
    "artefact_sha256": "SHA-256 over the version's files",
    "champion_version": "The released version at that time",
    "created_at": "When the row was made, UTC",
    "data_origin": "Where the rows come from: real:<publisher>, real:<publisher>:modified, or simulated",
    "decision": "approve or reject",
    "demo": "Whether the signer is a demonstration signer",
    "fault": "Why a signature does not count; empty where it counts",
    "high": "Upper end of the 95 % interval",
    "judgement": "pass, fail, cannot_tell or not_applicable; only pass is a pass",
    "latency_ms_per_1000": "Milliseconds to score 1,000 rows, measured over the whole month",
    "limit": "What the protocol asks for, in words",
    "low": "Lower end of the 95 % interval",
    "metric": "What was measured",
    "model": "The model's name",
    "model_version": "The version that scored the row",
    "month": "First day of the month; for archives without dates, of the replay calendar",
    "n": "Rows the value rests on",
    "outcome_known_on": "The first day on which the outcome can be known",
    "previous_champion": "The version released before, if any",
    "protocol_sha256": "SHA-256 of the protocol in force",
    "reason": "Why, in a sentence",
    "released_at": "When the version was released, UTC",
    "report_sha256": "SHA-256 of the validation report's file",
    "risk": "Predicted probability of the outcome",
    "role": "The role in which the signer signed",
    "signature": "Ed25519 signature over the statement, hexadecimal",
    "signed_at": "When it was signed, UTC",
    "signer": "Who signed",
    "split": "train, calibrate or test; a patient is in one split only, for ever",
    "status": "ripe, partly_ripe or not_ripe: whether the outcomes can be known by now",
    "subgroup": "overall, or column=value",
    "threshold": "Risk from which a unit is alerted",
    "trained_through": "The last month whose rows the version learnt from",
    "training_set_snapshot": "The lake snapshot that holds its training set as it was",
    "value": "The measured value; empty where it is undefined",
    "verdict": "stable, data_fault, population_shift, concept_shift or cannot_tell",
    "version": "The registered version",
}


def described(frame: pl.DataFrame, descriptions: Mapping[str, str] | None = None) -> dg.TableSchema:
    """The frame's columns with their types and what they mean, as the catalogue and the lake's comments show them."""
    known = COLUMN_DESCRIPTIONS | dict(descriptions or {})
    return dg.TableSchema(
        [dg.TableColumn(name, str(dtype), description=known.get(name)) for name, dtype in frame.schema.items()]
    )


def markdown_table(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """A small frame as a table in the catalogue."""
    header = " | ".join(frame.columns)
    lines = [" | ".join("" if cell is None else str(cell) for cell in row) for row in frame.rows()]
    return dg.MetadataValue.md("\n".join([f"| {line} |" for line in (header, "|".join("-" * frame.width), *lines)]))


def picture(figure: "Figure", title: str) -> dg.MarkdownMetadataValue:
    """A figure as a picture in the catalogue."""
    return dg.MetadataValue.md(f"![{title}]({to_png_data_uri(figure)})")
