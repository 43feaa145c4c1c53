"""Jobs that the tests of forked runs launch; a code location of their own."""

import os
import time

import dagster as dg

WAITING_SECONDS = 60.0


@dg.asset
def greeting() -> dg.MaterializeResult:
    """Tells by which process it was made, and what that has imported already."""
    import sys

    return dg.MaterializeResult(
        metadata={"pid": os.getpid(), "parent": os.getppid(), "skops": "skops.io" in sys.modules}
    )


@dg.asset
def endless() -> None:
    """Waits until somebody ends it."""
    end = time.monotonic() + WAITING_SECONDS
    while time.monotonic() < end:
        time.sleep(0.05)


defs = dg.Definitions(
    assets=[greeting, endless],
    jobs=[
        dg.define_asset_job("greet", dg.AssetSelection.assets("greeting"), executor_def=dg.in_process_executor),
        dg.define_asset_job("wait", dg.AssetSelection.assets("endless"), executor_def=dg.in_process_executor),
    ],
)
