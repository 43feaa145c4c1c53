"""One small platform for all tests of the lifecycle: a released version, a newer candidate, and five months."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from champion_moves import platform_of, sign
from dagster._core.storage.defs_state.base import set_defs_state_storage
from kept_homes import kept, made_once
from small_fundus import NewCamera, bring_a_new_camera, screening_protocol
from small_icu import SilentMonth, icu_protocol, run_a_silent_month
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


@pytest.fixture(autouse=True)
def no_state_of_definitions() -> Iterator[None]:
    """Dagster remembers, past its end, the instance that was entered twice; nothing here keeps state with it."""
    with set_defs_state_storage(None):
        yield


def simulate(folder: Path) -> None:
    """About 6,000 encounters and the code tables of a simulated archive."""
    rows, codes = unpack(DIABETES130.simulate(folder, seed=3))
    sample_of(rows, 6_000).write_parquet(folder / "encounters.parquet")
    (folder / "codes.csv").write_bytes(codes)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, bytes]:
    with made_once(tmp_path_factory, "simulated", simulate) as (folder, _):
        return pl.read_parquet(folder / "encounters.parquet"), (folder / "codes.csv").read_bytes()


@pytest.fixture(scope="session")
def encounters(published: tuple[pl.DataFrame, bytes]) -> pl.DataFrame:
    return published[0]


@pytest.fixture
def build_archive(tmp_path: Path, published: tuple[pl.DataFrame, bytes]) -> BuildArchive:
    return lambda rows: write_archive(tmp_path / "raw" / "dataset_diabetes", rows, published[1])


def home_in(folder: Path) -> Home:
    return Home(folder / "home", folder / "raw")


@contextmanager
def instance_of(folder: Path, story: str) -> Iterator[dg.DagsterInstance]:
    """What Dagster has seen of one model's story on the shared home, on disk, beside the home's own."""
    seen = folder / f"seen-{story}"
    if not seen.exists():
        seen.mkdir()
        shutil.copy(home_in(folder).dagster / "dagster.yaml", seen)
    with dg.DagsterInstance.from_config(str(seen)) as instance:
        yield instance


def tell_all_stories(folder: Path, published: tuple[pl.DataFrame, bytes]) -> dict[str, dict[str, Any]]:
    """The home of all models of these tests: a table, hours of intensive care, and images; the pseudonyms are known.

    Their key decides which patient is in which split, and in small cohorts each split must have both outcomes.
    """
    home = home_in(folder)
    home.prepare()
    home.pseudonym_key.write_bytes(bytes(range(KEY_BYTES)))
    home.pseudonym_key.chmod(0o600)
    Registry(home.registry_uri, home.registry_artefacts).prepare()
    write_archive(home.raw / "dataset_diabetes", *published)
    tellers = {"developed": develop, "silent_month": run_a_silent_month, "new_camera": bring_a_new_camera}
    told = {}
    for story, tell in tellers.items():
        with instance_of(folder, story) as instance:
            told[story] = tell(home, instance)
    return told


def develop(home: Home, instance: dg.DagsterInstance) -> dict[str, Any]:
    """Four months arrive, version 1 is trained, signed and released, a fifth month arrives, version 2 is trained."""
    platform = SmallPlatform.at(home, home.raw / "dataset_diabetes", small_protocol())
    platform.run_together("intake", MONTHS[:4], instance)
    platform.run("retraining", instance=instance)
    champion = platform.registry.challenger(MODEL)
    for role in ROLES:
        platform.sign(champion, role)
    platform.run("release", instance=instance)
    platform.run("month", MONTHS[4], instance)
    platform.run("retraining", instance=instance)
    return {"champion": champion, "candidate": platform.registry.challenger(MODEL)}


Told = tuple[Path, dict[str, dict[str, Any]]]


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory, published: tuple[pl.DataFrame, bytes]) -> Told:
    """A copy of the shared home for this process alone, and what happened on it."""
    folder, stories = kept(tmp_path_factory, "shared", partial(tell_all_stories, published=published))
    # An archive outside a home is where it was chosen, as long as it is there: the copy's is the copy beside it.
    sources = home_in(folder).source
    sources.write_text(re.sub(r'"[^"]*/raw/', f'"{folder}/raw/', sources.read_text()))
    return folder, stories


@pytest.fixture(scope="session")
def developed(told: Told) -> Iterator[Developed]:
    """A released version 1, five months, and version 2, a candidate."""
    folder, stories = told
    with instance_of(folder, "developed") as instance:
        yield Developed(SmallPlatform(home_in(folder), small_protocol()), instance, **stories["developed"])


@pytest.fixture(scope="session")
def silent_month(told: Told) -> Iterator[SilentMonth]:
    """A model of another kind on the same lifecycle: hours of intensive care, two hospitals, a silent month."""
    folder, stories = told
    with instance_of(folder, "silent_month") as instance:
        yield SilentMonth(SmallPlatform(home_in(folder), icu_protocol()), instance, **stories["silent_month"])


@pytest.fixture(scope="session")
def new_camera(told: Told) -> Iterator[NewCamera]:
    """And images: three months of one camera, and a fourth of another."""
    folder, stories = told
    home, story = home_in(folder), stories["new_camera"]
    with instance_of(folder, "new_camera") as instance:
        platform = SmallPlatform(home, screening_protocol())
        yield NewCamera(platform, instance, story["version"], home.raw / story["archive"])


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
