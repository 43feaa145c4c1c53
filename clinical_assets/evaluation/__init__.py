"""Arrays in, findings out - discrimination, calibration, operating point, subgroups, intervals, judgement.

Belongs here: measuring and judging. Does not belong here: fitting, storage.
"""

from clinical_assets.evaluation.calibration import calibration_curve
from clinical_assets.evaluation.findings import compare, evaluate
from clinical_assets.evaluation.judgement import judge
from clinical_assets.evaluation.sample import EvaluationError
from clinical_assets.evaluation.utility import normalized_utility

__all__ = ["EvaluationError", "calibration_curve", "compare", "evaluate", "judge", "normalized_utility"]
