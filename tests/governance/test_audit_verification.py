import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clinical_assets.governance.audit_trail import AuditError, AuditRecord, AuditTrail, Seal
from clinical_assets.governance.audit_verification import Anchor, AuditVerification, read_records, verify_trail
from clinical_assets.governance.platform_key import PlatformKey, platform_key

RECORDS, CHECKPOINT_AFTER = 14, 7
ATTACKS = 1_000

Lines = list[bytes]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> AuditTrail:
    """A trail of 14 records, with a checkpoint in the middle; tests attack copies of it."""
    trail = AuditTrail(tmp_path_factory.mktemp("home") / "audit")
    for number in range(1, RECORDS):
        trail.record("materialise", actor="run:1", target=f"toy/features [{number}]", snapshot=number)
        if number == CHECKPOINT_AFTER:
            trail.checkpoint()
    return trail


@pytest.fixture
def trail(written: AuditTrail, tmp_path: Path) -> AuditTrail:
    copy = AuditTrail(tmp_path / "audit")
    for folder, source in ((copy.folder, written.folder), (copy.keys, written.keys)):
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    (copy.keys / "platform.pem").chmod(0o600)
    return copy


def lines_of(trail: AuditTrail) -> Lines:
    return trail.path.read_bytes().splitlines(keepends=True)


def attack(trail: AuditTrail, lines: Lines) -> AuditVerification:
    trail.path.write_bytes(b"".join(lines))
    return verify_trail(trail)


def forged(line: bytes, key: PlatformKey, **changes: object) -> bytes:
    """A record as one would write it who has no key but their own, and who knows the format."""
    unsigned = replace(AuditRecord.from_line(line[:-1]), **changes)
    return replace(unsigned, signature=key.sign(unsigned.statement())).canonical() + b"\n"


def chained_anew(lines: Lines, key: PlatformKey | None) -> Lines:
    """The records with numbers and hashes made anew from the first on, signed with another key or as they were."""
    chained, previous = [], "0" * 64
    for number, line in enumerate(lines, start=1):
        record = AuditRecord.from_line(line[:-1])
        if (record.number, record.previous_sha256) != (number, previous):
            record = replace(record, number=number, previous_sha256=previous)
            if key:
                record = replace(record, signature=key.sign(record.statement()))
        chained.append(record.canonical() + b"\n")
        previous = hashlib.sha256(chained[-1][:-1]).hexdigest()
    return chained


def test_an_untouched_trail_is_whole(trail: AuditTrail) -> None:
    found = verify_trail(trail)

    assert found.is_whole
    assert (found.records, found.sealed, found.checkpoints, found.checkpointed) == (RECORDS, RECORDS, 1, 7)
    assert found.sha256 == hashlib.sha256(lines_of(trail)[-1][:-1]).hexdigest()


def edit_a_byte(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    place = chance.randrange(len(lines))
    line = bytearray(lines[place])
    byte = chance.randrange(len(line) - 1)  # a removed line end is a cut, and another attack
    line[byte] ^= chance.randrange(1, 256)
    return [*lines[:place], bytes(line), *lines[place + 1 :]], place + 1


def edit_a_value(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    place = chance.randrange(len(lines))
    record = replace(AuditRecord.from_line(lines[place][:-1]), actor="user:somebody-else")
    return [*lines[:place], record.canonical() + b"\n", *lines[place + 1 :]], place + 1


def edit_and_chain_anew(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    place = chance.randrange(len(lines))
    edited = forged(lines[place], key, actor="user:somebody-else")
    return chained_anew([*lines[:place], edited, *lines[place + 1 :]], chance.choice([key, None])), place + 1


def delete(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    first = chance.randrange(len(lines))
    last = chance.randrange(first, len(lines)) + 1
    remaining = lines[:first] + lines[last:]
    return (remaining, first + 1) if remaining else (lines[1:], 1)


def delete_and_chain_anew(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    place = chance.randrange(len(lines))
    return chained_anew(lines[:place] + lines[place + 1 :], chance.choice([key, None])), place + 1


def insert_a_repeated_record(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    place, source = chance.randrange(len(lines) + 1), chance.randrange(len(lines))
    # A record put before or after itself is wrong at the second of the two places.
    first = place + 2 if source == place else place + 1
    return [*lines[:place], lines[source], *lines[place:]], first


def insert_a_forged_record(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    place = chance.randrange(len(lines) + 1)
    before = lines[place - 1] if place else None
    previous = hashlib.sha256(before[:-1]).hexdigest() if before else "0" * 64
    record = forged(lines[0], key, action="release", number=place + 1, previous_sha256=previous)
    following = [*lines[:place], record, *lines[place:]]
    return (chained_anew(following, key) if chance.random() < 0.5 else following), place + 1


def swap(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    first, second = sorted(chance.sample(range(len(lines)), 2))
    swapped = list(lines)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    return swapped, first + 1


def swap_and_chain_anew(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    swapped, first = swap(lines, chance, key)
    return chained_anew(swapped, chance.choice([key, None])), first


def cut_off_records(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    kept = chance.randrange(1, len(lines))
    return lines[:kept], kept + 1


def cut_off_bytes(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    whole = b"".join(lines)
    kept = whole[: chance.randrange(1, len(whole))]
    return [kept], kept.count(b"\n") + 1


def add_bytes(lines: Lines, chance: random.Random, key: PlatformKey) -> tuple[Lines, int]:
    return [*lines, chance.randbytes(chance.randrange(1, 400)).replace(b"\n", b" ")], len(lines) + 1


Attack = Callable[[Lines, random.Random, PlatformKey], tuple[Lines, int]]
KINDS: list[Attack] = [
    edit_a_byte,
    edit_a_value,
    edit_and_chain_anew,
    delete,
    delete_and_chain_anew,
    insert_a_repeated_record,
    insert_a_forged_record,
    swap,
    swap_and_chain_anew,
    cut_off_records,
    cut_off_bytes,
    add_bytes,
]


def test_each_of_a_thousand_random_attacks_is_found_and_the_first_wrong_record_named(
    trail: AuditTrail, tmp_path: Path
) -> None:
    lines, attackers_key = lines_of(trail), platform_key(tmp_path / "attacker")
    missed = []
    for seed in range(ATTACKS):
        chance = random.Random(seed)
        kind = KINDS[seed % len(KINDS)]
        attacked, first_wrong = kind(lines, chance, attackers_key)
        found = attack(trail, attacked)
        if found.fault is None or found.fault.record != first_wrong:
            missed.append((seed, kind.__name__, first_wrong, found.fault))

    assert missed == []
    assert attack(trail, lines).is_whole


def test_a_byte_that_changes_no_value_is_found(trail: AuditTrail) -> None:
    lines = lines_of(trail)
    lines[-1] = lines[-1].replace(b'"number":14', b'"number": 14')

    assert str(attack(trail, lines).fault).count("not written the way the platform writes it") == 1


def test_an_edited_byte_of_the_head_or_of_the_checkpoints_is_found(trail: AuditTrail) -> None:
    for path in (trail.head_path, trail.checkpoint_path):
        content = path.read_bytes()
        for place in range(0, len(content) - 1, 4):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            found = verify_trail(trail)
            assert found.fault is not None, (path.name, place)
            assert path.name in found.fault.what
        path.write_bytes(content)


def test_a_removed_head_is_found(trail: AuditTrail) -> None:
    trail.head_path.unlink()

    assert str(verify_trail(trail).fault).count("head.json, which says where the trail ends, is missing") == 1


def test_a_removed_checkpoint_is_found_by_the_record_of_it(trail: AuditTrail) -> None:
    trail.checkpoint_path.unlink()

    fault = verify_trail(trail).fault
    assert fault is not None
    assert (fault.record, "is missing from checkpoints.jsonl" in fault.what) == (8, True)


def test_a_trail_cut_to_an_older_head_is_found_by_the_checkpoint(trail: AuditTrail) -> None:
    lines, key = lines_of(trail)[:6], platform_key(trail.keys)
    # The head that stood there after record 6: signed by the platform itself.
    older = Seal.of("head", 6, hashlib.sha256(lines[-1][:-1]).hexdigest(), key)
    trail.head_path.write_bytes(older.canonical() + b"\n")

    fault = attack(trail, lines).fault
    assert fault is not None
    assert (fault.record, fault.what) == (7, "it is missing: checkpoints.jsonl knows of 7 records")


def test_what_one_who_holds_the_key_writes_anew_is_found_by_a_checkpoint_noted_down_elsewhere(
    trail: AuditTrail,
) -> None:
    noted = Anchor(12, hashlib.sha256(lines_of(trail)[11][:-1]).hexdigest())
    assert verify_trail(trail, anchor=noted).is_whole
    records = [record for record in read_records(trail) if record.action != "checkpoint"]
    for path in (trail.path, trail.head_path, trail.checkpoint_path):
        path.unlink()
    for record in records[:5] + records[6:]:
        trail.record(record.action, actor=record.actor, target=record.target, snapshot=record.snapshot)

    assert verify_trail(trail).is_whole  # Nothing in the folder tells.
    fault = verify_trail(trail, anchor=noted).fault
    assert fault is not None
    assert (fault.record, fault.what) == (12, "it is not the record that the anchor knows by this number")


def test_a_trail_that_was_signed_anew_with_another_key_is_found_by_the_key_noted_down_elsewhere(
    trail: AuditTrail,
) -> None:
    noted = platform_key(trail.keys).public_key
    targets = [record.target for record in read_records(trail)]
    for path in (*trail.folder.iterdir(), *trail.keys.iterdir()):
        path.unlink()
    for target in targets:
        trail.record("materialise", actor="run:1", target=target)

    assert verify_trail(trail).is_whole
    fault = verify_trail(trail, public_key=noted).fault
    assert fault is not None
    assert fault.record == 1


def test_a_seal_of_one_kind_is_not_taken_for_the_other(trail: AuditTrail) -> None:
    trail.head_path.write_bytes(trail.checkpoint_path.read_bytes())

    assert "is not a head" in str(verify_trail(trail).fault)


def test_a_trail_that_is_not_there_is_not_whole(trail: AuditTrail, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="nothing was recorded yet, or it was removed"):
        verify_trail(AuditTrail(tmp_path / "empty" / "audit"))
    trail.path.write_bytes(b"")
    with pytest.raises(AuditError, match="nothing was recorded yet, or it was removed"):
        verify_trail(trail)


def test_without_a_public_key_nothing_is_said_to_be_whole(trail: AuditTrail) -> None:
    (trail.keys / "platform.pub").unlink()

    with pytest.raises(AuditError, match=r"cannot be checked: there is no .*platform\.pub"):
        verify_trail(trail)


def test_verifying_writes_nothing(trail: AuditTrail) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in trail.folder.iterdir()}

    verify_trail(trail)

    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in trail.folder.iterdir()} == before


def test_a_line_that_is_no_record_is_named_when_records_are_listed(trail: AuditTrail) -> None:
    lines = lines_of(trail)
    trail.path.write_bytes(b"".join([*lines[:3], json.dumps({"number": 4}).encode() + b"\n", *lines[4:]]))

    with pytest.raises(AuditError, match=r"audit\.jsonl, line 4: the line is no record"):
        list(read_records(trail))


@pytest.mark.parametrize("text", ["", "12", "12:abc", f"x:{'0' * 64}", f"1:{'g' * 64}"])
def test_an_anchor_is_a_number_and_a_hash(text: str) -> None:
    with pytest.raises(AuditError, match="is no anchor"):
        Anchor.parse(text)
