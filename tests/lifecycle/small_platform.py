"""A small platform for tests: a simulated archive in the publisher's layout, a home fed from it, its own jobs."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast

import dagster as dg
import polars as pl
import pytest
from dagster._core.storage.defs_state.base import set_defs_state_storage
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG as RANGE_END
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_START_TAG as RANGE_START

from clinical_assets.archives.archive import SIMULATED_MARKER
from clinical_assets.archives.diabetes130 import CODES_FILE, DATA_FILE
from clinical_assets.components import ClinicalModel
from clinical_assets.defs.resources import resources as platform_resources
from clinical_assets.governance.pseudonyms import KEY_BYTES
from clinical_assets.governance.signatures import Decision, Statement, create_key, now, sign, store
from clinical_assets.governance.signers import Signer, add_signer
from clinical_assets.lifecycle.publication import JOB as PUBLICATION
from clinical_assets.lifecycle.publication import analytics_of, publication_job
from clinical_assets.protocol import ModelProtocol, ModelVersion, read_protocol
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import HomeResource, RegistryResource
from clinical_assets.resources.registry import Registry

MODEL = "readmission"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
FAST = {"learning_rate": 0.1, "iterations": 10, "leaves": 4, "minimum_leaf": 20, "l2": 1.0, "feature_fraction": 1.0}
LENIENT = [
    {"metric": "auroc", "at_least": 0.01},
    {"metric": "auroc", "not_worse_than": "champion", "by": 0.9},
]
ROLES = ("mlops", "clinical_lead")
MONTHS = tuple(date(2024, month, 1) for month in range(1, 6))

BuildArchive = Callable[[pl.DataFrame], Path]


def small_protocol(**changes: Any) -> ModelProtocol:
    """The readmission protocol with few small trees, few months, and limits that any candidate meets."""
    small = {
        "estimator_settings": FAST,
        "development_months": 3,
        "evaluation_months": 3,
        "operating_point": {"alerted_fraction": 0.4},
        "subgroups": ["sex"],
        "minimum_n": 20,
        "acceptance": LENIENT,
    }
    return ModelProtocol.model_validate(read_protocol(MODEL).model_dump() | small | changes)


def stamped(protocol: ModelProtocol) -> dg.Definitions:
    """What the component makes of a protocol; it needs its context only formally."""
    return ClinicalModel(protocol).build_defs(cast(dg.ComponentLoadContext, None))


def definitions_at(home: Home, *protocols: ModelProtocol) -> dg.Definitions:
    """Everything of these models with the platform's own resources and sensors, at a home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLINICAL_HOME", str(home.root))
        patch.setenv("CLINICAL_RAW", str(home.raw))
        return dg.Definitions.merge(*map(stamped, protocols), platform_resources())


def sample_of(rows: pl.DataFrame, encounters: int) -> pl.DataFrame:
    """About as many encounters of an archive, each patient with all of theirs, and an outcome that is easily learnt."""
    patients = rows.select(pl.col("patient_nbr").unique().sort())
    drawn = patients.gather_every(round(rows.height / encounters))
    easily = (pl.col("number_inpatient").cast(pl.Int64) > 0) & (pl.col("encounter_id").cast(pl.Int64) % 3 > 0)
    return rows.join(drawn, on="patient_nbr", how="semi").with_columns(
        readmitted=pl.when(easily).then(pl.lit("<30")).otherwise("readmitted")
    )


def write_archive(folder: Path, rows: pl.DataFrame, codes: bytes) -> Path:
    """Rows in the publisher's columns, as the publisher's folder, marked as simulated."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_csv(folder / DATA_FILE)
    (folder / CODES_FILE).write_bytes(codes)
    (folder / SIMULATED_MARKER).write_text("simulated\n")
    return folder


def unpack(archive: Path) -> tuple[pl.DataFrame, bytes]:
    """The encounters and the code tables of a packed archive."""
    with zipfile.ZipFile(archive) as packed:
        rows = pl.read_csv(packed.read(f"dataset_diabetes/{DATA_FILE}"), infer_schema=False)
        return rows, packed.read(f"dataset_diabetes/{CODES_FILE}")


@dataclass(frozen=True)
class SmallPlatform:
    """A home with its archive, and the definitions of one model on it."""

    home: Home
    protocol: ModelProtocol

    @classmethod
    def on(cls, root: Path, archive: Path, protocol: ModelProtocol) -> "SmallPlatform":
        """A platform on a home of its own, with a key that is the same in every run.

        Who is in which split depends on the key, and a few dozen rows need rows of both kinds in each split.
        """
        home = Home(root, archive.parent)
        home.prepare()
        home.pseudonym_key.write_bytes(bytes(range(KEY_BYTES)))
        home.pseudonym_key.chmod(0o600)
        return cls.at(home, archive, protocol)

    @classmethod
    def at(cls, home: Home, archive: Path, protocol: ModelProtocol, share_of_patients: float = 1.0) -> "SmallPlatform":
        """A platform on a home that may have other models."""
        home.choose_archive(protocol.model, archive, share_of_patients)
        return cls(home, protocol)

    @property
    def lake(self) -> Lake:
        return Lake(str(self.home.lake_catalogue), self.home.lake_data)

    @property
    def registry(self) -> Registry:
        return Registry(self.home.registry_uri, self.home.registry_artefacts)

    @property
    def resources(self) -> dict[str, Any]:
        """What an asset asks for beside its inputs."""
        lake = LakeResource(catalogue=str(self.home.lake_catalogue), data=str(self.home.lake_data))
        registry = RegistryResource(uri=self.home.registry_uri, artefacts=str(self.home.registry_artefacts))
        return {
            "home": HomeResource(root=str(self.home.root), raw=str(self.home.raw)),
            "lake": lake,
            "registry": registry,
        }

    @property
    def definitions(self) -> dg.Definitions:
        return definitions_at(self.home, self.protocol)

    def set_alias(self, alias: str, version: ModelVersion) -> None:
        """Point an alias at a version, past all rules."""
        from mlflow import MlflowClient

        MlflowClient(self.home.registry_uri).set_registered_model_alias(version.model, alias, str(version.version))

    def drop_alias(self, alias: str) -> None:
        """Let an alias point nowhere."""
        from mlflow import MlflowClient

        MlflowClient(self.home.registry_uri).delete_registered_model_alias(self.protocol.model, alias)

    def run(
        self,
        job: str,
        month: date | None = None,
        instance: dg.DagsterInstance | None = None,
        tags: dict[str, str] | None = None,
        raise_on_error: bool = True,
    ) -> dg.ExecuteInProcessResult:
        """One of the model's jobs, in process."""
        with set_defs_state_storage(None):  # the one of an instance that is gone may still be set
            resolved = self.definitions.resolve_job_def(f"{self.protocol.model}_{job}")
        return resolved.execute_in_process(
            instance=instance,
            partition_key=f"{month:%Y-%m}" if month else None,
            run_config=QUIET,
            tags=tags,
            raise_on_error=raise_on_error,
        )

    def publish(
        self, instance: dg.DagsterInstance | None = None, raise_on_error: bool = True
    ) -> dg.ExecuteInProcessResult:
        """The home's job that publishes, in process."""
        definitions = dg.Definitions(
            assets=[analytics_of([self.protocol.model])], jobs=[publication_job()], resources=self.resources
        )
        return definitions.resolve_job_def(PUBLICATION).execute_in_process(
            instance=instance, run_config=QUIET, raise_on_error=raise_on_error
        )

    def run_together(self, job: str, months: Sequence[date], instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        """One of the model's jobs for several months in one run, in process."""
        first, last = (f"{month:%Y-%m}" for month in (months[0], months[-1]))
        return self.run(job, instance=instance, tags={RANGE_START: first, RANGE_END: last})

    def sign(
        self,
        version: ModelVersion,
        /,
        role: str,
        decision: Decision = "approve",
        signer: str | None = None,
        **changes: Any,
    ) -> Path:
        """A signature in a role on exactly this version, by a signer who is made where there is none."""
        name = signer or f"dr-{role}"
        key = self.home.keys / f"{name}.pem"
        if not key.exists():
            add_signer(self.home.signers, Signer(name, ROLES, create_key(key, None), demo=False))
        report = self.lake.read(f"{version.model}.validation_report", where={"version": version.version})
        stated = {
            "model": version.model,
            "version": version.version,
            "artefact_sha256": version.artefact_sha256,
            "report_sha256": report["report_sha256"][0],
            "protocol_sha256": version.protocol_sha256,
            "decision": decision,
            "reason": "as the report says",
            "role": role,
            "signer": name,
            "signed_at": now(),
        }
        return store(sign(Statement(**{**stated, **changes}), key, None), self.home.sign_offs)


@dataclass(frozen=True)
class Developed:
    """A platform with version 1 released and version 2 a candidate, and the instance that saw it all."""

    platform: SmallPlatform
    instance: dg.DagsterInstance
    champion: ModelVersion
    candidate: ModelVersion
