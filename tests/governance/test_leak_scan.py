"""An identifier of each of the 18 kinds is found in every written form, and nothing else is taken for one."""

import base64
import gzip
import io
import json
import zipfile
from datetime import date
from urllib.parse import quote

import polars as pl
import pytest

from clinical_assets.governance.canaries import Canary, canaries
from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.known_identifiers import KnownIdentifiers, written_forms
from clinical_assets.governance.leak_patterns import announced_by_column
from clinical_assets.governance.leak_scan import KNOWN, Exemption, Leak, LeakScanner
from clinical_assets.governance.readable_content import (
    UnreadableContentError,
    content_of_file,
    content_of_frame,
)

SALT = bytes(32)
PLANTED = canaries(SALT)
SCANNER = LeakScanner(KnownIdentifiers.of((canary.identifier_class, canary.value) for canary in PLANTED), SALT)
STRANGERS = LeakScanner(KnownIdentifiers.of([]), SALT)
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01" + bytes(200)


def found(content: bytes, scanner: LeakScanner = SCANNER, **expecting: bool) -> list[Leak]:
    return scanner.search(content_of_file("here", content, **expecting))


def kinds(leaks: list[Leak]) -> set[IdentifierClass]:
    return {leak.identifier_class for leak in leaks}


def known(leaks: list[Leak]) -> set[IdentifierClass]:
    return {leak.identifier_class for leak in leaks if leak.evidence == KNOWN}


def test_there_is_one_canary_of_each_kind_and_it_follows_from_the_seed() -> None:
    assert [canary.identifier_class for canary in PLANTED] == list(IdentifierClass)
    assert canaries(SALT) == PLANTED
    assert not {canary.value for canary in canaries(bytes(31) + b"1")} & {canary.value for canary in PLANTED}


@pytest.mark.parametrize("canary", PLANTED, ids=lambda canary: canary.identifier_class.value)
def test_a_known_identifier_is_found_however_it_is_written(canary: Canary) -> None:
    value, spaced = canary.value, " ".join(canary.value.replace("-", " ").split())
    forms = [value, value.upper(), value.lower(), spaced, quote(value, safe=""), json.dumps({"a": json.dumps(value)})]
    forms += [base64.b64encode(b"x" * before + value.encode() + b"yz").decode() for before in range(3)]
    for form in forms:
        assert canary.identifier_class in known(found(f"<td>{form}</td>".encode())), form


@pytest.mark.parametrize("canary", PLANTED, ids=lambda canary: canary.identifier_class.value)
def test_a_known_identifier_is_found_between_bytes_that_are_no_text(canary: Canary) -> None:
    assert canary.identifier_class in known(found(b"\x00\xff\x01" + canary.value.encode() + b"\x80\xfe\x00"))


@pytest.mark.parametrize("canary", PLANTED, ids=lambda canary: canary.identifier_class.value)
@pytest.mark.parametrize("packing", ["zip", "zip in gzip", "parquet", "list", "struct", "blob"])
def test_a_known_identifier_is_found_wherever_it_is_packed(canary: Canary, packing: str) -> None:
    zipped, parquet = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.txt", f"{canary.value}\n" * 20)
    pl.DataFrame({"x": [canary.value]}).write_parquet(parquet)
    contents = {
        "zip": lambda: content_of_file("a", zipped.getvalue()),
        "zip in gzip": lambda: content_of_file("a", gzip.compress(zipped.getvalue())),
        "parquet": lambda: content_of_file("a", parquet.getvalue()),
        "list": lambda: content_of_frame("a", pl.DataFrame({"x": [["of no matter", canary.value]]})),
        "struct": lambda: content_of_frame("a", pl.DataFrame({"x": [{"y": {"z": canary.value}}]})),
        "blob": lambda: content_of_frame("a", pl.DataFrame({"x": [parquet.getvalue(), b"\x00\x01"]})),
    }
    assert canary.identifier_class in known(SCANNER.search(contents[packing]()))


def test_a_number_is_found_in_a_column_of_numbers() -> None:
    ssn = next(canary.value for canary in PLANTED if canary.identifier_class is IdentifierClass.SSN)
    number = int(ssn.replace("-", ""))
    for values in ([number, 1], [float(number), 0.5]):
        leaks = SCANNER.search(content_of_frame("t", pl.DataFrame({"lactate": values})))
        assert [(leak.place, leak.identifier_class) for leak in leaks] == [("t.lactate", IdentifierClass.SSN)]


STRANGE = {
    IdentifierClass.NAMES: ['{"patient_name": "Erika Mustermann"}', "seen by Mrs Dalloway", "admitted: John Q. Smith"],
    IdentifierClass.GEOGRAPHIC: ["12 Long Acre Road", "Springfield, IL 62704-1234", "zip code: 90210"],
    IdentifierClass.DATES: [
        "DOB: 1951-03-07",
        '{\\"birth_date\\": \\"1951-03-07\\"}',
        "age: 93",
        "a 91-year-old woman",
    ],
    IdentifierClass.TELEPHONE: ["(212) 555-0123", "212-555-0123", "phone +44 20 7946 0958"],
    IdentifierClass.FAX: ["fax: 020 7946 0991"],
    IdentifierClass.EMAIL: ["write to erika.mustermann@example.org"],
    IdentifierClass.SSN: ["987-65-4321", "SSN 987654321"],
    IdentifierClass.MRN: ["MRN-1234567", '"medical_record_number": "A1234567"'],
    IdentifierClass.HEALTH_PLAN: ["member id: ZZ12345678", "1EG4-TE5-MK73"],
    IdentifierClass.ACCOUNT: ["4111-1111-1111-1111", "DE89 3704 0044 0532 0130 00", "account no: 12345678"],
    IdentifierClass.LICENCE: ["driver's license: D1234567", "npi=1234567893"],
    IdentifierClass.VEHICLE: ["1M8GDM9AXKP042788", "plate: ABC-1234"],
    IdentifierClass.DEVICE: ["00:1B:44:11:3A:B7", "serial number: SN4711-0815"],
    IdentifierClass.URL: ["https://portal.example.org/patients/4711", "https://people.example.org/erika"],
    IdentifierClass.IP_ADDRESS: ["login from 203.0.113.9", "login from 2001:db8::8a2e:370:7334"],
    IdentifierClass.BIOMETRIC: ['"fingerprint_template": "9f8a7b6c5d4e3f2a"', "voiceprint: 1234abcd5678"],
    IdentifierClass.PHOTOGRAPH: ["see IMG_20240102.jpg", "portrait of the patient.png"],
    IdentifierClass.OTHER_UNIQUE: ["passport C01X00T47", "national id: 85010112345"],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in STRANGE.items() for text in texts])
def test_an_identifier_of_a_stranger_is_found_by_its_shape(kind: IdentifierClass, text: str) -> None:
    assert set(STRANGE) == set(IdentifierClass)
    assert kind in kinds(found(f"before\n{text}\nafter".encode(), STRANGERS))


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-14T02:00:00.123456+00:00 dagster.daemon INFO Launched run 0769c989-2106-43bc-9d37-b9246182c27e",
        "b649a7ce7e94a4a3040fd26fa0c51c8c5bf7c13740381dd533c216e2f2398097",
        "lightgbm==4.6.0.1 polars==2.1.0 License :: OSI Approved :: Apache Software License 2.0",
        "leaf_value=0.0012345678 -0.0098765432 threshold=1234.5678 1234 5678 1234 5678",
        "http://127.0.0.1:3000 on 0.0.0.0, port 3000; https://docs.dagster.io/guides",
        "age_band=[90-100) | Discharged/transferred to home; 1,234 of 5,678 rows; 98.7 (97.1 to 99.9)",
        "sensitivity 0.91 at 90 years of replay, 95 % interval, page 90",
        "name: readmission, patient: patient_id, device: cpu, serial: true, member: yes, account: none",
        "Transfer from a Skilled Nursing Facility (SNF), Emergency Road Traffic, Mr",
    ],
)
def test_what_a_platform_writes_is_no_identifier(text: str) -> None:
    assert found(text.encode()) == []


def test_a_known_number_within_a_hash_or_a_longer_number_is_chance() -> None:
    form = max((form for form in written_forms(IdentifierClass.SSN, "987-65-4321") if form.isdigit()), key=len)
    scanner = LeakScanner(KnownIdentifiers.of([(IdentifierClass.SSN, "987-65-4321")]), SALT)
    assert found(f"a0{form}ff, 1{form}, {form}7".encode(), scanner) == []
    assert known(found(f"a0 {form} ff".encode(), scanner)) == {IdentifierClass.SSN}


def test_a_finding_never_shows_the_value() -> None:
    text = "\n".join([*(canary.value for canary in PLANTED), *(text for texts in STRANGE.values() for text in texts)])
    shown = repr(found(text.encode()))
    assert not [canary for canary in PLANTED if canary.value in shown]
    assert "Mustermann" not in shown
    assert "987" not in shown


def test_the_same_value_has_the_same_mark_in_two_places_and_another_under_another_key() -> None:
    value = PLANTED[6].value.encode()
    other = LeakScanner(SCANNER.known, b"1" * 32)
    [here, *_], [there, *_], [elsewhere, *_] = found(value), found(b"again " + value), found(value, other)
    assert here.mark == there.mark != elsewhere.mark


def test_photographs_are_found_and_figures_and_expected_images_are_not() -> None:
    png, figure = b"\x89PNG\r\n\x1a\n" + bytes(20), b"\x89PNG\r\n\x1a\ntEXtSoftware\0Matplotlib" + bytes(20)
    exif = b"\xff\xd8\xff\xe1\x00\x10Exif\0\0" + bytes(200)
    in_html = b'<img src="data:image/jpeg;base64,' + base64.b64encode(JPEG) + b'">'
    for photograph in (JPEG, png, exif, in_html, b"II*\0" + bytes(20)):
        assert kinds(found(photograph)) == {IdentifierClass.PHOTOGRAPH}
    assert found(figure) == []
    assert found(png, images_expected=True) == []
    assert kinds(found(exif, images_expected=True)) == {IdentifierClass.PHOTOGRAPH}


def test_columns_betray_identifiers_by_their_name_and_their_age() -> None:
    months = [date(2024, 1, 1)] * 2
    rows = pl.DataFrame(
        {"month": months, "seen": [date(2024, 2, 1), date(1951, 3, 7)], "age": [90, 91], "ssn": ["", "x"]}
    )
    leaks = SCANNER.search(content_of_frame("t", rows))
    assert {(leak.place, leak.evidence, leak.count) for leak in leaks} == {
        ("t.seen", "date years before the month", 1),
        ("t.age", "age over 90", 1),
        ("t.ssn", "column's name", 2),
    }
    assert announced_by_column("Patient Name") is IdentifierClass.NAMES
    assert announced_by_column("zip3") is announced_by_column("patient_id") is announced_by_column("camera") is None


def test_free_text_is_found_by_its_length() -> None:
    leaks = SCANNER.search(content_of_frame("t", pl.DataFrame({"reason": ["well " * 500, "well"]})))
    assert [(leak.evidence, leak.count) for leak in leaks] == [("free text", 1)]


def test_an_archive_that_does_not_open_is_an_error_and_not_clean() -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a", "b" * 100)
    for broken in (zipped.getvalue()[:60], b"\x1f\x8b\x08" + bytes(20), b"PAR1" + bytes(20) + b"PAR1"):
        with pytest.raises(UnreadableContentError, match="does not open"):
            found(broken)


def test_an_exemption_spares_a_pattern_in_its_place_and_never_a_known_identifier() -> None:
    name = PLANTED[0].value
    text = f"John Smith, author; {name}".encode()
    exempt = LeakScanner(
        SCANNER.known, SALT, (Exemption("he.e", "frequent name", "authors"), Exemption(".*", KNOWN, ""))
    )
    assert {leak.evidence for leak in found(text)} == {"frequent name", KNOWN}
    assert {leak.evidence for leak in found(text, exempt)} == {KNOWN}
