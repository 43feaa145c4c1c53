import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from pydantic import ValidationError

from clinical_assets import protocol as protocol_module
from clinical_assets.protocol import (
    SILENT_MONTHS,
    Limit,
    ModelProtocol,
    Outcome,
    ProtocolError,
    RollbackGuard,
    last_day,
    load_object,
    month_after,
    month_before,
    protocol_names,
    read_protocol,
)

WRITTEN = protocol_module.DEFS / "readmission" / "defs.yaml"


@pytest.fixture
def attributes() -> dict[str, Any]:
    return yaml.safe_load(WRITTEN.read_text())["attributes"]


@pytest.fixture
def defs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of protocols with none in it yet."""
    monkeypatch.setattr(protocol_module, "DEFS", tmp_path)
    return tmp_path


def write(defs_folder: Path, model: str, content: object) -> Path:
    path = defs_folder / model / "defs.yaml"
    path.parent.mkdir()
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every single value of a nested structure, with the way to it."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*at, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from places(part, (*at, index))
    else:
        yield at, value


def changed(structure: Any, at: tuple[str | int, ...], value: Any) -> Any:
    """A copy of a nested structure with one value in it replaced."""
    copy = json.loads(json.dumps(structure))
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return copy


def other_values(value: Any) -> list[Any]:
    """Values near to one: not all are allowed in its place, but one of them is."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, float):
        return [value * 1.5, value / 1.5]
    if value is None:
        cohort = {"cohort": "clinical_assets.defs.readmission.cohort.other", "split_column": "part", "split": "test"}
        return [0.5, "clinical_assets.defs.readmission.cohort.other", "champion", cohort]
    return [f"{value}x", "production", "monthly", "yearly", "first_release", "patients", "units", "graded", "binary"]


def test_the_model_is_named_after_its_folder_and_each_has_a_protocol(
    defs_folder: Path, attributes: dict[str, Any]
) -> None:
    write(defs_folder, "stroke", {"attributes": attributes})
    write(defs_folder, "readmission", {"attributes": attributes})
    assert protocol_names() == ["readmission", "stroke"]
    assert read_protocol("stroke").model == "stroke"


def test_an_unknown_key_is_refused_with_the_file_and_the_field(defs_folder: Path, attributes: dict[str, Any]) -> None:
    path = write(defs_folder, "stroke", {"attributes": attributes | {"treshold": 0.5}})
    with pytest.raises(ProtocolError) as refused:
        read_protocol("stroke")
    assert str(path) in str(refused.value)
    assert "treshold" in str(refused.value)


def test_an_unknown_key_inside_a_section_is_refused_too(defs_folder: Path, attributes: dict[str, Any]) -> None:
    spoilt = changed(attributes, ("sign_off", "valid_days"), 30)
    spoilt["sign_off"]["valid_weeks"] = 4
    write(defs_folder, "stroke", {"attributes": spoilt})
    with pytest.raises(ProtocolError, match=r"sign_off\.valid_weeks"):
        read_protocol("stroke")


def test_a_missing_field_is_refused_by_name(defs_folder: Path, attributes: dict[str, Any]) -> None:
    del attributes["sign_off"]
    path = write(defs_folder, "stroke", {"attributes": attributes})
    with pytest.raises(ProtocolError, match="sign_off") as refused:
        read_protocol("stroke")
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", ["a: [", "", "- 1", "type: x", "attributes: 3"])
def test_a_file_that_is_no_protocol_is_refused_by_name(defs_folder: Path, content: str) -> None:
    path = write(defs_folder, "stroke", content)
    with pytest.raises(ProtocolError) as refused:
        read_protocol("stroke")
    assert str(path) in str(refused.value)


def test_a_model_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ProtocolError, match=r"no model 'sepsys'; the models are: .*readmission"):
        read_protocol("sepsys")


def test_the_digest_changes_with_any_value() -> None:
    written_here = [read_protocol(model) for model in protocol_names()]
    fetching = read_protocol("readmission").model_dump() | {"archive": None, "data_origin": "real:a hospital"}
    told, untold, edits = set[str | int](), set[str | int](), 0
    for protocol in (*written_here, ModelProtocol.model_validate(fetching)):
        written = protocol.model_dump(mode="json")
        seen = {protocol.sha256}
        for at, value in places(written):
            for other in other_values(value):
                try:
                    edited = ModelProtocol.model_validate(changed(written, at, other))
                except ValidationError:
                    continue
                if edited != protocol:
                    assert edited.sha256 not in seen, at
                    seen.add(edited.sha256)
                    told.add(at[-1])
                    break
            else:
                untold.add(at[-1])
        edits += len(seen) - 1
    # What one value forbids in one protocol is allowed in another.
    together = {"kind", "event_from", "archive", "data_origin"}
    sections = {"rollback_guard"}  # which none of the protocols has, nor days
    assert untold <= together | sections | {"not_worse_than", "by", "at_least", "at_most", "in_every_subgroup"}
    guarded = written_here[0].model_copy(update={"rollback_guard": RollbackGuard(metric="auroc", at_least=0.5)})
    limited = written_here[0].model_copy(update={"release_valid_days": 90})
    assert len({guarded.sha256, limited.sha256, written_here[0].sha256}) == 3
    assert untold - sections <= told
    assert edits > 200


def test_the_digest_depends_on_the_order_of_lists_and_not_on_that_of_keys(attributes: dict[str, Any]) -> None:
    protocol = ModelProtocol.model_validate(attributes | {"model": "readmission"})
    turned = dict(reversed(attributes.items()))
    assert ModelProtocol.model_validate(turned | {"model": "readmission"}).sha256 == protocol.sha256
    roles = changed(attributes, ("sign_off", "roles"), ["clinical_lead", "mlops"])
    assert ModelProtocol.model_validate(roles | {"model": "readmission"}).sha256 != protocol.sha256


def test_a_protocol_survives_json() -> None:
    protocol = read_protocol("readmission")
    again = ModelProtocol.model_validate_json(protocol.model_dump_json())
    assert again == protocol
    assert again.sha256 == protocol.sha256


def test_a_protocol_that_says_no_days_has_the_hash_it_had_before_there_were_any() -> None:
    protocol = read_protocol("readmission")
    assert "release_valid_days" not in protocol.canonical_json
    limited = ModelProtocol.model_validate(protocol.model_dump() | {"release_valid_days": 90})
    assert ModelProtocol.model_validate_json(limited.model_dump_json()).release_valid_days == 90
    with pytest.raises(ValidationError, match="release_valid_days"):
        ModelProtocol.model_validate(protocol.model_dump() | {"release_valid_days": 0})


def test_a_protocol_cannot_be_changed_once_read() -> None:
    protocol = read_protocol("readmission")
    with pytest.raises(ValidationError, match="frozen"):
        protocol.environment = "production"


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("operating_point", "alerted_fraction"), 1.0),
        (("operating_point", "alerted_fraction"), 0.0),
        (("minimum_n",), 0),
        (("development_months",), 0),
        (("acceptance",), []),
        (("sign_off", "roles"), []),
        (("sign_off", "valid_days"), 0),
        (("retraining", "cadence"), "weekly"),
        (("retraining", "cool_down_days"), -1),
        (("monitoring", "false_alarms_per_year"), 1.0),
        (("monitoring", "tolerated_loss"), 0.0),
        (("outcome", "ripe_after_days"), -1),
        (("outcome", "kind"), "survival"),
        (("operating_point", "of"), "wards"),
        (("silent_months",), -1),
        (("replay",), {"share_of_patients": 0.0}),
        (("replay",), {"share_of_patients": 1.1}),
        (("assessment",), "BINARY_RISK"),
        (("exhibits",), ["net_benefit_curve"]),
        (("environment",), "staging"),
        (("estimator",), "BoostedRisk"),
        (("cohort",), "../cohort.py"),
        (("unit",), 3),
    ],
)
def test_a_value_out_of_its_range_is_refused_with_its_field(
    attributes: dict[str, Any], at: tuple[str, ...], value: Any
) -> None:
    with pytest.raises(ValidationError) as refused:
        ModelProtocol.model_validate(changed(attributes, at, value) | {"model": "readmission"})
    assert [error["loc"][: len(at)] for error in refused.value.errors()] == [at]


@pytest.mark.parametrize("model", ["Readmission", "a-b", "1a", "", "a.b", "a/b"])
def test_a_model_s_name_is_one_that_a_table_can_have(attributes: dict[str, Any], model: str) -> None:
    with pytest.raises(ValidationError, match="model"):
        ModelProtocol.model_validate(attributes | {"model": model})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"by": 0.1},
        {"at_least": 0.5, "by": 0.1},
        {"not_worse_than": "champion"},
        {"not_worse_than": "champion", "by": 0.1, "at_least": 0.5},
        {"not_worse_than": "champion", "by": 0.1, "at_most": 0.5},
        {"not_worse_than": "champion", "by": 0.1, "in_every_subgroup": True},
        {"not_worse_than": "champion", "by": 0.0},
        {"not_worse_than": "last_year", "by": 0.1},
    ],
)
def test_a_limit_that_limits_nothing_or_two_things_at_once_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Limit.model_validate({"metric": "auroc", **given})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"at_least": 0.65}, "at least 0.65"),
        ({"at_least": 0.8, "at_most": 1.25}, "at least 0.8 and at most 1.25"),
        ({"at_most": 0.03, "in_every_subgroup": True}, "at most 0.03 in every subgroup"),
        ({"not_worse_than": "first_release", "by": 0.02}, "not worse than the first release by more than 0.02"),
    ],
)
def test_a_limit_reads_as_a_sentence(given: dict[str, Any], words: str) -> None:
    assert Limit.model_validate({"metric": "auroc", **given}).in_words() == words


def test_the_estimator_sees_neither_keys_nor_outcome_nor_what_the_protocol_leaves_out() -> None:
    protocol = read_protocol("readmission").model_copy(update={"not_features": ("payer_code",)})
    columns = [*protocol.key_columns, "b", "payer_code", "a"]
    assert protocol.feature_columns(columns) == ["b", "a"]
    assert {"encounter_id", "patient_id", "discharged_at", "readmitted_30d", "outcome_known_on", "split"} <= set(
        protocol.key_columns
    )


@pytest.mark.parametrize("model", protocol_names())
def test_every_path_of_a_written_protocol_names_something(model: str) -> None:
    written = [value for _, value in places(read_protocol(model).model_dump(mode="json")) if isinstance(value, str)]
    paths = [value for value in written if value.startswith("clinical_assets.")]
    assert len(paths) >= 5
    for path in paths:
        assert load_object(path) is not None


@pytest.mark.parametrize("given", [{"archive": None}, {"data_origin": "real:a hospital"}])
def test_rows_come_from_an_archive_or_say_whose_they_are_and_never_both(
    attributes: dict[str, Any], given: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match="give archive or, where the cohort function fetches its rows itself"):
        ModelProtocol.model_validate(attributes | given | {"model": "readmission"})
    fetching = attributes | {"model": "readmission", "archive": None, "data_origin": "real:a hospital"}
    assert ModelProtocol.model_validate(fetching).data_origin == "real:a hospital"


def test_a_grade_is_an_event_from_the_protocol_s_on_and_an_unknown_one_is_neither() -> None:
    graded = Outcome(column="grade", kind="graded", event_from=2, ripe_after_days=0)
    events = graded.is_event(pl.DataFrame({"grade": [0, 1, 2, 4, None]}))
    assert events.to_list() == [0, 0, 1, 1, None]
    binary = Outcome(column="readmitted", ripe_after_days=0)
    assert binary.is_event(pl.DataFrame({"readmitted": [0, 1, None]})).to_list() == [0, 1, None]


def test_a_binary_outcome_has_no_cut() -> None:
    with pytest.raises(ValidationError, match="a binary outcome is an event from 1 on"):
        Outcome(column="readmitted", kind="binary", event_from=2, ripe_after_days=0)


def test_silent_months_are_one_more_limit_where_a_protocol_asks_for_them() -> None:
    protocol = read_protocol("readmission")
    assert protocol.limits == protocol.acceptance
    silent = protocol.model_copy(update={"silent_months": 2})
    assert silent.limits == (*protocol.acceptance, Limit(metric=SILENT_MONTHS, at_least=2))


def test_watched_are_the_named_columns_and_the_device_once_or_else_every_feature() -> None:
    protocol = read_protocol("readmission")
    columns = [*protocol.key_columns, "heart_rate", "camera", "sharpness"]

    def watched(**changes: Any) -> list[str]:
        monitoring = protocol.monitoring.model_copy(update=changes)
        return protocol.model_copy(update={"monitoring": monitoring}).watched_columns(columns)

    assert watched() == ["heart_rate", "camera", "sharpness"]
    assert watched(watched=("sharpness",)) == ["sharpness"]
    assert watched(watched=("sharpness",), device="camera") == ["camera", "sharpness"]
    assert watched(watched=("camera", "sharpness"), device="camera") == ["camera", "sharpness"]


@pytest.mark.parametrize("path", ["clinical_assets.nowhere.thing", "clinical_assets.protocol.Nothing"])
def test_a_path_that_names_nothing_is_refused_with_the_path(path: str) -> None:
    with pytest.raises(ProtocolError, match=path):
        load_object(path)


def test_months_follow_each_other_over_the_end_of_a_year_and_in_leap_years() -> None:
    assert month_after(date(2024, 12, 31)) == date(2025, 1, 1)
    assert month_before(date(2025, 1, 31)) == date(2024, 12, 1)
    assert last_day(date(2024, 2, 1)) == date(2024, 2, 29)
    assert last_day(date(2025, 2, 17)) == date(2025, 2, 28)
