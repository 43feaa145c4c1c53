import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.archives import diabetes130
from clinical_assets.archives.archive import ArchiveError, hash_bytes
from clinical_assets.archives.diabetes130 import CODES_FILE, DATA_FILE, DIABETES130, UCI_FILE_NAME, read_encounters

Publish = Callable[[pl.DataFrame], Path]


def read(path: Path) -> pl.DataFrame:
    return read_encounters(DIABETES130.open(path))


def refusal(path: Path) -> str:
    """The one message with which an archive is refused."""
    with pytest.raises(ArchiveError) as refused:
        read(path)
    return str(refused.value)


def test_missing_is_null_but_not_measured_is_a_value(four_rows: pl.DataFrame, publish: Publish) -> None:
    rows = read(publish(four_rows))
    assert rows["race"].to_list() == ["Caucasian", None, "Asian", "Hispanic"]
    assert rows["A1Cresult"].to_list() == ["None", ">8", "Norm", "None"]


def test_codes_are_described_in_the_publishers_words(four_rows: pl.DataFrame, publish: Publish) -> None:
    rows = read(publish(four_rows.with_columns(admission_source_id=pl.lit("7"), discharge_disposition_id=pl.lit("11"))))
    assert rows["admission_source"].to_list() == ["Emergency Room"] * 4
    assert rows["discharge_disposition"].to_list() == ["Expired"] * 4


def test_rows_come_in_the_order_of_encounters(four_rows: pl.DataFrame, publish: Publish) -> None:
    assert read(publish(four_rows.reverse()))["encounter_id"].to_list() == [987001, 987002, 987003, 987004]


@pytest.mark.parametrize("column", ["num_medications", "number_inpatient", "admission_type_id"])
@pytest.mark.parametrize("value", ["many", "3.5", "-1"])
def test_what_is_no_count_is_named_by_line_column_and_value(
    four_rows: pl.DataFrame, publish: Publish, column: str, value: str
) -> None:
    spoilt = four_rows.with_columns(pl.Series(column, ["1", "1", value, "1"]))
    message = refusal(publish(spoilt))
    assert f"line 4, column {column}, value {value!r}" in message
    assert DATA_FILE in message


def test_a_wrong_identifier_is_named_by_line_and_never_shown(four_rows: pl.DataFrame, publish: Publish) -> None:
    message = refusal(publish(four_rows.with_columns(pl.Series("patient_nbr", ["1", "MRN-77", "1", "1"]))))
    assert "line 3, column patient_nbr" in message
    assert "MRN-77" not in message


def test_repeated_encounters_are_named_by_line_and_never_shown(four_rows: pl.DataFrame, publish: Publish) -> None:
    message = refusal(
        publish(four_rows.with_columns(pl.Series("encounter_id", ["987001", "987002", "987002", "987004"])))
    )
    assert "lines 3, 4" in message
    assert "987002" not in message


def test_an_unknown_category_is_named_with_those_that_are_known(four_rows: pl.DataFrame, publish: Publish) -> None:
    message = refusal(publish(four_rows.with_columns(pl.Series("insulin", ["No", "Steady", "Up", "Sideways"]))))
    assert "line 5, column insulin, value 'Sideways'" in message
    assert "No, Steady, Up, Down" in message


def test_an_unknown_code_is_named_with_those_that_are_known(four_rows: pl.DataFrame, publish: Publish) -> None:
    message = refusal(publish(four_rows.with_columns(admission_source_id=pl.lit("99"))))
    assert "column admission_source_id, value 99" in message
    assert f"{CODES_FILE} knows 1, 2, 4, 7" in message


def test_what_is_no_icd9_code_is_refused(four_rows: pl.DataFrame, publish: Publish) -> None:
    message = refusal(publish(four_rows.with_columns(pl.Series("diag_2", ["428", "V57", "E11.9", "250.83"]))))
    assert "line 4, column diag_2, value 'E11.9'" in message


def test_an_empty_cell_is_not_taken_for_missing(four_rows: pl.DataFrame, publish: Publish) -> None:
    spoilt = four_rows.with_columns(pl.Series("max_glu_serum", ["None", None, "Norm", ">200"]))
    assert "line 3, column max_glu_serum: empty" in refusal(publish(spoilt))


@pytest.mark.parametrize("ending", [",surplus", None])
def test_a_line_with_too_many_or_too_few_values_is_named(
    four_rows: pl.DataFrame, publish: Publish, ending: str | None
) -> None:
    folder = publish(four_rows)
    lines = (folder / DATA_FILE).read_text().splitlines()
    lines[3] = lines[3] + ending if ending else lines[3].rsplit(",", 4)[0]
    (folder / DATA_FILE).write_text("\n".join(lines) + "\n")
    assert "line 4" in refusal(folder)


def test_a_renamed_a_missing_and_an_extra_column_are_named(four_rows: pl.DataFrame, publish: Publish) -> None:
    message = refusal(publish(four_rows.rename({"A1Cresult": "a1c"}).drop("insulin").with_columns(room=pl.lit("1"))))
    assert "lacks the columns A1Cresult, insulin" in message or "lacks the columns insulin, A1Cresult" in message
    assert "has the unknown columns a1c, room" in message


def test_an_archive_without_rows_is_refused(four_rows: pl.DataFrame, publish: Publish) -> None:
    assert "no rows" in refusal(publish(four_rows.clear()))


def test_an_absent_archive_is_refused_by_its_path(tmp_path: Path) -> None:
    assert "absent.zip does not exist" in refusal(tmp_path / "absent.zip")


def test_a_truncated_zip_is_refused(tmp_path: Path, simulated_zip: Path) -> None:
    content = simulated_zip.read_bytes()
    cut = tmp_path / "dataset_diabetes.zip"
    cut.write_bytes(content[: len(content) // 2])
    assert "not a zip, or a truncated" in refusal(cut)


def test_a_zip_with_flipped_bytes_is_refused(tmp_path: Path, simulated_zip: Path) -> None:
    content = bytearray(simulated_zip.read_bytes())
    content[100_000:100_020] = bytes(20)
    spoilt = tmp_path / "dataset_diabetes.zip"
    spoilt.write_bytes(bytes(content))
    assert "damaged" in refusal(spoilt)


def test_a_missing_file_is_named(four_rows: pl.DataFrame, publish: Publish) -> None:
    folder = publish(four_rows)
    (folder / CODES_FILE).unlink()
    assert f"lacks {CODES_FILE}" in refusal(folder)


def test_a_code_file_without_its_tables_is_refused(four_rows: pl.DataFrame, publish: Publish) -> None:
    folder = publish(four_rows)
    (folder / CODES_FILE).write_text("admission_type_id,description\n1,Emergency\n")
    assert "lacks the tables discharge_disposition_id, admission_source_id" in refusal(folder)


def test_a_zip_in_uci_s_newer_layout_is_read_alike(four_rows: pl.DataFrame, publish: Publish, tmp_path: Path) -> None:
    folder = publish(four_rows)
    with zipfile.ZipFile(tmp_path / UCI_FILE_NAME, "w") as packed:
        packed.write(folder / DATA_FILE, DATA_FILE)
        packed.write(folder / CODES_FILE, "IDS_mapping.csv")
    assert read(tmp_path / UCI_FILE_NAME).equals(read(folder))


def test_data_with_another_checksum_are_marked_as_modified(four_rows: pl.DataFrame, publish: Publish) -> None:
    assert DIABETES130.open(publish(four_rows)).data_origin == "real:UCI:modified"


def test_data_with_the_published_checksum_are_marked_as_real(
    four_rows: pl.DataFrame, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(four_rows)
    sha256 = hash_bytes((folder / DATA_FILE).read_bytes())
    monkeypatch.setattr(diabetes130, "DATA_SHA256", sha256)
    archive = DIABETES130.open(folder)
    assert (archive.data_origin, archive.sha256) == ("real:UCI", sha256)


def test_an_archive_changed_after_it_was_opened_is_not_read(four_rows: pl.DataFrame, publish: Publish) -> None:
    archive = DIABETES130.open(publish(four_rows))
    publish(four_rows.head(3))
    with pytest.raises(ArchiveError, match="changed since"):
        read_encounters(archive)
    assert len(read(archive.path)) == 3


@pytest.mark.parametrize("folder", ["", "diabetes130"])
@pytest.mark.parametrize("name", ["dataset_diabetes.zip", UCI_FILE_NAME, "dataset_diabetes/"])
def test_the_archive_is_found_where_people_put_it(tmp_path: Path, folder: str, name: str) -> None:
    place = tmp_path / folder / name
    if name.endswith("/"):
        place.mkdir(parents=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    assert DIABETES130.find(tmp_path) == place


def test_loose_files_are_found_too(four_rows: pl.DataFrame, publish: Publish, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.move(publish(four_rows), raw / "diabetes130")
    assert DIABETES130.find(raw) == raw / "diabetes130"


def test_no_archive_is_no_path(tmp_path: Path) -> None:
    assert DIABETES130.find(tmp_path) is None


def test_archives_of_other_names_are_looked_for_in_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "diabetes130").mkdir()
    (tmp_path / "diabetes130" / "dataset_diabetes.zip").touch()
    assert replace(DIABETES130, name="other").find(tmp_path) is None


def test_the_real_archive_is_read_whole(raw_archives: Path) -> None:
    path = DIABETES130.find(raw_archives)
    assert path is not None
    archive = DIABETES130.open(path)
    rows = read_encounters(archive)
    assert archive.data_origin in ("real:UCI", "real:UCI:modified")
    assert len(rows) > 80_000
    assert rows["encounter_id"].is_unique().all()
    assert rows["age"].null_count() == 0
    assert (rows["readmitted"] == "<30").mean() == pytest.approx(0.11, abs=0.01)


def test_in_the_real_archive_encounter_ids_run_in_time_order(raw_archives: Path) -> None:
    """An encounter that is followed by another of the same patient is almost never marked as not readmitted."""
    path = DIABETES130.find(raw_archives)
    assert path is not None
    rows = read(path)
    followed = rows.filter(pl.col("encounter_id") < pl.col("encounter_id").max().over("patient_nbr"))
    assert len(followed) > 20_000
    assert (followed["readmitted"] == "NO").mean() == pytest.approx(0.0, abs=0.02)
