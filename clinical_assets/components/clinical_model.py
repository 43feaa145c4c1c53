"""The stamp: from one protocol, one lifecycle of assets, checks, jobs, schedules and sensors.

Belongs here: how a protocol becomes definitions. Does not belong here: what any of the assets does.
"""

from dataclasses import dataclass
from typing import Self

import dagster as dg
from pydantic import BaseModel

from clinical_assets.lifecycle import automation
from clinical_assets.lifecycle.alias_check import alias_checks
from clinical_assets.lifecycle.chain import CHAIN
from clinical_assets.lifecycle.champion_upkeep import upkeep_job
from clinical_assets.lifecycle.checks import checks
from clinical_assets.lifecycle.data import protocol_asset
from clinical_assets.lifecycle.model_watch import model_watch
from clinical_assets.lifecycle.months_flow import months_flow
from clinical_assets.lifecycle.peer_reports import peer_jobs
from clinical_assets.protocol import ModelProtocol, WrittenProtocol


@dataclass(frozen=True)
class ClinicalModel(dg.Component):
    """One clinical model: its protocol, and the lifecycle that the protocol governs."""

    protocol: ModelProtocol

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The values that stand under `attributes` in a `defs.yaml`."""
        return WrittenProtocol

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component of one folder below `defs/`; the folder's name is the model's."""
        if not isinstance(attributes, WrittenProtocol):
            raise TypeError(f"{context.path}: a ClinicalModel needs its protocol under `attributes`")
        return cls(ModelProtocol.model_validate(attributes.model_dump() | {"model": context.path.name}))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Every asset, check, job, schedule and sensor of this model."""
        model = self.protocol.model
        assets = dg.load_assets_from_modules(CHAIN, group_name=model, key_prefix=model)
        owned = dg.map_asset_specs(
            lambda spec: spec.replace_attributes(owners=list(self.protocol.owners)),
            [asset for asset in assets if isinstance(asset, dg.AssetsDefinition)],
        )
        jobs = [*automation.jobs(self.protocol), upkeep_job(self.protocol)]
        return dg.Definitions(
            assets=[protocol_asset(self.protocol), *owned],
            asset_checks=[*checks(self.protocol), *alias_checks(self.protocol)],
            jobs=[*jobs, *peer_jobs(self.protocol)],
            schedules=automation.schedules(self.protocol),
            sensors=[months_flow(self.protocol), model_watch(self.protocol, jobs)],
        )
