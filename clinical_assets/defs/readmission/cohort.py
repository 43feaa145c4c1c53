"""Encounters of inpatients with diabetes at the moment of discharge, and what the readmission model sees of them.

Belongs here: eligibility, the outcome, the history of a patient, clinical groupings. Does not belong here: the
publisher's file layout (archives/diabetes130.py), encoding for an estimator, storage.
"""

from datetime import timedelta
from functools import lru_cache
from itertools import pairwise

import dataframely as dy
import polars as pl

from clinical_assets.archives.archive import AN_AGE, Archive, ArchiveError, MonthWindow
from clinical_assets.archives.calendar import spread_over_months
from clinical_assets.archives.diabetes130 import DRUGS, read_encounters

READMISSION_DAYS = 30
HISTORY_DAYS = 90
DEATH_OR_HOSPICE = (11, 13, 14, 19, 20, 21)
"""Discharge dispositions after which nobody can be readmitted, as in Strack et al. 2014."""

COMMON_DRUGS = (
    *("metformin", "repaglinide", "glimepiride", "glipizide", "glyburide", "pioglitazone", "rosiglitazone", "insulin"),
)
"""Drugs given in more than one encounter in a hundred, which the estimator sees one by one."""

ICD9_GROUPS: tuple[tuple[int, str], ...] = (
    (1, "infectious disease"),
    (140, "neoplasm"),
    (240, "endocrine, other"),
    (250, "diabetes"),
    (251, "endocrine, other"),
    (276, "fluid and electrolyte disorder"),
    (277, "metabolic or immune, other"),
    (280, "blood disease"),
    (290, "mental disorder"),
    (320, "nervous system disease"),
    (360, "eye or ear disease"),
    (390, "hypertension or rheumatic heart disease"),
    (403, "hypertensive kidney disease"),
    (405, "hypertension or rheumatic heart disease"),
    (410, "acute ischaemic heart disease"),
    (412, "chronic ischaemic heart disease"),
    (415, "heart disease, other"),
    (427, "dysrhythmia"),
    (428, "heart failure"),
    (429, "heart disease, other"),
    (430, "cerebrovascular disease"),
    (440, "arterial or venous disease"),
    (460, "acute respiratory infection or pneumonia"),
    (490, "chronic obstructive pulmonary disease or asthma"),
    (497, "respiratory disease, other"),
    (520, "digestive disease"),
    (570, "liver, biliary or pancreatic disease"),
    (578, "digestive disease"),
    (580, "kidney disease"),
    (590, "genitourinary disease, other"),
    (630, "pregnancy or childbirth"),
    (680, "skin disease"),
    (710, "musculoskeletal disease"),
    (740, "congenital or perinatal condition"),
    (780, "symptom or sign"),
    (800, "injury or poisoning"),
    (996, "complication of care"),
)
"""The first three-digit ICD-9-CM category of each run of categories, and the clinical group the run belongs to.

These are the chapters of ICD-9-CM, with those divided that weigh most in readmission: heart, lung, kidney, diabetes.
"""


def _dose(drug: str) -> dy.String:
    return dy.String(description=f"{drug}: no (not given), or its dose in this stay: steady, up, down")


class Encounter(dy.Schema):
    """One hospital encounter that can be followed by a readmission, as known at its discharge."""

    encounter_id = dy.String(primary_key=True, description="Encounter; a pseudonym once stored")
    patient_id = dy.String(description="Patient; a pseudonym once stored")
    discharged_at = dy.Datetime(
        time_unit="us",
        time_zone="UTC",
        description="Discharge on the replay calendar, UTC; an inferred order, not a date; of an "
        "identified feed moved by the patient's own weeks",
    )
    month = dy.Date(description="First day of the month of discharge")
    readmitted_30d = dy.Int8(min=0, max=1, description="1 if readmitted as an inpatient within 30 days of discharge")
    outcome_known_on = dy.Date(
        description="Day from which the outcome can be known: discharge + 30 days; of an identified "
        "feed the last day of its month"
    )

    age_band = dy.String(description="Age in decades, years, e.g. [70-80)", metadata=AN_AGE)
    sex = dy.String(description="Sex as recorded: female, male, unknown")
    ethnicity = dy.String(nullable=True, description="Race as the publisher records it; null if not recorded")
    admission_source = dy.String(
        description="Where the patient came from: emergency room, referral, transfer, other, unknown"
    )

    admission_source_detail = dy.String(description="Admission source, the publisher's description")
    admission_type = dy.String(description="Admission type, the publisher's description")
    discharge_disposition = dy.String(description="Where the patient was discharged to, the publisher's description")
    payer_code = dy.String(nullable=True, description="Payer, the publisher's code; null if not recorded")
    medical_specialty = dy.String(
        nullable=True, description="Specialty of the admitting physician; null if not recorded"
    )
    weight_band_kg = dy.String(nullable=True, description="Weight band, kg; null if not recorded (97 % in the archive)")

    days_in_hospital = dy.Int64(min=0, description="Length of stay, days")
    lab_tests = dy.Int64(min=0, description="Laboratory tests in this stay, count")
    procedures = dy.Int64(min=0, description="Procedures other than laboratory tests in this stay, count")
    medications = dy.Int64(min=0, description="Distinct drugs given in this stay, count")
    diagnoses = dy.Int64(min=0, description="Diagnoses entered for this stay, count")
    outpatient_visits_past_year = dy.Int64(min=0, description="Outpatient visits in the year before admission, count")
    emergency_visits_past_year = dy.Int64(min=0, description="Emergency visits in the year before admission, count")
    inpatient_visits_past_year = dy.Int64(min=0, description="Inpatient visits in the year before admission, count")

    diagnosis_1 = dy.String(nullable=True, description="Principal diagnosis, ICD-9-CM code")
    diagnosis_2 = dy.String(nullable=True, description="Second diagnosis, ICD-9-CM code")
    diagnosis_3 = dy.String(nullable=True, description="Third diagnosis, ICD-9-CM code")
    diagnosis_1_category = dy.String(nullable=True, description="Principal diagnosis, three-digit ICD-9-CM category")
    diagnosis_2_category = dy.String(nullable=True, description="Second diagnosis, three-digit ICD-9-CM category")
    diagnosis_3_category = dy.String(nullable=True, description="Third diagnosis, three-digit ICD-9-CM category")
    diagnosis_1_group = dy.String(nullable=True, description="Principal diagnosis, clinical group")
    diagnosis_2_group = dy.String(nullable=True, description="Second diagnosis, clinical group")
    diagnosis_3_group = dy.String(nullable=True, description="Third diagnosis, clinical group")

    a1c_result = dy.String(description="Haemoglobin A1c, %: normal, >7, >8, not measured")
    max_glucose_serum = dy.String(description="Highest serum glucose, mg/dL: normal, >200, >300, not measured")
    medication_changed = dy.Bool(description="Whether any diabetes drug or its dose was changed in this stay")
    diabetes_medication = dy.Bool(description="Whether any diabetes drug was prescribed")
    metformin = _dose("Metformin")
    repaglinide = _dose("Repaglinide")
    nateglinide = _dose("Nateglinide")
    chlorpropamide = _dose("Chlorpropamide")
    glimepiride = _dose("Glimepiride")
    acetohexamide = _dose("Acetohexamide")
    glipizide = _dose("Glipizide")
    glyburide = _dose("Glyburide")
    tolbutamide = _dose("Tolbutamide")
    pioglitazone = _dose("Pioglitazone")
    rosiglitazone = _dose("Rosiglitazone")
    acarbose = _dose("Acarbose")
    miglitol = _dose("Miglitol")
    troglitazone = _dose("Troglitazone")
    tolazamide = _dose("Tolazamide")
    examide = _dose("Examide")
    citoglipton = _dose("Citoglipton")
    insulin = _dose("Insulin")
    glyburide_metformin = _dose("Glyburide with metformin")
    glipizide_metformin = _dose("Glipizide with metformin")
    glimepiride_pioglitazone = _dose("Glimepiride with pioglitazone")
    metformin_rosiglitazone = _dose("Metformin with rosiglitazone")
    metformin_pioglitazone = _dose("Metformin with pioglitazone")

    earlier_encounters_90d = dy.Int64(min=0, description="Earlier encounters, discharged in the 90 days before, count")
    earlier_readmissions_90d = dy.Int64(
        min=0, description="Earlier encounters of the past 90 days that ended in a readmission within 30 days, count"
    )
    earlier_days_in_hospital_90d = dy.Int64(min=0, description="Length of stay summed over the past 90 days, days")
    last_readmitted_30d = dy.Int8(
        nullable=True,
        description="1 if the last discharge led to a readmission within 30 days; null if none in 90 days",
    )
    last_days_in_hospital = dy.Int64(nullable=True, description="Last length of stay, days; null if none in 90 days")
    days_since_last_discharge = dy.Float64(
        nullable=True, description="Days from the last discharge to this one, replay calendar; null if none in 90 days"
    )


def encounters(archive: Archive, window: MonthWindow) -> dy.DataFrame[Encounter]:
    """The encounters discharged in a window that can be followed by a readmission, in order of discharge.

    Patients of all ages are kept, since the archive's bands (10 to 20 years) do not tell who is adult; discharges by
    death or to a hospice are left out, but count as history. Raises ArchiveError for a window without encounters.
    """
    in_window = (pl.col("month") >= window.start) & (pl.col("month") < window.end)
    rows = all_encounters(archive).filter(in_window & ~pl.col("death_or_hospice")).drop("death_or_hospice")
    if rows.is_empty():
        raise ArchiveError(
            f"{archive.path.name} has no eligible encounter from {window.start} to {window.end} (exclusive); "
            "ask for a month of the replay calendar, or check that the archive is whole"
        )
    return Encounter.validate(rows)


@lru_cache(maxsize=2)
def all_encounters(archive: Archive) -> pl.DataFrame:
    """Every encounter with the columns of `Encounter`, and `death_or_hospice` (Boolean), which bars it from the cohort.

    Encounters get their time from their order in the archive (see archives/calendar.py) before any is left out.

    History is that of the same patient in the 90 days up to this discharge. Whether an earlier stay ended in a
    readmission within 30 days is always known by then: either the 30 days have passed, or this stay is that
    readmission. What the publisher says of later readmissions of an earlier stay is not used.
    """
    rows = read_encounters(archive)
    rows = rows.with_columns(spread_over_months(len(rows)).alias("discharged_at"))
    rows = rows.select(
        pl.col("encounter_id").cast(pl.String),
        pl.col("patient_nbr").cast(pl.String).alias("patient_id"),
        "discharged_at",
        pl.col("discharged_at").dt.date().dt.month_start().alias("month"),
        (pl.col("readmitted") == "<30").cast(pl.Int8).alias("readmitted_30d"),
        (pl.col("discharged_at").dt.date() + timedelta(days=READMISSION_DAYS)).alias("outcome_known_on"),
        pl.col("age").alias("age_band"),
        pl.col("gender").replace({"Unknown/Invalid": "unknown"}).str.to_lowercase().alias("sex"),
        pl.col("race").alias("ethnicity"),
        _group_admission_sources(pl.col("admission_source")).alias("admission_source"),
        pl.col("admission_source").alias("admission_source_detail"),
        "admission_type",
        "discharge_disposition",
        "payer_code",
        "medical_specialty",
        pl.col("weight").alias("weight_band_kg"),
        pl.col("time_in_hospital").alias("days_in_hospital"),
        pl.col("num_lab_procedures").alias("lab_tests"),
        pl.col("num_procedures").alias("procedures"),
        pl.col("num_medications").alias("medications"),
        pl.col("number_diagnoses").alias("diagnoses"),
        pl.col("number_outpatient").alias("outpatient_visits_past_year"),
        pl.col("number_emergency").alias("emergency_visits_past_year"),
        pl.col("number_inpatient").alias("inpatient_visits_past_year"),
        *(pl.col(f"diag_{place}").alias(f"diagnosis_{place}") for place in (1, 2, 3)),
        *(_icd9_category(pl.col(f"diag_{place}")).alias(f"diagnosis_{place}_category") for place in (1, 2, 3)),
        *(group_icd9(pl.col(f"diag_{place}")).alias(f"diagnosis_{place}_group") for place in (1, 2, 3)),
        _name_result(pl.col("A1Cresult")).alias("a1c_result"),
        _name_result(pl.col("max_glu_serum")).alias("max_glucose_serum"),
        (pl.col("change") == "Ch").alias("medication_changed"),
        (pl.col("diabetesMed") == "Yes").alias("diabetes_medication"),
        *(pl.col(drug).str.to_lowercase().alias(drug.replace("-", "_")) for drug in DRUGS),
        pl.col("discharge_disposition_id").is_in(DEATH_OR_HOSPICE).alias("death_or_hospice"),
    )
    return _add_history(rows).select(*Encounter.column_names(), "death_or_hospice")


def encounter_features(dataset: pl.DataFrame) -> pl.DataFrame:
    """What the estimator sees of each encounter, beside its keys: categories as text or null, numbers as Float32.

    Crosses let a target encoding learn that, for example, heart failure sent home differs from heart failure sent to a
    nursing facility. Drugs given to fewer than one patient in a hundred are only counted.

    Args:
        dataset: rows of `Encounter`, with or without further columns such as `data_origin`, which are kept.

    Returns:
        as many rows, in the same order.
    """
    drugs = [drug.replace("-", "_") for drug in DRUGS]
    numbers = (
        *("days_in_hospital", "lab_tests", "procedures", "medications", "diagnoses", "outpatient_visits_past_year"),
        *("emergency_visits_past_year", "inpatient_visits_past_year", "medication_changed", "diabetes_medication"),
        *("earlier_encounters_90d", "earlier_readmissions_90d", "earlier_days_in_hospital_90d", "last_readmitted_30d"),
        *("last_days_in_hospital", "days_since_last_discharge"),
    )
    return dataset.with_columns(
        pl.col(*numbers).cast(pl.Float32),
        (pl.col("age_band").str.extract(r"(\d+)").cast(pl.Float32) + 5).alias("age_years_mid_band"),
        pl.sum_horizontal(pl.col(*drugs) != "no").cast(pl.Float32).alias("diabetes_drugs"),
        pl.sum_horizontal(pl.col(*drugs) == "up").cast(pl.Float32).alias("doses_raised"),
        pl.sum_horizontal(pl.col(*drugs) == "down").cast(pl.Float32).alias("doses_lowered"),
        _cross("diagnosis_1_category", "discharge_disposition"),
        _cross("medical_specialty", "discharge_disposition"),
        _cross("age_band", "discharge_disposition"),
        _cross("admission_source_detail", "discharge_disposition"),
    ).drop(drug for drug in drugs if drug not in COMMON_DRUGS)


def describe_encounter_features() -> dict[str, str]:
    """What each column means that `encounter_features` adds to those of `Encounter`."""
    return {
        "age_years_mid_band": "Middle of the age band, years",
        "diabetes_drugs": "Distinct diabetes drugs given in this stay, count",
        "doses_raised": "Diabetes drugs whose dose was raised in this stay, count",
        "doses_lowered": "Diabetes drugs whose dose was lowered in this stay, count",
        "diagnosis_1_category_by_discharge_disposition": "Category of the principal diagnosis | where discharged to",
        "medical_specialty_by_discharge_disposition": "Specialty of the admitting physician | where discharged to",
        "age_band_by_discharge_disposition": "Age band | where discharged to",
        "admission_source_detail_by_discharge_disposition": "Admission source | where discharged to",
    }


def group_icd9(code: pl.Expr) -> pl.Expr:
    """The clinical group of ICD-9-CM codes, text such as 428, 250.83, V57 or E909; null stays null."""
    runs = pairwise((*ICD9_GROUPS, (1000, "")))
    group_of_category = {category: group for (first, group), (end, _) in runs for category in range(first, end)}
    category = code.str.extract(r"^(\d{1,3})").cast(pl.Int64)
    return (
        pl.when(code.str.starts_with("V"))
        .then(pl.lit("supplementary factor (V code)"))
        .when(code.str.starts_with("E"))
        .then(pl.lit("external cause (E code)"))
        .otherwise(category.replace_strict(group_of_category, default=None, return_dtype=pl.String))
    )


def _icd9_category(code: pl.Expr) -> pl.Expr:
    return code.str.split_exact(".", 1).struct.field("field_0")


def _group_admission_sources(description: pl.Expr) -> pl.Expr:
    lower = description.str.to_lowercase()
    return (
        pl.when(lower == "emergency room")
        .then(pl.lit("emergency room"))
        .when(lower.str.contains("referral"))
        .then(pl.lit("referral"))
        .when(lower.str.starts_with("transfer"))
        .then(pl.lit("transfer"))
        .when(lower.is_in(["null", "not available", "not mapped", "unknown/invalid"]))
        .then(pl.lit("unknown"))
        .otherwise(pl.lit("other"))
    )


def _name_result(result: pl.Expr) -> pl.Expr:
    return result.replace({"None": "not measured", "Norm": "normal"})


def _cross(first: str, second: str) -> pl.Expr:
    parts = [pl.col(name).fill_null("not recorded") for name in (first, second)]
    return pl.concat_str(parts, separator=" | ").alias(f"{first}_by_{second}")


def _add_history(rows: pl.DataFrame) -> pl.DataFrame:
    """Add what is known of the same patient's encounters in the 90 days before each discharge; rows in time order."""
    past = rows.rolling("discharged_at", period=f"{HISTORY_DAYS}d", closed="left", group_by="patient_id").agg(
        pl.len().cast(pl.Int64).alias("earlier_encounters_90d"),
        pl.col("readmitted_30d").sum().cast(pl.Int64).alias("earlier_readmissions_90d"),
        pl.col("days_in_hospital").sum().alias("earlier_days_in_hospital_90d"),
        pl.col("readmitted_30d").last().alias("last_readmitted_30d"),
        pl.col("days_in_hospital").last().alias("last_days_in_hospital"),
        pl.col("discharged_at").last().alias("last_discharged_at"),
    )
    since = (pl.col("discharged_at") - pl.col("last_discharged_at")).dt.total_seconds() / 86_400
    return rows.join(past, on=["patient_id", "discharged_at"], how="left", maintain_order="left").with_columns(
        since.alias("days_since_last_discharge")
    )
