"""What a process that loads a stored model need not import."""

import subprocess
import sys

IMPORTS = """
import sys
from clinical_assets.learning.skops_import import import_skops

skops_io = import_skops()
assert import_skops() is skops_io is sys.modules["skops.io"]
assert "torch" not in sys.modules
assert not [name for name, module in sys.modules.items() if module is None and name.startswith("sklearn.")]
from skops.io._trusted_types import SKLEARN_ESTIMATOR_TYPE_NAMES as named
from sklearn.utils import all_estimators

kinds = {kind for _, kind in all_estimators()}
print(len(named), len([kind for kind in kinds if kind.__module__.startswith("sklearn.")]))
"""


def test_skops_knows_every_estimator_of_scikit_learn_without_pytorch() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    named, there_are = map(int, done.stdout.split())
    assert named == there_are > 100
