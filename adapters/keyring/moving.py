"""Rows move under a new generation key, page by page, while everybody goes on.

    a new key is announced      behind a lock that all who write rows share: from then on rows are
                                written under it alone, and found under it and under those before
    pages of rows are moved     rows that somebody holds are left until the others are done
    no row is left under those  they are struck out of `meta`; processes let go of them when they
                                next read the list

Each step leaves a state from which the next run goes on. See adapters/keyring/generation_keys.py;
what moves: adapters/keyring/reindexing.py, adapters/keyring/relayering.py.
"""

from collections.abc import Callable

from sqlalchemy import Connection

from adapters.keyring import generation_keys, known, reindexing, relayering
from adapters.keyring.generation_keys import Kept
from adapters.keyring.keks import KekProvider
from adapters.keyring.steps import Steps, give_way
from adapters.log.engine import Engines
from domain.errors import StoreBusy

ATTEMPTS = 5


def keks_of_generations(engines: Engines) -> set[str]:
    """The KEKs that wrap generation keys which rows may be under."""
    with engines.read() as connection:
        return {one.kek for one in generation_keys.read(connection).keys}


def begin(engines: Engines, keks: KekProvider) -> None:
    """The first generation key of a database that has none. Raises KeyUnavailable, StoreError."""
    with engines.read() as connection:
        if generation_keys.read(connection).keys:
            return
    key = generation_keys.new_key(keks, known.store_of(engines) or "")
    with engines.write() as connection:
        _lock(connection)
        if not generation_keys.read(connection).keys:
            plain, bare = (_has_rows(connection, table) for table in ("subjects", "data_keys"))
            generation_keys.write(connection, Kept(plain, (key,), bare=bare))


class Moving:
    """One move of all rows under a generation key of the current KEK.

    fence, step, page: as `Steps` has them.
    """

    def __init__(
        self,
        engines: Engines,
        keks: KekProvider,
        fence: Callable[[Connection], None],
        step: Callable[[], None],
        page: int,
    ) -> None:
        self._steps = Steps(engines, fence, step, page)
        self._keks = keks
        self._store = known.store_of(engines) or ""

    def move(self) -> None:
        """Raises KeyUnavailable, StoreError; then some rows may be under either key."""
        kept = self._announced()
        if kept.is_settled:
            return
        keys = generation_keys.open_keys(kept, self._keks, self._store, {})
        reindexing.move(self._steps, keys)
        relayering.move(self._steps, keys)
        with self._steps.write() as connection:
            generation_keys.write(connection, Kept(False, kept.keys[-1:], bare=False))

    def _announced(self) -> Kept:
        """What rows may be under, the last of it a key of the current KEK."""
        with self._steps.engines.read() as connection:
            kept = generation_keys.read(connection)
        if kept.kek == self._keks.keks()[-1].id:
            return kept
        key = generation_keys.new_key(self._keks, self._store)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._steps.write() as connection:
                    _lock(connection)
                    kept = generation_keys.read(connection)
                    plain = kept.plain and _has_rows(connection, "subjects")
                    bare = kept.bare and _has_rows(connection, "data_keys")
                    kept = Kept(plain, (*kept.keys, key), bare=bare)
                    generation_keys.write(connection, kept)
                break
            except StoreBusy:
                if attempt == ATTEMPTS:
                    raise
        return kept


def _has_rows(connection: Connection, table: str) -> bool:
    return connection.exec_driver_sql(f"SELECT 1 FROM {table} LIMIT 1").first() is not None


def _lock(connection: Connection) -> None:
    """Behind all who write rows now, and before all who will: those of `data_keys`, too, take this
    lock."""
    if connection.dialect.name == "postgresql":
        give_way(connection)
        connection.exec_driver_sql("LOCK TABLE subjects IN SHARE ROW EXCLUSIVE MODE")
