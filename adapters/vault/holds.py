"""Holds of people, in the table `subject_holds`, and those of sessions, in `session_holds`.

No event of any session says that somebody in it is held, so that the log does not connect the
sessions of a person. Whoever reads a session to decide on it gets those holds with it; whoever
deletes is checked for them again, in the same transaction and behind the lock of the session.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.schema import session_holds
from adapters.log.transcoder import decode_state
from domain.session import Event, Held, Hold, Released, Session
from projections.active_sessions import DecodeStates

_SESSION_HOLD = ("session_id", "hold", "ground", "since", "until")


def fold_holds(connection: Connection, events: Iterable[Event]) -> None:
    """Write what these events, in their order, say of the holds of sessions."""
    rows: dict[tuple[str, str], tuple[Any, ...] | None] = {}
    for event in events:
        if isinstance(event, Held):
            values = (str(event.ground), event.effective_at, event.until)
            rows[event.originator_id, event.hold] = values
        elif isinstance(event, Released):
            rows[event.originator_id, event.hold] = None
    standing = [(*key, *values) for key, values in rows.items() if values is not None]
    bulk.delete_rows(connection, session_holds, ("session_id", "hold"), list(rows))
    bulk.insert(connection, session_holds, _SESSION_HOLD, standing)


def holds_of_people(
    connection: Connection, session_ids: Sequence[str]
) -> Mapping[str, tuple[Hold, ...]]:
    """Of these sessions those in which somebody is or was held, with the holds in order of id."""
    query = (
        "SELECT DISTINCT i.session_id, h.hold, h.since, h.until FROM subject_index i "
        "JOIN subject_holds h ON h.partition = i.partition AND h.subject = i.subject "
        "WHERE i.partition = 0 AND i.session_id IN ({ids})"
    )
    found: dict[str, list[Hold]] = {}
    for session_id, hold, since, until in bulk.select_in(connection, query, session_ids):
        found.setdefault(session_id, []).append(Hold(hold, since, until))
    return {
        session_id: tuple(sorted(holds, key=lambda hold: hold.id))
        for session_id, holds in found.items()
    }


def state_decoder(connection: Connection) -> DecodeStates:
    """Decodes folded states as whoever decides on them would see them: with the holds of people."""
    query = "SELECT EXISTS (SELECT 1 FROM subject_holds WHERE partition = 0)"
    if not connection.exec_driver_sql(query).scalar_one():
        return lambda states: [decode_state(*one) for one in states]

    def decode(states: Sequence[tuple[str, int, bytes]]) -> list[Session]:
        held = holds_of_people(connection, [session_id for session_id, _, _ in states])
        sessions = [decode_state(*one) for one in states]
        return [
            one.changed(holds_of_people=held[one.id]) if one.id in held else one for one in sessions
        ]

    return decode
