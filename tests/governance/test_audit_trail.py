import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clinical_assets.governance.audit_trail import (
    RECORDS_PER_CHECKPOINT,
    AuditError,
    AuditRecord,
    AuditTrail,
    Seal,
    person_at_terminal,
)
from clinical_assets.governance.audit_verification import read_records, verify_trail
from clinical_assets.governance.platform_key import KEY_FILE, PUBLIC_KEY_FILE, PlatformKeyError, public_key
from clinical_assets.resources.home import Home

WRITER = """
import sys
from pathlib import Path
from clinical_assets.governance.audit_trail import AuditTrail
trail, name, count, size = AuditTrail(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.stdin.readline()
for turn in range(count):
    trail.record("materialise", actor=name, target=str(turn), reason="x" * size)
"""


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    return AuditTrail(tmp_path / "home" / "audit")


def write(trail: AuditTrail, count: int, **changes: Any) -> list[AuditRecord]:
    acts: list[dict[str, Any]] = [{"actor": "run:1", "target": f"toy/x [{turn}]"} | changes for turn in range(count)]
    return [trail.record("materialise", **act) for act in acts]


def start_writer(trail: AuditTrail, name: str, count: int, size: int = 10) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", WRITER, str(trail.folder), name, str(count), str(size)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, text=True)


def test_a_record_says_who_did_what_when_why_and_on_which_snapshot(trail: AuditTrail) -> None:
    trail.record(
        "sign", actor="dr-lead", target="toy v1", outcome="failure", reason="ähm", snapshot=7, details={"n": 1}
    )

    [line] = trail.path.read_text().splitlines()
    stored = json.loads(line)
    assert (stored["actor"], stored["action"], stored["target"]) == ("dr-lead", "sign", "toy v1")
    assert (stored["outcome"], stored["reason"], stored["snapshot"], stored["details"]) == (
        "failure",
        "ähm",
        7,
        {"n": 1},
    )
    assert (stored["number"], stored["previous_sha256"]) == (1, "0" * 64)
    assert stored["at"].endswith("+00:00")


def test_a_home_keeps_trail_and_key_where_the_trail_looks_for_them(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", tmp_path / "raw")

    assert AuditTrail(home.audit).keys == home.keys


def test_the_files_are_their_owners_alone(trail: AuditTrail) -> None:
    write(trail, RECORDS_PER_CHECKPOINT)

    assert {path.name: path.stat().st_mode & 0o777 for path in trail.folder.iterdir()} == dict.fromkeys(
        ["audit.jsonl", "head.json", "checkpoints.jsonl"], 0o600
    )
    assert trail.folder.stat().st_mode & 0o777 == 0o700


def test_a_checkpoint_follows_every_hundredth_record(trail: AuditTrail) -> None:
    write(trail, 2 * RECORDS_PER_CHECKPOINT)

    seals = [Seal.from_line(line) for line in trail.checkpoint_path.read_bytes().splitlines()]
    assert [seal.records for seal in seals] == [100, 200]
    assert all(seal.is_signed_by(public_key(trail.keys)) for seal in seals)
    assert [record.number for record in read_records(trail) if record.action == "checkpoint"] == [101, 201]


def test_eight_writers_at_once_leave_one_whole_chain(trail: AuditTrail) -> None:
    writers = [start_writer(trail, f"writer-{index}", count=20) for index in range(8)]
    for writer in writers:
        writer.communicate("go\n")

    assert [writer.returncode for writer in writers] == [0] * 8
    records = [record for record in read_records(trail) if record.action == "materialise"]
    assert verify_trail(trail).is_whole
    for index in range(8):
        of_one = [record.target for record in records if record.actor == f"writer-{index}"]
        assert of_one == [str(turn) for turn in range(20)]


def test_a_record_longer_than_a_pipe_holds_is_one_line(trail: AuditTrail) -> None:
    write(trail, 1)
    write(trail, 1, reason="x" * 3_000_000)
    write(trail, 1)

    assert [len(record.reason) for record in read_records(trail)] == [0, 3_000_000, 0]
    assert verify_trail(trail).is_whole


def test_writers_of_long_records_that_are_killed_leave_a_chain_that_goes_on(trail: AuditTrail) -> None:
    write(trail, 1)
    for _ in range(2):
        writers = [start_writer(trail, f"writer-{index}", count=100_000, size=200_000) for index in range(3)]
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        before = trail.path.stat().st_size
        while trail.path.stat().st_size < before + 3_000_000:
            time.sleep(0.01)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            writer.communicate()

    write(trail, 1)
    assert verify_trail(trail).is_whole


@pytest.mark.parametrize("length", [1, 40, 2_000])
def test_the_line_of_a_writer_killed_in_the_middle_is_set_aside_and_the_chain_goes_on(
    trail: AuditTrail, length: int
) -> None:
    write(trail, 3)
    torn = (b'{"action":"release"' * 200)[:length]
    with trail.path.open("ab") as file:
        file.write(torn)
    unfinished = verify_trail(trail)
    assert unfinished.fault is not None
    assert unfinished.fault.record == 4
    assert f"unfinished ({length} bytes)" in unfinished.fault.what

    [record] = write(trail, 1)

    assert record.number == 5
    told = list(read_records(trail))[3]
    assert (told.action, told.target, told.details["bytes"]) == ("torn_line", "audit.torn-4", length)
    assert trail.torn_path(4).read_bytes() == torn
    assert verify_trail(trail).is_whole
    trail.torn_path(4).write_bytes(torn[:-1])
    assert str(verify_trail(trail).fault).count("torn line it tells of is missing or changed") == 1


def test_a_writer_killed_after_it_set_a_line_aside_loses_neither_the_line_nor_the_record_of_it(
    trail: AuditTrail,
) -> None:
    write(trail, 3)
    trail.torn_path(4).write_bytes(b"torn")

    write(trail, 1)

    assert [record.action for record in read_records(trail)][3:] == ["torn_line", "materialise"]
    assert verify_trail(trail).is_whole


def test_a_writer_killed_between_the_record_and_its_head_has_recorded(trail: AuditTrail) -> None:
    write(trail, 3)
    head = trail.head_path.read_bytes()
    write(trail, 1)
    trail.head_path.write_bytes(head)

    assert verify_trail(trail).is_whole
    assert write(trail, 1)[0].number == 5
    assert verify_trail(trail).is_whole


def test_a_writer_killed_before_the_very_first_head_has_recorded(trail: AuditTrail) -> None:
    write(trail, 1)
    trail.head_path.unlink()

    assert verify_trail(trail).is_whole
    assert write(trail, 1)[0].number == 2


def test_a_disk_that_takes_a_part_at_a_time_gets_the_whole_line(
    trail: AuditTrail, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write_all(descriptor, bytes(data)[:7]))

    write(trail, 3)

    assert verify_trail(trail).is_whole


def test_a_full_disk_fails_the_act_and_leaves_the_trail_as_it_was(
    trail: AuditTrail, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(trail, 3)
    before = trail.path.read_bytes()
    write_all = os.write

    def full_after_a_part(descriptor: int, data: memoryview) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_all(descriptor, bytes(data)[: len(data) - 50])

    monkeypatch.setattr(os, "write", full_after_a_part)
    with pytest.raises(AuditError, match="cannot be written: No space left on device"):
        write(trail, 1)

    assert trail.path.read_bytes() == before
    monkeypatch.undo()
    write(trail, 1)
    assert verify_trail(trail).is_whole


def test_a_folder_that_cannot_be_written_fails_the_act(trail: AuditTrail) -> None:
    trail.folder.mkdir(parents=True)
    trail.path.mkdir()

    with pytest.raises(AuditError, match=r"audit\.jsonl cannot be opened"):
        write(trail, 1)


def test_a_home_that_is_no_folder_fails_the_act(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")

    with pytest.raises(PlatformKeyError, match=r"platform\.pem cannot be written: Not a directory"):
        write(AuditTrail(tmp_path / "home" / "audit"), 1)


def test_nothing_is_appended_where_the_end_was_cut_off(trail: AuditTrail) -> None:
    write(trail, 5)
    lines = trail.path.read_bytes().splitlines(keepends=True)
    trail.path.write_bytes(b"".join(lines[:4]))

    with pytest.raises(AuditError, match=r"ends at record 4 and not as head\.json says, which knows of 5"):
        write(trail, 1)

    assert trail.path.read_bytes() == b"".join(lines[:4])


def test_nothing_is_appended_where_only_the_last_line_end_was_cut_off(trail: AuditTrail) -> None:
    write(trail, 5)
    cut = trail.path.read_bytes()[:-1]
    trail.path.write_bytes(cut)

    with pytest.raises(AuditError, match="ends at record 4"):
        write(trail, 1)

    assert trail.path.read_bytes() == cut
    assert not trail.torn_path(5).exists()


def test_nothing_is_appended_where_the_trail_was_removed(trail: AuditTrail) -> None:
    write(trail, 5)
    trail.path.unlink()

    with pytest.raises(AuditError, match="ends at record 0"):
        write(trail, 1)


def test_nothing_is_appended_to_an_edited_last_record(trail: AuditTrail) -> None:
    write(trail, 5)
    trail.path.write_bytes(trail.path.read_bytes().replace(b"[4]", b"[5]"))

    with pytest.raises(AuditError, match="record 5, is not signed with the platform's key"):
        write(trail, 1)


def test_nothing_is_appended_without_the_head_or_with_another_ones_head(trail: AuditTrail, tmp_path: Path) -> None:
    other = AuditTrail(tmp_path / "other" / "audit")
    write(trail, 5)
    write(other, 3)
    trail.head_path.write_bytes(other.head_path.read_bytes())
    with pytest.raises(AuditError, match=r"head\.json is not signed with the platform's key"):
        write(trail, 1)
    trail.head_path.write_text("{}")
    with pytest.raises(AuditError, match=r"head\.json is damaged"):
        write(trail, 1)
    trail.head_path.unlink()
    with pytest.raises(AuditError, match=r"head\.json is missing beside 5 records"):
        write(trail, 1)


def test_a_new_key_does_not_take_over_an_old_trail(trail: AuditTrail) -> None:
    write(trail, 5)
    (trail.keys / KEY_FILE).unlink()
    (trail.keys / PUBLIC_KEY_FILE).unlink()

    with pytest.raises(AuditError, match="record 5, is not signed with the platform's key"):
        write(trail, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actor": ""}, "names no actor"),
        ({"target": ""}, "names no target"),
        ({"outcome": "perhaps"}, "it is success or failure"),
        ({"details": {"rows": [1, 2]}}, "the detail rows of materialise is a list"),
        ({"details": {"share": float("nan")}}, "not finite"),
        ({"reason": "\ud800"}, "not Unicode"),
    ],
)
def test_what_is_no_record_is_refused_and_nothing_is_written(
    trail: AuditTrail, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(AuditError, match=message):
        write(trail, 1, **changes)

    assert not trail.path.exists()


def test_an_action_is_a_word(trail: AuditTrail) -> None:
    with pytest.raises(AuditError, match="is not a word"):
        trail.record("Did a thing", actor="user:a", target="b")


def test_nothing_is_sealed_where_nothing_was_recorded(trail: AuditTrail) -> None:
    with pytest.raises(AuditError, match="nothing was recorded yet"):
        trail.checkpoint()

    assert not trail.folder.exists()


def test_the_person_at_the_terminal_is_the_account_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = person_at_terminal()
    for variable in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "somebody-else")

    assert person_at_terminal() == before
    assert before.startswith("user:")
