"""Rows of what sessions store: items, chunks, partial figures and the keys that seal them.

All of it comes sealed; written and deleted inside the log's transaction, like every row of the
vault (see adapters/vault/rows.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.schema import items, partials, subject_keys, uploads
from adapters.vault import layers
from adapters.vault.keys_in_use import Writing
from domain.ports import Append, Deletion, ItemHead, Partial
from domain.session import Kept, Scope
from domain.timeline import covers

HEAD = "item_id, part, scope, kind, stored_at, size, participants, media_type, count"
"""The columns of `head`, without the content."""


def head(row: Any) -> ItemHead:
    """An item of a row that begins with `HEAD`."""
    item_id, part, scope, kind, stored_at, size, participants, media_type, count = row[:9]
    tokens = tuple(participants.split())
    return ItemHead(item_id, part, Scope(scope), kind, stored_at, size, tokens, media_type, count)


def kept(connection: Connection, session_ids: Sequence[str]) -> Mapping[str, Sequence[Kept]]:
    """How old and how large the items of these sessions are."""
    query = (
        "SELECT session_id, scope, stored_at, sum(size) FROM items "
        "WHERE partition = 0 AND session_id IN ({ids}) GROUP BY session_id, scope, stored_at"
    )
    found: dict[str, list[Kept]] = {session_id: [] for session_id in session_ids}
    for session_id, scope, stored_at, size in bulk.select_in(connection, query, session_ids):
        found[session_id].append(Kept(Scope(scope), stored_at, int(size)))
    return found


def write_stored(connection: Connection, writing: Writing, accepted: Sequence[Append]) -> None:
    """What these appends store."""
    storing = [(append.session_id, append.changes) for append in accepted if append.changes.stores]
    if not storing:
        return
    joint = [changes.joint for _, changes in storing if changes.joint is not None]
    bulk.insert(
        connection,
        subject_keys,
        ("subject", "kek", "wrapped"),
        [(key.subject, key.kek, key.wrapped) for key in joint],
    )
    layers.insert(
        connection,
        writing,
        [
            (key.session_id, str(key.tier), key.token, key.subject.subject, key.wrapped)
            for _, changes in storing
            for key in changes.keys
        ],
    )
    bulk.insert(
        connection,
        items,
        ("session_id", *HEAD.split(", "), "sealed"),
        [
            (session_id, *head_values(item.head), item.sealed)
            for session_id, changes in storing
            for item in changes.items
        ],
    )
    bulk.insert(
        connection,
        uploads,
        ("session_id", "upload_id", "kind", "size", "created_at", "participants", "media_type"),
        [
            (session_id, u.upload_id, u.kind, u.size, u.created_at, joined(u), u.media_type)
            for session_id, changes in storing
            for u in changes.uploads
        ],
    )
    bulk.insert(
        connection,
        partials,
        PARTIAL,
        [
            partial_row(session_id, partial)
            for session_id, changes in storing
            for partial in changes.partials
        ],
        PARTIAL_UPSERT,
    )


PARTIAL = ("session_id", "token", "contributors", "sealed")
PARTIAL_UPSERT = (
    "ON CONFLICT (partition, session_id, token) DO UPDATE SET sealed = excluded.sealed, "
    "contributors = excluded.contributors"
)


def partial_row(session_id: str, partial: Partial) -> tuple[Any, ...]:
    return (session_id, partial.token, " ".join(partial.contributors), partial.sealed)


def head_values(head: ItemHead) -> tuple[Any, ...]:
    return (
        head.item_id,
        head.part,
        str(head.scope),
        head.kind,
        head.stored_at,
        head.size,
        joined(head),
        head.media_type,
        head.count,
    )


def joined(what: Any) -> str:
    return " ".join(what.participants)


def delete_stored(connection: Connection, accepted: Sequence[Append]) -> None:
    """What these appends take of sessions that go on; keys go with the last row they seal.

    Called only for appends that `domain/use_cases/erase.py` marked.
    """
    partly: dict[Deletion, list[str]] = {}
    for append in accepted:
        if not append.erases:
            for deletion in append.deletes:
                partly.setdefault(deletion, []).append(append.session_id)
    for deletion, session_ids in partly.items():  # few: rules of a policy, not sessions
        _delete_scope(connection, deletion, sorted(session_ids))


def _delete_scope(connection: Connection, deletion: Deletion, session_ids: list[str]) -> None:
    covered = ", ".join(f"'{scope}'" for scope in Scope if covers(deletion.scope, scope))
    of_these = "WHERE partition = 0 AND session_id IN ({ids})"
    older = "" if deletion.before is None else f" AND stored_at < {int(deletion.before)}"
    statements = [f"DELETE FROM items {of_these} AND scope IN ({covered}){older}"]
    if deletion.before is None:
        statements.append(f"DELETE FROM data_keys {of_these} AND tier IN ({covered})")
        if deletion.scope is Scope.SUMMARY:
            statements.append(f"DELETE FROM partials {of_these}")
        elif deletion.ended and deletion.scope is not Scope.FILES:
            statements.append(f"DELETE FROM uploads {of_these}")
    for statement in statements:
        bulk.execute_in(connection, statement, session_ids)
