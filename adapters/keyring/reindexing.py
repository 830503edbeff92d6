"""Rows of `subjects` move under a new generation key: the place where somebody is found changes.

See adapters/keyring/moving.py.
"""

from sqlalchemy import Connection

from adapters.keyring.generation_keys import STORED, GenerationKeys, moved
from adapters.keyring.steps import Steps
from adapters.log import bulk


def move(steps: Steps, keys: GenerationKeys) -> None:
    """Raises StoreError; then some rows may be under either key."""
    if keys.is_moving:
        _move_pages(steps, keys)
        _move_the_rest(steps, keys)


def _move_pages(steps: Steps, keys: GenerationKeys) -> None:
    """In the order of what rows hold, once; what is moved may come by again, and is left."""
    after = b""
    while True:
        with steps.write() as connection:
            rows = _others(connection, keys, after, steps.page, "SKIP LOCKED")
            _update(connection, moved(rows, keys))
        if not rows:
            return
        after = rows[-1]


def _move_the_rest(steps: Steps, keys: GenerationKeys) -> None:
    """What somebody held; one by one, since whoever waits for us may be who we wait for."""
    while True:
        with steps.write(waiting=True) as connection:
            rows = _others(connection, keys, b"", 1)
            _update(connection, moved(rows, keys))
        if not rows:
            return


def _others(
    connection: Connection, keys: GenerationKeys, after: bytes, limit: int, busy: str = ""
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
