"""The code location: everything below `defs/`."""

import warnings
from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """All models and the resources they share."""
    # A month's job makes rows, which may be made for many months together, and looks, which are taken month by month:
    # Dagster warns that it will take the latter's way, as it should.
    warnings.filterwarnings("ignore", "Asset job .* varying BackfillPolicies")
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
