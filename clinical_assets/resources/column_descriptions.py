"""What the columns of the platform's own tables mean; one name means one thing in every table.

Belongs here: descriptions. Does not belong here: the columns of a cohort, whose contract describes them.
"""

import re

COLUMN_DESCRIPTIONS = {
    "batch_missing_rate": "Share of the month's rows in which the column is missing",
    "chance": "The value that chance alone explains at the protocol's false-alarm rate",
    "column": "The column that was compared, profiled or looked at",
    "critical": "The value above which the column counts as drifted: the larger of chance and relevant",
    "distinct_estimate": "Distinct values, estimated (HyperLogLog)",
    "evidence": "Minus the decimal logarithm of the p-value",
    "flagged": "Whether the value exceeds its critical value",
    "kind": "Prevailing type of the values",
    "maximum": "Largest value",
    "mean": "Mean of the values",
    "median": "Median, estimated (KLL)",
    "minimum": "Smallest value",
    "missing_rate": "Share of rows in which the column is missing",
    "most_frequent": "Most frequent value, of columns with few values only",
    "most_frequent_rate": "Share of the most frequent value",
    "n_null": "Rows in which the column is missing",
    "profile": "The column's whylogs sketches, mergeable (protobuf)",
    "quantile_05": "5th percentile, estimated (KLL)",
    "quantile_95": "95th percentile, estimated (KLL)",
    "reference_missing_rate": "Share of the training rows in which the column is missing",
    "relevant": "The smallest value that matters, from the protocol",
    "severity": "Largest ratio of a value to its critical value; above 1 a column is flagged",
    "statistic": "psi, missing_rate_change, unseen_rate or out_of_range_rate",
    "stddev": "Standard deviation",
    "alerted": "Whether the risk reaches the threshold of the version that scored",
    "artefact_sha256": "SHA-256 over the version's files",
    "champion_version": "The released version at that time",
    "created_at": "When the row was made, UTC",
    "data_origin": "Where the rows come from: real:PUBLISHER, real:PUBLISHER:modified, or simulated",
    "decision": "approve or reject",
    "demo": "Whether the signer is a demonstration signer",
    "fault": "Of a signature, why it does not count, if it does not; of data: missing, implausible, quarantined",
    "high": "Upper end of the 95 % interval",
    "judgement": "pass, fail, cannot_tell or not_applicable; only pass is a pass",
    "latency_ms_per_1000": "Milliseconds to score 1,000 rows, measured over the whole month",
    "limit": "What the protocol asks for, in words",
    "low": "Lower end of the 95 % interval",
    "metric": "What was measured",
    "model": "The model's name",
    "model_version": "The version that scored the row",
    "month": "First day of the month; for archives without dates, of the replay calendar",
    "n": "Rows the value rests on",
    "outcome_known_on": "The first day on which the outcome can be known",
    "previous_champion": "The version released before, if any",
    "protocol_sha256": "SHA-256 of the protocol in force",
    "reason": "Why, in a sentence",
    "released_at": "When the version was released, UTC",
    "report_sha256": "SHA-256 of the validation report's file",
    "risk": "Predicted probability of the outcome",
    "role": "The role in which the signer signed",
    "signature": "Ed25519 signature over the statement, hexadecimal",
    "signed_at": "When it was signed, UTC",
    "signer": "Who signed",
    "split": "train, calibrate or test; a patient is in one split only, for ever",
    "status": "ripe, partly_ripe or not_ripe: whether the outcomes can be known by now",
    "subgroup": "overall, or column=value",
    "threshold": "Risk from which a unit is alerted",
    "trained_through": "The last month whose rows the version learnt from",
    "training_set_snapshot": "The lake snapshot that holds its training set as it was",
    "value": "The measured value; empty where it is undefined",
    "verdict": "stable, data_fault, population_shift, concept_shift or cannot_tell",
    "version": "The registered version",
    "affected": "How many values or records have the fault",
    "rows": "How many were looked at",
    "place": "The record in quarantine, as a keyed pseudonym of its file or line",
    "features_snapshot": "The lake snapshot from which the rows' features are read",
    "predicted_grade": "Grade that follows from the probabilities by the version's cut-points",
    "alerted_at_utility": "Whether the risk reaches the threshold at which the utility is highest",
    "utility_threshold": "Risk at which the utility is highest, chosen on the calibration split",
}

NUMBERED_DESCRIPTIONS = {
    "probability": "Predicted probability of this grade",
    "representation": "One of a few numbers that sum up what the model has made of the row, watched for drift",
}
"""What columns mean of which there are several, `<name>_<number>`."""


def describe_column(name: str) -> str | None:
    """What a column of the platform's own means; None for any other."""
    numbered = re.fullmatch(r"(\w+)_\d+", name)
    return COLUMN_DESCRIPTIONS.get(name) or (NUMBERED_DESCRIPTIONS.get(numbered[1]) if numbered else None)
