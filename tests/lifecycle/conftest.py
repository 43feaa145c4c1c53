"""One small platform for all tests of the lifecycle: a released version, a newer candidate, and five months."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from champion_moves import platform_of, sign
from small_fundus import NewCamera, bring_a_new_camera
from small_icu import SilentMonth, run_a_silent_month
from small_platform import (
    MODEL,
    MONTHS,
    ROLES,
    BuildArchive,
    Developed,
    SmallPlatform,
    sample_of,
    small_protocol,
    unpack,
    write_archive,
)

from clinical_assets.archives.diabetes130 import DIABETES130
from clinical_assets.governance.pseudonyms import KEY_BYTES
from clinical_assets.lifecycle.champion_move import Platform, settle
from clinical_assets.lifecycle.incidents import EVENT_TABLE, INCIDENT_TABLE
from clinical_assets.lifecycle.release_act import release_version
from clinical_assets.protocol import ModelVersion
from clinical_assets.resources.home import Home
from clinical_assets.resources.ledger import LEDGER_TABLE
from clinical_assets.resources.registry import CHALLENGER, CHAMPION, Registry

FOREIGN_WARNINGS = (
    "ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning",
    "ignore:Specifying a partitions_def on an AssetCheckSpec:dagster.PreviewWarning",
    "ignore:::mlflow",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let Dagster, MLflow and SQLAlchemy warn of each other; our own warnings stay errors."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for ignored in FOREIGN_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(ignored))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, bytes]:
    """About 6,000 encounters and the code tables of a simulated archive."""
    rows, codes = unpack(DIABETES130.simulate(tmp_path_factory.mktemp("simulated"), seed=3))
    return sample_of(rows, 6_000), codes


@pytest.fixture(scope="session")
def encounters(published: tuple[pl.DataFrame, bytes]) -> pl.DataFrame:
    return published[0]


@pytest.fixture
def build_archive(tmp_path: Path, published: tuple[pl.DataFrame, bytes]) -> BuildArchive:
    return lambda rows: write_archive(tmp_path / "raw" / "dataset_diabetes", rows, published[1])


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home of all models of these tests, since preparing a registry takes seconds; the pseudonyms are known.

    Their key decides which patient is in which split, and in small cohorts each split must have both outcomes.
    """
    folder = tmp_path_factory.mktemp("shared")
    home = Home(folder / "home", folder / "raw")
    home.prepare()
    home.pseudonym_key.write_bytes(bytes(range(KEY_BYTES)))
    home.pseudonym_key.chmod(0o600)
    Registry(home.registry_uri, home.registry_artefacts).prepare()
    return home


@pytest.fixture(scope="session")
def developed(shared_home: Home, published: tuple[pl.DataFrame, bytes]) -> Developed:
    """Four months arrive, version 1 is trained, signed and released, a fifth month arrives, version 2 is trained."""
    archive = write_archive(shared_home.raw / "dataset_diabetes", *published)
    platform = SmallPlatform.at(shared_home, archive, small_protocol())
    instance = dg.DagsterInstance.ephemeral()
    for month in MONTHS[:4]:
        platform.run("intake", month, instance)
    platform.run("retraining", instance=instance)
    champion = platform.registry.challenger(MODEL)
    for role in ROLES:
        platform.sign(champion, role)
    platform.run("release", instance=instance)
    platform.run("month", MONTHS[4], instance)
    platform.run("retraining", instance=instance)
    return Developed(platform, instance, champion, platform.registry.challenger(MODEL))


@pytest.fixture(scope="session")
def silent_month(shared_home: Home) -> SilentMonth:
    """A model of another kind on the same lifecycle: hours of intensive care, two hospitals, a silent month."""
    return run_a_silent_month(shared_home)


@pytest.fixture(scope="session")
def new_camera(shared_home: Home) -> NewCamera:
    """And images: three months of one camera, and a fourth of another."""
    return bring_a_new_camera(shared_home)


MOVES = (LEDGER_TABLE, EVENT_TABLE, INCIDENT_TABLE)


def moves_of(platform: SmallPlatform) -> dict[str, pl.DataFrame]:
    """The ledger, and what was noticed of the champion's moves."""
    return {x: platform.lake.read(x) for x in MOVES if platform.lake.exists(x)}


def restore(platform: SmallPlatform, champion: ModelVersion, before: dict[str, pl.DataFrame]) -> None:
    """The champion of before, in the registry, the ledger and the incidents, past all rules."""
    for table, now in moves_of(platform).items():
        kept = before.get(table, now.clear())
        if not now.hash_rows().sort().equals(kept.hash_rows().sort()):
            platform.lake.write_table(table, kept, author="a test", message="restored")
    platform.set_alias(CHAMPION, champion)


@pytest.fixture
def candidate(developed: Developed) -> Iterator[Developed]:
    """The developed platform with an unsigned candidate; what a test does about its release is undone."""
    platform, version = developed.platform, developed.candidate
    report = platform.home.report(MODEL, version.version)
    written = report.read_bytes()
    before = moves_of(platform)
    yield developed
    report.write_bytes(written)
    shutil.rmtree(platform.home.sign_offs / MODEL / f"v{version.version}", ignore_errors=True)
    restore(platform, developed.champion, before)
    platform.set_alias(CHALLENGER, version)


@pytest.fixture(scope="session")
def kept_instance(developed: Developed) -> Iterator[dg.DagsterInstance]:
    """Dagster's own state of the home, on disk, as a terminal and a daemon find it."""
    with dg.DagsterInstance.from_config(str(developed.platform.home.dagster)) as instance:
        yield instance


@pytest.fixture
def at(candidate: Developed, kept_instance: dg.DagsterInstance) -> Platform:
    return platform_of(candidate.platform, kept_instance)


@pytest.fixture
def twice_released(candidate: Developed, at: Platform) -> Platform:
    """Version 1 was live, and version 2 is."""
    sign(candidate)
    release_version(at, candidate.platform.protocol, candidate.candidate, "run-of-version-2")
    settle(at, MODEL)
    return at
