from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from clinical_assets.archives.identified_feed import AREAS, REPLAY_END, SimulatedIdentity, identify
from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.safe_harbor import RESTRICTED_ZIP3

SEEN = datetime(2025, 3, 9, 14, tzinfo=UTC)
AGES = {"child": 17.0, "adult": 62.4, "old": 89.0}
BANDS = {"adult": "[60-70)", "old": "[90-100)"}


def cohort(patients: list[str], ages: dict[str, float] | dict[str, str] = AGES) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "patient_id": patients,
            "seen_at": [SEEN + timedelta(days=row) for row in range(len(patients))],
            "age": [ages.get(patient) for patient in patients],
        },
        schema_overrides={"age": pl.String if ages is BANDS else pl.Float64},
    )


def feed(rows: pl.DataFrame, seed: str = "seed", age: str | None = "age") -> pl.DataFrame:
    return identify(rows, patient="patient_id", index_time="seen_at", age=age, seed=seed)


@pytest.fixture(scope="module")
def crowd() -> pl.DataFrame:
    return feed(cohort([f"patient {number}" for number in range(2_000)]))


def test_the_feed_has_an_identifier_of_each_of_the_18_classes() -> None:
    declared = [column.metadata or {} for column in SimulatedIdentity.columns().values()]
    assert {said["identifier"] for said in declared if "identifier" in said} == set(IdentifierClass)
    assert all("safe_harbor" in said for said in declared)
    assert all("simulated" in (column.description or "") for column in SimulatedIdentity.columns().values())


def test_rows_keep_their_order_and_their_columns(crowd: pl.DataFrame) -> None:
    rows = cohort(["old", "adult", "old", "child"])
    out = feed(rows)
    assert out.select(rows.columns).equals(rows)
    SimulatedIdentity.validate(out.select(SimulatedIdentity.column_names()))
    SimulatedIdentity.validate(crowd.select(SimulatedIdentity.column_names()))


def test_a_patient_is_one_person_in_every_row_and_every_month() -> None:
    out = feed(cohort(["adult", "old", "adult"], BANDS))
    later = feed(cohort(["adult"], BANDS).with_columns(pl.col("seen_at") + timedelta(days=200)))
    who = SimulatedIdentity.column_names()
    assert out[0].select(who).equals(out[2].select(who))
    assert out[0].select(who).equals(later.select(who))
    assert out["mrn"].n_unique() == 2


def test_another_seed_makes_other_persons() -> None:
    rows = cohort(["adult", "old"])
    assert not set(feed(rows)["mrn"]) & set(feed(rows, seed="other")["mrn"])


def test_no_two_patients_share_a_record_number(crowd: pl.DataFrame) -> None:
    assert crowd["mrn"].n_unique() == crowd.height


@pytest.mark.parametrize(
    ("column", "pattern"),
    [
        ("ssn", r"^(9\d{2}|666)-\d{2}-\d{4}$"),
        ("telephone", r"^\(\d{3}\) 555-01\d{2}$"),
        ("fax", r"^\(\d{3}\) 555-01\d{2}$"),
        ("email", r"^[a-z.-]+\d{6}@example\.org$"),
        ("web_address", r"^https://example\.org/patients/\d{12}$"),
        ("ip_address", r"^(192\.0\.2|198\.51\.100|203\.0\.113)\.([1-9]\d?|1\d\d|2[0-4]\d|25[0-4])$"),
    ],
)
def test_every_value_lies_where_nobody_real_can_be(crowd: pl.DataFrame, column: str, pattern: str) -> None:
    assert crowd[column].str.contains(pattern).all()


def test_zip_codes_are_of_restricted_and_of_other_areas(crowd: pl.DataFrame) -> None:
    areas = set(crowd["zip_code"].str.slice(0, 3))
    assert areas == set(AREAS)
    assert areas & RESTRICTED_ZIP3
    assert areas - RESTRICTED_ZIP3


def test_the_birth_date_follows_the_age() -> None:
    out = feed(cohort(list(AGES)))
    years = (out["seen_at"].dt.date() - out["birth_date"]).dt.total_days() / 365.25
    assert years.round(1).to_list() == list(AGES.values())


def test_of_a_band_the_birth_date_keeps_to_the_decade_over_the_whole_replay() -> None:
    out = feed(cohort(list(BANDS) * 50, BANDS))
    for day in (datetime(2024, 1, 1).date(), datetime(2025, 12, 31).date()):
        years = (pl.lit(day) - pl.col("birth_date")).dt.total_days() / 365.25
        decades = out.select("age", (years // 10 * 10).cast(pl.Int64).alias("decade")).unique().sort("age")
        assert decades["decade"].to_list() == [60, 90]


def test_without_an_age_the_person_has_one_all_the_same() -> None:
    out = feed(cohort([f"patient {number}" for number in range(500)]).drop("age"), age=None)
    years = out.select((pl.lit(REPLAY_END) - pl.col("birth_date")).dt.total_days() / 365.25).to_series()
    assert years.is_between(40, 96).all()
    assert (years >= 90).any()


def test_the_note_repeats_identifiers_and_says_that_it_is_simulated(crowd: pl.DataFrame) -> None:
    told = crowd.select(pl.col("clinical_note").str.contains(pl.col("mrn"), literal=True).all()).item()
    assert told
    assert crowd["clinical_note"].str.starts_with("SIMULATED NOTE").all()
