"""The Dagster resources and IO managers that hand out the home, the registry, the protocol and the model versions.

Belongs here: how a step gets hold of a plain object. Does not belong here: what the objects do.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from clinical_assets.protocol import ModelProtocol, ModelVersion
from clinical_assets.resources.audited_outputs import record_materialisation
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.ledger import verified_champion
from clinical_assets.resources.outward_gate import reporting
from clinical_assets.resources.registry import CHAMPION, EXPERIMENT, Registry

if TYPE_CHECKING:
    from dagster_mlflow.resources import MlFlow

PROTOCOL_JSON = "protocol/json"
ALIAS = "registry/alias"


class HomeResource(dg.ConfigurableResource):
    """The folder of this platform and the folder of the archives."""

    root: str
    raw: str

    def open(self) -> Home:
        """The home as a plain value."""
        return Home(Path(self.root), Path(self.raw))


class RegistryResource(dg.ConfigurableResource):
    """The registry of model versions."""

    uri: str
    artefacts: str

    def open(self) -> Registry:
        """The registry as a plain value."""
        return Registry(self.uri, Path(self.artefacts))


class ProtocolIOManager(dg.ConfigurableIOManager):
    """Hands a model's protocol to the assets that ask for it, from the definitions: fresh after an edit."""

    audit: str

    @reporting
    def handle_output(self, context: dg.OutputContext, obj: ModelProtocol) -> None:
        """Store nothing, the protocol stands in the definitions; record it in the audit trail in the folder `audit`."""
        record_materialisation(self.audit, context, details={"protocol_sha256": obj.sha256})

    @reporting
    def load_input(self, context: dg.InputContext) -> ModelProtocol:
        """The protocol that the upstream asset's definition carries."""
        upstream = context.upstream_output
        if upstream is None or upstream.definition_metadata is None:
            raise dg.DagsterInvariantViolationError("a protocol is loaded from the definition of a protocol asset")
        return ModelProtocol.model_validate_json(upstream.definition_metadata[PROTOCOL_JSON])


class ModelVersionIOManager(dg.ConfigurableIOManager):
    """Hands on the version that an alias points to, and no champion that the ledger does not know.

    The alias stands in the upstream asset's definition.
    """

    registry: dg.ResourceDependency[RegistryResource]
    home: dg.ResourceDependency[HomeResource]
    lake: dg.ResourceDependency[LakeResource]
    audit: str

    @reporting
    def handle_output(self, context: dg.OutputContext, obj: ModelVersion) -> None:
        """Store nothing, the version stands in the registry; record it in the audit trail in the folder `audit`."""
        record_materialisation(
            self.audit,
            context,
            snapshot=obj.lake_snapshot,
            details={"version": obj.version, "artefact_sha256": obj.artefact_sha256},
        )

    @reporting
    def load_input(self, context: dg.InputContext) -> ModelVersion:
        """The challenger or the champion, as the upstream asset's definition says."""
        upstream = context.upstream_output
        if upstream is None or upstream.definition_metadata is None:
            raise dg.DagsterInvariantViolationError("a model version is loaded from an asset that registers one")
        registry, model = self.registry.open(), upstream.asset_key.path[0]
        if upstream.definition_metadata[ALIAS] == CHAMPION:
            return verified_champion(self.home.open(), self.lake.open(), registry, model)
        return registry.challenger(model)


def mlflow_run_at(registry: RegistryResource) -> dg.ResourceDefinition:
    """The resource `mlflow`: dagster-mlflow's run, opened in every step that asks for it, so that only one step may.

    dagster-mlflow is imported when a step asks for it, since that takes two seconds.
    """

    @dg.resource(config_schema={"experiment_name": str, "mlflow_tracking_uri": str})
    def mlflow_run(context: dg.InitResourceContext) -> Iterator["MlFlow"]:
        registry.open().prepare()
        with warnings.catch_warnings():
            # dagster-mlflow is in beta, and calls what Dagster has deprecated.
            warnings.simplefilter("ignore")
            from dagster_mlflow.resources import MlFlow

            run = MlFlow(context)
        yield run

    return mlflow_run.configured({"experiment_name": EXPERIMENT, "mlflow_tracking_uri": registry.uri})


@contextmanager
def finished_run(mlflow: Any) -> Iterator[None]:
    """Ends the MLflow run with the step: finished, or failed where the step raised."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    finally:
        mlflow.end_run(status)
