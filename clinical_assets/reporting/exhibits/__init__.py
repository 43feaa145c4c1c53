"""What a kind of model shows in its report beside the findings; a protocol names the functions under `exhibits`."""

from clinical_assets.reporting.exhibits.alarm_lead import lead_time
from clinical_assets.reporting.exhibits.decision_curve import net_benefit_curve
from clinical_assets.reporting.exhibits.exhibit import Exhibit, ExhibitError, ExhibitFunction
from clinical_assets.reporting.exhibits.graded_images import grade_table, image_grid
from clinical_assets.reporting.exhibits.site_transport import transport

__all__ = [
    "Exhibit",
    "ExhibitError",
    "ExhibitFunction",
    "grade_table",
    "image_grid",
    "lead_time",
    "net_benefit_curve",
    "transport",
]
