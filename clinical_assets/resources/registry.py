"""The registry of model versions in MLflow, as a plain object: register, look up by alias, load, release.

Belongs here: everything that speaks to MLflow, but for the run that `trained_model` opens through dagster-mlflow.
Does not belong here: whether a version may be released.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from functools import lru_cache
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import polars as pl

from clinical_assets.learning.estimator import FittedEstimator, LearningError
from clinical_assets.learning.recipe import RECIPE_FILE, Recipe
from clinical_assets.learning.storage import hash_files, load_estimator, save_estimator
from clinical_assets.protocol import ALERT, UNKNOWN_PERSON, ModelProtocol, ModelVersion

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

EXPERIMENT = "clinical-assets"
MODEL_CODE = Path(__file__).parent.parent / "learning" / "mlflow_model.py"
FURTHER_THRESHOLDS, TRAINED_BY = "further_thresholds", "trained_by"
CHALLENGER, CHAMPION, FIRST_RELEASE = "challenger", "champion", "first_release"
_SQLITE = "sqlite:///"


class RegistryError(RuntimeError):
    """The registry does not hold what was asked for; the message says what and the remedy."""


@dataclass(frozen=True, slots=True)
class Registry:
    """Model versions in an MLflow database, with their files in a folder beside it."""

    uri: str
    artefacts: Path

    def prepare(self) -> None:
        """Bring the database to MLflow's schema and make the experiment, before any run: steps may be parallel.

        MLflow keeps the folder of new files as a full path: on a home that was moved, it is set to where that is now.
        """
        client, here = self._client(), self.artefacts.resolve().as_uri()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            client.create_experiment(EXPERIMENT, artifact_location=here)
        elif experiment.artifact_location != here:
            self._move_experiment(here)

    def exists(self) -> bool:
        """Whether there is a database at all; asking MLflow would make one, which takes seconds."""
        return not self.uri.startswith(_SQLITE) or Path(self.uri.removeprefix(_SQLITE)).exists()

    def register(
        self,
        estimator: FittedEstimator,
        protocol: ModelProtocol,
        thresholds: Mapping[str, float],
        training_set: pl.DataFrame,
        lake_snapshot: int,
        trained_by: str,
    ) -> ModelVersion:
        """Log the estimator in the active MLflow run, register it as a new version, and make that the challenger.

        The files hold no pickle, and the input example zeros only. The alias moves last, so that a failure leaves it.
        """
        import mlflow

        model, run = protocol.model, mlflow.active_run()
        if run is None:
            raise RegistryError("a version is registered from within an MLflow run; there is none")
        with tempfile.TemporaryDirectory() as folder:
            artefact_sha256 = save_estimator(estimator, Path(folder) / "estimator")
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(MODEL_CODE),
                artifacts={"estimator": str(Path(folder) / "estimator")},
                model_config={"estimator": protocol.estimator, "artefact_sha256": artefact_sha256},
                input_example=_zeros(estimator, training_set),  # pyright: ignore[reportArgumentType]
                pip_requirements=[
                    f"{package}=={installed_version(package)}"
                    for package in ("clinical-assets", "polars", *estimator.packages)
                ],
            )
        client = self._client()
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model, description=protocol.title)
        registered = client.create_model_version(model, logged.model_uri, run.info.run_id, model_id=logged.model_id)
        version = ModelVersion(
            model=model,
            version=int(registered.version),
            run_id=run.info.run_id,
            artefact_sha256=artefact_sha256,
            protocol_sha256=protocol.sha256,
            threshold=thresholds[ALERT],
            trained_through=training_set["month"].max(),  # pyright: ignore[reportArgumentType]
            lake_snapshot=lake_snapshot,
            data_origin=", ".join(sorted(training_set["data_origin"].unique())),
            further_thresholds=tuple((name, value) for name, value in thresholds.items() if name != ALERT),
            trained_by=trained_by,
        )
        for name, value in asdict(version).items():
            written = json.dumps(dict(value)) if name == FURTHER_THRESHOLDS else str(value)
            client.set_model_version_tag(model, registered.version, name, written)
        client.set_registered_model_alias(model, CHALLENGER, registered.version)
        return version

    def find(self, model: str, alias: str) -> ModelVersion | None:
        """The version an alias points to, or None where the model or the alias does not exist."""
        if not self.exists():
            return None
        from mlflow.exceptions import MlflowException

        try:
            found = self._client().get_model_version_by_alias(model, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return _from_tags(model, int(found.version), found.tags)

    def champion(self, model: str) -> ModelVersion:
        """The released version; raises RegistryError where nothing was released yet, or it was withdrawn."""
        if found := self.find(model, CHAMPION):
            return found
        raise RegistryError(
            f"{model} has no champion: train a candidate, have it signed (`clinical sign {model} VERSION ...`) and "
            "materialise its release; `clinical status` tells whether one was withdrawn"
        )

    def challenger(self, model: str) -> ModelVersion:
        """The newest candidate; raises RegistryError where nothing was trained yet."""
        if found := self.find(model, CHALLENGER):
            return found
        raise RegistryError(f"{model} has no candidate yet: materialise {model}/trained_model first")

    def version(self, model: str, version: int) -> ModelVersion:
        """One version by its number; raises RegistryError naming the versions there are."""
        versions = self.versions(model)
        for found in versions:
            if found.version == version:
                return found
        known = ", ".join(str(found.version) for found in versions) or "none"
        raise RegistryError(f"{model} has no version {version}; the registry holds: {known}")

    def versions(self, model: str) -> list[ModelVersion]:
        """Every complete version of a model, oldest first."""
        found = self._client().search_model_versions(f"name = '{model}'")
        # Versions registered before the trainer was written down lack that one tag, and cannot be released.
        needed = {field.name for field in fields(ModelVersion)} - {TRAINED_BY}
        complete = [item for item in found if needed <= set(item.tags)]
        return sorted((_from_tags(model, int(v.version), v.tags) for v in complete), key=lambda v: v.version)

    def recipe(self, version: ModelVersion) -> Recipe | None:
        """How the version was made; None where that was not kept with it. Raises LearningError on a damaged one."""
        run = self._client().get_run(version.run_id)
        file = self._in_this_home(str(run.info.artifact_uri)) / RECIPE_FILE
        if not file.exists():
            return None
        try:
            return Recipe.from_dict(json.loads(file.read_text()))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise LearningError(
                f"{RECIPE_FILE} of {version.model} version {version.version} is no JSON; restore it"
            ) from error

    def load(self, version: ModelVersion, estimator: str) -> FittedEstimator:
        """The version's estimator, of the class at this dotted path, once its files have proved unchanged."""
        folder = self.files(version)
        try:
            return _load(folder, hash_files(folder), version.artefact_sha256, estimator)
        except LearningError as error:
            raise RegistryError(f"{version.model} version {version.version}: {error}") from error

    def files(self, version: ModelVersion) -> Path:
        """The folder of the version's estimator files; raises RegistryError where it is gone."""
        from mlflow.exceptions import MlflowException

        try:
            uri = self._client().get_model_version_download_uri(version.model, str(version.version))
            folder = self._in_this_home(uri) / "artifacts" / "estimator"
        except MlflowException:
            folder = None
        if folder is None or not folder.is_dir():
            raise RegistryError(
                f"the files of {version.model} version {version.version} are gone; restore {self.artefacts} or "
                "roll back to another version"
            )
        return folder

    def release(self, version: ModelVersion) -> None:
        """Make a version the champion, and the first release where there was none; may be done twice.

        Only lifecycle/champion_move.py calls this, which writes it down in the ledger.
        """
        client = self._client()
        client.set_registered_model_alias(version.model, CHAMPION, str(version.version))
        if self.find(version.model, FIRST_RELEASE) is None:
            client.set_registered_model_alias(version.model, FIRST_RELEASE, str(version.version))

    def withdraw(self, model: str) -> None:
        """Leave a model without a champion, and its first release as it is; may be done twice.

        Only lifecycle/champion_move.py calls this, which writes it down in the ledger.
        """
        if self.find(model, CHAMPION) is not None:
            self._client().delete_registered_model_alias(model, CHAMPION)

    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _in_this_home(self, uri: str) -> Path:
        """Where files lie now that MLflow knows by the full path they once had: at their place in the folder here."""
        _, _, place = unquote(urlsplit(uri).path).rpartition(f"/{self.artefacts.name}/")
        return self.artefacts.resolve() / place

    def _move_experiment(self, location: str) -> None:
        from sqlalchemy import create_engine, text

        engine = create_engine(self.uri)
        try:
            with engine.begin() as connection:
                moved = text("UPDATE experiments SET artifact_location = :location WHERE name = :name")
                connection.execute(moved, {"location": location, "name": EXPERIMENT})
        finally:
            engine.dispose()


# Reading an estimator takes a second, hashing its files a millisecond: they are hashed on every load, and read once.
@lru_cache(maxsize=4)
def _load(folder: Path, found_sha256: str, expected_sha256: str, estimator: str) -> FittedEstimator:
    return load_estimator(folder, expected_sha256, estimator)


def _zeros(estimator: FittedEstimator, training_set: pl.DataFrame) -> "pd.DataFrame | None":
    """The input example that MLflow writes in clear: zeros; none for images, since an image of no bytes is none."""
    row = training_set.select(estimator.feature_names).clear(1)
    if pl.Binary in row.schema.values():
        return None
    return row.select(
        pl.lit("").alias(name) if dtype == pl.String else pl.lit(0).cast(dtype).alias(name)
        for name, dtype in row.schema.items()
    ).to_pandas()


def _from_tags(model: str, version: int, tags: dict[str, str]) -> ModelVersion:
    return ModelVersion(
        model=model,
        version=version,
        run_id=tags["run_id"],
        artefact_sha256=tags["artefact_sha256"],
        protocol_sha256=tags["protocol_sha256"],
        threshold=float(tags["threshold"]),
        trained_through=date.fromisoformat(tags["trained_through"]),
        lake_snapshot=int(tags["lake_snapshot"]),
        data_origin=tags["data_origin"],
        further_thresholds=tuple(json.loads(tags[FURTHER_THRESHOLDS]).items()),
        trained_by=tags.get(TRAINED_BY, UNKNOWN_PERSON),
    )
