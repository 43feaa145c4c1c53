"""Saving an estimator and loading it again only if not one byte has changed.

Belongs here: the files of a model, their hash, and which class may be loaded from them. Does not belong here: what an
estimator writes into them, and the registry that keeps them.
"""

import hashlib
import json
from pathlib import Path

from clinical_assets.learning.estimator import FittedEstimator, LearningError
from clinical_assets.learning.recalibration import RecalibratedEstimator
from clinical_assets.protocol import load_object

DESCRIPTION = "model.json"
RECALIBRATED = "recalibrated"


def save_estimator(estimator: FittedEstimator, directory: Path) -> str:
    """Write an estimator's files and `model.json` into a new or empty directory; gives the hash of the files.

    A recalibrated model is described by the class of the model itself and the word that it is recalibrated. Raises
    LearningError when the directory already holds files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise LearningError(f"{directory} already holds files; a saved model is never written over")
    estimator.save(directory)
    recalibrated = isinstance(estimator, RecalibratedEstimator)
    kind = type(estimator.base if recalibrated else estimator)
    description = {
        "estimator": f"{kind.__module__}.{kind.__qualname__}",
        "feature_names": list(estimator.feature_names),
    }
    if recalibrated:
        description[RECALIBRATED] = True
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
    return hash_files(directory)


def load_estimator(directory: Path, expected_sha256: str, estimator_path: str) -> FittedEstimator:
    """The estimator saved in a directory, whose files must have the hash that was recorded when it was saved.

    `estimator_path` is the dotted path of the class the protocol names; no other class is ever loaded, recalibrated
    or not. Raises LearningError, before any model file is opened, when a file is missing, truncated, changed or added,
    and when the files are those of another class.
    """
    found = hash_files(directory)
    if found != expected_sha256:
        raise LearningError(
            f"the model in {directory} was changed or damaged: its files have the sha256 {found[:12]}…, and "
            f"{expected_sha256[:12]}… was recorded; restore it or roll back"
        )
    description = json.loads((directory / DESCRIPTION).read_text())
    saved_as = description["estimator"]
    if saved_as != estimator_path:
        raise LearningError(
            f"the model in {directory} is a {saved_as}, and the protocol names {estimator_path}; "
            "restore the protocol it was trained under or retrain"
        )
    kind = load_object(estimator_path)
    return RecalibratedEstimator.load(directory, kind) if description.get(RECALIBRATED) else kind.load(directory)


def hash_files(directory: Path) -> str:
    """The SHA-256 over the sorted relative names and the SHA-256s of all files in a directory."""
    files = sorted((path.relative_to(directory).as_posix(), path) for path in directory.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
