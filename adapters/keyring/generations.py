"""Wrapped subject keys move into a new table, and the old one is dropped.

An UPDATE would leave what it replaced in pages and logs of the database, and a KEK that is
destroyed later would have been of no use. So every rotation fills a second table page by page while
everybody goes on working; triggers note whose key was written or erased meanwhile. Then, under one
lock that writers and erasures share, and for those who were noted alone:

1. deletes what was erased meanwhile, so that nobody reappears
2. copies what was written meanwhile
3. drops the old table, triggers included, and gives the new one its name

It relies on this: rows of `subject_keys` are inserted and deleted, never changed, and no id comes
back after it was deleted. A table that a killed rotation left is dropped by the next one.
"""

import sqlite3
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, MetaData, inspect

from adapters.keyring.keks import KekProvider, WrappedKey
from adapters.keyring.keyring import subject_place
from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.log.schema import subject_keys
from domain.errors import StoreBusy

NEXT = "subject_keys_next"
CHANGED = "subject_keys_changed"
PAGE = 1_000
LOCK_SECONDS = 1.0
"""How long the swap waits for whoever reads the old table. Everybody else waits behind it, so it
gives way to a long reader, such as a backup, and comes again."""
ATTEMPTS = 5

_next = subject_keys.to_metadata(MetaData(), name=NEXT)
_COLUMNS = ("subject", "kek", "wrapped")

Row = tuple[str, str, bytes]
"""Subject, KEK, wrapped key."""


class Generation:
    """One move of all wrapped keys under the current KEK.

    fence: called in every transaction; raises unless this process may still write. step: called
    between two transactions; raises to end early. copied, kept: rows that are under the current
    KEK now, and rows that do not open and are carried over as they are.
    """

    def __init__(
        self,
        engines: Engines,
        keks: KekProvider,
        fence: Callable[[Connection], None],
        step: Callable[[], None],
        page: int = PAGE,
    ) -> None:
        self._engines = engines
        self._keks = keks
        self._fence = fence
        self._step = step
        self._page = page
        self.copied = 0
        self.kept = 0

    def move(self) -> None:
        """Raises KeyUnavailable, StoreError; then the old table stands as it was."""
        current = self._keks.keks()[-1].id
        self._begin()
        after = ""
        while rows := self._rows_after(after):
            self._step()
            self._copy(rows, current)
            after = rows[-1][0]
        busy = 0
        while True:
            self._step()
            try:
                late = self._swap(current)
            except StoreBusy:
                busy += 1
                if busy == ATTEMPTS:
                    raise
                continue
            if not late:
                return
            self._copy(late, current)

    def _begin(self) -> None:
        with self._engines.write() as connection:
            self._fence(connection)
            _lock(connection)
            _drop_unfinished(connection)
            _next.create(connection)
            if connection.dialect.name == "postgresql":
                # As migration 0007: no samples of wrapped keys for the planner.
                connection.exec_driver_sql(
                    f"ALTER TABLE {NEXT} ALTER COLUMN wrapped SET STATISTICS 0"
                )
            _note_changes(connection)

    def _rows_after(self, subject: str) -> list[Row]:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        query = (
            "SELECT subject, kek, wrapped FROM subject_keys "
            f"WHERE partition = 0 AND subject > {mark} ORDER BY subject LIMIT {self._page}"
        )
        with self._engines.read() as connection:
            return _rows(connection, query, (subject,))

    def _copy(self, rows: Sequence[Row], current: str) -> None:
        """Rewrapped outside any transaction: a key server may take its time."""
        other = [row for row in rows if row[1] != current]
        keys = [WrappedKey(subject_place(subject), kek, old) for subject, kek, old in other]
        fresh: dict[str, Row] = {}
        for row, key in zip(other, self._keks.rewrap(keys), strict=True):
            if key is None:
                self.kept += 1
            else:
                fresh[row[0]] = (row[0], key.kek, key.wrapped)
        with self._engines.write() as connection:
            self._fence(connection)
            bulk.insert(connection, _next, _COLUMNS, [fresh.get(row[0], row) for row in rows])
        self.copied += len(fresh)

    def _swap(self, current: str) -> list[Row]:
        """Rows that must be copied first, since a key server is not asked under the lock; none
        once the new table has taken the place of the old one."""
        with self._engines.write() as connection:
            self._fence(connection)
            _lock(connection)
            changed = [
                row[0]
                for row in connection.exec_driver_sql(f"SELECT DISTINCT subject FROM {CHANGED}")
            ]
            standing = {row[0]: row for row in _keys_of(connection, "subject_keys", changed)}
            copied = {row[0] for row in _keys_of(connection, NEXT, changed)}
            missing = [row for subject, row in standing.items() if subject not in copied]
            late = [row for row in missing if row[1] != current]
            if late:
                return late
            gone = [subject for subject in changed if subject not in standing]
            bulk.delete_in(connection, _next, "subject", gone)
            bulk.insert(connection, _next, _COLUMNS, missing)
            subject_keys.drop(connection)
            connection.exec_driver_sql(f"ALTER TABLE {NEXT} RENAME TO subject_keys")
            connection.exec_driver_sql(f"DROP TABLE {CHANGED}")
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"ALTER INDEX {NEXT}_pkey RENAME TO subject_keys_pkey")
                connection.exec_driver_sql(f"DROP FUNCTION {_NOTING}()")
        return []


def _keys_of(connection: Connection, table: str, subjects: Sequence[str]) -> list[Row]:
    query = (
        f"SELECT subject, kek, wrapped FROM {table} WHERE partition = 0 AND subject IN ({{ids}})"
    )
    found = bulk.select_in(connection, query, subjects)
    return [(subject, kek, bytes(wrapped)) for subject, kek, wrapped in found]


def rows_per_kek(engines: Engines) -> dict[str, int]:
    """How many wrapped keys name each KEK. Reads the whole table."""
    with engines.read() as connection:
        query = "SELECT kek, count(*) FROM subject_keys WHERE partition = 0 GROUP BY kek"
        return {row[0]: row[1] for row in connection.exec_driver_sql(query)}


def is_unfinished(engines: Engines) -> bool:
    """Whether a move is going on, or was killed."""
    with engines.read() as connection:
        return inspect(connection).has_table(NEXT)


def overwrite_freed_pages(engines: Engines) -> bool:
    """SQLite: bring the write-ahead log into the file and empty it, or what was deleted stays in
    it. False: somebody reads an older state, so it cannot be emptied yet."""
    if engines.dialect == "postgresql":
        return True
    connection = engines.detached()
    try:
        connection.execute(f"PRAGMA busy_timeout = {int(LOCK_SECONDS * 1000)}")
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return bool(busy == 0)
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


def _rows(connection: Connection, query: str, values: tuple[str, ...]) -> list[Row]:
    found = connection.exec_driver_sql(query, values)
    return [(subject, kek, bytes(wrapped)) for subject, kek, wrapped in found]


def _lock(connection: Connection) -> None:
    """SQLite has but one writer, and that is us."""
    if connection.dialect.name == "sqlite":
        return
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(LOCK_SECONDS * 1000)}")
    connection.exec_driver_sql("LOCK TABLE subject_keys IN ACCESS EXCLUSIVE MODE")


# -- triggers ---------------------------------------------------------------------------------

_NOTING = "note_changed_subject_keys"
_EVENTS = (("INSERT", "NEW"), ("DELETE", "OLD"))


def _note_changes(connection: Connection) -> None:
    """From this commit on. What was written before is committed, since we hold the lock."""
    connection.exec_driver_sql(f"CREATE TABLE {CHANGED} (subject {_NAME[connection.dialect.name]})")
    if connection.dialect.name == "sqlite":
        for event, row in _EVENTS:
            connection.exec_driver_sql(
                f"CREATE TRIGGER {_NOTING}_{event} AFTER {event} ON subject_keys "
                f"BEGIN INSERT INTO {CHANGED} VALUES ({row}.subject); END"
            )
        return
    connection.exec_driver_sql(
        f"CREATE FUNCTION {_NOTING}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN INSERT INTO {CHANGED} SELECT subject FROM noted; RETURN NULL; END $$"
    )
    for event, row in _EVENTS:
        connection.exec_driver_sql(
            f"CREATE TRIGGER {_NOTING}_{event} AFTER {event} ON subject_keys "
            f"REFERENCING {row} TABLE AS noted FOR EACH STATEMENT EXECUTE FUNCTION {_NOTING}()"
        )


_NAME = {"sqlite": "TEXT", "postgresql": 'TEXT COLLATE "C"'}


def _drop_unfinished(connection: Connection) -> None:
    """What a killed rotation left."""
    on_table = " ON subject_keys" if connection.dialect.name == "postgresql" else ""
    for event, _ in _EVENTS:
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {_NOTING}_{event}{on_table}")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {_NOTING}()")
    for table in (CHANGED, NEXT):
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
