"""The frames that steps of a run wrote, kept in memory for later steps and checks of the same run.

Belongs here: what is kept, for how long, and how much of it. Does not belong here: how frames are written and read.

What is handed on is what this run wrote, also where somebody else has written the same table since: the steps of a run
see one state of what the run itself made. Another run, and a process of its own for a step, read the lake.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from datetime import date

import polars as pl

MOST_BYTES = 512 * 2**20

_Key = tuple[str, str, date | None]


class HandedOn:
    """Frames by lake, table and month (None: the whole table), of one run at a time; the oldest go for lack of room."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.forget()

    def forget(self) -> None:
        """Drop every frame: the run has ended."""
        self._lock = threading.Lock()
        self._run: str | None = None
        self._frames: dict[_Key, pl.DataFrame] = {}

    def keep(self, run_id: str, lake: str, table: str, frame: pl.DataFrame, months: Sequence[date] | None) -> None:
        """Keep what a run has just written: these months of a table, or the whole of it, as a read would give it."""
        parts: Mapping[date | None, pl.DataFrame] = {None: frame}
        if months is not None:
            parts = {month: frame.filter(pl.col("month") == month) if len(months) > 1 else frame for month in months}
        with self._lock:
            kept = self._frames if run_id == self._run else {}
            # Frames of before a column came would be read with that column, hence they are no longer what a read gives.
            stale = [
                key
                for key, other in kept.items()
                if key[:2] == (lake, table)
                and (months is None or key[2] is None or key[2] in parts or other.schema != frame.schema)
            ]
            kept = {key: other for key, other in kept.items() if key not in stale}
            kept |= {(lake, table, month): part for month, part in parts.items()}
            room = self.most_bytes - sum(other.estimated_size() for other in kept.values())
            for key in list(kept):
                if room >= 0:
                    break
                room += kept.pop(key).estimated_size()
            self._run, self._frames = run_id, kept

    def take(self, run_id: str, lake: str, table: str, months: Sequence[date] | None) -> pl.DataFrame | None:
        """These months of a table, or the whole of it, where this run wrote them all; else None."""
        with self._lock:
            if run_id != self._run:
                return None
            wanted = [None] if months is None else sorted(set(months))
            parts = [self._frames.get((lake, table, month)) for month in wanted]
        found = [part for part in parts if part is not None]
        if not found or len(found) < len(parts):
            return None
        return found[0].clone() if len(found) == 1 else pl.concat(found)


HANDED_ON = HandedOn()
"""What the run of this process has written."""
os.register_at_fork(after_in_child=HANDED_ON.forget)
