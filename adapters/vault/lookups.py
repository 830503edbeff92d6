"""Where the keyed hash of a name becomes what `subjects.lookup` holds, and back.

Everybody else, the domain included, knows the hash alone. See adapters/keyring/generation_keys.py.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection

from adapters.keyring import generation_keys
from adapters.keyring.keks import KekProvider
from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.vault.keys_in_use import KeysInUse

_STAMPED = (
    f"SELECT keys.stamp, people.* FROM (SELECT ({generation_keys.STAMP_QUERY}) AS stamp) AS keys "
    "LEFT JOIN ({query}) AS people ON true"
)


class SubjectLookups:
    """Finds people in `subjects`, under whichever key their rows are.

    keks: open the generation keys (None: a database that has none yet, or whoever needs none).
    in_use: those that are open, for whatever else is under them.
    """

    def __init__(self, engines: Engines, keks: KekProvider | None = None) -> None:
        self._engines = engines
        self.in_use = KeysInUse(keks)

    def select(
        self, connection: Connection, query: str, lookups: Collection[bytes]
    ) -> list[tuple[Any, ...]]:
        """The rows of a query whose first column is `subjects.lookup` and which asks for it by
        `IN ({ids})`; the hash that was asked for takes the place of the first column.

        The same statement says under which keys rows were at its instant, so that nobody is missed
        who moved under another one. It must not lock: a locked row may be newer than that instant.
        Raises KeyUnavailable.
        """
        keys = self.in_use.opened or self.in_use.read(connection)
        while True:
            places = keys.places(lookups)
            rows = bulk.select_in(connection, _STAMPED.format(query=query), sorted(places))
            if {_bytes(row[0]) for row in rows} <= {keys.kept.stamp}:
                found = [row[1:] for row in rows if row[1] is not None]
                return [(places[bytes(row[0])], *row[1:]) for row in found]
            keys = self.in_use.read(connection)

    def hash_of(self, stored: bytes) -> bytes:
        """The hash behind what a row holds, as far as it is kept. Raises KeyUnavailable."""
        opened = self.in_use.opened
        found = opened.hash_of(stored) if opened is not None else None
        if found is None:
            with self._engines.read() as connection:
                found = self.in_use.read(connection).hash_of(stored)
        return stored if found is None else found


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
