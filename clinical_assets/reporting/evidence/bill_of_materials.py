"""The software bill of materials of a version: every installed package, as CycloneDX 1.6.

Belongs here: packages and versions to components. Does not belong here: what is installed (`learning.recipe`).

Source: OWASP CycloneDX 1.6 (ECMA-424), by cyclonedx-python-lib.
"""

# cyclonedx's decorators hide its constructors from a type checker.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

import json
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, metadata

from clinical_assets.learning.recipe import Environment

APPLICATION = "clinical-assets"


def bill_of_materials(environment: Environment) -> str:
    """The bill as JSON, the same for equal environments: no time and no random number stands in it."""
    return _bill(environment.python, tuple(environment.packages.items()))


# A process trains several versions in one environment, and a bill takes a second.
@lru_cache(maxsize=2)
def _bill(python: str, packages: tuple[tuple[str, str], ...]) -> str:
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
    bom = Bom(components=[*listed.values(), interpreter])
    bom.metadata.component = application
    if application is not None:
        bom.register_dependency(application, listed.values())
    written = json.loads(JsonV1Dot6(bom).output_as_string())
    del written["serialNumber"], written["metadata"]["timestamp"]
    return json.dumps(written, indent=2, sort_keys=True) + "\n"


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
