from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from small_platform import small_protocol
from watched_model import WatchedModel

from clinical_assets.archives.calendar import LAST_MONTH
from clinical_assets.governance.incidents import Cause, Incident
from clinical_assets.lifecycle.questions.breaches import GRACE_DAYS, breach_of_lateness

PROTOCOL = small_protocol()
HARM = PROTOCOL.monitoring.tolerated_loss + 0.01
MAY, JUNE, JULY = (date(2024, month, 1) for month in (5, 6, 7))


class Ward(WatchedModel):
    """A home and the records of its reports."""

    def drift(self, month: str, verdict: str = "population_shift", severity: float | str = HARM) -> None:
        told = {"drift/verdict": verdict, "drift/reason": "age_band moved", "severity": severity}
        self.materialised("drift_report", month, **told)

    def performance(self, month: str, fallen: str) -> None:
        self.materialised("performance_report", month, sensitivity_has_fallen_in=fallen)

    def tick(self) -> list[Incident]:
        self.ask()
        return self.incidents()


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    ward = Ward(tmp_path, PROTOCOL)
    yield ward
    ward.instance.dispose()


def test_drift_with_harm_is_one_incident_however_many_months_and_looks(ward: Ward) -> None:
    ward.drift("2024-05")
    ward.tick()
    ward.drift("2024-06")
    ward.drift("2024-06")
    [incident] = ward.tick()
    assert (incident.cause, incident.observations) == (Cause.DRIFT_WITH_HARM, 2)
    assert (incident.first_month, incident.last_month) == (MAY, JUNE)
    assert "0.030, and 0.02 is tolerated" in incident.error
    ward.cursor = None
    assert ward.tick() == [incident]


@pytest.mark.parametrize(
    ("verdict", "severity"),
    [
        ("stable", HARM),
        ("cannot_tell", HARM),
        ("data_fault", HARM),
        ("population_shift", HARM - 0.02),
        ("population_shift", "cannot tell"),
    ],
)
def test_no_shift_no_harm_or_faulty_data_are_no_drift_with_harm(
    ward: Ward, verdict: str, severity: float | str
) -> None:
    ward.drift("2024-05", verdict, severity)
    assert ward.tick() == []


def test_each_group_whose_sensitivity_fell_is_an_incident_and_months_without_are_none(ward: Ward) -> None:
    ward.performance("2024-05", "no group")
    assert ward.tick() == []
    ward.performance("2024-06", "overall, sex=female")
    ward.performance("2024-07", "sex=female")
    told = {incident.error.split(" of ")[1].split(" has")[0]: incident for incident in ward.tick()}
    assert {name: incident.observations for name, incident in told.items()} == {"overall": 1, "sex=female": 2}
    assert {incident.cause for incident in told.values()} == {Cause.SUBGROUP_SENSITIVITY}


IN_PRODUCTION = small_protocol(environment="production")


@pytest.mark.parametrize(
    ("newest", "today", "late"),
    [
        (JUNE, date(2024, 8, GRACE_DAYS - 1), None),
        (JUNE, date(2024, 8, GRACE_DAYS), JULY),
        (MAY, date(2024, 8, 1), JUNE),
        (JULY, date(2024, 8, 31), None),
        (None, date(2024, 8, 31), None),
        (LAST_MONTH, date(2031, 1, 31), None),
    ],
)
def test_in_production_a_month_is_late_by_the_calendar_on_the_wall(
    newest: date | None, today: date, late: date | None
) -> None:
    breach = breach_of_lateness(IN_PRODUCTION, newest, today)
    assert (breach.month if breach else None) == late


def test_on_a_replayed_calendar_no_month_is_ever_late() -> None:
    assert breach_of_lateness(PROTOCOL, MAY, date(2031, 1, 31)) is None
