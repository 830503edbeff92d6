"""The log ages too: bodies of events go `audit_retention` after their session was erased.

What stays is the position and the leaf hash, so that proofs and checkpoints hold. The body goes
with its nonce, without which nobody can test guesses against the hash, and with its row of the
audit trail. Nothing goes that is not in the tree yet, that a projection has not read, or whose leaf
does not fit: a body that somebody altered stays, as what `lapse audit verify` reports.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.log.merkle import leaf_of_row
from adapters.log.schema import pruned
from adapters.log.transcoder import Unreadable, decode_event
from adapters.log.tree import standing_of
from domain.session import Erased, Scope
from projections import audit

_log = structlog.get_logger(component="pruning")

BATCH = 2_000
"""Events that one transaction prunes."""


class Pruning:
    """Prunes the log of one database. Any number of processes may do it at once.

    due: for each policy the time before which sessions must have been erased, see
    `domain.use_cases.erase.pruned_before`; asked anew for each run.
    """

    def __init__(self, engines: Engines, due: Callable[[int], Mapping[str, int]]) -> None:
        self._engines = engines
        self._due = due
        self._closing = False

    def close(self) -> None:
        """A run ends before its next batch."""
        self._closing = True

    def run_due(self, now: int, limit: int = BATCH) -> int:
        """Prune what is due, batch by batch; how many bodies went. Raises StoreError."""
        total = 0
        for policy, before in sorted(self._due(now).items()):
            for sessions in self._erased(policy, before, limit):
                while not self._closing and (gone := self._prune(sessions, now, limit)):
                    total += gone
        if total:
            _log.info("prune", operation="prune", result="done", events=total)
        return total

    def _erased(self, policy: str, before: int, limit: int) -> Iterator[Sequence[str]]:
        """Sessions of a policy that were erased whole before then, page by page. The audit trail
        finds them; what counts is what their events say."""
        after = None
        while not self._closing:
            with self._engines.read() as connection:
                page = audit.search(
                    connection,
                    shown=[policy],
                    event="session.erased",
                    until=before + 1,
                    after=after,
                    limit=min(limit, audit.MOST),
                )
                ids = sorted({entry.session_id for entry in page.entries})
                found = _erased_whole(connection, ids, before)
            if found:
                yield found
            after = page.next
            if after is None:
                return

    def _prune(self, sessions: Sequence[str], now: int, limit: int) -> int:
        """Some events of these sessions, the oldest first: the one that says that the session was
        erased goes last, so that what was begun is found again."""
        with self._engines.write() as connection:
            last = _last_read_by_all(connection)
            standing = standing_of(connection)
            last = min(last, standing.position(standing.size) - 1)
            rows = _bodies(connection, sessions, last, limit)
            sound = [row[0] for row in rows if leaf_of_row(*row[2:]) == row[1]]
            _move(connection, sound, now)
            _forget_in_audit(connection, sessions)
        return len(sound)


def _erased_whole(connection: Connection, ids: Sequence[str], before: int) -> Sequence[str]:
    query = (
        "SELECT session_id, version, topic, effective_at, state FROM events "
        f"WHERE partition = 0 AND effective_at <= {int(before)} "
        "AND topic LIKE 'session.erased.%%' AND session_id IN ({ids})"
    )
    if connection.dialect.name == "sqlite":
        query = query.replace("%%", "%")
    found = set()
    for session_id, version, topic, effective_at, state in bulk.select_in(connection, query, ids):
        try:
            event = decode_event(session_id, version, topic, effective_at, bytes(state))
        except (Unreadable, TypeError):
            continue  # `lapse db check` reports it
        if isinstance(event, Erased) and event.scope is Scope.EVERYTHING:
            found.add(session_id)
    return sorted(found)


def _last_read_by_all(connection: Connection) -> int:
    """The position that every projection has passed. A rebuild that begins waits until this
    transaction ends, and reads the log as it is then."""
    lock = "" if connection.dialect.name == "sqlite" else " FOR SHARE"
    connection.exec_driver_sql(f"SELECT name FROM projections{lock}").fetchall()
    query = (
        "SELECT min(o.position) FROM projection_positions o JOIN projections p ON p.name = o.name "
        "AND o.generation IN (p.serving, p.building)"
    )
    return int(connection.exec_driver_sql(query).scalar() or 0)


def _bodies(connection: Connection, sessions: Sequence[str], last: int, limit: int) -> list[Any]:
    """(position, leaf, then what the leaf is made of)."""
    query = (
        "SELECT position, leaf, session_id, version, topic, effective_at, recorded_at, nonce, "
        f"state FROM events WHERE partition = 0 AND position <= {int(last)} "
        f"AND session_id IN ({{ids}}) ORDER BY session_id, version LIMIT {int(limit)}"
    )
    rows = bulk.select_in(connection, query, sessions)
    return [(row[0], bytes(row[1]), *row[2:7], bytes(row[7]), bytes(row[8])) for row in rows]


def _move(connection: Connection, positions: Sequence[int], now: int) -> None:
    columns = f"SELECT partition, position, leaf, {int(now)} FROM events"
    # Another process may be at the same rows: the second one finds them moved.
    bulk.execute_in(
        connection,
        f"INSERT INTO {pruned.name} (partition, position, leaf, pruned_at) {columns} "
        "WHERE partition = 0 AND position IN ({ids}) ON CONFLICT (partition, position) DO NOTHING",
        positions,
    )
    query = "DELETE FROM events WHERE partition = 0 AND position IN ({ids})"
    bulk.execute_in(connection, query, positions)


def _forget_in_audit(connection: Connection, sessions: Sequence[str]) -> None:
    """Rows of events that are gone; their place says that they were there."""
    for generation in _generations(connection):
        bulk.execute_in(
            connection,
            f"DELETE FROM audit WHERE partition = 0 AND generation = {generation} "
            "AND session_id IN ({ids}) AND NOT EXISTS (SELECT 1 FROM events e "
            "WHERE e.partition = 0 AND e.position = audit.position)",
            sessions,
        )


def _generations(connection: Connection) -> Sequence[int]:
    query = (
        "SELECT DISTINCT o.generation FROM projection_positions o WHERE o.name = 'audit' "
        "ORDER BY o.generation"
    )
    return [int(row[0]) for row in connection.exec_driver_sql(query)]
