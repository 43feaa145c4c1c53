from pathlib import Path

import dagster as dg
import pytest
from small_platform import MODEL, definitions_at, small_protocol

from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.protocol import ModelProtocol, protocol_names, read_protocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.outward_gate import MARK
from clinical_assets.resources.platform import PROTOCOL_JSON

NOWHERE = Home(Path("nowhere"), Path("nowhere"))

CHAIN = {
    "protocol": set(),
    "identified_feed": {"protocol"},
    "dataset": {"protocol", "identified_feed"},
    "data_quality": {"protocol", "dataset"},
    "features": {"protocol", "dataset"},
    "training_set": {"protocol", "features"},
    "trained_model": {"protocol", "training_set"},
    "evaluation": {"protocol", "training_set", "trained_model"},
    "silent_run": {"protocol", "features", "trained_model"},
    "validation_report": {"protocol", "training_set", "trained_model", "evaluation", "silent_run"},
    "sign_off": {"protocol", "trained_model", "validation_report"},
    "release": {"protocol", "trained_model", "validation_report", "sign_off"},
    "release_pin": {"protocol", "release"},
    "predictions": {"protocol", "features", "release"},
    "profile": {"protocol", "features", "predictions"},
    "scored_history": {"protocol", "features", "predictions"},
    "estimated_performance": {"protocol", "features", "predictions", "scored_history"},
    "drift_report": {"protocol", "features", "predictions", "scored_history", "estimated_performance", "profile"},
    "performance_report": {"protocol", "scored_history", "estimated_performance"},
    "repair_plan": {"protocol", "scored_history", "drift_report", "estimated_performance"},
    "evidently_report": {"protocol", "features", "predictions", "drift_report"},
    "nannyml_report": {"protocol", "features", "predictions", "drift_report"},
}
WATCHED = {
    *("scored_history", "profile", "estimated_performance", "drift_report"),
    *("performance_report", "repair_plan"),
}
ON_REQUEST = {"evidently_report", "nannyml_report"}
MONTHLY = {"identified_feed", "dataset", "data_quality", "features", "predictions", *WATCHED}


def specs(*protocols: ModelProtocol) -> dict[str, dg.AssetSpec]:
    found = definitions_at(NOWHERE, *protocols).resolve_all_asset_specs()
    return {spec.key.to_user_string(): spec for spec in found}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return definitions_at(NOWHERE, read_protocol(MODEL))


@pytest.fixture(scope="module")
def stamped(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


@pytest.mark.parametrize("model", protocol_names())
def test_the_chain_of_every_model_is_these_assets_and_these_dependencies(model: str) -> None:
    found = {
        key: {dep.asset_key.to_user_string() for dep in spec.deps} for key, spec in specs(read_protocol(model)).items()
    }
    assert found == {f"{model}/{asset}": {f"{model}/{dep}" for dep in deps} for asset, deps in CHAIN.items()}


def test_all_models_stand_beside_each_other_and_can_be_loaded() -> None:
    together = definitions_at(NOWHERE, *map(read_protocol, protocol_names()))
    dg.Definitions.validate_loadable(together)
    groups = {spec.group_name for spec in together.resolve_all_asset_specs()}
    assert groups == set(protocol_names())


def test_the_definitions_can_be_loaded(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_every_asset_is_described_and_belongs_to_its_model_and_its_owners(stamped: dict[str, dg.AssetSpec]) -> None:
    for key, spec in stamped.items():
        assert spec.group_name == MODEL, key
        assert list(spec.owners) == ["team:clinical-mlops"], key
        assert len(spec.description or "") > 40, key


def test_every_asset_and_every_check_reports_through_the_gate(definitions: dg.Definitions) -> None:
    made = (*(definitions.assets or ()), *(definitions.asset_checks or ()))
    functions = {each.op.name: each.op.compute_fn for each in made if isinstance(each, dg.AssetsDefinition)}
    assert len(functions) > 20
    assert [
        name for name, made_by in functions.items() if not hasattr(getattr(made_by, "decorated_fn", None), MARK)
    ] == []


def test_only_what_is_made_month_by_month_has_months(stamped: dict[str, dg.AssetSpec]) -> None:
    by_month = {f"{MODEL}/{asset}" for asset in MONTHLY | ON_REQUEST}
    assert {key for key, spec in stamped.items() if spec.partitions_def} == by_month
    assert MONTHS.get_partition_keys()[0] == "2024-01"
    assert MONTHS.get_partition_keys()[-1] == "2025-12"


def test_nothing_of_development_and_release_happens_by_itself(stamped: dict[str, dg.AssetSpec]) -> None:
    for asset in ON_REQUEST:
        assert stamped[f"{MODEL}/{asset}"].automation_condition is None, asset
    for asset in set(CHAIN) - MONTHLY - ON_REQUEST:
        spec = stamped[f"{MODEL}/{asset}"]
        assert spec.automation_condition is None, asset
        assert spec.tags["chain"] == "development", asset
    for asset in MONTHLY:
        assert stamped[f"{MODEL}/{asset}"].automation_condition is not None, asset


def test_the_protocol_travels_with_its_asset_s_definition() -> None:
    protocol = small_protocol(minimum_n=33)
    spec = specs(protocol)[f"{MODEL}/protocol"]
    assert ModelProtocol.model_validate_json(spec.metadata[PROTOCOL_JSON]) == protocol
    assert spec.code_version == protocol.sha256
    assert specs(small_protocol(minimum_n=34))[f"{MODEL}/protocol"].code_version != protocol.sha256


def test_an_asset_gets_the_protocol_in_force_though_it_was_never_materialised() -> None:
    protocol = small_protocol(minimum_n=33)
    seen: list[ModelProtocol] = []

    @dg.asset(ins={"protocol": dg.AssetIn(key=dg.AssetKey([MODEL, "protocol"]))})
    def reader(protocol: ModelProtocol) -> None:
        seen.append(protocol)

    both = dg.Definitions.merge(definitions_at(NOWHERE, protocol), dg.Definitions(assets=[reader]))
    with dg.DagsterInstance.ephemeral() as instance:
        both.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[dg.AssetKey("reader")], instance=instance
        )
    assert seen == [protocol]


def test_two_models_stand_side_by_side(stamped: dict[str, dg.AssetSpec]) -> None:
    other = small_protocol(model="stroke", retraining={"cadence": "yearly", "cool_down_days": 10})
    both = definitions_at(NOWHERE, read_protocol(MODEL), other)
    dg.Definitions.validate_loadable(both)
    keys = {spec.key.to_user_string() for spec in both.resolve_all_asset_specs()}
    assert keys == {*stamped, *(key.replace(MODEL, "stroke") for key in stamped)}
    for spec in both.resolve_all_asset_specs():
        assert {dep.asset_key.path[0] for dep in spec.deps} <= {spec.key.path[0]}


def test_what_watches_a_model_runs_by_default(definitions: dg.Definitions) -> None:
    sensors = definitions.sensors or ()
    assert {sensor.name: sensor.default_status for sensor in sensors} == dict.fromkeys(
        (
            f"{MODEL}_months_flow",
            f"{MODEL}_watch",
        ),
        dg.DefaultSensorStatus.RUNNING,
    )


@pytest.mark.parametrize(
    ("cadence", "cron"), [("monthly", "0 8 2 * *"), ("quarterly", "0 8 2 1,4,7,10 *"), ("yearly", "0 8 2 1 *")]
)
def test_the_protocol_says_how_often_it_is_retrained_by_the_calendar(cadence: str, cron: str) -> None:
    protocol = small_protocol(retraining={"cadence": cadence, "cool_down_days": 10})
    [schedule] = list(definitions_at(NOWHERE, protocol).schedules or ())
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.cron_schedule == cron
    assert schedule.job_name == f"{MODEL}_retraining"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_each_job_does_its_part_of_the_chain(definitions: dg.Definitions) -> None:
    jobs = {
        "intake": {"identified_feed", "dataset", "data_quality", "features"},
        "month": MONTHLY,
        "ripening": {"performance_report"},
        "retraining": {"protocol", "training_set", "trained_model", "evaluation", "silent_run", "validation_report"},
        "silent_month": {"silent_run", "validation_report"},
        "release": {"sign_off", "release", "release_pin"},
        "sign_off": {"sign_off"},
    }
    for name, assets in jobs.items():
        job = definitions.resolve_job_def(f"{MODEL}_{name}")
        assert {key.path[-1] for key in job.asset_layer.executable_asset_keys} == assets, name
        assert job.tags["clinical/model"] == MODEL


def test_at_most_one_retraining_of_a_model_runs_at_a_time(definitions: dg.Definitions, tmp_path: Path) -> None:
    """The queue's limit is on this tag; the home writes it into Dagster's settings."""
    tagged = [job.name for job in definitions.resolve_all_job_defs() if "clinical/retraining" in job.tags]
    assert tagged == [f"{MODEL}_retraining"]
    Home(tmp_path, tmp_path).prepare()
    assert "- key: clinical/retraining" in (tmp_path / "dagster" / "dagster.yaml").read_text()


def test_what_must_hold_of_rows_stops_a_run_and_unmet_limits_only_warn(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    blocking = {key.name: graph.get(key).blocking for key in graph.asset_check_keys}
    assert blocking == {
        "every_value_keeps_the_contract": True,
        "patients_are_pseudonyms": True,
        "one_row_a_unit": True,
        "one_patient_one_split": True,
        "every_limit_is_met": False,
        "no_sensitivity_has_fallen": False,
        "champion_is_the_ledger_s": False,
        "a_version_is_live": True,
    }
