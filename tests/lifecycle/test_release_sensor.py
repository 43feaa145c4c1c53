from pathlib import Path

import dagster as dg
import pytest
from small_platform import MODEL, ROLES, small_protocol
from watched_model import WatchedModel

from clinical_assets.governance.signatures import SignatureError
from clinical_assets.lifecycle.questions.rejection_to_record import rejection_to_record
from clinical_assets.lifecycle.questions.release_signed import release_signed


class Office(WatchedModel):
    """Candidates, releases and signatures of one model."""

    def key(self) -> str:
        result = self.asked(release_signed, "release")
        assert isinstance(result, dg.RunRequest), result
        return result.run_key or ""

    def skipped(self) -> str:
        result = self.asked(release_signed, "release")
        assert isinstance(result, str), result
        return result


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path, small_protocol())


@pytest.fixture
def waiting(office: Office) -> Office:
    """Version 1 is released, version 2 has a report."""
    office.released(1)
    office.reported(2)
    return office


def test_without_a_candidate_there_is_nothing_to_release(office: Office) -> None:
    assert office.skipped() == f"{MODEL} has no candidate yet"


def test_a_candidate_waits_for_every_role_by_name(waiting: Office) -> None:
    assert waiting.skipped() == "version 2 waits for approval as mlops, clinical_lead"
    waiting.sign("mlops", 2)
    assert waiting.skipped() == "version 2 waits for approval as clinical_lead"


def test_a_rejected_candidate_is_not_released_but_its_signatures_are_recorded(waiting: Office) -> None:
    for role in ROLES:
        waiting.sign(role, 2)
    assert waiting.asked(rejection_to_record, "sign_off") == "nobody has rejected version 2"
    waiting.sign("clinical_lead", 2, "reject", minute=1)
    assert waiting.skipped() == "version 2 was rejected by dr-clinical_lead"
    recorded = waiting.asked(rejection_to_record, "sign_off")
    assert isinstance(recorded, dg.RunRequest)
    assert recorded.run_key == f"{MODEL}|v2|rejected|3"


def test_signatures_on_another_version_do_not_count(waiting: Office) -> None:
    for role in ROLES:
        waiting.sign(role, 1)
    assert waiting.skipped() == "version 2 waits for approval as mlops, clinical_lead"


def test_once_every_role_has_approved_one_release_is_asked_for(waiting: Office) -> None:
    for role in ROLES:
        waiting.sign(role, 2)
    key = waiting.key()
    assert key.startswith(f"{MODEL}|v2|444444444444|")
    assert waiting.key() == key
    waiting.released(2)
    assert waiting.skipped() == "version 2 is the champion"


def test_the_first_candidate_can_be_released_too(office: Office) -> None:
    office.reported(1)
    for role in ROLES:
        office.sign(role, 1)
    assert office.key().startswith(f"{MODEL}|v1|")


def test_a_refused_release_is_tried_again_only_on_new_signatures_or_a_new_report(waiting: Office) -> None:
    for role in ROLES:
        waiting.sign(role, 2)
    first = waiting.key()
    waiting.sign("mlops", 2, minute=5)
    second = waiting.key()
    waiting.reported(2, report_sha256="5" * 64)
    assert len({first, second, waiting.key()}) == 3


def test_a_damaged_signature_file_is_an_error_that_names_it(waiting: Office) -> None:
    path = waiting.sign("mlops", 2)
    path.write_text("{")
    with pytest.raises(SignatureError, match=path.name):
        waiting.look()
