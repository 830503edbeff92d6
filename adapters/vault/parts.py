"""One person's part of a session that goes on: what it is, and how it goes.

It leaves no event in the session's history, so that the log does not connect the sessions of
whoever is erased. So nobody's expected version changes with it; authors who still count on the
person are found by the tokens that they name (`without_members`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.schema import data_keys, items, partials, presence, sessions
from adapters.vault import item_rows
from adapters.vault.rows import delete_subjects
from domain.errors import Conflict
from domain.ports import NO_CHANGES, Append, Belongings, Changes, Part, Upload
from domain.session import NEVER

_OF_SESSION = "WHERE partition = 0 AND session_id IN ({ids})"


def belongings(connection: Connection, session_id: str, tokens: Sequence[str]) -> Belongings:
    """What the vault holds of whoever is behind these tokens."""
    theirs, one = set(tokens), [session_id]
    names = bulk.select_in(
        connection, f"SELECT token, subject, role FROM subject_index {_OF_SESSION}", one
    )
    members = {row[0] for row in names if row[2] == "participant"}
    query = f"SELECT token FROM presence {_OF_SESSION}"
    members |= {row[0] for row in bulk.select_in(connection, query, one)}
    owner = bulk.select_in(connection, f"SELECT owner_subject FROM sessions {_OF_SESSION}", one)
    heads = [
        item_rows.head(row)
        for row in bulk.select_in(
            connection, f"SELECT {item_rows.HEAD} FROM items {_OF_SESSION}", one
        )
    ]
    query = f"SELECT contributors FROM partials {_OF_SESSION} AND token = ''"
    joint = bulk.select_in(connection, query, one)
    return Belongings(
        session_id,
        tuple(sorted(theirs)),
        tuple(sorted(tuple(row) for row in names if row[0] in theirs)),
        len(members - theirs),
        owner[0][0] if owner else None,
        tuple(
            sorted(
                (
                    head
                    for head in heads
                    if len(head.participants) != 1 or theirs & set(head.participants)
                ),
                key=lambda head: (head.item_id, head.part),
            )
        ),
        tuple(one for one in _uploads(connection, session_id) if theirs & set(one.participants)),
        tuple(joint[0][0].split()) if joint else None,
    )


def _uploads(connection: Connection, session_id: str) -> list[Upload]:
    query = (
        "SELECT upload_id, kind, size, created_at, participants, media_type FROM uploads "
        f"{_OF_SESSION} ORDER BY upload_id"
    )
    return [
        Upload(id_, kind, size, at, tuple(tokens.split()), media_type)
        for id_, kind, size, at, tokens, media_type in bulk.select_in(
            connection, query, [session_id]
        )
    ]


def without_members(connection: Connection, appends: Iterable[Append]) -> set[str]:
    """Sessions whose authors name somebody who is in them no more; their rows are locked."""
    named = {
        (append.session_id, token)
        for append in appends
        if append.changes is not NO_CHANGES and append.before is not None
        for token in _named(append.changes)
    }
    pairs = sorted(named)
    key = ("session_id", "token")
    known = {tuple(row) for row in bulk.select_rows(connection, presence, key, key, pairs)}
    return {session_id for session_id, _ in named - known}


def with_old_keys(connection: Connection, appends: Iterable[Append]) -> set[str]:
    """Sessions whose authors sealed under a joint key that another took the place of."""
    used = {
        (key.session_id, str(key.tier), key.token): key.wrapped
        for append in appends
        for key in append.changes.relies_on
    }
    key = ("session_id", "tier", "token")
    rows = bulk.select_rows(connection, data_keys, key, (*key, "wrapped"), sorted(used))
    known = {tuple(row[:3]): bytes(row[3]) for row in rows}
    return {place[0] for place, wrapped in used.items() if known.get(place) != wrapped}


def _named(changes: Changes) -> set[str]:
    """Tokens of people that must be in the session already."""
    named = {*(changes.seen or ()), *(changes.left or ()), *(changes.back or ())}
    named |= {token for token, _ in changes.retired}
    named |= {token for item in changes.items for token in item.head.participants}
    named |= {token for upload in changes.uploads for token in upload.participants}
    named |= {key.token for key in changes.keys if key.token}
    named |= {partial.token for partial in changes.partials if partial.token}
    return named - {admission.token for admission in changes.admitted}


# -- how it goes ------------------------------------------------------------------------------


def erase(connection: Connection, erased: Sequence[Part], now: int) -> list[str]:
    """These parts go; the subjects who are left in no session, whose keys went too.

    Called only for what `domain/use_cases/erase.py` made, with the sessions and the people locked.
    Raises Conflict if the vault holds something else than what was decided on.
    """
    for part in erased:
        if belongings(connection, part.session_id, part.found.tokens) != part.found:
            raise Conflict(part.session_id)
    for part in erased:
        _erase(connection, part, now)
    return delete_subjects(connection, sorted({s for part in erased for s in part.found.subjects}))


def _erase(connection: Connection, part: Part, now: int) -> None:
    found, session_id = part.found, part.session_id
    for table in ("presence", "subject_index", "data_keys", "partials"):
        _delete(connection, table, session_id, "token", found.tokens)
    _delete(connection, "items", session_id, "item_id", (*part.items, *part.uploads))
    _delete(connection, "uploads", session_id, "upload_id", part.uploads)
    _rewrite(connection, part)
    _write_joint(connection, part)
    if part.owned_by is not None:
        statement = f"UPDATE sessions SET owner_subject = NULL {_OF_SESSION}"
        bulk.execute_in(connection, statement, [session_id])
    # Their presence may have been what kept the session from ending: look again.
    least = "min" if connection.dialect.name == "sqlite" else "least"
    setting = f"{{column}} = {least}(coalesce(sessions.due_at, {NEVER}), {{value}})"
    bulk.update(connection, sessions, ("session_id",), ("due_at",), [(session_id, now)], setting)


def _delete(
    connection: Connection, table: str, session_id: str, column: str, ids: Sequence[str]
) -> None:
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    statement = (
        f"DELETE FROM {table} WHERE partition = 0 AND session_id = {mark} AND {column} = {mark}"
    )
    for one in ids:
        connection.exec_driver_sql(statement, (session_id, one))


def _rewrite(connection: Connection, part: Part) -> None:
    """Items and uploads that stay, without the person."""
    columns = ("participants", "size", "count", "sealed")
    rows: list[tuple[Any, ...]] = [
        (
            part.session_id,
            item.head.item_id,
            item.head.part,
            item_rows.joined(item.head),
            item.head.size,
            item.head.count,
            item.sealed,
        )
        for item in part.rewritten
    ]
    key = ("session_id", "item_id", "part")
    bulk.update(connection, items, key, columns, rows)
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    for table in ("uploads", "items"):
        column = "upload_id" if table == "uploads" else "item_id"
        for upload in part.renamed:
            connection.exec_driver_sql(
                f"UPDATE {table} SET participants = {mark} "
                f"WHERE partition = 0 AND session_id = {mark} AND {column} = {mark}",
                (item_rows.joined(upload), part.session_id, upload.upload_id),
            )


def _write_joint(connection: Connection, part: Part) -> None:
    """The joint figures, and the keys that seal what was rewritten."""
    rows = [
        (key.session_id, str(key.tier), key.token, key.subject.subject, key.wrapped)
        for key in part.keys
    ]
    bulk.insert(
        connection,
        data_keys,
        ("session_id", "tier", "token", "subject", "wrapped"),
        rows,
        "ON CONFLICT (partition, session_id, tier, token, subject) "
        "DO UPDATE SET wrapped = excluded.wrapped",
    )
    if part.partial is not None:
        bulk.insert(
            connection,
            partials,
            item_rows.PARTIAL,
            [item_rows.partial_row(part.session_id, part.partial)],
            item_rows.PARTIAL_UPSERT,
        )
    elif part.found.contributors is not None:
        _delete(connection, "partials", part.session_id, "token", ("",))
