"""What a release rests on, as one folder of the hospital's Git working tree with one pin: written, and read again.

Belongs here: which files these are, from where they come, and that no identifier is among them. Does not belong here:
what a pin says (governance/dvc_pins.py), where it stands (resources/pinned_tree.py), and making a version again.

No file of it is a pickle: model files are those that the registry loads without one, rows and figures are Parquet, all
else is text. Rows are those of the lake, which are de-identified; no key of the home is read but to search for leaks.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import TypeAdapter, ValidationError

from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.dvc_pins import Pin, PinError
from clinical_assets.governance.known_identifiers import KnownIdentifiers
from clinical_assets.governance.leak_scan import LeakScanner
from clinical_assets.governance.ledger import LedgerEntry, LedgerError, release_of
from clinical_assets.governance.pseudonyms import load_or_create_key
from clinical_assets.governance.readable_content import Content, content_of_file, content_of_frame
from clinical_assets.learning.estimator import FittedEstimator, LearningError
from clinical_assets.learning.recipe import RECIPE_FILE, Recipe
from clinical_assets.learning.storage import load_estimator
from clinical_assets.lifecycle.candidate import read_training_rows
from clinical_assets.protocol import ModelProtocol, ModelVersion
from clinical_assets.reporting.evidence.pack import read_evidence
from clinical_assets.resources.access_rights import make_private
from clinical_assets.resources.dvc_tool import one_at_a_time
from clinical_assets.resources.home import Home, hash_file
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.leak_search import LeakError
from clinical_assets.resources.leak_sinks import EXEMPTIONS
from clinical_assets.resources.ledger import read_ledger
from clinical_assets.resources.pinned_tree import PinnedTree
from clinical_assets.resources.registry import Registry

VERSION_FILE, RELEASE_FILE, PROTOCOL_FILE = "version.json", "release.json", "protocol.json"
REPORT_FILE, TRAINING_SET, EVALUATION = "validation_report.html", "training_set.parquet", "evaluation.parquet"
MODEL_FILES, EVIDENCE, STATEMENTS = "model", "evidence", "statements"

_VERSION, _ENTRY = TypeAdapter(ModelVersion), TypeAdapter(LedgerEntry)


@dataclass(frozen=True, slots=True)
class PinnedRelease:
    """What a release rests on, read from a folder that proved equal to its pin."""

    folder: Path
    pin: Pin
    version: ModelVersion
    recipe: Recipe

    def training_rows(self) -> pl.DataFrame:
        """The rows it learnt from, was calibrated and tested on, in their order."""
        return pl.read_parquet(self.folder / TRAINING_SET)

    def evaluation(self) -> pl.DataFrame:
        """Every figure that was measured of it, as the lake had them."""
        return pl.read_parquet(self.folder / EVALUATION)


def pin_release(tree: PinnedTree, home: Home, lake: Lake, registry: Registry, version: ModelVersion) -> Pin:
    """Gather what a release rests on in `releases/<model>/v<N>/` of the working tree, and write its pin.

    The folder is replaced whole, and the pin written last. Raises LedgerError where the version was never released,
    LeakError where an identifier is found in a file, and what reading home, lake and registry raise.
    """
    entry = release_of(read_ledger(lake, version.model), version.version)
    if entry is None:
        raise LedgerError(f"{version.model} version {version.version} was never released; only releases are pinned")
    recipe = registry.recipe(version)
    if recipe is None:
        raise LearningError(
            f"no recipe was kept with {version.model} version {version.version}: it cannot be pinned; train it again"
        )
    folder = tree.release(version.model, version.version)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    make_private(draft)
    try:
        _gather(draft, home, lake, registry, version, recipe, entry)
        refuse_leaks(draft, folder.relative_to(tree.root).as_posix(), home, recipe.protocol(version))
        with one_at_a_time(tree.root):
            shutil.rmtree(folder, ignore_errors=True)
            draft.replace(folder)
            return tree.pin(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_pinned_release(tree: PinnedTree, model: str, version: int) -> PinnedRelease:
    """A pinned release, pulled where it is missing and verified; raises PinError where it is not as it was pinned."""
    pin = tree.release_pin(model, version)
    if pin is None:
        raise PinError(
            f"{model} version {version} is not pinned in {tree.root}; pull the hospital's Git, or pin it with "
            f"`clinical pin {model} {version}` where it was released"
        )
    folder = tree.bring(pin)
    try:
        kept = _VERSION.validate_json((folder / VERSION_FILE).read_text())
        recipe = Recipe.from_dict(TypeAdapter(dict).validate_json((folder / RECIPE_FILE).read_text()))
    except (OSError, ValidationError) as error:
        raise PinError(f"{folder} is no release of this platform ({type(error).__name__}); pin it again") from error
    if (kept.model, kept.version) != (model, version):
        raise PinError(f"{folder} holds {kept.model} version {kept.version}; restore the pin with `git checkout`")
    return PinnedRelease(folder, pin, kept, recipe)


def refuse_leaks(draft: Path, place: str, home: Home, protocol: ModelProtocol) -> None:
    """Raise LeakError where an identifier stands in what is to be pinned, or an image that may show who it is of."""
    key = load_or_create_key(home.pseudonym_key)
    known = KnownIdentifiers.of((canary.identifier_class, canary.value) for canary in canaries(key))
    if leaks := LeakScanner(known, key, EXEMPTIONS).search(_contents(draft, place, not protocol.images_identifiable)):
        found = "; ".join(sorted({f"{leak.place}: {leak.identifier_class} ({leak.evidence})" for leak in leaks}))
        raise LeakError(f"{place} is not pinned, an identifier seems to stand in it: {found}; run `clinical phi-scan`")


@dataclass(frozen=True, slots=True)
class PinnedEstimators:
    """Estimators from the pinned releases of a working tree, as the registry gives them."""

    tree: PinnedTree

    def version(self, model: str, version: int) -> ModelVersion:
        """A pinned version by its number."""
        return read_pinned_release(self.tree, model, version).version

    def load(self, version: ModelVersion, estimator: str) -> FittedEstimator:
        """The version's estimator, of the class at this dotted path, once its files have proved unchanged."""
        release = read_pinned_release(self.tree, version.model, version.version)
        return load_estimator(release.folder / MODEL_FILES, version.artefact_sha256, estimator)


def _gather(
    draft: Path,
    home: Home,
    lake: Lake,
    registry: Registry,
    version: ModelVersion,
    recipe: Recipe,
    entry: LedgerEntry,
) -> None:
    model, number, protocol = version.model, version.version, recipe.protocol(version)
    evidence = home.evidence(model, number)
    read_evidence(evidence)
    shutil.copytree(registry.files(version), draft / MODEL_FILES)
    load_estimator(draft / MODEL_FILES, version.artefact_sha256, protocol.estimator)
    shutil.copytree(evidence, draft / EVIDENCE)
    shutil.copytree(home.sign_offs / model / f"v{number}", draft / STATEMENTS)
    shutil.copy2(home.report(model, number), draft / REPORT_FILE)
    if hash_file(draft / REPORT_FILE) != entry.report_sha256:
        raise LedgerError(f"{home.report(model, number)} is not the report that was released; restore it")
    (draft / VERSION_FILE).write_bytes(_VERSION.dump_json(version, indent=2))
    (draft / RELEASE_FILE).write_bytes(_ENTRY.dump_json(entry, indent=2))
    (draft / RECIPE_FILE).write_bytes(TypeAdapter(dict).dump_json(recipe.to_dict(), indent=2))
    (draft / PROTOCOL_FILE).write_text(recipe.protocol_json)
    read_training_rows(lake, protocol, version.lake_snapshot).write_parquet(draft / TRAINING_SET)
    lake.read(f"{model}.evaluation", where={"version": number}).write_parquet(draft / EVALUATION)


def _contents(draft: Path, place: str, images_expected: bool) -> Iterator[Content]:
    for path in sorted(draft.rglob("*")):
        name = f"{place}/{path.relative_to(draft).as_posix()}"
        if path.suffix == ".parquet":
            yield from content_of_frame(name, pl.read_parquet(path), images_expected)
        elif path.is_file():
            yield from content_of_file(name, path.read_bytes(), images_expected)
