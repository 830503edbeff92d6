"""Where a wrapped data key becomes what `data_keys.wrapped` holds, and back.

Everybody else, the domain and the keyring included, knows the wrapped key alone: it never changes.
See adapters/keyring/generation_keys.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection

from adapters.keyring.generation_keys import GenerationKeys, Kept, KeyPlace
from adapters.log import bulk
from adapters.log.schema import data_keys
from adapters.vault.keys_in_use import KeysInUse, Writing

Fetch = Callable[[], Sequence[Any]]
Locate = Callable[[Any], tuple[KeyPlace, Any]]
"""Of a row: its place in `data_keys`, and what it holds."""
REPLACING = (
    "ON CONFLICT (partition, session_id, tier, token, subject) "
    "DO UPDATE SET wrapped = excluded.wrapped"
)


def insert(
    connection: Connection,
    writing: Writing,
    rows: Sequence[tuple[str, str, str, str, bytes]],
    tail: str = "",
) -> None:
    """Write data keys: place and wrapped key of each. Raises KeyUnavailable."""
    if not rows:
        return
    layered = [
        (*row[:4], writing.keys.layered((row[0], row[1], row[2], row[3]), row[4])) for row in rows
    ]
    columns = ("session_id", "tier", "token", "subject", "wrapped")
    bulk.insert(connection, data_keys, columns, layered, tail)


def select(
    in_use: KeysInUse, connection: Connection, fetch: Fetch, locate: Locate
) -> list[tuple[Any, bytes]]:
    """The rows of a query and the wrapped key in each.

    One round trip as long as the key of each row is known. Rows that moved between the query and a
    look at the list are asked for again. Raises KeyUnavailable.
    """
    while True:
        keys = before = in_use.opened or _NOTHING
        rows = fetch()
        held = [(place, bytes(stored)) for place, stored in map(locate, rows)]
        if not _know(keys, held):
            keys = in_use.read(connection)
            # What is under a key that was in no list is damaged, and does not open.
            if not _know(keys, held) and keys.kept.stamp != before.kept.stamp:
                continue
        wrapped = [keys.wrapped_in(place, stored) for place, stored in held]
        return list(zip(rows, wrapped, strict=True))


def _know(keys: GenerationKeys, held: Sequence[tuple[KeyPlace, bytes]]) -> bool:
    return all(keys.knows(stored) for _, stored in held)


_NOTHING = GenerationKeys(Kept(plain=True, keys=()), {})
"""What a process knows that has not asked yet."""
