"""A code location of many models: copies of one protocol, as many as `CLINICAL_COPIES` says.

Belongs here: the copies. Does not belong here: what is measured of them (sensors.py).
"""

import os
from typing import cast

import dagster as dg

from clinical_assets.components import ClinicalModel
from clinical_assets.defs import resources, runbook
from clinical_assets.protocol import ModelProtocol, read_protocol

COPIES = "CLINICAL_COPIES"
COPIED = "readmission"


def copies(models: int) -> list[ModelProtocol]:
    """A protocol a model, alike but for the model's name."""
    written = read_protocol(COPIED).model_dump()
    return [ModelProtocol.model_validate(written | {"model": f"{COPIED}_{number:02}"}) for number in range(models)]


@dg.definitions
def defs() -> dg.Definitions:
    """Every copy with the platform's own resources, runbook and sensors."""
    nothing = cast("dg.ComponentLoadContext", None)
    models = [ClinicalModel(protocol).build_defs(nothing) for protocol in copies(int(os.environ.get(COPIES) or 50))]
    return dg.Definitions.merge(*models, resources.resources(), runbook.runbook())
