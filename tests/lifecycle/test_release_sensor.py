from pathlib import Path

import dagster as dg
import pytest
from small_platform import MODEL, ROLES, small_protocol

from clinical_assets.governance.signatures import Decision, Signature, SignatureError, Statement, store
from clinical_assets.lifecycle.automation import record_when_rejected, release_when_signed
from clinical_assets.resources.platform import HomeResource

SENSOR = release_when_signed(small_protocol())
RECORDER = record_when_rejected(small_protocol())


class Office:
    """Candidates, releases and signatures of one model, as its sensor sees them."""

    def __init__(self, root: Path) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.home = HomeResource(root=str(root), raw=str(root))

    def materialised(self, asset: str, version: int, report: str = "4" * 64) -> None:
        metadata = {
            **{"version": version, "report_sha256": report, "silent_months_left": 0, "may_pass": True},
            "features_through": "2024-05-01",
        }
        key = dg.AssetKey([MODEL, asset])
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))

    def sign(self, role: str, decision: Decision = "approve", version: int = 2, minute: int = 0) -> Path:
        """A signature file; the sensor only counts them, the release verifies them."""
        statement = Statement(
            model=MODEL,
            version=version,
            artefact_sha256="",
            report_sha256="",
            protocol_sha256="",
            decision=decision,
            reason="",
            role=role,
            signer=f"dr-{role}",
            signed_at=f"2026-01-01T00:{minute:02}:00+00:00",
        )
        return store(Signature(statement, ""), self.home.open().sign_offs)

    def tick(self) -> dg.RunRequest | dg.SkipReason:
        context = dg.build_sensor_context(instance=self.instance, resources={"home": self.home})
        result = SENSOR(context)
        assert isinstance(result, dg.RunRequest | dg.SkipReason)
        return result

    def record(self) -> dg.RunRequest | dg.SkipReason:
        context = dg.build_sensor_context(instance=self.instance, resources={"home": self.home})
        result = RECORDER(context)
        assert isinstance(result, dg.RunRequest | dg.SkipReason)
        return result

    def key(self) -> str:
        result = self.tick()
        assert isinstance(result, dg.RunRequest), result
        return result.run_key or ""

    def skipped(self) -> str:
        result = self.tick()
        assert isinstance(result, dg.SkipReason), result
        return result.skip_message or ""


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture
def waiting(office: Office) -> Office:
    """Version 1 is released, version 2 has a report."""
    office.materialised("release", 1)
    office.materialised("validation_report", 2)
    return office


def test_without_a_candidate_there_is_nothing_to_release(office: Office) -> None:
    assert office.skipped() == f"{MODEL} has no candidate yet"


def test_a_candidate_waits_for_every_role_by_name(waiting: Office) -> None:
    assert waiting.skipped() == "version 2 waits for approval as mlops, clinical_lead"
    waiting.sign("mlops")
    assert waiting.skipped() == "version 2 waits for approval as clinical_lead"


def test_a_rejected_candidate_is_not_released_but_its_signatures_are_recorded(waiting: Office) -> None:
    for role in ROLES:
        waiting.sign(role)
    assert isinstance(waiting.record(), dg.SkipReason)
    waiting.sign("clinical_lead", "reject", minute=1)
    assert waiting.skipped() == "version 2 was rejected by dr-clinical_lead"
    recorded = waiting.record()
    assert isinstance(recorded, dg.RunRequest)
    assert recorded.run_key == f"{MODEL}|v2|rejected|3"


def test_signatures_on_another_version_do_not_count(waiting: Office) -> None:
    for role in ROLES:
        waiting.sign(role, version=1)
    assert waiting.skipped() == "version 2 waits for approval as mlops, clinical_lead"


def test_once_every_role_has_approved_one_release_is_asked_for(waiting: Office) -> None:
    for role in ROLES:
        waiting.sign(role)
    key = waiting.key()
    assert key.startswith(f"{MODEL}|v2|444444444444|")
    assert waiting.key() == key
    waiting.materialised("release", 2)
    assert waiting.skipped() == "version 2 is the champion"


def test_the_first_candidate_can_be_released_too(office: Office) -> None:
    office.materialised("validation_report", 1)
    for role in ROLES:
        office.sign(role, version=1)
    assert office.key().startswith(f"{MODEL}|v1|")


def test_a_refused_release_is_tried_again_only_on_new_signatures_or_a_new_report(waiting: Office) -> None:
    for role in ROLES:
        waiting.sign(role)
    first = waiting.key()
    waiting.sign("mlops", minute=5)
    second = waiting.key()
    waiting.materialised("validation_report", 2, report="5" * 64)
    assert len({first, second, waiting.key()}) == 3


def test_a_damaged_signature_file_is_an_error_that_names_it(waiting: Office) -> None:
    path = waiting.sign("mlops")
    path.write_text("{")
    with pytest.raises(SignatureError, match=path.name):
        waiting.tick()
