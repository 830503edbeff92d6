"""Rows of `data_keys` move under a new generation key: another layer goes around what they hold.

A row is found as before, so one pass in key order meets all that were there when the new key was
announced; what comes later is written under that. Keys are worked with outside the transactions:
a row that changed meanwhile is under the new key already, or gone. See adapters/keyring/moving.py.
"""

from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import Connection

from adapters.keyring.generation_keys import LAYERED, WRAPPED, GenerationKeys, KeyPlace
from adapters.keyring.steps import Steps
from adapters.log import bulk

_KEY = "session_id, tier, token, subject"
_FIRST: KeyPlace = ("", "", "", "")


def move(steps: Steps, keys: GenerationKeys) -> None:
    """Raises StoreError; then some rows may be under either key."""
    after, held = _FIRST, set[KeyPlace]()
    while rows := _page(steps, after):
        after = max(rows)
        held |= _move_page(steps, _fresh(keys, rows), rows)
    for place in sorted(held):
        _move_one(steps, keys, place)


def _page(steps: Steps, after: KeyPlace) -> Mapping[KeyPlace, bytes]:
    with steps.engines.snapshot() as connection:
        sqlite, mark = connection.dialect.name == "sqlite", _mark(connection)
        query = (
            f"SELECT {_KEY}, wrapped FROM data_keys WHERE partition = 0 "
            f"AND ({_KEY}) > ({mark}, {mark}, {mark}, {mark}) ORDER BY {_KEY} LIMIT {steps.page}"
        )
        # Without statistics PostgreSQL would sort all that follows, for every page.
        setting = "" if sqlite else "SET LOCAL enable_sort = off; "
        return _rows(connection.exec_driver_sql(setting + query, after))


def _fresh(keys: GenerationKeys, rows: Mapping[KeyPlace, bytes]) -> dict[KeyPlace, bytes]:
    """What these rows are to hold, as far as they can be moved: damaged ones are left alone."""
    fresh = {}
    for place, stored in rows.items():
        if not keys.is_current(stored) and len(stored) in (WRAPPED, LAYERED):
            wrapped = keys.wrapped_in(place, stored)
            if len(wrapped) == WRAPPED:
                fresh[place] = keys.layered(place, wrapped)
    return fresh


def _move_page(
    steps: Steps, fresh: Mapping[KeyPlace, bytes], before: Mapping[KeyPlace, bytes]
) -> set[KeyPlace]:
    """Those that somebody holds, or deleted."""
    if not fresh:
        return set()
    with steps.write() as connection:
        free = _locked(connection, fresh)
        unchanged = {place for place in fresh if free.get(place) == before[place]}
        _update(connection, {place: fresh[place] for place in unchanged})
    return fresh.keys() - free.keys()


def _move_one(steps: Steps, keys: GenerationKeys, place: KeyPlace) -> None:
    """Alone, since whoever waits for us may be who we wait for."""
    with steps.write(waiting=True) as connection:
        mark = _mark(connection)
        lock = "" if connection.dialect.name == "sqlite" else " FOR NO KEY UPDATE"
        query = (
            f"SELECT {_KEY}, wrapped FROM data_keys WHERE partition = 0 "
            f"AND ({_KEY}) = ({mark}, {mark}, {mark}, {mark}){lock}"
        )
        _update(connection, _fresh(keys, _rows(connection.exec_driver_sql(query, place))))


def _locked(connection: Connection, places: Collection[KeyPlace]) -> Mapping[KeyPlace, bytes]:
    """What stands between the first and the last of these; without what somebody holds."""
    mark = _mark(connection)
    lock = "" if connection.dialect.name == "sqlite" else " FOR NO KEY UPDATE SKIP LOCKED"
    query = (
        f"SELECT {_KEY}, wrapped FROM data_keys WHERE partition = 0 "
        f"AND ({_KEY}) >= ({mark}, {mark}, {mark}, {mark}) "
        f"AND ({_KEY}) <= ({mark}, {mark}, {mark}, {mark}){lock}"
    )
    return _rows(connection.exec_driver_sql(query, (*min(places), *max(places))))


def _update(connection: Connection, fresh: Mapping[KeyPlace, bytes]) -> None:
    """These rows are locked."""
    if not fresh:
        return
    if connection.dialect.name == "sqlite":
        one = (
            "UPDATE data_keys SET wrapped = ? WHERE partition = 0 "
            "AND session_id = ? AND tier = ? AND token = ? AND subject = ?"
        )
        connection.exec_driver_sql(one, [(wrapped, *place) for place, wrapped in fresh.items()])
        return
    arrays = bulk.array_literals([(*place, wrapped) for place, wrapped in fresh.items()])
    connection.exec_driver_sql(
        "UPDATE data_keys SET wrapped = u.wrapped "
        "FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[]) "
        f"AS u({_KEY}, wrapped) WHERE data_keys.partition = 0 "
        "AND data_keys.session_id = u.session_id AND data_keys.tier = u.tier "
        "AND data_keys.token = u.token AND data_keys.subject = u.subject "
        # Twice: without statistics the join alone reads the whole table for each row.
        "AND data_keys.session_id = ANY(%s::text[])",
        (*arrays, bulk.array_literal(sorted({place[0] for place in fresh}))),
    )


def _rows(found: Iterable[tuple[str, str, str, str, bytes]]) -> dict[KeyPlace, bytes]:
    return {(row[0], row[1], row[2], row[3]): bytes(row[4]) for row in found}


def _mark(connection: Connection) -> str:
    return "?" if connection.dialect.name == "sqlite" else "%s"
