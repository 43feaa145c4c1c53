"""A simulated identified feed: persons who do not exist, drawn for the patients of a simulated archive.

Belongs here: what a hospital's feed says of who a patient is, one column at least for each of the 18 identifiers of
HIPAA's Safe Harbor, and how it is drawn. Does not belong here: what is done about it (governance/safe_harbor.py).

Nobody is behind any value. Social security numbers begin with 9 or 666, which the SSA never assigns; telephone and fax
numbers end in 555-01xx, kept for fiction (NANPA); e-mail and web addresses are at example.org (RFC 2606); IP addresses
are those of documentation (RFC 5737). A ZIP code is made of a real three-digit area, some of them restricted, and two
drawn digits; streets, towns and counties are invented.
"""

from datetime import date

import dataframely as dy
import duckdb
import polars as pl

GIVEN_NAMES = (
    *("Adaeze", "Aiko", "Alma", "Anders", "Beatriz", "Bram", "Carmen", "Cedric", "Dalia", "Dmitri", "Edith", "Emeka"),
    *("Fiona", "Farid", "Greta", "Gustavo", "Hana", "Henrik", "Ines", "Isaac", "Jolanta", "Jamal", "Keiko", "Kofi"),
    *("Lena", "Luis", "Maeve", "Marek", "Nadia", "Nils", "Olga", "Omar", "Priya", "Pavel", "Quinn", "Rosa", "Rafael"),
    *("Sanna", "Sven", "Tamar", "Tomas", "Uma", "Ulrich", "Vera", "Victor", "Wanda", "Wim", "Yara", "Yusuf", "Zofia"),
)
FAMILY_NAMES = (
    *("Abernathy", "Achterberg", "Brandvold", "Castellano", "Dzierzynski", "Eberhardt", "Featherstone", "Goldblum"),
    *("Hallgrimson", "Ivanchenko", "Jankowski", "Kowalczyk", "Lindqvist", "Mbeki-Okafor", "Nakagawa", "Oyelaran"),
    *("Papadakis", "Quartermaine", "Rosenzweig", "Szabolcs", "Thistlewood", "Urquhart", "Vandermeer", "Wintergreen"),
    *("Xanthopoulos", "Yamashiro", "Zimmerle", "Ashdown-Reyes", "Birkenfeld", "Cholmondeley"),
)
STREETS = ("Simulation Street", "Invented Avenue", "Example Lane", "Fictional Drive", "Imaginary Court")
TOWNS = ("Exampleton", "Simville", "Mockingham", "Nowhere Falls", "Placeholder Springs")
COUNTIES = ("Example County", "Simulated County", "Invented County")
AREAS = {
    **{"606": "IL", "100": "NY", "941": "CA", "303": "GA", "981": "WA", "021": "MA", "750": "TX"},
    **{"036": "NH", "821": "WY", "893": "NV"},
}
"""Three-digit ZIP areas with their state; 036, 821 and 893 are restricted."""

DOCUMENTATION_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")
REPLAY_END = date(2025, 12, 31)
YOUNGEST_YEARS, AGES_YEARS = 40, 56
"""Where the archive gives no age, it is drawn from this one on, over so many years: to 95."""

_DRAWN = (
    *("given", "family", "house", "street", "town", "county", "area", "zip", "days", "phone", "fax", "ssn", "mrn"),
    *("plan", "account", "licence", "plate", "device", "ip", "finger", "study", "exchange"),
)


def _identity(identifier: str, description: str, rule: str = "drop") -> dy.String:
    return dy.String(description=f"{description}; simulated", metadata={"identifier": identifier, "safe_harbor": rule})


class SimulatedIdentity(dy.Schema):
    """Who the patient of a row is: simulated, with what becomes of each column under Safe Harbor."""

    given_name = _identity("names", "Given name")
    family_name = _identity("names", "Family name")
    street_address = _identity("geographic", "House number and street")
    town = _identity("geographic", "Town")
    county = _identity("geographic", "County")
    zip_code = _identity("geographic", "ZIP code, five digits", "zip3")
    state = dy.String(
        description="State, two letters; no identifier, and no model needs it; simulated",
        metadata={"safe_harbor": "drop"},
    )
    birth_date = dy.Date(
        description="Date of birth; simulated", metadata={"identifier": "dates", "safe_harbor": "birth_year"}
    )
    telephone = _identity("telephone", "Telephone number")
    fax = _identity("fax", "Fax number")
    email = _identity("email", "E-mail address")
    ssn = _identity("ssn", "Social security number")
    mrn = _identity("mrn", "Medical record number")
    health_plan_number = _identity("health_plan", "Health plan beneficiary number")
    account_number = _identity("account", "Account number")
    licence_number = _identity("licence", "Driving licence number")
    vehicle_plate = _identity("vehicle", "Vehicle licence plate")
    device_serial = _identity("device", "Serial number of an implanted device")
    web_address = _identity("url", "Address of the patient's page in the portal")
    ip_address = _identity("ip_address", "IP address of the last login to the portal")
    fingerprint = _identity("biometric", "Fingerprint template, hexadecimal")
    face_photograph = _identity("photograph", "File of the full-face photograph")
    study_number = _identity("other_unique", "Number in a research study")
    clinical_note = dy.String(
        description="Free text that repeats some of the above; simulated", metadata={"safe_harbor": "drop"}
    )


def identify(rows: pl.DataFrame, *, patient: str, index_time: str, age: str | None, seed: str) -> pl.DataFrame:
    """The rows of a cohort with the columns of `SimulatedIdentity`, as a hospital's feed would have them.

    Args:
        rows: one row a prediction unit, in any order.
        patient: the column that names the patient; the person depends on its value and the seed alone, except that
            the birth date follows the age.
        index_time: the column with the time at which the age is given.
        age: the column with the age in years, or in bands such as `[70-80)`; None where there is none.
        seed: any text.

    Returns:
        as many rows, in the same order, with further columns.
    """
    patients = rows.group_by(patient, maintain_order=True).agg(
        pl.col(index_time).first().dt.date().alias("seen_on"),
        *([] if age is None else [pl.col(age).first().alias("age")]),
    )
    drawn = _draw(patients[patient], seed)
    banded = age is not None and rows.schema[age] == pl.String
    persons = pl.concat([patients.rename({patient: "patient"}), drawn], how="horizontal").select(
        pl.col("patient").alias(patient), _birth_date(None if age is None else "age", banded), *_person()
    )
    persons = persons.with_columns(
        pl.format(
            "SIMULATED NOTE. {} {} (MRN {}, born {}), {}, telephone {}, {}. Feels better; wishes to go home.",
            *("given_name", "family_name", "mrn", "birth_date", "street_address", "telephone", "email"),
        ).alias("clinical_note")
    )
    return rows.join(persons, on=patient, how="left", maintain_order="left")


def _draw(patients: pl.Series, seed: str) -> pl.DataFrame:
    """A number of 48 bits for each patient and each thing that is drawn, of the SHA-256 of both and the seed."""
    numbers = ", ".join(
        f"('0x' || left(sha256($seed || ':{name}:' || patient), 12))::BIGINT AS {name}" for name in _DRAWN
    )
    with duckdb.connect() as engine:
        engine.register("patients", patients.cast(pl.String).alias("patient").to_frame())
        return engine.execute(f"SELECT {numbers} FROM patients", {"seed": seed}).pl()


def _one_of(values: tuple[str, ...], drawn: str) -> pl.Expr:
    return pl.lit(pl.Series(values)).gather(pl.col(drawn) % len(values))


def _digits(drawn: str, count: int) -> pl.Expr:
    return (pl.col(drawn) % 10**count).cast(pl.String).str.zfill(count)


def _fictional_number(drawn: str) -> pl.Expr:
    exchange = (200 + pl.col("exchange") % 700).cast(pl.String)
    return pl.format("({}) 555-01{}", exchange, _digits(drawn, 2))


def _birth_date(age: str | None, banded: bool) -> pl.Expr:
    """A date of birth that gives the age when the patient is seen, or keeps it in its decade over all of the replay."""
    within_years = pl.col("days") % (8 * 365) / 365
    if age is None:
        old = YOUNGEST_YEARS + pl.col("days") % (AGES_YEARS * 365) / 365
        end = pl.lit(REPLAY_END)
    elif banded:
        old = pl.col(age).str.extract(r"(\d+)").cast(pl.Float64).fill_null(YOUNGEST_YEARS) + 2 + within_years
        end = pl.lit(REPLAY_END)
    else:
        old = pl.col(age).cast(pl.Float64).fill_null(YOUNGEST_YEARS)
        end = pl.col("seen_on")
    return (end - pl.duration(days=(old * 365.25).round())).cast(pl.Date).alias("birth_date")


def _person() -> list[pl.Expr]:
    given, family = _one_of(GIVEN_NAMES, "given"), _one_of(FAMILY_NAMES, "family")
    area = _one_of(tuple(AREAS), "area")
    account = pl.concat_str(given.str.to_lowercase(), pl.lit("."), family.str.to_lowercase(), _digits("mrn", 6))
    unissued = (
        pl.when(pl.col("ssn") % 4 == 0).then(pl.lit("666")).otherwise((900 + pl.col("ssn") % 100).cast(pl.String))
    )
    network = _one_of(DOCUMENTATION_NETWORKS, "ip")
    return [
        given.alias("given_name"),
        family.alias("family_name"),
        pl.format("{} {}", 1 + pl.col("house") % 9_999, _one_of(STREETS, "street")).alias("street_address"),
        _one_of(TOWNS, "town").alias("town"),
        _one_of(COUNTIES, "county").alias("county"),
        (area + _digits("zip", 2)).alias("zip_code"),
        area.replace_strict(AREAS, return_dtype=pl.String).alias("state"),
        _fictional_number("phone").alias("telephone"),
        _fictional_number("fax").alias("fax"),
        (account + pl.lit("@example.org")).alias("email"),
        pl.format("{}-{}-{}", unissued, _digits("house", 2), _digits("ssn", 4)).alias("ssn"),
        (pl.lit("MRN") + _digits("mrn", 12)).alias("mrn"),
        (pl.lit("HP") + _digits("plan", 10)).alias("health_plan_number"),
        (pl.lit("AC") + _digits("account", 10)).alias("account_number"),
        (pl.lit("DL") + _digits("licence", 9)).alias("licence_number"),
        pl.format("SIM-{}", _digits("plate", 5)).alias("vehicle_plate"),
        (pl.lit("SN") + _digits("device", 10)).alias("device_serial"),
        (pl.lit("https://example.org/patients/") + _digits("mrn", 12)).alias("web_address"),
        pl.format("{}.{}", network, 1 + pl.col("ip") // 3 % 254).alias("ip_address"),
        pl.format("FP{}{}", _digits("finger", 14), _digits("study", 6)).alias("fingerprint"),
        pl.format("face-{}.jpg", _digits("finger", 10)).alias("face_photograph"),
        (pl.lit("STUDY") + _digits("study", 8)).alias("study_number"),
    ]
