"""The one home that the tests of the whole chain share; none of them changes what another looks at."""

from collections.abc import Iterator

import pytest
from replayed_home import ReplayedHome, replay


@pytest.fixture(scope="session")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplayedHome]:
    with replay(tmp_path_factory.mktemp("replayed")) as home:
        yield home
