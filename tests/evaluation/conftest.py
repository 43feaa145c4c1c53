import pytest
from scored_cohort import ScoredCohort, make_scored_cohort


@pytest.fixture
def scored() -> ScoredCohort:
    return make_scored_cohort()
