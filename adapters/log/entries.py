"""The leaves of the tree as they were hashed: all that an event's row says, for auditors."""

from adapters.log.engine import Engines
from adapters.log.merkle import leaf_bytes
from adapters.log.tree import standing_of


def entries(engines: Engines, first: int, count: int) -> list[bytes] | None:
    """The bytes of `count` leaves from number `first` on. None if one of them is not there: the log
    ends before it, its body was pruned, or it is the leaf of an epoch, which is no event."""
    with engines.snapshot() as connection:
        standing = standing_of(connection)
        begin, end = standing.position(first), standing.position(first + count)
        rows = connection.exec_driver_sql(
            "SELECT session_id, version, topic, effective_at, recorded_at, nonce, state "
            f"FROM events WHERE partition = 0 AND position >= {int(begin)} "
            f"AND position < {int(end)} ORDER BY position"
        ).fetchall()
    if len(rows) != count or first + count > standing.size:
        return None
    return [
        leaf_bytes(0, id_, version, topic, effective_at, recorded_at, bytes(nonce), bytes(state))
        for id_, version, topic, effective_at, recorded_at, nonce, state in rows
    ]
