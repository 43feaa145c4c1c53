"""A version made again from what was kept of it: its recipe and its rows; and compared with itself.

Rows and figures come from the lake's snapshot, or, where that is gone, from the release's pin in the hospital's Git.

Belongs here: rebuilding and comparing. Does not belong here: how a candidate is made (`candidate`), what a pin of it
holds (`pinned_release`), and printing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

import dagster as dg
import polars as pl

from clinical_assets.evaluation.assessment import Assessment
from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.recipe import Environment, Recipe
from clinical_assets.learning.scoring import score
from clinical_assets.learning.storage import save_estimator
from clinical_assets.lifecycle.candidate import (
    FINDING_SCHEMA,
    RESAMPLES,
    Estimators,
    choose_thresholds,
    make_estimator,
    measure_transport,
    read_training_rows,
)
from clinical_assets.lifecycle.pinned_release import PinnedEstimators, read_pinned_release
from clinical_assets.protocol import ALERT, Finding, ModelVersion, Repair, load_object
from clinical_assets.reporting.metric_words import MINUS
from clinical_assets.resources.home import Home, write_atomically
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.pinned_tree import PinnedTree
from clinical_assets.resources.registry import Registry

TOLERANCE = 1e-9
"""Two figures that differ by no more are equal: sums may be taken in another order."""


class Sameness(StrEnum):
    """What a comparison says; only `EQUAL` is a success."""

    EQUAL = "equal"
    DIFFERS = "differs"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing of the registered version beside that of the rebuilt one; `of_figure` marks those of the evaluation."""

    what: str
    registered: str
    rebuilt: str
    sameness: Sameness
    of_figure: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether the two are known to be the same."""
        return self.sameness is Sameness.EQUAL


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A version made again: what was compared, the packages that differ, and what could not be rebuilt and why.

    `origin` says from where the rows and the recorded figures came.
    """

    model: str
    version: int
    data_origin: str
    lake_snapshot: int
    origin: str
    compared: tuple[Comparison, ...]
    environment: tuple[Comparison, ...]
    notes: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether everything that was compared is equal; a difference of packages alone is none of the version."""
        return all(item.is_equal for item in self.compared)


@dataclass(frozen=True, slots=True)
class Kept:
    """All that a version is made again from; `recorded` are the figures measured when it was made.

    `base` is the version that a repair began with, and `estimators` where that is found; `origin` says in words where
    all of it comes from, `notes` what a reader must know of it, `compared` what was compared on the way.
    """

    version: ModelVersion
    recipe: Recipe
    rows: pl.DataFrame
    recorded: pl.DataFrame
    base: ModelVersion | None
    estimators: Estimators
    origin: str
    notes: tuple[str, ...] = ()
    compared: tuple[Comparison, ...] = ()


def kept_in_lake(home: Home, lake: Lake, registry: Registry, version: ModelVersion) -> Kept:
    """What lake and registry keep of a version; raises LearningError where the recipe is gone, and what they raise."""
    kept = registry.recipe(version)
    recipe = kept or recipe_of_run(home, lake, version)
    return Kept(
        version=version,
        recipe=recipe,
        rows=read_training_rows(lake, recipe.protocol(version), version.lake_snapshot),
        recorded=lake.read(f"{version.model}.evaluation", where={"version": version.version}),
        base=registry.version(version.model, recipe.base_version) if recipe.base_version else None,
        estimators=registry,
        origin=f"lake snapshot {version.lake_snapshot}",
        notes=() if kept else ("no recipe was kept with this version: protocol and repair are those of Dagster's log",),
    )


def kept_in_git(tree: PinnedTree, model: str, version: int) -> Kept:
    """What the pins of the hospital's Git keep of a released version; what is missing is pulled, all of it verified.

    The archive is brought too where the version's recipe names its pin, and compared with that. Raises PinError where
    something is not pinned, cannot be pulled, or is not what its pin says.
    """
    release = read_pinned_release(tree, model, version)
    estimators, recipe = PinnedEstimators(tree), release.recipe
    return Kept(
        version=release.version,
        recipe=recipe,
        rows=release.training_rows(),
        recorded=release.evaluation(),
        base=estimators.version(model, recipe.base_version) if recipe.base_version else None,
        estimators=estimators,
        origin=f"{tree.place_of(release.pin)} (Git commit {tree.commit_of(release.pin)})",
        compared=tuple(_compare_archive(tree, recipe, release.version)),
        notes=() if recipe.archive_pin else ("the archive was not pinned when this version was trained",),
    )


def is_in_lake(lake: Lake, registry: Registry, model: str, version: int) -> bool:
    """Whether registry and lake still know a version and its training set; no database is made to find out."""
    known = registry.exists() and any(found.version == version for found in registry.versions(model))
    return known and lake.exists(f"{model}.training_set")


def reproduce(kept: Kept, out: Path) -> Reproduction:
    """Make a version again in the new or empty folder `out`, and compare it with the registered one.

    Writes `estimator/`, the rebuilt files, and `reproduction.json`. Raises LearningError where `out` holds files, and
    what making it raises.
    """
    if out.exists() and any(out.iterdir()):
        raise LearningError(f"{out} already holds files; give a new folder")
    version, recipe, rows = kept.version, kept.recipe, kept.rows
    protocol = recipe.protocol(version)
    if others := set(rows["protocol_sha256"].unique()) - {version.protocol_sha256}:
        raise LearningError(
            f"{version.model}.training_set at snapshot {version.lake_snapshot} was drawn under protocol "
            f"{', '.join(sorted(x[:12] for x in others))}, not that of version {version.version}"
        )
    estimator, calibrate = make_estimator(rows, protocol, recipe.repair, kept.base, kept.estimators)
    artefact_sha256 = save_estimator(estimator, out / "estimator")
    _, thresholds = choose_thresholds(estimator, calibrate, protocol)
    rebuilt = replace(
        version,
        artefact_sha256=artefact_sha256,
        threshold=thresholds[ALERT],
        further_thresholds=tuple((name, value) for name, value in thresholds.items() if name != ALERT),
    )
    test = rows.filter(split="test")
    assessment: Assessment = load_object(protocol.assessment)
    decided = test.hstack(score(estimator, test, rebuilt, protocol))
    measured = [*assessment.measure(decided, protocol, RESAMPLES), *measure_transport(protocol, rows)]
    findings = [Finding(**row) for row in kept.recorded.select(*FINDING_SCHEMA).to_dicts()]
    result = Reproduction(
        model=version.model,
        version=version.version,
        data_origin=version.data_origin,
        lake_snapshot=version.lake_snapshot,
        origin=kept.origin,
        compared=(
            *kept.compared,
            _compare("artefact sha256", version.artefact_sha256, artefact_sha256),
            *compare_thresholds(version.thresholds, thresholds),
            *compare_findings(findings, measured),
        ),
        environment=compare_environments(recipe.environment, Environment.here()),
        notes=(*kept.notes, *_notes(findings, kept.base)),
    )
    write_atomically(out / "reproduction.json", json.dumps(asdict(result), indent=2) + "\n")
    return result


def recipe_of_run(home: Home, lake: Lake, version: ModelVersion) -> Recipe:
    """The recipe of a version with which none was kept, from Dagster's log of its runs and the lake's releases.

    Raises LearningError where the log no longer has them.
    """
    model = version.model
    with runs_of(home) as instance:
        made = _logged(instance, dg.AssetKey([model, "trained_model"]), "version", version.version)
        plan = _logged(instance, dg.AssetKey([model, "protocol"]), "sha256", version.protocol_sha256)
    if made is None or plan is None:
        raise LearningError(
            f"no recipe was kept with {model} version {version.version}, and Dagster's log of its run is gone: under "
            "which protocol it was made cannot be told; restore the backup of the Dagster folder"
        )
    repair = Repair(str(made["made_by"].value))
    base = None
    if repair is not Repair.RETRAIN:
        released = lake.read(f"{model}.release", snapshot=version.lake_snapshot)
        base = released.sort("released_at")["version"][-1]
    plan_json = json.dumps(plan["protocol"].value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Recipe(plan_json, repair, base, None)


def runs_of(home: Home) -> dg.DagsterInstance:
    """Dagster's log of the runs of a home."""
    return dg.DagsterInstance.from_config(str(home.dagster))


def compare_thresholds(registered: Mapping[str, float], rebuilt: Mapping[str, float]) -> Iterator[Comparison]:
    """Every threshold by its name."""
    for name in dict.fromkeys([*registered, *rebuilt]):
        yield _compare_numbers(f"threshold {name}", (registered.get(name),), (rebuilt.get(name),))


def compare_findings(registered: Sequence[Finding], rebuilt: Sequence[Finding]) -> Iterator[Comparison]:
    """Every figure with its interval and n; those against released versions aside, which depend on the day."""
    again = {(x.metric, x.subgroup): x for x in rebuilt}
    for finding in registered:
        if MINUS in finding.metric:
            continue
        other, what = again.pop((finding.metric, finding.subgroup), None), f"{finding.metric}, {finding.subgroup}"
        if other is None:
            yield Comparison(what, _number(finding.value), "not measured", Sameness.DIFFERS, of_figure=True)
            continue
        pair = [(x.value, x.low, x.high, x.n) for x in (finding, other)]
        yield replace(_compare_numbers(what, *pair), of_figure=True)
    for metric, subgroup in again:
        yield Comparison(f"{metric}, {subgroup}", "not recorded", "measured", Sameness.CANNOT_TELL, of_figure=True)


def compare_environments(then: Environment | None, now: Environment) -> tuple[Comparison, ...]:
    """Python, machine, threads and every package that differ from those the version was made with."""
    if then is None:
        return (Comparison("installed packages", "not recorded", f"{len(now.packages)}", Sameness.CANNOT_TELL),)
    pairs = {name: (getattr(then, name), getattr(now, name)) for name in ("python", "machine", "threads")}
    names = sorted({*then.packages, *now.packages})
    pairs |= {name: (then.packages.get(name, "absent"), now.packages.get(name, "absent")) for name in names}
    return tuple(_compare(name, *pair) for name, pair in pairs.items() if pair[0] != pair[1])


def _logged(
    instance: dg.DagsterInstance, asset: dg.AssetKey, name: str, value: int | str
) -> Mapping[str, dg.MetadataValue] | None:
    """The metadata of the newest materialisation of an asset in which one entry has this value."""
    cursor = None
    while True:
        page = instance.fetch_materializations(asset, limit=100, cursor=cursor)
        for record in page.records:
            found = record.asset_materialization
            if found and name in found.metadata and found.metadata[name].value == value:
                return found.metadata
        if not page.has_more:
            return None
        cursor = page.cursor


def _compare_archive(tree: PinnedTree, recipe: Recipe, version: ModelVersion) -> Iterator[Comparison]:
    """The archive beside its pin, as it is pinned now, and as it was pinned when the version was trained."""
    protocol = recipe.protocol(version)
    if recipe.archive_pin is None or protocol.archive is None:
        return
    pin = tree.archive_pin(load_object(protocol.archive).name)
    if pin is None:
        yield Comparison("archive md5", recipe.archive_pin.md5, "not pinned any more", Sameness.CANNOT_TELL)
        return
    tree.bring(pin)
    yield _compare("archive md5", recipe.archive_pin.md5, pin.md5)


def _notes(findings: Sequence[Finding], base: ModelVersion | None) -> Iterator[str]:
    if base is not None:
        yield (
            f"a repair of version {base.version}, whose files were checked against their hash and not rebuilt; "
            f"`clinical reproduce {base.model} {base.version}` rebuilds them"
        )
    if paired := sum(MINUS in finding.metric for finding in findings):
        yield f"{paired} differences from the versions released that day were not measured again"


def _compare(what: str, registered: str, rebuilt: str) -> Comparison:
    return Comparison(what, registered, rebuilt, Sameness.EQUAL if registered == rebuilt else Sameness.DIFFERS)


def _compare_numbers(what: str, registered: tuple[float | None, ...], rebuilt: tuple[float | None, ...]) -> Comparison:
    same = all(_near(*pair) for pair in zip(registered, rebuilt, strict=True))
    words = [
        ", ".join(_number(x) for x in numbers if x is not None) or "undefined" for numbers in (registered, rebuilt)
    ]
    return Comparison(what, words[0], words[1], Sameness.EQUAL if same else Sameness.DIFFERS)


def _near(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else abs(one - other) <= TOLERANCE


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.10g}"
