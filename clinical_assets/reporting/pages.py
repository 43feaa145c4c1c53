"""How every page of the platform is rendered: escaped, self-contained, loud about a name that is not there.

Belongs here: the template environment. Does not belong here: what stands on a page.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment(folder: str = "reporting") -> "Environment":
    """Jinja's environment over the templates of a folder of this package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("clinical_assets", folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
