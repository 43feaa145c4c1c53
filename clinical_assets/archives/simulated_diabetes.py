"""A simulated diabetes130 archive, with a known outcome model and known drift, for machines without the real one.

Belongs here: how the rows are drawn, and what is true of them. Does not belong here: reading them (diabetes130.py).
Marginals are those of Strack et al. 2014 (doi 10.1155/2014/781670) and of the public data set, rounded; associations
are plausible, not estimated. A figure reached on these rows says that the machinery works, and nothing about patients.
"""

import csv
import io
import os
import tempfile
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from clinical_assets.archives.archive import SIMULATED_MARKER, KnownDrift
from clinical_assets.archives.diabetes130 import CODES_FILE, COLUMNS, DATA_FILE, DRUGS, MISSING
from clinical_assets.protocol import Verdict

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

ENCOUNTERS_BEFORE_SHIFT = 40_000  # months 1 to 16 of the 24 that the replay calendar spreads all rows over
ENCOUNTERS_AFTER_SHIFT = 20_000
PATIENTS_PER_DAY = 75
BURN_IN_DAYS = 120


SIMULATED_DRIFT = (
    KnownDrift(
        month=date(2025, 5, 1),
        verdict=Verdict.POPULATION_SHIFT,
        what="patients are older and frailer, with more inpatient and emergency visits in the past year, and most are "
        "admitted through the emergency room; the risk that follows from given columns does not change",
    ),
)
"""Apart from these changes, what is drawn is stationary.

What is computed from a patient's earlier encounters takes two or three months to reach its level, after the start
(before which no archive knows anybody) and after a change.
"""

DISPOSITION_LOG_ODDS = {2: 0.6, 3: 0.45, 4: 0.3, 5: 0.9, 6: 0.3, 7: 0.4, 22: 1.2, 23: -0.3}
DIAGNOSIS_LOG_ODDS = {
    **{"428": 0.4, "403": 0.4, "584": 0.3, "491": 0.2, "250.13": 0.3, "250.7": 0.4, "996": 0.3, "434": 0.2, "V57": 0.4},
    **{"786": -0.5, "715": -0.5, "414": -0.2, "780": -0.3, "278": -0.7, "493": -0.2, "574": -0.3, "722": -0.4},
}
INPATIENT_VISIT_LOG_ODDS = 0.45  # each, up to 5
EMERGENCY_VISIT_LOG_ODDS = 0.20  # each, up to 4
DAY_IN_HOSPITAL_LOG_ODDS = 0.05  # each
DECADE_LOG_ODDS = 0.10  # each decade of age
DIAGNOSIS_COUNT_LOG_ODDS = 0.06  # each diagnosis entered
INTERCEPT = -4.02
DEATH_OR_HOSPICE_CODES = (11, 13, 14)

RETURNS_TO_ARCHIVE = {"<30": 0.75, ">30": 0.12}
LATER_READMISSION = 0.39  # of those not readmitted within 30 days

AGE = (0.002, 0.007, 0.016, 0.037, 0.095, 0.170, 0.221, 0.256, 0.169, 0.027)
AGE_TILT_AFTER_SHIFT = 0.40  # log of the weight that each decade gains
FRAILTY_AFTER_SHIFT = 0.9  # standard deviations
EMERGENCY_ROOM = 0.56
EMERGENCY_ROOM_AFTER_SHIFT = 0.82
RACE = {"Caucasian": 0.748, "AfricanAmerican": 0.189, "Hispanic": 0.020, "Asian": 0.006, "Other": 0.015, MISSING: 0.022}
GENDER = {"Female": 0.5376, "Male": 0.4623, "Unknown/Invalid": 0.0001}
WEIGHT = {MISSING: 0.968, "[50-75)": 0.009, "[75-100)": 0.014, "[100-125)": 0.007, "[125-150)": 0.002}
PAYER = {
    **{MISSING: 0.396, "MC": 0.319, "HM": 0.062, "SP": 0.049, "BC": 0.046, "MD": 0.035, "CP": 0.025, "UN": 0.024},
    **{"CM": 0.019, "OG": 0.010, "PO": 0.006, "DM": 0.009},
}
SPECIALTY = {
    **{MISSING: 0.490, "InternalMedicine": 0.144, "Emergency/Trauma": 0.075, "Family/GeneralPractice": 0.073},
    **{"Cardiology": 0.053, "Surgery-General": 0.031, "Nephrology": 0.016, "Orthopedics": 0.026, "Radiologist": 0.023},
    **{"Pulmonology": 0.019, "Psychiatry": 0.018, "Surgery-Cardiovascular/Thoracic": 0.016, "Gastroenterology": 0.016},
}
PRINCIPAL_DIAGNOSIS = {
    **{"428": 0.088, "414": 0.084, "786": 0.052, "410": 0.046, "486": 0.045, "427": 0.036, "491": 0.029, "715": 0.028},
    **{"682": 0.026, "434": 0.026, "780": 0.026, "996": 0.026, "276": 0.024, "38": 0.022, "250.8": 0.022, "599": 0.021},
    **{
        "584": 0.020,
        "V57": 0.016,
        "250.6": 0.015,
        "518": 0.014,
        "820": 0.014,
        "577": 0.013,
        "493": 0.013,
        "435": 0.013,
    },
    **{
        "562": 0.013,
        "574": 0.012,
        "296": 0.012,
        "560": 0.012,
        "250.13": 0.011,
        "433": 0.011,
        "440": 0.010,
        "250.7": 0.011,
    },
    **{"403": 0.010, "722": 0.010, "507": 0.009, "511": 0.009, "278": 0.009, "8": 0.008, "578": 0.008, "285": 0.008},
    **{"162": 0.008, "453": 0.007, "531": 0.006, "733": 0.006, "590": 0.006, "535": 0.006, "789": 0.010, "998": 0.008},
}
FURTHER_DIAGNOSIS = {
    **{"250": 0.090, "276": 0.065, "428": 0.062, "427": 0.050, "401": 0.062, "599": 0.032, "496": 0.032, "403": 0.028},
    **{
        "414": 0.033,
        "411": 0.022,
        "250.02": 0.020,
        "707": 0.020,
        "585": 0.022,
        "584": 0.018,
        "491": 0.017,
        "250.01": 0.015,
    },
    **{"285": 0.016, "780": 0.015, "425": 0.014, "682": 0.014, "486": 0.014, "518": 0.013, "424": 0.010, "413": 0.009},
    **{"305": 0.009, "250.6": 0.009, "272": 0.012, "V45": 0.012, "E878": 0.006, MISSING: 0.009},
}
A1C = {"None": 0.824, "Norm": 0.052, ">7": 0.039, ">8": 0.085}
GLUCOSE = {"None": 0.947, "Norm": 0.026, ">200": 0.015, ">300": 0.012}
DRUG_USE = {
    **{"metformin": 0.20, "repaglinide": 0.015, "nateglinide": 0.007, "glimepiride": 0.051, "glipizide": 0.125},
    **{"glyburide": 0.105, "pioglitazone": 0.072, "rosiglitazone": 0.062, "acarbose": 0.003, "insulin": 0.534},
    **{"glyburide-metformin": 0.007, "chlorpropamide": 0.001, "tolazamide": 0.0004, "miglitol": 0.0004},
}
DOSE_IF_USED = {"Steady": 0.89, "Up": 0.07, "Down": 0.04}
INSULIN_DOSE_IF_USED = {"Steady": 0.57, "Up": 0.21, "Down": 0.22}

ADMISSION_TYPES = {1: "Emergency", 2: "Urgent", 3: "Elective", 5: "Not Available", 6: "NULL"}
ADMISSION_SOURCES = {
    **{1: " Physician Referral", 2: "Clinic Referral", 4: "Transfer from a hospital", 7: " Emergency Room", 17: "NULL"},
    **{5: " Transfer from a Skilled Nursing Facility (SNF)", 6: " Transfer from another health care facility"},
}
DISPOSITIONS = {
    1: "Discharged to home",
    2: "Discharged/transferred to another short term hospital",
    3: "Discharged/transferred to SNF",
    4: "Discharged/transferred to ICF",
    5: "Discharged/transferred to another type of inpatient care institution",
    6: "Discharged/transferred to home with home health service",
    7: "Left AMA",
    11: "Expired",
    13: "Hospice / home",
    14: "Hospice / medical facility",
    18: "NULL",
    22: "Discharged/transferred to another rehab fac including rehab units of a hospital .",
    23: "Discharged/transferred to a long term care hospital.",
}
DISPOSITION_WEIGHT = (0.592, 0.021, 0.137, 0.008, 0.012, 0.127, 0.006, 0.016, 0.004, 0.004, 0.046, 0.020, 0.007)
DISPOSITION_AGE_TILT = (-0.25, 0.0, 0.45, 0.5, 0.1, 0.15, -0.4, 0.35, 0.4, 0.4, 0.0, 0.25, 0.2)  # each decade above 60


def write_simulated_archive(directory: Path, seed: int) -> Path:
    """Write a simulated archive of 60,000 encounters into `directory`; returns the zip, whole or not there at all.

    Equal seeds give equal rows. The zip has the publisher's layout, and a file that says that it is simulated.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "dataset_diabetes.zip"
    members = {
        DATA_FILE: draw_encounters(seed).write_csv().encode(),
        CODES_FILE: _write_codes().encode(),
        SIMULATED_MARKER: f"Simulated encounters, seed {seed}. No patient is behind any row.\n".encode(),
    }
    descriptor, draft = tempfile.mkstemp(dir=directory, prefix=".dataset_diabetes.")
    try:
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as packed:
            for name, content in members.items():
                # A fixed date, so that the zip depends on the seed alone.
                entry = zipfile.ZipInfo(f"dataset_diabetes/{name}", date_time=(2014, 5, 3, 0, 0, 0))
                packed.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=4)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
    return path


def draw_encounters(seed: int) -> pl.DataFrame:
    """60,000 simulated encounters in the publisher's 50 columns, in time order, with the shift at row 40,000.

    Patients arrive evenly over time. Who is readmitted within 30 days follows `readmission_log_odds`; some of those who
    are readmitted have that stay in the archive too, with one more inpatient visit.
    """
    rng = np.random.default_rng(seed)
    first_day = -BURN_IN_DAYS - ENCOUNTERS_BEFORE_SHIFT / PATIENTS_PER_DAY
    last_day = ENCOUNTERS_AFTER_SHIFT / PATIENTS_PER_DAY
    patients = round((last_day - first_day) * PATIENTS_PER_DAY)
    day = rng.uniform(first_day, last_day, patients)
    stays = [_draw_first_stays(rng, day)]
    while len(returning := _draw_returns(rng, stays[-1])):
        stays.append(returning)
    rows = pl.concat(stays).sort("day")
    before, after = rows.filter(pl.col("day") < 0), rows.filter(pl.col("day") >= 0)
    rows = pl.concat([before.tail(ENCOUNTERS_BEFORE_SHIFT), after.head(ENCOUNTERS_AFTER_SHIFT)])
    steps = rng.integers(500, 14_000, len(rows))
    return rows.with_columns(pl.Series("encounter_id", 10_000 + np.cumsum(steps))).select(COLUMNS)


def readmission_log_odds() -> pl.Expr:
    """The true log odds of readmission within 30 days, from the publisher's columns; -inf after death or to hospice.

    With the coefficients above, 11 % are readmitted before the shift and 17 % after it. Without deaths and hospices,
    ranking by the true risk gives an AUROC of about .69 before and .75 after it: no model is expected to do better.
    """
    log_odds = (
        INTERCEPT
        + INPATIENT_VISIT_LOG_ODDS * pl.col("number_inpatient").clip(upper_bound=5)
        + EMERGENCY_VISIT_LOG_ODDS * pl.col("number_emergency").clip(upper_bound=4)
        + DAY_IN_HOSPITAL_LOG_ODDS * pl.col("time_in_hospital")
        + DECADE_LOG_ODDS * pl.col("age").str.extract(r"(\d+)").cast(pl.Int64) / 10
        + DIAGNOSIS_COUNT_LOG_ODDS * pl.col("number_diagnoses")
        + pl.col("discharge_disposition_id").replace_strict(DISPOSITION_LOG_ODDS, default=0.0, return_dtype=pl.Float64)
        + pl.col("diag_1").replace_strict(DIAGNOSIS_LOG_ODDS, default=0.0, return_dtype=pl.Float64)
    )
    barred = pl.col("discharge_disposition_id").is_in(DEATH_OR_HOSPICE_CODES)
    return pl.when(barred).then(float("-inf")).otherwise(log_odds)


def _draw_first_stays(rng: np.random.Generator, day: Floats) -> pl.DataFrame:
    """The first stay of as many patients, who arrive on these days (negative before the shift)."""
    n = len(day)
    shifted = day >= 0
    decade = np.arange(len(AGE))
    age = np.asarray(AGE)
    age_after = age * np.exp(AGE_TILT_AFTER_SHIFT * decade)
    weights = np.where(shifted[:, None], age_after / age_after.sum(), age / age.sum())
    patients = pl.DataFrame(
        {
            "day": day,
            "patient_nbr": rng.permutation(n) * 1_300 + rng.integers(1, 1_300, n),
            "race": _draw(rng, RACE, n),
            "gender": _draw(rng, GENDER, n),
            "decade": _draw_indices(rng, weights),
            "frailty": rng.normal(0.0, 1.0, n) + FRAILTY_AFTER_SHIFT * shifted,
            "number_inpatient": np.zeros(n, dtype=np.int64),
        }
    )
    visits = rng.poisson(np.exp(-1.05 + 0.9 * patients["frailty"].to_numpy()))
    return _draw_stays(rng, patients.with_columns(pl.Series("number_inpatient", visits.clip(max=20))))


def _draw_returns(rng: np.random.Generator, stays: pl.DataFrame) -> pl.DataFrame:
    """The next stays of those whose readmission is in the archive: most within 30 days, the rest soon after."""
    chance = stays["readmitted"].replace_strict(RETURNS_TO_ARCHIVE, default=0.0, return_dtype=pl.Float64).to_numpy()
    back = stays.filter(rng.uniform(size=len(stays)) < chance)
    n = len(back)
    early = (back["readmitted"] == "<30").to_numpy()
    gap_days = np.where(early, rng.uniform(1.0, 29.0, n), rng.uniform(31.0, 75.0, n))
    patients = back.select(
        (pl.col("day") + pl.Series(gap_days)).alias("day"),
        *("patient_nbr", "race", "gender", "decade", "frailty"),
        (pl.col("number_inpatient") + 1).clip(upper_bound=20),
    )
    return _draw_stays(rng, patients)


def _draw_stays(rng: np.random.Generator, patients: pl.DataFrame) -> pl.DataFrame:
    """One stay for each of these patients, and how it ended."""
    n = len(patients)
    frailty = patients["frailty"].to_numpy()
    decade = patients["decade"].to_numpy()
    emergency_room = np.where(patients["day"].to_numpy() >= 0, EMERGENCY_ROOM_AFTER_SHIFT, EMERGENCY_ROOM)
    from_emergency_room = rng.uniform(size=n) < emergency_room
    days = np.ceil(rng.gamma(1.7, 2.1, n) * np.exp(0.1 * frailty)).clip(1, 14).astype(np.int64)
    age_tilt = np.outer(decade - 6.0, DISPOSITION_AGE_TILT)
    disposition = _draw_indices(rng, _normalise(np.asarray(DISPOSITION_WEIGHT) * np.exp(age_tilt)))
    doses = {drug: _draw_doses(rng, drug, n) for drug in DRUGS}
    stays = patients.with_columns(
        pl.format("[{}-{})", pl.col("decade") * 10, pl.col("decade") * 10 + 10).alias("age"),
        pl.Series("weight", _draw(rng, WEIGHT, n)),
        pl.Series("admission_type_id", _draw_admission_types(rng, from_emergency_room)),
        pl.Series("discharge_disposition_id", np.asarray(list(DISPOSITIONS))[disposition]),
        pl.Series("admission_source_id", _draw_admission_sources(rng, from_emergency_room)),
        pl.Series("time_in_hospital", days),
        pl.Series("payer_code", _draw(rng, PAYER, n)),
        pl.Series("medical_specialty", _draw(rng, SPECIALTY, n)),
        pl.Series("num_lab_procedures", _round(rng.normal(38 + 1.2 * days, 18), 1, 132)),
        pl.Series("num_procedures", _draw_indices(rng, np.tile((0.46, 0.20, 0.125, 0.09, 0.04, 0.03, 0.055), (n, 1)))),
        pl.Series("num_medications", _round(rng.normal(9 + 1.5 * days, 6), 1, 81)),
        pl.Series(
            "number_outpatient", rng.poisson(np.exp(-1.9 + 1.0 * rng.normal(size=n) + 0.2 * frailty)).clip(max=42)
        ),
        pl.Series("number_emergency", rng.poisson(np.exp(-2.4 + 1.0 * frailty)).clip(max=40)),
        pl.Series("diag_1", _draw(rng, PRINCIPAL_DIAGNOSIS, n)),
        pl.Series("diag_2", _draw(rng, FURTHER_DIAGNOSIS, n)),
        pl.Series("diag_3", _draw(rng, FURTHER_DIAGNOSIS, n)),
        pl.Series("number_diagnoses", _round(rng.normal(7.5 + 0.3 * frailty, 1.8), 1, 9)),
        pl.Series("max_glu_serum", _draw(rng, GLUCOSE, n)),
        pl.Series("A1Cresult", _draw(rng, A1C, n)),
        *(pl.Series(drug, dose) for drug, dose in doses.items()),
    ).with_columns(
        pl.when(pl.any_horizontal(pl.col(*DRUGS).is_in(["Up", "Down"])))
        .then(pl.lit("Ch"))
        .otherwise(pl.lit("No"))
        .alias("change"),
        pl.when(pl.any_horizontal(pl.col(*DRUGS) != "No"))
        .then(pl.lit("Yes"))
        .otherwise(pl.lit("No"))
        .alias("diabetesMed"),
    )
    log_odds = stays.select(readmission_log_odds()).to_series()
    early = pl.Series(rng.uniform(size=n)) < 1 / (1 + (-log_odds).exp())
    later = pl.Series(rng.uniform(size=n) < LATER_READMISSION) & (log_odds > float("-inf"))
    return stays.with_columns(
        pl.when(early).then(pl.lit("<30")).when(later).then(pl.lit(">30")).otherwise(pl.lit("NO")).alias("readmitted")
    )


def _draw_admission_types(rng: np.random.Generator, from_emergency_room: np.ndarray) -> Ints:
    emergency = _draw(rng, {1: 0.82, 2: 0.08, 3: 0.01, 5: 0.05, 6: 0.04}, len(from_emergency_room))
    other = _draw(rng, {1: 0.16, 2: 0.31, 3: 0.41, 5: 0.05, 6: 0.07}, len(from_emergency_room))
    return np.where(from_emergency_room, emergency, other)


def _draw_admission_sources(rng: np.random.Generator, from_emergency_room: np.ndarray) -> Ints:
    other = _draw(rng, {1: 0.675, 17: 0.155, 4: 0.072, 6: 0.051, 2: 0.025, 5: 0.022}, len(from_emergency_room))
    return np.where(from_emergency_room, 7, other)


def _draw_doses(rng: np.random.Generator, drug: str, n: int) -> np.ndarray:
    dose = _draw(rng, INSULIN_DOSE_IF_USED if drug == "insulin" else DOSE_IF_USED, n)
    return np.where(rng.uniform(size=n) < DRUG_USE.get(drug, 0.0), dose, "No")


def _draw(rng: np.random.Generator, shares: dict[str, float] | dict[int, float], n: int) -> np.ndarray:
    """`n` of the keys, each as often as its share of the sum of shares."""
    weights = np.asarray(list(shares.values()))
    return rng.choice(np.asarray(list(shares)), size=n, p=weights / weights.sum())


def _draw_indices(rng: np.random.Generator, probability: Floats) -> Ints:
    """One column index for each row of a (rows, columns) array of probabilities that sum to 1 in each row."""
    beyond = rng.uniform(size=(len(probability), 1)) > probability.cumsum(axis=1)
    return beyond.sum(axis=1).clip(max=probability.shape[1] - 1)


def _normalise(weight: Floats) -> Floats:
    return weight / weight.sum(axis=1, keepdims=True)


def _round(values: Floats, low: int, high: int) -> Ints:
    return values.round().clip(low, high).astype(np.int64)


def _write_codes() -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    tables = {"admission_type_id": ADMISSION_TYPES, "discharge_disposition_id": DISPOSITIONS}
    for name, codes in (tables | {"admission_source_id": ADMISSION_SOURCES}).items():
        if text.tell():
            writer.writerow(("", ""))
        writer.writerows([(name, "description"), *codes.items()])
    return text.getvalue()
