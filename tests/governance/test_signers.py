from datetime import UTC, datetime
from pathlib import Path

import pytest

from clinical_assets.governance.signers import Signer, SignerError, add_signer, read_signers, revoke_signer

ANNA = Signer("anna", ("mlops",), "a1" * 32, demo=False, users=("anna.k",))
BEN = Signer("ben", ("clinical_lead", "privacy_officer"), "b2" * 32, demo=True)
AT = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
ENTRY = '[anna]\nroles = ["mlops"]\npublic_key = "' + "a1" * 32 + '"\ndemo = false\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of two signers."""
    path = tmp_path / "governance" / "signers.toml"
    add_signer(path, ANNA)
    add_signer(path, BEN)
    return path


def test_signers_are_read_as_they_were_added(path: Path) -> None:
    assert read_signers([path, path.with_name("nowhere.toml")]) == {"anna": ANNA, "ben": BEN}


def test_the_project_s_own_signers_file_is_valid() -> None:
    assert read_signers([Path(__file__).parents[2] / "governance" / "signers.toml"]) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[anna\nroles", r"is not valid TOML: .*line 1"),
        (f"{ENTRY}demo = true\n", r"is not valid TOML: .*line 5"),
        (f"{ENTRY}\n{ENTRY}", r"is not valid TOML: .*line 6"),
        ("\nanna = 3", r", line 2: \[anna\] needs roles \(list\)"),
        (
            f"{ENTRY}\n[ben]\nroles = 'mlops'\npublic_key = '00'\ndemo = false",
            r", line 6: \[ben\] needs roles \(list\)",
        ),
        (
            '[anna]\nroles = ["mlops"]\npublic_key = "00"',
            r", line 1: \[anna\] needs roles .* it has roles, public_key$",
        ),
        ('[anna]\nroles = ["mlops"]\npublic_key = "00"\ndemo = 0', r", line 1: \[anna\] needs roles"),
        (f"{ENTRY}admin = true", r", line 1: \[anna\] needs roles .*admin"),
        (ENTRY.replace('["mlops"]', "[]"), r", line 1: \[anna\] .* roles holds one at least"),
        (ENTRY.replace('["mlops"]', "[3]"), r", line 1: \[anna\] roles and users are lists of names"),
        (
            f"\n\n{ENTRY}".replace("mlops", "boss"),
            r", line 3: \[anna\] has the unknown role boss; the roles are clinical_",
        ),
        (ENTRY.replace("a1" * 32, "00"), r", line 1: \[anna\] public_key must be 64 hex digits"),
        (ENTRY.replace("a1" * 32, "A1" * 32), r", line 1: \[anna\] public_key must be 64 hex digits in small letters"),
        (
            f"{ENTRY}\n{ENTRY.replace('anna', 'hanna')}",
            r", line 6: \[hanna\] has the public key of \[anna\] \(.*line 1\)",
        ),
        (f"{ENTRY}expires_at = 2026-01-01T00:00:00", r", line 1: \[anna\] expires_at and revoked_at need a time zone"),
        (f"{ENTRY}revoked_at = 2026-01-01T00:00:00Z", r", line 1: \[anna\] revoked_at and revoked_reason belong toget"),
        (f'{ENTRY}revoked_reason = "lost"', r", line 1: \[anna\] revoked_at and revoked_reason belong together"),
    ],
)
def test_a_malformed_signers_file_is_refused_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "signers.toml"
    path.write_text(content)
    with pytest.raises(SignerError, match=words) as refused:
        read_signers([path])
    assert str(path) in str(refused.value)


def test_a_name_stands_in_one_signers_file_once(path: Path, tmp_path: Path) -> None:
    with pytest.raises(SignerError, match=r"\[anna\] stands there already"):
        add_signer(path, ANNA)
    elsewhere = tmp_path / "more.toml"
    add_signer(elsewhere, Signer("anna", ("mlops",), "c3" * 32, demo=False))
    with pytest.raises(SignerError, match=r"more\.toml, line 1: \[anna\] stands in another signers file too .*line 1"):
        read_signers([path, elsewhere])


@pytest.mark.parametrize("name", ["dr. anna", "a]\n[b", "", 'x"y'])
def test_a_name_or_role_that_would_spoil_the_file_is_not_added(path: Path, name: str) -> None:
    before = path.read_bytes()
    with pytest.raises(SignerError, match="is no name of a signer"):
        add_signer(path, Signer(name, ("mlops",), "0" * 64, demo=False))
    with pytest.raises(SignerError, match=r"carl: there is no role boss; the roles are clinical_lead, mlops, on_call"):
        add_signer(path, Signer("carl", ("boss",), "0" * 64, demo=False))
    assert path.read_bytes() == before


def test_a_revocation_is_written_into_the_entry_and_is_never_taken_back(path: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    assert revoke_signer([empty, path], "anna", 'lost "laptop"', AT) == path
    signers = read_signers([path])
    assert signers["ben"] == BEN
    assert (signers["anna"].revoked_at, signers["anna"].revoked_reason) == (AT, 'lost "laptop"')
    assert signers["anna"].fault_of_key(AT) == 'anna\'s key was revoked on 2026-03-10: lost "laptop"'
    with pytest.raises(SignerError, match="anna's key was revoked on 2026-03-10"):
        revoke_signer([path], "anna", "again", AT)


def test_a_revocation_needs_a_signer_and_a_reason(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(SignerError, match=r"carl is in none of .*signers\.toml; the signers are: anna, ben"):
        revoke_signer([path], "carl", "left", AT)
    with pytest.raises(SignerError, match="a revocation needs its reason"):
        revoke_signer([path], "ben", " ", AT)
    assert path.read_bytes() == before


def test_a_key_counts_until_it_expires(tmp_path: Path) -> None:
    path = tmp_path / "signers.toml"
    add_signer(path, Signer("anna", ("mlops",), "a1" * 32, demo=False, expires_at=AT))
    anna = read_signers([path])["anna"]
    assert anna.fault_of_key(AT.replace(hour=11)) == ""
    assert anna.fault_of_key(AT) == "anna's key expired on 2026-03-10"
