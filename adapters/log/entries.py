"""The leaves of the tree as they were hashed: all that an event's row says, for auditors."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.log.merkle import leaf_bytes
from adapters.log.tree import standing_of


def entries(engines: Engines, first: int, count: int) -> list[bytes] | None:
    """The bytes of `count` leaves from number `first` on. None if one of them is not there: the log
    ends before it, its body was pruned, or it is the leaf of an epoch, which is no event."""
    with engines.snapshot() as connection:
        standing = standing_of(connection)
        positions = [standing.position(index) for index in range(first, first + count)]
        found = bodies(connection, positions)
    if len(found) != count or first + count > standing.size:
        return None
    return [found[position] for position in positions]


def bodies(connection: Connection, positions: Sequence[int]) -> Mapping[int, bytes]:
    """Position -> the bytes of its leaf, of those of these events that are there."""
    query = (
        "SELECT position, session_id, version, topic, effective_at, recorded_at, nonce, state "
        "FROM events WHERE partition = 0 AND position IN ({ids})"
    )
    return {
        position: leaf_bytes(
            0, id_, version, topic, effective, recorded, bytes(nonce), bytes(state)
        )
        for position, id_, version, topic, effective, recorded, nonce, state in bulk.select_in(
            connection, query, positions
        )
    }
