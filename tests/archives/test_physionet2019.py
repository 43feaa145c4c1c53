import logging
import shutil
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.archives.archive import SIMULATED_MARKER, Archive, ArchiveError, hash_bytes
from clinical_assets.archives.physionet2019 import (
    CHECKSUMS_FILE,
    COLUMNS,
    HEADER,
    PHYSIONET2019,
    SITE_B_JOINS,
    SITES,
    IcuRecords,
    admission_times,
    read_records,
)

Files = dict[str, str]


def stay(hours: int = 3, **changed: list[str]) -> str:
    """A patient's file: every vital sign measured, nothing else; some columns replaced, one value an hour."""
    columns = dict.fromkeys(COLUMNS, ["NaN"] * hours)
    columns |= {"HR": ["80"] * hours, "Age": ["62.5"] * hours, "Gender": ["1"] * hours, "HospAdmTime": ["-4.5"] * hours}
    columns |= {"ICULOS": [str(hour + 1) for hour in range(hours)], "SepsisLabel": ["0"] * hours} | changed
    lines = zip(*columns.values(), strict=True)
    return HEADER.decode() + "\n" + "".join("|".join(line) + "\n" for line in lines)


@pytest.fixture
def four_patients() -> Files:
    return {
        "training/p000001.psv": stay(3),
        "training/p000002.psv": stay(2, Lactate=["NaN", "2.5"]),
        "training_setB/p100001.psv": stay(4, ICULOS=["2", "3", "5", "6"]),
        "training_setB/p100002.psv": stay(2, SepsisLabel=["0", "1"]),
    }


@pytest.fixture
def many_patients() -> Files:
    return {f"training/p{number:06d}.psv": stay(8) for number in range(1, 301)}


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[[Files], Path]:
    def write(files: Files) -> Path:
        root = tmp_path / "unpacked"
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        return root

    return write


def pack(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def pack_sets(folder: Path, files: Files) -> Path:
    for name, prefix in (("training_setA.zip", "training/"), ("training_setB.zip", "training_setB/")):
        pack(folder / name, {file: content for file, content in files.items() if file.startswith(prefix)})
    return folder


def read(path: Path) -> IcuRecords:
    return read_records(PHYSIONET2019.open(path))


def refusal(path: Path) -> str:
    """The one message with which an archive is refused."""
    with pytest.raises(ArchiveError) as refused:
        read(path)
    return str(refused.value)


def test_the_hours_of_a_patient_stay_together_with_its_hospital(
    four_patients: Files, unpack: Callable[[Files], Path]
) -> None:
    hours = read(unpack(four_patients)).hours
    assert hours.group_by("site", "patient", maintain_order=True).len().rows() == [
        ("A", "p000001", 3),
        ("A", "p000002", 2),
        ("B", "p100001", 4),
        ("B", "p100002", 2),
    ]
    assert hours["ICULOS"].to_list() == [1, 2, 3, 1, 2, 2, 3, 5, 6, 1, 2]
    assert hours["SepsisLabel"].to_list() == [0] * 10 + [1]
    assert hours["Lactate"].to_list() == [None] * 4 + [2.5] + [None] * 6


@pytest.mark.parametrize(
    "layout", ["folders", "zips", "one zip", "nested zip", "nested folders", "windows", "no newline"]
)
def test_however_the_files_are_packed_the_hours_are_the_same(
    four_patients: Files, unpack: Callable[[Files], Path], tmp_path: Path, layout: str
) -> None:
    expected = read(unpack(four_patients)).hours
    nested = {name.replace("training/", "training_setA/"): content for name, content in four_patients.items()}
    nested = {f"sepsis-1.0.0/training/{name}": content for name, content in nested.items()}
    place = {
        "folders": lambda: unpack(four_patients),
        "zips": lambda: pack_sets(tmp_path / "zips", four_patients),
        "one zip": lambda: pack(tmp_path / "all.zip", four_patients),
        "nested zip": lambda: pack(tmp_path / "nested.zip", nested),
        "nested folders": lambda: unpack(nested) / "sepsis-1.0.0",
        "windows": lambda: pack(
            tmp_path / "windows.zip", {name: text.replace("\n", "\r\n") for name, text in four_patients.items()}
        ),
        "no newline": lambda: pack(
            tmp_path / "end.zip", {name: text.rstrip("\n") for name, text in four_patients.items()}
        ),
    }[layout]()
    if layout == "nested folders":
        shutil.rmtree(tmp_path / "unpacked" / "training")
        shutil.rmtree(tmp_path / "unpacked" / "training_setB")
    assert read(place).hours.equals(expected)


def test_one_hospital_may_come_alone(four_patients: Files, unpack: Callable[[Files], Path], tmp_path: Path) -> None:
    root = unpack(four_patients)
    zipped = pack_sets(tmp_path / "zips", four_patients) / "training_setB.zip"
    for place in (root / "training_setB", zipped):
        assert read(place).hours["site"].unique().to_list() == ["B"]


def test_the_sha256_is_that_of_the_data_and_not_of_their_packing(
    four_patients: Files, unpack: Callable[[Files], Path], tmp_path: Path
) -> None:
    folder, zipped = unpack(four_patients), pack_sets(tmp_path / "zips", four_patients)
    sha256 = PHYSIONET2019.open(folder).sha256
    assert PHYSIONET2019.open(zipped).sha256 == sha256
    (folder / "training/p000001.psv").write_text(stay(5))
    assert PHYSIONET2019.open(folder).sha256 != sha256


BROKEN = {
    "empty": ("", "empty"),
    "no hours": (HEADER.decode() + "\n", "no hours"),
    "wrong header": (stay(3).replace("SepsisLabel", "Label"), "line 1: 41 columns, without SepsisLabel"),
    "other order": (stay(3).replace("HR|O2Sat", "O2Sat|HR"), "line 1: 41 columns, not the publisher's 41"),
    "too many": (stay(3).replace("|0\n", "|0|9\n", 1), "line 2: not 41 values"),
    "too few": (stay(3).replace("|NaN|NaN|62.5", "|62.5", 1), "too short"),
    "text": (stay(3, HR=["80", "high", "90"]), "line 3, column HR: not a number"),
    "empty cell": (stay(3, Temp=["NaN", "", "37"]), "line 3, column Temp: empty"),
    "infinite": (stay(3, Temp=["NaN", "37", "inf"]), "line 4, column Temp: not finite"),
    "label": (stay(3, SepsisLabel=["0", "0.5", "1"]), "line 3, column SepsisLabel: neither 0 nor 1"),
    "no label": (stay(3, SepsisLabel=["0", "NaN", "1"]), "line 3, column SepsisLabel: neither 0 nor 1"),
    "sex": (stay(3, Gender=["2", "2", "2"]), "line 2, column Gender: neither 0 nor 1"),
    "hour": (stay(3, ICULOS=["1", "NaN", "3"]), "line 3, column ICULOS: no whole hour"),
    "time": (stay(3, ICULOS=["1", "3", "2"]), "line 4, column ICULOS: hours do not ascend"),
    "blank line": (stay(3).replace("|0\n", "|0\n\n", 1), "line 3"),
}


@pytest.mark.parametrize("fault", list(BROKEN))
def test_a_broken_file_is_named_with_its_fault_and_the_others_are_read(
    four_patients: Files, unpack: Callable[[Files], Path], fault: str
) -> None:
    content, reason = BROKEN[fault]
    root = unpack(four_patients | {"training/p000001.psv": content})
    records = read(root)
    (quarantined,) = records.quarantined.rows(named=True)
    assert (quarantined["site"], quarantined["file"]) == ("A", "training/p000001.psv")
    assert reason in quarantined["reason"]
    assert records.hours["patient"].unique(maintain_order=True).to_list() == ["p000002", "p100001", "p100002"]
    assert records.hours.filter(pl.col("patient") == "p000002")["Lactate"].to_list() == [None, 2.5]


def test_a_damaged_member_of_a_zip_is_quarantined(four_patients: Files, tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", four_patients)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"|2.5|", b"|9.5|", 1))
    records = read(path)
    assert records.quarantined.rows() == [("A", "training/p000002.psv", "damaged in the zip")]
    assert "p000002" not in records.hours["patient"]


def test_quarantine_is_said_aloud(
    four_patients: Files, unpack: Callable[[Files], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read(unpack(four_patients | {"training/p000001.psv": ""}))
    assert "1 of 4 patient files are broken (training/p000001.psv: empty)" in caplog.text


def test_an_archive_without_a_broken_file_has_an_empty_quarantine(
    four_patients: Files, unpack: Callable[[Files], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read(unpack(four_patients)).quarantined.is_empty()
    assert not caplog.records


def test_up_to_one_per_cent_of_broken_files_is_borne_and_more_is_not(
    many_patients: Files, unpack: Callable[[Files], Path]
) -> None:
    spoilt = ["training/p000017.psv", "training/p000099.psv", "training/p000300.psv"]
    faults = (BROKEN["text"][0], BROKEN["label"][0], BROKEN["too many"][0])
    root = unpack(many_patients | dict(zip(spoilt, faults, strict=True)))
    records = read(root)
    assert records.quarantined["file"].to_list() == spoilt
    assert records.hours["patient"].n_unique() == 297
    assert records.hours.group_by("patient").len()["len"].unique().to_list() == [8]
    (root / "training/p000200.psv").write_text("")
    message = refusal(root)
    assert "4 of 300 patient files are broken (training/p000017.psv: line 3, column HR: not a number" in message


def test_no_measured_value_is_in_a_message(many_patients: Files, unpack: Callable[[Files], Path]) -> None:
    secret = {f"training/p{number:06d}.psv": stay(2, HR=["80", "7613x"]) for number in range(1, 9)}
    assert "7613" not in refusal(unpack(many_patients | secret))


def test_a_file_that_is_there_twice_is_refused(four_patients: Files, unpack: Callable[[Files], Path]) -> None:
    root = unpack(four_patients)
    pack(root / "training_setA.zip", {name: text for name, text in four_patients.items() if "setB" not in name})
    message = refusal(root)
    assert "2 patient files are there more than once, in training_setA.zip, training/, training_setB/" in message


def test_a_hospital_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    assert "cannot tell which hospital" in refusal(pack(tmp_path / "mine.zip", {"icu/p1.psv": stay()}))


def test_an_absent_an_empty_and_a_foreign_place_are_refused(tmp_path: Path) -> None:
    assert "absent does not exist" in refusal(tmp_path / "absent")
    assert "neither training_setA.zip nor training_setB.zip" in refusal(tmp_path)
    assert "no .psv files" in refusal(pack(tmp_path / "training_setA.zip", {"readme.txt": "nothing"}))


def test_a_truncated_zip_is_refused(four_patients: Files, tmp_path: Path) -> None:
    path = pack(tmp_path / "training_setA.zip", four_patients)
    path.write_bytes(path.read_bytes()[:-200])
    assert "not a zip, or a truncated" in refusal(path)


def test_an_archive_that_changed_since_it_was_opened_is_not_read(
    four_patients: Files, unpack: Callable[[Files], Path]
) -> None:
    root = unpack(four_patients)
    archive = PHYSIONET2019.open(root)
    (root / "training/p000001.psv").write_text(stay(5))
    with pytest.raises(ArchiveError, match="changed since"):
        read_records(archive)


def test_only_files_that_the_publisher_s_checksums_list_are_the_published_archive(
    four_patients: Files, unpack: Callable[[Files], Path]
) -> None:
    root = unpack(four_patients)
    assert PHYSIONET2019.open(root).data_origin == "real:PhysioNet:modified"
    published = {name: name.replace("training/", "training/training_setA/") for name in four_patients}
    published |= {name: f"training/{name}" for name in four_patients if name.startswith("training_setB")}
    listed = [f"{hash_bytes(text.encode())}  {published[name]}" for name, text in four_patients.items()]
    (root / CHECKSUMS_FILE).write_text("\n".join([f"{'0' * 64}  LICENSE.txt", *listed]) + "\n")
    assert PHYSIONET2019.open(root).data_origin == "real:PhysioNet"
    (root / "training/p000002.psv").unlink()
    assert PHYSIONET2019.open(root).data_origin == "real:PhysioNet:modified"


def test_one_hospital_extracted_from_a_simulated_archive_is_simulated_too(
    four_patients: Files, unpack: Callable[[Files], Path]
) -> None:
    """The zip of a hospital has the marker beside its folder."""
    root = unpack(four_patients | {SIMULATED_MARKER: "made up"})
    assert PHYSIONET2019.open(root / "training_setB").data_origin == "simulated"
    (root / SIMULATED_MARKER).unlink()
    assert PHYSIONET2019.open(root / "training_setB").data_origin == "real:PhysioNet:modified"


def test_a_simulated_file_makes_the_archive_simulated(four_patients: Files, tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", four_patients | {SIMULATED_MARKER: "made up"})
    assert PHYSIONET2019.open(path).data_origin == "simulated"


def test_the_archive_is_found_in_its_folder_or_beside_others(four_patients: Files, tmp_path: Path) -> None:
    assert PHYSIONET2019.find(tmp_path) is None
    pack_sets(tmp_path, four_patients)
    assert PHYSIONET2019.find(tmp_path) == tmp_path
    pack_sets(tmp_path / "physionet2019", four_patients)
    assert PHYSIONET2019.find(tmp_path) == tmp_path / "physionet2019"


@pytest.mark.parametrize("names", [("training", "training_setB"), ("training_setA", "training_setB")])
def test_extracted_folders_are_found(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / "physionet2019" / name).mkdir(parents=True)
    assert PHYSIONET2019.find(tmp_path) == tmp_path / "physionet2019"


def test_one_zip_of_all_is_found(four_patients: Files, tmp_path: Path) -> None:
    path = pack(tmp_path / "physionet2019" / "challenge-2019-1.0.0.zip", four_patients)
    assert PHYSIONET2019.find(tmp_path) == path


def test_half_a_download_is_not_taken_for_the_archive(four_patients: Files, tmp_path: Path) -> None:
    pack_sets(tmp_path / "physionet2019", four_patients)
    (tmp_path / "physionet2019" / "training_setB.zip").unlink()
    assert PHYSIONET2019.find(tmp_path) is None


def test_hospital_a_fills_the_calendar_and_hospital_b_joins_in_may_2025() -> None:
    names = pl.Series([f"p{number:06d}" for number in range(4_800)])
    times = admission_times(names, pl.Series(["A", "B"] * 2_400))
    months = pl.DataFrame({"site": ["A", "B"] * 2_400, "month": times.dt.date().dt.month_start()})
    a, b = (months.filter(pl.col("site") == site)["month"].value_counts().sort("month") for site in "AB")
    assert len(a) == 24
    assert a["month"][0] == date(2024, 1, 1)
    assert b["month"].to_list() == [date(2025, month, 1) for month in range(5, 13)]
    assert b["month"][0] == SITE_B_JOINS
    assert (a["count"] > 60).all()
    assert (b["count"] > 220).all()


def test_a_patient_s_admission_depends_on_no_other_patient() -> None:
    together = admission_times(pl.Series(["p000001", "p000002", "p100001"]), pl.Series(["A", "A", "B"]))
    alone = admission_times(pl.Series(["p100001"]), pl.Series(["B"]))
    assert together[2] == alone[0]
    assert together[0] != together[1]
    assert (together.dt.minute() == 0).all()


@pytest.fixture(scope="module")
def real(raw_archives: Path) -> Archive:
    path = PHYSIONET2019.find(raw_archives)
    assert path is not None
    return PHYSIONET2019.open(path)


def test_the_real_archive_is_read_whole(real: Archive) -> None:
    records = read_records(real)
    assert records.quarantined.is_empty()
    stays = records.hours.group_by("site", "patient").agg(pl.col("SepsisLabel").max(), pl.len())
    assert set(records.hours["site"].unique()) == set(SITES.values())
    assert stays["len"].min() == 8
    rates = dict(stays.group_by("site").agg(pl.col("SepsisLabel").mean()).iter_rows())
    # 1,790 of 20,336 and 1,142 of 20,000 patients in the archive as published.
    assert rates["A"] == pytest.approx(0.088, abs=0.003)
    assert rates["B"] == pytest.approx(0.057, abs=0.003)
    assert records.hours.filter(pl.col("site") == "A")["EtCO2"].count() == 0
