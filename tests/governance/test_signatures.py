import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clinical_assets.governance.signatures import (
    Decision,
    Signature,
    SignatureError,
    Statement,
    check_signatures,
    create_key,
    is_genuine,
    missing_for_release,
    read_signatures,
    sign,
    store,
)
from clinical_assets.governance.signers import Signer, add_signer, read_signers, revoke_signer
from clinical_assets.protocol import ModelProtocol, ModelVersion, read_protocol

AT = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
REPORT = "4" * 64
PROTOCOL = read_protocol("readmission")
VERSION = ModelVersion(
    model="readmission",
    version=3,
    run_id="run",
    artefact_sha256="a" * 64,
    protocol_sha256=PROTOCOL.sha256,
    threshold=0.2,
    trained_through=date(2025, 1, 1),
    lake_snapshot=9,
    data_origin="simulated",
    trained_by="automation",
)


class Desk:
    """Where people sign: their keys, the signers file, the folder of signatures, and the rule of release over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signers_file = folder / "signers.toml"

    def enrol(self, name: str, *roles: str, demo: bool = False) -> Signer:
        signer = Signer(name, roles, create_key(self.folder / f"{name}.pem", None), demo)
        add_signer(self.signers_file, signer)
        return signer

    def write(self, signer: str, role: str, decision: Decision = "approve", **changes: Any) -> Signature:
        stated: dict[str, Any] = {
            "model": VERSION.model,
            "version": VERSION.version,
            "artefact_sha256": VERSION.artefact_sha256,
            "report_sha256": REPORT,
            "protocol_sha256": PROTOCOL.sha256,
            "decision": decision,
            "reason": "as the report says",
            "role": role,
            "signer": signer,
            "signed_at": AT.isoformat(),
        }
        return sign(Statement(**stated | changes), self.folder / f"{signer}.pem", None)

    def faults(
        self, *signatures: Signature, protocol: ModelProtocol = PROTOCOL, report: str = REPORT, at: datetime = AT
    ) -> list[str]:
        signers = read_signers([self.signers_file])
        return [x.fault for x in check_signatures(signatures, signers, VERSION, report, protocol, at)]

    def missing(self, *signatures: Signature, protocol: ModelProtocol = PROTOCOL) -> list[str]:
        signers = read_signers([self.signers_file])
        checked = check_signatures(signatures, signers, VERSION, REPORT, protocol, AT)
        return missing_for_release(checked, protocol)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Anna, who runs the models, and Ben, who leads the clinic."""
    desk = Desk(tmp_path)
    desk.enrol("anna", "mlops")
    desk.enrol("ben", "clinical_lead")
    return desk


def test_a_release_needs_both_signatures(desk: Desk) -> None:
    anna, ben = desk.write("anna", "mlops"), desk.write("ben", "clinical_lead")
    assert desk.missing(anna, ben) == []
    assert desk.missing(anna) == ["no valid approval as clinical_lead"]
    assert desk.missing(ben) == ["no valid approval as mlops"]
    assert desk.missing() == ["no valid approval as mlops", "no valid approval as clinical_lead"]


def test_two_approvals_in_one_role_are_not_two_roles(desk: Desk) -> None:
    desk.enrol("anton", "mlops")
    both = desk.write("anna", "mlops"), desk.write("anton", "mlops")
    assert desk.missing(*both) == ["no valid approval as clinical_lead"]


def test_one_person_with_two_roles_fills_only_one(desk: Desk) -> None:
    """Four eyes: who signs in a second role has left the first, so another person must take it."""
    desk.enrol("cleo", "mlops", "clinical_lead")
    as_both = desk.write("cleo", "mlops"), desk.write("cleo", "clinical_lead")
    assert desk.missing(*as_both) == ["no valid approval as mlops"]
    assert desk.missing(*as_both[::-1]) == ["no valid approval as clinical_lead"]
    assert desk.missing(*as_both, desk.write("anna", "mlops")) == []


@pytest.mark.parametrize("field", list(Statement.__dataclass_fields__))
def test_no_word_of_a_statement_can_be_changed_after_signing(desk: Desk, field: str) -> None:
    signature = desk.write("anna", "mlops")
    before = getattr(signature.statement, field)
    after = before + 1 if isinstance(before, int) else before[:-1] + chr(ord(before[-1]) ^ 1)
    forged = Signature(replace(signature.statement, **{field: after}), signature.signature)
    anna = read_signers([desk.signers_file])["anna"]
    assert is_genuine(signature, anna)
    assert not is_genuine(forged, anna)
    assert desk.missing(forged, desk.write("ben", "clinical_lead"))


@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: "", lambda x: "zz" + x[2:], lambda x: x[2:] + x[:2]])
def test_a_damaged_signature_does_not_count(desk: Desk, damage: Callable[[str], str]) -> None:
    signature = desk.write("anna", "mlops")
    [fault] = desk.faults(replace(signature, signature=damage(signature.signature)))
    assert fault == "the signature is not anna's, or the statement was changed after signing"


def test_a_signature_by_another_s_key_does_not_count(desk: Desk) -> None:
    as_anna = sign(desk.write("anna", "mlops").statement, desk.folder / "ben.pem", None)
    assert desk.faults(as_anna) == ["the signature is not anna's, or the statement was changed after signing"]


def test_a_signature_of_somebody_unknown_does_not_count(desk: Desk) -> None:
    create_key(desk.folder / "mallory.pem", None)
    assert desk.faults(desk.write("mallory", "mlops")) == ["mallory is not in the signers file"]


def test_a_role_that_the_signer_does_not_hold_does_not_count(desk: Desk) -> None:
    taken = desk.write("anna", "clinical_lead")
    assert desk.faults(taken) == ["anna does not hold the role clinical_lead"]
    assert desk.missing(desk.write("ben", "clinical_lead"), taken) == ["no valid approval as mlops"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"version": 2}, "it is for readmission version 2"),
        ({"model": "sepsis"}, "it is for sepsis version 3"),
        ({"artefact_sha256": "b" * 64}, "the model files changed after signing (bbbbbbbbbbbb was signed, aaaaaaaaaaaa"),
        ({"report_sha256": "5" * 64}, "the validation report changed after signing (555555555555 was signed, 4444"),
        ({"protocol_sha256": "c" * 64}, "the protocol changed after signing (cccccccccccc was signed, "),
    ],
)
def test_a_genuine_signature_on_something_else_does_not_count(desk: Desk, changes: dict[str, Any], fault: str) -> None:
    elsewhere = desk.write("anna", "mlops", **changes)
    [found] = desk.faults(elsewhere)
    assert found.startswith(fault)
    [reason] = desk.missing(elsewhere, desk.write("ben", "clinical_lead"))
    assert reason.startswith(f"no valid approval as mlops ({fault}")


def test_a_report_made_anew_needs_new_signatures(desk: Desk) -> None:
    [fault] = desk.faults(desk.write("anna", "mlops"), report="6" * 64)
    assert fault.startswith("the validation report changed after signing")


def test_a_protocol_edited_after_signing_needs_new_signatures(desk: Desk) -> None:
    [fault] = desk.faults(desk.write("anna", "mlops"), protocol=PROTOCOL.model_copy(update={"minimum_n": 201}))
    assert fault.startswith("the protocol changed after signing")


@pytest.mark.parametrize(
    ("age", "fault"),
    [
        (timedelta(days=30), ""),
        (timedelta(days=30, seconds=1), "it expired 30 days after"),
        (timedelta(minutes=-5), ""),
        (timedelta(minutes=-5, seconds=-1), "it is dated in the future"),
    ],
)
def test_a_signature_holds_from_its_date_for_the_protocol_s_days(desk: Desk, age: timedelta, fault: str) -> None:
    [found] = desk.faults(desk.write("anna", "mlops", signed_at=(AT - age).isoformat()))
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


def test_a_rejection_is_the_last_word_until_its_signer_takes_it_back(desk: Desk) -> None:
    approvals = desk.write("anna", "mlops"), desk.write("ben", "clinical_lead")
    rejection = desk.write("ben", "clinical_lead", "reject", reason="sensitivity in women")
    assert desk.missing(*approvals, rejection) == [
        "ben (clinical_lead) rejected it: sensitivity in women",
        "no valid approval as clinical_lead",
    ]
    assert desk.missing(rejection, *approvals) == []


def test_one_rejection_stands_against_any_number_of_approvals(desk: Desk) -> None:
    desk.enrol("berta", "clinical_lead")
    rejection = desk.write("berta", "clinical_lead", "reject", reason="no")
    approvals = desk.write("anna", "mlops"), desk.write("ben", "clinical_lead")
    assert desk.missing(rejection, *approvals) == ["berta (clinical_lead) rejected it: no"]


def test_a_forged_rejection_cannot_stop_a_release(desk: Desk) -> None:
    rejection = desk.write("ben", "clinical_lead", "reject")
    forged = Signature(replace(rejection.statement, signer="anna", role="mlops"), rejection.signature)
    assert desk.missing(desk.write("anna", "mlops"), desk.write("ben", "clinical_lead"), forged) == []


def test_a_decision_that_is_neither_counts_as_no_approval(desk: Desk) -> None:
    perhaps: Any = "perhaps"
    undecided = desk.write("anna", "mlops", perhaps)
    assert desk.missing(undecided, desk.write("ben", "clinical_lead")) == ["no valid approval as mlops"]


def test_demonstration_signers_count_in_a_demonstration_alone(desk: Desk) -> None:
    desk.enrol("demo-mlops", "mlops", demo=True)
    production = PROTOCOL.model_copy(update={"environment": "production"})
    in_demo = desk.write("demo-mlops", "mlops")
    in_production = desk.write("demo-mlops", "mlops", protocol_sha256=production.sha256)
    assert desk.faults(in_demo) == [""]
    assert desk.faults(in_production, protocol=production) == [
        "demo-mlops is a demonstration signer, and the protocol's environment is production"
    ]
    ben = desk.write("ben", "clinical_lead", protocol_sha256=production.sha256)
    assert len(desk.missing(in_production, ben, protocol=production)) == 1


def test_who_launched_the_training_may_not_judge_what_came_of_it(desk: Desk) -> None:
    add_signer(
        desk.signers_file, Signer("cleo", ("mlops",), create_key(desk.folder / "cleo.pem", None), False, ("c2",))
    )
    signers = read_signers([desk.signers_file])
    ben = desk.write("ben", "clinical_lead")
    for trainer, name in (("anna", "anna"), ("user:c2", "cleo")):
        trained = replace(VERSION, trained_by=trainer)
        signatures = desk.write(name, "mlops"), ben
        faults = [x.fault for x in check_signatures(signatures, signers, trained, REPORT, PROTOCOL, AT)]
        assert faults == [f"{name} launched the run that trained version 3; somebody else must judge it", ""]
    by_others = replace(VERSION, trained_by="user:anna")  # an account of that name, not the signer
    assert check_signatures([desk.write("anna", "mlops")], signers, by_others, REPORT, PROTOCOL, AT)[0].fault == ""


def test_a_version_whose_trainer_nobody_wrote_down_cannot_be_judged(desk: Desk) -> None:
    unknown = replace(VERSION, trained_by="unknown")
    signatures = desk.write("anna", "mlops"), desk.write("ben", "clinical_lead")
    checked = check_signatures(signatures, read_signers([desk.signers_file]), unknown, REPORT, PROTOCOL, AT)
    assert {x.fault for x in checked} == {"it is not recorded who trained version 3; train it again"}


def test_no_signature_of_a_revoked_or_expired_key_counts_whenever_it_was_made(desk: Desk) -> None:
    revoke_signer([desk.signers_file], "anna", "laptop lost", AT)
    expiring = Signer("cleo", ("mlops",), create_key(desk.folder / "cleo.pem", None), False, expires_at=AT)
    add_signer(desk.signers_file, expiring)
    earlier = AT - timedelta(days=1)
    signatures = [desk.write(name, "mlops", signed_at=earlier.isoformat()) for name in ("anna", "cleo")]
    assert desk.faults(*signatures) == [
        "anna's key was revoked on 2026-03-10: laptop lost",
        "cleo's key expired on 2026-03-10",
    ]
    assert desk.faults(*signatures, at=earlier) == ["", ""]


def test_a_key_is_its_owner_s_alone_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "anna.pem"
    create_key(path, None)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    before = path.read_bytes()
    with pytest.raises(SignatureError, match=r"anna\.pem exists already"):
        create_key(path, None)
    assert path.read_bytes() == before


def test_a_locked_key_opens_with_its_passphrase_alone(desk: Desk) -> None:
    statement = desk.write("anna", "mlops").statement
    path = desk.folder / "locked.pem"
    signer = Signer("locked", ("mlops",), create_key(path, "open sesame"), demo=False)
    assert is_genuine(sign(statement, path, "open sesame"), signer)
    for wrong in (None, "sesame"):
        with pytest.raises(SignatureError, match=r"locked\.pem cannot be opened"):
            sign(statement, path, wrong)


def test_a_missing_damaged_or_foreign_key_is_refused_by_name(desk: Desk) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    statement = desk.write("anna", "mlops").statement
    with pytest.raises(SignatureError, match=r"there is no key .*nobody\.pem"):
        sign(statement, desk.folder / "nobody.pem", None)
    (desk.folder / "damaged.pem").write_text("-----BEGIN")
    with pytest.raises(SignatureError, match=r"damaged\.pem cannot be opened"):
        sign(statement, desk.folder / "damaged.pem", None)
    foreign = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (desk.folder / "foreign.pem").write_bytes(foreign)
    with pytest.raises(SignatureError, match=r"foreign\.pem holds no Ed25519 key"):
        sign(statement, desk.folder / "foreign.pem", None)


def test_signatures_are_kept_by_version_and_read_oldest_first(desk: Desk) -> None:
    folder = desk.folder / "sign_offs"
    later = desk.write("anna", "mlops", signed_at="2026-03-10T12:30:00+00:00")
    # Half past one in Berlin is half past twelve in UTC: times are compared, not their spelling.
    earlier = desk.write("ben", "clinical_lead", signed_at="2026-03-10T13:10:00+01:00")
    for signature in (later, earlier, desk.write("anna", "mlops", version=4)):
        store(signature, folder)
    assert read_signatures(folder, "readmission", 3) == [earlier, later]
    assert read_signatures(folder, "readmission", 5) == []


def test_of_two_words_in_one_second_the_rejection_is_the_last(desk: Desk) -> None:
    folder = desk.folder / "sign_offs"
    for decision in ("reject", "approve", "reject", "approve", "reject", "approve"):
        store(desk.write("anna", "mlops", decision), folder)
    assert read_signatures(folder, "readmission", 3)[-1].statement.decision == "reject"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"role"', '"rule"'),
        lambda text: text.replace('"signature"', '"sig"'),
        lambda text: json.dumps(json.loads(text) | {"statement": 3}),
        lambda text: text.replace("2026-03-10T12", "soon"),
        lambda text: text.replace("+00:00", ""),
    ],
)
def test_a_damaged_signature_file_is_refused_by_name(desk: Desk, damage: Callable[[str], str]) -> None:
    path = store(desk.write("anna", "mlops"), desk.folder)
    path.write_text(damage(path.read_text()))
    with pytest.raises(SignatureError, match=r"is damaged .*; restore it or sign again") as refused:
        read_signatures(desk.folder, "readmission", 3)
    assert str(path) in str(refused.value)


def test_a_signature_file_copied_to_another_version_does_not_count_there(desk: Desk) -> None:
    path = store(desk.write("anna", "mlops", version=2), desk.folder)
    target = desk.folder / "readmission" / "v3" / path.name
    target.parent.mkdir()
    target.write_bytes(path.read_bytes())
    assert desk.faults(*read_signatures(desk.folder, "readmission", 3)) == ["it is for readmission version 2"]


def test_a_stored_signature_is_the_signature(desk: Desk) -> None:
    signature = desk.write("anna", "mlops", reason="geprüft: “in Ordnung”")
    path = store(signature, desk.folder)
    assert read_signatures(desk.folder, "readmission", 3) == [signature]
    assert json.loads(path.read_text()) == asdict(signature)
    assert desk.faults(*read_signatures(desk.folder, "readmission", 3)) == [""]
