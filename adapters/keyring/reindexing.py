"""People's rows move under a new index key, page by page, while everybody goes on.

    a new key is announced      behind a lock that all who write rows share: from then on rows are
                                written under it alone, and found under it and under those before
    pages of rows are moved     rows that somebody holds are left for the next look
    no row is left under those  they are struck out of `meta`; processes let go of them when they
                                next look somebody up

Each step leaves a state from which the next run goes on. See adapters/keyring/index_keys.py.
"""

from collections.abc import Callable

from sqlalchemy import Connection

from adapters.keyring import index_keys, known
from adapters.keyring.index_keys import STORED, IndexKeys, Kept
from adapters.keyring.keks import KekProvider
from adapters.log import bulk
from adapters.log.engine import Engines
from domain.errors import StoreBusy

LOCK_SECONDS = 1.0
"""How long a step waits for others; as for wrapped keys, see adapters/keyring/generations.py."""
ATTEMPTS = 5


def keks_of_index(engines: Engines) -> set[str]:
    """The KEKs that wrap index keys which rows may be under."""
    with engines.read() as connection:
        return {one.kek for one in index_keys.read(connection).keys}


def begin(engines: Engines, keks: KekProvider) -> None:
    """The first index key of a database that has none. Raises KeyUnavailable, StoreError."""
    with engines.read() as connection:
        if index_keys.read(connection).keys:
            return
    key = index_keys.new_key(keks, known.store_of(engines) or "")
    with engines.write() as connection:
        _lock(connection)
        kept = index_keys.read(connection)
        if not kept.keys:
            plain = _has_rows(connection)
            index_keys.write(connection, Kept(plain, (key,)))


class Reindexing:
    """One move of all rows of `subjects` under an index key of the current KEK.

    fence, step: as `adapters.keyring.generations.Generation` has them.
    """

    def __init__(
        self,
        engines: Engines,
        keks: KekProvider,
        fence: Callable[[Connection], None],
        step: Callable[[], None],
        page: int,
    ) -> None:
        self._engines = engines
        self._keks = keks
        self._fence = fence
        self._step = step
        self._page = page
        self._store = known.store_of(engines) or ""

    def move(self) -> None:
        """Raises KeyUnavailable, StoreError; then some rows may be under either key."""
        kept = self._announced()
        if len(kept.keys) + kept.plain == 1:
            return
        keys = index_keys.open_keys(kept, self._keks, self._store, {})
        self._move_pages(keys)
        self._move_the_rest(keys)

    def _announced(self) -> Kept:
        """What rows may be under, the last of it a key of the current KEK."""
        with self._engines.read() as connection:
            kept = index_keys.read(connection)
        if kept.kek == self._keks.keks()[-1].id:
            return kept
        key = index_keys.new_key(self._keks, self._store)
        for attempt in range(1, ATTEMPTS + 1):
            self._step()
            try:
                with self._engines.write() as connection:
                    self._fence(connection)
                    _lock(connection)
                    kept = index_keys.read(connection)
                    plain = kept.plain and _has_rows(connection)
                    kept = Kept(plain, (*kept.keys, key))
                    index_keys.write(connection, kept)
                break
            except StoreBusy:
                if attempt == ATTEMPTS:
                    raise
        return kept

    def _move_pages(self, keys: IndexKeys) -> None:
        """In the order of what rows hold, once; what is moved may come by again, and is left."""
        after = b""
        while True:
            self._step()
            with self._engines.write() as connection:
                self._fence(connection)
                rows = _others(connection, keys, after, self._page, "SKIP LOCKED")
                _update(connection, index_keys.moved(rows, keys))
            if not rows:
                return
            after = rows[-1]

    def _move_the_rest(self, keys: IndexKeys) -> None:
        """What somebody held; one by one, since whoever waits for us may be who we wait for."""
        while True:
            self._step()
            with self._engines.write() as connection:
                self._fence(connection)
                _give_way(connection)
                rows = _others(connection, keys, b"", 1)
                _update(connection, index_keys.moved(rows, keys))
                if not rows:
                    index_keys.write(connection, Kept(plain=False, keys=keys.kept.keys[-1:]))
                    return


def _others(
    connection: Connection, keys: IndexKeys, after: bytes, limit: int, busy: str = ""
) -> list[bytes]:
    """Rows under anything but the current key, locked. Rows whose key nobody knows are left alone:
    they are damaged."""
    sqlite = connection.dialect.name == "sqlite"
    mark = "?" if sqlite else "%s"
    earlier = [one.kid for one in keys.kept.keys[:-1]]
    under = [f"length(lookup) <> {STORED}"] if keys.kept.plain else []
    under += [f"length(lookup) = {STORED} AND substr(lookup, 1, 4) = {mark}" for _ in earlier]
    which = " OR ".join(f"({one})" for one in under)
    query = (
        f"SELECT lookup FROM subjects WHERE partition = 0 AND lookup > {mark} AND ({which}) "
        f"ORDER BY lookup LIMIT {limit}"
    )
    lock = "" if sqlite else f" FOR UPDATE {busy}"
    rows = connection.exec_driver_sql(query + lock, (after, *earlier))
    return [bytes(row[0]) for row in rows]


def _update(connection: Connection, rows: dict[bytes, bytes]) -> None:
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        one = "UPDATE subjects SET lookup = ? WHERE partition = 0 AND lookup = ?"
        connection.exec_driver_sql(one, [(new, old) for old, new in rows.items()])
        return
    connection.exec_driver_sql(
        "UPDATE subjects SET lookup = moved.new FROM unnest(%s::bytea[], %s::bytea[]) "
        "AS moved(old, new) WHERE subjects.partition = 0 AND subjects.lookup = moved.old "
        # Twice: without statistics the join alone reads the whole table for each row.
        "AND subjects.lookup = ANY(%s::bytea[])",
        (*bulk.array_literals(list(rows.items())), bulk.array_literal(list(rows))),
    )


def _has_rows(connection: Connection) -> bool:
    return connection.exec_driver_sql("SELECT 1 FROM subjects LIMIT 1").first() is not None


def _lock(connection: Connection) -> None:
    """Behind all who write rows now, and before all who will."""
    if connection.dialect.name == "postgresql":
        _give_way(connection)
        connection.exec_driver_sql("LOCK TABLE subjects IN SHARE ROW EXCLUSIVE MODE")


def _give_way(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(LOCK_SECONDS * 1000)}")
