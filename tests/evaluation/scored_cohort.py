from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class ScoredCohort:
    """Scored units of patients with up to a few rows each, many of them with equal risks."""

    outcome: np.ndarray
    risk: np.ndarray
    patient: np.ndarray
    subgroups: pl.DataFrame


def make_scored_cohort(n: int = 1500) -> ScoredCohort:
    random = np.random.default_rng(7)
    log_odds = random.normal(-1.5, 1.0, n)
    site = random.choice(np.array(["east", "west", None], dtype=object), n, p=[0.48, 0.48, 0.04])
    return ScoredCohort(
        outcome=(random.random(n) < 1 / (1 + np.exp(-0.8 * log_odds))).astype(int),
        risk=np.round(1 / (1 + np.exp(-log_odds)), 2),
        patient=random.integers(0, n * 3 // 5, n).astype(str),
        subgroups=pl.DataFrame({"sex": random.choice(["female", "male"], n), "site": site.tolist()}),
    )
