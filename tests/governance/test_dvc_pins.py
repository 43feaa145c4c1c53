"""A pin says which bytes are meant, in DVC's format, and everything else is refused with both hashes."""

from pathlib import Path

import pytest
import yaml

from clinical_assets.governance.dvc_pins import MOST_NAMED, PinError, contents_of, pin_text, read_pin, verify

WRITTEN_BY_DVC = """\
outs:
- md5: b14ec7f8bcce53994b068e71495a2db8.dir
  size: 6
  nfiles: 2
  hash: md5
  path: v1
"""
"""What `dvc add` of DVC 3.67.1 wrote of the folder of the fixture."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "v1"
    (folder / "sub").mkdir(parents=True)
    (folder / "x.txt").write_text("hi\n")
    (folder / "sub" / "y.txt").write_text("yo\n")
    return folder


def written(data: Path, **changes: object) -> Path:
    """A pin of a file or folder as we write it, with entries changed; those changed to None are left out."""
    said = yaml.safe_load(pin_text(data.name, contents_of(data)))["outs"][0] | changes
    file = data.with_name(f"{data.name}.dvc")
    file.write_text(yaml.safe_dump({"outs": [{key: value for key, value in said.items() if value is not None}]}))
    return file


def test_a_folder_has_the_hash_that_dvc_gives_it(folder: Path) -> None:
    file = folder.with_name("v1.dvc")
    file.write_text(WRITTEN_BY_DVC)
    pin = read_pin(file)
    assert (pin.sha256, pin.files) == (None, None)
    assert verify(pin, folder).md5 == pin.md5
    (folder / "x.txt").write_text("ho\n")
    with pytest.raises(PinError, match=r"md5 b14ec7f8bcce53994b068e71495a2db8.dir is pinned, and \w{32}.dir was found"):
        verify(pin, folder)


@pytest.mark.parametrize(("said", "other"), [("nfiles: 2", "nfiles: 3"), ("size: 6", "size: 7")])
def test_a_number_that_does_not_fit_the_bytes_is_refused_though_the_hash_fits(
    folder: Path, said: str, other: str
) -> None:
    file = folder.with_name("v1.dvc")
    file.write_text(WRITTEN_BY_DVC.replace(said, other))
    with pytest.raises(PinError, match=rf"{other.replace(':', '')} is pinned, and {said[-1]} was found"):
        verify(read_pin(file), folder)


def test_the_same_bytes_under_another_name_are_not_what_is_pinned(folder: Path) -> None:
    pin = read_pin(written(folder))
    with pytest.raises(PinError, match=r"v2 is not what .*v1.dvc pins, which is called v1; put back"):
        verify(pin, folder.rename(folder.with_name("v2")))


def test_beside_what_dvc_writes_stands_our_sha256_alone(folder: Path) -> None:
    ours = yaml.safe_load(pin_text("v1", contents_of(folder)))
    meta = ours["outs"][0].pop("meta")
    assert ours == yaml.safe_load(WRITTEN_BY_DVC)
    assert set(meta) == {"sha256", "files"}
    assert list(meta["files"]) == ["sub/y.txt", "x.txt"]


def test_what_was_pinned_is_verified_with_the_remedy_where_it_differs(folder: Path) -> None:
    pin = read_pin(written(folder))
    assert verify(pin, folder) == contents_of(folder)
    (folder / "x.txt").write_text("ho\n")
    with pytest.raises(
        PinError, match=r"v1/x.txt is not what .*v1.dvc pins: sha256 \w{64} is .*`dvc pull .* pin it again"
    ):
        verify(pin, folder)
    (folder / "x.txt").unlink()
    with pytest.raises(PinError, match=r"v1/x.txt .* and none \(it is not there\) was found"):
        verify(pin, folder)


def test_what_dvc_leaves_out_of_a_folder_is_left_out_here(folder: Path) -> None:
    before = contents_of(folder)
    for name in (".git", ".dvc"):
        (folder / name).mkdir()
        (folder / name / "config").write_text("x")
    assert contents_of(folder) == before


def test_a_folder_of_very_many_files_is_pinned_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(MOST_NAMED + 1):
        (folder / f"{number}.psv").write_text(str(number))
    pin = read_pin(written(folder))
    assert pin.files is None
    (folder / "7.psv").write_text("8")
    with pytest.raises(PinError, match=r"many is not what .* pins: sha256 \w{64} is pinned, and \w{64} was found"):
        verify(pin, folder)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"md5": "b14ec7f8"}, "md5 is no hash of DVC 3"),
        ({"md5": None}, "md5 is missing or unknown"),
        ({"hash": "sha1"}, "md5 is no hash of DVC 3"),
        ({"size": "six"}, "size or nfiles is no number that fits"),
        ({"nfiles": None}, "size or nfiles is no number that fits"),
        ({"path": "../v1"}, "path is ../v1, which is not what lies beside it"),
        ({"cached": True}, "cached is missing or unknown"),
        ({"meta": {}}, "meta does not hold sha256"),
        ({"meta": {"sha256": "0" * 63}}, "meta.sha256 is no SHA-256"),
        ({"meta": {"sha256": "0" * 64, "files": {"x.txt": "0" * 64}}}, "meta.files is not what meta.sha256"),
    ],
)
def test_a_pin_that_says_something_else_is_damaged(folder: Path, changes: dict[str, object], fault: str) -> None:
    with pytest.raises(PinError, match=rf"v1.dvc is damaged: {fault}.*; restore it with `git checkout -- v1.dvc`"):
        read_pin(written(folder, **changes))


@pytest.mark.parametrize("text", ["", "outs: [", "outs: []", "outs: [1]", "[]", "\x00", WRITTEN_BY_DVC + "wdir: ..\n"])
def test_a_file_that_is_no_pin_is_damaged(folder: Path, text: str) -> None:
    file = folder.with_name("v1.dvc")
    file.write_text(text)
    with pytest.raises(PinError, match=r"v1.dvc is damaged: "):
        read_pin(file)


def test_an_empty_folder_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PinError, match="holds no file"):
        contents_of(tmp_path)
    with pytest.raises(PinError, match="is not there; pull it with dvc"):
        contents_of(tmp_path / "gone")
