import zipfile
from datetime import date

import dagster as dg
import polars as pl
import pytest
from small_platform import MODEL, MONTHS, Developed, small_protocol

from clinical_assets.lifecycle.development import evaluation, trained_model, training_set, validation_report
from clinical_assets.lifecycle.month_look import MonthLook, see_profile
from clinical_assets.lifecycle.month_report import performance_table
from clinical_assets.lifecycle.release_reference import release_reference
from clinical_assets.lifecycle.scored_history import scored_through
from clinical_assets.protocol import ProtocolError
from clinical_assets.resources.home import hash_file
from clinical_assets.resources.registry import CHALLENGER

EDITED = small_protocol(minimum_n=21)


class NoRun:
    """In place of an MLflow run: a step that is refused must end before it logs anything."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AssertionError(f"mlflow.{name} was used")


def test_a_model_is_not_trained_on_a_set_made_under_another_protocol(candidate: Developed) -> None:
    platform = candidate.platform
    with pytest.raises(ProtocolError, match=r"readmission/training_set was made under protocol \w{12}, now"):
        trained_model(
            dg.build_asset_context(),
            protocol=EDITED,
            **platform.resources,
            mlflow=NoRun(),
        )
    assert platform.registry.find(MODEL, CHALLENGER) == candidate.candidate
    assert [version.version for version in platform.registry.versions(MODEL)] == [1, 2]


def test_a_model_trained_under_another_protocol_is_not_evaluated(candidate: Developed) -> None:
    resources = candidate.platform.resources
    with pytest.raises(ProtocolError, match=r"readmission/trained_model was made under protocol \w{12}, now"):
        evaluation(
            protocol=EDITED,
            trained_model=candidate.candidate,
            lake=resources["lake"],
            registry=resources["registry"],
        )


def test_an_evaluation_under_another_protocol_is_not_reported(candidate: Developed) -> None:
    platform = candidate.platform
    before = hash_file(platform.home.report(MODEL, 2))
    with pytest.raises(ProtocolError, match=r"readmission/evaluation was made under protocol \w{12}, now"):
        validation_report(
            protocol=EDITED,
            evaluation=platform.lake.read(f"{MODEL}.evaluation"),
            silent_run=platform.lake.read(f"{MODEL}.silent_run"),
            trained_model=candidate.candidate,
            **platform.resources,
        )
    assert hash_file(platform.home.report(MODEL, 2)) == before


def test_a_version_that_was_never_evaluated_is_not_reported(candidate: Developed) -> None:
    platform = candidate.platform
    others = platform.lake.read(f"{MODEL}.evaluation").filter(pl.col("version") != 2)
    with pytest.raises(ProtocolError, match="readmission version 2 was not evaluated"):
        validation_report(
            protocol=platform.protocol,
            evaluation=others,
            silent_run=platform.lake.read(f"{MODEL}.silent_run"),
            trained_model=candidate.candidate,
            **platform.resources,
        )


def test_the_training_set_has_ripe_months_and_each_patient_in_one_split(developed: Developed) -> None:
    """Five months are there: the fifth is not ripe, and the protocol takes three."""
    result = training_set(protocol=developed.platform.protocol, lake=developed.platform.resources["lake"])
    assert isinstance(result, dg.MaterializeResult)
    rows: pl.DataFrame = result.value
    assert sorted(rows["month"].unique()) == list(MONTHS[1:4])
    assert rows.group_by("patient_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert rows["protocol_sha256"].unique().to_list() == [developed.platform.protocol.sha256]


def test_a_version_names_its_data_its_protocol_and_its_files(developed: Developed) -> None:
    candidate, platform = developed.candidate, developed.platform
    rows = platform.lake.read(f"{MODEL}.training_set", snapshot=candidate.lake_snapshot)
    assert candidate.trained_through == rows["month"].max() == date(2024, 4, 1)
    assert candidate.protocol_sha256 == platform.protocol.sha256
    assert candidate.data_origin == "simulated"
    assert candidate.artefact_sha256 != developed.champion.artefact_sha256
    earlier = platform.lake.read(f"{MODEL}.training_set", snapshot=developed.champion.lake_snapshot)
    assert earlier["month"].max() == developed.champion.trained_through == date(2024, 3, 1)


def test_the_mlflow_run_of_a_version_is_finished_and_tells_its_snapshot(developed: Developed) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(developed.platform.home.registry_uri)
    run = client.get_run(developed.candidate.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["lake_snapshot"] == str(developed.candidate.lake_snapshot)
    assert run.data.params["protocol_sha256"] == developed.platform.protocol.sha256
    assert 0.5 < run.data.metrics["calibrate_auroc"] <= 1


def test_no_pickle_is_among_the_files_of_a_trained_version(developed: Developed) -> None:
    folder = developed.platform.home.registry_artefacts
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".skops" for path in files)
    for path in files:
        contents = {path.name: path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                contents |= {name: packed.read(name) for name in packed.namelist()}
        for name, content in contents.items():
            assert not name.endswith((".pkl", ".pickle", ".joblib")), f"{path}: {name}"
            assert not (content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05"), f"{path}: {name}"


def test_the_candidate_is_compared_with_the_champion_on_the_same_rows(developed: Developed) -> None:
    findings = developed.platform.lake.read(f"{MODEL}.evaluation", where={"version": 2})
    paired = findings.filter(pl.col("metric").str.contains("champion"))
    assert paired.height > 0
    assert paired["value"].null_count() == 0
    first = developed.platform.lake.read(f"{MODEL}.evaluation", where={"version": 1})
    assert first.filter(pl.col("metric").str.contains("champion")).is_empty()


def test_the_report_s_row_carries_the_hash_of_its_file(developed: Developed) -> None:
    for version in (1, 2):
        rows = developed.platform.lake.read(f"{MODEL}.validation_report", where={"version": version})
        path = developed.platform.home.report(MODEL, version)
        assert rows["report_sha256"].unique().to_list() == [hash_file(path)]
        assert "<html" in path.read_text()


def test_every_step_records_the_protocol_it_worked_under(developed: Developed) -> None:
    for asset, name in (
        ("protocol", "sha256"),
        ("training_set", "protocol_sha256"),
        ("trained_model", "protocol_sha256"),
    ):
        event = developed.instance.get_latest_materialization_event(dg.AssetKey([MODEL, asset]))
        assert event is not None
        assert event.asset_materialization is not None
        assert event.asset_materialization.metadata[name].value == developed.platform.protocol.sha256, asset


def test_a_whole_month_was_scored_profiled_compared_and_measured(developed: Developed) -> None:
    lake, month = developed.platform.lake, MONTHS[4]
    scored = lake.read(f"{MODEL}.predictions", month=month)
    assert scored.height == lake.read(f"{MODEL}.features", month=month).height
    assert scored["model_version"].unique().to_list() == [1]
    assert lake.read(f"{MODEL}.drift_report", month=month)["champion_version"].unique().to_list() == [1]
    assert lake.read(f"{MODEL}.profile", month=month).filter(pl.col("column") == "risk").height == 1


def performance_of(developed: Developed, known_on: date) -> pl.DataFrame:
    """The performance report of a month whose outcomes are all known on a day, on the last day of May."""
    platform, month = developed.platform, MONTHS[4]
    history = scored_through(platform.lake, platform.protocol, 1, month).with_columns(outcome_known_on=known_on)
    estimated = platform.lake.read(f"{MODEL}.estimated_performance", month=month)
    reference = release_reference(platform.lake, developed.champion, platform.protocol, "a test")
    return performance_table(history, estimated, reference.baseline, platform.protocol, month, date(2024, 5, 31))


def test_of_the_newest_month_only_what_can_be_known_is_counted(developed: Developed) -> None:
    """On the last day of May, outcomes of the first day are known: an unripe one is no negative."""
    features = developed.platform.lake.read(f"{MODEL}.features", month=MONTHS[4])
    known = features.filter(pl.col("outcome_known_on") <= date(2024, 5, 31)).height
    assert 0 < known < 20
    rows = developed.platform.lake.read(f"{MODEL}.performance_report", month=MONTHS[4])
    assert "ripe" not in rows["status"].to_list()
    assert rows.filter(metric="auroc", subgroup="overall")["n"].to_list() == [known]


def test_a_month_of_which_nothing_can_be_known_is_not_ripe_and_has_no_figures(developed: Developed) -> None:
    rows = performance_of(developed, date(2024, 6, 1))
    assert rows["status"].unique().to_list() == ["not_ripe"]
    assert rows["value"].null_count() == rows.height


def test_a_month_is_measured_whole_once_every_outcome_is_known(developed: Developed) -> None:
    rows = performance_of(developed, date(2024, 5, 31))
    assert rows["status"].unique().to_list() == ["ripe"]
    whole = developed.platform.lake.read(f"{MODEL}.features", month=MONTHS[4]).height
    assert rows.filter(metric="auroc", subgroup="overall")["n"].to_list() == [whole]
    assert rows.filter(metric="event_auroc", subgroup="overall")["value_so_far"].null_count() == 0


def test_a_profile_of_four_rows_counts_four_and_shows_no_identifier(developed: Developed) -> None:
    four = developed.platform.lake.read(f"{MODEL}.features", month=MONTHS[0]).head(4)
    scored = four.select("encounter_id", risk=pl.lit(0.2), alerted=pl.lit(False))
    platform, version = developed.platform, developed.champion
    reference = release_reference(platform.lake, version, platform.protocol, "a test")
    seen = see_profile(MonthLook(platform.protocol, version, four, scored, reference, platform.lake, platform.registry))
    assert seen.metadata["profiled_rows"] == 4
    assert {"risk", "alerted"} <= set(seen.frame["column"])
    assert not {"encounter_id", "patient_id"} & set(seen.frame["column"])
