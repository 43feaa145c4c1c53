import base64
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from clinical_assets.protocol import Finding, ModelProtocol
from clinical_assets.reporting.exhibits import (
    Exhibit,
    ExhibitError,
    grade_table,
    image_grid,
    lead_time,
    net_benefit_curve,
    transport,
)
from clinical_assets.reporting.exhibits.exhibit import Picture
from clinical_assets.reporting.validation_report import ValidationReport, render

START = datetime(2025, 1, 1, tzinfo=UTC)


def stay(patient: str, label: list[int], alerted: list[bool]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "patient_id": patient,
            "observed_at": [START + timedelta(hours=hour) for hour in range(len(label))],
            "sepsis_6h": label,
            "alerted": alerted,
            "risk": [0.3 if each else 0.01 for each in alerted],
            "threshold": 0.1,
            "site": "A",
        }
    )


def alike(stays: pl.DataFrame, copies: int) -> pl.DataFrame:
    """So many patients instead of each one."""
    return pl.concat(stays.with_columns(pl.col("patient_id") + f" {copy}") for copy in range(copies))


def png(colour: int, side: int = 28) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    note, packed = PngInfo(), io.BytesIO()
    note.add_text("PatientName", "Doe, Jane")
    Image.fromarray(np.full((side, side, 3), colour, dtype=np.uint8)).save(packed, format="PNG", pnginfo=note)
    return packed.getvalue()


@pytest.fixture
def graded() -> pl.DataFrame:
    probability = np.array(
        [
            [0.9, 0.1, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.1, 0.1, 0.8],
            [0.0, 0.6, 0.4, 0.0, 0.0],
            [0.7, 0.1, 0.1, 0.1, 0.0],
        ]
    )
    return pl.DataFrame(
        {
            "image_id": ["image-secret-0", "image-secret-1", "image-secret-2", "image-secret-3"],
            "patient_id": ["p-secret-0", "p-secret-1", "p-secret-2", "p-secret-3"],
            "grade": [0, 0, 2, 2],
            "predicted_grade": [0, 4, 2, 0],
            "camera": ["fixed", "simulated-handheld", "fixed", "fixed"],
            "image_png": [png(10), png(20), png(30), png(40, side=900)],
            **{f"probability_{grade}": probability[:, grade] for grade in range(5)},
        }
    )


def cells(exhibit: Exhibit) -> list[list[str]]:
    return [[cell.text for cell in row] for table in exhibit.tables for row in table.rows]


def lines(exhibit: Exhibit) -> list[list[str]]:
    return [[picture.lines[0] for picture in gallery.pictures] for gallery in exhibit.galleries]


def words(svg: str | None) -> list[str]:
    assert svg is not None
    return [text for element in ElementTree.fromstring(svg).iter() if (text := (element.text or "").strip())]


@pytest.fixture
def bare(report: ValidationReport) -> ValidationReport:
    """A report of nothing but what a test puts into it."""
    return replace(report, findings=[], judged=(), calibration=report.calibration.clear())


def test_lead_time_runs_from_the_first_alarm_to_six_hours_after_the_first_label(hourly_protocol: ModelProtocol) -> None:
    scored = pl.concat(
        [
            stay("early", [0, 0, 1, 1], [True, False, True, True]),
            stay("at onset", [1, 1, 1, 1, 1, 1, 1], [False] * 6 + [True]),
            stay("late", [1, 1, 1, 1, 1, 1, 1, 1], [False] * 7 + [True]),
            stay("never", [0, 1, 1, 1], [False] * 4),
            stay("well", [0, 0, 0, 0], [True] * 4),
        ]
    )
    exhibit = lead_time(alike(scored, 13), hourly_protocol, [])
    assert cells(exhibit) == [
        ["alerted by onset", "26", "50.0 %"],
        ["first alerted after onset", "13", "25.0 %"],
        ["never alerted", "13", "25.0 %"],
    ]
    # 8 h for "early", 0 h for "at onset"; the bars run from the longest lead to the shortest.
    written = words(exhibit.svg)
    assert written[written.index("48+") :][:9] == [
        *("48+", "42–48", "36–42", "30–36", "24–30", "18–24", "12–18", "6–12", "0–6"),
    ]
    assert written.count("13") == 2


def test_few_patients_in_a_bar_widen_the_bars_or_take_the_figure_away(hourly_protocol: ModelProtocol) -> None:
    early, at_onset = stay("early", [0, 0, 1, 1], [True, False, True, True]), stay("at", [1] * 7, [False] * 6 + [True])
    never = alike(stay("never", [0, 1, 1, 1], [False] * 4), 20)
    twenty_four = pl.concat([alike(early, 4), alike(at_onset, 20), never])
    written = words(lead_time(twenty_four, hourly_protocol, []).svg)
    assert "0–12" in written
    assert "24" in written
    assert "4" not in written
    few = lead_time(pl.concat([alike(early, 4), never]), hourly_protocol, [])
    assert few.svg is None
    assert few.reading == "No bars are drawn: some would be of fewer than 11 patients."
    assert cells(few)[0] == ["alerted by onset", "withheld", "tells of fewer than 11"]
    assert cells(few)[2] == ["never alerted", "withheld", "tells of fewer than 11"]


def test_the_hours_of_a_patient_may_come_in_any_order(hourly_protocol: ModelProtocol) -> None:
    scored = stay("early", [0, 0, 1, 1], [True, False, True, True])
    assert lead_time(scored.reverse(), hourly_protocol, []) == lead_time(scored, hourly_protocol, [])


def test_without_a_patient_alerted_by_onset_there_is_no_figure_of_lead_time(hourly_protocol: ModelProtocol) -> None:
    exhibit = lead_time(stay("well", [0, 0, 0, 0], [True] * 4), hourly_protocol, [])
    assert exhibit.svg is None
    assert cells(exhibit)[0] == ["alerted by onset", "0", "–"]


def test_a_decision_curve_marks_the_alert_threshold_and_both_simple_strategies(hourly_protocol: ModelProtocol) -> None:
    scored = stay("early", [0, 0, 0, 1], [False, False, False, True])
    written = words(net_benefit_curve(scored, hourly_protocol, []).svg)
    assert {"model", "alert all", "alert none", "alert threshold, 10.0 %"} <= set(written)


def test_a_decision_curve_reaches_beyond_a_threshold_far_above_the_prevalence(hourly_protocol: ModelProtocol) -> None:
    scored = stay("early", [0] * 99 + [1], [False] * 100).with_columns(threshold=pl.lit(0.4))
    written = words(net_benefit_curve(scored, hourly_protocol, []).svg)
    assert {"40 %", "alert threshold, 40.0 %"} <= set(written)


@pytest.fixture
def transported() -> list[Finding]:
    return [
        Finding("auroc", "site=A", 0.86, 0.84, 0.88, 900),
        Finding("auroc", "site=B", 0.84, 0.82, 0.86, 700),
        Finding("transported_auroc", "site=A", 0.79, 0.77, 0.81, 900),
        Finding("transported_auroc", "site=B", 0.81, 0.79, 0.83, 700),
        Finding("transported_normalized_utility", "site=B", None, None, None, 700),
    ]


def test_each_site_shows_what_was_measured_with_it_beside_what_is_reached_without(
    hourly_protocol: ModelProtocol, transported: list[Finding]
) -> None:
    exhibit = transport(stay("early", [0, 0, 1, 1], [True] * 4), hourly_protocol, transported)
    assert cells(exhibit) == [
        ["AUROC", "0.860", "0.790"],
        ["AUROC", "0.840", "0.810"],
        ["Normalised utility", "–", "undefined"],
    ]
    assert [[(cell.text, cell.note) for cell in table.heading] for table in exhibit.tables] == [
        [("site: A", ""), ("Trained with it", "n 900"), ("Trained without it", "n 900")],
        [("site: B", ""), ("Trained with it", "n 700"), ("Trained without it", "n 700")],
    ]


def test_a_site_that_no_model_was_trained_without_is_named(
    hourly_protocol: ModelProtocol, transported: list[Finding]
) -> None:
    scored = stay("early", [0, 0, 1, 1], [True] * 4).with_columns(site=pl.Series(["A", "B", "C", None]))
    reading = transport(scored, hourly_protocol, transported).reading
    assert reading.endswith("No model was trained without C, missing and measured there.")


def test_of_one_site_alone_transport_cannot_be_told(hourly_protocol: ModelProtocol) -> None:
    exhibit = transport(alike(stay("early", [0, 0, 1, 1], [True] * 4), 3), hourly_protocol, [])
    assert exhibit.reading == "Cannot tell: the test rows have one site only."
    assert cells(exhibit) == [["A", "12"]]


def test_of_two_sites_without_a_model_trained_on_one_transport_cannot_be_told(hourly_protocol: ModelProtocol) -> None:
    two_hours = alike(stay("a", [0, 1], [True] * 2), 6)
    scored = pl.concat([two_hours, two_hours.with_columns(site=pl.lit("B"))])
    exhibit = transport(scored, hourly_protocol, [Finding("auroc", "site=A", 0.86, 0.84, 0.88, 900)])
    assert exhibit.reading.startswith("Cannot tell: no version was trained without one of these")
    assert cells(exhibit) == [["A", "12"], ["B", "12"]]
    few = transport(scored.head(16), hourly_protocol, [])
    assert cells(few) == [["A", "withheld"], ["B", "withheld"]]


def test_transport_without_a_column_of_sites_names_the_field_to_fill(graded_protocol: ModelProtocol) -> None:
    with pytest.raises(ExhibitError, match="transported_across"):
        transport(stay("early", [0, 1], [True] * 2), graded_protocol, [])


def test_a_grade_table_counts_true_grades_by_predicted_ones(
    graded: pl.DataFrame, graded_protocol: ModelProtocol
) -> None:
    exhibit = grade_table(pl.concat([graded] * 11), graded_protocol, [])
    assert cells(exhibit) == [
        ["true 0", "11", "0", "0", "0", "11", "22"],
        ["true 1", "0", "0", "0", "0", "0", "0"],
        ["true 2", "11", "0", "11", "0", "0", "22"],
        ["true 3", "0", "0", "0", "0", "0", "0"],
        ["true 4", "0", "0", "0", "0", "0", "0"],
    ]
    first = exhibit.tables[0].rows[0]
    assert [cell.framed for cell in first] == [False, True, False, False, False, False, False]
    assert [cell.shade for cell in first] == [0.0, 0.5, 0.0, 0.0, 0.0, 0.5, 0.0]


def test_a_grade_table_shows_neither_small_counts_nor_their_shade(
    graded: pl.DataFrame, graded_protocol: ModelProtocol
) -> None:
    exhibit = grade_table(pl.concat([graded] * 11 + [graded.head(1)] * 8 + [graded[3:4]] * 8), graded_protocol, [])
    assert cells(exhibit)[0] == ["true 0", "19", "0", "0", "0", "11", "30"]
    few = grade_table(
        pl.concat([graded] * 30 + [graded.head(1).with_columns(predicted_grade=pl.lit(3, pl.Int64))]),
        graded_protocol,
        [],
    )
    assert cells(few)[0] == ["true 0", "·", "0", "0", "·", "30", "61"]
    assert cells(few)[2] == ["true 2", "·", "0", "·", "0", "0", "60"]  # else agreement would give the first row away
    assert [cell.shade for cell in few.tables[0].rows[0]] == [0.0, 0.0, 0.0, 0.0, 0.0, 30 / 61, 0.0]
    assert "fewer than 11" in few.reading


def test_the_farthest_image_comes_first_and_then_one_whose_most_probable_grade_is_wrong(
    graded: pl.DataFrame, graded_protocol: ModelProtocol
) -> None:
    exhibit = image_grid(graded, graded_protocol, [])
    assert lines(exhibit) == [
        ["true 0, predicted 4 (expected 3.7)", "true 2, predicted 0 (expected 0.6)"],
        ["true 2, predicted 2 (expected 1.4)"],
    ]
    farthest = exhibit.galleries[0].pictures[0]
    assert farthest.lines[1:] == ("80 % for grade 4, 0 % for the true one", "camera: simulated-handheld")


def test_no_more_than_twelve_images_are_shown(graded: pl.DataFrame, graded_protocol: ModelProtocol) -> None:
    exhibit = image_grid(pl.concat([graded] * 10), graded_protocol, [])
    assert [len(gallery.pictures) for gallery in exhibit.galleries] == [6, 6]


def test_images_that_are_all_graded_right_leave_nothing_to_show(
    graded: pl.DataFrame, graded_protocol: ModelProtocol
) -> None:
    exhibit = image_grid(graded.head(1), graded_protocol, [])
    assert exhibit.galleries == ()
    assert exhibit.reading == "Every image was given its true grade."


def test_a_picture_is_small_and_carries_pixels_alone(graded: pl.DataFrame, graded_protocol: ModelProtocol) -> None:
    from PIL import Image

    assert b"Doe, Jane" in graded["image_png"][1]
    shown = [picture for gallery in image_grid(graded, graded_protocol, []).galleries for picture in gallery.pictures]
    for picture in shown:
        content = base64.b64decode(picture.address.partition(",")[2])
        assert b"Doe" not in content
        with Image.open(io.BytesIO(content)) as opened:
            assert opened.info == {}
            assert opened.size == (112, 112)


def test_neither_image_nor_patient_is_named_on_the_page(
    graded: pl.DataFrame, graded_protocol: ModelProtocol, bare: ValidationReport
) -> None:
    page = render(
        replace(bare, exhibits=[image_grid(graded, graded_protocol, []), grade_table(graded, graded_protocol, [])])
    )
    assert page.count('<img src="data:image/png;base64,') == 3
    assert "secret" not in page


def test_an_identifiable_image_is_never_in_the_page(
    graded: pl.DataFrame, graded_protocol: ModelProtocol, bare: ValidationReport
) -> None:
    identifiable = graded_protocol.model_copy(update={"images_identifiable": True})
    page = render(replace(bare, exhibits=[image_grid(graded, identifiable, [])]))
    assert "<img" not in page
    assert "base64" not in page
    assert "No image is shown: the protocol says that images of this archive are identifiable" in page


def test_a_picture_from_outside_the_page_is_refused() -> None:
    with pytest.raises(ExhibitError, match="stands in the page itself"):
        Picture("https://example.org/eye.png", ())


@pytest.mark.parametrize(
    ("exhibit", "column"),
    [(net_benefit_curve, "threshold"), (lead_time, "alerted"), (transport, "site")],
)
def test_a_missing_column_is_named(
    exhibit: Callable[[pl.DataFrame, ModelProtocol, list[Finding]], Exhibit],
    column: str,
    hourly_protocol: ModelProtocol,
) -> None:
    scored = stay("early", [0, 1], [True] * 2)
    with pytest.raises(ExhibitError, match=f"lack the columns {column};"):
        exhibit(scored.drop(column), hourly_protocol, [])
    with pytest.raises(ExhibitError, match="no scored rows"):
        exhibit(scored.clear(), hourly_protocol, [])


def test_words_of_an_exhibit_cannot_become_markup(bare: ValidationReport) -> None:
    page = render(replace(bare, exhibits=[Exhibit("<script>a</script>", "<script>b</script>")]))
    assert "<script>" not in page
    assert "&lt;script&gt;b" in page
