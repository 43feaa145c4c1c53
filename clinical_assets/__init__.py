"""A platform on which a hospital runs its clinical models, as Dagster assets."""

import os

# Nothing leaves the machine: each of these libraries reports its use to its maker unless told otherwise.
os.environ.setdefault("WHYLOGS_NO_ANALYTICS", "True")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# OpenMP's threads spin while they wait; where cores are short, training then takes many times as long as on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
