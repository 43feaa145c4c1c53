"""A profile is made by several threads at once, from the first array on."""

import os
import subprocess
import sys

FIRST_PROFILE_OF_A_PROCESS = """
import sys

import numpy as np
import polars as pl

from clinical_assets.monitoring import profile_frame

sys.setswitchinterval(1e-6)  # let the threads take turns as often as they can
profile_frame(pl.DataFrame({f"c{column}": np.random.default_rng(column).random(1_000) for column in range(8)}))
"""
PROCESSES = 3


def test_threads_that_give_their_first_arrays_at_once_do_not_wait_for_each_other_for_ever() -> None:
    environment = {**os.environ, "POLARS_MAX_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", FIRST_PROFILE_OF_A_PROCESS]
    for _ in range(PROCESSES):
        subprocess.run(command, env=environment, check=True, timeout=120)
