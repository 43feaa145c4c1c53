import json
from dataclasses import fields, replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from clinical_assets.governance.incidents import (
    SEVERITY,
    Breach,
    Cause,
    Event,
    IncidentEvent,
    Severity,
    event_of_breach,
)
from clinical_assets.governance.notices import CAUSE_WORDS, SEVERITY_WORDS, Notice, NoticeError

T0 = datetime(2026, 3, 1, 6, tzinfo=UTC)
LEAKS = ("Rosa Gutierrez", "123-45-6789", "MRN 8222157", "8222157")


def event(**changes: Any) -> IncidentEvent:
    opened = event_of_breach([], Breach("sepsis", Cause.FIX_DATA, "x", "y", date(2025, 9, 1), "run-1"), "run:1", T0)
    assert opened is not None
    return replace(opened, **changes)


def everything_said(notice: Notice) -> str:
    return notice.subject() + notice.text() + json.dumps(notice.fields()) + notice.name + notice.command


@pytest.mark.parametrize("leak", LEAKS)
def test_nothing_that_was_seen_or_typed_gets_into_a_message(leak: str) -> None:
    """Every field of an event that can hold words is filled with an identifier."""
    words = (
        "text",
        "actor",
        "role",
        "run_id",
        "job",
        "step",
        "root_cause",
        "action",
        "follows",
        "cause_id",
        "signature",
    )
    for kind in Event:
        said = everything_said(Notice.of(event(**dict.fromkeys(words, leak), event=kind), demo=False))
        assert leak not in said


@pytest.mark.parametrize("name", ["incident_id", "model"])
@pytest.mark.parametrize("leak", [*LEAKS, "", "sepsis\nBcc: all@example.org"])
def test_a_name_of_another_shape_is_refused_and_not_repeated(name: str, leak: str) -> None:
    with pytest.raises(NoticeError, match=f"a notice's {name}") as refused:
        Notice.of(event(**{name: leak}), demo=False)
    assert leak == "" or leak not in str(refused.value)


def test_every_field_of_a_notice_is_of_a_closed_kind() -> None:
    """A field of free text would need a new kind here, and a reviewer."""
    kinds = {item.name: item.type for item in fields(Notice)}
    text = {name for name, kind in kinds.items() if kind in (str, "str")}
    assert text == {"incident_id", "model"}


def test_a_message_says_what_how_soon_and_where_to_look() -> None:
    notice = Notice.of(event(), demo=False)
    assert notice.subject() == f"sepsis: incident {notice.incident_id} opened, {CAUSE_WORDS[Cause.FIX_DATA]}"
    for told in ("2025-09", "look today", f"clinical incident show {notice.incident_id}"):
        assert told in notice.text()
    assert "emonstration" not in everything_said(notice).replace('"demonstration": false', "")


def test_a_demonstration_says_so_in_subject_text_and_fields() -> None:
    notice = Notice.of(event(), demo=True)
    assert notice.subject().startswith("[demonstration] ")
    assert "This is a demonstration" in notice.text()
    assert notice.fields()["demonstration"] is True


def test_a_notice_is_the_same_after_it_was_stored() -> None:
    for stored in (Notice.of(event(), demo=True), Notice.of(event(month=None), demo=False)):
        assert Notice.from_fields(json.loads(json.dumps(stored.fields()))) == stored


@pytest.mark.parametrize("damage", [{"cause": "Rosa"}, {"at": "yesterday"}, {"number": None}, {"month": "May"}])
def test_fields_that_are_none_of_a_notice_are_refused(damage: dict[str, object]) -> None:
    with pytest.raises(NoticeError, match="not the fields of a notice"):
        Notice.from_fields(Notice.of(event(), demo=True).fields() | damage)


def test_every_cause_and_severity_has_its_words() -> None:
    assert set(CAUSE_WORDS) == set(SEVERITY) == set(Cause)
    assert set(SEVERITY_WORDS) == set(Severity)
