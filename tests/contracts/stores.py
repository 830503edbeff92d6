"""Every implementation of the log and the vault, opened the same way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from adapters.keyring.keyring import Keyring
from adapters.log.engine import Engines, open_engines
from adapters.log.event_log import SqlLog
from adapters.log.memory import MemoryLog, MemoryStore, MemoryVault
from adapters.log.schema import metadata
from adapters.vault.rows import SqlVault
from domain.ports import Log, Vault
from tests.acceptance.databases import PEOPLE
from tests.servers import wait_until

LOG = ("events", "sessions", "policies", "commands", "bookmarks")


class Wall:
    """A wall clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@dataclass
class Store:
    """One log with its vault. another: a second log on the same store, as another process has."""

    log: Log
    vault: Vault
    wall: Wall
    another: Callable[[], Log]
    row_counts: Callable[[], dict[str, int]]
    counters: Callable[[], dict[str, int]]


@dataclass
class SqlStore(Store):
    """A store in a database, which a test may reach into."""

    engines: Engines
    url: str

    @property
    def is_postgresql(self) -> bool:
        return self.engines.dialect == "postgresql"

    def execute(self, sql: str, *values: Any) -> list[Any]:
        """Run a statement, `?` standing for a value, and commit."""
        with self.engines.write() as connection:
            mark = "%s" if self.is_postgresql else "?"
            result = connection.exec_driver_sql(sql.replace("?", mark), values)
            return list(result) if result.returns_rows else []

    def unlock(self, keyring: Keyring) -> None:
        """People are looked up under the generation keys of this key store, once there are any."""
        assert isinstance(self.log, SqlLog)
        self.log.lookups.in_use.unlock(keyring.keks)

    def empty(self) -> None:
        """As if it were new."""
        with self.engines.write() as connection:
            for table in metadata.tables:
                connection.exec_driver_sql(f"DELETE FROM {table}")
            connection.exec_driver_sql("INSERT INTO heads VALUES (0, 0)")

    def wait_for_a_blocked_statement(self, unless: Callable[[], bool]) -> None:
        """Until some connection to this database waits for a lock of another (PostgreSQL)."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with self.engines.autocommit() as connection:
            wait_until(
                lambda: connection.exec_driver_sql(waiting).scalar_one() > 0 or unless(),
                30,
                "a statement to be blocked",
            )


def create_tables(engines: Engines) -> None:
    """The tables of a new database.

    From the metadata, not by the migrations, which take ten times as long; that both lead to the
    same tables is a test of its own.
    """
    with engines.write() as connection:
        metadata.create_all(connection)
        connection.exec_driver_sql("INSERT INTO heads VALUES (0, 0)")


@contextmanager
def open_sql_store(url: str) -> Iterator[SqlStore]:
    """A new store in the empty database behind `url`."""
    engines = open_engines(url)
    create_tables(engines)
    wall = Wall()
    logs = [SqlLog(engines, wall)]
    lookups = logs[0].lookups

    def another() -> Log:
        logs.append(SqlLog(open_engines(url), wall, lookups=lookups))
        return logs[-1]

    store = SqlStore(
        logs[0],
        SqlVault(engines, lookups),
        wall,
        another,
        lambda: {
            name: store.execute(f"SELECT count(*) FROM {name}")[0][0] for name in LOG + PEOPLE
        },
        lambda: dict(map(tuple, store.execute("SELECT scope, used FROM counters"))),
        engines,
        url,
    )
    try:
        yield store
    finally:
        for log in reversed(logs):
            log.close()


def open_memory_store() -> Store:
    wall, memory = Wall(), MemoryStore()

    def row_counts() -> dict[str, int]:
        return {name: memory.row_counts()[name] for name in LOG + PEOPLE}

    return Store(
        MemoryLog(memory, wall),
        MemoryVault(memory),
        wall,
        lambda: MemoryLog(memory, wall),
        row_counts,
        lambda: dict(memory.counters),
    )
