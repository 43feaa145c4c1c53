"""The bill of materials of a version, as CycloneDX 1.6: every installed package, and the archive where it is pinned.

Belongs here: packages, versions and a pin to components. Does not belong here: what is installed (`learning.recipe`).

Source: OWASP CycloneDX 1.6 (ECMA-424), by cyclonedx-python-lib.
"""

# cyclonedx's decorators hide its constructors from a type checker.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

import json
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING

from clinical_assets.learning.recipe import Environment
from clinical_assets.protocol import ArchivePin

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

APPLICATION = "clinical-assets"


def bill_of_materials(environment: Environment, archive_pin: ArchivePin | None = None) -> str:
    """The bill as JSON, the same for equal environments and pins: no time and no random number stands in it."""
    return _bill(environment.python, tuple(environment.packages.items()), archive_pin)


# A process trains several versions in one environment, and a bill takes a second.
@lru_cache(maxsize=2)
def _bill(python: str, packages: tuple[tuple[str, str], ...], archive_pin: ArchivePin | None) -> str:
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    listed = {
        name: Component(
            name=name,
            version=version,
            type=ComponentType.APPLICATION if name == APPLICATION else ComponentType.LIBRARY,
            bom_ref=f"{name}=={version}",
            purl=PackageURL("pypi", name=name, version=version),
            properties=[Property(name="clinical-assets:licence", value=licence)] if (licence := _licence(name)) else (),
        )
        for name, version in packages
    }
    interpreter = Component(name="python", version=python, type=ComponentType.PLATFORM, bom_ref=f"python=={python}")
    application = listed.pop(APPLICATION, None)
    archives = [_archive(archive_pin)] if archive_pin else []
    bom = Bom(components=[*listed.values(), interpreter, *archives])
    bom.metadata.component = application
    if application is not None:
        bom.register_dependency(application, listed.values())
    written = json.loads(JsonV1Dot6(bom).output_as_string())
    del written["serialNumber"], written["metadata"]["timestamp"]
    return json.dumps(written, indent=2, sort_keys=True) + "\n"


def _archive(pin: ArchivePin) -> "Component":
    """The archive that a version rests on, with the hashes of its pin and the commit of the hospital's Git."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    # Of a folder DVC hashes the list of its files, which is no hash of bytes; nor is the word that there is none.
    told = {HashAlgorithm.MD5: pin.md5, HashAlgorithm.SHA_256: pin.sha256}
    hashes = [HashType(alg=kind, content=value) for kind, value in told.items() if value.isalnum()]
    written = {"pin": pin.file, "pin-md5": pin.md5, "pin-sha256": pin.sha256, "git-commit": pin.commit}
    return Component(
        name=pin.file.removesuffix(".dvc"),
        type=ComponentType.DATA,
        bom_ref=pin.file,
        hashes=hashes,
        properties=[Property(name=f"clinical-assets:{name}", value=value) for name, value in written.items()],
    )


def _licence(name: str) -> str:
    """What a package declares as its licence, in a line; empty where it is not installed here or declares none."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return ""
    declared = told.get("License-Expression") or _first_line(told.get("License") or "")
    classifiers: Iterable[str] = told.get_all("Classifier") or ()
    of_classifiers = [x.rpartition(" :: ")[2] for x in classifiers if x.startswith("License ::")]
    return declared or ", ".join(of_classifiers)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()
