"""The exhibits of models that grade images: which grades are confused, and the images graded most wrongly.

Belongs here: what is shown of graded images. Does not belong here: any metric.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from clinical_assets.governance.small_cells import FEWER
from clinical_assets.protocol import Finding, ModelProtocol
from clinical_assets.reporting.exhibits.exhibit import (
    PICTURE_ADDRESS,
    Cell,
    Exhibit,
    Gallery,
    Picture,
    Table,
    require_columns,
)
from clinical_assets.reporting.metric_words import plural_unit
from clinical_assets.reporting.shown_counts import hidden_cells

PROBABILITY = "probability_"
MOST_OF_A_KIND = 6
SIDE_PX = 112
HIDDEN = "·"


def grade_table(scored: pl.DataFrame, protocol: ModelProtocol, findings: Sequence[Finding]) -> Exhibit:
    """How many units of each true grade were given each grade, shaded by their share of the true grade.

    Raises ExhibitError on rows without `predicted_grade` and the probability of every grade.
    """
    true = protocol.outcome.column
    require_columns(scored, [true, "predicted_grade", f"{PROBABILITY}0"], "grade_table")
    grades = len(_probability_columns(scored))
    counts = np.zeros((grades, grades), dtype=np.int64)
    np.add.at(counts, (scored[true].to_numpy(), scored["predicted_grade"].to_numpy()), 1)
    hidden, hidden_totals = hidden_cells(counts.tolist())
    rows = []
    for grade, row in enumerate(counts):
        share = row / max(row.sum(), 1)
        cells = (
            Cell(HIDDEN, framed=predicted == grade)
            if hidden[grade][predicted]
            else Cell(f"{n:,}", f"{100 * part:.0f} %" if n else "", float(part), framed=predicted == grade)
            for predicted, (n, part) in enumerate(zip(row, share, strict=True))
        )
        rows.append((Cell(f"true {grade}"), *cells, Cell(HIDDEN if hidden_totals[grade] else f"{row.sum():,}")))
    any_hidden = any(map(any, hidden))
    heading = (Cell(""), *(Cell(f"as {grade}") for grade in range(grades)), Cell("all"))
    return Exhibit(
        title="Which grades are confused",
        reading=(
            f"Each row is a true grade, its {plural_unit(protocol)} spread over the grades predicted; the darker, the "
            "larger the share of the row. Framed is agreement: dark away from the frame is confusion."
            + (f" {HIDDEN} stands for {FEWER}, and for what would give such a number away." if any_hidden else "")
        ),
        tables=(Table("", heading, tuple(rows)),),
    )


def image_grid(scored: pl.DataFrame, protocol: ModelProtocol, findings: Sequence[Finding]) -> Exhibit:
    """The images graded most confidently wrong, and those with the highest probability of a wrong grade, 12 at most.

    The first are those with another predicted than true grade, by the distance of expected and true grade times the
    highest probability. An image stands in one of the two groups. Where the protocol says that images are identifiable,
    none is drawn. Raises ExhibitError on rows without the images or what was predicted of them.
    """
    title = "Images graded most wrongly"
    if protocol.images_identifiable:
        return Exhibit(
            title,
            "No image is shown: the protocol says that images of this archive are identifiable (images_identifiable).",
        )
    true, device = protocol.outcome.column, protocol.monitoring.device
    shown = [true, "predicted_grade", "image_png", *([device] if device else [])]
    require_columns(scored, [*shown, f"{PROBABILITY}0"], "image_grid")
    probability = scored.select(_probability_columns(scored)).to_numpy()
    grade = scored[true].to_numpy()
    is_true = grade[:, None] == np.arange(probability.shape[1])
    expected = probability @ np.arange(probability.shape[1])
    ranked = scored.select(shown).with_columns(
        badness=pl.Series(np.abs(expected - grade) * probability.max(axis=1)),
        expected=pl.Series(expected),
        of_true=pl.Series(np.where(is_true, probability, 0.0).max(axis=1)),
        of_wrong=pl.Series(np.where(is_true, 0.0, probability).max(axis=1)),
        wrong_grade=pl.Series(np.where(is_true, 0.0, probability).argmax(axis=1)),
    )
    ranked = ranked.with_row_index("place")
    farthest = ranked.filter(pl.col("predicted_grade") != pl.col(true)).sort(
        "badness", descending=True, maintain_order=True
    )
    farthest = farthest.head(MOST_OF_A_KIND)
    surest = ranked.filter(pl.col("of_wrong") > pl.col("of_true")).join(
        farthest, on="place", how="anti", maintain_order="left"
    )
    surest = surest.sort("of_wrong", descending=True, maintain_order=True).head(MOST_OF_A_KIND)
    galleries = tuple(
        Gallery(caption, tuple(_picture(row, true, device) for row in rows.iter_rows(named=True)))
        for caption, rows in (
            ("Farthest from the truth: distance of expected and true grade, times the highest probability.", farthest),
            ("Surest of a wrong grade: its probability is higher than that of the true one.", surest),
        )
        if rows.height
    )
    reading = (
        "A grade that a person would give differently, an image that should not have been graded, or one camera that "
        "stands out are what to look for."
        if galleries
        else "Every image was given its true grade."
    )
    return Exhibit(title, reading, galleries=galleries)


def _picture(row: dict[str, Any], true: str, device: str | None) -> Picture:
    lines = [
        f"true {row[true]}, predicted {row['predicted_grade']} (expected {row['expected']:.1f})",
        f"{100 * row['of_wrong']:.0f} % for grade {row['wrong_grade']}, {100 * row['of_true']:.0f} % for the true one",
    ]
    return Picture(_shrink(row["image_png"]), (*lines, *([f"{device}: {row[device]}"] if device else [])))


def _shrink(png: bytes) -> str:
    """A small PNG of the pixels alone, so that nothing else that a file may carry gets into a page."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as opened:
        pixels = opened.convert("RGB")
    # Whole multiples, without smoothing: what the model saw of a small image are its squares.
    if times := SIDE_PX // max(pixels.size):
        pixels = pixels.resize((times * pixels.width, times * pixels.height), Image.Resampling.NEAREST)
    else:
        pixels.thumbnail((SIDE_PX, SIDE_PX))
    packed = io.BytesIO()
    Image.frombytes("RGB", pixels.size, pixels.tobytes()).save(packed, format="PNG")
    return PICTURE_ADDRESS + base64.b64encode(packed.getvalue()).decode()


def _probability_columns(scored: pl.DataFrame) -> list[str]:
    return sorted(column for column in scored.columns if column.startswith(PROBABILITY))
