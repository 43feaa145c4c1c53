"""What a model of hourly intensive-care data sees of each hour: the hour itself and the patient's past, never later.

Belongs here: features of vital signs and laboratory values over time, in Polars. Does not belong here: how the hours
were recorded (a cohort's contract), plausible ranges, estimators.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from clinical_assets.learning.estimator import LearningError

VITAL_SIGNS = (
    *("heart_rate_bpm", "spo2_percent", "temperature_c", "systolic_bp_mmhg", "mean_arterial_pressure_mmhg"),
    *("diastolic_bp_mmhg", "respiratory_rate_per_min", "end_tidal_co2_mmhg"),
)
LABORATORY = (
    *("base_excess_mmol_l", "bicarbonate_mmol_l", "fio2_fraction", "arterial_ph", "paco2_mmhg", "sao2_percent"),
    *("ast_iu_l", "urea_nitrogen_mg_dl", "alkaline_phosphatase_iu_l", "calcium_mg_dl", "chloride_mmol_l"),
    *("creatinine_mg_dl", "bilirubin_direct_mg_dl", "glucose_mg_dl", "lactate_mmol_l", "magnesium_mg_dl"),
    *("phosphate_mg_dl", "potassium_mmol_l", "bilirubin_total_mg_dl", "troponin_i_ng_ml", "haematocrit_percent"),
    *("haemoglobin_g_dl", "ptt_s", "white_cells_per_nl", "fibrinogen_mg_dl", "platelets_per_nl"),
)
MEASUREMENTS = (*VITAL_SIGNS, *LABORATORY)
KEYS = ("patient_id", "icu_los_h")
CONTEXT = ("age_years", "hours_since_hospital_admission", "sex", "icu_unit")
WINDOWS_H = (6, 12)
SLOPE_WINDOW_H = 12
LABORATORY_WINDOW_H = 24
SOFA_WINDOW_H = 24

_CLOCK = "_clock_h"


@dataclass(frozen=True, slots=True)
class _Feature:
    """A feature: its name, what it means, and how it is computed of rows in the order of patient and hour."""

    name: str
    description: str
    expression: pl.Expr


def hourly_features(dataset: pl.DataFrame) -> pl.DataFrame:
    """What an estimator sees of each hour, beside the columns the dataset has: some 340 features as Float32.

    A row uses its own hour and earlier hours of the same patient, and no other row. Hours may be absent: windows and
    intervals are in hours, not rows. What was never measured is null.

    Args:
        dataset: one row an hour of a patient: `patient_id`, `icu_los_h` (hours since ICU admission, whole), the
            measurements of `MEASUREMENTS`, and `CONTEXT`; further columns are kept as they are.

    Returns:
        as many rows, in the order of `patient_id` and `icu_los_h`.

    Raises LearningError where a column is missing, an hour is no whole number, or a patient has an hour twice.
    """
    if missing := [name for name in (*KEYS, *MEASUREMENTS, *CONTEXT) if name not in dataset.columns]:
        raise LearningError(f"the dataset lacks the columns {missing}; the cohort must give them")
    rows = dataset.sort(KEYS).with_columns(
        pl.col(*MEASUREMENTS, "age_years", "hours_since_hospital_admission", "icu_los_h").cast(pl.Float32)
    )
    rows = _add_clock(rows)
    for stage in (_history_features(), _derived_features()):
        rows = rows.with_columns(feature.expression.cast(pl.Float32).alias(feature.name) for feature in stage)
    return rows.drop(_CLOCK)


def describe_hourly_features() -> dict[str, str]:
    """What each column means that `hourly_features` adds, with its unit, in their order."""
    return {feature.name: feature.description for feature in (*_history_features(), *_derived_features())}


def _add_clock(rows: pl.DataFrame) -> pl.DataFrame:
    """Add an hourly clock on which patients follow each other so far apart that no window reaches another patient."""
    hour = pl.col("icu_los_h")
    faults = rows.select(
        no_patient=pl.col("patient_id").is_null().sum(),
        no_hour=(hour.is_null() | (hour != hour.floor())).sum(),
        longest=hour.max() - hour.min(),
    ).row(0, named=True)
    if faults["no_patient"] or faults["no_hour"]:
        raise LearningError(
            f"of {len(rows):,} rows, {faults['no_patient']:,} have no patient_id and {faults['no_hour']:,} no whole "
            "hour in icu_los_h; give each row its patient and the hours since admission to the ICU"
        )
    gap = int(faults["longest"] or 0) + max(LABORATORY_WINDOW_H, SOFA_WINDOW_H, *WINDOWS_H) + 1
    clock = pl.col("icu_los_h").cast(pl.Int64) + pl.col("patient_id").rle_id().cast(pl.Int64) * gap
    rows = rows.with_columns(clock.alias(_CLOCK))
    if repeated := rows.select((pl.col(_CLOCK).diff() == 0).sum()).item():
        raise LearningError(f"{repeated:,} of {len(rows):,} rows repeat an hour of their patient; give each hour once")
    return rows


def _history_features() -> Iterator[_Feature]:
    """What is known of each measurement by itself."""
    for name in MEASUREMENTS:
        value, measured = pl.col(name), pl.col(name).is_not_null()
        last = value.forward_fill()
        last_hour = pl.when(measured).then(_CLOCK).forward_fill()
        previous = pl.when(measured).then(last.shift()).forward_fill()
        yield _Feature(f"{name}_last", f"{name}: last value", _by_patient(last))
        yield _Feature(
            f"{name}_hours_since", f"{name}: hours since it was measured", _by_patient(pl.col(_CLOCK) - last_hour)
        )
        yield _Feature(f"{name}_count", f"{name}: measurements so far", _by_patient(value.cum_count()))
        yield _Feature(f"{name}_change", f"{name}: last value minus the one before", _by_patient(last - previous))
        yield _Feature(f"{name}_min", f"{name}: lowest so far", _by_patient(value.cum_min().forward_fill()))
        yield _Feature(f"{name}_max", f"{name}: highest so far", _by_patient(value.cum_max().forward_fill()))
    for name in VITAL_SIGNS:
        value = pl.col(name)
        for hours in WINDOWS_H:
            window, within = f"{hours}i", f"{name}: %s of the past {hours} h"
            yield _Feature(f"{name}_mean_{hours}h", within % "mean", value.rolling_mean_by(_CLOCK, window))
            yield _Feature(f"{name}_min_{hours}h", within % "lowest", value.rolling_min_by(_CLOCK, window))
            yield _Feature(f"{name}_max_{hours}h", within % "highest", value.rolling_max_by(_CLOCK, window))
            yield _Feature(f"{name}_std_{hours}h", within % "standard deviation", value.rolling_std_by(_CLOCK, window))
        yield _Feature(
            f"{name}_slope_{SLOPE_WINDOW_H}h",
            f"{name}: slope of the past {SLOPE_WINDOW_H} h by least squares, per hour",
            _slope(value, SLOPE_WINDOW_H),
        )
        mean = value.cast(pl.Float64).cum_sum().forward_fill() / value.cum_count()
        yield _Feature(
            f"{name}_minus_mean",
            f"{name}: last value minus the patient's mean so far",
            _by_patient(value.forward_fill() - mean),
        )
    for name in LABORATORY:
        yield _Feature(
            f"{name}_count_{LABORATORY_WINDOW_H}h",
            f"{name}: measurements of the past {LABORATORY_WINDOW_H} h",
            pl.col(name).is_not_null().cast(pl.Int32).rolling_sum_by(_CLOCK, f"{LABORATORY_WINDOW_H}i"),
        )


def _derived_features() -> Iterator[_Feature]:
    """What is known of several measurements together, from their last values.

    The partial SOFA score has five of the six organs of Vincent et al. 1996 (doi 10.1007/BF01709751): consciousness and
    vasopressors are not recorded, and breathing is scored by SpO2/FiO2 as in Pandharipande et al. 2009 (doi
    10.1097/CCM.0b013e31819cefa9), whose 3 and 4 presuppose ventilation, which is not recorded either. An organ that was
    never measured scores 0. SIRS: Bone et al. 1992 (doi 10.1378/chest.101.6.1644). qSOFA without consciousness: Singer
    et al. 2016 (doi 10.1001/jama.2016.0287).
    """
    heart, systolic = _last("heart_rate_bpm"), _last("systolic_bp_mmhg")
    mean_pressure, breathing = _last("mean_arterial_pressure_mmhg"), _last("respiratory_rate_per_min")
    temperature, white_cells = _last("temperature_c"), _last("white_cells_per_nl")
    creatinine, saturation_ratio = _last("creatinine_mg_dl"), _ratio(_last("spo2_percent"), _last("fio2_fraction"))
    urea_ratio = _ratio(_last("urea_nitrogen_mg_dl"), creatinine)
    yield _Feature("shock_index", "Heart rate / systolic blood pressure", _ratio(heart, systolic))
    yield _Feature("modified_shock_index", "Heart rate / mean arterial pressure", _ratio(heart, mean_pressure))
    yield _Feature("age_shock_index", "Age in years x shock index", _ratio(pl.col("age_years") * heart, systolic))
    yield _Feature("pulse_pressure_mmhg", "Systolic minus diastolic pressure", systolic - _last("diastolic_bp_mmhg"))
    yield _Feature("spo2_fio2_ratio", "Oxygen saturation by pulse oximetry, %, / FiO2", saturation_ratio)
    yield _Feature("urea_nitrogen_creatinine_ratio", "Urea nitrogen / creatinine, both mg/dL", urea_ratio)
    organs = {
        "breathing": _points(saturation_ratio < limit for limit in (512, 357, 214, 89)),
        "coagulation": _points(_last("platelets_per_nl") < limit for limit in (150, 100, 50, 20)),
        "liver": _points(_last("bilirubin_total_mg_dl") >= limit for limit in (1.2, 2.0, 6.0, 12.0)),
        "circulation": _points([mean_pressure < 70]),
        "kidney": _points(creatinine >= limit for limit in (1.2, 2.0, 3.5, 5.0)),
    }
    for organ, points in organs.items():
        yield _Feature(f"sofa_{organ}", f"SOFA points for {organ}; null if never measured", points)
    sofa = pl.sum_horizontal(organs.values())
    rise = sofa - sofa.rolling_min_by(_CLOCK, f"{SOFA_WINDOW_H}i")
    yield _Feature("sofa_partial", "SOFA points of five organs, without vasopressors and consciousness", sofa)
    yield _Feature("sofa_rise_24h", "sofa_partial minus its lowest of the past 24 h", rise)
    sirs = (
        (temperature > 38) | (temperature < 36),
        heart > 90,
        (breathing > 20) | (_last("paco2_mmhg") < 32),
        (white_cells > 12) | (white_cells < 4),
    )
    yield _Feature("sirs_criteria", "SIRS criteria met, of 4", pl.sum_horizontal(sirs))
    qsofa = pl.sum_horizontal(breathing >= 22, systolic <= 100)
    yield _Feature("qsofa_partial", "qSOFA criteria met, of the 2 that are recorded", qsofa)
    yield _Feature("vital_signs_measured", "Vital signs measured in this hour, of 8", _count_measured(VITAL_SIGNS))
    yield _Feature("laboratory_measured", "Laboratory values of this hour, of 26", _count_measured(LABORATORY))
    yield _Feature(
        "laboratory_measured_24h",
        "Laboratory values of the past 24 h",
        pl.sum_horizontal(f"{name}_count_{LABORATORY_WINDOW_H}h" for name in LABORATORY),
    )
    yield _Feature(
        "ever_measured",
        "Different measurements so far, of 34",
        pl.sum_horizontal(pl.col(f"{name}_count") > 0 for name in MEASUREMENTS),
    )
    yield _Feature(
        "laboratory_hours_since",
        "Hours since any laboratory value",
        pl.min_horizontal(f"{name}_hours_since" for name in LABORATORY),
    )
    yield _Feature(
        "hours_from_hospital_to_icu",
        "Hours from admission to the hospital to that to the ICU",
        pl.col("hours_since_hospital_admission") - pl.col("icu_los_h"),
    )
    yield _Feature("male", "1 if male, 0 if female; null if unknown", _indicator("sex", yes="male", no="female"))
    yield _Feature(
        "medical_unit",
        "1 in a medical ICU, 0 in a surgical one; null if not recorded",
        _indicator("icu_unit", yes="medical", no="surgical"),
    )


def _by_patient(expression: pl.Expr) -> pl.Expr:
    return expression.over("patient_id")


def _last(name: str) -> pl.Expr:
    return pl.col(f"{name}_last")


def _ratio(numerator: pl.Expr, denominator: pl.Expr) -> pl.Expr:
    return numerator / pl.when(denominator > 0).then(denominator)


def _points(reached: Iterable[pl.Expr]) -> pl.Expr:
    """How many limits are reached; null where the value is."""
    first, *others = (limit.cast(pl.Int8) for limit in reached)
    return sum(others, first)


def _count_measured(names: Iterable[str]) -> pl.Expr:
    return pl.sum_horizontal(pl.col(name).is_not_null() for name in names)


def _indicator(name: str, yes: str, no: str) -> pl.Expr:
    return pl.col(name).replace_strict({yes: 1.0, no: 0.0}, default=None, return_dtype=pl.Float32)


def _slope(value: pl.Expr, hours: int) -> pl.Expr:
    """The slope per hour of a least-squares line through the values of the past hours; null with fewer than three."""

    def total(expression: pl.Expr) -> pl.Expr:
        return pl.when(value.is_not_null()).then(expression).rolling_sum_by(_CLOCK, f"{hours}i")

    hour, height = pl.col("icu_los_h").cast(pl.Float64), value.cast(pl.Float64)
    n, of_hours, of_heights = total(pl.lit(1.0)), total(hour), total(height)
    spread = n * total(hour * hour) - of_hours * of_hours
    return pl.when(n >= 3).then((n * total(hour * height) - of_hours * of_heights) / spread)
