"""The resources that all models share, at the addresses that the environment names.

Belongs here: which resource stands behind which name. Does not belong here: what a resource does.
"""

import os

import dagster as dg

from clinical_assets.governance.audit_trail import AuditTrail, person_at_terminal
from clinical_assets.governance.outbound import guard_outbound
from clinical_assets.protocol import protocol_names, read_protocol
from clinical_assets.resources.access_rights import refuse_open_secrets
from clinical_assets.resources.dagster_plus import agent_hosts, refuse_unfit_deployment
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake_io_manager import LakeIOManager, LakeResource
from clinical_assets.resources.outward_gate import search_log_lines
from clinical_assets.resources.platform import (
    HomeResource,
    ModelVersionIOManager,
    ProtocolIOManager,
    RegistryResource,
    mlflow_run_at,
)


@dg.definitions
def resources() -> dg.Definitions:
    """Home, lake, registry, MLflow run, and the IO managers built on them."""
    home = Home.from_environment()
    refuse_open_secrets(home.secrets)
    refuse_unfit_deployment(os.environ, map(read_protocol, protocol_names()))
    guard_outbound(AuditTrail(home.audit), person_at_terminal(), agent_hosts(os.environ))
    search_log_lines()
    home_folder = HomeResource(root=str(home.root), raw=str(home.raw))
    lake = LakeResource(catalogue=str(home.lake_catalogue), data=str(home.lake_data))
    registry = RegistryResource(uri=home.registry_uri, artefacts=str(home.registry_artefacts))
    return dg.Definitions(
        executor=dg.in_process_executor,  # of runs that no job of ours describes, as those of automation conditions
        resources={
            "home": home_folder,
            "lake": lake,
            "registry": registry,
            "mlflow": mlflow_run_at(registry),
            "io_manager": LakeIOManager(lake=lake, audit=str(home.audit)),
            "protocol_io": ProtocolIOManager(audit=str(home.audit)),
            "model_version_io": ModelVersionIOManager(
                registry=registry, home=home_folder, lake=lake, audit=str(home.audit)
            ),
        },
    )
