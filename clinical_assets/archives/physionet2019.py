"""The PhysioNet/CinC Challenge 2019 archive: where it is, how its files are laid out, and its hours as checked numbers.

Belongs here: the publisher's own columns, files and faults, and the replay of its two hospitals. Does not belong here:
what the columns mean clinically, plausible ranges, features.
"""

import hashlib
import logging
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl

from clinical_assets.archives.archive import (
    SIMULATED_MARKER,
    Archive,
    ArchiveError,
    Download,
    KnownDrift,
    PublishedArchive,
    hash_bytes,
    lines_of,
)
from clinical_assets.archives.calendar import FIRST_MONTH, LAST_MONTH
from clinical_assets.protocol import month_after

VITAL_SIGNS = ("HR", "O2Sat", "Temp", "SBP", "MAP", "DBP", "Resp", "EtCO2")
LABORATORY = (
    *("BaseExcess", "HCO3", "FiO2", "pH", "PaCO2", "SaO2", "AST", "BUN", "Alkalinephos", "Calcium", "Chloride"),
    *("Creatinine", "Bilirubin_direct", "Glucose", "Lactate", "Magnesium", "Phosphate", "Potassium"),
    *("Bilirubin_total", "TroponinI", "Hct", "Hgb", "PTT", "WBC", "Fibrinogen", "Platelets"),
)
DEMOGRAPHICS = ("Age", "Gender", "Unit1", "Unit2", "HospAdmTime", "ICULOS")
COLUMNS = (*VITAL_SIGNS, *LABORATORY, *DEMOGRAPHICS, "SepsisLabel")
HEADER = "|".join(COLUMNS).encode()

SITES = {"training": "A", "training_setA": "A", "training_setB": "B"}
"""The hospital that the publisher's folders and zips hold."""

SET_ZIPS = ("training_setA.zip", "training_setB.zip")
CHECKSUMS_FILE = "SHA256SUMS.txt"
CHECKSUM_LINE = re.compile(r"^([0-9a-fA-F]{64}) [ *](\S+\.psv)\r?$", re.MULTILINE)
SITE_B_JOINS = date(2025, 5, 1)
QUARANTINED_AT_MOST = 0.01
REMEDY = "restore the publisher's file, or fetch the archive again"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IcuRecords:
    """What an archive holds, and which of its files could not be used.

    `hours` has one row an hour of a patient, ordered by `site`, `patient` (text) and ICULOS, and the publisher's 41
    columns as Float32, null where the publisher writes NaN. `quarantined` has `site`, `file` and `reason`.
    """

    hours: pl.DataFrame
    quarantined: pl.DataFrame


@dataclass(frozen=True, slots=True)
class _PatientFile:
    """One patient's file as it lies in the archive; `content` is empty where the zip holds it `damaged`."""

    site: str
    patient: str
    name: str
    content: bytes
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class _Broken:
    file: _PatientFile
    reason: str


@dataclass(frozen=True)
class PhysioNet2019(PublishedArchive):
    """Hourly records of ICU patients of two hospitals, labelled for sepsis by Sepsis-3 (Reyna et al. 2020)."""

    def find(self, raw: Path) -> Path | None:
        """The folder with both hospitals, `raw/physionet2019/` or `raw/`; else a zip of all in the first; else None.

        A folder with one hospital alone is not taken, since it is what an interrupted download leaves; name it
        explicitly where it is meant.
        """
        for folder in (raw / self.name, raw):
            present = {site for name, site in SITES.items() if (folder / name).is_dir()}
            present |= {SITES[Path(name).stem] for name in SET_ZIPS if (folder / name).is_file()}
            nested = folder / "training"
            present |= {SITES[name] for name in SITES if (nested / name).is_dir()}
            if present == set(SITES.values()):
                return folder
        others = [path for path in (raw / self.name).glob("*.zip") if path.name not in SET_ZIPS]
        return others[0] if len(others) == 1 else None

    def open(self, path: Path) -> Archive:
        """The archive at a folder (of the zips, of the extracted folders, or of one hospital) or at one zip.

        `sha256` is over the sorted list of hospital, file name and sha256 of each file, however they are packed.
        `data_origin` is `real:PhysioNet` when the publisher's SHA256SUMS.txt lies beside the files and lists exactly
        these; `real:PhysioNet:modified` when it does not, or is not there to tell; `simulated` when the archive says
        so itself. Raises ArchiveError where there are no patient files, one is there twice, or the hospital of one
        cannot be told.
        """
        return _open(self, path.resolve(), _state_of(path))

    def simulate(self, directory: Path, seed: int) -> Path:
        """Write a simulated archive in the publisher's layout into `directory/physionet2019`, and return that path."""
        from clinical_assets.archives.simulated_icu import write_simulated_archive

        return write_simulated_archive(directory / self.name, seed)

    def known_drift(self) -> tuple[KnownDrift, ...]:
        """The changes that the simulated archive makes."""
        from clinical_assets.archives.simulated_icu import SIMULATED_DRIFT

        return SIMULATED_DRIFT


_DOWNLOADS = "https://archive.physionet.org/users/shared/challenge-2019/"
PHYSIONET2019 = PhysioNet2019(
    name="physionet2019",
    title="PhysioNet/CinC Challenge 2019: early prediction of sepsis",
    publisher="PhysioNet",
    licence="CC BY 4.0",
    citation="Reyna et al. 2020, Critical Care Medicine 48(2):210-217, doi 10.1097/CCM.0000000000004145",
    downloads=(
        Download("https://physionet.org/files/challenge-2019/1.0.0/" + CHECKSUMS_FILE, CHECKSUMS_FILE, ()),
        *(Download(_DOWNLOADS + name, name, ()) for name in SET_ZIPS),
    ),
)


def read_records(archive: Archive, admitted: tuple[date, date] | None = None) -> IcuRecords:
    """Every hour of every readable patient file, and the files that are quarantined, each with the reason.

    With `admitted` only the files are read whose patients are admitted from one day (inclusive) to another (exclusive),
    by `admission_times`. A file is quarantined when its header or a number of columns is wrong, it has no hours, a cell
    is empty or no finite number, the label is not 0 or 1, or its hours are not whole and ascending. Each is named in a
    warning of the log. Raises ArchiveError when of the files read more than one and more than 1 % are broken, and when
    the archive changed since it was opened.
    """
    if PHYSIONET2019.open(archive.path).sha256 != archive.sha256:
        raise ArchiveError(f"{archive.path.name}: files changed since the archive was opened; open it again")
    files = _read_files(archive.path, admitted)
    whole, broken = _check_files(files)
    hours, unreadable = _parse_files(whole)
    hours, faulty = _check_hours(hours, whole)
    broken = sorted([*broken, *unreadable, *faulty], key=lambda one: one.file.name)
    if broken:
        shown = "; ".join(f"{one.file.name}: {one.reason}" for one in broken[:3]) + ("; ..." if len(broken) > 3 else "")
        found = f"{archive.path.name}: {len(broken):,} of {len(files):,} patient files are broken ({shown})"
        if len(broken) > max(1, QUARANTINED_AT_MOST * len(files)):
            raise ArchiveError(
                f"{found}; with more than {QUARANTINED_AT_MOST:.0%} the rest is not trusted either: {REMEDY}"
            )
        _LOG.warning("%s and quarantined", found)
    quarantined = pl.DataFrame(
        [(one.file.site, one.file.name, one.reason) for one in broken],
        schema={"site": pl.String, "file": pl.String, "reason": pl.String},
        orient="row",
    )
    patients = pl.DataFrame(
        {"file": range(len(whole)), "site": [one.site for one in whole], "patient": [one.patient for one in whole]},
        schema={"file": pl.UInt32, "site": pl.String, "patient": pl.String},
    )
    hours = hours.join(patients, on="file", how="left", maintain_order="left")
    return IcuRecords(hours.select("site", "patient", *COLUMNS), quarantined)


def admission_times(patients: pl.Series, sites: pl.Series) -> pl.Series:
    """When patients are admitted to the ICU on the replay calendar: whole hours, microseconds, UTC.

    Hospital A's admissions fill the 24 months, hospital B's the eight from May 2025. A time depends on the patient's
    name alone (BLAKE2b), so that no other file, broken, added or removed, moves it. The archive has no dates: neither
    the days nor the order of patients is real.

    Args:
        patients: names of the patients' files, without their endings, no nulls.
        sites: A or B, as many.
    """
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in patients)
    share = (np.frombuffer(digests, dtype="<u8") >> 11) / 2.0**53
    start = np.where(sites.to_numpy() == "B", _hours_to(SITE_B_JOINS), _hours_to(FIRST_MONTH))
    end = _hours_to(month_after(LAST_MONTH))
    hours = start + np.floor(share * (end - start)).astype(np.int64)
    times = pl.Series("admitted_at", hours * 3_600_000_000, dtype=pl.Int64)
    return times.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _hours_to(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) // 3600


@lru_cache(maxsize=8)
def _open(published: PhysioNet2019, path: Path, state: tuple[tuple[str, int, int], ...]) -> Archive:
    files = _read_files(path)
    sha256 = _fingerprint(files)
    simulated, checksums = _read_notes(path)
    listed = _list_fingerprint(checksums) if checksums is not None else ""
    return Archive(path, published.origin(sha256, listed, simulated=simulated), sha256)


def _state_of(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, times of modification (ns) and sizes (bytes): what changes when a file of the archive does."""
    if not path.exists():
        raise ArchiveError(
            f"{path} does not exist; fetch the archive, or name the folder with {' and '.join(SET_ZIPS)}"
        )
    zips, loose = _sources(path.resolve())
    stats = [(str(file), file.stat()) for file in (*zips, *loose, *_loose_notes(path))]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _sources(path: Path) -> tuple[list[Path], list[Path]]:
    """The zips and the extracted patient files of an archive."""
    if not path.is_dir():
        return [path], []
    places = ["", *SITES, *(f"training/{name}" for name in SITES if name != "training")]
    loose = [file for place in places for file in sorted((path / place).glob("*.psv"))]
    zips = [path / name for name in SET_ZIPS if (path / name).is_file()]
    if not zips and not loose:
        raise ArchiveError(
            f"{path} has neither {' nor '.join(SET_ZIPS)} nor folders {', '.join(SITES)} of .psv files; {REMEDY}"
        )
    return zips, loose


def _read_files(path: Path, admitted: tuple[date, date] | None = None) -> list[_PatientFile]:
    """The patient files of an archive, ordered by hospital and patient; ArchiveError if one is there twice."""
    zips, loose = _sources(path)
    places = {file: PurePosixPath(path.name, file.relative_to(path).as_posix()) for file in loose}
    wanted = _admitted(places.values(), admitted)
    files = [
        _PatientFile(_site_of(place), file.stem, file.relative_to(path).as_posix(), file.read_bytes())
        for file, place in places.items()
        if place in wanted
    ]
    for packed in zips:
        files += _read_zip(packed, admitted)
    if not files and admitted is None:
        raise ArchiveError(f"{path} has no .psv files; {REMEDY}")
    times = Counter(file.patient for file in files)
    if repeated := sum(count > 1 for count in times.values()):
        raise ArchiveError(
            f"{path}: {repeated:,} patient files are there more than once, in {_places(zips, loose)}; "
            "keep a hospital's zip or its extracted folder, not both"
        )
    return sorted(files, key=lambda file: (file.site, file.patient))


def _admitted(places: Iterable[PurePosixPath], days: tuple[date, date] | None) -> set[PurePosixPath]:
    """Those of the files whose patients are admitted on these days; all of them where none are given."""
    known = tuple(places)
    if days is None or not known:
        return set(known)
    admission, (first, end) = _admission_dates(known), days
    return {known[row] for row in ((admission >= first) & (admission < end)).arg_true()}


# Every month of a replay asks it of the same files.
@lru_cache(maxsize=4)
def _admission_dates(places: tuple[PurePosixPath, ...]) -> pl.Series:
    sites = pl.Series([_site_of(place) for place in places])
    return admission_times(pl.Series([place.stem for place in places]), sites).dt.date()


def _read_zip(path: Path, admitted: tuple[date, date] | None) -> list[_PatientFile]:
    try:
        with zipfile.ZipFile(path) as packed:
            places = {name: PurePosixPath(path.stem, name) for name in _patient_members(packed)}
            wanted = _admitted(places.values(), admitted)
            return [_read_member(packed, name, place) for name, place in places.items() if place in wanted]
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise ArchiveError(f"{path}: not a zip, or a truncated or encrypted one ({error}); {REMEDY}") from error


def _patient_members(packed: zipfile.ZipFile) -> list[str]:
    # macOS adds a file "._x" for every file x that it packs.
    return [
        name for name in packed.namelist() if name.endswith(".psv") and not PurePosixPath(name).name.startswith(".")
    ]


def _read_member(packed: zipfile.ZipFile, name: str, place: PurePosixPath) -> _PatientFile:
    try:
        return _PatientFile(_site_of(place), place.stem, name, packed.read(name))
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return _PatientFile(_site_of(place), place.stem, name, b"", damaged=True)


def _site_of(path: PurePosixPath) -> str:
    """The hospital, from the innermost folder (or zip) that has one of the publisher's names."""
    for part in reversed(path.parts[:-1]):
        if part in SITES:
            return SITES[part]
    raise ArchiveError(
        f"{path.parent}: cannot tell which hospital its patients are from; "
        f"keep the publisher's names of folders, {', '.join(SITES)}"
    )


def _places(zips: Sequence[Path], loose: Sequence[Path]) -> str:
    return ", ".join([path.name for path in zips] + sorted({f"{path.parent.name}/" for path in loose}))


def _read_notes(path: Path) -> tuple[bool, str | None]:
    """Whether the archive says that it is simulated, and the text of the publisher's checksums, if it is there."""
    notes = {note.name: note.read_bytes() for note in _loose_notes(path)}
    for packed_path in _sources(path)[0]:
        with zipfile.ZipFile(packed_path) as packed:
            names = {PurePosixPath(name).name: name for name in packed.namelist()}
            notes |= {name: packed.read(names[name]) for name in (CHECKSUMS_FILE, SIMULATED_MARKER) if name in names}
    checksums = notes.get(CHECKSUMS_FILE)
    return SIMULATED_MARKER in notes, checksums.decode(errors="replace") if checksums is not None else None


def _loose_notes(path: Path) -> list[Path]:
    notes = [path / name for name in (CHECKSUMS_FILE, SIMULATED_MARKER) if (path / name).is_file()]
    # The zips have the marker beside the hospital's folder, and so has what is extracted from them.
    beside = path.parent / SIMULATED_MARKER
    return [*notes, beside] if path.name in SITES and beside.is_file() else notes


def _fingerprint(files: Sequence[_PatientFile]) -> str:
    """The sha256 of an archive's data, however they are packed; a damaged file counts as an empty one."""
    entries = ((file.site, file.patient, hash_bytes(file.content)) for file in files)
    return _fingerprint_entries(entries)


def _list_fingerprint(checksums: str) -> str:
    """The fingerprint of the patient files that the publisher's list names, in lines of sha256 and path."""
    listed = ((sha256.lower(), PurePosixPath(name)) for sha256, name in CHECKSUM_LINE.findall(checksums))
    return _fingerprint_entries((_site_of(path), path.stem, sha256) for sha256, path in listed)


def _fingerprint_entries(entries: Iterable[tuple[str, str, str]]) -> str:
    return hash_bytes("".join(f"{site}/{patient}.psv {sha256}\n" for site, patient, sha256 in sorted(entries)).encode())


def _check_files(files: Sequence[_PatientFile]) -> tuple[list[_PatientFile], list[_Broken]]:
    """The files that have the publisher's header and hours below it, without the header; and the others."""
    whole: list[_PatientFile] = []
    broken: list[_Broken] = []
    for file in files:
        content = file.content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
        header, _, body = content.partition(b"\n")
        if file.damaged:
            broken.append(_Broken(file, "damaged in the zip"))
        elif header != HEADER:
            broken.append(_Broken(file, _describe_header(header)))
        elif not body.strip():
            broken.append(_Broken(file, "no hours below the header"))
        else:
            whole.append(replace(file, content=body if body.endswith(b"\n") else body + b"\n"))
    return whole, broken


def _describe_header(header: bytes) -> str:
    if not header.strip():
        return "empty"
    found = header.decode(errors="replace").split("|")
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        return f"line 1: {len(found)} columns, without {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
    return f"line 1: {len(found)} columns, not the publisher's {len(COLUMNS)} in their order"


def _parse_files(files: Sequence[_PatientFile], first: int = 0) -> tuple[pl.DataFrame, list[_Broken]]:
    """The hours of all files that are tables of numbers, with `file` (numbered from `first`), and the other files.

    All are read at once; where that fails, each half is, until the broken files stand alone.
    """
    lines = np.fromiter((file.content.count(b"\n") for file in files), np.int64)
    try:
        hours = pl.read_csv(
            HEADER + b"\n" + b"".join(file.content for file in files),
            separator="|",
            schema=dict.fromkeys(COLUMNS, pl.Float32),
            quote_char=None,
        )
    except pl.exceptions.ComputeError:
        hours = None
    if hours is not None and len(hours) == lines.sum():
        number = np.repeat(np.arange(first, first + len(files), dtype=np.uint32), lines)
        return hours.with_columns(file=pl.Series(number)), []
    if len(files) == 1:
        return _no_hours(), [_Broken(files[0], _describe_fault(files[0].content))]
    middle = len(files) // 2
    (left, broken_left), (right, broken_right) = (
        _parse_files(files[:middle], first),
        _parse_files(files[middle:], first + middle),
    )
    return pl.concat([left, right]), broken_left + broken_right


def _no_hours() -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.Float32) | {"file": pl.UInt32})


def _describe_fault(body: bytes) -> str:
    """What is wrong with the lines of one file that is no table of numbers."""
    cells = pl.Series(body.decode(errors="replace").splitlines()).str.split("|")
    uneven = cells.list.len() != len(COLUMNS)
    if uneven.any():
        return f"{lines_of(uneven)}: not {len(COLUMNS)} values"
    wide = cells.list.to_struct(fields=list(COLUMNS)).struct.unnest()
    for column in wide.get_columns():
        wrong = column.cast(pl.Float32, strict=False).is_null()
        if wrong.any():
            return f"{lines_of(wrong)}, column {column.name}: not a number"
    return "not lines of numbers"


def _check_hours(hours: pl.DataFrame, files: Sequence[_PatientFile]) -> tuple[pl.DataFrame, list[_Broken]]:
    """The hours of the files without fault, NaN as null, and the files with one."""
    label, hour, sex = pl.col("SepsisLabel"), pl.col("ICULOS"), pl.col("Gender")
    faults = (
        *((pl.col(name).is_null(), f"column {name}: empty, or the line is too short") for name in COLUMNS),
        *((pl.col(name).is_infinite(), f"column {name}: not finite") for name in COLUMNS),
        (~label.is_in([0.0, 1.0]), "column SepsisLabel: neither 0 nor 1"),
        (~(sex.is_in([0.0, 1.0]) | sex.is_nan()), "column Gender: neither 0 nor 1"),
        # Polars takes NaN for larger than any number.
        (~(hour.is_between(1, 1e6) & (hour == hour.floor())), "column ICULOS: no whole hour from 1"),
        ((hour <= hour.shift()) & (pl.col("file") == pl.col("file").shift()), "column ICULOS: hours do not ascend"),
    )
    present = hours.select(fault.any().alias(str(number)) for number, (fault, _) in enumerate(faults)).row(0)
    broken: dict[int, _Broken] = {}
    for (fault, reason), is_present in zip(faults, present, strict=True):
        if is_present:
            lines = hours.select("file", where=fault, line=pl.int_range(2, pl.len() + 2).over("file")).filter("where")
            for number, line in lines.select("file", "line").unique("file", keep="first").iter_rows():
                broken.setdefault(number, _Broken(files[number], f"line {line}, {reason}"))
    if broken:
        hours = hours.filter(~pl.col("file").is_in(list(broken)))
    return hours.with_columns(pl.col(COLUMNS).fill_nan(None)), list(broken.values())
