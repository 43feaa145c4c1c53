from datetime import date
from pathlib import Path

import polars as pl
import pytest

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.audit_verification import read_records
from clinical_assets.governance.identified_zone import IdentifiedZone, IdentifiedZoneError
from clinical_assets.governance.pseudonyms import PseudonymError

MARCH, APRIL = date(2025, 3, 1), date(2025, 4, 1)
ROWS = pl.DataFrame({"name": ["Canary Featherstone"], "ssn": ["900-12-3456"]})
WHO = {"actor": "run:7", "reason": "de-identification"}


@pytest.fixture
def zone(tmp_path: Path) -> IdentifiedZone:
    zone = IdentifiedZone(tmp_path / "identified", tmp_path / "keys" / "identified.key", AuditTrail(tmp_path / "audit"))
    zone.write("ward", MARCH, ROWS)
    return zone


def test_what_was_written_is_read_again(zone: IdentifiedZone) -> None:
    assert zone.read("ward", MARCH, **WHO).equals(ROWS)


def test_neither_names_nor_columns_can_be_read_in_the_file(zone: IdentifiedZone) -> None:
    content = zone.path("ward", MARCH).read_bytes()
    for word in (b"Canary", b"Featherstone", b"900-12-3456", b"name", b"ssn", b"PAR1"):
        assert word not in content


def test_the_zone_and_its_key_are_open_to_their_owner_alone(zone: IdentifiedZone) -> None:
    path = zone.path("ward", MARCH)
    assert [x.stat().st_mode & 0o777 for x in (path, zone.key)] == [0o600, 0o600]
    assert [x.stat().st_mode & 0o777 for x in (path.parent, path.parent.parent)] == [0o700, 0o700]


def test_every_reading_is_recorded_with_who_and_why_and_so_is_a_failed_one(zone: IdentifiedZone) -> None:
    zone.read("ward", MARCH, **WHO)
    with pytest.raises(IdentifiedZoneError, match="no identified feed of ward for 2025-04; materialise"):
        zone.read("ward", APRIL, **WHO)
    records = list(read_records(zone.audit))
    told = [(x.action, x.actor, x.target, x.reason, x.outcome) for x in records]
    assert told == [
        ("read_identified", "run:7", "ward/identified_feed/2025-03", "de-identification", "success"),
        ("read_identified", "run:7", "ward/identified_feed/2025-04", "de-identification", "failure"),
    ]


def test_one_changed_byte_anywhere_is_found(zone: IdentifiedZone) -> None:
    path = zone.path("ward", MARCH)
    whole = path.read_bytes()
    for at in (0, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(IdentifiedZoneError, match=r"2025-03\.identified was changed"):
            zone.read("ward", MARCH, **WHO)


def test_a_truncated_file_is_found(zone: IdentifiedZone) -> None:
    path = zone.path("ward", MARCH)
    whole = path.read_bytes()
    for length in (0, 10, 35, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(IdentifiedZoneError, match="was changed"):
            zone.read("ward", MARCH, **WHO)


def test_a_file_put_in_the_place_of_another_month_or_model_is_refused(zone: IdentifiedZone) -> None:
    content = zone.path("ward", MARCH).read_bytes()
    for model, month in (("ward", APRIL), ("clinic", MARCH)):
        zone.write(model, month, ROWS)
        zone.path(model, month).write_bytes(content)
        with pytest.raises(IdentifiedZoneError, match="is of another month"):
            zone.read(model, month, **WHO)


def test_another_key_opens_nothing_and_a_missing_one_is_not_made_anew(zone: IdentifiedZone) -> None:
    zone.key.write_bytes(bytes(32))
    with pytest.raises(IdentifiedZoneError, match="has another key"):
        zone.read("ward", MARCH, **WHO)
    zone.key.unlink()
    with pytest.raises(PseudonymError, match=r"there is no key .*identified\.key"):
        zone.read("ward", MARCH, **WHO)
    assert not zone.key.exists()


def test_two_writings_of_the_same_rows_have_nothing_in_common(zone: IdentifiedZone) -> None:
    first = zone.path("ward", MARCH).read_bytes()
    second = zone.write("ward", MARCH, ROWS).read_bytes()
    assert first[-64:] != second[-64:]
    assert list(zone.path("ward", MARCH).parent.iterdir()) == [zone.path("ward", MARCH)]
