"""One person's part of a session that goes on: what it is, and how it goes.

It leaves no event in the session's history, so that the log does not connect the sessions of
whoever is erased. So nobody's expected version changes with it; authors who still count on the
person are found by the tokens that they name (`without_members`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.schema import (
    data_keys,
    items,
    partials,
    presence,
    sessions,
    subject_index,
    uploads,
)
from adapters.vault import item_rows, layers
from adapters.vault.keys_in_use import KeysInUse, Writing
from adapters.vault.outdated import outdate
from adapters.vault.rows import delete_subjects
from domain.errors import Conflict
from domain.ports import NO_CHANGES, Append, Belongings, Changes, ItemHead, Part, Upload
from domain.session import NEVER

_OF_SESSION = "WHERE partition = 0 AND session_id IN ({ids})"


def belongings(
    connection: Connection, places: Sequence[tuple[str, tuple[str, ...]]]
) -> dict[str, Belongings]:
    """What the vault holds of whoever is behind the tokens of each (session, tokens)."""
    ids = sorted({session_id for session_id, _ in places})
    names = _by_session(connection, "session_id, token, subject, role", "subject_index", ids)
    present = _by_session(connection, "session_id, token", "presence", ids)
    owners = _by_session(connection, "session_id, owner_subject", "sessions", ids)
    heads = _by_session(connection, f"session_id, {item_rows.HEAD}", "items", ids)
    columns = "session_id, upload_id, kind, size, created_at, participants, media_type"
    uploaded = _by_session(connection, columns, "uploads", ids)
    joint = _by_session(connection, "session_id, contributors", "partials", ids, "token = ''")
    return {
        session_id: _belongings(
            session_id,
            set(tokens),
            names.get(session_id, []),
            {row[0] for row in present.get(session_id, ())},
            next((row[0] for row in owners.get(session_id, ())), None),
            [item_rows.head(row) for row in heads.get(session_id, ())],
            [_upload(row) for row in uploaded.get(session_id, ())],
            next((tuple(row[0].split()) for row in joint.get(session_id, ())), None),
        )
        for session_id, tokens in places
    }


def _by_session(
    connection: Connection, columns: str, table: str, ids: Sequence[str], which: str = "true"
) -> dict[str, list[Any]]:
    """Rows of each session, without its id."""
    found: dict[str, list[Any]] = {}
    query = f"SELECT {columns} FROM {table} {_OF_SESSION} AND {which}"
    for row in bulk.select_in(connection, query, ids):
        found.setdefault(row[0], []).append(tuple(row[1:]))
    return found


def _belongings(
    session_id: str,
    theirs: set[str],
    names: Sequence[tuple[str, str, str]],
    present: set[str],
    owner: str | None,
    heads: Sequence[ItemHead],
    uploads: Sequence[Upload],
    contributors: tuple[str, ...] | None,
) -> Belongings:
    members = present | {token for token, _, role in names if role == "participant"}
    concerned = [h for h in heads if len(h.participants) != 1 or theirs & set(h.participants)]
    return Belongings(
        session_id,
        tuple(sorted(theirs)),
        tuple(sorted(name for name in names if name[0] in theirs)),
        len(members - theirs),
        owner,
        tuple(sorted(concerned, key=lambda head: (head.item_id, head.part))),
        tuple(
            sorted(
                (one for one in uploads if theirs & set(one.participants)),
                key=lambda upload: upload.upload_id,
            )
        ),
        contributors,
    )


def _upload(row: Any) -> Upload:
    id_, kind, size, at, tokens, media_type = row
    return Upload(id_, kind, size, at, tuple(tokens.split()), media_type)


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


def with_old_keys(connection: Connection, in_use: KeysInUse, appends: Iterable[Append]) -> set[str]:
    """Sessions whose authors sealed under a joint key that another took the place of."""
    used = {
        (key.session_id, str(key.tier), key.token): key.wrapped
        for append in appends
        for key in append.changes.relies_on
    }
    key = ("session_id", "tier", "token")
    columns = (*key, "subject", "wrapped")
    rows = layers.select(
        in_use,
        connection,
        lambda: bulk.select_rows(connection, data_keys, key, columns, sorted(used)),
        lambda row: ((row[0], row[1], row[2], row[3]), row[4]),
    )
    known = {tuple(row[:3]): wrapped for row, wrapped in rows}
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


def erase(connection: Connection, writing: Writing, erased: Sequence[Part], now: int) -> list[str]:
    """These parts go; the subjects who are left in no session, whose keys went too.

    Called only for what `domain/use_cases/erase.py` made, with the sessions and the people locked.
    Raises Conflict if the vault holds something else than what was decided on.
    """
    if not erased:
        return []
    places = [(part.session_id, part.found.tokens) for part in erased]
    standing = belongings(connection, places)
    for part in erased:
        if standing[part.session_id] != part.found:
            raise Conflict(part.session_id)
    _delete(connection, erased)
    _rewrite(connection, erased)
    _write_joint(connection, writing, erased)
    _look_again(connection, erased, now)
    copies = outdate(connection, sorted({part.session_id for part in erased}))
    subjects = sorted({subject for part in erased for subject in part.found.subjects})
    return copies + delete_subjects(connection, subjects)


def _delete(connection: Connection, erased: Sequence[Part]) -> None:
    """Rows and keys of the person; what they were the only one of, or what may not stay."""
    theirs = [(part.session_id, token) for part in erased for token in part.found.tokens]
    for table in (presence, subject_index, data_keys, partials):
        bulk.delete_rows(connection, table, ("session_id", "token"), theirs)
    stored = [(part.session_id, one) for part in erased for one in (*part.items, *part.uploads)]
    bulk.delete_rows(connection, items, ("session_id", "item_id"), stored)
    announced = [(part.session_id, one) for part in erased for one in part.uploads]
    bulk.delete_rows(connection, uploads, ("session_id", "upload_id"), announced)
    joint = [
        (part.session_id, "")
        for part in erased
        if part.partial is None and part.found.contributors is not None
    ]
    bulk.delete_rows(connection, partials, ("session_id", "token"), joint)


def _rewrite(connection: Connection, erased: Sequence[Part]) -> None:
    """Items and uploads that stay, without the person."""
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
        for part in erased
        for item in part.rewritten
    ]
    key = ("session_id", "item_id", "part")
    bulk.update(connection, items, key, ("participants", "size", "count", "sealed"), rows)
    renamed = [
        (part.session_id, upload.upload_id, item_rows.joined(upload))
        for part in erased
        for upload in part.renamed
    ]
    for table, column in ((uploads, "upload_id"), (items, "item_id")):
        bulk.update(connection, table, ("session_id", column), ("participants",), renamed)


def _write_joint(connection: Connection, writing: Writing, erased: Sequence[Part]) -> None:
    """The joint figures, and the keys that seal what was rewritten."""
    rows = [
        (key.session_id, str(key.tier), key.token, key.subject.subject, key.wrapped)
        for part in erased
        for key in part.keys
    ]
    layers.insert(connection, writing, rows, layers.REPLACING)
    figures = [
        item_rows.partial_row(part.session_id, part.partial)
        for part in erased
        if part.partial is not None
    ]
    bulk.insert(connection, partials, item_rows.PARTIAL, figures, item_rows.PARTIAL_UPSERT)


def _look_again(connection: Connection, erased: Sequence[Part], now: int) -> None:
    """Their presence may have been what kept a session from ending; and it may have been theirs."""
    ownerless = [part.session_id for part in erased if part.owned_by is not None]
    statement = f"UPDATE sessions SET owner_subject = NULL {_OF_SESSION}"
    bulk.execute_in(connection, statement, ownerless)
    least = "min" if connection.dialect.name == "sqlite" else "least"
    setting = f"{{column}} = {least}(coalesce(sessions.due_at, {NEVER}), {{value}})"
    rows = [(part.session_id, now) for part in erased]
    bulk.update(connection, sessions, ("session_id",), ("due_at",), rows, setting)
