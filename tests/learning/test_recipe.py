import hashlib
from dataclasses import replace
from datetime import date
from importlib.metadata import version as installed

import pytest

from clinical_assets.learning.estimator import LearningError
from clinical_assets.learning.recipe import Environment, Recipe
from clinical_assets.protocol import ArchivePin, ModelProtocol, ModelVersion, Repair, read_protocol


@pytest.fixture
def protocol() -> ModelProtocol:
    return read_protocol("readmission")


@pytest.fixture
def version(protocol: ModelProtocol) -> ModelVersion:
    return ModelVersion("readmission", 2, "run", "a" * 64, protocol.sha256, 0.2, date(2025, 1, 1), 7, "simulated")


def test_a_recipe_gives_back_the_protocol_it_was_made_from(protocol: ModelProtocol, version: ModelVersion) -> None:
    recipe = Recipe.of(protocol, Repair.RETRAIN, None)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.protocol(version) == protocol


def test_a_recipe_keeps_the_pin_of_the_archive_and_one_from_before_pins_has_none(protocol: ModelProtocol) -> None:
    pin = ArchivePin("archives/diabetes130.dvc", "0" * 32, "1" * 64, "2" * 40)
    recipe = Recipe.of(protocol, Repair.RETRAIN, None, pin)
    written = recipe.to_dict()
    assert Recipe.from_dict(written) == recipe
    del written["archive_pin"]
    assert Recipe.from_dict(written) == replace(recipe, archive_pin=None)


def test_a_protocol_written_before_a_field_existed_is_read_with_its_own_hash(
    protocol: ModelProtocol, version: ModelVersion
) -> None:
    older = protocol.canonical_json.replace('"images_identifiable":true,', "")
    assert older != protocol.canonical_json
    recipe = replace(Recipe.of(protocol, Repair.RETRAIN, None), protocol_json=older)
    made_then = replace(version, protocol_sha256=hashlib.sha256(older.encode()).hexdigest())
    assert recipe.protocol(made_then) == protocol


def test_a_recipe_whose_protocol_was_changed_is_refused(protocol: ModelProtocol, version: ModelVersion) -> None:
    loosened = protocol.canonical_json.replace('"at_least":0.65', '"at_least":0.05')
    assert loosened != protocol.canonical_json
    with pytest.raises(LearningError, match=r"readmission version 2 holds protocol \w{12}.*it was changed"):
        replace(Recipe.of(protocol, Repair.RETRAIN, None), protocol_json=loosened).protocol(version)


@pytest.mark.parametrize(("repair", "base"), [(Repair.RETRAIN, 1), (Repair.MOVE_THRESHOLD, None)])
def test_a_repair_needs_what_it_repairs_and_a_retraining_has_nothing(
    protocol: ModelProtocol, repair: Repair, base: int | None
) -> None:
    with pytest.raises(LearningError, match=repair.value):
        Recipe(protocol.canonical_json, repair, base, None)


@pytest.mark.parametrize("spoilt", [{"repair": "wish"}, {"environment": {"python": "3"}}, {"base_version": 3}])
def test_what_is_no_recipe_is_refused(protocol: ModelProtocol, spoilt: dict[str, object]) -> None:
    with pytest.raises(LearningError):
        Recipe.from_dict(Recipe.of(protocol, Repair.RETRAIN, None).to_dict() | spoilt)


def test_a_damaged_recipe_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(LearningError, match="protocol_json"):
        Recipe.from_dict({"environment": None})


def test_the_environment_lists_what_is_installed() -> None:
    packages = Environment.here().packages
    assert packages["polars"] == installed("polars")
    assert packages["scikit-learn"] == installed("scikit-learn")
