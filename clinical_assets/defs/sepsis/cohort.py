"""Hours of ICU patients, with what was measured in each and whether sepsis follows within six hours.

Belongs here: names, units and plausible ranges of what is measured, the outcome, subgroups, and the count of values
that no patient can have. Does not belong here: the publisher's file layout (archives/physionet2019.py), features.
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import dataframely as dy
import polars as pl

from clinical_assets.archives.archive import AN_AGE, Archive, ArchiveError, MonthWindow
from clinical_assets.archives.data_quality import FAULTS_SCHEMA
from clinical_assets.archives.physionet2019 import admission_times, read_records

OUTCOME_KNOWN_AFTER_DAYS = 2
"""The label looks 6 h ahead, and Sepsis-3 dates an onset by organ failure up to 24 h before infection is suspected."""

OLDEST_AGE_YEARS = 89.0
"""Higher ages are stored as this, as hospital A records them, so that they mean the same in both hospitals."""

MEASUREMENTS = {
    **{"HR": "heart_rate_bpm", "O2Sat": "spo2_percent", "Temp": "temperature_c", "SBP": "systolic_bp_mmhg"},
    **{"MAP": "mean_arterial_pressure_mmhg", "DBP": "diastolic_bp_mmhg", "Resp": "respiratory_rate_per_min"},
    **{"EtCO2": "end_tidal_co2_mmhg", "BaseExcess": "base_excess_mmol_l", "HCO3": "bicarbonate_mmol_l"},
    **{"FiO2": "fio2_fraction", "pH": "arterial_ph", "PaCO2": "paco2_mmhg", "SaO2": "sao2_percent", "AST": "ast_iu_l"},
    **{"BUN": "urea_nitrogen_mg_dl", "Alkalinephos": "alkaline_phosphatase_iu_l", "Calcium": "calcium_mg_dl"},
    **{"Chloride": "chloride_mmol_l", "Creatinine": "creatinine_mg_dl", "Bilirubin_direct": "bilirubin_direct_mg_dl"},
    **{"Glucose": "glucose_mg_dl", "Lactate": "lactate_mmol_l", "Magnesium": "magnesium_mg_dl"},
    **{"Phosphate": "phosphate_mg_dl", "Potassium": "potassium_mmol_l", "Bilirubin_total": "bilirubin_total_mg_dl"},
    **{"TroponinI": "troponin_i_ng_ml", "Hct": "haematocrit_percent", "Hgb": "haemoglobin_g_dl", "PTT": "ptt_s"},
    **{"WBC": "white_cells_per_nl", "Fibrinogen": "fibrinogen_mg_dl", "Platelets": "platelets_per_nl"},
}
"""The publisher's 34 vital signs and laboratory values, and their names here.

Lactate is in mmol/L and magnesium in mg/dL, as their values show; the publisher's list says mg/dL and mmol/dL.
"""


def _measured(what: str, low: float, high: float) -> dy.Float32:
    return dy.Float32(nullable=True, min=low, max=high, description=f"{what}; null if not measured or not plausible")


class IcuHour(dy.Schema):
    """One hour of one patient in intensive care, as known at its end, with sepsis within the next six hours.

    Ranges are those beyond which Harutyunyan et al. 2019 (Scientific Data 6:96, doi 10.1038/s41597-019-0103-9, list of
    variable ranges, "outlier low" and "outlier high") set a value missing. Others are, with the reason: saturations and
    FiO2, shares of a whole (FiO2 from room air, recorded as 0.2, to pure oxygen); pH, that list's valid range, since 10
    is no blood; carbon dioxide at the mouth, as in the artery; base excess, a third more than blood gas analysers
    report (-30 to 30 mmol/L); calcium, no less than 2.5 mg/dL, since below lie concentrations of ionised calcium in
    mmol/L; direct bilirubin, as total; PTT and fibrinogen, wider than what laboratories report (300 s, 2,000 mg/dL).
    """

    hour_id = dy.String(primary_key=True, description="Patient and hour in the ICU; a pseudonym once stored")
    patient_id = dy.String(description="Patient; a pseudonym once stored")
    observed_at = dy.Datetime(
        time_unit="us",
        time_zone="UTC",
        description="The hour on the replay calendar, UTC; no real date; of an identified feed moved by "
        "the patient's own weeks",
    )
    month = dy.Date(description="First day of the month of admission to the ICU: a stay is in one month as a whole")
    sepsis_6h = dy.Int8(min=0, max=1, description="1 from six hours before the onset of sepsis (Sepsis-3) on")
    outcome_known_on = dy.Date(
        description="Day from which the outcome can be known: the hour + 2 days; of an identified "
        "feed the last day of its month"
    )

    age_band = dy.String(description="Age band, years, e.g. [65-75)", metadata=AN_AGE)
    sex = dy.String(description="Sex as recorded: female, male, unknown")
    site = dy.String(description="Hospital: A or B")
    icu_unit = dy.String(description="Intensive care unit: medical, surgical, not recorded")

    age_years = dy.Float32(
        nullable=True, min=0, max=OLDEST_AGE_YEARS, description="Age, years; 89 is 89 and above", metadata=AN_AGE
    )
    icu_los_h = dy.Float32(min=1, description="Hours since admission to the ICU; the first hour is 1")
    hours_since_hospital_admission = dy.Float32(
        nullable=True, description="Hours since admission to the hospital; null if not recorded"
    )

    heart_rate_bpm = _measured("Heart rate, beats/min", 0, 390)
    spo2_percent = _measured("Oxygen saturation by pulse oximetry, %", 0, 100)
    temperature_c = _measured("Body temperature, degrees Celsius", 14.2, 47)
    systolic_bp_mmhg = _measured("Systolic blood pressure, mmHg", 0, 375)
    mean_arterial_pressure_mmhg = _measured("Mean arterial pressure, mmHg", 0, 375)
    diastolic_bp_mmhg = _measured("Diastolic blood pressure, mmHg", 0, 375)
    respiratory_rate_per_min = _measured("Respiratory rate, breaths/min", 0, 330)
    end_tidal_co2_mmhg = _measured("End-tidal carbon dioxide, mmHg", 0, 220)
    base_excess_mmol_l = _measured("Base excess, mmol/L", -40, 40)
    bicarbonate_mmol_l = _measured("Bicarbonate, mmol/L", 0, 66)
    fio2_fraction = _measured("Fraction of inspired oxygen, 0.2 to 1", 0.2, 1)
    arterial_ph = _measured("Arterial pH", 6.3, 8.4)
    paco2_mmhg = _measured("Arterial partial pressure of carbon dioxide, mmHg", 0, 220)
    sao2_percent = _measured("Arterial oxygen saturation, %", 0, 100)
    ast_iu_l = _measured("Aspartate aminotransferase, IU/L", 0, 22_000)
    urea_nitrogen_mg_dl = _measured("Blood urea nitrogen, mg/dL", 0, 275)
    alkaline_phosphatase_iu_l = _measured("Alkaline phosphatase, IU/L", 0, 4_000)
    calcium_mg_dl = _measured("Total calcium, mg/dL", 2.5, 30)
    chloride_mmol_l = _measured("Chloride, mmol/L", 0, 200)
    creatinine_mg_dl = _measured("Creatinine, mg/dL", 0, 66)
    bilirubin_direct_mg_dl = _measured("Direct bilirubin, mg/dL", 0, 66)
    glucose_mg_dl = _measured("Glucose, mg/dL", 0, 2_200)
    lactate_mmol_l = _measured("Lactate, mmol/L", 0, 33)
    magnesium_mg_dl = _measured("Magnesium, mg/dL", 0, 22)
    phosphate_mg_dl = _measured("Phosphate, mg/dL", 0, 22)
    potassium_mmol_l = _measured("Potassium, mmol/L", 0, 15)
    bilirubin_total_mg_dl = _measured("Total bilirubin, mg/dL", 0, 66)
    troponin_i_ng_ml = _measured("Troponin I, ng/mL", 0, 575)
    haematocrit_percent = _measured("Haematocrit, %", 0, 100)
    haemoglobin_g_dl = _measured("Haemoglobin, g/dL", 0, 30)
    ptt_s = _measured("Partial thromboplastin time, s", 0, 300)
    white_cells_per_nl = _measured("White blood cells, 1,000/microlitre", 0, 1_100)
    fibrinogen_mg_dl = _measured("Fibrinogen, mg/dL", 0, 2_000)
    platelets_per_nl = _measured("Platelets, 1,000/microlitre", 0, 2_200)


@dataclass(frozen=True, slots=True)
class _Cohort:
    hours: pl.DataFrame
    plausibility: pl.DataFrame
    quarantined: pl.DataFrame


def icu_hours(archive: Archive, window: MonthWindow) -> dy.DataFrame[IcuHour]:
    """Every hour of the patients admitted to intensive care in a window, ordered by patient and hour.

    A value outside its column's range is set missing (`count_plausible` counts them). Patients of all ages are kept;
    the youngest of the archive is 14. Raises ArchiveError for a window in which nobody is admitted.
    """
    rows = _read_cohort(archive, window).hours
    if rows.is_empty():
        raise ArchiveError(
            f"{archive.path.name} has no patient admitted from {window.start} to {window.end} (exclusive); "
            "ask for a month of the replay calendar, or check that the archive is whole"
        )
    return IcuHour.validate(rows)


def count_plausible(archive: Archive, window: MonthWindow) -> pl.DataFrame:
    """How often each value was measured in each month and hospital of a window, and how often no patient can have it.

    Returns:
        one row a `month`, `site` and `column`: `hours`, those `measured`, and of these the `implausible` ones, which
        are null in `icu_hours`. A column that a hospital never measures has `measured` 0.
    """
    return _read_cohort(archive, window).plausibility


def quarantined_files(archive: Archive, window: MonthWindow) -> pl.DataFrame:
    """The patient files of a window that were left out because they are broken: `site`, `file`, `reason`."""
    return _read_cohort(archive, window).quarantined


def icu_faults(archive: Archive, window: MonthWindow) -> pl.DataFrame:
    """What is wrong with the hours of a window's patients: implausible values by hospital, and broken patient files.

    Of all patients of the archive; a broken file stands in the month in which its patient would have been admitted.
    Columns of `FAULTS_SCHEMA`; a column that a hospital never measures is `missing` in all its hours.
    """
    site = pl.format("site={}", "site").alias("subgroup")
    counts = count_plausible(archive, window)
    never = counts.filter(pl.col("measured") == 0).with_columns(affected="hours", rows="hours")
    implausible = counts.filter(pl.col("measured") > 0).with_columns(affected="implausible", rows="measured")
    patient = pl.col("file").str.split("/").list.last().str.strip_suffix(".psv")
    files = quarantined_files(archive, window).with_columns(place=patient)
    return pl.concat(
        [
            _faults(
                implausible, site, "implausible", pl.lit("outside the range of the column's contract; set missing")
            ),
            _faults(never, site, "missing", pl.lit("this hospital never measures it")),
            _faults(
                files.with_columns(column=pl.lit(None, pl.String), affected=1, rows=1),
                site,
                "quarantined",
                pl.col("reason"),
            ),
        ]
    )


def _faults(rows: pl.DataFrame, subgroup: pl.Expr, fault: str, reason: pl.Expr) -> pl.DataFrame:
    place = pl.col("place") if "place" in rows.columns else pl.lit(None, pl.String)
    named = pl.lit(fault).alias("fault"), reason.alias("reason"), place.alias("place")
    return rows.select("column", subgroup, *named, "affected", "rows").cast(FAULTS_SCHEMA)


# Asked for the hours of a window, and for what is wrong with them, in turn.
@lru_cache(maxsize=1)
def _read_cohort(archive: Archive, window: MonthWindow) -> _Cohort:
    records = read_records(archive, (window.start, window.end))
    stays = records.hours.select("site", "patient").unique(maintain_order=True)
    stays = stays.with_columns(admission_times(stays["patient"], stays["site"]))
    hours = records.hours.rename(MEASUREMENTS).join(stays, on=["site", "patient"], how="left", maintain_order="left")
    hours = hours.select(
        pl.format("{}:{}", "patient", pl.col("ICULOS").cast(pl.Int32)).alias("hour_id"),
        pl.col("patient").alias("patient_id"),
        (pl.col("admitted_at") + pl.duration(hours=pl.col("ICULOS").cast(pl.Int64) - 1)).alias("observed_at"),
        pl.col("admitted_at").dt.date().dt.month_start().alias("month"),
        pl.col("SepsisLabel").cast(pl.Int8).alias("sepsis_6h"),
        _name_age_band(pl.col("Age")).alias("age_band"),
        _name(pl.col("Gender"), {0: "female", 1: "male"}, "unknown").alias("sex"),
        "site",
        _name(pl.col("Unit1"), {0: "surgical", 1: "medical"}, "not recorded").alias("icu_unit"),
        pl.col("Age").clip(upper_bound=OLDEST_AGE_YEARS).alias("age_years"),
        pl.col("ICULOS").alias("icu_los_h"),
        (pl.col("ICULOS") - pl.col("HospAdmTime")).alias("hours_since_hospital_admission"),
        *MEASUREMENTS.values(),
    ).with_columns(
        (pl.col("observed_at").dt.date() + timedelta(days=OUTCOME_KNOWN_AFTER_DAYS)).alias("outcome_known_on"),
    )
    plausibility = _count_by_month(hours)
    plausible = (pl.when(_is_plausible(name)).then(name).alias(name) for name in MEASUREMENTS.values())
    return _Cohort(hours.with_columns(plausible).select(IcuHour.column_names()), plausibility, records.quarantined)


def _is_plausible(name: str) -> pl.Expr:
    column = IcuHour.columns()[name]
    if not isinstance(column, dy.Float32) or column.min is None or column.max is None:
        raise TypeError(f"{name} has no range in IcuHour")
    return pl.col(name).is_between(pl.lit(column.min, pl.Float32), pl.lit(column.max, pl.Float32))


def _count_by_month(hours: pl.DataFrame) -> pl.DataFrame:
    by = ["month", "site"]
    counts = hours.group_by(by).agg(
        pl.len().alias("hours"),
        *(pl.col(name).count().alias(f"measured:{name}") for name in MEASUREMENTS.values()),
        *((~_is_plausible(name)).sum().alias(f"implausible:{name}") for name in MEASUREMENTS.values()),
    )
    long = counts.unpivot(index=[*by, "hours"], value_name="count").with_columns(
        pl.col("variable").str.split_exact(":", 1).struct.rename_fields(["what", "column"]).struct.unnest()
    )
    return (
        long.pivot("what", on_columns=["measured", "implausible"], index=[*by, "column", "hours"], values="count")
        .sort(*by, "column")
        .select(*by, "column", "hours", "measured", "implausible")
    )


def _name(code: pl.Expr, names: dict[int, str], otherwise: str) -> pl.Expr:
    named = code.cast(pl.Int8).replace_strict(names, default=None, return_dtype=pl.String)
    return named.fill_null(otherwise)


def _name_age_band(years: pl.Expr) -> pl.Expr:
    return (
        pl.when(years < 45)
        .then(pl.lit("<45"))
        .when(years < 65)
        .then(pl.lit("[45-65)"))
        .when(years < 75)
        .then(pl.lit("[65-75)"))
        .when(years < 85)
        .then(pl.lit("[75-85)"))
        .when(years >= 85)
        .then(pl.lit(">=85"))
        .otherwise(pl.lit("unknown"))
    )
