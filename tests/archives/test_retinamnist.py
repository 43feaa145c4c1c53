from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinical_assets.archives import retinamnist
from clinical_assets.archives.archive import Archive, ArchiveError, hash_bytes
from clinical_assets.archives.retinamnist import RETINAMNIST, SPLITS, decode_arrays, list_arrays, read_images

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write two images a split in the publisher's layout, with some of the arrays replaced (None: left out)."""

    def arrays(**changes: np.ndarray | None) -> Path:
        rng = np.random.default_rng(0)
        whole: dict[str, np.ndarray | None] = {}
        for split in SPLITS:
            whole[f"{split}_images"] = rng.integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
            whole[f"{split}_labels"] = np.array([[0], [4]], dtype=np.uint8)
        path = tmp_path / "retinamnist.npz"
        kept = {name: array for name, array in (whole | changes).items() if array is not None}
        np.savez_compressed(path, allow_pickle=True, **kept)
        return path

    return arrays


def refusal(path: Path) -> str:
    """The one message with which an archive is refused."""
    with pytest.raises(ArchiveError) as refused:
        RETINAMNIST.open(path)
    return str(refused.value)


def test_splits_follow_each_other_as_published(write: Write) -> None:
    images = read_images(RETINAMNIST.open(write()))
    assert images.published_split.tolist() == ["train", "train", "val", "val", "test", "test"]
    assert images.grade.tolist() == [0, 4] * 3
    assert images.pixels.shape == (6, 28, 28, 3)


def test_any_position_of_the_listing_gives_the_pixels_that_its_identifier_is_the_hash_of(write: Write) -> None:
    archive = RETINAMNIST.open(write())
    listing = list_arrays(archive)
    assert listing["place"].to_list()[3:5] == ["val image 1", "test image 0"]
    positions = listing["position"].gather([4, 1])
    for image_id, image in zip(listing["image_id"].gather([4, 1]), decode_arrays(archive, positions), strict=True):
        assert image.pixels is not None
        assert hash_bytes(image.pixels.tobytes()) == image_id


def test_a_blank_and_a_repeated_image_are_faults_and_not_a_stop(write: Write) -> None:
    blank = np.full((2, 28, 28, 3), 7, dtype=np.uint8)
    blank[1, 3, 3, 2] = 8
    same = np.random.default_rng(1).integers(0, 256, (1, 28, 28, 3), dtype=np.uint8).repeat(2, axis=0)
    listing = list_arrays(RETINAMNIST.open(write(val_images=blank, test_images=same)))
    faults = listing.drop_nulls("fault").select("place", "fault").rows()
    assert faults == [
        ("val image 0", "blank: every pixel has the same value"),
        ("test image 1", "the same image as an earlier one"),
    ]


def test_the_publishers_own_file_is_known_by_its_checksum(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    assert RETINAMNIST.open(path).data_origin == "real:MedMNIST:modified"
    monkeypatch.setattr(retinamnist, "DATA_SHA256", hash_bytes(path.read_bytes()))
    retinamnist._open.cache_clear()
    assert RETINAMNIST.open(path).data_origin == "real:MedMNIST"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val_labels": None}, ["lacks the arrays val_labels", "fetch the archive again"]),
        ({"train_images": np.zeros((2, 64, 64, 3), np.uint8)}, ["train_images", "(2, 64, 64, 3)", "28 px edition"]),
        ({"train_images": np.zeros((2, 28, 28, 3), np.float32)}, ["train_images", "float32"]),
        ({"train_images": np.zeros((0, 28, 28, 3), np.uint8), "train_labels": np.zeros((0, 1), int)}, ["(0, 28, 28"]),
        ({"test_labels": np.array([[0]], np.uint8)}, ["test_labels", "(1, 1)", "each of 2 images"]),
        ({"test_labels": np.array([[0], [5]], np.uint8)}, ["test_labels", "1 grades", "0 to 4", "such as 5"]),
        ({"test_labels": np.array([[0.5], [1.0]])}, ["test_labels", "float64"]),
    ],
)
def test_another_layout_is_refused_with_the_array_and_the_remedy(
    write: Write, changes: dict[str, np.ndarray | None], words: list[str]
) -> None:
    message = refusal(write(**changes))
    assert all(word in message for word in ["retinamnist.npz", "restore the publisher's file", *words]), message


def test_no_pickle_is_ever_loaded(write: Write) -> None:
    message = refusal(write(train_labels=np.array([[{}], [{}]], dtype=object)))
    assert "no .npz of plain arrays" in message


def test_a_damaged_file_is_refused(write: Write) -> None:
    path = write()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "damaged" in refusal(path)
    path.write_bytes(content[:600] + bytes(40) + content[640:])
    assert "damaged" in refusal(path)


def test_a_file_that_changed_since_it_was_opened_is_not_read(write: Write) -> None:
    archive = RETINAMNIST.open(write())
    write(test_labels=np.array([[1], [1]], dtype=np.uint8))
    with pytest.raises(ArchiveError, match="changed since"):
        read_images(archive)
    assert read_images(RETINAMNIST.open(archive.path)).grade[-1] == 1


def test_the_archive_is_found_and_opened_where_people_put_it(write: Write, tmp_path: Path) -> None:
    assert RETINAMNIST.find(tmp_path) is None
    path = write()
    assert RETINAMNIST.find(tmp_path) == path
    assert RETINAMNIST.open(tmp_path) == RETINAMNIST.open(path)
    (tmp_path / "retinamnist").mkdir()
    moved = path.rename(tmp_path / "retinamnist" / path.name)
    assert RETINAMNIST.find(tmp_path) == moved
    assert "does not exist; fetch" in refusal(path)


@pytest.fixture
def real(raw_archives: Path) -> Archive:
    path = RETINAMNIST.find(raw_archives)
    assert path is not None
    return RETINAMNIST.open(path)


def test_the_real_archive_is_read_whole(real: Archive) -> None:
    images = read_images(real)
    assert real.data_origin in ("real:MedMNIST", "real:MedMNIST:modified")
    counts = {split: int((images.published_split == split).sum()) for split in SPLITS}
    assert counts["train"] == 1080 and counts["val"] == 120 and counts["test"] in (200, 400)
    assert np.bincount(images.grade[:1080]).tolist() == [486, 128, 206, 194, 66]


def test_in_the_real_archive_every_image_is_usable(real: Archive) -> None:
    listing = list_arrays(real)
    assert listing["image_id"].is_unique().all()
    assert listing.select(pl.col("fault").null_count()).item() == len(listing)
