import subprocess
import sys
from pathlib import Path

import pytest

from clinical_assets.governance.platform_key import (
    KEY_FILE,
    PUBLIC_KEY_FILE,
    PlatformKeyError,
    is_platform_signature,
    platform_key,
    public_key,
)


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    made = platform_key(tmp_path / "keys")

    assert platform_key(tmp_path / "keys") == made
    assert public_key(tmp_path / "keys") == made.public_key
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [KEY_FILE, PUBLIC_KEY_FILE]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_signature_is_of_one_key_over_one_message_in_one_spelling(tmp_path: Path) -> None:
    key, other = platform_key(tmp_path / "a"), platform_key(tmp_path / "b")
    signature = key.sign(b"record 1")

    assert is_platform_signature(key.public_key, b"record 1", signature)
    assert not is_platform_signature(key.public_key, b"record 2", signature)
    assert not is_platform_signature(other.public_key, b"record 1", signature)
    assert not is_platform_signature(key.public_key, b"record 1", signature.upper())
    assert not is_platform_signature(key.public_key, b"record 1", signature[:-2])
    assert not is_platform_signature("no key", b"record 1", signature)


def test_the_private_half_is_in_no_print(tmp_path: Path) -> None:
    key = platform_key(tmp_path)

    assert key.private_key.hex() not in repr(key)
    assert repr(key.private_key) not in repr(key)


def test_eight_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from clinical_assets.governance.platform_key import platform_key;"
        "sys.stdin.read(); print(platform_key(Path(sys.argv[1])).public_key)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "keys")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]

    keys = {process.communicate()[0] for process in processes}

    assert keys == {f"{platform_key(tmp_path / 'keys').public_key}\n"}
    assert len(list((tmp_path / "keys").iterdir())) == 2


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    platform_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)

    with pytest.raises(PlatformKeyError, match=r"platform\.pem is open to others"):
        platform_key(tmp_path)


@pytest.mark.parametrize("file", [KEY_FILE, PUBLIC_KEY_FILE])
def test_an_exchanged_half_is_refused(tmp_path: Path, file: str) -> None:
    platform_key(tmp_path / "ours")
    platform_key(tmp_path / "theirs")
    (tmp_path / "theirs" / file).replace(tmp_path / "ours" / file)

    with pytest.raises(PlatformKeyError, match="is not the public half"):
        platform_key(tmp_path / "ours")


def test_a_damaged_key_is_refused_by_its_file_name(tmp_path: Path) -> None:
    platform_key(tmp_path)
    (tmp_path / KEY_FILE).write_text("-----BEGIN NOTHING-----\n")
    with pytest.raises(PlatformKeyError, match=r"platform\.pem cannot be opened"):
        platform_key(tmp_path)


def test_a_missing_or_damaged_public_half_is_refused_by_its_file_name(tmp_path: Path) -> None:
    with pytest.raises(PlatformKeyError, match=r"there is no .*platform\.pub"):
        public_key(tmp_path)
    (tmp_path / PUBLIC_KEY_FILE).write_text("AB" * 32)
    with pytest.raises(PlatformKeyError, match=r"platform\.pub does not hold 64 hex digits"):
        public_key(tmp_path)
