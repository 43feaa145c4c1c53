"""What this package offers to a `defs.yaml`: the component that stamps a model's lifecycle."""

from clinical_assets.components.clinical_model import ClinicalModel

__all__ = ["ClinicalModel"]
