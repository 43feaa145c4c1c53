"""The resources that all models share, at the addresses that the environment names.

Belongs here: which resource stands behind which name. Does not belong here: what a resource does.
"""

import dagster as dg

from clinical_assets.governance.audit_trail import AuditTrail, person_at_terminal
from clinical_assets.governance.outbound import guard_outbound
from clinical_assets.resources.access_rights import refuse_open_secrets
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake_io_manager import LakeIOManager, LakeResource
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
    guard_outbound(AuditTrail(home.audit), person_at_terminal())
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
