"""Dagster's own records on one machine: runs, events and ticks in three SQLite databases whose connections stay open.

Belongs here: how these databases are opened, once a process, and where they lie. Does not belong here: what Dagster
keeps in them, and PostgreSQL, for which the operator's `dagster.yaml` names dagster-postgres instead.

Dagster's own SQLite storages open a connection for each query and close it after, check the schemas whenever an
instance is made (a code server makes one for every tick of every sensor), and keep a database of events for each run.
The tables here are Dagster's; only how they are reached differs.
"""

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import dagster as dg
import sqlalchemy as db
from dagster._core.event_api import EventHandlerFn
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.polling_event_watcher import SqlPollingEventWatcher
from dagster._core.storage.event_log.sqlite.consolidated_sqlite_event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import create_db_conn_string
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool

BUSY_SECONDS = 30
KEPT_OPEN, MOST_OPEN = 4, 64


class SqliteStorages(DagsterStorage, ConfigurableClass):
    """Runs, events and ticks of the instance's own folder; the class that `dagster.yaml` names."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._runs, self._events, self._ticks = _Runs(), _Events(), _Ticks()
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What `dagster.yaml` says of this class."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """Nothing can be set: the folder is the instance's own."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The storages of an instance that Dagster makes from its `dagster.yaml`."""
        return cls(inst_data)

    @property
    def event_log_storage(self) -> "_Events":
        """The events of all runs, in one database."""
        return self._events

    @property
    def run_storage(self) -> "_Runs":
        """The runs, their tags, and the daemon's heartbeats."""
        return self._runs

    @property
    def schedule_storage(self) -> "_Ticks":
        """The ticks of sensors and schedules, and their cursors."""
        return self._ticks


class _Runs(SqliteRunStorage):
    def __init__(self) -> None:
        super().__init__("")

    @cached_property
    def _engine(self) -> Engine:
        return _opened(self._instance, "history", "runs", SqliteRunStorage.from_local)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection


class _Ticks(SqliteScheduleStorage):
    def __init__(self) -> None:
        super().__init__("")

    @cached_property
    def _engine(self) -> Engine:
        return _opened(self._instance, "schedules", "schedules", SqliteScheduleStorage.from_local)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection


class _Events(ConsolidatedSqliteEventLogStorage):
    def __init__(self) -> None:
        # The folder is known once an instance registers: Dagster's own constructor would make the database here.
        self._secondary_index_cache = {}
        self._inst_data = None
        super(ConsolidatedSqliteEventLogStorage, self).__init__()

    @cached_property
    def _engine(self) -> Engine:
        return _opened(self._instance, "history", "event_log", _make_events)

    @cached_property
    def _watcher(self) -> SqlPollingEventWatcher:
        # Dagster's watches the file of the database, which does not change while events go to the write-ahead log.
        return SqlPollingEventWatcher(self)

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def has_table(self, table_name: str) -> bool:
        return db.inspect(self._engine).has_table(table_name)

    def watch(self, run_id: str, cursor: str | None, callback: EventHandlerFn) -> None:
        self._watcher.watch_run(run_id, cursor, callback)

    def end_watch(self, run_id: str, handler: EventHandlerFn) -> None:
        self._watcher.unwatch_run(run_id, handler)

    def dispose(self) -> None:
        if "_watcher" in self.__dict__:
            self._watcher.close()
            del self._watcher


# By process, since a forked child may not use its parent's connections.
_ENGINES: dict[tuple[int, str], Engine] = {}
_OPENING = threading.Lock()
os.register_at_fork(before=_OPENING.acquire, after_in_parent=_OPENING.release, after_in_child=_OPENING.release)


def _opened(instance: dg.DagsterInstance, folder: str, name: str, make: Any) -> Engine:
    """This process's engine of a database below the instance's folder; `make` makes or checks Dagster's schema, once.

    Connections stay open until the process ends: closing the last one of a database writes its whole log back.
    """
    base_dir = str(Path(instance.root_directory) / folder)
    address = create_db_conn_string(base_dir, name)
    key = (os.getpid(), address)
    with _OPENING:
        if key not in _ENGINES:
            with _only_maker(Path(base_dir)):
                make(base_dir)
            engine = db.create_engine(
                address,
                poolclass=QueuePool,
                pool_size=KEPT_OPEN,
                max_overflow=MOST_OPEN - KEPT_OPEN,
                connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            )
            event.listen(engine, "connect", _sync_seldom)
            _ENGINES[key] = engine
        return _ENGINES[key]


@contextmanager
def _only_maker(folder: Path) -> Iterator[None]:
    """Alone among all processes that make or check the databases of a folder, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".making.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_events(base_dir: str) -> None:
    storage = ConsolidatedSqliteEventLogStorage(base_dir)
    # Dagster's own makes no tables where there is a file, as one is left by whoever was killed before they were made.
    if not storage.has_table("asset_keys"):
        storage._init_db()


def _sync_seldom(connection: Any, _: object) -> None:
    # With a write-ahead log the database stays whole all the same; a loss of power takes the last moment's events.
    connection.execute("PRAGMA synchronous = NORMAL")
