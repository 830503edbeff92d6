"""Where the keyed hash of a name becomes what `subjects.lookup` holds, and back.

Everybody else, the domain included, knows the hash alone. See adapters/keyring/index_keys.py.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection

from adapters.keyring import index_keys, known
from adapters.keyring.index_keys import IndexKeys, Kept
from adapters.keyring.keks import KekProvider
from adapters.log import bulk
from adapters.log.engine import Engines
from domain.errors import KeyUnavailable

_STAMPED = (
    f"SELECT keys.stamp, people.* FROM (SELECT ({index_keys.STAMP_QUERY}) AS stamp) AS keys "
    "LEFT JOIN ({query}) AS people ON true"
)


class SubjectLookups:
    """Finds people in `subjects`, under whichever key their rows are.

    keks: open the index keys (None: a database that has none yet, or whoever admits nobody). The
    keys are kept; that others came is noticed by every look, and by every writer.
    """

    def __init__(self, engines: Engines, keks: KekProvider | None = None) -> None:
        self._engines = engines
        self._keks = keks
        self._keys: IndexKeys | None = None

    def unlock(self, keks: KekProvider) -> None:
        """From now on index keys can be opened."""
        self._keks = keks

    def select(
        self, connection: Connection, query: str, lookups: Collection[bytes]
    ) -> list[tuple[Any, ...]]:
        """The rows of a query whose first column is `subjects.lookup` and which asks for it by
        `IN ({ids})`; the hash that was asked for takes the place of the first column.

        The same statement says under which keys rows were at its instant, so that nobody is missed
        who moved under another one. It must not lock: a locked row may be newer than that instant.
        Raises KeyUnavailable.
        """
        keys = self._keys or self._open(connection, index_keys.read(connection))
        while True:
            places = keys.places(lookups)
            rows = bulk.select_in(connection, _STAMPED.format(query=query), sorted(places))
            if {_bytes(row[0]) for row in rows} <= {keys.kept.stamp}:
                found = [row[1:] for row in rows if row[1] is not None]
                return [(places[bytes(row[0])], *row[1:]) for row in found]
            keys = self._open(connection, index_keys.read(connection))

    def for_writing(self, connection: Connection) -> IndexKeys:
        """The keys as they stand until this transaction ends. Raises KeyUnavailable."""
        return self._open(connection, index_keys.read_locked(connection))

    def hash_of(self, stored: bytes) -> bytes:
        """The hash behind what a row holds, as far as it is kept. Raises KeyUnavailable."""
        found = self._keys.hash_of(stored) if self._keys is not None else None
        if found is None:
            with self._engines.read() as connection:
                found = self._open(connection, index_keys.read(connection)).hash_of(stored)
        return stored if found is None else found

    def _open(self, connection: Connection, kept: Kept) -> IndexKeys:
        keys = self._keys
        if keys is None or keys.kept != kept:
            if self._keks is None and kept.keys:
                raise KeyUnavailable("whoever looks people up here was given no keys")
            keys = self._keys = self._opened(connection, kept, keys)
        return keys

    def _opened(self, connection: Connection, kept: Kept, before: IndexKeys | None) -> IndexKeys:
        if self._keks is None:
            return IndexKeys(kept, {})
        store = known.store_in(connection) or ""
        return index_keys.open_keys(kept, self._keks, store, before.keys if before else {})


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
