"""Reading the whole log and decoding it into domain events."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID, uuid4

from eventsourcing.application import Application

from adapters.wiring import Lapse
from tests.benchmarks import _peers as peers
from tests.benchmarks._ours import ACTOR, POLICY, START, database_of, lives, new_lapse_on
from tests.benchmarks._report import Row, compared
from tests.benchmarks._rounds import in_turns, rate
from tests.benchmarks._scale import Scale
from tests.servers import PostgresServer

PAGE = 1_000
LIFE = 5
"""Events of one session or visit."""


def read(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """On PostgreSQL."""
    with ExitStack() as stack:
        lapse = stack.enter_context(new_lapse_on(stack.enter_context(database_of(server))))
        library = stack.enter_context(
            peers.library_on_postgres(server, stack.enter_context(database_of(server)), 2)
        )
        yield _read(scale, "PostgreSQL", lapse, library, 1.5)


def read_sqlite(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """On SQLite."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lapse = stack.enter_context(new_lapse_on(f"sqlite:///{folder / 'ours.db'}"))
        library = stack.enter_context(peers.library_on_sqlite(folder / "library.db"))
        yield _read(scale, "SQLite", lapse, library, None)


def _read(
    scale: Scale, database: str, lapse: Lapse, library: Application[UUID], bar: float | None
) -> Row:
    sessions = scale.read // LIFE
    _fill(lapse, sessions)
    _fill_library(library, sessions)
    figures = in_turns(
        scale.rounds,
        {
            "ours": _reading(sessions * LIFE, lambda after: _our_page(lapse, after)),
            "library": _reading(sessions * LIFE, lambda after: _library_page(library, after)),
        },
    )
    what = f"{database}, events/s read and decoded into domain events"
    peer = "peer: eventsourcing select_notifications and mapper"
    return compared(f"{what} ({peer})", figures["ours"], figures["library"], bar)


def _reading(count: int, page: Callable[[int], int]) -> Callable[[], float]:
    def run() -> None:
        position = 0
        while (last := page(position)) > position:
            position = last
        assert position >= count

    return lambda: rate(count, run)


def _our_page(lapse: Lapse, after: int) -> int:
    """The position of its last event; `after` if there is none."""
    events = lapse.log.read(after, PAGE)
    return events[-1].position if events else after


def _library_page(library: Application[UUID], after: int) -> int:
    notifications = library.recorder.select_notifications(after, PAGE, inclusive_of_start=False)
    for notification in notifications:
        library.mapper.to_domain_event(notification)
    return notifications[-1].id if notifications else after


def _fill(lapse: Lapse, sessions: int) -> None:
    appends = lives(lapse, sessions)
    for start in range(0, sessions, 200):
        for answer in lapse.log.append(appends[start : start + 200], START):
            assert not isinstance(answer, Exception), answer


def _fill_library(library: Application[UUID], sessions: int) -> None:
    """Lives of the same five events."""
    for start in range(0, sessions, peers.LARGEST_CALL // LIFE):
        stored = []
        for _ in range(start, min(sessions, start + peers.LARGEST_CALL // LIFE)):
            visit = peers.Visit(POLICY, ACTOR, 1, None)
            visit.join(uuid4().hex, ACTOR)
            visit.see(ACTOR)
            visit.see(ACTOR)
            visit.expire("expire-last-seen", 1, START)
            stored += [library.mapper.to_stored_event(one) for one in visit.collect_events()]
        library.recorder.insert_events(stored)
