from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clinical_assets.governance.reidentification import (
    ReidentificationError,
    ReidentificationTable,
    hash_pseudonym,
    officers_of,
)
from clinical_assets.governance.signers import Signer

MARCH, APRIL = date(2025, 3, 1), date(2025, 4, 1)
ANNA, OTTO = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
PSEUDONYM = "0123456789abcdef0123456789abcdef"
ROWS = pl.DataFrame({"pseudonym": [PSEUDONYM, "f" * 32], "mrn": ["MRN1", "MRN2"], "data_origin": ["simulated"] * 2})


def officer(name: str, key: Ed25519PrivateKey, *roles: str, revoked_at: datetime | None = None) -> Signer:
    public = key.public_key().public_bytes_raw().hex()
    return Signer(name, roles or ("privacy_officer",), public, demo=True, revoked_at=revoked_at)


@pytest.fixture
def table(tmp_path: Path) -> ReidentificationTable:
    table = ReidentificationTable(tmp_path)
    table.write("ward", MARCH, ROWS, [officer("anna", ANNA)])
    return table


def sealed_file(table: ReidentificationTable) -> Path:
    return table.folder / "ward" / "2025-03.reidentification"


def test_an_officer_s_private_key_opens_the_table(table: ReidentificationTable) -> None:
    found = table.find(PSEUDONYM, ANNA.private_bytes_raw())
    assert (found.mrn, found.data_origin, found.found_in) == ("MRN1", "simulated", ("ward/2025-03",))


def test_no_other_key_opens_it(table: ReidentificationTable) -> None:
    with pytest.raises(ReidentificationError, match=r"none of 1 sealed tables .* is for this key"):
        table.find(PSEUDONYM, OTTO.private_bytes_raw())


def test_an_officer_who_writes_another_name_on_the_seal_still_cannot_open_it(table: ReidentificationTable) -> None:
    path = sealed_file(table)
    public = [key.public_key().public_bytes_raw().hex().encode() for key in (ANNA, OTTO)]
    path.write_bytes(path.read_bytes().replace(public[0], public[1]))
    with pytest.raises(ReidentificationError, match="was changed or exchanged"):
        table.find(PSEUDONYM, OTTO.private_bytes_raw())


def test_every_officer_of_the_day_can_open_it_by_a_key_of_their_own(tmp_path: Path) -> None:
    table = ReidentificationTable(tmp_path)
    table.write("ward", MARCH, ROWS, [officer("anna", ANNA), officer("otto", OTTO)])
    assert {table.find(PSEUDONYM, key.private_bytes_raw()).mrn for key in (ANNA, OTTO)} == {"MRN1"}


def test_neither_pseudonyms_nor_numbers_can_be_read_in_the_file(table: ReidentificationTable) -> None:
    content = sealed_file(table).read_bytes()
    for word in (PSEUDONYM.encode(), b"MRN1", b"MRN2", b"PAR1"):
        assert word not in content
    assert sealed_file(table).stat().st_mode & 0o777 == 0o600


def test_a_changed_or_exchanged_table_is_refused(table: ReidentificationTable) -> None:
    path = sealed_file(table)
    whole = path.read_bytes()
    for at in (len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ReidentificationError, match="was changed or exchanged"):
            table.find(PSEUDONYM, ANNA.private_bytes_raw())
    path.write_bytes(whole)
    path.rename(path.with_name("2025-04.reidentification"))
    with pytest.raises(ReidentificationError, match="was changed or exchanged"):
        table.find(PSEUDONYM, ANNA.private_bytes_raw())


def test_a_pseudonym_that_nobody_has_is_an_error_that_does_not_repeat_it(table: ReidentificationTable) -> None:
    with pytest.raises(ReidentificationError, match="stands in none of 1 tables") as refused:
        table.find("e" * 32, ANNA.private_bytes_raw())
    assert "e" * 32 not in str(refused.value)


def test_a_pseudonym_of_two_persons_is_never_resolved(table: ReidentificationTable) -> None:
    table.write("ward", APRIL, ROWS.with_columns(mrn=pl.lit("MRN9")), [officer("anna", ANNA)])
    with pytest.raises(ReidentificationError, match="different persons"):
        table.find(PSEUDONYM, ANNA.private_bytes_raw())


def test_without_an_officer_there_is_no_table(table: ReidentificationTable) -> None:
    assert table.write("ward", MARCH, ROWS, []) is None
    assert not sealed_file(table).exists()


def test_officers_hold_the_role_and_a_key_that_counts() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    anna = officer("anna", ANNA)
    others = [officer("otto", OTTO, "mlops"), officer("olga", OTTO, revoked_at=now)]
    assert officers_of([anna, *others], now) == [anna]


def test_what_is_recorded_of_a_pseudonym_is_its_hash() -> None:
    assert len(hash_pseudonym(PSEUDONYM)) == 64
    assert PSEUDONYM not in hash_pseudonym(PSEUDONYM)
