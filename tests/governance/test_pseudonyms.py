import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.governance.pseudonyms import PseudonymError, load_or_create_key, pseudonymise

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLINICAL_PSEUDONYM_KEY", raising=False)


def expected(value: str) -> str:
    return hmac.new(KEY, value.encode(), hashlib.sha256).hexdigest()[:32]


def test_a_pseudonym_is_the_standard_hmac_cut_to_128_bits() -> None:
    values = ["8222157", "", "é 漢", "x" * 1_000, "'; DROP TABLE identifiers; --"]
    assert pseudonymise(pl.DataFrame({"id": values}), ["id"], KEY)["id"].to_list() == [expected(v) for v in values]


def test_a_number_and_its_text_are_the_same_patient() -> None:
    assert pseudonymise(pl.DataFrame({"id": [5]}), ["id"], KEY)["id"].to_list() == [expected("5")]


def test_an_absent_identifier_stays_absent_and_equal_ones_stay_equal() -> None:
    hidden = pseudonymise(pl.DataFrame({"id": [7, None, 7, 8]}), ["id"], KEY)["id"].to_list()
    assert hidden == [expected("7"), None, expected("7"), expected("8")]


def test_other_columns_and_the_order_of_rows_are_untouched() -> None:
    frame = pl.DataFrame({"id": ["b", "a"], "age": [40, 50]})
    hidden = pseudonymise(frame, ["id"], KEY)
    assert hidden.columns == ["id", "age"]
    assert hidden["age"].to_list() == [40, 50]


def test_another_key_gives_other_pseudonyms() -> None:
    frame = pl.DataFrame({"id": ["a"]})
    assert pseudonymise(frame, ["id"], KEY)["id"][0] != pseudonymise(frame, ["id"], bytes(32))["id"][0]


def test_no_rows_give_no_pseudonyms() -> None:
    hidden = pseudonymise(pl.DataFrame(schema={"id": pl.Int64}), ["id"], KEY)
    assert hidden.schema == {"id": pl.String}


def test_an_absent_column_is_refused_by_name() -> None:
    with pytest.raises(PseudonymError, match="mrn"):
        pseudonymise(pl.DataFrame({"id": ["a"]}), ["id", "mrn"], KEY)


def test_a_number_that_is_no_identifier_is_refused_without_showing_it() -> None:
    with pytest.raises(PseudonymError, match="column id is Float64") as refused:
        pseudonymise(pl.DataFrame({"id": [8222157.0]}), ["id"], KEY)
    assert "8222157" not in str(refused.value)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(PseudonymError, match="16 bytes"):
        pseudonymise(pl.DataFrame({"id": ["a"]}), ["id"], bytes(16))


def test_a_new_key_is_random_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "pseudonym.key"
    key = load_or_create_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_key(tmp_path / "another.key") != key
    assert [file.name for file in path.parent.iterdir()] == ["pseudonym.key"]


def test_the_key_stays_the_same(tmp_path: Path) -> None:
    assert load_or_create_key(tmp_path / "key") == load_or_create_key(tmp_path / "key")


def test_all_who_start_together_get_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_or_create_key(tmp_path / "key"), range(32)))
    assert len(keys) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    load_or_create_key(path)
    path.chmod(mode)
    with pytest.raises(PseudonymError, match="chmod 600"):
        load_or_create_key(path)


def test_a_damaged_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    with pytest.raises(PseudonymError, match="restore it from its backup"):
        load_or_create_key(path)
    assert path.read_bytes() == b""


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_PSEUDONYM_KEY", KEY.hex())
    assert load_or_create_key(tmp_path / "key") == KEY
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("given", ["", "not hex", "00ff", "zz" * 32])
def test_a_wrong_key_in_the_environment_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("CLINICAL_PSEUDONYM_KEY", given)
    with pytest.raises(PseudonymError, match="64 hex digits") as refused:
        load_or_create_key(tmp_path / "key")
    assert not given or given not in str(refused.value)
