"""A simulated Challenge 2019 archive, with known sepsis and known drift, for machines without the real one.

Belongs here: how the hours are drawn, and what is true of them. Does not belong here: reading them (physionet2019.py).
Levels and how often each value is measured are those of the public data set, rounded; what sepsis does to them is
plausible, not estimated. A figure reached on these rows says that the machinery works, and nothing about patients.
"""

import tempfile
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from clinical_assets.archives.archive import SIMULATED_MARKER, KnownDrift
from clinical_assets.archives.physionet2019 import COLUMNS, HEADER, SITE_B_JOINS, admission_times
from clinical_assets.protocol import Verdict

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

PATIENTS = {"A": 4_000, "B": 2_000}
FIRST_PATIENT = {"A": 1, "B": 100_001}
FOLDERS = {"A": "training", "B": "training_setB"}
UNIT_CHANGE = date(2025, 8, 1)
GUIDELINE_CHANGE = date(2025, 10, 1)

SIMULATED_DRIFT = (
    KnownDrift(
        month=SITE_B_JOINS,
        verdict=Verdict.POPULATION_SHIFT,
        what="hospital B joins: it measures end-tidal CO2 and hardly any blood gases or bicarbonate, its patients are "
        "septic less often, a fifth of its calcium is ionised calcium in mmol/L, and some FiO2 and temperatures are "
        "impossible; what sepsis does to a patient does not change",
    ),
    KnownDrift(
        month=UNIT_CHANGE,
        verdict=Verdict.DATA_FAULT,
        what="hospital A's laboratory reports urea nitrogen in mmol/L, 0.357 of the figure in mg/dL, within the "
        "plausible range",
    ),
    KnownDrift(
        month=GUIDELINE_CHANGE,
        verdict=Verdict.CONCEPT_SHIFT,
        what="by a new guideline lactate is measured four times a day in everybody, and no longer where infection is "
        "suspected: that it was measured tells nothing of the risk any more",
    ),
)
"""Apart from these changes, what is drawn is stationary by month of admission."""

MMOL_L_OF_MG_DL_UREA_NITROGEN = 0.357
SEPTIC_LOG_ODDS = {"A": -2.0, "B": -2.5}
FRAILTY_LOG_ODDS = 0.6  # each standard deviation
DECADE_LOG_ODDS = 0.1  # each decade of age above 62 years
ILL_FROM_H, ILL_UNTIL_H = -12, 6  # around the onset, over which the illness grows from 0 to 1
MIMICS = 0.12  # of those without sepsis, who are ill for another reason
MIMIC_ILLNESS = 0.7
SHORTEST_STAY_H, LONGEST_STAY_H = 8, 72
IONISED_CALCIUM = 0.2  # of hospital B's calcium
IONISED_MMOL_L_OF_CALCIUM = 0.14  # of total calcium in mg/dL


@dataclass(frozen=True, slots=True)
class _Signal:
    """How a column is drawn: its usual level, and what frailty, the patient, the hour and illness add to it.

    With `is_log` all but `level` are of the logarithm. `measured` is the share of hours in which hospital A and B
    measure it, `suspicion` by how much the odds of that grow with each unit of illness (logarithm), and `routine` that
    share in either from the change of the guideline on, whatever is suspected.
    """

    column: str
    level: float
    patient_sd: float
    hour_sd: float
    illness: float
    measured: tuple[float, float]
    suspicion: float = 0.0
    decimals: int = 1
    limits: tuple[float, float] = (0.0, 1e6)
    is_log: bool = False
    routine: float | None = None


def _vital(column: str, level: float, sd: float, illness: float, measured: tuple[float, float], high: float) -> _Signal:
    return _Signal(column, level, sd, 0.6 * sd, illness, measured, limits=(20.0 if high > 60 else 1.0, high))


def _laboratory(
    column: str, level: float, sd: float, illness: float, measured: tuple[float, float], decimals: int = 1
) -> _Signal:
    return _Signal(column, level, sd, 0.25 * sd, illness, measured, 0.7, decimals, (0.1, 1e5), is_log=True)


SIGNALS = (
    _vital("HR", 83, 13, 14, (0.92, 0.88), 200),
    _vital("O2Sat", 97.3, 1.6, -1.5, (0.88, 0.86), 100),
    _Signal("Temp", 36.9, 0.4, 0.3, 0.7, (0.34, 0.34), 0.3, 2, (32.0, 42.0)),
    _vital("SBP", 121, 17, -12, (0.85, 0.86), 260),
    _vital("MAP", 80, 11, -9, (0.90, 0.85), 200),
    _vital("DBP", 61, 9, -7, (0.52, 0.86), 160),
    _vital("Resp", 18.5, 3.4, 4, (0.90, 0.79), 60),
    _Signal("EtCO2", 33, 5, 3, -3, (0.0, 0.08), 0.0, 1, (10.0, 100.0)),
    _Signal("BaseExcess", -0.5, 3, 1.5, -2, (0.104, 0.002), 0.7, 1, (-30.0, 30.0)),
    _laboratory("HCO3", 24, 0.15, -0.08, (0.080, 0.002)),
    _Signal("FiO2", 0.48, 0.12, 0.03, 0.08, (0.143, 0.023), 0.6, 2, (0.21, 1.0)),
    _Signal("pH", 7.39, 0.05, 0.03, -0.03, (0.115, 0.022), 0.7, 2, (6.8, 7.8)),
    _laboratory("PaCO2", 40, 0.18, -0.05, (0.088, 0.022)),
    _Signal("SaO2", 96.5, 2, 1, -1.5, (0.050, 0.019), 0.6, 1, (50.0, 100.0)),
    _laboratory("AST", 50, 1.0, 0.4, (0.015, 0.018), 0),
    _laboratory("BUN", 18, 0.6, 0.2, (0.082, 0.055), 0),
    _laboratory("Alkalinephos", 76, 0.5, 0.15, (0.015, 0.018), 0),
    _laboratory("Calcium", 8.3, 0.08, -0.04, (0.050, 0.069)),
    _laboratory("Chloride", 106, 0.05, 0.01, (0.083, 0.006), 0),
    _laboratory("Creatinine", 1.0, 0.6, 0.25, (0.066, 0.055), 2),
    _laboratory("Bilirubin_direct", 0.8, 1.0, 0.4, (0.0015, 0.0023)),
    _laboratory("Glucose", 128, 0.25, 0.1, (0.122, 0.222), 0),
    _Signal("Lactate", 1.8, 0.45, 0.2, 0.5, (0.034, 0.019), 2.2, 1, (0.2, 33.0), is_log=True, routine=4 / 24),
    _laboratory("Magnesium", 2.0, 0.15, 0.02, (0.078, 0.048)),
    _laboratory("Phosphate", 3.4, 0.3, 0.1, (0.050, 0.029)),
    _laboratory("Potassium", 4.1, 0.12, 0.03, (0.109, 0.077)),
    _laboratory("Bilirubin_total", 0.9, 0.9, 0.4, (0.012, 0.018)),
    _laboratory("TroponinI", 0.8, 1.5, 0.2, (0.0012, 0.018), 2),
    _laboratory("Hct", 30.3, 0.16, -0.04, (0.118, 0.058)),
    _laboratory("Hgb", 10.3, 0.17, -0.04, (0.088, 0.059)),
    _laboratory("PTT", 33, 0.3, 0.1, (0.048, 0.010)),
    _laboratory("WBC", 10.5, 0.4, 0.35, (0.075, 0.053)),
    _laboratory("Fibrinogen", 250, 0.5, 0.2, (0.0075, 0.0056), 0),
    _laboratory("Platelets", 181, 0.45, -0.2, (0.065, 0.054), 0),
)


def write_simulated_archive(directory: Path, seed: int) -> Path:
    """Write a simulated archive of 3,000 patients as the publisher's two zips into `directory`; returns that folder.

    Equal seeds give equal files, and each zip appears when it is whole. Both hold a file that says that they are
    simulated.
    """
    directory.mkdir(parents=True, exist_ok=True)
    hours = draw_hours(seed)
    note = f"Simulated hours of intensive care, seed {seed}. No patient is behind any row.\n"
    with tempfile.TemporaryDirectory(dir=directory, prefix=".draft.") as draft:
        for site in PATIENTS:
            name = f"training_set{site}.zip"
            with zipfile.ZipFile(Path(draft) / name, "w") as packed:
                _write_entry(packed, SIMULATED_MARKER, note.encode())
                for patient, content in _patient_files(hours.filter(pl.col("site") == site)).items():
                    _write_entry(packed, f"{FOLDERS[site]}/{patient}.psv", content)
            (Path(draft) / name).replace(directory / name)
    return directory


def draw_hours(seed: int) -> pl.DataFrame:
    """Some 100,000 simulated hours of 3,000 patients in the publisher's 41 columns, with `site`, `patient`, `month`.

    `month` is that of the admission on the replay calendar, by which the drift is placed. Null is not measured.
    """
    rng = np.random.default_rng(seed)
    stays = _draw_stays(rng)
    stay = np.repeat(np.arange(len(stays)), stays["length"].to_numpy())
    first_row = np.cumsum(stays["length"].to_numpy()) - stays["length"].to_numpy()
    hour = np.arange(len(stay)) - first_row[stay]
    onset = stays["onset"].to_numpy()[stay]
    septic = stays["septic"].to_numpy()[stay]
    illness = np.clip((hour - onset - ILL_FROM_H) / (ILL_UNTIL_H - ILL_FROM_H), 0.0, 1.0)
    illness *= np.where(septic, 1.0, np.where(stays["mimic"].to_numpy()[stay], MIMIC_ILLNESS, 0.0))
    # The label turns on six hours before the onset.
    label = (septic & (hour >= onset - 6)).astype(np.int64)
    hours = stays[stay].with_columns(
        pl.Series("ICULOS", hour + 1),
        pl.Series("SepsisLabel", label),
        *(_draw_signal(rng, signal, stays, stay, illness) for signal in SIGNALS),
    )
    return _spoil(rng, _change_unit(hours)).select("site", "patient", "month", *COLUMNS)


def _draw_stays(rng: np.random.Generator) -> pl.DataFrame:
    sites = np.repeat(list(PATIENTS), list(PATIENTS.values()))
    in_b = sites == "B"
    n = len(sites)
    numbers = [FIRST_PATIENT[site] + index for site, count in PATIENTS.items() for index in range(count)]
    patients = pl.Series("patient", [f"p{number:06d}" for number in numbers])
    frailty = rng.normal(size=n)
    age = np.clip(rng.normal(62, 16, n), 18, np.where(in_b, 100, 89)).round(2)
    log_odds = np.where(in_b, SEPTIC_LOG_ODDS["B"], SEPTIC_LOG_ODDS["A"])
    log_odds = log_odds + FRAILTY_LOG_ODDS * frailty + DECADE_LOG_ODDS * (age - 62) / 10
    septic = rng.uniform(size=n) < 1 / (1 + np.exp(-log_odds))
    length = np.clip(rng.gamma(3.0, 9.0, n) + 10, SHORTEST_STAY_H, LONGEST_STAY_H).astype(np.int64)
    length = np.where(septic, np.maximum(length, SHORTEST_STAY_H + 8), length)
    unit = rng.choice([0.0, 1.0, np.nan], size=n, p=[0.3, 0.3, 0.4])
    return pl.DataFrame(
        {
            "site": sites,
            "patient": patients,
            "month": admission_times(patients, pl.Series(sites)).dt.date().dt.month_start(),
            "frailty": frailty,
            "septic": septic,
            "mimic": rng.uniform(size=n) < MIMICS,
            # The label turns on six hours earlier, and so at the latest in the last hour but one.
            "onset": rng.integers(4, length + 5),
            "length": length,
            "Age": age,
            "Gender": (rng.uniform(size=n) < 0.56).astype(np.int64),
            "Unit1": unit,
            "Unit2": 1 - unit,
            "HospAdmTime": -np.exp(rng.normal(1.5, 2.0, n)).clip(max=5_000).round(2),
        }
    ).with_columns(pl.col("Unit1", "Unit2").fill_nan(None))


def _draw_signal(
    rng: np.random.Generator, signal: _Signal, stays: pl.DataFrame, stay: Ints, illness: Floats
) -> pl.Series:
    """One column: its values in the hours in which it is measured, null in the others."""
    frailty = np.sign(signal.illness) * 0.3 * stays["frailty"].to_numpy()
    patient = signal.patient_sd * (rng.normal(size=len(stays)) + frailty)
    deviation = patient[stay] + signal.hour_sd * rng.normal(size=len(stay)) + signal.illness * illness
    value = signal.level * np.exp(deviation) if signal.is_log else signal.level + deviation
    share = np.where(stays["site"].to_numpy() == "B", signal.measured[1], signal.measured[0])[stay]
    odds = share / (1 - share) * np.exp(signal.suspicion * illness)
    chance = odds / (1 + odds)
    if signal.routine is not None:
        chance = np.where((stays["month"] >= GUIDELINE_CHANGE).to_numpy()[stay], signal.routine, chance)
    value = np.where(rng.uniform(size=len(stay)) < chance, value, np.nan)
    return pl.Series(signal.column, value.clip(*signal.limits).round(signal.decimals)).fill_nan(None)


def _change_unit(hours: pl.DataFrame) -> pl.DataFrame:
    changed = (pl.col("site") == "A") & (pl.col("month") >= UNIT_CHANGE)
    mmol_l = (pl.col("BUN") * MMOL_L_OF_MG_DL_UREA_NITROGEN).round(1)
    return hours.with_columns(pl.when(changed).then(mmol_l).otherwise("BUN").alias("BUN"))


def _spoil(rng: np.random.Generator, hours: pl.DataFrame) -> pl.DataFrame:
    """Put in what is wrong with hospital B's real data: impossible FiO2 and temperatures, calcium of another kind."""
    in_b = pl.col("site") == "B"
    draw = pl.Series(rng.uniform(size=len(hours)))
    return hours.with_columns(
        pl.when(in_b & (draw < 0.004) & pl.col("FiO2").is_not_null())
        .then(pl.when(draw < 0.002).then(-50.0).otherwise(4000.0))
        .otherwise("FiO2")
        .alias("FiO2"),
        pl.when(in_b & (draw > 0.9995) & pl.col("Temp").is_not_null()).then(50.0).otherwise("Temp").alias("Temp"),
        pl.when(in_b & draw.is_between(0.3, 0.3 + IONISED_CALCIUM))
        .then((pl.col("Calcium") * IONISED_MMOL_L_OF_CALCIUM).round(2))
        .otherwise("Calcium")
        .alias("Calcium"),
    )


def _patient_files(hours: pl.DataFrame) -> dict[str, bytes]:
    """The content of each patient's file, by patient; the hours are ordered by patient."""
    lengths = hours.group_by("patient", maintain_order=True).len()
    lines = hours.select(COLUMNS).write_csv(separator="|", null_value="NaN", include_header=False).encode().split(b"\n")
    files: dict[str, bytes] = {}
    start = 0
    for patient, length in lengths.iter_rows():
        files[patient] = b"\n".join([HEADER, *lines[start : start + length], b""])
        start += length
    return files


def _write_entry(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    # A fixed date, so that the zip depends on the seed alone.
    entry = zipfile.ZipInfo(name, date_time=(2019, 8, 5, 0, 0, 0))
    packed.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=4)
