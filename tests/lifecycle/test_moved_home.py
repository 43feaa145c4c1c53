"""A home is a folder: it can be moved, or copied and used beside the original, and nothing in it is edited by hand."""

import os
import subprocess
import sys
from pathlib import Path

from champion_moves import live_everywhere
from small_platform import MODEL, Developed

from clinical_assets.lifecycle.champion_move import Platform

# argv: the folder that holds home and archives.
ON_THE_MOVED_HOME = """
import sys
from pathlib import Path
import dagster as dg
from champion_moves import live_everywhere, platform_of
from small_platform import MODEL, MONTHS, SmallPlatform, small_protocol
from clinical_assets.lifecycle.rollback import roll_back
from clinical_assets.resources.home import Home

folder = Path(sys.argv[1])
home = Home(folder / "home", folder / "raw")
home.prepare()
platform, protocol = SmallPlatform(home, small_protocol()), small_protocol()
with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
    at = platform_of(platform, instance)
    live = platform.registry.champion(MODEL)
    assert platform.registry.files(live).is_relative_to(folder), platform.registry.files(live)
    assert platform.registry.load(live, protocol.estimator) is not None
    assert platform.registry.recipe(live) is not None
    assert home.archive_path(protocol).is_relative_to(folder), home.archive_path(protocol)
    assert platform.lake.read(f"{MODEL}.features", month=MONTHS[0]).height > 0
    roll_back(at, protocol, None, "a drill", "user:ann")
    assert live_everywhere(at) == {1}
    assert platform.run("month", MONTHS[4], instance).success
    assert platform.run("retraining", instance=instance).success
    newest = platform.registry.challenger(MODEL)
    assert newest.version == 3
    assert platform.registry.files(newest).is_relative_to(folder), platform.registry.files(newest)
    print("done")
"""


def test_a_moved_home_is_rolled_back_scored_and_trained_on_and_the_original_is_not_missed(
    candidate: Developed, twice_released: Platform, tmp_path: Path
) -> None:
    original = candidate.platform.home.root.parent
    moved, hidden = tmp_path / "moved", original.with_name(f"{original.name}-hidden")
    # By another process: closing a copy's handle of the catalogue would drop the locks of this one.
    subprocess.run(["cp", "-r", original, moved], check=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "CLINICAL_HOME": str(moved / "home"),
        "CLINICAL_RAW": str(moved / "raw"),
    }
    original.rename(hidden)
    try:
        status = subprocess.run(
            [sys.executable, "-c", "from clinical_assets.cli import app; app()", "status"],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        command = [sys.executable, "-c", ON_THE_MOVED_HOME, str(moved)]
        used = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=600)
        assert not original.exists(), "nothing is written where the home once was"
    finally:
        hidden.rename(original)

    assert (status.returncode, MODEL in status.stdout) == (0, True), status.stderr
    assert used.stdout.endswith("done\n"), used.stderr[-3000:]
    assert live_everywhere(twice_released) == {2}, "the original is as it was"
