"""How skops is imported: without what it looks into in vain.

Belongs here: that one import. Does not belong here: what is stored with skops, and which types it may build.
"""

import sys
from types import ModuleType

_LOOKED_INTO_IN_VAIN = tuple(f"sklearn.externals.array_api_compat.{name}" for name in ("torch", "cupy", "dask"))


def import_skops() -> ModuleType:
    """`skops.io`; in a process that has not imported it yet, without PyTorch, which takes seconds.

    For its list of scikit-learn's estimators skops has scikit-learn import all its packages, also those that only adapt
    PyTorch, and in which no estimator is looked for.
    """
    before = {name: sys.modules[name] for name in _LOOKED_INTO_IN_VAIN if name in sys.modules}
    if "skops.io" not in sys.modules:
        sys.modules.update(dict.fromkeys(_LOOKED_INTO_IN_VAIN))  # pyright: ignore[reportArgumentType, reportCallIssue]
    try:
        import skops.io
    finally:
        for name in _LOOKED_INTO_IN_VAIN:
            if sys.modules.get(name, before) is None:
                del sys.modules[name]
        sys.modules.update(before)
    return skops.io
