"""An archive that differs from its pin in the hospital's Git is not opened, whatever of the two was damaged."""

import random
import shutil
import string
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clinical_assets.archives.diabetes130 import DIABETES130
from clinical_assets.cli import app
from clinical_assets.governance.dvc_pins import PinError
from clinical_assets.protocol import read_protocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.pinned_tree import PinnedTree

PROTOCOL = read_protocol("readmission")
DAMAGES = 200
AUTHOR = ("-c", "user.name=A Hospital", "-c", "user.email=git@hospital.example")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DIABETES130.simulate(tmp_path_factory.mktemp("simulated"), seed=1)


@pytest.fixture
def home(tmp_path: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a zip in its raw folder, and an empty working tree for pins."""
    home = Home(tmp_path / "home", tmp_path / "raw")
    (home.raw / "diabetes130").mkdir(parents=True)
    shutil.copy(packed, home.raw / "diabetes130" / "dataset_diabetes.zip")
    (tmp_path / "git").mkdir()
    monkeypatch.setenv("CLINICAL_HOME", str(home.root))
    monkeypatch.setenv("CLINICAL_RAW", str(home.raw))
    monkeypatch.setenv("CLINICAL_PINS", str(tmp_path / "git"))
    monkeypatch.delenv("CLINICAL_DVC", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return home


@pytest.fixture
def tree(home: Home, tmp_path: Path) -> PinnedTree:
    return PinnedTree(tmp_path / "git")


def git(tree: PinnedTree, *arguments: str) -> str:
    command = ["git", "-C", str(tree.root), *AUTHOR, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def fetch(*options: str) -> Result:
    return CliRunner().invoke(app, ["fetch", "readmission", *options], catch_exceptions=False)


def test_what_is_fetched_and_pinned_lies_in_the_working_tree_and_git_ignores_its_bytes(
    home: Home, tree: PinnedTree
) -> None:
    git(tree, "init", "--quiet")
    told = fetch("--pin")
    assert told.exit_code == 0
    assert "archives/diabetes130/dataset_diabetes.zip.dvc: md5 " in told.stdout
    copied = tree.archives / "diabetes130" / "dataset_diabetes.zip"
    assert copied.read_bytes() == (home.raw / "diabetes130" / "dataset_diabetes.zip").read_bytes()
    assert git(tree, "status", "--porcelain", "--untracked-files=all").splitlines() == [
        "?? archives/diabetes130/.gitignore",
        "?? archives/diabetes130/dataset_diabetes.zip.dvc",
    ]


def test_without_dvc_a_pin_is_written_and_one_line_says_how_to_get_it(home: Home) -> None:
    told = fetch("--pin")
    assert told.exit_code == 0
    assert "not pushed: the program dvc is not here: set CLINICAL_DVC='uvx dvc', or install it" in told.stdout


def test_what_was_named_as_dvc_and_is_no_program_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_DVC", "/nowhere/dvc")
    told = fetch("--pin")
    assert told.exit_code == 1
    assert "CLINICAL_DVC names /nowhere/dvc, which is no program" in told.stderr


def test_without_a_working_tree_nothing_is_pinned_and_nothing_else_changes(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLINICAL_PINS")
    told = fetch("--pin")
    assert told.exit_code == 1
    assert told.stderr.count("\n") == 1
    assert "CLINICAL_PINS is not set" in told.stderr
    assert fetch().exit_code == 0
    assert home.open_archive(PROTOCOL).pin is None


def test_a_working_tree_that_is_not_there_stops_who_would_open_an_archive(
    home: Home, tree: PinnedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINICAL_PINS", str(tree.root / "gone"))
    with pytest.raises(PinError, match=r"CLINICAL_PINS names .*gone, which is no folder"):
        home.open_archive(PROTOCOL)


def test_all_of_a_raw_folder_is_never_pinned_as_one_archive(home: Home, tree: PinnedTree) -> None:
    folder = home.raw / "diabetes130"
    shutil.unpack_archive(folder / "dataset_diabetes.zip", home.raw)
    shutil.rmtree(folder)
    for file in (home.raw / "dataset_diabetes").iterdir():
        file.rename(home.raw / file.name)
    (home.raw / "dataset_diabetes").rmdir()
    told = fetch("--pin")
    assert told.exit_code == 1
    assert "may hold more than this archive" in told.stderr
    assert not tree.archives.exists()


def test_an_opened_archive_says_by_which_pin_and_in_which_commit(home: Home, tree: PinnedTree) -> None:
    fetch("--pin")
    pin = home.open_archive(PROTOCOL).pin
    assert pin is not None
    assert pin.commit.startswith("cannot tell: ")
    git(tree, "init", "--quiet")
    assert commit_of(home) == "not committed"
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "the archive")
    head = git(tree, "rev-parse", "HEAD")
    assert commit_of(home) == head
    file = tree.root / pin.file
    file.write_text(f"{file.read_text()}\n")
    assert commit_of(home) == f"{head}, without the pin as it is: not committed"


def commit_of(home: Home) -> str:
    pin = home.open_archive(PROTOCOL).pin
    assert pin is not None
    assert pin == home.archive_pin(PROTOCOL)
    return pin.commit


def test_a_pin_that_git_ignores_is_not_said_to_be_committed(home: Home, tree: PinnedTree) -> None:
    git(tree, "init", "--quiet")
    (tree.root / ".gitignore").write_text("*.dvc\n")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "nothing of ours")
    fetch("--pin")
    assert commit_of(home).endswith("without the pin as it is: not committed")


def test_an_archive_that_lies_beside_its_pin_alone_is_found_there(home: Home) -> None:
    fetch("--pin")
    shutil.rmtree(home.raw)
    assert home.open_archive(PROTOCOL).data_origin == "simulated"


def test_two_pins_of_one_archive_are_refused(home: Home, tree: PinnedTree) -> None:
    fetch("--pin")
    pin = tree.archives / "diabetes130" / "dataset_diabetes.zip.dvc"
    shutil.copy(pin, tree.archives / "diabetes130.dvc")
    with pytest.raises(PinError, match=r"pins the archive diabetes130 2 times .* leave one of them"):
        home.open_archive(PROTOCOL)


def test_another_file_of_the_same_archive_is_not_pinned_beside_the_first(home: Home) -> None:
    fetch("--pin")
    folder = home.raw / "diabetes130"
    shutil.unpack_archive(folder / "dataset_diabetes.zip", folder)
    (folder / "dataset_diabetes.zip").unlink()
    told = fetch("--pin")
    assert told.exit_code == 1
    assert "diabetes130 is pinned by" in told.stderr


def test_pinning_again_replaces_a_folder_whole(home: Home, tree: PinnedTree) -> None:
    folder = home.raw / "diabetes130"
    shutil.unpack_archive(folder / "dataset_diabetes.zip", folder)
    (folder / "dataset_diabetes.zip").unlink()
    (folder / "dataset_diabetes" / "notes.txt").write_text("old")
    fetch("--pin")
    (folder / "dataset_diabetes" / "notes.txt").unlink()
    with pytest.raises(PinError, match=r"notes.txt is not what .* pins"):
        home.open_archive(PROTOCOL)
    fetch("--pin")
    assert home.open_archive(PROTOCOL).pin is not None
    assert not (tree.archives / "diabetes130" / "dataset_diabetes" / "notes.txt").exists()


@pytest.mark.parametrize("is_folder", [False, True], ids=["a zip", "a folder"])
def test_of_a_hundred_damages_to_pin_or_archive_each_is_refused_and_named(
    home: Home, tree: PinnedTree, is_folder: bool
) -> None:
    """Twice: 200 in all."""
    archive = home.raw / "diabetes130" / "dataset_diabetes.zip"
    if is_folder:
        shutil.unpack_archive(archive, archive.parent)
        archive.unlink()
        archive = archive.with_suffix("")
    fetch("--pin")
    pin = tree.archives / "diabetes130" / f"{archive.name}.dvc"
    home.choose_archive("readmission", archive)
    chance = random.Random(20260301)
    whole = {path: path.read_bytes() for path in (pin, *files_of(archive))}
    ways: list[Callable[[random.Random, Path, Path], None]] = [
        *(another_byte_in_the_archive, a_part_of_the_archive, more_of_the_archive, without_a_file),
        *(another_digit_in_the_pin, another_letter_in_the_pin, a_part_of_the_pin),
    ]
    refused = 0
    for number in range(DAMAGES // 2):
        damage = ways[number % len(ways)]
        damage(chance, pin, archive)
        with pytest.raises(
            PinError, match=r"(is not what .* pins.*; put back|is damaged: .*; restore|is not there; pull)"
        ) as refusal:
            home.open_archive(PROTOCOL)
        assert str(archive) in str(refusal.value) or str(pin) in str(refusal.value), damage.__name__
        refused += 1
        for path, content in whole.items():
            path.write_bytes(content)
    assert refused == DAMAGES // 2
    assert home.open_archive(PROTOCOL).data_origin == "simulated"


def files_of(archive: Path) -> Iterator[Path]:
    return (path for path in (archive, *archive.rglob("*")) if path.is_file())


def a_file_of(chance: random.Random, archive: Path) -> Path:
    return chance.choice(sorted(files_of(archive)))


def another_byte_in_the_archive(chance: random.Random, pin: Path, archive: Path) -> None:
    file = a_file_of(chance, archive)
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def a_part_of_the_archive(chance: random.Random, pin: Path, archive: Path) -> None:
    file = a_file_of(chance, archive)
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def more_of_the_archive(chance: random.Random, pin: Path, archive: Path) -> None:
    file = a_file_of(chance, archive)
    file.write_bytes(file.read_bytes() + chance.randbytes(chance.randrange(1, 100)))


def without_a_file(chance: random.Random, pin: Path, archive: Path) -> None:
    a_file_of(chance, archive).unlink()


def another_digit_in_the_pin(chance: random.Random, pin: Path, archive: Path) -> None:
    """A digit of a hash, of the size or of the number of files."""
    text = pin.read_text()
    at = chance.choice([place for place, letter in enumerate(text) if letter.isdigit()])
    other = chance.choice([digit for digit in string.digits if digit != text[at]])
    pin.write_text(f"{text[:at]}{other}{text[at + 1 :]}")


def another_letter_in_the_pin(chance: random.Random, pin: Path, archive: Path) -> None:
    text = pin.read_text()
    at = chance.randrange(len(text) - 1)
    other = chance.choice([letter for letter in string.ascii_letters if letter != text[at]])
    pin.write_text(f"{text[:at]}{other}{text[at + 1 :]}")


def a_part_of_the_pin(chance: random.Random, pin: Path, archive: Path) -> None:
    """Cut within a word: cut at the end of one, what is left may be the whole pin that DVC would have written."""
    text = pin.read_text()
    within = [at for at in range(1, len(text)) if text[at - 1].isalnum() and text[at].isalnum()]
    pin.write_text(text[: chance.choice(within)])
