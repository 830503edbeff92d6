"""Databases, clocks and histories for the tests of the projections."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

from sqlalchemy import Connection, event, insert
from sqlalchemy.engine import Engine

from adapters.log.engine import Engines, open_engines
from adapters.log.event_log import SqlLog
from adapters.log.schema import heads
from adapters.log.schema import metadata as log_metadata
from adapters.projector import Projector
from domain.policy import HOUR, Applied
from domain.ports import Append, Recorded
from domain.session import Event, Session, evolve
from projections.catalogue import PROJECTIONS
from projections.tables import Projection
from projections.tables import metadata as projection_metadata

START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""
TIMEOUT = 30.0
"""Seconds after which something that should have happened counts as failed."""


def clock(text: str) -> int:
    """The instant `HH:MM` of 1 January 2026."""
    hours, minutes = text.split(":")
    return START + int(hours) * HOUR + int(minutes) * HOUR // 60


class Clock:
    """Time that stands still until somebody moves it."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def create_tables(engines: Engines) -> None:
    """Both schemas, as the migrations make them."""
    with engines.write() as connection:
        log_metadata.create_all(connection)
        projection_metadata.create_all(connection)
        connection.execute(insert(heads).values(partition=0, position=0))


class Lapse:
    """A log with its projections. record: append events, whose sessions it knows by then."""

    def __init__(
        self, url: str, catalogue: Sequence[Projection] = PROJECTIONS, *, create: bool = True
    ) -> None:
        self.clock = Clock()
        self.engines = open_engines(url)
        if create:
            create_tables(self.engines)
        self.log = SqlLog(self.engines, self.clock)
        self.projector = Projector(self.engines, self.log, catalogue, self.clock)
        self._sessions: dict[str, Session] = {}

    def record(self, *events: Event | Applied, due_at: int | None = None) -> None:
        """Append in this order; neighbours of one session go together."""
        for session_id, run in groupby(events, key=lambda event: event.originator_id):
            self._record(session_id, tuple(run), due_at)

    def _record(
        self, session_id: str, events: tuple[Event | Applied, ...], due_at: int | None
    ) -> None:
        facts = []
        for fact in events:
            if isinstance(fact, Applied):
                self.log.apply_policy(fact, self.clock())
            else:
                facts.append(fact)
        if facts:
            self.append([(session_id, tuple(facts))], due_at)

    def append(
        self, lives: Sequence[tuple[str, tuple[Event, ...]]], due_at: int | None = None
    ) -> None:
        """Append events of several sessions in one transaction."""
        appends = []
        for session_id, events in lives:
            before = after = self._sessions.get(session_id)
            for fact in events:
                after = evolve(after, fact)
            assert after is not None
            self._sessions[session_id] = after
            appends.append(Append(before, after, events, due_at))
        for answer in self.log.append(appends, self.clock()):
            assert not isinstance(answer, Exception), answer

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.engines.snapshot() as connection:
            yield connection

    def close(self) -> None:
        self.log.close()


@contextmanager
def lapse_on(
    url: str, catalogue: Sequence[Projection] = PROJECTIONS, *, create: bool = True
) -> Iterator[Lapse]:
    lapse = Lapse(url, catalogue, create=create)
    try:
        yield lapse
    finally:
        lapse.close()


@contextmanager
def running(lapse: Lapse) -> Iterator[threading.Thread]:
    """The projector follows the log in a thread meanwhile."""
    stop = threading.Event()
    thread = threading.Thread(target=lapse.projector.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        lapse.projector.wake()
        thread.join(TIMEOUT)
        assert not thread.is_alive()


@contextmanager
def statements_counted() -> Iterator[list[str]]:
    """The statements that go to any database meanwhile."""
    seen: list[str] = []

    def note(connection: Connection, cursor: object, statement: str, *_others: object) -> None:
        if statement != "BEGIN":  # SQLite only
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def recorded(*events: Event | Applied, recorded_at: int = START, first: int = 1) -> list[Recorded]:
    """The events as they would stand in the log."""
    return [Recorded(0, position, recorded_at, fact) for position, fact in enumerate(events, first)]
