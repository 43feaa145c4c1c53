import re
from pathlib import Path

import polars as pl
import pytest
from troubled_home import MODEL, MONTH, RUN, TroubledHome

from clinical_assets.governance.diagnosis import ACTIONS, Diagnosis
from clinical_assets.governance.incidents import Breach, Cause, Event, IncidentError
from clinical_assets.lifecycle.diagnosis import diagnose, write_page
from clinical_assets.lifecycle.incidents import EVENT_TABLE, open_incident
from clinical_assets.protocol import Judgement, read_protocol
from clinical_assets.reporting.incident_page import first_abnormal_in_words, render_incident


@pytest.fixture
def troubled(tmp_path: Path) -> TroubledHome:
    return TroubledHome.at(tmp_path)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> TroubledHome:
    """A home without any month, which tests that need none share."""
    return TroubledHome.at(tmp_path_factory.mktemp("calm"))


def judged(diagnosis: Diagnosis) -> dict[str, Judgement]:
    return {link.asset: link.judgement for link in diagnosis.lineage}


def test_the_first_abnormal_asset_is_the_source_where_the_column_stands_in_it(troubled: TroubledHome) -> None:
    troubled.bring_trouble(moved="payer_code")
    found = diagnose(troubled.lake, troubled.home, troubled.breach().incident_id)
    assert found.first_abnormal is not None
    assert (found.first_abnormal.asset, found.first_abnormal.run_id) == ("dataset", RUN)
    assert (
        first_abnormal_in_words(found)
        == f"First abnormal: dataset (run {RUN[:8]}): moved in the source itself: payer_code."
    )
    assert judged(found)["predictions"] is Judgement.PASS


@pytest.mark.parametrize(
    ("trouble", "asset"),
    [
        ({"rows": 30, "missing": 1}, "dataset"),
        ({"moved": "age_squared", "missing": 60}, "data_quality"),
        ({"moved": "age_squared", "missing": 2}, "features"),
        ({"moved": "predicted_risk", "missing": 2}, "predictions"),
        ({"moved": "nothing", "missing": 2}, "drift_report"),
    ],
)
def test_the_walk_stops_at_the_first_asset_that_is_abnormal(
    troubled: TroubledHome, trouble: dict[str, object], asset: str
) -> None:
    troubled.bring_trouble(**trouble)  # pyright: ignore[reportArgumentType]
    first = diagnose(troubled.lake, troubled.home, troubled.breach().incident_id).first_abnormal
    assert first is not None
    assert first.asset == asset


def test_what_was_not_made_is_not_told_as_in_order(troubled: TroubledHome) -> None:
    troubled.write("dataset", [{"payer_code": "x"}] * 10)
    found = diagnose(troubled.lake, troubled.home, troubled.breach().incident_id)
    unmade = {asset: judgement for asset, judgement in judged(found).items() if asset != "dataset"}
    assert set(unmade.values()) == {Judgement.CANNOT_TELL}


def test_a_failed_step_is_the_first_abnormal_asset_with_its_run(calm: TroubledHome) -> None:
    failed = Breach.of_failed_run(MODEL, RUN, f"{MODEL}_month", f"{MODEL}__features", "LakeError", "no rows", MONTH)
    incident = open_incident(calm.lake, calm.home, failed)
    assert incident is not None
    first = diagnose(calm.lake, calm.home, incident.incident_id).first_abnormal
    assert first is not None
    assert (first.asset, first.what, first.run_id) == ("features", "no rows", RUN)


def test_an_incident_of_no_month_has_no_lineage_and_says_so(calm: TroubledHome) -> None:
    found = diagnose(calm.lake, calm.home, calm.breach(None, Cause.PHI_LEAK, subject="reports").incident_id)
    assert found.lineage == ()
    assert first_abnormal_in_words(found) == "The incident is of no month, so there is no lineage to walk."


def test_owners_are_those_of_the_protocol_and_who_is_told(calm: TroubledHome) -> None:
    found = diagnose(calm.lake, calm.home, calm.breach(subject="owned").incident_id)
    protocol = read_protocol(MODEL)
    assert set(found.owners) == {*protocol.owners, *protocol.sign_off.roles, "on_call", "clinical_lead"}


def test_every_cause_has_immediate_actions() -> None:
    assert set(ACTIONS) == set(Cause)
    assert all(ACTIONS.values())


def test_counts_that_could_point_at_a_person_are_not_shown(troubled: TroubledHome) -> None:
    troubled.bring_trouble(groups=True)
    found = write_page(troubled.lake, troubled.home, troubled.breach().incident_id)
    small = next(group for group in found.groups if group.subgroup == "sex=female")
    assert (small.n, small.value, small.alarmed) == (None, None, True)
    page = troubled.home.incident_page(found.incident.incident_id).read_text()
    assert "fewer than 11" in page
    assert not re.search(r">\s*9\s*<", page)


def test_the_page_tells_what_the_terminal_tells(troubled: TroubledHome) -> None:
    troubled.bring_trouble()
    incident = troubled.breach()
    troubled.act(incident, Event.ACKNOWLEDGED, text="the payers are asked")
    troubled.close(incident)
    found = write_page(troubled.lake, troubled.home, incident.incident_id)
    page = troubled.home.incident_page(incident.incident_id).read_text()
    for told in (
        *(incident.incident_id, "moved in the source itself: payer_code", "the payers are asked", "a new payer"),
        *("payers are announced", "Demonstration.", "Simulated data.", "the chain unbroken", "0.030, and 0.02 is"),
        *(found.actions[0], "Estimated loss of AUROC"),
    ):
        assert told in page, told
    assert "<script" not in page
    assert "http" not in page


def test_a_page_shows_what_was_typed_as_text(calm: TroubledHome) -> None:
    incident = calm.breach(subject="typed")
    calm.act(incident, Event.NOTE, text="<b onload=x>bold</b>")
    page = render_incident(diagnose(calm.lake, calm.home, incident.incident_id))
    assert "<b onload" not in page
    assert "&lt;b onload" in page


def test_a_chain_that_was_tampered_with_is_told_on_the_page(troubled: TroubledHome) -> None:
    incident = troubled.breach()
    edited = troubled.lake.read(EVENT_TABLE).with_columns(text=pl.lit("all is well"))
    troubled.lake.write_table(EVENT_TABLE, edited, author="mallory", message="")
    found = diagnose(troubled.lake, troubled.home, incident.incident_id)
    assert found.faults
    assert "NOT WHOLE: of 1 events those numbered 1 are not to be trusted." in render_incident(found)


def test_an_incident_that_does_not_exist_is_named(calm: TroubledHome) -> None:
    with pytest.raises(IncidentError, match="there is no incident 000000000000"):
        diagnose(calm.lake, calm.home, "000000000000")
