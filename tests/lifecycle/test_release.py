from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest
from small_platform import LENIENT, MODEL, MONTHS, ROLES, Developed, small_protocol

from clinical_assets.governance.ledger import LedgerEntry, LedgerKind
from clinical_assets.governance.signatures import SignatureError
from clinical_assets.lifecycle.release import ReleaseError, predictions, release, sign_off
from clinical_assets.protocol import Judgement, ModelProtocol, ModelVersion, ProtocolError
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.registry import CHAMPION, FIRST_RELEASE, RegistryError


def attempt(
    at: Developed, protocol: ModelProtocol | None = None, version: ModelVersion | None = None
) -> dg.MaterializeResult[ModelVersion]:
    """The release asset alone, called as the function it is: no check and no other asset stands before it."""
    result = release(
        dg.build_asset_context(),
        protocol=protocol or at.platform.protocol,
        trained_model=version or at.candidate,
        **at.platform.resources,
    )
    assert isinstance(result, dg.MaterializeResult)
    return result


def assert_nothing_moved(at: Developed, ledger: list[LedgerEntry]) -> None:
    registry = at.platform.registry
    assert registry.champion(MODEL) == at.champion
    assert registry.find(MODEL, FIRST_RELEASE) == at.champion
    assert registry.challenger(MODEL) == at.candidate
    assert read_ledger(at.platform.lake, MODEL) == ledger


@pytest.fixture
def ledger(candidate: Developed) -> list[LedgerEntry]:
    """The entries there are before a test tries to release."""
    return read_ledger(candidate.platform.lake, MODEL)


def test_the_first_release_made_version_1_the_champion_and_wrote_it_down(developed: Developed) -> None:
    entry, *_ = read_ledger(developed.platform.lake, MODEL)
    assert (entry.kind, entry.version, entry.previous_version) == (LedgerKind.RELEASE, 1, None)
    assert entry.artefact_sha256 == developed.champion.artefact_sha256
    assert entry.protocol_sha256 == developed.platform.protocol.sha256
    assert entry.actor == f"run:{entry.run_id}"
    assert {(x.signer, x.role, x.demo) for x in entry.approvals} == {(f"dr-{x}", x, False) for x in ROLES}
    assert entry.limits == len(LENIENT)
    assert developed.platform.registry.find(MODEL, FIRST_RELEASE) == developed.champion
    assert developed.candidate.version == 2


def test_an_unsigned_candidate_is_refused(candidate: Developed, ledger: list[LedgerEntry]) -> None:
    with pytest.raises(SignatureError, match=r"nobody has signed readmission version 2; it needs mlops, clinical_lead"):
        attempt(candidate)
    assert_nothing_moved(candidate, ledger)


@pytest.mark.parametrize(("role", "missing"), [ROLES, ROLES[::-1]])
def test_one_signature_is_not_enough(candidate: Developed, ledger: list[LedgerEntry], role: str, missing: str) -> None:
    candidate.platform.sign(candidate.candidate, role)
    with pytest.raises(ReleaseError, match=f"version 2 is not released: no valid approval as {missing}$"):
        attempt(candidate)
    assert_nothing_moved(candidate, ledger)


def test_one_person_in_both_roles_is_not_enough(candidate: Developed, ledger: list[LedgerEntry]) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role, signer="dr-mlops")
    with pytest.raises(ReleaseError, match="no valid approval as"):
        attempt(candidate)
    assert_nothing_moved(candidate, ledger)


def test_a_rejected_candidate_is_refused_with_the_reason(candidate: Developed, ledger: list[LedgerEntry]) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role)
    later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    candidate.platform.sign(candidate.candidate, "clinical_lead", "reject", reason="too few women", signed_at=later)
    with pytest.raises(ReleaseError, match=r"dr-clinical_lead \(clinical_lead\) rejected it: too few women"):
        attempt(candidate)
    assert_nothing_moved(candidate, ledger)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 1}, "it is for readmission version 1"),
        ({"artefact_sha256": "0" * 64}, "the model files changed after signing"),
        ({"report_sha256": "0" * 64}, "the validation report changed after signing"),
        ({"protocol_sha256": "0" * 64}, "the protocol changed after signing"),
        ({"signed_at": "2020-01-01T00:00:00+00:00"}, "it expired 30 days after"),
        ({"signed_at": "2999-01-01T00:00:00+00:00"}, "it is dated in the future"),
    ],
)
def test_a_signature_on_anything_else_does_not_count(
    candidate: Developed, ledger: list[LedgerEntry], changes: dict[str, Any], words: str
) -> None:
    candidate.platform.sign(candidate.candidate, "mlops")
    path = candidate.platform.sign(candidate.candidate, "clinical_lead", **changes)
    path.replace(candidate.platform.home.sign_offs / MODEL / "v2" / path.name)
    with pytest.raises(ReleaseError, match=f"no valid approval as clinical_lead .*{words}"):
        attempt(candidate)
    assert_nothing_moved(candidate, ledger)


@pytest.mark.parametrize("damage", [lambda x: x[:-2] + bytes([x[-2] ^ 1]) + x[-1:], lambda x: x + b" ", lambda x: b""])
def test_a_report_edited_by_one_byte_is_refused(candidate: Developed, ledger: list[LedgerEntry], damage: Any) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role)
    path = candidate.platform.home.report(MODEL, 2)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ReleaseError, match="is gone or was changed after it was made; materialise validation_report"):
        attempt(candidate)
    assert_nothing_moved(candidate, ledger)


def test_a_report_that_is_gone_is_refused(candidate: Developed, ledger: list[LedgerEntry]) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role)
    candidate.platform.home.report(MODEL, 2).unlink()
    with pytest.raises(ReleaseError, match="is gone or was changed"):
        attempt(candidate)
    assert_nothing_moved(candidate, ledger)


@pytest.mark.parametrize("judgement", [Judgement.FAIL, Judgement.CANNOT_TELL])
def test_a_failing_report_is_refused_however_well_it_is_signed(
    candidate: Developed, ledger: list[LedgerEntry], monkeypatch: pytest.MonkeyPatch, judgement: Judgement
) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role)
    lake = candidate.platform.lake
    report = lake.read(f"{MODEL}.validation_report", where={"version": 2})
    spoilt = report.with_columns(
        judgement=pl.lit(judgement.value), reason=pl.lit("auroc is 0.41, at least 0.65 is asked")
    )
    note: dict[str, Any] = {"author": "a test", "message": "an unmet limit"}
    lake.write_table(f"{MODEL}.validation_report", spoilt, replace_by="version", **note)
    try:
        with pytest.raises(ReleaseError, match=r"auroc \(overall\): auroc is 0.41, at least 0.65 is asked"):
            attempt(candidate)
    finally:
        lake.write_table(f"{MODEL}.validation_report", report, replace_by="version", **note)
    assert_nothing_moved(candidate, ledger)


def test_a_version_without_a_report_is_refused(candidate: Developed, ledger: list[LedgerEntry]) -> None:
    unreported = replace(candidate.champion, version=7)
    resources = candidate.platform.resources
    with pytest.raises(RegistryError, match="the files of readmission version 7 are gone"):
        release(dg.build_asset_context(), protocol=candidate.platform.protocol, trained_model=unreported, **resources)
    assert_nothing_moved(candidate, ledger)


def test_a_protocol_edited_after_training_is_refused(candidate: Developed, ledger: list[LedgerEntry]) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role)
    edited = small_protocol(minimum_n=21)
    with pytest.raises(ProtocolError, match=r"trained_model was made under protocol \w{12}, now \w{12} is in force"):
        attempt(candidate, protocol=edited)
    assert_nothing_moved(candidate, ledger)


def test_damaged_model_files_are_refused_before_the_alias_moves(
    candidate: Developed, ledger: list[LedgerEntry]
) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role)
    [file, *_] = sorted(candidate.platform.registry.files(candidate.candidate).glob("*.skops"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    try:
        with pytest.raises(RegistryError, match=r"readmission version 2: .* was changed or damaged.* roll back"):
            attempt(candidate)
    finally:
        file.write_bytes(whole)
    assert_nothing_moved(candidate, ledger)


def test_a_signed_candidate_that_passes_becomes_the_champion_and_the_first_release_stays(
    candidate: Developed,
) -> None:
    for role in ROLES:
        candidate.platform.sign(candidate.candidate, role)
    result = attempt(candidate)
    registry = candidate.platform.registry
    assert result.value == registry.champion(MODEL) == candidate.candidate
    assert registry.find(MODEL, FIRST_RELEASE) == candidate.champion
    *_, last = read_ledger(candidate.platform.lake, MODEL)
    assert (last.kind, last.version, last.previous_version) == (LedgerKind.RELEASE, 2, 1)
    assert (result.metadata or {})["previous_champion"] == 1
    assert attempt(candidate).value == candidate.candidate
    assert read_ledger(candidate.platform.lake, MODEL)[-1] == last, "what is live already is not released again"


def test_what_a_version_is_watched_against_is_there_before_any_month_is_looked_at(candidate: Developed) -> None:
    table = f"{MODEL}.monitoring_reference"
    lake, version = candidate.platform.lake, candidate.candidate
    others = lake.read(table).filter(pl.col("version") != version.version)
    lake.write_table(table, others, author="a test", message="nobody has looked yet")
    for role in ROLES:
        candidate.platform.sign(version, role)
    attempt(candidate)
    assert version.version in lake.read(table, columns=["version"])["version"]


def test_every_signature_is_told_whether_it_counts(candidate: Developed) -> None:
    candidate.platform.sign(candidate.candidate, "mlops")
    candidate.platform.sign(candidate.candidate, "clinical_lead", report_sha256="0" * 64)
    report = candidate.platform.lake.read(f"{MODEL}.validation_report", where={"version": 2})
    result = sign_off(
        protocol=candidate.platform.protocol,
        validation_report=report,
        trained_model=candidate.candidate,
        home=candidate.platform.resources["home"],
    )
    assert isinstance(result, dg.MaterializeResult)
    faults = dict(result.value.select("role", "fault").iter_rows())
    assert faults["mlops"] is None
    assert faults["clinical_lead"].startswith("the validation report changed after signing")


def test_scores_are_the_champion_s_and_the_threshold_its_own(developed: Developed) -> None:
    platform = developed.platform
    four = platform.lake.read(f"{MODEL}.features").sort("encounter_id").head(4)
    result = predictions(
        protocol=platform.protocol,
        features=four,
        release=developed.champion,
        registry=platform.resources["registry"],
    )
    assert isinstance(result, dg.MaterializeResult)
    scored: pl.DataFrame = result.value
    risks = platform.registry.load(developed.champion, platform.protocol.estimator).predict(four)
    assert scored["risk"].to_list() == pytest.approx(list(risks))
    assert scored["model_version"].unique().to_list() == [1]
    assert scored["alerted"].to_list() == [risk >= developed.champion.threshold for risk in scored["risk"]]
    assert "readmitted_30d" not in scored.columns


def test_without_a_champion_scoring_says_how_to_get_one(candidate: Developed) -> None:
    candidate.platform.drop_alias(CHAMPION)
    with pytest.raises(RegistryError, match=r"readmission has no champion: train a candidate, have it signed"):
        candidate.platform.run("month", MONTHS[0])
    assert candidate.platform.lake.months(f"{MODEL}.predictions") == [MONTHS[4]]


def test_limits_that_cannot_be_met_give_a_failing_report(developed: Developed) -> None:
    """The lenient limits of these tests are judged for real."""
    report = developed.platform.lake.read(f"{MODEL}.validation_report")
    judged = {(row["version"], row["limit"]): row["judgement"] for row in report.iter_rows(named=True)}
    assert judged[1, "at least 0.01"] == judged[2, "at least 0.01"] == Judgement.PASS
    assert judged[1, "not worse than the champion by more than 0.9"] == Judgement.NOT_APPLICABLE
    assert judged[2, "not worse than the champion by more than 0.9"] == Judgement.PASS
    assert len(judged) == 2 * len(LENIENT)
