"""The UCI archive "Diabetes 130-US hospitals": where it is, how its files are laid out, and its rows as checked types.

Belongs here: the publisher's own columns, codes and oddities. Does not belong here: eligibility, history or features.
"""

import csv
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import polars as pl

from clinical_assets.archives.archive import (
    SIMULATED_MARKER,
    Archive,
    ArchiveError,
    Download,
    KnownDrift,
    PublishedArchive,
    PublishedFile,
    hash_bytes,
    lines_of,
)

DATA_FILE = "diabetic_data.csv"
CODES_FILE = "IDs_mapping.csv"
DATA_SHA256 = "0689e7ec031237dc63031b938805c48377748761a3b26acab621567afa24df97"
CODES_SHA256 = "f1bb82b471cb34649352597572c9b1fb00bd27f77b9f5a22a03dc3eb1039749e"
UCI_FILE_NAME = "diabetes+130-us+hospitals+for+years+1999-2008.zip"
REMEDY = "restore the publisher's file, or fetch the archive again"

MISSING = "?"
AGE_BANDS = tuple(f"[{low}-{low + 10})" for low in range(0, 100, 10))
WEIGHT_BANDS_KG = (
    "[0-25)",
    "[25-50)",
    "[50-75)",
    "[75-100)",
    "[100-125)",
    "[125-150)",
    "[150-175)",
    "[175-200)",
    ">200",
)
DOSE_CHANGES = ("No", "Steady", "Up", "Down")
DRUGS = (
    *("metformin", "repaglinide", "nateglinide", "chlorpropamide", "glimepiride", "acetohexamide", "glipizide"),
    *("glyburide", "tolbutamide", "pioglitazone", "rosiglitazone", "acarbose", "miglitol", "troglitazone"),
    *("tolazamide", "examide", "citoglipton", "insulin", "glyburide-metformin", "glipizide-metformin"),
    *("glimepiride-pioglitazone", "metformin-rosiglitazone", "metformin-pioglitazone"),
)
IDENTIFIERS = ("encounter_id", "patient_nbr")
CODES = ("admission_type_id", "discharge_disposition_id", "admission_source_id")
COUNTS = (
    *("time_in_hospital", "num_lab_procedures", "num_procedures", "num_medications"),
    *("number_outpatient", "number_emergency", "number_inpatient", "number_diagnoses"),
)
DIAGNOSES = ("diag_1", "diag_2", "diag_3")
OPEN_CATEGORIES = ("payer_code", "medical_specialty")
CLOSED_CATEGORIES: dict[str, tuple[str, ...]] = {
    "race": ("Caucasian", "AfricanAmerican", "Hispanic", "Asian", "Other", MISSING),
    "gender": ("Female", "Male", "Unknown/Invalid"),
    "age": AGE_BANDS,
    "weight": (*WEIGHT_BANDS_KG, MISSING),
    "max_glu_serum": ("None", "Norm", ">200", ">300"),
    "A1Cresult": ("None", "Norm", ">7", ">8"),
    **dict.fromkeys(DRUGS, DOSE_CHANGES),
    "change": ("No", "Ch"),
    "diabetesMed": ("No", "Yes"),
    "readmitted": ("NO", ">30", "<30"),
}
COLUMNS = (
    *IDENTIFIERS,
    *("race", "gender", "age", "weight"),
    *CODES,
    *("time_in_hospital", "payer_code", "medical_specialty"),
    *COUNTS[1:7],
    *DIAGNOSES,
    *("number_diagnoses", "max_glu_serum", "A1Cresult"),
    *DRUGS,
    *("change", "diabetesMed", "readmitted"),
)
ICD9_CODE = r"^(?:V\d{2}|E\d{3}|\d{1,3})(?:\.\d{1,2})?$"


@dataclass(frozen=True, slots=True)
class _Files:
    """The contents of the archive's files, whatever they were packed in."""

    data: bytes
    codes: bytes
    simulated: bool


@dataclass(frozen=True)
class Diabetes130(PublishedArchive):
    """Ten years of inpatient encounters with diabetes at 130 hospitals of the United States (Strack et al. 2014)."""

    def find(self, raw: Path) -> Path | None:
        """The zip, or the folder it unpacks to, in `raw/diabetes130/` or `raw/`, or None."""
        for folder in (raw / self.name, raw):
            for name in ("dataset_diabetes.zip", UCI_FILE_NAME, "dataset_diabetes"):
                if (folder / name).exists():
                    return folder / name
            if (folder / DATA_FILE).is_file():
                return folder
        return None

    def open(self, path: Path) -> Archive:
        """The archive at a zip or folder, with its files, columns and code tables checked; raises ArchiveError.

        `data_origin` is `real:UCI` when diabetic_data.csv has the published checksum, `real:UCI:modified` when it has
        another, and `simulated` when the archive says so itself.
        """
        return _open(self, path.resolve(), _state_of(path))

    def simulate(self, directory: Path, seed: int) -> Path:
        """Write a simulated archive in the publisher's layout into `directory`, and return its path."""
        from clinical_assets.archives.simulated_diabetes import write_simulated_archive

        return write_simulated_archive(directory, seed)

    def known_drift(self) -> tuple[KnownDrift, ...]:
        """The changes that the simulated archive makes."""
        from clinical_assets.archives.simulated_diabetes import SIMULATED_DRIFT

        return SIMULATED_DRIFT


DIABETES130 = Diabetes130(
    name="diabetes130",
    title="Diabetes 130-US hospitals for years 1999-2008",
    publisher="UCI",
    licence="CC BY 4.0",
    citation="Strack et al. 2014, BioMed Research International, doi 10.1155/2014/781670",
    downloads=(
        Download(
            url="https://archive.ics.uci.edu/static/public/296/" + UCI_FILE_NAME,
            file_name="dataset_diabetes.zip",
            contents=(PublishedFile(DATA_FILE, DATA_SHA256), PublishedFile(CODES_FILE, CODES_SHA256)),
        ),
    ),
)


def read_encounters(archive: Archive) -> pl.DataFrame:
    """Every encounter of the archive, in the publisher's columns, ordered by `encounter_id`.

    Counts and identifiers are integers, `?` is null, `None` stays a value ("not measured"), and the three code columns
    are joined by `admission_type`, `discharge_disposition` and `admission_source`, their descriptions.

    Raises ArchiveError, naming file, column, value or line, where a row is not as the publisher lays it out.
    """
    files = _read_files(archive.path)
    if hash_bytes(files.data) != archive.sha256:
        raise ArchiveError(f"{archive.path.name}: {DATA_FILE} changed since the archive was opened; open it again")
    rows = _read_rows(files.data)
    _check_values(rows)
    rows = rows.with_columns(
        pl.col(*IDENTIFIERS, *CODES, *COUNTS).cast(pl.Int64),
        pl.col("race", "weight", *DIAGNOSES, *OPEN_CATEGORIES).replace(MISSING, None),
    )
    _check_unique(rows["encounter_id"])
    return _describe_codes(rows, _read_codes(files.codes)).sort("encounter_id")


@lru_cache(maxsize=8)
def _open(published: Diabetes130, path: Path, state: tuple[tuple[str, int, int], ...]) -> Archive:
    files = _read_files(path)
    _check_header(files.data)
    _read_codes(files.codes)
    sha256 = hash_bytes(files.data)
    return Archive(path, published.origin(sha256, DATA_SHA256, simulated=files.simulated), sha256)


def _state_of(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, times of modification (ns) and sizes (bytes): what changes when a file of the archive does."""
    if not path.exists():
        raise ArchiveError(f"{path} does not exist; fetch the archive, or name the zip or folder with {DATA_FILE}")
    files = sorted(child for child in path.iterdir() if child.is_file()) if path.is_dir() else [path]
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def _read_files(path: Path) -> _Files:
    if path.is_dir():
        members = {child.name.lower(): child for child in path.iterdir() if child.is_file()}
        _check_members(path, members)
        return _Files(
            data=members[DATA_FILE.lower()].read_bytes(),
            codes=members[CODES_FILE.lower()].read_bytes(),
            simulated=SIMULATED_MARKER.lower() in members,
        )
    try:
        with zipfile.ZipFile(path) as packed:
            members = {PurePosixPath(name).name.lower(): name for name in packed.namelist()}
            _check_members(path, members)
            return _Files(
                data=packed.read(members[DATA_FILE.lower()]),
                codes=packed.read(members[CODES_FILE.lower()]),
                simulated=SIMULATED_MARKER.lower() in members,
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ArchiveError(
            f"{path}: not a zip, or a truncated, damaged or encrypted one ({error}); {REMEDY}"
        ) from error


def _check_members(path: Path, members: Iterable[str]) -> None:
    if missing := [name for name in (DATA_FILE, CODES_FILE) if name.lower() not in members]:
        raise ArchiveError(f"{path} lacks {' and '.join(missing)}; {REMEDY}")


def _check_header(data: bytes) -> None:
    header = next(csv.reader([data.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").strip()]), [])
    missing = [column for column in COLUMNS if column not in header]
    unexpected = [column for column in header if column not in COLUMNS]
    repeated = sorted({column for column in header if header.count(column) > 1})
    if not (missing or unexpected or repeated):
        return
    faults = {"lacks the columns": missing, "has the unknown columns": unexpected, "repeats the columns": repeated}
    found = "; ".join(f"{fault} {', '.join(columns[:10])}" for fault, columns in faults.items() if columns)
    raise ArchiveError(f"{DATA_FILE} {found}; expected the {len(COLUMNS)} columns of the UCI layout: {REMEDY}")


def _read_rows(data: bytes) -> pl.DataFrame:
    _check_header(data)
    try:
        rows = pl.read_csv(data, infer_schema=False)
    except pl.exceptions.ComputeError:
        lines = pl.Series(data.split(b"\n")).cast(pl.String, strict=False)
        odd = (lines.str.count_matches(",", literal=True).ne_missing(len(COLUMNS) - 1) & lines.ne_missing("")).slice(1)
        where = lines_of(odd) if odd.any() else "some line"
        # The cause is not chained: its text may hold a row.
        raise ArchiveError(
            f"{DATA_FILE}, {where}: not {len(COLUMNS)} comma-separated values in UTF-8; {REMEDY}"
        ) from None
    if rows.is_empty():
        raise ArchiveError(f"{DATA_FILE} has no rows; {REMEDY}")
    for column in rows.get_columns():
        if column.null_count():
            raise ArchiveError(
                f"{DATA_FILE}, {lines_of(column.is_null())}, column {column.name}: empty; "
                f"the publisher writes {MISSING!r} for missing and 'None' for not measured: {REMEDY}"
            )
    return rows


def _check_values(rows: pl.DataFrame) -> None:
    for name in (*IDENTIFIERS, *CODES, *COUNTS):
        _refuse(rows[name], ~rows[name].str.contains(r"^\d{1,18}$"), "expected a whole number, not below 0")
    for name, known in CLOSED_CATEGORIES.items():
        _refuse(rows[name], ~rows[name].is_in(known), f"known are {', '.join(known)}")
    for name in DIAGNOSES:
        wrong = ~rows[name].str.contains(ICD9_CODE) & (rows[name] != MISSING)
        _refuse(rows[name], wrong, "expected an ICD-9-CM code, such as 428, 250.83, V57 or E909")


def _refuse(values: pl.Series, wrong: pl.Series, expectation: str) -> None:
    """Raise ArchiveError for the first wrong value; the value of an identifier is never shown."""
    if not wrong.any():
        return
    shown = "" if values.name in IDENTIFIERS else f", value {values.filter(wrong)[0][:40]!r}"
    raise ArchiveError(f"{DATA_FILE}, {lines_of(wrong)}, column {values.name}{shown}: {expectation}; {REMEDY}")


def _check_unique(encounter: pl.Series) -> None:
    if (repeated := encounter.is_duplicated()).any():
        raise ArchiveError(f"{DATA_FILE}, {lines_of(repeated)}: one encounter_id on several lines; {REMEDY}")


def _read_codes(content: bytes) -> dict[str, dict[int, str]]:
    """The three code tables that are stacked in one file, by column."""
    tables: dict[str, dict[int, str]] = {}
    table: dict[int, str] = {}
    for line, cells in enumerate(csv.reader(content.decode("utf-8-sig", errors="replace").splitlines()), start=1):
        if len(cells) < 2 or not any(cells):
            continue
        if cells[1].strip() == "description":
            table = tables.setdefault(cells[0].strip(), {})
        elif cells[0].strip().isdigit():
            table[int(cells[0])] = cells[1].strip()
        else:
            raise ArchiveError(f"{CODES_FILE}, line {line}: {cells[0][:40]!r} is no code; {REMEDY}")
    if missing := [name for name in CODES if not tables.get(name)]:
        raise ArchiveError(f"{CODES_FILE} lacks the tables {', '.join(missing)}; {REMEDY}")
    return tables


def _describe_codes(rows: pl.DataFrame, tables: dict[str, dict[int, str]]) -> pl.DataFrame:
    for name in CODES:
        known = tables[name]
        if (unknown := ~rows[name].is_in(list(known))).any():
            raise ArchiveError(
                f"{DATA_FILE}, {lines_of(unknown)}, column {name}, value {rows[name].filter(unknown)[0]}: "
                f"{CODES_FILE} knows {', '.join(map(str, known))}; {REMEDY}"
            )
        description = pl.col(name).replace_strict(known, return_dtype=pl.String).alias(name.removesuffix("_id"))
        rows = rows.with_columns(description)
    return rows
