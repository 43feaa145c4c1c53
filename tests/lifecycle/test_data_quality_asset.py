import dagster as dg
import polars as pl
from small_icu import ICU, ICU_MONTHS, SilentMonth, broken_patient
from small_platform import MODEL, Developed

from clinical_assets.defs.sepsis.cohort import MEASUREMENTS
from clinical_assets.governance.pseudonyms import load_or_create_key, pseudonymise

APRIL, MAY, JUNE = ICU_MONTHS[:3]


def quality(at: SilentMonth) -> pl.DataFrame:
    return at.platform.lake.read(f"{ICU}.data_quality")


def test_the_missing_values_of_every_column_are_counted_month_by_month(silent_month: SilentMonth) -> None:
    counted = quality(silent_month).filter(subgroup="overall", fault="missing")
    for month in ICU_MONTHS:
        rows = silent_month.platform.lake.read(f"{ICU}.dataset", month=month)
        expected = {name: rows[name].null_count() for name in rows.columns}
        of_month = counted.filter(month=month)
        assert dict(of_month.select("column", "affected").iter_rows()) == expected
        assert of_month["rows"].unique().to_list() == [rows.height]


def test_a_value_that_nobody_can_have_is_counted_by_hospital_and_month_and_is_no_feature(
    silent_month: SilentMonth,
) -> None:
    oxygen = quality(silent_month).filter(column="fio2_fraction", fault="implausible").sort("month")
    assert oxygen.filter(subgroup="site=B").select("month", "affected").rows() == [(x, 1) for x in ICU_MONTHS[1:]]
    assert oxygen.filter(subgroup="site=A")["affected"].sum() == 0
    assert (oxygen["rows"] > oxygen["affected"]).all()
    kept = silent_month.platform.lake.read(f"{ICU}.dataset")["fio2_fraction"]
    assert kept.min() > 0  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]


def test_a_column_that_a_hospital_never_measures_is_named_and_no_other_hospital_is(silent_month: SilentMonth) -> None:
    never = quality(silent_month).filter(column="end_tidal_co2_mmhg", reason="this hospital never measures it")
    assert never["subgroup"].unique().to_list() == ["site=A"]
    assert never.sort("month")["month"].to_list() == list(ICU_MONTHS)
    assert (never["affected"] == never["rows"]).all()
    named = set(quality(silent_month).filter(subgroup="site=A")["column"])
    assert named == set(MEASUREMENTS.values())


def test_a_broken_file_stands_in_its_patient_s_month_under_a_pseudonym(silent_month: SilentMonth) -> None:
    (broken,) = quality(silent_month).filter(fault="quarantined").to_dicts()
    key = load_or_create_key(silent_month.platform.home.pseudonym_key)
    expected = pseudonymise(pl.DataFrame({"patient_id": [broken_patient()]}), ("patient_id",), key)
    assert broken["place"] == expected["patient_id"].item()
    assert (broken["month"], broken["subgroup"], broken["affected"]) == (JUNE, "site=B", 1)
    assert broken["reason"] == "line 1: 40 columns, without SepsisLabel"


def test_nothing_that_names_a_patient_is_in_the_table(silent_month: SilentMonth) -> None:
    told = quality(silent_month)
    assert not any(told[name].cast(pl.String).str.contains(r"p1\d{5}|p0\d{5}").any() for name in told.columns)


def test_a_cohort_that_reports_no_faults_still_has_its_missing_values(developed: Developed) -> None:
    assert developed.platform.protocol.faults is None
    told = developed.platform.lake.read(f"{MODEL}.data_quality")
    assert told["fault"].unique().to_list() == ["missing"]
    assert told["month"].n_unique() == 5
    dataset = developed.platform.lake.read(f"{MODEL}.dataset")
    assert set(told["column"]) == set(dataset.columns)
    assert told["affected"].sum() == dataset.drop("month").null_count().sum_horizontal().item()


def test_the_catalogue_shows_how_many_and_the_worst(silent_month: SilentMonth) -> None:
    event = silent_month.instance.fetch_materializations(_key(), limit=10, ascending=True).records[1]
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    assert event.asset_materialization.partition == "2025-05"
    of_may = quality(silent_month).filter(month=MAY)
    for name, fault in (("missing_values", "missing"), ("implausible_values", "implausible")):
        assert shown[name].value == of_may.filter(fault=fault)["affected"].sum() > 0
    assert shown["quarantined"].value == 0
    assert "calcium_mg_dl | site=B" in str(shown["faults"].value)


def _key() -> dg.AssetKey:
    return dg.AssetKey([ICU, "data_quality"])
