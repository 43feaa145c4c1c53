"""What a step prints, kept in a file of its own, as Dagster's UI shows it.

Belongs here: the capture without another process. Does not belong here: logging, and Dagster's events.
"""

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClassData


class StepLogs(LocalComputeLogManager):
    """Files of what steps print, below the instance's own folder.

    Dagster's own starts, for each of a step's two streams, a `tail` that shows it on the terminal too, and a Python
    process that watches over the `tail`; here a stream goes to its file alone.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir="", inst_data=inst_data)

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """Nothing can be set: the folder is the instance's own."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> "StepLogs":
        """The logs of an instance that Dagster makes from its `dagster.yaml`."""
        return cls(inst_data)

    def register_instance(self, instance: Any) -> None:
        """Take the folder of the instance."""
        super().register_instance(instance)
        self._base_dir = instance.storage_directory()

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Generator[CapturedLogContext, None, None]:
        """Send what this process prints to the files of a step or a tick until the block ends."""
        paths = [self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind]) for kind in ComputeIOType]
        for path in paths:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with redirect_to_file(sys.stdout, paths[0]), redirect_to_file(sys.stderr, paths[1]):
            yield CapturedLogContext(log_key)
        Path(self.complete_artifact_path(log_key)).touch()
