"""What was known, or what was so, at some time: the log folded up to there.

Memory is bounded by the sessions that begin in a page of the log, whatever its size; personal data
and keys are never needed. What was pruned is counted, see `Replayed.pruned`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.log.event_log import SELECT_EVENTS, SqlLog, recorded
from domain.ports import Recorded
from domain.session import Created, Event, Phase, Session, Tier, evolve

PAGE = 5_000
"""Positions whose sessions are folded at once: a state takes some 2 KB."""

Progress = Callable[[int, int], None]
"""(positions read, positions in all)."""


class Clock(StrEnum):
    """Which of an event's two times counts.

    RECORDED: what was known then. EFFECTIVE: what was so, though it may have been written later.
    """

    RECORDED = "recorded"
    EFFECTIVE = "effective"


@dataclass
class Counts:
    """Sessions of one policy. erased ones are counted too; stored_bytes: of those there are."""

    phases: dict[Phase, int] = field(default_factory=dict)
    tiers: dict[Tier, int] = field(default_factory=dict)
    held: int = 0
    stored_bytes: int = 0

    def add(self, session: Session) -> None:
        self.phases[session.phase] = self.phases.get(session.phase, 0) + 1
        self.tiers[session.tier] = self.tiers.get(session.tier, 0) + 1
        self.held += bool(session.holds)
        self.stored_bytes += session.stored_bytes


@dataclass(frozen=True)
class Replayed:
    """The sessions as they were. head: the last position that was looked at; events: of sessions,
    how many count by then. pruned: positions up to `head` whose event is gone, see
    `audit_retention`: their sessions are not among the counts."""

    head: int
    events: int
    policies: dict[str, Counts]
    pruned: int


@dataclass(frozen=True)
class Known:
    """One session as it was: after the event at `position`."""

    session: Session
    position: int


def replay(
    engines: Engines,
    log: SqlLog,
    until: int,
    clock: Clock,
    *,
    shown: Collection[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Replayed:
    """Every session as it was at `until`, counted. shown: the policies to count (None: all).

    Raises CorruptEvent.
    """
    head, events = log.head(), 0
    policies: dict[str, Counts] = {}
    for position in range(0, head, PAGE):
        with engines.snapshot() as connection:
            ids = _begun(connection, position, min(position + PAGE, head))
            for session, folded in _folded(connection, ids, until, clock, shown):
                events += folded
                policies.setdefault(session.policy, Counts()).add(session)
        progress(min(position + PAGE, head), head)
    with engines.read() as connection:
        kept = connection.exec_driver_sql(
            f"SELECT count(*) FROM events WHERE partition = 0 AND position <= {head}"
        ).scalar_one()
    return Replayed(head, events, dict(sorted(policies.items())), head - int(kept))


def replay_session(history: Sequence[Recorded], until: int, clock: Clock) -> Known | None:
    """One session as it was at `until`; None if it had not begun."""
    session, position = None, 0
    for one in history:
        if not _counts(one, until, clock) or not isinstance(one.event, Event):
            break
        session, position = evolve(session, one.event), one.position
    return Known(session, position) if session is not None else None


def _counts(one: Recorded, until: int, clock: Clock) -> bool:
    at = one.recorded_at if clock is Clock.RECORDED else one.event.effective_at
    return at <= until


def _begun(connection: Connection, after: int, last: int) -> list[str]:
    """The sessions that begin behind position `after`, up to `last`."""
    query = (
        "SELECT session_id FROM events WHERE partition = 0 AND version = 1 AND topic = "
        f"'{Created.TOPIC}' AND position > {int(after)} AND position <= {int(last)}"
    )
    return [row[0] for row in connection.exec_driver_sql(query)]


def _folded(
    connection: Connection,
    ids: Sequence[str],
    until: int,
    clock: Clock,
    shown: Collection[str] | None,
) -> Iterator[tuple[Session, int]]:
    """Each session as it was, and of how many events. A session's events count up to the first one
    that does not: versions follow each other."""
    session: Session | None = None
    number, over, current = 0, False, ""
    query = f"{SELECT_EVENTS}session_id IN ({{ids}}) ORDER BY session_id, version"
    for row in bulk.stream_in(connection, query, ids):
        if row[4] != current:
            if session is not None:
                yield session, number
            session, number, over, current = None, 0, False, row[4]
        if over:
            continue
        one = recorded(row)
        event = one.event
        over = not _counts(one, until, clock) or (shown is not None and event.policy not in shown)
        if not over and isinstance(event, Event):
            session, number = evolve(session, event), number + 1
    if session is not None:
        yield session, number
