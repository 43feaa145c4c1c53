import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from clinical_assets.learning.boosting import BoostedRisk
from clinical_assets.protocol import ModelProtocol, ModelVersion, read_protocol
from clinical_assets.resources.registry import CHALLENGER, CHAMPION, EXPERIMENT, FIRST_RELEASE, Registry, RegistryError

# MLflow warns of itself and of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow")

MODEL = "readmission"
FAST = {"learning_rate": 0.1, "iterations": 5, "leaves": 4, "minimum_leaf": 10, "l2": 1.0, "feature_fraction": 1.0}
CANARY_TEXT, CANARY_NUMBER = "canary-diagnosis-8222157", 82221571.0


@pytest.fixture(scope="module")
def protocol() -> ModelProtocol:
    return read_protocol(MODEL).model_copy(update={"estimator_settings": FAST, "not_features": ()})


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """A training set with a number and a text to learn from, each of which has one value that nothing else has."""
    random = np.random.default_rng(3)
    visits = random.poisson(2.0, 800).astype(np.float32)
    visits[0] = CANARY_NUMBER
    diagnosis = random.choice(["428", "250"], 800).tolist()
    diagnosis[0] = CANARY_TEXT
    return pl.DataFrame(
        {
            "encounter_id": [f"{i:032x}" for i in range(800)],
            "patient_id": [f"{i:032x}" for i in range(800)],
            "month": [date(2024, 1, 1)] * 400 + [date(2024, 2, 1)] * 400,
            "readmitted_30d": (random.random(800) < 1 / (1 + np.exp(2 - visits))).astype(np.int8),
            "visits": visits,
            "diagnosis": diagnosis,
            "split": ["train", "train", "train", "calibrate"] * 200,
            "data_origin": ["simulated"] * 800,
        }
    )


@pytest.fixture(scope="module")
def estimator(rows: pl.DataFrame, protocol: ModelProtocol) -> BoostedRisk:
    return BoostedRisk.fit(rows, protocol)


@contextmanager
def mlflow_run(registry: Registry) -> Iterator[None]:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.uri)
    try:
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run():
            yield
    finally:
        mlflow.set_tracking_uri(before)


Register = Callable[[], ModelVersion]


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, estimator: BoostedRisk, protocol: ModelProtocol, rows: pl.DataFrame
) -> tuple[Registry, ModelVersion, ModelVersion]:
    """A registry with two versions of one model, none of them released."""
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "artefacts")
    registry.prepare()
    registry.prepare()
    versions = []
    for thresholds in ({"alert": 0.25, "grade_from_1": 0.4, "grade_from_2": 1.6}, {"alert": 0.5}):
        with mlflow_run(registry):
            versions.append(
                registry.register(estimator, protocol, thresholds, rows, lake_snapshot=7, trained_by="automation")
            )
    return registry, versions[0], versions[1]


@pytest.fixture
def registry(filled: tuple[Registry, ModelVersion, ModelVersion]) -> Iterator[Registry]:
    """The filled registry; the aliases that a test moves are put back."""
    from mlflow import MlflowClient

    yield filled[0]
    client = MlflowClient(filled[0].uri)
    for alias in (CHAMPION, FIRST_RELEASE):
        client.delete_registered_model_alias(MODEL, alias)
    client.set_registered_model_alias(MODEL, CHALLENGER, "2")


@pytest.fixture(scope="module")
def first(filled: tuple[Registry, ModelVersion, ModelVersion]) -> ModelVersion:
    return filled[1]


@pytest.fixture(scope="module")
def second(filled: tuple[Registry, ModelVersion, ModelVersion]) -> ModelVersion:
    return filled[2]


def stored_files(registry: Registry) -> dict[str, bytes]:
    """Everything that is kept of the versions, zip members too."""
    contents: dict[str, bytes] = {}
    for path in registry.artefacts.rglob("*"):
        if path.is_file():
            contents[str(path)] = path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as packed:
                    contents |= {f"{path}!{name}": packed.read(name) for name in packed.namelist()}
    return contents


def test_a_version_keeps_all_that_binds_it(registry: Registry, first: ModelVersion, protocol: ModelProtocol) -> None:
    assert registry.version(MODEL, 1) == first
    assert (first.version, first.threshold, first.lake_snapshot) == (1, 0.25, 7)
    assert first.trained_through == date(2024, 2, 1)
    assert first.protocol_sha256 == protocol.sha256
    assert first.data_origin == "simulated"


def test_a_version_keeps_every_threshold_by_its_name(
    registry: Registry, first: ModelVersion, second: ModelVersion
) -> None:
    kept = registry.version(MODEL, 1).thresholds
    assert kept == first.thresholds == {"alert": 0.25, "grade_from_1": 0.4, "grade_from_2": 1.6}
    assert registry.version(MODEL, 2).thresholds == second.thresholds == {"alert": 0.5}


def test_the_newest_version_is_the_challenger_and_nothing_is_champion(registry: Registry, second: ModelVersion) -> None:
    assert registry.challenger(MODEL) == second
    assert registry.find(MODEL, CHAMPION) is None
    assert [version.version for version in registry.versions(MODEL)] == [1, 2]


def test_without_a_champion_the_error_says_how_to_get_one(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"readmission has no champion: train a candidate, have it signed"):
        registry.champion(MODEL)


def test_of_a_model_that_was_never_trained_there_is_nothing(registry: Registry) -> None:
    assert registry.find("sepsis", CHAMPION) is None
    with pytest.raises(RegistryError, match="sepsis has no candidate yet: materialise sepsis/trained_model first"):
        registry.challenger("sepsis")


def test_a_version_that_does_not_exist_is_refused_with_those_that_do(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="readmission has no version 9; the registry holds: 1, 2"):
        registry.version(MODEL, 9)
    with pytest.raises(RegistryError, match="sepsis has no version 1; the registry holds: none"):
        registry.version("sepsis", 1)


def test_a_release_moves_the_champion_and_the_first_release_stays(
    registry: Registry, first: ModelVersion, second: ModelVersion
) -> None:
    registry.release(first)
    assert registry.champion(MODEL) == first
    registry.release(second)
    assert registry.champion(MODEL) == second
    assert registry.find(MODEL, FIRST_RELEASE) == first


def test_a_withdrawal_leaves_no_champion_and_the_first_release_and_may_be_done_twice(
    registry: Registry, first: ModelVersion, second: ModelVersion
) -> None:
    registry.release(first)
    registry.release(second)
    for _ in range(2):
        registry.withdraw(MODEL)
        assert registry.find(MODEL, CHAMPION) is None
        assert registry.find(MODEL, FIRST_RELEASE) == first
    registry.release(second)


def test_a_loaded_version_predicts_what_was_registered(
    registry: Registry, first: ModelVersion, protocol: ModelProtocol, rows: pl.DataFrame, estimator: BoostedRisk
) -> None:
    loaded = registry.load(first, protocol.estimator)
    assert np.array_equal(loaded.predict(rows), estimator.predict(rows))


def test_no_pickle_is_among_a_version_s_files(registry: Registry) -> None:
    contents = stored_files(registry)
    assert any(name.endswith(".skops") for name in contents)
    assert any("!" in name for name in contents)
    for name, content in contents.items():
        assert not name.endswith((".pkl", ".pickle", ".joblib")), name
        assert not (content[:1] == b"\x80" and content[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}), name


def test_the_input_example_holds_zeros_and_empty_texts_alone(registry: Registry) -> None:
    examples = [c for name, c in stored_files(registry).items() if Path(name).name == "input_example.json"]
    assert len(examples) == 2
    for content in examples:
        example = json.loads(content)
        assert example["columns"] == ["visits", "diagnosis"]
        assert example["data"] == [[0.0, ""]]


def test_no_value_of_a_row_is_in_what_mlflow_writes_beside_the_model(registry: Registry) -> None:
    """The model itself must know its categories; nothing else may."""
    database = Path(registry.uri.removeprefix("sqlite:///")).read_bytes()
    kept = {name: c for name, c in stored_files(registry).items() if "/artifacts/estimator/" not in name}
    assert kept
    for name, content in {**kept, "the database": database}.items():
        assert CANARY_TEXT.encode() not in content, name
        assert b"82221571" not in content, name


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_a_corrupted_model_file_is_refused_with_model_version_and_remedy_and_no_alias_moves(
    registry: Registry,
    first: ModelVersion,
    second: ModelVersion,
    protocol: ModelProtocol,
    damage: Callable[[Path], Any],
) -> None:
    registry.release(first)
    [file] = registry.files(second).glob("*.skops")
    whole = file.read_bytes()
    damage(file)
    try:
        with pytest.raises(
            RegistryError, match=r"^readmission version 2: .*changed or damaged.* restore it or roll back"
        ):
            registry.load(second, protocol.estimator)
        assert registry.champion(MODEL) == first
        assert registry.load(first, protocol.estimator) is not None
    finally:
        file.write_bytes(whole)
    assert registry.load(second, protocol.estimator) is not None


def test_a_version_that_was_loaded_before_is_refused_all_the_same(
    registry: Registry, first: ModelVersion, protocol: ModelProtocol
) -> None:
    """A loaded estimator is kept in memory, and its files are proved on every load."""
    registry.load(first, protocol.estimator)
    [file] = registry.files(first).glob("*.skops")
    whole = file.read_bytes()
    flip_a_bit(file)
    try:
        with pytest.raises(RegistryError, match="changed or damaged"):
            registry.load(first, protocol.estimator)
    finally:
        file.write_bytes(whole)


def test_a_version_of_another_class_than_the_protocol_names_is_refused(registry: Registry, first: ModelVersion) -> None:
    with pytest.raises(
        RegistryError, match=r"readmission version 1: .*the protocol names clinical_assets\.other\.Risk"
    ):
        registry.load(first, "clinical_assets.other.Risk")


def test_files_that_are_gone_are_an_error_that_names_the_folder(registry: Registry, first: ModelVersion) -> None:
    with pytest.raises(
        RegistryError, match=r"the files of readmission version 9 are gone; restore .*artefacts or roll"
    ):
        registry.files(replace(first, version=9))


def test_nothing_is_registered_outside_an_mlflow_run(
    registry: Registry, estimator: BoostedRisk, protocol: ModelProtocol, rows: pl.DataFrame
) -> None:
    with pytest.raises(RegistryError, match="from within an MLflow run; there is none"):
        registry.register(estimator, protocol, {"alert": 0.5}, rows, lake_snapshot=1, trained_by="automation")
    assert len(registry.versions(MODEL)) == 2


def test_a_registration_that_breaks_off_leaves_the_challenger(
    registry: Registry,
    second: ModelVersion,
    estimator: BoostedRisk,
    protocol: ModelProtocol,
    rows: pl.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr("clinical_assets.resources.registry.save_estimator", fail)
    with pytest.raises(OSError, match="no space left"), mlflow_run(registry):
        registry.register(estimator, protocol, {"alert": 0.5}, rows, lake_snapshot=1, trained_by="automation")
    assert registry.challenger(MODEL) == second
    assert len(registry.versions(MODEL)) == 2


def test_a_version_that_lacks_its_hashes_is_no_version(registry: Registry) -> None:
    """Such is left by a run that was killed between MLflow's registration and ours."""
    from mlflow import MlflowClient

    client = MlflowClient(registry.uri)
    half = client.create_model_version(MODEL, "file:///nowhere")
    try:
        assert [version.version for version in registry.versions(MODEL)] == [1, 2]
        with pytest.raises(RegistryError, match=f"has no version {half.version}"):
            registry.version(MODEL, int(half.version))
    finally:
        client.delete_model_version(MODEL, half.version)
