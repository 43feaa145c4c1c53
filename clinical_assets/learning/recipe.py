"""How a version was made: its protocol word for word, what it started from, and the environment it was made in.

Belongs here: what must be kept with a version so that it can be made again. Does not belong here: making it, and the
rows, which a snapshot of the lake pins.
"""

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from typing import Any, Self

from pydantic import ValidationError

from clinical_assets.learning.estimator import LearningError
from clinical_assets.protocol import ArchivePin, ModelProtocol, ModelVersion, Repair

RECIPE_FILE = "recipe.json"


@dataclass(frozen=True, slots=True)
class Environment:
    """The software and the machine that a version was made on.

    `packages` are all installed distributions with their versions; `threads` is OMP_NUM_THREADS, empty if unset.
    """

    python: str
    machine: str
    threads: str
    packages: Mapping[str, str]

    @classmethod
    def here(cls) -> Self:
        """The environment of this process."""
        found = {item.metadata["Name"].lower().replace("_", "-"): item.version for item in distributions()}
        machine = f"{platform.system()} {platform.machine()}"
        threads = os.environ.get("OMP_NUM_THREADS", "")
        return cls(platform.python_version(), machine, threads, dict(sorted(found.items())))


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a version was made by: a retraining, or a repair of the version `base`; and under which protocol.

    `environment` is None where nobody wrote it down; `archive_pin` is that of the archive as it stood in the hospital's
    own Git that day, None where it was not pinned.
    """

    protocol_json: str
    repair: Repair
    base_version: int | None
    environment: Environment | None
    archive_pin: ArchivePin | None = None

    def __post_init__(self) -> None:
        if (self.repair is Repair.RETRAIN) != (self.base_version is None):
            raise LearningError(
                f"recipe: {self.repair.value} from version {self.base_version}; a retraining starts from none, and a "
                "repair from the version it repairs"
            )

    @classmethod
    def of(
        cls, protocol: ModelProtocol, repair: Repair, base: ModelVersion | None, archive_pin: ArchivePin | None = None
    ) -> Self:
        """The recipe of a version that is made now, in this process."""
        return cls(protocol.canonical_json, repair, base.version if base else None, Environment.here(), archive_pin)

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        """The recipe that `to_dict` wrote; raises LearningError where it is none."""
        try:
            environment = Environment(**written["environment"]) if written["environment"] else None
            pin = ArchivePin(**written["archive_pin"]) if written.get("archive_pin") else None
            return cls(written["protocol_json"], Repair(written["repair"]), written["base_version"], environment, pin)
        except (KeyError, TypeError, ValueError) as error:
            raise LearningError(f"{RECIPE_FILE} is no recipe of a version ({error}); restore it") from error

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON has it."""
        return asdict(self)

    def protocol(self, version: ModelVersion) -> ModelProtocol:
        """The protocol the version was made under, read again; raises LearningError where it is another one.

        Its own `sha256` may differ from the recorded one, where the vocabulary of protocols has grown since.
        """
        found = hashlib.sha256(self.protocol_json.encode()).hexdigest()
        if found != version.protocol_sha256:
            raise LearningError(
                f"{RECIPE_FILE} of {version.model} version {version.version} holds protocol {found[:12]}, and the "
                f"version was made under {version.protocol_sha256[:12]}: it was changed; restore it"
            )
        try:
            return ModelProtocol.model_validate_json(self.protocol_json)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in error.errors())
            raise LearningError(
                f"the protocol of {version.model} version {version.version} is none in this version of the package "
                f"({wrong}); install the one it was made with"
            ) from error
