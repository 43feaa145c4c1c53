"""The exhibit of whether alerting by the model is worth more than alerting everyone, or no one.

Belongs here: what the decision curve shows. Does not belong here: how net benefit is computed, and the drawing.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from clinical_assets.evaluation.net_benefit import net_benefit
from clinical_assets.protocol import Finding, ModelProtocol
from clinical_assets.reporting.exhibits.exhibit import Exhibit, require_columns
from clinical_assets.reporting.figures import decision_curve_figure, to_svg
from clinical_assets.reporting.metric_words import plural_unit

POINTS = 60
PREVALENCES = 3.0
BEYOND_THRESHOLD = 1.25
HIGHEST = 0.99


def net_benefit_curve(scored: pl.DataFrame, protocol: ModelProtocol, findings: Sequence[Finding]) -> Exhibit:
    """Net benefit of the model and of alerting all or none, by threshold probability (Vickers and Elkin 2006).

    The thresholds go up to three times the prevalence, and beyond the alert threshold, which is marked. Raises
    ExhibitError on rows without `risk` and `threshold`.
    """
    require_columns(scored, ["risk", "threshold", protocol.outcome.column], "net_benefit_curve")
    event = protocol.outcome.is_event(scored)
    threshold = float(scored["threshold"][0])
    highest = min(HIGHEST, max(PREVALENCES * float(event.to_numpy().mean()), BEYOND_THRESHOLD * threshold))
    curve = net_benefit(event, scored["risk"], np.linspace(highest / POINTS, highest, POINTS))
    return Exhibit(
        title="Net benefit",
        reading=(
            f"Whoever would alert at a risk of 5 % accepts 19 false alerts for one true one. At each such threshold "
            f"the curve counts true alerts less false ones at that price, in every 100 {plural_unit(protocol)}. The "
            "model is of use where its line lies above both others."
        ),
        svg=to_svg(decision_curve_figure(curve, threshold)),
    )
